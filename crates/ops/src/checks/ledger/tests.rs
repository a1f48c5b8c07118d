//! Each branch of the checks, over figures that a test makes.

use holdfast_core::config::Sources;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::Database;
use holdfast_jobs::diagnosis::{
    Fault, FileFigures, LeaseFigures, OldTransaction, ServerFigures, TableFigures,
};
use holdfast_jobs::{Jobs, Registry};

use super::super::Verdict::{self, Fail, Pass, Skipped, Warn};
use super::*;

/// Changed settings, and what is to be found.
type Case<'a> = (&'a [(&'a str, &'a str)], Verdict, &'a str);

/// A server as it should be; in `changed`, settings that are other.
fn server(changed: &[(&str, &str)]) -> BTreeMap<String, String> {
    let sound = [
        ("synchronous_commit", "on"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("autovacuum", "on"),
        ("track_counts", "on"),
        ("idle_in_transaction_session_timeout", "60000"),
        ("standbys", "0"),
        ("standbys_sync", "0"),
        ("standbys_hidden", "0"),
        (
            "table_options",
            "fillfactor=70, autovacuum_vacuum_scale_factor=0.02",
        ),
    ];
    let all = sound.iter().chain(changed);
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn report(transactions: Vec<OldTransaction>, faults: Vec<Fault>) -> Report {
    let table = TableFigures {
        table: "holdfast_jobs".to_owned(),
        live: 10,
        dead: 1,
        vacuumed_seconds_ago: None,
    };
    Report {
        faults,
        server: Some(ServerFigures {
            transactions,
            tables: vec![table],
            ..ServerFigures::default()
        }),
        leases: Some(LeaseFigures::default()),
        stalled: Some(Vec::new()),
        ..Report::default()
    }
}

fn fault(kind: FaultKind) -> Fault {
    Fault {
        kind,
        queue: None,
        message: "something is at fault".to_owned(),
        statement: Some("select ?".to_owned()),
    }
}

/// It asks nothing: everything is known. No settings: the database is embedded.
fn subject(settings: Option<BTreeMap<String, String>>, report: Report) -> LedgerSubject {
    let env = [(
        "DATABASE_URL".to_owned(),
        "postgres://nobody@127.0.0.1:1/none".to_owned(),
    )];
    let loaded = holdfast_services::load_from(Sources {
        env: env.into(),
        file: None,
    });
    let loaded = loaded.unwrap();
    let database = Database::open(&loaded.database).unwrap();
    let gate = RedisGate::open(Role::Queue, None, &loaded.redis).unwrap();
    let jobs = Jobs::new(&loaded, Registry::new(), &database, &gate);
    LedgerSubject {
        diagnosis: Diagnosis::new(&loaded, &jobs, &database),
        report: OnceCell::new_with(Some(Arc::new(report))),
        settings: OnceCell::new_with(Some(settings)),
    }
}

fn sound() -> LedgerSubject {
    subject(Some(server(&[])), report(Vec::new(), Vec::new()))
}

#[track_caller]
fn assert_says(finding: &Finding, verdict: Verdict, text: &str) {
    assert_eq!(finding.verdict, verdict, "{finding:?}");
    assert!(finding.summary().contains(text), "{finding:?}");
    assert_eq!(
        finding.hint.is_some(),
        matches!(verdict, Warn | Fail),
        "{finding:?}"
    );
}

#[tokio::test]
async fn what_may_lose_accepted_jobs_is_said() {
    assert_says(
        &durability(&sound()).await,
        Pass,
        "synchronous_commit is on; 0 standbys",
    );
    let cases: [Case<'_>; 9] = [
        (&[("fsync", "off")], Fail, "fsync or full_page_writes is off"),
        (
            &[("full_page_writes", "off")],
            Fail,
            "fsync or full_page_writes is off",
        ),
        (
            &[("synchronous_commit", "off")],
            Warn,
            "synchronous_commit is off",
        ),
        (&[("standbys", "2")], Warn, "2 standbys replicate asynchronously"),
        (
            &[
                ("standbys", "1"),
                ("standbys_sync", "1"),
                ("synchronous_standby_names", "*"),
            ],
            Pass,
            "1 standbys",
        ),
        (
            &[("synchronous_standby_names", "*")],
            Fail,
            "none is connected: commits wait",
        ),
        // Asynchronous standbys beside a name that none of them has.
        (
            &[("standbys", "1"), ("synchronous_standby_names", "other")],
            Fail,
            "none is connected: commits wait",
        ),
        // A commit waits for none of them.
        (
            &[
                ("synchronous_commit", "local"),
                ("synchronous_standby_names", "*"),
            ],
            Pass,
            "synchronous_commit is local",
        ),
        // Whether it is in step is hidden from this role.
        (
            &[
                ("standbys", "1"),
                ("standbys_hidden", "1"),
                ("synchronous_standby_names", "*"),
            ],
            Pass,
            "1 standbys",
        ),
    ];
    for (changed, verdict, text) in cases {
        let subject = subject(Some(server(changed)), report(Vec::new(), Vec::new()));
        assert_says(&durability(&subject).await, verdict, text);
    }
    let embedded = subject(None, Report::default());
    assert_says(&durability(&embedded).await, Pass, "on disk");
}

#[tokio::test]
async fn vacuums_that_do_not_come_are_said() {
    assert_says(
        &vacuum(&sound()).await,
        Pass,
        "holdfast_jobs has 1 dead rows; vacuumed never",
    );
    let cases: [Case<'_>; 4] = [
        (&[("autovacuum", "off")], Fail, "autovacuum is off"),
        (&[("track_counts", "off")], Fail, "autovacuum is off"),
        (
            &[(
                "table_options",
                "autovacuum_vacuum_scale_factor=0.02, autovacuum_enabled=false",
            )],
            Fail,
            "autovacuum is off",
        ),
        (
            &[("table_options", "fillfactor=70")],
            Warn,
            "lost its settings for autovacuum (fillfactor=70)",
        ),
    ];
    for (changed, verdict, text) in cases {
        let subject = subject(Some(server(changed)), report(Vec::new(), Vec::new()));
        assert_says(&vacuum(&subject).await, verdict, text);
    }
    let dead = report(Vec::new(), vec![fault(FaultKind::DeadRows)]);
    let dead = subject(Some(server(&[])), dead);
    assert_says(&vacuum(&dead).await, Warn, "something is at fault (select ?)");
    let unread = subject(Some(server(&[])), Report::default());
    assert_says(&vacuum(&unread).await, Warn, "the tables could not be read");
    let embedded = subject(None, Report::default());
    assert_says(&vacuum(&embedded).await, Skipped, "needs none");
}

#[tokio::test]
async fn old_and_idle_transactions_are_said() {
    let open = |state: &str, seconds| OldTransaction {
        what: format!("the session with pid 7 (shop, {state})"),
        seconds: Some(seconds),
        xmin_age: None,
        statement: None,
    };
    let off = server(&[("idle_in_transaction_session_timeout", "0")]);
    let cases = [
        (
            server(&[]),
            open("active", 4.0),
            Pass,
            "the oldest transaction is 4 s old",
        ),
        (server(&[]), open("idle in transaction", 61.0), Pass, "61 s old"),
        (
            off.clone(),
            open("active", 61.0),
            Pass,
            "is off for others than Holdfast",
        ),
        (off.clone(), open("idle in transaction", 60.0), Pass, "60 s old"),
        (
            off,
            open("idle in transaction", 61.0),
            Warn,
            "does nothing inside a transaction",
        ),
    ];
    for (settings, transaction, verdict, text) in cases {
        let subject = subject(Some(settings), report(vec![transaction], Vec::new()));
        assert_says(&transactions(&subject).await, verdict, text);
    }
    let old = report(Vec::new(), vec![fault(FaultKind::OldTransaction)]);
    let old = subject(Some(server(&[])), old);
    assert_says(&transactions(&old).await, Warn, "something is at fault");
    let unread = subject(Some(server(&[])), Report::default());
    assert_says(&transactions(&unread).await, Warn, "sessions could not be read");
    let embedded = subject(None, Report::default());
    assert_says(&transactions(&embedded).await, Skipped, "embedded");
}

#[tokio::test]
async fn locks_and_load_are_said() {
    assert_says(&locks(&sound()).await, Pass, "no session holds locks");
    assert_says(&load(&sound()).await, Pass, "no statement of Holdfast is late");
    for kind in [FaultKind::LockWait, FaultKind::LockHolder] {
        let subject = subject(Some(server(&[])), report(Vec::new(), vec![fault(kind)]));
        assert_says(&locks(&subject).await, Warn, "something is at fault (select ?)");
        assert_says(&load(&subject).await, Pass, "");
    }
    for kind in [
        FaultKind::SlowStatement,
        FaultKind::AbandonedConnections,
        FaultKind::ConnectionsShort,
        FaultKind::LargeLog,
        FaultKind::Unreadable,
    ] {
        let subject = subject(Some(server(&[])), report(Vec::new(), vec![fault(kind)]));
        assert_says(&load(&subject).await, Warn, "something is at fault");
        assert_says(&locks(&subject).await, Pass, "");
    }
    let unread = subject(Some(server(&[])), Report::default());
    assert_says(&locks(&unread).await, Warn, "sessions could not be read");
    assert_says(&load(&unread).await, Warn, "sessions could not be read");
    let file = Report {
        file: Some(FileFigures { log_bytes: 4_096 }),
        ..Report::default()
    };
    let embedded = subject(None, file);
    assert_says(&locks(&embedded).await, Skipped, "shows no locks");
    assert_says(&load(&embedded).await, Pass, "the write-ahead log has 4 KiB");
}
