//! Notifications as other products send them.

use std::collections::{BTreeSet, HashMap};

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_jobs::LedgerTx;
use holdfast_jobs::enqueue::{Enqueue, EnqueueError, EnqueuedJob};
use holdfast_jobs::ledger::LedgerError;
use holdfast_product::{Announcement, AnnouncementMail, Messenger, UserName};

use super::Notices;
use crate::mail::NotifyEmail;
use crate::preferences::{self, Switch};
use crate::webhooks::Event;

impl Messenger for Notices {
    fn endpoints(&self) -> BoxFuture<'_, Result<usize, LedgerError>> {
        self.0.webhooks.count_enabled().boxed()
    }

    fn users<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        topic: &'a str,
        users: &'a BTreeSet<UserName>,
    ) -> BoxFuture<'a, Result<HashMap<UserName, bool>, LedgerError>> {
        async move {
            let wants = preferences::wants(tx, self.0.sql.named(), users).await?;
            let may_hear = |(user, preferences): (UserName, preferences::Preferences)| {
                (user, preferences.webhook_on(topic) == Switch::On)
            };
            Ok(wants.into_iter().map(may_hear).collect())
        }
        .boxed()
    }

    fn announce<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        announcements: Vec<Announcement>,
    ) -> BoxFuture<'a, Result<Vec<EnqueuedJob>, EnqueueError>> {
        async move {
            let events: Result<Vec<Event>, EnqueueError> = announcements.into_iter().map(event).collect();
            self.0.webhooks.publish_all_in(tx, &events?).await
        }
        .boxed()
    }

    fn mail<'a>(
        &'a self,
        tx: LedgerTx<'a>,
        mails: Vec<AnnouncementMail>,
    ) -> BoxFuture<'a, Result<Vec<EnqueuedJob>, EnqueueError>> {
        let job = |mail: AnnouncementMail| {
            self.0.jobs.enqueue(NotifyEmail {
                to: Some(mail.to),
                user: mail.user,
                template: mail.template.to_owned(),
                data: mail.data,
                list: Some(mail.list.to_owned()),
                reply_to: None,
                key: None,
            })
        };
        let jobs: Vec<Enqueue> = mails.into_iter().map(job).collect();
        self.0.jobs.enqueue_all_in(tx, jobs).boxed()
    }

    fn ring(&self, queue: &str) {
        self.0.jobs.ring(queue);
    }
}

fn event(announcement: Announcement) -> Result<Event, EnqueueError> {
    let event_type = announcement.event_type.parse().map_err(|error| {
        let name = announcement.event_type;
        EnqueueError::Internal(LedgerError::Corrupt(format!("the event type {name}: {error}")))
    })?;
    Ok(Event::new(event_type, announcement.data))
}
