//! What runs on the server: each script is one atomic step on one partition, or on the records of one topic.

use std::sync::LazyLock;

use redis::{Arg, Cmd, RedisWrite, Script};

macro_rules! scripts {
    ($($name:ident = $file:literal),* $(,)?) => {
        $(pub(super) static $name: LazyLock<Source> =
            LazyLock::new(|| Source::new(concat!(include_str!("lua/prelude.lua"), include_str!($file))));)*
    };
}

macro_rules! scripts_behind {
    ($prelude:literal: $($name:ident = $file:literal),* $(,)?) => {
        $(pub(super) static $name: LazyLock<Source> = LazyLock::new(|| Source::new(concat!(
            include_str!("lua/prelude.lua"), include_str!($prelude), include_str!($file))));)*
    };
}

scripts! {
    BEAT = "lua/beat.lua",
    DELAY = "lua/delay.lua",
    DROP = "lua/drop.lua",
    ENSURE = "lua/ensure.lua",
    FETCH = "lua/fetch.lua",
    JOIN = "lua/join.lua",
    LEASE = "lua/lease.lua",
    LEAVE = "lua/leave.lua",
    MAKE = "lua/make.lua",
    MARK = "lua/mark.lua",
    OLDEST = "lua/oldest.lua",
    OPEN = "lua/open.lua",
    OWN = "lua/own.lua",
    READ = "lua/read.lua",
    SEEK = "lua/seek.lua",
    SETTLE = "lua/settle.lua",
    STATS = "lua/stats.lua",
    UNMAKE = "lua/unmake.lua",
}

scripts_behind! { "list/lua/prelude.lua":
    LIST_DROP = "list/lua/drop.lua",
    LIST_FETCH = "list/lua/fetch.lua",
    LIST_MAKE = "list/lua/make.lua",
    LIST_OPEN = "list/lua/open.lua",
    LIST_PUSH = "list/lua/push.lua",
    LIST_SETTLE = "list/lua/settle.lua",
    LIST_STATS = "list/lua/stats.lua",
    LIST_UNMAKE = "list/lua/unmake.lua",
}

scripts_behind! { "coord/lua/prelude.lua":
    KEY_DELETE = "coord/lua/delete.lua",
    KEY_GET = "coord/lua/get.lua",
    KEY_LIST = "coord/lua/list.lua",
    KEY_LOOK = "coord/lua/look.lua",
    KEY_PUT = "coord/lua/put.lua",
    KEY_TICK = "coord/lua/tick.lua",
    LEASE_GRANT = "coord/lua/grant.lua",
    LEASE_RENEW = "coord/lua/renew.lua",
    LEASE_REVOKE = "coord/lua/revoke.lua",
}

/// A script with its hash.
#[derive(Debug)]
pub(super) struct Source {
    code: &'static str,
    hash: String,
}

impl Source {
    fn new(code: &'static str) -> Self {
        Self { code, hash: Script::new(code).get_hash().to_owned() }
    }
}

/// A script with its keys and arguments.
#[derive(Debug, Clone)]
pub(super) struct Call {
    source: &'static Source,
    keys: Vec<String>,
    /// Nothing but arguments, in one piece of memory.
    args: Cmd,
}

impl Call {
    pub(super) fn new(source: &'static Source) -> Self {
        Self { source, keys: Vec::new(), args: Cmd::default() }
    }

    pub(super) fn keys<'a>(mut self, keys: impl IntoIterator<Item = &'a String>) -> Self {
        self.keys.extend(keys.into_iter().cloned());
        self
    }

    pub(super) fn key(mut self, key: String) -> Self {
        self.keys.push(key);
        self
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn number(mut self, number: impl std::fmt::Display) -> Self {
        self.args.write_arg_fmt(number);
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.args.write_arg(bytes);
        self
    }

    /// By hash, or with its whole text for a server that doesn't know it.
    pub(super) fn command(&self, whole: bool) -> Cmd {
        let (name, script) =
            if whole { ("EVAL", self.source.code) } else { ("EVALSHA", self.source.hash.as_str()) };
        let mut cmd = redis::cmd(name);
        cmd.arg(script).arg(self.keys.len()).arg(&self.keys);
        for arg in self.args.args_iter() {
            if let Arg::Simple(arg) = arg {
                cmd.arg(arg);
            }
        }
        cmd
    }

    /// The keys, for errors.
    pub(super) fn names(&self) -> String {
        self.keys.join(", ")
    }
}
