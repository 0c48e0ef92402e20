//! A worker process: this binary again, told over standard input what to do.
//!
//! It works until standard input ends, which it does when the parent is done and when the parent dies, however it
//! dies. On standard output it tells the parent when it is at work, and of redeliveries.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use linchpin::bus::{self, Delivery, Failure};
use linchpin::engines::sqlite::SqliteSink;
use linchpin::pipe::{Item, Landed, Pipe, Sink};
use linchpin::{Bus, Error, Kind, Result};
use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::data::Order;
use super::place::Place;
use super::{shop, wire};
use crate::open;

/// How soon another worker takes over from a killed one.
const ACK_WAIT: Duration = Duration::from_secs(3);

/// What a worker is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    Stock,
    Tables,
}

impl Role {
    pub(super) const ALL: [Self; 2] = [Self::Stock, Self::Tables];

    /// Its consumer group.
    pub(super) fn group(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Tables => "tables",
        }
    }
}

/// The first line of standard input. Not an argument: a URL may hold a password, and arguments are for all to see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) role: Role,
    pub(super) bus: String,
    pub(super) topic: String,
    pub(super) shop: PathBuf,
}

impl Job {
    /// A job on this bus and these tables.
    pub(super) fn new(role: Role, place: &Place) -> Self {
        let Place { url, topic, shop, .. } = place;
        Self { role, bus: url.clone(), topic: topic.clone(), shop: shop.clone() }
    }
}

/// Told to the parent: there is work in hand.
pub(super) const BUSY: &str = "busy";
/// There is none any more.
pub(super) const IDLE: &str = "idle";
/// A message came that had been handed out before.
pub(super) const AGAIN: &str = "again";

/// Knows when the first piece of work begins and the last one ends.
#[derive(Debug, Default)]
struct Teller {
    in_hand: AtomicUsize,
}

impl Teller {
    fn begin(&self) {
        if self.in_hand.fetch_add(1, Ordering::SeqCst) == 0 {
            tell(BUSY);
        }
    }

    fn end(&self) {
        if self.in_hand.fetch_sub(1, Ordering::SeqCst) == 1 {
            tell(IDLE);
        }
    }
}

fn tell(what: &str) {
    let mut out = io::stdout().lock();
    // If the parent is gone, the end of standard input says so too.
    let _ = writeln!(out, "{what}").and_then(|()| out.flush());
}

fn tell_again(delivery: &Delivery) {
    if delivery.attempt > 1 {
        tell(AGAIN);
    }
}

/// Runs a worker to its end.
///
/// # Errors
/// What ends it before the parent does.
pub(crate) async fn work() -> Result<()> {
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|e| Error::new(Kind::Invalid, "can't read the job").source(e))?;
    let job: Job = serde_json::from_str(&line).map_err(|e| {
        Error::new(Kind::Invalid, "this command is how `linchpin demo` runs its workers").source(e)
    })?;
    let gone = parent_gone();
    let bus = open(&job.bus).await?;
    match job.role {
        Role::Stock => keep_stock(&bus, &job, gone).await?,
        Role::Tables => fill_tables(&bus, &job, gone).await?,
    }
    bus.close().await
}

/// Resolves at the end of standard input.
fn parent_gone() -> oneshot::Receiver<()> {
    let (tell, gone) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = tell.send(());
    });
    gone
}

async fn keep_stock(bus: &Bus, job: &Job, gone: oneshot::Receiver<()>) -> Result<()> {
    let ledger = Ledger::open(shop::connect(&job.shop)?);
    let teller = Arc::new(Teller::default());
    let consumer = bus.consume(&job.topic).group(Role::Stock.group()).order(bus::Order::Key);
    let handler = move |delivery: Delivery| {
        let (ledger, teller) = (ledger.clone(), teller.clone());
        async move {
            tell_again(&delivery);
            let order = wire::read(&delivery.message).map_err(Failure::dead)?;
            teller.begin();
            let booked = ledger.book(order).await;
            teller.end();
            booked.map_err(Failure::retry)
        }
    };
    let mut running = consumer.concurrency(64).ack_wait(ACK_WAIT).run(handler).await?;
    tokio::select! {
        ended = running.wait() => ended?,
        _ = gone => drop(running.stop().await?),
    }
    Ok(())
}

/// Books the orders of many handlers together: while one transaction is under way, the next gathers.
#[derive(Debug, Clone)]
struct Ledger(mpsc::Sender<Booking>);

#[derive(Debug)]
struct Booking {
    order: Order,
    done: oneshot::Sender<Result<(), String>>,
}

impl Ledger {
    fn open(mut conn: Connection) -> Self {
        /// The most orders in one transaction.
        const BATCH: usize = 64;
        let (tell, mut bookings) = mpsc::channel::<Booking>(BATCH);
        std::thread::spawn(move || {
            let mut batch = Vec::with_capacity(BATCH);
            while bookings.blocking_recv_many(&mut batch, BATCH) > 0 {
                let booked = shop::book(&mut conn, batch.iter().map(|booking| &booking.order));
                let booked = booked.map_err(|e| e.to_string());
                for booking in batch.drain(..) {
                    // A handler that is gone has its message redelivered: the inbox knows the order.
                    let _ = booking.done.send(booked.clone());
                }
            }
        });
        Self(tell)
    }

    async fn book(&self, order: Order) -> Result<(), String> {
        let ended = || "the ledger's thread ended".to_owned();
        let (done, booked) = oneshot::channel();
        self.0.send(Booking { order, done }).await.map_err(|_| ended())?;
        booked.await.map_err(|_| ended())?
    }
}

async fn fill_tables(bus: &Bus, job: &Job, gone: oneshot::Receiver<()>) -> Result<()> {
    let place = job.shop.to_str().ok_or_else(|| Error::new(Kind::Config, "the folder's name isn't UTF-8"))?;
    let sink = SqliteSink::open(place, Role::Tables.group(), &shop::TABLES).await?;
    let map = |delivery: &Delivery| {
        tell_again(delivery);
        wire::read(&delivery.message).map(|order| shop::rows(&order))
    };
    let pipe = Pipe::new(bus, &job.topic, Role::Tables.group()).map(map).ack_wait(ACK_WAIT);
    let watched = Watched { sink, teller: Teller::default() };
    let mut piping = pipe.batch(100).run(Arc::new(watched)).await?;
    tokio::select! {
        ended = piping.wait() => ended?,
        _ = gone => drop(piping.stop().await?),
    }
    Ok(())
}

/// A sink whose owner says when it is at work.
#[derive(Debug)]
struct Watched {
    sink: Arc<dyn Sink>,
    teller: Teller,
}

#[async_trait]
impl Sink for Watched {
    async fn write(&self, topic: &str, batch: &[Item]) -> Result<Vec<Landed>> {
        self.teller.begin();
        let landed = self.sink.write(topic, batch).await;
        self.teller.end();
        landed
    }
}
