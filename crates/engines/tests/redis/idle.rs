//! Members that wait: how seldom they ask, how soon they are woken, and what they do when nothing tells them.

use std::time::{Duration, Instant};

use linchpin_core::bus::{Bus, Message, SubscribeOptions, Subscriber};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::server::{SOON, Server, topic};

/// Long enough for a member to find that nothing comes.
const CALM: Duration = Duration::from_secs(4);

async fn bus_and_member(server: &Server) -> (Bus, Subscriber) {
    let bus = server.bus("").await;
    bus.ensure("orders", &topic(4)).await.unwrap();
    let sub = bus.subscribe("orders", &SubscribeOptions::group("g")).await.unwrap();
    (bus, sub)
}

/// Waits for one message, acknowledges it, and says when it came.
fn wait(sub: &Subscriber) -> JoinHandle<Instant> {
    let sub = sub.clone();
    tokio::spawn(async move {
        let delivery = sub.next(1, 2 * SOON).await.unwrap().remove(0);
        let came = Instant::now();
        sub.ack(delivery).await.unwrap();
        came
    })
}

/// How often scripts were called.
fn calls(server: &Server) -> u64 {
    let lines = server.cli(&["INFO", "commandstats"]);
    let of = |name| lines.iter().find_map(|line: &String| line.strip_prefix(name)?.split(',').next());
    let count = |name| of(name).map_or(0, |calls: &str| calls.parse::<u64>().unwrap());
    count("cmdstat_evalsha:calls=") + count("cmdstat_eval:calls=")
}

#[tokio::test]
async fn a_member_that_waits_asks_seldom_and_is_woken_at_once() {
    let server = Server::start(&[]);
    let (_bus, sub) = bus_and_member(&server).await;
    let other = server.bus("").await;
    for n in 0..3 {
        let waiting = wait(&sub);
        sleep(CALM).await;
        let before = calls(&server);
        sleep(CALM).await;
        let asked = calls(&server) - before;
        assert!(asked <= 4, "{asked} calls in {CALM:?}");
        other.publish("orders", Message::new(n.to_string())).await.unwrap();
        let told = Instant::now();
        let late = waiting.await.unwrap().saturating_duration_since(told);
        assert!(late < Duration::from_millis(500), "{late:?}");
    }
}

#[tokio::test]
async fn a_member_whose_listener_is_cut_off_looks_by_itself() {
    let server = Server::start(&[]);
    let (_bus, sub) = bus_and_member(&server).await;
    let waiting = wait(&sub);
    sleep(CALM).await;
    server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    let told = Instant::now();
    server.cli(&["XADD", "{orders:3}", "*", "payload", "by hand"]);
    let late = waiting.await.unwrap().saturating_duration_since(told);
    assert!(late < Duration::from_secs(1), "{late:?}");
}

#[tokio::test]
async fn what_nobody_tells_of_is_found_and_looked_for_from_then_on() {
    let server = Server::start(&[]);
    let (_bus, sub) = bus_and_member(&server).await;
    for (turn, patience) in [3_500, 1_000, 1_000].into_iter().enumerate() {
        let waiting = wait(&sub);
        sleep(CALM).await;
        server.cli(&["XADD", "{orders:1}", "*", "payload", "by hand"]);
        let told = Instant::now();
        let late = waiting.await.unwrap().saturating_duration_since(told);
        assert!(late < Duration::from_millis(patience), "{late:?} in turn {turn}");
    }
}

#[tokio::test]
async fn what_a_dead_member_held_comes_in_time_to_one_that_was_calm() {
    let server = Server::start(&[]);
    let bus = server.bus("").await;
    bus.ensure("orders", &topic(1)).await.unwrap();
    let options = SubscribeOptions { ack_wait: Duration::from_secs(2), ..SubscribeOptions::group("g") };
    let (first, second) =
        (bus.subscribe("orders", &options).await.unwrap(), bus.subscribe("orders", &options).await.unwrap());
    let waiting = wait(&second);
    sleep(CALM).await;
    let died = {
        let taking = wait_and_drop(&first);
        // Who gets it is open: what it gets first it acknowledges, and the next one goes to the other.
        bus.publish("orders", Message::new("a")).await.unwrap();
        bus.publish("orders", Message::new("b")).await.unwrap();
        taking.await.unwrap()
    };
    drop(first);
    waiting.await.unwrap();
    let again = wait(&second).await.unwrap();
    let late = again.saturating_duration_since(died);
    assert!(late < Duration::from_secs(4), "{late:?}");
}

/// Takes one message and never settles it.
fn wait_and_drop(sub: &Subscriber) -> JoinHandle<Instant> {
    let sub = sub.clone();
    tokio::spawn(async move {
        assert_eq!(sub.next(1, SOON).await.unwrap().len(), 1);
        Instant::now()
    })
}
