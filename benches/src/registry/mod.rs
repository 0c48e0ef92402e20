//! Picking one of a thousand instances of a service.

pub(crate) mod change;

use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use linchpin::coord::{Coord, Instance};
use linchpin::{Error, Kind, Open};

use crate::harness::{Claim, Job, Result, Side};

const INSTANCES: usize = 1_000;
const PICKS: usize = 20_000_000;

pub(crate) const PICK: Claim = Claim {
    name: "registry_pick",
    what: "picking one of 1,000 instances, one pick after another; 20 million per second are 50 ns each",
    unit: "picks/s",
    goal: 1.0,
    floor: 20_000_000.0,
    cost: false,
    ours: Side {
        what: "`Endpoints::pick`, the better of two by latency and load, and the report of what came of it",
        messages: PICKS,
        settings: &[0],
        run: |job| Box::pin(ours(job)),
    },
    theirs: Side {
        what: "a list behind a mutex, one after another, the address copied",
        messages: PICKS,
        settings: &[0],
        run: |job| Box::pin(async move { by_hand(&job) }),
    },
    needs: None,
    memory: false,
};

fn address(n: usize) -> String {
    format!("10.0.{}.{}:8080", n / 250, n % 250)
}

async fn ours(job: Job) -> Result<Duration> {
    let coord = Coord::open("memory://").await?;
    let mut registrations = Vec::new();
    for n in 0..INSTANCES {
        registrations.push(coord.register("shop", Instance::new(address(n))).await?);
    }
    let endpoints = coord.endpoints("shop").await?;
    let none = || Error::new(Kind::NotFound, "nobody to pick");
    let start = Instant::now();
    for _ in 0..job.messages {
        let picked = endpoints.pick().ok_or_else(none)?;
        black_box(picked.address());
        picked.succeeded(Duration::from_millis(1));
    }
    Ok(start.elapsed())
}

fn by_hand(job: &Job) -> Result<Duration> {
    let list = Mutex::new((0..INSTANCES).map(address).collect::<Vec<_>>());
    let start = Instant::now();
    for n in 0..job.messages {
        let list = list.lock().map_err(|_| "poisoned")?;
        black_box(list.get(n % INSTANCES).cloned());
    }
    Ok(start.elapsed())
}
