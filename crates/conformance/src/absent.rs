//! Proof of absence: what an engine says it can't do, it can't. Each check panics if it can.

use std::time::Duration;

use linchpin::Kind;
use linchpin::bus::{Message, Order, Settle, Start, SubscribeOptions, TopicOptions};
use tokio::time::Instant;

use crate::case::Need;
use crate::protocol::{Command, Event};
use crate::tools::*;
use crate::world::World;

const T: &str = "absent";

/// Checks that `need` is absent, and says how that showed.
pub(crate) async fn prove(mut world: World, need: Need) -> &'static str {
    world.bus.ensure(T, &TopicOptions::default()).await.unwrap();
    match need {
        Need::Durable => {
            world.reopen().await;
            assert_kind(world.bus.stats(Some(T)).await, Kind::NotFound);
            "a topic is gone once the engine was closed"
        }
        Need::Shared => {
            let event = world.child().await.ask(&Command::Count { topic: T.to_owned() }).await;
            assert!(matches!(&event, Event::Failed { kind, .. } if kind == "NotFound"), "{event:?}");
            "another process doesn't see the topic"
        }
        Need::Offsets => {
            let position = world.bus.publish(T, Message::new("x")).await.unwrap();
            assert_eq!(position.offset, None);
            "publishing answers no offset"
        }
        Need::Redelivery => refused_nack(&world).await,
        Need::Delay => {
            let message = Message::new("x").delay(Duration::from_secs(1));
            assert_kind(world.bus.publish(T, message).await, Kind::Unsupported);
            "a delayed message is refused"
        }
        Need::Groups => refused_options(&world, group("g")).await,
        Need::Broadcast => refused_options(&world, SubscribeOptions::broadcast()).await,
        Need::Ordered => refused_options(&world, SubscribeOptions { order: Order::Key, ..group("g") }).await,
        Need::Replay => refused_seek(&world, Start::Oldest).await,
        Need::Metadata => {
            for message in [Message::new("x").key("k"), Message::new("x").header("h", "v")] {
                assert_kind(world.bus.publish(T, message).await, Kind::Unsupported);
            }
            "a key and headers are refused"
        }
        Need::Retention => kept_nothing(&world).await,
        Need::Failover => lost_by_failover(&world).await,
        _ => panic!("{} says nothing about the bus", need.name()),
    }
}

async fn kept_nothing(world: &World) -> &'static str {
    let groups = world.bus.caps().groups;
    let options = if groups { group("g") } else { SubscribeOptions::broadcast() };
    let sub = join(&world.bus, T, &options).await;
    publish(&world.bus, T, 0..10).await;
    let came = take(&sub, 10).await;
    if groups {
        ack(&sub, &came).await;
    }
    assert_eq!(world.bus.stats(Some(T)).await.unwrap()[0].messages, 0);
    "what is settled is gone"
}

/// The replicas are frozen, so that they learn nothing of what the primaries answer `Ok` to before these die.
async fn lost_by_failover(world: &World) -> &'static str {
    // On every primary some, and more than lies in the sockets between a primary and its replica: what is there, arrives.
    let topic = "failover";
    world.topic(topic, 24).await;
    let sub = join(&world.bus, topic, &group("g")).await;
    let replicas = world.server().replicas().await;
    assert!(!replicas.is_empty(), "no replica could take over");
    let primaries: Vec<usize> = (0..world.server().nodes()).filter(|node| !replicas.contains(node)).collect();
    replicas.iter().for_each(|&node| world.server().freeze_node(node));
    for n in 0..100 {
        send(&world.bus, topic, vec![Message::new(format!("{}{n}", "0".repeat(900_000)))]).await;
    }
    world.server().kill_node(primaries[0]).await;
    replicas.iter().for_each(|&node| world.server().thaw_node(node));
    let mut came = Vec::new();
    let deadline = Instant::now() + LONG;
    // An error is an outage that passes; silence on a bus that works again is the loss.
    while Instant::now() < deadline {
        match sub.next(100, SOON / 5).await {
            Ok(batch) if batch.is_empty() && world.bus.stats(Some(topic)).await.is_ok() => break,
            Ok(batch) => came.extend(numbers(&batch)),
            Err(_) => tokio::time::sleep(MOMENT).await,
        }
    }
    assert!(came.len() < 100, "all 100 survived");
    "what a primary answered Ok to before its replicas knew of it is lost when one takes over"
}

async fn refused_nack(world: &World) -> &'static str {
    publish(&world.bus, T, 0..1).await;
    let sub = join(&world.bus, T, &group("g")).await;
    let nack = Settle::Nack { delay: Duration::ZERO, reason: String::new() };
    assert_kind(settle(&sub, one(&sub).await.receipt, nack).await, Kind::Unsupported);
    "a nack is refused"
}

async fn refused_options(world: &World, options: SubscribeOptions) -> &'static str {
    assert_kind(world.bus.engine().subscribe(T, &options).await, Kind::Unsupported);
    "such a subscription is refused"
}

async fn refused_seek(world: &World, to: Start) -> &'static str {
    assert_kind(world.bus.seek(T, "g", to).await, Kind::Unsupported);
    "seeking is refused"
}
