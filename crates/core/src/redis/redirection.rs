//! Replies of a cluster's node that send a command elsewhere: it was not applied.

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};

use super::topology::Address;

/// What the reply to a command that was not applied says.
pub(super) enum Redirection {
    Moved(Address),
    Ask(Address),
    /// Some keys are here and some are there.
    TryAgain,
}

pub(super) fn redirection(reply: &RedisResult<Value>, from: &Address) -> Option<Redirection> {
    match reply {
        Ok(Value::ServerError(error)) => redirection_of(&RedisError::from(error.clone()), from),
        Ok(_) => None,
        Err(error) => redirection_of(error, from),
    }
}

pub(super) fn is_redirection(reply: &Value, from: &Address) -> bool {
    match reply {
        Value::ServerError(error) => redirection_of(&RedisError::from(error.clone()), from).is_some(),
        _ => false,
    }
}

/// Of one error, or of the first among those of a transaction.
pub(super) fn redirection_of(error: &RedisError, from: &Address) -> Option<Redirection> {
    let ErrorKind::Server(kind) = error.kind() else {
        return None;
    };
    let target = || {
        let (address, _) = error.redirect_node()?;
        Address::of_redirection(address, from)
    };
    match kind {
        ServerErrorKind::Moved => target().map(Redirection::Moved),
        ServerErrorKind::Ask => target().map(Redirection::Ask),
        ServerErrorKind::TryAgain => Some(Redirection::TryAgain),
        ServerErrorKind::ExecAbort => {
            let inner = error.clone().into_server_errors()?;
            inner
                .iter()
                .map(|(_, inner)| RedisError::from(inner.clone()))
                .filter(|inner| inner.kind() != error.kind())
                .find_map(|inner| redirection_of(&inner, from))
        }
        _ => None,
    }
}
