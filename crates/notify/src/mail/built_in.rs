//! Templates that are there before anybody puts one of their name.

use super::templates::MailTemplate;

/// What news of events are written from: `count`, `more` (that are not listed), and `events`, each with `id`, `news`
/// (`discovered`, `changed`, `cancelled`), `title`, `when` (in its own time zone), `starts_at` (UTC), and `url`, `place`,
/// `category`, which may be none.
pub const NEWS_TEMPLATE: &str = "event.news";

const NEWS_SUBJECT: &str =
    "{% if count == 1 %}{{ events[0].title }}{% else %}{{ count }} events for you{% endif %}";

const NEWS_TEXT: &str = "{% for event in events %}{{ event.title }}\
{% if event.news == 'cancelled' %} (cancelled){% elif event.news == 'changed' %} (changed){% endif %}
{{ event.when }}{% if event.place %}, {{ event.place }}{% endif %}
{% if event.url %}{{ event.url }}
{% endif %}
{% endfor %}{% if more > 0 %}and {{ more }} more
{% endif %}";

/// What digests are written from: `items`, oldest first, each with `list`, `subject`, `text` and `at`, and `topics`, which are
/// the same items by their list: `name`, `items`.
pub const DIGEST_TEMPLATE: &str = "digest";

const DIGEST_SUBJECT: &str =
    "{{ items | length }} {% if items | length == 1 %}message{% else %}messages{% endif %} for you";
const DIGEST_TEXT: &str = "{% for topic in topics %}{{ topic.name }}\n\n\
    {% for item in topic.items %}* {{ item.subject }}\n{{ item.text | indent(2, true) }}\n\n{% endfor %}{% endfor %}";
const DIGEST_HTML: &str = "{% for topic in topics %}<h2>{{ topic.name }}</h2>\n\
    {% for item in topic.items %}<h3>{{ item.subject }}</h3>\n<p>{{ item.text }}</p>\n{% endfor %}{% endfor %}";

/// What the mail is written from that asks whether an address is a user's: `link`, `user` (the user's name) and `hours`, for how
/// long the link works.
pub const CONFIRM_TEMPLATE: &str = "address.confirm";

const CONFIRM_SUBJECT: &str = "Please confirm your mail address";
const CONFIRM_TEXT: &str = "The user {{ user }} has named this address as theirs.\n\n\
    If that is you, open this link within {{ hours }} hours and confirm it:\n{{ link }}\n\n\
    If it is not, ignore this mail: without the confirmation the address is not used.\n";

/// What an invitation is written from: `link`, `user` (the user's name) and `hours`, for how long the link works.
pub const INVITATION_TEMPLATE: &str = "user.invitation";

const INVITATION_SUBJECT: &str = "Set your password";
const INVITATION_TEXT: &str = "An account was made for {{ user }}.\n\n\
    Open this link within {{ hours }} hours and set your password. It works once:\n{{ link }}\n\n\
    If you expect no account, ignore this mail.\n";

/// The template of this name, if there is one.
pub(super) fn built_in(name: &str) -> Option<MailTemplate> {
    let (subject, text, html) = match name {
        NEWS_TEMPLATE => (NEWS_SUBJECT, NEWS_TEXT, None),
        INVITATION_TEMPLATE => (INVITATION_SUBJECT, INVITATION_TEXT, None),
        CONFIRM_TEMPLATE => (CONFIRM_SUBJECT, CONFIRM_TEXT, None),
        DIGEST_TEMPLATE => (DIGEST_SUBJECT, DIGEST_TEXT, Some(DIGEST_HTML)),
        _ => return None,
    };
    Some(MailTemplate {
        subject: subject.to_owned(),
        text: text.to_owned(),
        html: html.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn news_are_written_whatever_an_event_lacks() {
        let template = built_in(NEWS_TEMPLATE).unwrap();
        assert_eq!(template.check(), Ok(()));
        let jazz = json!({"title": "Jazz", "when": "today", "news": "changed", "url": null, "place": "Park"});
        let blues = json!({"title": "Blues", "when": "later", "news": "discovered", "url": "https://b", "place": null});
        let data = json!({"count": 5, "more": 3, "events": [jazz, blues]});
        let written = template.render(&data).unwrap();
        assert_eq!(written.subject, "5 events for you");
        assert_eq!(
            written.text,
            "Jazz (changed)\ntoday, Park\n\nBlues\nlater\nhttps://b\n\nand 3 more\n"
        );
        let one = json!({"count": 1, "more": 0, "events": [jazz]});
        assert_eq!(template.render(&one).unwrap().subject, "Jazz");
    }
}
