//! On NATS JetStream: beside async-nats used well on the same server.

use crate::harness::{Claim, Side};
use crate::nats::Beside;
use crate::{broker, nats};

const MESSAGES: usize = 300_000;

pub(crate) const PUBLISH: Claim = Claim {
    name: "jetstream_publish",
    what: "100-byte messages stored by NATS JetStream, each answered",
    goal: 0.97,
    ours: Side {
        what: "`Publisher` on `nats:`, every answer awaited; 4 partitions, ids, keys",
        messages: MESSAGES,
        settings: &[0],
        run: |job| Box::pin(broker::publish(job, "nats", 100)),
    },
    theirs: Side {
        what: "async-nats, pipelined with 4,000 or 20,000 acknowledgements in flight, every one awaited; payload, id and key",
        messages: MESSAGES,
        run: |job| Box::pin(nats::publishing(job, 100, Beside::IdAndKey)),
        ..nats::PUBLISH.theirs
    },
    ..nats::PUBLISH
};

pub(crate) const PUBLISH_1K: Claim = Claim {
    name: "jetstream_publish_1k",
    what: "1-KiB messages stored by NATS JetStream, each answered",
    ours: Side { run: |job| Box::pin(broker::publish(job, "nats", 1024)), ..PUBLISH.ours },
    theirs: Side { run: |job| Box::pin(nats::publishing(job, 1024, Beside::IdAndKey)), ..PUBLISH.theirs },
    ..PUBLISH
};

pub(crate) const CONSUME: Claim = Claim {
    name: "jetstream_consume",
    what: "100-byte messages read from NATS JetStream, handled, and acknowledged one by one",
    goal: 0.95,
    ours: Side {
        what: "`Consumer` on `nats:`, default options, acknowledgements answered",
        messages: MESSAGES,
        settings: &[0],
        run: |job| Box::pin(broker::consume(job, "nats", 100)),
    },
    theirs: Side {
        messages: MESSAGES,
        run: |job| Box::pin(nats::consuming(job, 100, Beside::IdAndKey)),
        ..nats::CONSUME.theirs
    },
    ..nats::CONSUME
};

pub(crate) const CONSUME_1K: Claim = Claim {
    name: "jetstream_consume_1k",
    what: "1-KiB messages read from NATS JetStream, handled, and acknowledged one by one",
    ours: Side { run: |job| Box::pin(broker::consume(job, "nats", 1024)), ..CONSUME.ours },
    theirs: Side { run: |job| Box::pin(nats::consuming(job, 1024, Beside::IdAndKey)), ..CONSUME.theirs },
    ..CONSUME
};
