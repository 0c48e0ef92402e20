//! Several processes square numbers; one adds the squares up.
//!
//! ```console
//! $ cargo run -p linchpin-examples --bin sum_of_squares [URL]
//! ```
//!
//! Numbers go through the topic `source`, which the workers share as one group. Squares come back through `result`. A
//! message on `exit`, where every worker listens by itself, stops them all. The workers are processes, or tasks where the
//! bus is this process's own.

use std::collections::HashSet;
use std::time::Duration;

use linchpin::bus::{Message, PublisherOptions, SubscribeOptions, Typed};
use linchpin::{Bus, Error, Kind, Result, TopicOptions};
use linchpin_examples::{Place, next};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::JoinSet;

const WORKERS: usize = 3;
const NUMBERS: u64 = 100;

/// `run` tells what belongs to this run of the program from what an earlier one left behind.
#[derive(Debug, Serialize, Deserialize)]
struct Number {
    run: u32,
    n: u64,
}

#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Ready { run: u32 },
    Square { run: u32, n: u64, square: u64 },
}

#[tokio::main]
async fn main() -> Result<()> {
    let place = Place::open().await?;
    match std::env::args().nth(2).and_then(|run| run.parse().ok()) {
        Some(run) => work(place.bus.clone(), run).await?,
        None => lead(&place, std::process::id()).await?,
    }
    place.bus.close().await
}

async fn lead(place: &Place, run: u32) -> Result<()> {
    let bus = &place.bus;
    for topic in ["source", "result", "exit"] {
        bus.ensure(topic, &TopicOptions::default()).await?;
    }
    let (tell, mut reports) = mpsc::channel(100);
    let results = bus.topic::<Report>("result");
    let collector = results.consume().group("collector");
    let collector = results.run(collector, move |report: Typed<Report>| {
        let tell = tell.clone();
        async move { Ok(tell.send(report.value).await?) }
    });
    let collector = collector.await?;

    let mut workers = start(place, run);
    let mut ready = 0;
    while ready < WORKERS {
        let report = next(&mut reports).await?;
        ready += usize::from(matches!(report, Report::Ready { run: of } if of == run));
    }
    let numbers = bus.topic::<Number>("source");
    let publisher = bus.publisher("source", PublisherOptions::default());
    for n in 1..=NUMBERS {
        publisher.send(numbers.message(&Number { run, n })?).await?;
    }
    publisher.close().await?;

    let sum = add_up(&mut reports, run).await?;
    bus.publish("exit", Message::new("that's all")).await?;
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|e| Error::new(Kind::Unexpected, "a worker panicked").source(e))??;
    }
    collector.stop().await?;
    println!("the sum of the squares of 1 to {NUMBERS} is {sum}; {WORKERS} workers ended");
    Ok(())
}

/// The sum of the squares, printed as it grows. A message may come twice; its number is counted once.
async fn add_up(reports: &mut Receiver<Report>, run: u32) -> Result<u64> {
    let (mut seen, mut sum) = (HashSet::new(), 0);
    while (seen.len() as u64) < NUMBERS {
        if let Report::Square { run: of, n, square } = next(reports).await?
            && of == run
            && seen.insert(n)
        {
            sum += square;
            println!("{n}² = {square}, sum {sum}");
        }
    }
    Ok(sum)
}

fn start(place: &Place, run: u32) -> JoinSet<Result<()>> {
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (bus, url) = (place.bus.clone(), place.url.clone());
        workers.spawn(async move {
            if !bus.caps().shared {
                return work(bus, run).await;
            }
            let failed = |e| Error::new(Kind::Unexpected, "can't run a worker").source(e);
            let program = std::env::current_exe().map_err(failed)?;
            let mut worker = Command::new(program);
            worker.arg(url).arg(run.to_string()).kill_on_drop(true);
            let status = worker.status().await.map_err(failed)?;
            let ended = status.success().then_some(());
            ended.ok_or_else(|| Error::new(Kind::Unexpected, format!("a worker failed: {status}")))
        });
    }
    workers
}

async fn work(bus: Bus, run: u32) -> Result<()> {
    let exit = bus.subscribe("exit", &SubscribeOptions::broadcast()).await?;
    let numbers = bus.topic::<Number>("source");
    let out = bus.clone();
    let squarers = numbers.consume().group("squarers").ack_wait(Duration::from_secs(5));
    let squaring = numbers.run(squarers, move |number: Typed<Number>| {
        let results = out.topic::<Report>("result");
        async move {
            let Number { run, n } = number.value;
            results.publish(&Report::Square { run, n, square: n * n }).await?;
            Ok(())
        }
    });
    let squaring = squaring.await?;
    bus.topic::<Report>("result").publish(&Report::Ready { run }).await?;
    while exit.next(1, Duration::from_secs(60)).await?.is_empty() {}
    println!("a worker ends: {}", squaring.stop().await?);
    exit.close(Duration::from_secs(5)).await
}
