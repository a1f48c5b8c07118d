//! What holds for one key for a time.

use std::time::Duration;

use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::ledger::NewJob;
use holdfast_jobs::limits::{ClaimRequest, KeyRule, MAX_KEY_OVERRIDES, QueueLimits};

use super::{LimitFixture, key_max_running, keyed};
use crate::operations::audit::jobs_of;
use crate::support::{LOST_AFTER, new_job};

contract!(
    a_paused_key_waits_while_the_others_of_its_queue_go_on,
    a_key_runs_as_many_jobs_as_its_own_limit_says,
    an_override_that_has_expired_is_ignored_and_forgotten,
    a_queue_has_a_bounded_number_of_overrides,
    jobs_without_a_key_pass_the_jobs_of_a_paused_one,
);

const HOUR: Duration = Duration::from_hours(1);

impl LimitFixture {
    async fn key(&self, key: &str, rule: KeyRule) {
        self.key_for(key, rule, HOUR).await;
    }

    pub(super) async fn key_for(&self, key: &str, rule: KeyRule, time: Duration) {
        let (jobs, by) = (jobs_of(&self.f), AuditContext::new(Actor::local()));
        let put = jobs.steer(&by).override_key("default", key, rule, time).await;
        assert_eq!(put.unwrap().unwrap().rule, rule);
    }

    async fn ordinary(&self, worker: holdfast_jobs::WorkerId) -> Vec<String> {
        let claimed = self.f.ledger.claim("default", worker, 10, LOST_AFTER).await;
        self.keys_of(&claimed.unwrap()).await
    }

    /// Empty for a job without one.
    async fn keys_of(&self, claimed: &[holdfast_jobs::ledger::ClaimedJob]) -> Vec<String> {
        let mut keys = Vec::new();
        for job in claimed {
            let record = self.f.ledger.get(job.id).await.unwrap().unwrap();
            keys.push(record.limit_key.unwrap_or_default());
        }
        keys
    }

    async fn let_overrides_expire(&self) {
        self.f
            .sql(
                "update holdfast_key_overrides set expires_at = expires_at - interval '2 hours'",
                "update holdfast_key_overrides set expires_at = expires_at - 7200000",
            )
            .await;
    }
}

async fn a_paused_key_waits_while_the_others_of_its_queue_go_on(l: LimitFixture) {
    let worker = l.f.worker().await;
    l.insert(&[keyed("a"), keyed("a"), keyed("b"), new_job()]).await;
    l.key("a", KeyRule::Paused).await;
    assert!(l.limits.is_limited("default").await.unwrap());
    assert!(
        l.ordinary(worker).await.is_empty(),
        "an ordinary claim knows no keys"
    );
    let queues = ["default".to_owned()];
    assert!(l.f.ledger.peek(&queues).await.unwrap().is_empty());
    let claimed = l.claim_all(worker, 10).await;
    assert_eq!(l.keys_of(&claimed.jobs).await, ["b", ""]);
    let wait = claimed.again_in.unwrap();
    assert!(
        wait > HOUR / 2 && wait <= HOUR,
        "it is over by the clock: {wait:?}"
    );

    let (jobs, by) = (jobs_of(&l.f), AuditContext::new(Actor::local()));
    assert!(jobs.steer(&by).end_override("default", "a").await.unwrap());
    assert!(!jobs.steer(&by).end_override("default", "a").await.unwrap());
    assert!(!l.limits.is_limited("default").await.unwrap());
    let asked = ClaimRequest {
        queue: "default",
        worker,
        room: 10,
        lost_after: LOST_AFTER,
    };
    assert!(!l.limits.claim(asked).await.unwrap().limited);
    assert_eq!(l.ordinary(worker).await, ["a", "a"]);
}

async fn a_key_runs_as_many_jobs_as_its_own_limit_says(l: LimitFixture) {
    let worker = l.f.worker().await;
    l.set(key_max_running(2)).await;
    for key in ["more", "fewer", "none", "other"] {
        let jobs: Vec<NewJob> = (0..5).map(|_| keyed(key)).collect();
        l.insert(&jobs).await;
    }
    l.key("more", KeyRule::MaxRunning(4)).await;
    l.key("fewer", KeyRule::MaxRunning(1)).await;
    l.key("none", KeyRule::MaxRunning(3)).await;
    // The later one holds.
    l.key("none", KeyRule::Paused).await;
    let claimed = l.claim(worker, 20).await;
    let keys = l.keys_of(&claimed).await;
    let count = |key: &str| keys.iter().filter(|found| *found == key).count();
    assert_eq!(
        (count("more"), count("fewer"), count("none"), count("other")),
        (4, 1, 0, 2)
    );
    assert!(l.claim(worker, 20).await.is_empty(), "each is at its limit");
    l.complete(worker, &claimed).await;
    assert_eq!(l.claim(worker, 20).await.len(), 1 + 1 + 2);

    // The limits of the queue hold beside those of a key.
    l.set(QueueLimits {
        max_running: Some(5),
        ..QueueLimits::default()
    })
    .await;
    assert_eq!(l.claim(worker, 20).await.len(), 1);
}

async fn an_override_that_has_expired_is_ignored_and_forgotten(l: LimitFixture) {
    let worker = l.f.worker().await;
    l.set(key_max_running(1)).await;
    l.insert(&[keyed("a"), keyed("a"), keyed("a")]).await;
    l.key("a", KeyRule::Paused).await;
    assert!(l.claim(worker, 10).await.is_empty());
    l.let_overrides_expire().await;
    assert_eq!(l.claim(worker, 10).await.len(), 1, "as the queue's limit says");
    l.limits.set_override("default", None).await.unwrap();
    assert!(!l.limits.is_limited("default").await.unwrap());
    assert_eq!(l.ordinary(worker).await.len(), 2);
    assert_eq!(
        l.limits.keys("default", "", 10).await.unwrap()[0].overridden,
        None
    );

    l.key_for("b", KeyRule::Paused, HOUR * 3).await;
    assert_eq!(l.limits.prune(10).await.unwrap(), 1);
    assert_eq!(l.limits.prune(10).await.unwrap(), 0);
    let keys = l.limits.keys("default", "", 10).await.unwrap();
    assert_eq!(
        keys.iter().map(|key| key.key.as_str()).collect::<Vec<_>>(),
        ["a", "b"]
    );
    assert_eq!(keys[1].overridden.unwrap().rule, KeyRule::Paused);
}

async fn a_queue_has_a_bounded_number_of_overrides(l: LimitFixture) {
    let most = MAX_KEY_OVERRIDES;
    let fill = |values: &str, until: &str| {
        format!(
            "insert into holdfast_key_overrides (queue, key, max_running, expires_at)
             select 'default', 'key-' || n, 1, {until} from ({values}) as s"
        )
    };
    l.f.sql_text(
        &fill(
            &format!("select n from generate_series(1, {most}) as n"),
            "now() + interval '1 hour'",
        ),
        &fill(
            &format!(
                "with recursive s(n) as (select 1 union all select n + 1 from s where n < {most}) select n from s"
            ),
            "unixepoch('subsec') * 1000 + 3600000",
        ),
    )
    .await;
    let (jobs, by) = (jobs_of(&l.f), AuditContext::new(Actor::local()));
    let put = async |key: &str| {
        let admin = jobs.steer(&by);
        admin
            .override_key("default", key, KeyRule::Paused, HOUR)
            .await
            .unwrap()
    };
    assert_eq!(put("one more").await, None);
    assert_eq!(put("key-7").await.unwrap().rule, KeyRule::Paused);
    l.let_overrides_expire().await;
    assert!(put("one more").await.is_some());
}

async fn jobs_without_a_key_pass_the_jobs_of_a_paused_one(l: LimitFixture) {
    let worker = l.f.worker().await;
    let mut jobs: Vec<NewJob> = (0..1_500).map(|_| keyed("hot")).collect();
    jobs.push(new_job());
    l.insert(&jobs).await;
    l.key("hot", KeyRule::Paused).await;
    assert_eq!(l.keys_of(&l.claim(worker, 10).await).await, [""]);
}
