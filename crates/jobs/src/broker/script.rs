//! The Lua scripts, compiled in, and how they are called. Each says at its top what it takes and answers.

use std::sync::LazyLock;

use holdfast_core::redis::{Connection, GateError, RedisGate};
use redis::{Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind, ToRedisArgs};

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file, ".lua"))));)*
    };
}

scripts! {
    ACKNOWLEDGE = "acknowledge";
    ADOPT = "adopt";
    CENSUS = "census";
    DECLARE_LOST = "declare_lost";
    DEREGISTER = "deregister";
    DROP_ORPHAN = "drop_orphan";
    FETCH = "fetch";
    HAND_BACK = "hand_back";
    HEARTBEAT = "heartbeat";
    INSPECT = "inspect";
    MARK_STARTED = "mark_started";
    PURGE = "purge";
    PUSH = "push";
    REGISTER = "register";
    REQUEUE = "requeue";
    RESCUE = "rescue";
    RESOLVE = "resolve";
    SWEEP_CRASHES = "sweep_crashes";
    SWEEP_META = "sweep_meta";
}

/// One call of a script, written straight into the command's buffer: a batch has thousands of arguments.
pub(super) struct Call {
    script: &'static Script,
    command: Cmd,
    keys_left: usize,
}

impl Call {
    /// A call with exactly `keys` keys, which are added first.
    pub(super) fn new(script: &'static Script, keys: usize) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys);
        Self {
            script,
            command,
            keys_left: keys,
        }
    }

    pub(super) fn key(mut self, key: impl AsRef<str>) -> Self {
        self.push_key(key);
        self
    }

    pub(super) fn push_key(&mut self, key: impl AsRef<str>) {
        debug_assert!(self.keys_left > 0, "more keys than announced");
        self.keys_left = self.keys_left.saturating_sub(1);
        self.command.arg(key.as_ref());
    }

    pub(super) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.push_arg(arg);
        self
    }

    pub(super) fn push_arg(&mut self, arg: impl ToRedisArgs) {
        debug_assert!(self.keys_left == 0, "fewer keys than announced");
        self.command.arg(arg);
    }

    /// Runs it while Redis serves.
    pub(super) async fn run<T: FromRedisValue>(
        self,
        gate: &RedisGate,
        op: &'static str,
    ) -> Result<T, GateError> {
        gate.run(op, |connection| self.send(connection)).await
    }

    /// Runs it also while the server lacks nothing but memory: for scripts that make room, or that must go on
    /// meanwhile.
    pub(super) async fn run_freeing<T: FromRedisValue>(
        self,
        gate: &RedisGate,
        op: &'static str,
    ) -> Result<T, GateError> {
        gate.run_freeing(op, |connection| self.send(connection)).await
    }

    async fn send<T: FromRedisValue>(self, mut connection: Connection) -> RedisResult<T> {
        match self.command.query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.script.load_async(&mut connection).await?;
                self.command.query_async(&mut connection).await
            }
            outcome => outcome,
        }
    }
}
