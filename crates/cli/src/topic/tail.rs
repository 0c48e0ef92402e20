//! Printing messages.

use std::time::Duration;

use clap::Args;
use linchpin::bus::{Delivery, Order, Settle, Start, SubscribeOptions, Subscriber};
use linchpin::{Error, Kind, Result};

use super::{At, wire};
use crate::{Interrupts, open_existing, out};

/// The most messages fetched at once.
const BATCH: usize = 4096;
/// When nothing came for so long, that was all there is.
const QUIET: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    at: At,
    /// Consume as a member of this group
    #[arg(long)]
    group: Option<String>,
    /// Where to begin: oldest, newest, PARTITION/OFFSET, a time, or an age such as 2h. A group that is there goes on where
    /// it stands
    #[arg(long, value_name = "PLACE", default_value = "oldest", value_parser = super::start)]
    from: Start,
    /// Wait for more
    #[arg(long, short)]
    follow: bool,
    /// End after so many messages
    #[arg(short = 'n', long = "count", value_name = "N")]
    count: Option<u64>,
}

pub(super) async fn tail(args: TailArgs) -> Result<()> {
    let bus = open_existing(&args.at.url).await?;
    let there = bus.stats(Some(&args.at.topic)).await?.first().map_or(0, |stats| stats.messages);
    let mut interrupts = Interrupts::listen()?;
    let subscriber = bus.subscribe(&args.at.topic, &options(&args)).await?;
    let tail = Tail {
        subscriber: &subscriber,
        left: args.count.unwrap_or(u64::MAX),
        // Looking at all of them, the last one is known; a group may share them with others.
        there: if args.group.is_none() { there } else { u64::MAX },
        follow: args.follow,
    };
    let printed = tokio::select! {
        printed = tail.print() => printed,
        () = interrupts.next() => Ok(()),
    };
    let closed = subscriber.close(Duration::from_secs(5)).await;
    printed.and(closed).and(bus.close().await)
}

fn options(args: &TailArgs) -> SubscribeOptions {
    let in_flight = usize::try_from(args.count.unwrap_or(u64::MAX)).unwrap_or(usize::MAX).clamp(1, BATCH);
    let options = match &args.group {
        Some(group) => SubscribeOptions::group(group),
        None => SubscribeOptions { order: Order::Partition, ..SubscribeOptions::broadcast() },
    };
    let partitions = match args.from {
        Start::At(position) => Some(vec![position.partition]),
        _ => None,
    };
    SubscribeOptions { start: args.from, partitions, max_in_flight: in_flight, ..options }
}

struct Tail<'a> {
    subscriber: &'a Subscriber,
    left: u64,
    /// How many messages were there at the start.
    there: u64,
    follow: bool,
}

impl Tail<'_> {
    async fn print(mut self) -> Result<()> {
        while self.left > 0 && (self.follow || self.there > 0) {
            let max = usize::try_from(self.left).unwrap_or(usize::MAX).min(BATCH);
            let batch = self.subscriber.next(max, QUIET).await?;
            if batch.is_empty() {
                if self.follow {
                    continue;
                }
                return Ok(());
            }
            if !out::data(&lines(&batch)?)? {
                return Ok(());
            }
            self.left -= batch.len() as u64;
            self.there = self.there.saturating_sub(batch.len() as u64);
            let done = batch.into_iter().map(|delivery| (delivery, Settle::Ack)).collect();
            self.subscriber.settle(done).await.into_iter().collect::<Result<()>>()?;
        }
        Ok(())
    }
}

fn lines(batch: &[Delivery]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for delivery in batch {
        serde_json::to_writer(&mut text, &wire::Line::of(delivery))
            .map_err(|e| Error::new(Kind::Unexpected, "the message has no JSON form").source(e))?;
        text.push(b'\n');
    }
    Ok(text)
}
