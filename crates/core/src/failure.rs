//! The one table that says what a failure means.
//!
//! *Transient*: the request is sound, and the same request may succeed later, once the dependency is reachable,
//! has restarted, or an operator has mended it. *Permanent*: the request itself is at fault. Errors are read by
//! kind and code only, never by message text, which differs between versions, languages and vendors.
//!
//! # Redis
//!
//! An *outage* is what counts against the breaker: the service is lost, not only one command. *Discard* says
//! that the connection must not be used again. *Applied* says what is known about the command.
//!
//! | error | class | outage | discard | applied |
//! | --- | --- | --- | --- | --- |
//! | connection refused | transient | refused | yes | no |
//! | response or connect timeout | transient | timed out | yes | unknown |
//! | reset, broken pipe, end of stream | transient | connection lost | yes | unknown |
//! | other I/O | transient | unreachable | yes | unknown |
//! | `READONLY` | transient | read only | yes: a demoted master | no |
//! | `UNBLOCKED` | transient | – | yes: its role changed | no |
//! | `LOADING` | transient | loading | | no |
//! | `BUSY` | transient | busy | | no |
//! | `MASTERDOWN`, `CLUSTERDOWN` | transient | cluster down | | no |
//! | `MOVED`, `ASK` outside a cluster's connection; a single server's URL at a node | transient | cluster node | at a node | no |
//! | a cluster's URL at a single server; a server's at a Sentinel; an unknown service | transient | no cluster, sentinel, no master | yes | no |
//! | `OOM` | transient | out of memory | | no |
//! | `MISCONF`, `NOREPLICAS` | transient | writes refused | | no |
//! | `NOAUTH`, `WRONGPASS`, failed `AUTH` | transient | unauthorized | yes: only a new one logs in | no |
//! | `NOPERM` | transient | –: one command; the probe tells whether all | | no |
//! | `TRYAGAIN`, `NOSCRIPT` | transient | – | | no |
//! | any other reply (`ERR`, `WRONGTYPE`, `CROSSSLOT`, …) | permanent | – | | no |
//! | a reply of the wrong type | permanent | – | | unknown |
//! | a reply that is not Redis | permanent | – | yes | unknown |
//! | refused by the client before sending | permanent | – | | no |
//!
//! A pipeline that is not a transaction has the gravest class of its errors and *unknown* as its outcome, since
//! its other commands were applied. A script that fails half-way keeps what it wrote: scripts check before they
//! write. While a connection is being made, every failure is an outage, and nothing was applied.
//!
//! | pool | class | outage |
//! | --- | --- | --- |
//! | `Wait` timeout | transient | –: we are busy, the server is not at fault |
//! | `Create`, `Recycle` timeout | transient | timed out |
//! | closed | transient | –: the process stops |
//!
//! # SQL
//!
//! | error | class | kind |
//! | --- | --- | --- |
//! | I/O, TLS, protocol, crashed worker, failed BEGIN; `08***`, `26000` | transient | connection |
//! | pool timed out, `53***`, SQLite `NOMEM` | transient | exhausted |
//! | pool closed; `57P01`, `57P02`, `57P03`, `57P05` | transient | restarting |
//! | `40***` but `40002`; `55P03`, `55006`; SQLite `BUSY`, `LOCKED`, `PROTOCOL` | transient | contention |
//! | `57014` (statement timeout), `25P03`, `25P04` (transaction timeouts), SQLite `INTERRUPT` | transient | timeout |
//! | `25006`, SQLite `READONLY` | transient | read only |
//! | `53100`, `58***`, SQLite `FULL`, `IOERR`, `CANTOPEN` | transient | storage |
//! | `28***`, `3D000`, `57P04` | transient | refused: an operator mends it |
//! | `42P01` | transient | unmigrated: the schema is about to come |
//! | `XX000` | transient | internal: proxies report a waking database so |
//! | `23505`, SQLite unique and primary key | permanent | unique |
//! | `23503`, SQLite foreign key | permanent | foreign key |
//! | other `23***`, `40002`, SQLite constraint | permanent | constraint |
//! | `22***`, encode, decode, SQLite `MISMATCH`, `TOOBIG` | permanent | data |
//! | row not found | permanent | missing |
//! | anything else | permanent | statement |
//!
//! Whether an SQL error means that the database is unavailable, so that it counts against the breaker:
//!
//! | error | outage |
//! | --- | --- |
//! | refused, or no socket file | refused |
//! | reset, closed, end of stream; `08***`, `57P01`, `57P02` | connection lost |
//! | no answer in time | timed out |
//! | name or route not found, TLS | unreachable |
//! | `57P03` | loading |
//! | `53300` | too many connections |
//! | `28***`, `3D000` | unauthorized |
//! | SQLite `BUSY` | locked |
//! | anything else, slow statements and waits for locks among them | – |

use redis::{ErrorKind, RedisError, RetryMethod, ServerError, ServerErrorKind};

use crate::mode::DegradedReason;
use crate::redis::{PoolError, TimeoutType, mistaken};

/// Whether the same request may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    Transient,
    Permanent,
}

/// What is known about the effect of a failed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Certainty {
    /// It had no effect.
    NotApplied,
    /// It may have been applied: repeat it only if it is idempotent.
    Unknown,
}

/// What a Redis error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedisFailure {
    pub class: FailureClass,
    pub certainty: Certainty,
    /// The connection must not be used again.
    pub discard_connection: bool,
    /// Set if the service is lost, not only this command: it counts against the breaker.
    pub outage: Option<DegradedReason>,
}

impl RedisFailure {
    const fn permanent(certainty: Certainty) -> Self {
        Self {
            class: FailureClass::Permanent,
            certainty,
            discard_connection: false,
            outage: None,
        }
    }

    const fn transient(certainty: Certainty) -> Self {
        Self {
            class: FailureClass::Transient,
            certainty,
            discard_connection: false,
            outage: None,
        }
    }

    const fn outage(reason: DegradedReason, certainty: Certainty) -> Self {
        Self {
            class: FailureClass::Transient,
            certainty,
            discard_connection: false,
            outage: Some(reason),
        }
    }

    const fn discarding(self) -> Self {
        Self {
            discard_connection: true,
            ..self
        }
    }

    /// Outages before other transient failures before permanent ones.
    const fn gravity(self) -> u8 {
        match (self.class, self.outage) {
            (_, Some(_)) => 2,
            (FailureClass::Transient, None) => 1,
            (FailureClass::Permanent, None) => 0,
        }
    }
}

/// Reads the error of a command, pipeline or script on an established connection.
pub fn classify_redis(error: &RedisError) -> RedisFailure {
    match error.kind() {
        ErrorKind::Io => classify_io(error),
        ErrorKind::Server(_) | ErrorKind::Extension => classify_replies(error),
        ErrorKind::AuthenticationFailed => {
            RedisFailure::outage(DegradedReason::Unauthorized, Certainty::NotApplied).discarding()
        }
        // The command ran; only its reply cannot be read. A stream that has lost its place looks the same.
        ErrorKind::Parse => RedisFailure::permanent(Certainty::Unknown).discarding(),
        ErrorKind::UnexpectedReturnType => RedisFailure::permanent(Certainty::Unknown),
        ErrorKind::Client | ErrorKind::InvalidClientConfig => RedisFailure::permanent(Certainty::NotApplied),
        _ => match error.retry_method() {
            RetryMethod::NoRetry => RedisFailure::permanent(Certainty::NotApplied),
            _ => RedisFailure::transient(Certainty::Unknown).discarding(),
        },
    }
}

/// Reads the error of an attempt to connect, or of a probe: whatever it is, the service is not there.
pub fn classify_connect(error: &RedisError) -> RedisFailure {
    let failure = classify_redis(error);
    let reason = failure.outage.unwrap_or(match error.code() {
        Some("NOPERM") => DegradedReason::Unauthorized,
        Some("TRYAGAIN") => DegradedReason::ClusterDown,
        _ if error.kind() == ErrorKind::Client => DegradedReason::Unreachable, // rustls' own errors come so
        _ => DegradedReason::Unexpected,
    });
    RedisFailure::outage(reason, Certainty::NotApplied).discarding()
}

/// Reads the error of a checkout. Nothing was sent yet.
pub(crate) fn classify_pool(error: &PoolError) -> RedisFailure {
    match error {
        PoolError::Timeout(TimeoutType::Wait) | PoolError::Closed => {
            RedisFailure::transient(Certainty::NotApplied)
        }
        PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => {
            RedisFailure::outage(DegradedReason::TimedOut, Certainty::NotApplied).discarding()
        }
        PoolError::Backend(error) => classify_connect(error),
        PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
            RedisFailure::permanent(Certainty::NotApplied)
        }
    }
}

fn classify_io(error: &RedisError) -> RedisFailure {
    let (reason, certainty) = if error.is_connection_refusal() {
        (DegradedReason::Refused, Certainty::NotApplied)
    } else if error.is_timeout() {
        (DegradedReason::TimedOut, Certainty::Unknown)
    } else if error.is_connection_dropped() {
        (DegradedReason::ConnectionLost, Certainty::Unknown)
    } else {
        (DegradedReason::Unreachable, Certainty::Unknown)
    };
    RedisFailure::outage(reason, certainty).discarding()
}

/// The gravest of the server's replies: one for a command or script, one or more for a pipeline.
fn classify_replies(error: &RedisError) -> RedisFailure {
    let Some(replies) = error.clone().into_server_errors() else {
        return classify_reply(error.code().unwrap_or_default());
    };
    let gravest = replies
        .iter()
        .map(|(_, reply)| classify_reply(reply.code()))
        .max_by_key(|failure| failure.gravity())
        .unwrap_or_else(|| classify_reply(error.code().unwrap_or_default()));
    let aborted = error.kind() == ErrorKind::Server(ServerErrorKind::ExecAbort);
    let single = ServerError::try_from(error.clone()).is_ok();
    let certainty = if aborted || single {
        Certainty::NotApplied
    } else {
        Certainty::Unknown
    };
    RedisFailure { certainty, ..gravest }
}

fn classify_reply(code: &str) -> RedisFailure {
    let outage = |reason| RedisFailure::outage(reason, Certainty::NotApplied);
    match code {
        "READONLY" => outage(DegradedReason::ReadOnly).discarding(),
        "NOAUTH" | "WRONGPASS" => outage(DegradedReason::Unauthorized).discarding(),
        "LOADING" => outage(DegradedReason::Loading),
        "BUSY" => outage(DegradedReason::Busy),
        "MASTERDOWN" | "CLUSTERDOWN" => outage(DegradedReason::ClusterDown),
        // A connection to a cluster follows these; who sees them speaks to one node.
        "MOVED" | "ASK" => outage(DegradedReason::ClusterNode),
        mistaken::CLUSTER_NODE => outage(DegradedReason::ClusterNode).discarding(),
        mistaken::NO_CLUSTER => outage(DegradedReason::NoCluster).discarding(),
        mistaken::SENTINEL => outage(DegradedReason::Sentinel).discarding(),
        mistaken::NO_MASTER => outage(DegradedReason::NoMaster).discarding(),
        "OOM" => outage(DegradedReason::OutOfMemory),
        "MISCONF" | "NOREPLICAS" => outage(DegradedReason::WritesRefused),
        "UNBLOCKED" => RedisFailure::transient(Certainty::NotApplied).discarding(),
        "NOPERM" | "TRYAGAIN" | "NOSCRIPT" => RedisFailure::transient(Certainty::NotApplied),
        _ => RedisFailure::permanent(Certainty::NotApplied),
    }
}

/// What an SQL error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlFailure {
    pub class: FailureClass,
    pub kind: SqlFailureKind,
}

/// The group an SQL error belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SqlFailureKind {
    /// The connection failed or could not be made.
    Connection,
    /// No free connection in time, or the server is out of connections or memory.
    Exhausted,
    /// The server (or this process) is stopping or starting.
    Restarting,
    /// Another transaction was in the way.
    Contention,
    /// The statement was cancelled for taking too long.
    Timeout,
    /// The server takes no writes: a replica, or a read-only file.
    ReadOnly,
    /// The server's disk is full or failing.
    Storage,
    /// The credentials or the database's name were refused.
    Refused,
    /// A table is not there: the database has yet to be migrated, which somebody is about to do.
    Unmigrated,
    /// The server failed inside.
    Internal,
    /// A unique or primary key exists already.
    Unique,
    /// A foreign key points at nothing.
    ForeignKey,
    /// Another constraint is violated.
    Constraint,
    /// A value does not fit its type.
    Data,
    /// The one row that was asked for does not exist.
    Missing,
    /// The statement, the schema or its use is wrong.
    Statement,
}

impl SqlFailureKind {
    /// The class of every error of this kind.
    pub const fn class(self) -> FailureClass {
        match self {
            Self::Connection
            | Self::Exhausted
            | Self::Restarting
            | Self::Contention
            | Self::Timeout
            | Self::ReadOnly
            | Self::Storage
            | Self::Refused
            | Self::Unmigrated
            | Self::Internal => FailureClass::Transient,
            Self::Unique
            | Self::ForeignKey
            | Self::Constraint
            | Self::Data
            | Self::Missing
            | Self::Statement => FailureClass::Permanent,
        }
    }
}

impl From<SqlFailureKind> for SqlFailure {
    fn from(kind: SqlFailureKind) -> Self {
        Self {
            class: kind.class(),
            kind,
        }
    }
}

/// Reads any error of the SQL side.
pub fn classify_sql(error: &sqlx::Error) -> SqlFailure {
    use sqlx::Error;
    let kind = match error {
        Error::Database(reply) => classify_database(reply.as_ref()),
        Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed | Error::BeginFailed => {
            SqlFailureKind::Connection
        }
        Error::PoolTimedOut => SqlFailureKind::Exhausted,
        Error::PoolClosed => SqlFailureKind::Restarting,
        Error::RowNotFound => SqlFailureKind::Missing,
        Error::ColumnDecode { .. } | Error::Encode(_) | Error::Decode(_) => SqlFailureKind::Data,
        _ => SqlFailureKind::Statement,
    };
    kind.into()
}

/// Whether the database is unavailable as a whole, and why; `None` if only this statement failed.
pub fn sql_outage(error: &sqlx::Error) -> Option<DegradedReason> {
    use sqlx::Error;
    match error {
        Error::Io(error) => Some(io_outage(error.kind())),
        Error::Tls(_) => Some(DegradedReason::Unreachable),
        Error::Protocol(_) => Some(DegradedReason::Unexpected),
        Error::WorkerCrashed => Some(DegradedReason::ConnectionLost),
        Error::Database(reply) => database_outage(reply.as_ref()),
        _ => None,
    }
}

fn io_outage(kind: std::io::ErrorKind) -> DegradedReason {
    use std::io::ErrorKind;
    match kind {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => DegradedReason::Refused,
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => DegradedReason::ConnectionLost,
        ErrorKind::TimedOut => DegradedReason::TimedOut,
        _ => DegradedReason::Unreachable,
    }
}

fn database_outage(error: &dyn sqlx::error::DatabaseError) -> Option<DegradedReason> {
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        let busy = code.parse::<u32>().is_ok_and(|extended| extended & 0xff == 5);
        return busy.then_some(DegradedReason::Locked);
    }
    match (&*code, code.get(..2)) {
        ("53300", _) => Some(DegradedReason::TooManyConnections),
        ("57P03", _) => Some(DegradedReason::Loading),
        ("57P01" | "57P02", _) | (_, Some("08")) => Some(DegradedReason::ConnectionLost),
        ("3D000", _) | (_, Some("28")) => Some(DegradedReason::Unauthorized),
        _ => None,
    }
}

/// Whether the server closed the session with this error, so that its connection cannot be used again.
pub(crate) fn ended_session(error: &sqlx::Error) -> bool {
    use sqlx::postgres::{PgDatabaseError, PgSeverity};
    match error {
        sqlx::Error::Database(reply) => reply
            .try_downcast_ref::<PgDatabaseError>()
            .is_some_and(|reply| matches!(reply.severity(), PgSeverity::Fatal | PgSeverity::Panic)),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            true
        }
        _ => false,
    }
}

fn classify_database(error: &dyn sqlx::error::DatabaseError) -> SqlFailureKind {
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        // A result code is a decimal number; sqlx gives the extended one.
        return code
            .parse()
            .map_or(SqlFailureKind::Statement, classify_sqlite_code);
    }
    classify_sqlstate(&code)
}

fn classify_sqlstate(code: &str) -> SqlFailureKind {
    match code {
        "23505" => return SqlFailureKind::Unique,
        "23503" => return SqlFailureKind::ForeignKey,
        "40002" => return SqlFailureKind::Constraint,
        "25006" => return SqlFailureKind::ReadOnly,
        "26000" => return SqlFailureKind::Connection, // a prepared statement that a proxy has lost
        "42P01" => return SqlFailureKind::Unmigrated,
        "3D000" | "57P04" => return SqlFailureKind::Refused,
        "53100" => return SqlFailureKind::Storage,
        "55006" | "55P03" => return SqlFailureKind::Contention,
        "57014" | "25P03" | "25P04" => return SqlFailureKind::Timeout,
        "57P01" | "57P02" | "57P03" | "57P05" => return SqlFailureKind::Restarting,
        "XX000" => return SqlFailureKind::Internal,
        _ => {}
    }
    match code.get(..2) {
        Some("08") => SqlFailureKind::Connection,
        Some("22") => SqlFailureKind::Data,
        Some("23") => SqlFailureKind::Constraint,
        Some("28") => SqlFailureKind::Refused,
        Some("40") => SqlFailureKind::Contention,
        Some("53") => SqlFailureKind::Exhausted,
        Some("58") => SqlFailureKind::Storage,
        _ => SqlFailureKind::Statement,
    }
}

/// Extended codes (<https://www.sqlite.org/rescode.html>): the low byte is the primary code.
fn classify_sqlite_code(extended: u32) -> SqlFailureKind {
    const CONSTRAINT_FOREIGN_KEY: u32 = 787;
    const CONSTRAINT_PRIMARY_KEY: u32 = 1555;
    const CONSTRAINT_ROW_ID: u32 = 2579;
    const CONSTRAINT_UNIQUE: u32 = 2067;
    match extended {
        CONSTRAINT_FOREIGN_KEY => return SqlFailureKind::ForeignKey,
        CONSTRAINT_PRIMARY_KEY | CONSTRAINT_ROW_ID | CONSTRAINT_UNIQUE => return SqlFailureKind::Unique,
        _ => {}
    }
    match extended & 0xff {
        5 | 6 | 15 => SqlFailureKind::Contention, // BUSY, LOCKED, PROTOCOL (of locking)
        7 => SqlFailureKind::Exhausted,           // NOMEM
        8 => SqlFailureKind::ReadOnly,            // READONLY
        9 => SqlFailureKind::Timeout,             // INTERRUPT
        10 | 13 | 14 => SqlFailureKind::Storage,  // IOERR, FULL, CANTOPEN
        18 | 20 => SqlFailureKind::Data,          // TOOBIG, MISMATCH
        19 => SqlFailureKind::Constraint,         // CONSTRAINT
        _ => SqlFailureKind::Statement,
    }
}

#[cfg(test)]
mod tests;
