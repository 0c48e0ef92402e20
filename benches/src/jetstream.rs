//! On NATS JetStream: beside async-nats used well on the same server.

use std::time::Duration;

use crate::harness::{Claim, Job, Result, Side};
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
    theirs: Side { messages: MESSAGES, run: |job| Box::pin(publish(job, 100)), ..nats::PUBLISH.theirs },
    ..nats::PUBLISH
};

pub(crate) const PUBLISH_1K: Claim = Claim {
    name: "jetstream_publish_1k",
    what: "1-KiB messages stored by NATS JetStream, each answered",
    ours: Side { run: |job| Box::pin(broker::publish(job, "nats", 1024)), ..PUBLISH.ours },
    theirs: Side { run: |job| Box::pin(publish(job, 1024)), ..PUBLISH.theirs },
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
        run: |job| Box::pin(nats::consuming(job, 100)),
        ..nats::CONSUME.theirs
    },
    ..nats::CONSUME
};

pub(crate) const CONSUME_1K: Claim = Claim {
    name: "jetstream_consume_1k",
    what: "1-KiB messages read from NATS JetStream, handled, and acknowledged one by one",
    ours: Side { run: |job| Box::pin(broker::consume(job, "nats", 1024)), ..CONSUME.ours },
    theirs: Side { run: |job| Box::pin(nats::consuming(job, 1024)), ..CONSUME.theirs },
    ..CONSUME
};

async fn publish(job: Job, size: usize) -> Result<Duration> {
    nats::publishing(job, size).await
}
