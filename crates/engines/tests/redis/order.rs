//! Several calls of a publisher are under way at once: what they store stays in the order it was sent.

use std::time::Duration;

use linchpin_core::bus::{Message, PublisherOptions};
use tokio::time::sleep;

use crate::server::{Server, topic};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_go_along_keep_the_order_when_links_are_cut() {
    let server = Server::start(&[]);
    let bus = server.bus("").await;
    bus.ensure("orders", &topic(1)).await.unwrap();
    let publisher =
        bus.publisher("orders", PublisherOptions { max_batch: 50, ..PublisherOptions::default() });
    let sending = tokio::spawn(async move {
        let mut answers = Vec::new();
        for n in 0..40_000_u32 {
            answers.push(publisher.send(Message::new(n.to_string())).await.unwrap());
            if n % 2_000 == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        }
        let mut stored = Vec::new();
        for (n, answer) in (0..).zip(answers) {
            if answer.await.is_ok() {
                stored.push(n);
            }
        }
        stored
    });
    let mut cut = 0;
    while !sending.is_finished() {
        let killed = server.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        cut += killed[0].parse::<u32>().unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    let answered: Vec<u32> = sending.await.unwrap();
    let lines = server.cli(&["XRANGE", "{orders:0}", "-", "+"]);
    let there =
        lines.windows(2).filter(|pair| pair[0] == "payload").map(|pair| pair[1].parse::<u32>().unwrap());
    let there: Vec<u32> = there.collect();
    assert!(cut > 0 && answered.len() > 1_000, "{cut} links cut, {} messages stored", answered.len());
    assert!(there.is_sorted_by(|a, b| a < b), "out of order");
    let missing = answered.iter().find(|n| there.binary_search(n).is_err());
    assert_eq!(missing, None, "answered as stored");
}
