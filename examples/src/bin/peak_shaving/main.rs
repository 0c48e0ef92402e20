//! A burst of ten times the usual load is absorbed by a topic and drained at a set rate; nothing is lost.
//!
//! ```console
//! $ cargo run -p linchpin-examples --bin peak_shaving [URL [PLOT.svg]]
//! ```
//!
//! Prints a table, and draws arrival, drain and backlog into PLOT.svg, by default `peak_shaving.svg`.

mod plot;

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use linchpin::bus::{Delivery, Message, MessageId, PublishOptions, RateLimit};
use linchpin::{Bus, Error, Kind, Result, TopicOptions};
use linchpin_examples::Place;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::interval;

/// Orders per hundredth of a second, and for how many hundredths: a second of usual load, a second of ten times as much, two
/// seconds of usual load.
const LOAD: [(usize, usize); 3] = [(1, 100), (10, 100), (1, 200)];
/// The most orders per second that the warehouse is given.
const DRAIN: u32 = 400;

/// How many orders had come in and gone out by a time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    seconds: f64,
    arrived: usize,
    drained: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Place { bus, folder: _folder, .. } = Place::open().await?;
    bus.ensure("peak-shaving", &TopicOptions::default()).await?;

    // A layer on its handle is all that sets the consumer's rate.
    let limit = NonZeroU32::new(DRAIN).unwrap_or(NonZeroU32::MIN);
    let slow = bus.clone().layer(RateLimit::per_second(limit));
    let (tell, handled) = mpsc::unbounded_channel();
    let warehouse = slow.consume("peak-shaving").group("warehouse").run(move |order: Delivery| {
        let tell = tell.clone();
        async move { Ok(tell.send(order.message.id)?) }
    });
    let warehouse = warehouse.await?;

    let count: usize = LOAD.iter().map(|(size, times)| size * times).sum();
    let orders: Vec<Message> = (0..count).map(|n| Message::new(format!("order {n}"))).collect();
    let waiting = orders.iter().map(|order| order.id.clone()).collect();
    let arrived = Arc::new(AtomicUsize::new(0));
    let customers = tokio::spawn(publish(bus.clone(), orders, arrived.clone()));
    let samples = watch(waiting, handled, &arrived, || customers.is_finished()).await?;

    customers.await.map_err(|e| Error::new(Kind::Unexpected, "publishing ended early").source(e))??;
    println!("{}", warehouse.stop().await?);
    bus.close().await?;
    print(&samples);
    plot::draw(&samples, &std::env::args().nth(2).unwrap_or_else(|| "peak_shaving.svg".into()))
}

/// Takes a sample four times a second, until every order was handled.
async fn watch(
    mut waiting: HashSet<MessageId>,
    mut handled: UnboundedReceiver<MessageId>,
    arrived: &AtomicUsize,
    published: impl Fn() -> bool,
) -> Result<Vec<Sample>> {
    let (started, all) = (Instant::now(), waiting.len());
    let mut samples = vec![Sample { seconds: 0.0, arrived: 0, drained: 0 }];
    let mut clock = interval(Duration::from_millis(250));
    clock.tick().await;
    while started.elapsed() < Duration::from_secs(60) {
        clock.tick().await;
        // Asked before the count is read: what was published last is then counted too.
        let published = published();
        while let Ok(id) = handled.try_recv() {
            waiting.remove(&id);
        }
        let (arrived, drained) = (arrived.load(Ordering::Relaxed), all - waiting.len());
        samples.push(Sample { seconds: started.elapsed().as_secs_f64(), arrived, drained });
        if published && waiting.is_empty() {
            return Ok(samples);
        }
    }
    Err(Error::new(Kind::Timeout, format!("{} of {all} orders didn't come in a minute", waiting.len())))
}

async fn publish(bus: Bus, orders: Vec<Message>, arrived: Arc<AtomicUsize>) -> Result<()> {
    let mut orders = orders.into_iter();
    let mut clock = interval(Duration::from_millis(10));
    for (size, times) in LOAD {
        for _ in 0..times {
            clock.tick().await;
            let batch: Vec<Message> = orders.by_ref().take(size).collect();
            for stored in bus.publish_all("peak-shaving", batch, &PublishOptions::default()).await {
                stored?;
                arrived.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}

/// What came and went between two samples, per second.
fn rates(pair: &[Sample]) -> Option<(f64, f64)> {
    let [before, after] = pair else { return None };
    let seconds = after.seconds - before.seconds;
    let per_second = |n: usize| n as f64 / seconds.max(0.001);
    Some((per_second(after.arrived - before.arrived), per_second(after.drained - before.drained)))
}

fn print(samples: &[Sample]) {
    println!("{:>8} {:>10} {:>10} {:>8}", "SECOND", "IN PER S", "OUT PER S", "BACKLOG");
    for (pair, sample) in samples.windows(2).zip(samples.iter().skip(1)) {
        let Some((arrival, drain)) = rates(pair) else { continue };
        let backlog = sample.arrived.saturating_sub(sample.drained);
        println!("{:>8.2} {arrival:>10.0} {drain:>10.0} {backlog:>8}", sample.seconds);
    }
    if let Some(Sample { arrived, drained, .. }) = samples.last() {
        println!("{arrived} orders in, {drained} out, {} lost", arrived.saturating_sub(*drained));
    }
}
