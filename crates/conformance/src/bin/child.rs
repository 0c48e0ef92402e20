//! The other process of a case: does what it is told on standard input, and is killed or frozen while it does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "part of a test: when this process dies, the case fails and says so"
)]

use std::io::Write;
use std::time::Duration;

use linchpin::bus::{Bus, Message, PublishOptions, Receipt, Settle, Subscription};
use linchpin::coord::{Coord, Instance, LeaseId, LockGuard, Registration, Session, When};
use linchpin::{Error, Ids, Kind, Open};
use linchpin_conformance::protocol::{Command, CoordCommand, Event, Held, IdCommand, join_options};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main]
async fn main() {
    let [capability, url] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().expect("a capability and a URL");
    match capability.as_str() {
        "bus" => {
            let mut child = Child { bus: Bus::open(&url).await.unwrap(), subscription: None };
            obey_all(async |line| child.obey(serde_json::from_str(line).unwrap()).await).await;
        }
        "coord" => {
            let mut child = CoordChild::new(Coord::open(&url).await.unwrap());
            obey_all(async |line| child.obey(serde_json::from_str(line).unwrap()).await).await;
        }
        "ids" => {
            let ids = Ids::open(&url).await.unwrap();
            obey_all(async |line| draw_as_told(&ids, serde_json::from_str(line).unwrap()).await).await;
        }
        other => panic!("no child plays {other}"),
    }
}

async fn obey_all(mut obey: impl AsyncFnMut(&str) -> Result<Event, Error>) {
    say(&Event::Done);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        let answer = obey(&line).await;
        say(&answer
            .unwrap_or_else(|e| Event::Failed { kind: format!("{:?}", e.kind()), error: e.to_string() }));
    }
}

fn say(event: &Event) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(event).unwrap()).unwrap();
    out.flush().unwrap();
}

struct Child {
    bus: Bus,
    subscription: Option<Box<dyn Subscription>>,
}

impl Child {
    async fn obey(&mut self, command: Command) -> Result<Event, Error> {
        match command {
            Command::Join { topic, group, by_key, ack_wait_ms } => {
                let options = join_options(&group, by_key, ack_wait_ms);
                self.subscription = Some(self.bus.engine().subscribe(&topic, &options).await?);
                Ok(Event::Done)
            }
            Command::Next { max, wait_ms } => {
                let taken = self.subscription().next(max, Duration::from_millis(wait_ms)).await?;
                Ok(Event::Taken(taken.iter().map(Into::into).collect()))
            }
            Command::Ack { receipt } => {
                let mut answers = self.subscription().settle(vec![(Receipt(receipt), Settle::Ack)]).await;
                answers.pop().unwrap().map(|()| Event::Done)
            }
            Command::Consume => self.consume().await,
            Command::Publish { topic, from, count, batch } => self.publish(&topic, from, count, batch).await,
            Command::Count { topic } => {
                Ok(Event::Holds(self.bus.stats(Some(&topic)).await?.iter().map(|t| t.messages).sum()))
            }
        }
    }

    fn subscription(&self) -> &dyn Subscription {
        self.subscription.as_deref().expect("told to join first")
    }

    async fn consume(&self) -> Result<Event, Error> {
        loop {
            let taken = self.subscription().next(64, Duration::from_secs(1)).await?;
            let batch = taken.iter().map(|d| (d.receipt, Settle::Ack)).collect();
            self.subscription().settle(batch).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            say(&Event::Taken(taken.iter().map(Into::into).collect()));
        }
    }

    async fn publish(&self, topic: &str, from: u64, count: u64, batch: u64) -> Result<Event, Error> {
        let numbers: Vec<u64> = (from..from + count).collect();
        for numbers in numbers.chunks(usize::try_from(batch).unwrap()) {
            let keyed = self.bus.caps().metadata;
            let messages = numbers.iter().map(|n| {
                let message = Message::new(n.to_string());
                if keyed { message.key((n % 16).to_string()) } else { message }
            });
            let options = PublishOptions::default();
            let answers = self.bus.engine().publish(topic, messages.collect(), &options).await;
            let stored = numbers.iter().zip(answers).map(|(n, answer)| {
                let position = answer?;
                Ok((*n, position.partition, position.offset))
            });
            say(&Event::Stored(stored.collect::<Result<_, Error>>()?));
        }
        Ok(Event::Done)
    }
}

async fn draw_as_told(ids: &Ids, command: IdCommand) -> Result<Event, Error> {
    match command {
        IdCommand::Draw { count } => draw(ids, count).await.map(Event::Ids),
        IdCommand::DrawForever => loop {
            match draw(ids, 7).await {
                Ok(drawn) => say(&Event::Ids(drawn)),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        },
    }
}

/// One, and then as many as there are already.
async fn draw(ids: &Ids, count: usize) -> Result<Vec<String>, Error> {
    let mut drawn = vec![ids.next().await?.to_string()];
    while drawn.len() < count {
        let some = drawn.len().min(count - drawn.len()).min(100);
        drawn.extend(ids.next_n(some).await?.map(|id| id.to_string()));
    }
    Ok(drawn)
}

struct CoordChild {
    coord: Coord,
    lease: Option<LeaseId>,
    lock: Option<LockGuard>,
    registration: Option<Registration>,
}

/// The machine's monotonic clock, the same in every process.
fn now_ns() -> i64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().num_nanoseconds()
}

impl CoordChild {
    fn new(coord: Coord) -> Self {
        Self { coord, lease: None, lock: None, registration: None }
    }

    async fn obey(&mut self, command: CoordCommand) -> Result<Event, Error> {
        match command {
            CoordCommand::Hold { key, ttl_ms } => self.hold(&key, Duration::from_millis(ttl_ms)).await,
            CoordCommand::PutHeld { key, value } => {
                let lease = self.lease.as_ref().expect("told to hold first");
                let rev = self.coord.engine().put(&key, value.into(), When::Always, Some(lease)).await?;
                Ok(Event::Written { rev: rev.0 })
            }
            CoordCommand::Count { prefix } => Ok(Event::Holds(self.coord.list(&prefix).await?.len() as u64)),
            CoordCommand::Watch { prefix, wait_ms } => {
                let mut watched = self.coord.watch(&prefix).await?;
                say(&Event::Holds(watched.snapshot.len() as u64));
                let changes = watched.changes.next(Duration::from_millis(wait_ms)).await?;
                Ok(Event::Holds(changes.len() as u64))
            }
            CoordCommand::Lock { name, ttl_ms } => self.lock(&name, Duration::from_millis(ttl_ms)).await,
            CoordCommand::IsHeld => {
                let guard = self.lock.as_ref().expect("told to lock first");
                guard.reenter().map(|_| Event::Done)
            }
            CoordCommand::Contend { name, rounds, ttl_ms } => {
                let mut session = None;
                for _ in 0..rounds {
                    self.take_a_turn(&name, Duration::from_millis(ttl_ms), &mut session).await;
                }
                Ok(Event::Done)
            }
            CoordCommand::Increment { key, times } => self.count_up(&key, times).await,
            CoordCommand::Register { service, address, ttl_ms } => {
                let (instance, ttl) = (Instance::new(address), Duration::from_millis(ttl_ms));
                self.registration = Some(self.coord.register_for(&service, instance, ttl).await?);
                Ok(Event::Done)
            }
            CoordCommand::Follow { service, count } => self.follow(&service, count).await,
        }
    }

    async fn lock(&mut self, name: &str, ttl: Duration) -> Result<Event, Error> {
        let guard = self.coord.session(ttl).await?.lock(name).acquire().await?;
        let held = Held { token: guard.token().0, from_ns: now_ns(), until_ns: now_ns() };
        self.lock = Some(guard);
        Ok(Event::Held(held))
    }

    async fn follow(&self, service: &str, count: usize) -> Result<Event, Error> {
        let mut endpoints = self.coord.endpoints(service).await?;
        while endpoints.list().len() != count {
            endpoints.changed().await;
        }
        Ok(Event::Holds(count as u64))
    }

    async fn hold(&mut self, key: &str, ttl: Duration) -> Result<Event, Error> {
        let engine = self.coord.engine().clone();
        let lease = engine.grant(ttl).await?;
        let rev = engine.put(key, "held".into(), When::Absent, Some(&lease)).await?;
        self.lease = Some(lease.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(ttl / 4).await;
                // Once it has ended there is nothing to keep.
                if engine.renew(&lease).await.is_err_and(|e| e.kind() == Kind::NotFound) {
                    return;
                }
            }
        });
        Ok(Event::Written { rev: rev.0 })
    }

    /// Until it has held the lock once, and surely held it.
    async fn take_a_turn(&self, name: &str, ttl: Duration, session: &mut Option<Session>) {
        loop {
            let alive = match session.take().filter(Session::is_alive) {
                Some(alive) => Ok(alive),
                None => self.coord.session(ttl).await,
            };
            let held = match &alive {
                Ok(alive) => alive.lock(name).acquire().await,
                Err(error) => Err(error.clone()),
            };
            *session = alive.ok();
            let Ok(guard) = held else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let from_ns = now_ns();
            tokio::time::sleep(Duration::from_millis(2)).await;
            let (until_ns, token) = (now_ns(), guard.token().0);
            // Asked after the clock: had it been lost before, this would say so.
            let surely = guard.is_held();
            let _ = guard.release().await;
            if surely {
                return say(&Event::Held(Held { token, from_ns, until_ns }));
            }
        }
    }

    async fn count_up(&self, key: &str, times: u64) -> Result<Event, Error> {
        for _ in 0..times {
            self.increment(key).await?;
        }
        Ok(Event::Done)
    }

    async fn increment(&self, key: &str) -> Result<(), Error> {
        loop {
            let there = self.coord.get(key).await?;
            let number =
                there.as_ref().map_or(0, |e| std::str::from_utf8(&e.value).unwrap().parse::<u64>().unwrap());
            let when = there.map_or(When::Absent, |entry| When::Is(entry.rev));
            match self.coord.put(key, (number + 1).to_string(), when).await {
                Err(error) if error.kind() == Kind::Conflict => {}
                other => return other.map(drop),
            }
        }
    }
}
