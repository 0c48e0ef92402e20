//! The forms in which topics are kept: in streams, in lists, or not at all. They differ in what they can do, in the names of
//! their keys and in their scripts; members, hints and the records of topics are the same.

use std::sync::LazyLock;

use linchpin_core::bus::{Caps, Order, Start, SubscribeOptions};
use linchpin_core::{Error, Kind, Result};

use super::error::error;
use super::script::{self, Source};

/// What makes one engine differ from the others.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) name: &'static str,
    /// On one server.
    pub(super) caps: Caps,
    pub(super) lists: bool,
    pub(super) scripts: Scripts,
}

/// The scripts that touch messages. Those of one name have the same keys, arguments and answers in each form.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) make: &'static LazyLock<Source>,
    pub(super) unmake: &'static LazyLock<Source>,
    pub(super) open: &'static LazyLock<Source>,
    pub(super) drop: &'static LazyLock<Source>,
    pub(super) fetch: &'static LazyLock<Source>,
    pub(super) settle: &'static LazyLock<Source>,
    pub(super) stats: &'static LazyLock<Source>,
}

const IN_STREAMS: Scripts = Scripts {
    make: &script::MAKE,
    unmake: &script::UNMAKE,
    open: &script::OPEN,
    drop: &script::DROP,
    fetch: &script::FETCH,
    settle: &script::SETTLE,
    stats: &script::STATS,
};

const ALL: Caps = Caps {
    durable: true,
    shared: true,
    groups: true,
    broadcast: true,
    ordered: true,
    redelivery: true,
    delay: true,
    replay: true,
    metadata: true,
    retention: true,
    offsets: true,
    failover: true,
};

/// Streams keep messages, and what groups have of them.
pub(super) static STREAMS: Form = Form { name: "redis", caps: ALL, lists: false, scripts: IN_STREAMS };

/// A list of payloads for each group.
pub(super) static LISTS: Form = Form {
    name: "redis-list",
    caps: Caps {
        broadcast: false,
        ordered: false,
        replay: false,
        metadata: false,
        retention: false,
        offsets: false,
        ..ALL
    },
    lists: true,
    scripts: Scripts {
        make: &script::LIST_MAKE,
        unmake: &script::LIST_UNMAKE,
        open: &script::LIST_OPEN,
        drop: &script::LIST_DROP,
        fetch: &script::LIST_FETCH,
        settle: &script::LIST_SETTLE,
        stats: &script::LIST_STATS,
    },
};

/// Channels keep nothing: no script is ever called.
pub(super) static CHANNELS: Form = Form {
    name: "redis-pubsub",
    caps: Caps {
        durable: false,
        shared: true,
        groups: false,
        broadcast: true,
        ordered: false,
        redelivery: false,
        delay: false,
        replay: false,
        metadata: false,
        retention: false,
        offsets: false,
        failover: true,
    },
    lists: false,
    scripts: IN_STREAMS,
};

impl Form {
    pub(super) fn unsupported(&self, what: &str) -> Error {
        error(Kind::Unsupported, format!("{}: has no {what}", self.name)).help("redis:// has it")
    }

    /// Refuses a subscription that asks for more than there is.
    pub(super) fn check(&self, options: &SubscribeOptions) -> Result<()> {
        let (caps, alone) = (&self.caps, options.group.is_none());
        let usual = if alone { Start::Newest } else { Start::Oldest };
        let lacks = [
            (!caps.groups && !alone, "groups"),
            (!caps.broadcast && alone, "subscribers without a group"),
            (!caps.ordered && options.order != Order::None, "order"),
            (!caps.groups && options.partitions.is_some(), "partitions"),
            (!caps.replay && options.start != usual, "replay"),
        ];
        match lacks.into_iter().find(|(asked, _)| *asked) {
            Some((_, what)) => Err(self.unsupported(what)),
            None => Ok(()),
        }
    }
}
