//! Mail: through a worker, to a server that takes it, stalls, greylists, drops or refuses.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use holdfast_jobs::enqueue::EnqueueError;
use holdfast_jobs::ledger::JobRecord;
use holdfast_jobs::{Job, JobContext, JobError, JobId, State};
use holdfast_notify::NotificationsSettings;
use holdfast_notify::mail::{Mail, MailError, MailReport, MailTemplate, NotifyEmail};
use holdfast_testkit::{Authority, Encryption, SmtpServer};
use serde_json::{Value, json};

use crate::support::{Fixture, by};

const KIND: &str = "notify.email";

struct Post {
    f: Fixture,
    server: SmtpServer,
}

impl Post {
    async fn start(postgres: bool) -> Self {
        Self::with(postgres, &[]).await
    }

    async fn with(postgres: bool, more: &[(&str, &str)]) -> Self {
        Self::by(SmtpServer::start().await.unwrap(), postgres, more).await
    }

    async fn by(server: SmtpServer, postgres: bool, more: &[(&str, &str)]) -> Self {
        let f = Fixture::mailing(postgres, &server, more).await;
        let post = Self { f, server };
        let template = MailTemplate {
            subject: "Hello {{ name }}".to_owned(),
            text: "Dear {{ name }},\n.\nall is well.\n".to_owned(),
            html: Some("<p>Dear {{ name }}</p>".to_owned()),
        };
        post.mail().put_template(&by(), "hello", &template).await.unwrap();
        post
    }

    fn mail(&self) -> &Mail {
        self.f.notices.mail()
    }

    /// One attempt by a job of this id.
    async fn attempt(&self, job: NotifyEmail, id: JobId) -> Result<MailReport, JobError> {
        job.validate().unwrap();
        let resources = holdfast_jobs::Resources::default().with(self.mail().clone());
        job.run(JobContext::detached(id, 1, 4, resources)).await
    }

    async fn send(&self, job: NotifyEmail) -> Result<MailReport, JobError> {
        self.attempt(job, JobId::generate()).await
    }

    async fn told(&self, job: NotifyEmail) -> (&'static str, String) {
        let error = self.send(job).await.unwrap_err();
        (error.class(), error.to_string())
    }

    async fn through_a_worker(&mut self, job: NotifyEmail) -> JobRecord {
        self.f.work();
        self.f.jobs.enqueue(job).await.unwrap();
        let ended = self.f.only_job(KIND).await;
        self.f.stop().await;
        ended
    }
}

fn to(address: &str) -> NotifyEmail {
    NotifyEmail {
        to: Some(address.to_owned()),
        user: None,
        template: "hello".to_owned(),
        data: json!({"name": "Ada <3"}),
        list: None,
        reply_to: None,
        key: None,
    }
}

macro_rules! on_both {
    ($($name:ident,)+) => {
        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Post::start(true).await).await;
            })+
        }

        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Post::start(false).await).await;
            })+
        }
    };
}

on_both! {
    a_mail_is_written_from_its_template_and_taken_once,
    a_key_and_an_address_are_one_mail,
    a_greylisted_mail_is_taken_the_second_time,
    an_address_that_does_not_exist_gets_no_more_mail,
    whoever_unsubscribes_gets_no_more_of_that_list,
    templates_are_kept_replaced_listed_and_deleted,
    what_was_sent_long_ago_is_forgotten,
    no_line_of_a_mail_is_longer_than_998_bytes,
}

/// A header of encoded words in base64 (RFC 2047), or one without any.
fn decoded(header: &str) -> String {
    let words = header.split(' ').map(|word| {
        let text = word
            .strip_prefix("=?utf-8?b?")
            .and_then(|word| word.strip_suffix("?="));
        let bytes = text.map(|text| BASE64_STANDARD.decode(text).unwrap());
        String::from_utf8(bytes.unwrap_or_else(|| word.as_bytes().to_vec())).unwrap()
    });
    words.collect()
}

/// RFC 5322 §2.1.1. What is long and has no blank is broken or encoded, whichever part it is in, and reads as it was written.
async fn no_line_of_a_mail_is_longer_than_998_bytes(post: Post) {
    for word in ["x".repeat(1_990), "ü".repeat(990), "😀".repeat(480)] {
        let template = MailTemplate {
            subject: "{{ word }}".to_owned(),
            text: "{{ word }}{{ word }}\nend\n".to_owned(),
            html: Some("<p>{{ word }}{{ word }}</p>".to_owned()),
        };
        post.mail().put_template(&by(), "long", &template).await.unwrap();
        let job = NotifyEmail {
            template: "long".to_owned(),
            data: json!({"word": &word}),
            reply_to: Some(format!("{} <desk@example.com>", "n".repeat(400))),
            list: Some("news".to_owned()),
            ..to("long@example.com")
        };
        post.send(job).await.unwrap();
        let mails = post.server.mails();
        let data = &mails.last().unwrap().data;
        let longest = data.split("\r\n").map(str::len).max().unwrap();
        let subject = mails.last().unwrap().header("Subject").unwrap();
        assert_eq!(decoded(&subject), word);
        assert!(longest <= 998, "{longest} bytes: {}", &data[..600]);
        assert!(
            !data.replace("\r\n", "").contains(['\r', '\n']),
            "a lone line break"
        );
    }
}

async fn a_mail_is_written_from_its_template_and_taken_once(mut post: Post) {
    let job = NotifyEmail {
        reply_to: Some("Desk <desk@example.com>".to_owned()),
        ..to("Ada <Ada@Example.org>")
    };
    let ended = post.through_a_worker(job).await;
    assert_eq!((ended.state, ended.attempt), (State::Completed, 1));
    let [mail] = &post.server.mails()[..] else {
        panic!("not one mail")
    };
    assert_eq!(
        (mail.from.as_str(), mail.to.as_str()),
        ("no-reply@example.com", "Ada@Example.org")
    );
    for (name, value) in [
        ("From", "Holdfast <no-reply@example.com>"),
        ("To", "Ada <Ada@Example.org>"),
        ("Subject", "Hello Ada <3"),
        ("Reply-To", "Desk <desk@example.com>"),
    ] {
        assert_eq!(mail.header(name).as_deref(), Some(value), "{}", mail.data);
    }
    assert_eq!(mail.header("List-Unsubscribe"), None, "it is of no list");
    assert!(mail.header("Date").is_some());
    let id = mail.header("Message-ID").unwrap();
    assert!(id.ends_with("@example.com>"), "{id}");
    assert!(mail.data.contains("\r\n.\r\nall is well."), "{}", mail.data);
    assert!(mail.data.contains("<p>Dear Ada &lt;3</p>"), "{}", mail.data);
    assert!(
        mail.header("Content-Type")
            .unwrap()
            .starts_with("multipart/alternative")
    );
}

async fn a_key_and_an_address_are_one_mail(post: Post) {
    let job = NotifyEmail {
        key: Some("welcome/7".to_owned()),
        ..to("ada@example.org")
    };
    let first = post.send(job.clone()).await.unwrap();
    assert!(first.sent);
    let other_spelling = NotifyEmail {
        to: Some("Ada Lovelace <ADA@example.org>".to_owned()),
        ..job.clone()
    };
    let second = post.send(other_spelling).await.unwrap();
    assert_eq!(
        (second.sent, second.skipped.as_deref(), &second.message_id),
        (false, Some("another job has sent it"), &first.message_id)
    );
    let other_address = NotifyEmail {
        to: Some("bob@example.org".to_owned()),
        ..job.clone()
    };
    assert_ne!(
        post.send(other_address).await.unwrap().message_id,
        first.message_id
    );
    assert_eq!(post.server.mails().len(), 2);

    // A job that failed keeps its place: its own retry goes on, others wait, until it is taken for dead.
    let key = |job: NotifyEmail| NotifyEmail {
        key: Some("stuck".to_owned()),
        ..job
    };
    let (failed, other) = (JobId::generate(), JobId::generate());
    let greylisted = || key(to("greylisted@example.org"));
    post.attempt(greylisted(), failed).await.unwrap_err();
    let (class, text) = match post.attempt(greylisted(), other).await {
        Err(error) => (error.class(), error.to_string()),
        Ok(mailed) => panic!("{mailed:?}"),
    };
    assert_eq!(class, "transient");
    assert!(text.contains("another job is sending"), "{text}");
    let dead = post.f.ago(181);
    post.f
        .sql(&format!(
            "update holdfast_mails set at = {dead} where key = 'stuck'"
        ))
        .await;
    assert!(post.attempt(greylisted(), other).await.unwrap().sent);
    assert!(!post.attempt(greylisted(), failed).await.unwrap().sent);
    assert_eq!(post.server.mails().len(), 3);
}

async fn a_greylisted_mail_is_taken_the_second_time(mut post: Post) {
    let ended = post.through_a_worker(to("greylisted@example.org")).await;
    assert_eq!((ended.state, ended.attempt), (State::Completed, 2));
    let error = &ended.errors[0].message;
    assert!(error.contains("451") && error.contains("greylisted"), "{error}");
    assert_eq!((post.server.asked(), post.server.mails().len()), (2, 1));
}

async fn an_address_that_does_not_exist_gets_no_more_mail(mut post: Post) {
    let ended = post.through_a_worker(to("Gone@example.org")).await;
    // The test server knows names in lower case alone.
    assert_eq!(ended.state, State::Completed);
    let (class, text) = post.told(to("gone@example.org")).await;
    assert_eq!(class, "permanent");
    assert!(text.contains("5.1.1"), "{text}");
    let asked = post.server.asked();
    let again = post.send(to("GONE@example.org")).await.unwrap();
    assert!(!again.sent && again.skipped.unwrap().contains("5.1.1"));
    assert_eq!(post.server.asked(), asked, "nobody is asked again");
    let listed = post.mail().suppressions(None, 10).await.unwrap();
    assert_eq!(
        (listed.len(), listed[0].address.as_str()),
        (1, "gone@example.org")
    );
    post.mail()
        .release(&by(), "Gone@Example.org", None)
        .await
        .unwrap();
    assert!(matches!(
        post.mail().release(&by(), "gone@example.org", None).await,
        Err(MailError::NotSuppressed(_))
    ));
    // Other refusals say nothing about the mailbox.
    assert_eq!(post.told(to("refused@example.org")).await.0, "permanent");
    assert!(post.mail().suppressions(None, 10).await.unwrap().is_empty());
}

async fn whoever_unsubscribes_gets_no_more_of_that_list(post: Post) {
    let of = |list: &str| NotifyEmail {
        list: Some(list.to_owned()),
        ..to("ada@example.org")
    };
    assert!(post.send(of("news")).await.unwrap().sent);
    assert!(post.send(of("news")).await.unwrap().sent);
    let mails = post.server.mails();
    let link = mails[0].header("List-Unsubscribe").unwrap();
    assert_eq!(
        mails[1].header("List-Unsubscribe").as_ref(),
        Some(&link),
        "one link for one list"
    );
    assert_eq!(
        mails[0].header("List-Unsubscribe-Post").as_deref(),
        Some("List-Unsubscribe=One-Click")
    );
    let token = link
        .trim_start_matches("<https://jobs.example.com/v1/unsubscribe/")
        .trim_end_matches('>');
    assert!(!token.contains(['/', ':']) && token.len() >= 32, "{link}");
    assert_eq!(
        post.mail().token_list(token).await.unwrap().as_deref(),
        Some("news")
    );
    for _ in 0..2 {
        assert_eq!(
            post.mail().unsubscribe(token).await.unwrap().unwrap().list,
            "news"
        );
    }
    assert_eq!(post.mail().unsubscribe("nonsense").await.unwrap(), None);
    let skipped = post.send(of("news")).await.unwrap();
    assert_eq!(
        (skipped.sent, skipped.skipped.as_deref()),
        (false, Some("unsubscribed"))
    );
    assert!(post.send(of("offers")).await.unwrap().sent);
    assert!(
        post.send(to("ada@example.org")).await.unwrap().sent,
        "mail of no list goes on"
    );
    post.mail()
        .suppress(&by(), "ada@example.org", None, "asked by phone")
        .await
        .unwrap();
    for job in [of("offers"), to("ada@example.org")] {
        assert_eq!(
            post.send(job).await.unwrap().skipped.as_deref(),
            Some("asked by phone")
        );
    }
    assert_eq!(post.server.mails().len(), 4);
}

async fn templates_are_kept_replaced_listed_and_deleted(post: Post) {
    let template = MailTemplate {
        subject: "s".to_owned(),
        text: "{{ a }}".to_owned(),
        html: None,
    };
    let made = post
        .mail()
        .put_template(&by(), "a.b-c_1", &template)
        .await
        .unwrap();
    assert_eq!(made.template, template);
    let changed = MailTemplate {
        subject: "other".to_owned(),
        ..template.clone()
    };
    let put = post
        .mail()
        .put_template(&by(), "a.b-c_1", &changed)
        .await
        .unwrap();
    assert_eq!(
        (put.template.subject.as_str(), put.created_at),
        ("other", made.created_at)
    );
    let names = |page: Vec<holdfast_notify::mail::MailTemplateRecord>| {
        page.into_iter().map(|one| one.name).collect::<Vec<_>>()
    };
    assert_eq!(
        names(post.mail().templates(None, 10).await.unwrap()),
        ["a.b-c_1", "hello"]
    );
    assert_eq!(
        names(post.mail().templates(Some("a.b-c_1"), 10).await.unwrap()),
        ["hello"]
    );
    post.mail().delete_template(&by(), "a.b-c_1").await.unwrap();
    for unknown in [
        post.mail().template("a.b-c_1").await.unwrap_err(),
        post.mail().delete_template(&by(), "a.b-c_1").await.unwrap_err(),
    ] {
        assert!(matches!(unknown, MailError::UnknownTemplate(_)), "{unknown}");
    }
    for (name, text, field) in [
        ("A", "", "name"),
        ("", "", "name"),
        ("a", "{{ a", "text"),
        ("a", "\0", "text"),
    ] {
        let bad = MailTemplate {
            text: text.to_owned(),
            ..template.clone()
        };
        match post.mail().put_template(&by(), name, &bad).await {
            Err(MailError::Invalid { field: told, .. }) => assert_eq!(told, field),
            other => panic!("{name:?} {text:?}: {other:?}"),
        }
    }
    let entries = post.f.audited("a.b-c_1").await;
    let actions: Vec<_> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        ["mail_template.put", "mail_template.put", "mail_template.delete"]
    );
}

async fn what_was_sent_long_ago_is_forgotten(post: Post) {
    let job = |key: &str| NotifyEmail {
        key: Some(key.to_owned()),
        ..to("ada@example.org")
    };
    assert!(post.send(job("old")).await.unwrap().sent);
    assert!(post.send(job("new")).await.unwrap().sent);
    let old = post.f.ago(
        post.f
            .settings
            .section::<NotificationsSettings>()
            .retain_deliveries
            .as_secs()
            + 60,
    );
    post.f
        .sql(&format!("update holdfast_mails set at = {old} where key = 'old'"))
        .await;
    assert_eq!(post.mail().prune().await.unwrap(), 1);
    assert!(post.send(job("old")).await.unwrap().sent);
    assert!(!post.send(job("new")).await.unwrap().sent);
}

#[tokio::test]
async fn whatever_the_server_does_is_a_clear_outcome() {
    let post = Post::with(false, &[("HOLDFAST__SMTP__TIMEOUT_SECONDS", "0.5")]).await;
    for (address, class, says) in [
        ("busy@example.org", "transient", "421"),
        ("greylisted@example.org", "transient", "451"),
        ("drop@example.org", "transient", ""),
        ("stall@example.org", "transient", ""),
        ("full@example.org", "permanent", "552"),
        ("refused@example.org", "permanent", "550"),
    ] {
        let (is, text) = post.told(to(address)).await;
        assert_eq!(is, class, "{address}: {text}");
        assert!(text.contains(says), "{address}: {text}");
    }
    assert!(post.server.mails().is_empty());
    let url = post.server.url();
    let gone = post.server;
    drop(gone);
    let nobody = Fixture::with(&[("SMTP_URL", &url), ("HOLDFAST__SMTP__FROM", "a@example.com")]).await;
    let template = MailTemplate {
        subject: String::new(),
        text: String::new(),
        html: None,
    };
    nobody
        .notices
        .mail()
        .put_template(&by(), "hello", &template)
        .await
        .unwrap();
    let resources = holdfast_jobs::Resources::default().with(nobody.notices.mail().clone());
    let attempt = to("ada@example.org").run(JobContext::detached(JobId::generate(), 1, 4, resources));
    assert_eq!(attempt.await.unwrap_err().class(), "transient");
}

#[tokio::test]
async fn an_international_domain_is_sent_in_ascii_also_to_a_server_without_smtputf8() {
    let post = Post::by(SmtpServer::without_smtputf8().await.unwrap(), false, &[]).await;
    for spelling in [
        "ada@bücher.example",
        "ada@bu\u{308}cher.example",
        "ada@xn--bcher-kva.example",
    ] {
        let job = NotifyEmail {
            reply_to: Some("Desk <desk@bücher.example>".to_owned()),
            ..to(spelling)
        };
        post.send(job).await.unwrap();
        let mail = post.server.mails().pop().unwrap();
        assert_eq!(mail.to, "ada@xn--bcher-kva.example");
        assert_eq!(mail.header("To").unwrap(), "ada@xn--bcher-kva.example");
        assert_eq!(
            mail.header("Reply-To").unwrap(),
            "Desk <desk@xn--bcher-kva.example>"
        );
    }
    // The part before the @ has no ASCII form: this server cannot be given such an address, also not later.
    let (class, text) = post.told(to("réne@example.com")).await;
    assert_eq!(class, "permanent", "{text}");
    assert!(text.contains("SMTPUTF8"), "{text}");
    assert_eq!(post.server.mails().len(), 3);
}

#[tokio::test]
async fn a_mail_that_cannot_be_written_is_given_up_and_says_why() {
    let post = Post::start(false).await;
    let cases: [(NotifyEmail, &str); 3] = [
        (
            NotifyEmail {
                data: json!({}),
                ..to("ada@example.org")
            },
            "the subject of the template needs name, which the data lacks",
        ),
        (
            NotifyEmail {
                template: "nowhere".to_owned(),
                ..to("ada@example.org")
            },
            "there is no mail template \"nowhere\"",
        ),
        (
            NotifyEmail {
                data: json!({"name": "x\r\nBcc: all@example.com"}),
                ..to("ada@example.org")
            },
            "the subject holds a line break",
        ),
    ];
    for (job, says) in cases {
        let (class, text) = post.told(job).await;
        assert_eq!(class, "permanent");
        assert!(text.starts_with(says), "{text}");
    }
    assert_eq!(post.server.asked(), 0);
}

#[tokio::test]
async fn without_a_server_a_mail_says_what_to_set() {
    let f = Fixture::sqlite().await;
    let resources = holdfast_jobs::Resources::default().with(f.notices.mail().clone());
    let attempt = to("ada@example.org").run(JobContext::detached(JobId::generate(), 1, 4, resources));
    let error = attempt.await.unwrap_err();
    assert_eq!(error.class(), "permanent");
    assert!(
        error
            .to_string()
            .contains("set smtp.url (SMTP_URL) and smtp.from"),
        "{error}"
    );
}

/// Nothing of a mail, nor of the password, goes over a line that was to be encrypted and is not.
#[tokio::test]
async fn a_server_without_the_encryption_that_was_asked_for_gets_nothing() {
    let server = SmtpServer::start().await.unwrap();
    for url in [
        format!("smtp://user:word@{}?tls=required", server.addr()),
        format!("smtps://user:word@{}", server.addr()),
    ] {
        let f = Fixture::mailing(false, &server, &[("SMTP_URL", &url)]).await;
        let template = MailTemplate {
            subject: String::new(),
            text: String::new(),
            html: None,
        };
        f.notices
            .mail()
            .put_template(&by(), "hello", &template)
            .await
            .unwrap();
        let resources = holdfast_jobs::Resources::default().with(f.notices.mail().clone());
        let attempt = to("ada@example.org").run(JobContext::detached(JobId::generate(), 1, 4, resources));
        let error = attempt.await.unwrap_err().to_string();
        assert!(!error.contains("word"), "{error}");
        assert_eq!(server.asked(), 0, "{url}");
    }
    let plain = format!("smtp://us%40er:w%3Ard@{}", server.addr());
    let post = Post::with(false, &[("SMTP_URL", &plain)]).await;
    assert!(post.send(to("ada@example.org")).await.unwrap().sent);
    // base64 of `\0us@er\0w:rd`
    assert_eq!(server.mails()[0].auth.as_deref(), Some("AHVzQGVyAHc6cmQ="));
    assert!(!format!("{:?}", post.mail()).contains("w:rd"));
}

/// STARTTLS and TLS from the first byte, a login over either; and no mail for a server that a stranger vouches for.
#[tokio::test]
async fn mail_goes_over_tls_to_a_server_that_is_known() {
    let (authority, stranger) = (Authority::new().unwrap(), Authority::new().unwrap());
    for (how, scheme, query) in [
        (Encryption::StartTls, "smtp", "?tls=required"),
        (Encryption::StartTls, "smtp", "?tls=opportunistic"),
        (Encryption::Implicit, "smtps", ""),
    ] {
        let server = SmtpServer::start_with_tls(&authority, "localhost", how)
            .await
            .unwrap();
        let url = format!("{scheme}://user:word@localhost:{}{query}", server.addr().port());
        let send = async |pem: &str| {
            let more = [
                ("SMTP_URL", url.as_str()),
                ("HOLDFAST__SMTP__CA_CERTIFICATE", pem),
            ];
            Post::with(false, &more).await.send(to("ada@example.org")).await
        };
        assert!(send(&authority.pem()).await.unwrap().sent, "{url}");
        let mails = server.mails();
        // base64 of `\0user\0word`
        assert_eq!(
            (mails.len(), mails[0].encrypted, mails[0].auth.as_deref()),
            (1, true, Some("AHVzZXIAd29yZA==")),
            "{url}"
        );
        for pem in [stranger.pem(), String::new()] {
            let error = send(&pem).await.unwrap_err();
            assert_eq!(error.class(), "transient", "{error}");
            assert!(!error.to_string().contains("word"), "{error}");
        }
        assert_eq!((server.mails().len(), server.asked()), (1, 1), "{url}");
    }
}

#[tokio::test]
async fn a_bad_payload_is_refused_when_it_is_enqueued() {
    let f = Fixture::sqlite().await;
    for (field, job) in [
        ("to", to("nobody")),
        ("to", to("a@example.org, b@example.org")),
        ("to", to("a@example.org\r\nBcc: b@example.org")),
        ("to", to(&format!("{}@example.org", "a".repeat(600)))),
        (
            "reply_to",
            NotifyEmail {
                reply_to: Some("x\n".to_owned()),
                ..to("a@example.org")
            },
        ),
        (
            "template",
            NotifyEmail {
                template: "Hello World".to_owned(),
                ..to("a@example.org")
            },
        ),
        (
            "list",
            NotifyEmail {
                list: Some("a b".to_owned()),
                ..to("a@example.org")
            },
        ),
        (
            "data",
            NotifyEmail {
                data: Value::from(1),
                ..to("a@example.org")
            },
        ),
        (
            "key",
            NotifyEmail {
                key: Some(String::new()),
                ..to("a@example.org")
            },
        ),
    ] {
        match f.jobs.enqueue(job).await {
            Err(EnqueueError::Invalid(fault)) => assert_eq!(fault.field, format!("payload.{field}")),
            other => panic!("{field}: {other:?}"),
        }
    }
    assert!(f.jobs_of(KIND).await.is_empty());
}

#[tokio::test]
async fn two_jobs_of_one_key_send_one_mail_at_the_same_time() {
    let post = Post::start(false).await;
    let job = || NotifyEmail {
        key: Some("k".to_owned()),
        ..to("ada@example.org")
    };
    let outcomes = futures::future::join_all((0..8).map(|_| post.send(job()))).await;
    post.server
        .wait_for_asked(1, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(post.server.mails().len(), 1);
    let sent = outcomes
        .iter()
        .filter(|outcome| outcome.as_ref().is_ok_and(|mailed| mailed.sent));
    assert_eq!(sent.count(), 1);
}
