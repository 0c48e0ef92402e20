//! Proof of absence: what an engine says it can't do, it can't. Each check panics if it can.

use std::time::Duration;

use linchpin::Kind;
use linchpin::Timestamp;
use linchpin::bus::{Message, Order, Settle, Start, SubscribeOptions, TopicOptions};

use crate::case::Need;
use crate::protocol::{Command, Event};
use crate::tools::{assert_kind, group, join, one, publish, settle};
use crate::world::World;

const T: &str = "absent";

/// Checks that `need` is absent, and says how that showed.
pub(crate) async fn prove(mut world: World, need: Need) -> &'static str {
    let retention_age = (need == Need::Retention).then_some(Duration::from_secs(60));
    let options = TopicOptions { retention_age, ..TopicOptions::default() };
    let ensured = world.bus.ensure(T, &options).await;
    if need == Need::Retention {
        assert_kind(ensured, Kind::Unsupported);
        return "retention is refused";
    }
    ensured.unwrap();
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
        Need::ReplayTime => refused_seek(&world, Start::Time(Timestamp::now())).await,
        Need::Retention => unreachable!("checked above"),
    }
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
