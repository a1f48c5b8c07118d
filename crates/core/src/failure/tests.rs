//! One test for each row of the table.

use std::borrow::Cow;
use std::fmt;
use std::io;

use redis::parse_redis_value;
use sqlx::Connection as _;
use sqlx::error::{DatabaseError, ErrorKind as SqlErrorKind};

use super::*;

fn reply(line: &str) -> RedisError {
    parse_redis_value(format!("-{line}\r\n").as_bytes())
        .unwrap()
        .extract_error()
        .unwrap_err()
}

fn io_error(kind: io::ErrorKind) -> RedisError {
    io::Error::from(kind).into()
}

fn outage(reason: DegradedReason, certainty: Certainty, discard_connection: bool) -> RedisFailure {
    RedisFailure {
        class: FailureClass::Transient,
        certainty,
        discard_connection,
        outage: Some(reason),
    }
}

#[test]
fn replies_that_lose_the_service_are_outages() {
    let not_applied = Certainty::NotApplied;
    for (line, reason, discard) in [
        (
            "READONLY You can't write against a read only replica.",
            DegradedReason::ReadOnly,
            true,
        ),
        (
            "NOAUTH Authentication required.",
            DegradedReason::Unauthorized,
            true,
        ),
        (
            "WRONGPASS invalid username-password pair",
            DegradedReason::Unauthorized,
            true,
        ),
        (
            "LOADING Redis is loading the dataset in memory",
            DegradedReason::Loading,
            false,
        ),
        (
            "BUSY Redis is busy running a script.",
            DegradedReason::Busy,
            false,
        ),
        (
            "MASTERDOWN Link with MASTER is down",
            DegradedReason::ClusterDown,
            false,
        ),
        (
            "CLUSTERDOWN The cluster is down",
            DegradedReason::ClusterDown,
            false,
        ),
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            DegradedReason::OutOfMemory,
            false,
        ),
        (
            "MISCONF Redis is configured to save RDB snapshots",
            DegradedReason::WritesRefused,
            false,
        ),
        (
            "NOREPLICAS Not enough good replicas to write.",
            DegradedReason::WritesRefused,
            false,
        ),
        ("MOVED 3999 127.0.0.1:6381", DegradedReason::ClusterNode, false),
        ("HOLDFAST_CLUSTER_NODE", DegradedReason::ClusterNode, true),
        ("HOLDFAST_NO_CLUSTER", DegradedReason::NoCluster, true),
        ("HOLDFAST_SENTINEL", DegradedReason::Sentinel, true),
        ("HOLDFAST_NO_MASTER", DegradedReason::NoMaster, true),
    ] {
        assert_eq!(
            classify_redis(&reply(line)),
            outage(reason, not_applied, discard),
            "{line}"
        );
    }
}

#[test]
fn replies_that_pass_by_are_transient_without_outage() {
    for (line, discard_connection) in [
        ("UNBLOCKED force unblock from blocking operation", true),
        (
            "NOPERM this user has no permissions to run the 'config' command",
            false,
        ),
        ("TRYAGAIN Multiple keys request during rehashing of slot", false),
        ("NOSCRIPT No matching script.", false),
    ] {
        let expected = RedisFailure {
            discard_connection,
            ..RedisFailure::transient(Certainty::NotApplied)
        };
        assert_eq!(classify_redis(&reply(line)), expected, "{line}");
    }
}

#[test]
fn other_replies_blame_the_command() {
    for line in [
        "ERR syntax error",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "EXECABORT Transaction discarded because of previous errors.",
        "HOLDFAST some script's own code",
    ] {
        assert_eq!(
            classify_redis(&reply(line)),
            RedisFailure::permanent(Certainty::NotApplied),
            "{line}"
        );
    }
}

#[test]
fn the_text_of_a_reply_decides_nothing() {
    assert_eq!(
        classify_redis(&reply("ERR user_script:1: READONLY OOM LOADING timed out")),
        RedisFailure::permanent(Certainty::NotApplied)
    );
}

#[test]
fn io_errors_are_outages_of_unknown_effect_unless_nothing_was_sent() {
    for (kind, reason, certainty) in [
        (
            io::ErrorKind::ConnectionRefused,
            DegradedReason::Refused,
            Certainty::NotApplied,
        ),
        (
            io::ErrorKind::TimedOut,
            DegradedReason::TimedOut,
            Certainty::Unknown,
        ),
        (
            io::ErrorKind::BrokenPipe,
            DegradedReason::ConnectionLost,
            Certainty::Unknown,
        ),
        (
            io::ErrorKind::ConnectionReset,
            DegradedReason::ConnectionLost,
            Certainty::Unknown,
        ),
        (
            io::ErrorKind::UnexpectedEof,
            DegradedReason::ConnectionLost,
            Certainty::Unknown,
        ),
        (
            io::ErrorKind::HostUnreachable,
            DegradedReason::Unreachable,
            Certainty::Unknown,
        ),
    ] {
        assert_eq!(
            classify_redis(&io_error(kind)),
            outage(reason, certainty, true),
            "{kind}"
        );
    }
}

#[test]
fn unreadable_replies_are_permanent_and_may_have_been_applied() {
    let garbage = parse_redis_value(b"HTTP/1.1 400 Bad Request\r\n").unwrap_err();
    assert_eq!(garbage.kind(), ErrorKind::Parse);
    assert_eq!(
        classify_redis(&garbage),
        RedisFailure::permanent(Certainty::Unknown).discarding()
    );
    let wrong_type = RedisError::from((ErrorKind::UnexpectedReturnType, "not a number"));
    assert_eq!(
        classify_redis(&wrong_type),
        RedisFailure::permanent(Certainty::Unknown)
    );
}

#[test]
fn client_side_refusals_are_permanent() {
    let refusal = RedisError::from((ErrorKind::Client, "empty command"));
    assert_eq!(
        classify_redis(&refusal),
        RedisFailure::permanent(Certainty::NotApplied)
    );
}

#[test]
fn while_connecting_everything_is_an_outage_and_nothing_was_applied() {
    for (error, reason) in [
        (io_error(io::ErrorKind::TimedOut), DegradedReason::TimedOut),
        (
            io_error(io::ErrorKind::ConnectionRefused),
            DegradedReason::Refused,
        ),
        (
            io_error(io::ErrorKind::UnexpectedEof),
            DegradedReason::ConnectionLost,
        ),
        (
            RedisError::from((ErrorKind::AuthenticationFailed, "Password authentication failed")),
            DegradedReason::Unauthorized,
        ),
        (
            reply("NOPERM no permission to write"),
            DegradedReason::Unauthorized,
        ),
        (reply("LOADING loading"), DegradedReason::Loading),
        (
            RedisError::from((ErrorKind::Client, "invalid peer certificate")),
            DegradedReason::Unreachable,
        ),
        (
            reply("ERR max number of clients reached"),
            DegradedReason::Unexpected,
        ),
        (
            parse_redis_value(b"HTTP/1.1 400\r\n").unwrap_err(),
            DegradedReason::Unexpected,
        ),
    ] {
        assert_eq!(
            classify_connect(&error),
            outage(reason, Certainty::NotApplied, true),
            "{error}"
        );
    }
}

#[test]
fn a_busy_pool_is_our_fault_and_a_slow_connect_the_servers() {
    let busy = classify_pool(&PoolError::Timeout(TimeoutType::Wait));
    assert_eq!(busy, RedisFailure::transient(Certainty::NotApplied));
    assert_eq!(
        classify_pool(&PoolError::Closed),
        RedisFailure::transient(Certainty::NotApplied)
    );
    for step in [TimeoutType::Create, TimeoutType::Recycle] {
        let slow = classify_pool(&PoolError::Timeout(step));
        assert_eq!(
            slow,
            outage(DegradedReason::TimedOut, Certainty::NotApplied, true)
        );
    }
    let refused = classify_pool(&PoolError::Backend(io_error(io::ErrorKind::ConnectionRefused)));
    assert_eq!(
        refused,
        outage(DegradedReason::Refused, Certainty::NotApplied, true)
    );
}

/// An error reply as PostgreSQL gives it.
#[derive(Debug)]
struct SqlState(&'static str);

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for SqlState {}

impl DatabaseError for SqlState {
    fn message(&self) -> &str {
        self.0
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.0.into())
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> SqlErrorKind {
        SqlErrorKind::Other
    }
}

#[test]
fn sqlstates_fall_into_their_kinds() {
    use SqlFailureKind::*;
    for (code, kind) in [
        ("08000", Connection),
        ("08006", Connection),
        ("08P01", Connection),
        ("26000", Connection),
        ("53200", Exhausted),
        ("53300", Exhausted),
        ("53400", Exhausted),
        ("53100", Storage),
        ("58030", Storage),
        ("57P01", Restarting),
        ("57P02", Restarting),
        ("57P03", Restarting),
        ("57P05", Restarting),
        ("40001", Contention),
        ("40003", Contention),
        ("40P01", Contention),
        ("55P03", Contention),
        ("55006", Contention),
        ("57014", Timeout),
        ("25006", ReadOnly),
        ("28P01", Refused),
        ("28000", Refused),
        ("3D000", Refused),
        ("57P04", Refused),
        ("XX000", Internal),
        ("23505", Unique),
        ("23503", ForeignKey),
        ("23502", Constraint),
        ("23514", Constraint),
        ("40002", Constraint),
        ("22P02", Data),
        ("22001", Data),
        ("42P01", Unmigrated),
        ("42601", Statement),
        ("54000", Statement),
        ("XX001", Statement),
        ("", Statement),
    ] {
        let failure = classify_sql(&sqlx::Error::Database(Box::new(SqlState(code))));
        assert_eq!(
            failure,
            SqlFailure {
                class: kind.class(),
                kind
            },
            "{code}"
        );
    }
}

#[test]
fn sqlx_errors_fall_into_their_kinds() {
    use SqlFailureKind::*;
    let io = || io::Error::from(io::ErrorKind::ConnectionReset);
    for (error, kind) in [
        (sqlx::Error::Io(io()), Connection),
        (sqlx::Error::Tls(io().into()), Connection),
        (sqlx::Error::Protocol(String::new()), Connection),
        (sqlx::Error::WorkerCrashed, Connection),
        (sqlx::Error::BeginFailed, Connection),
        (sqlx::Error::PoolTimedOut, Exhausted),
        (sqlx::Error::PoolClosed, Restarting),
        (sqlx::Error::RowNotFound, Missing),
        (sqlx::Error::Decode(io().into()), Data),
        (sqlx::Error::Encode(io().into()), Data),
        (
            sqlx::Error::ColumnDecode {
                index: String::new(),
                source: io().into(),
            },
            Data,
        ),
        (sqlx::Error::ColumnNotFound(String::new()), Statement),
        (sqlx::Error::Configuration(io().into()), Statement),
    ] {
        assert_eq!(classify_sql(&error).kind, kind, "{error}");
    }
}

#[test]
fn outages_of_sql_are_transient_and_faults_of_the_request_permanent() {
    use SqlFailureKind::*;
    for kind in [
        Connection, Exhausted, Restarting, Contention, Timeout, ReadOnly, Storage, Refused, Unmigrated,
        Internal,
    ] {
        assert_eq!(kind.class(), FailureClass::Transient, "{kind:?}");
    }
    for kind in [Unique, ForeignKey, Constraint, Data, Missing, Statement] {
        assert_eq!(kind.class(), FailureClass::Permanent, "{kind:?}");
    }
}

#[test]
fn sqlite_codes_fall_into_their_kinds() {
    use SqlFailureKind::*;
    for (code, kind) in [
        (5, Contention),
        (261, Contention), // BUSY_RECOVERY
        (517, Contention), // BUSY_SNAPSHOT
        (6, Contention),
        (262, Contention), // LOCKED_SHAREDCACHE
        (15, Contention),
        (7, Exhausted),
        (8, ReadOnly),
        (1032, ReadOnly), // READONLY_DBMOVED
        (9, Timeout),
        (10, Storage),
        (778, Storage), // IOERR_WRITE
        (13, Storage),
        (14, Storage),
        (18, Data),
        (20, Data),
        (19, Constraint),
        (275, Constraint),  // CONSTRAINT_CHECK
        (1299, Constraint), // CONSTRAINT_NOTNULL
        (787, ForeignKey),
        (1555, Unique),
        (2067, Unique),
        (2579, Unique),
        (1, Statement),
        (11, Statement), // CORRUPT
        (26, Statement), // NOTADB
    ] {
        assert_eq!(classify_sqlite_code(code), kind, "{code}");
    }
}

#[tokio::test]
async fn errors_of_a_real_sqlite_are_read_by_their_code() {
    let mut sqlite = sqlx::SqliteConnection::connect("sqlite::memory:").await.unwrap();
    sqlx::raw_sql("PRAGMA foreign_keys = ON; CREATE TABLE a (id INTEGER PRIMARY KEY, n TEXT UNIQUE CHECK (n <> '')); CREATE TABLE b (a INTEGER NOT NULL REFERENCES a); INSERT INTO a VALUES (1, 'x')")
        .execute(&mut sqlite)
        .await
        .unwrap();
    for (statement, kind) in [
        ("INSERT INTO a VALUES (1, 'y')", SqlFailureKind::Unique),
        ("INSERT INTO a VALUES (2, 'x')", SqlFailureKind::Unique),
        ("INSERT INTO a VALUES (2, '')", SqlFailureKind::Constraint),
        ("INSERT INTO b VALUES (NULL)", SqlFailureKind::Constraint),
        ("INSERT INTO b VALUES (7)", SqlFailureKind::ForeignKey),
        ("INSERT INTO nowhere VALUES (1)", SqlFailureKind::Statement),
    ] {
        let error = sqlx::raw_sql(statement).execute(&mut sqlite).await.unwrap_err();
        assert_eq!(classify_sql(&error).kind, kind, "{statement}: {error}");
    }
}
