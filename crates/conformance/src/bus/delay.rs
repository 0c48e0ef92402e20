//! Delayed publishing: no sooner than asked, and not much later.

use std::time::Duration;

use linchpin::bus::Message;
use tokio::time::Instant;

use crate::tools::*;
use crate::world::World;

pub(super) async fn a_delayed_message_comes_after_its_delay(w: World) {
    w.topic("t", 1).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let delay = Duration::from_millis(800);
    let started = Instant::now();
    let position = w.bus.publish("t", Message::new("later").delay(delay)).await.unwrap();
    assert_eq!(position.offset, None, "it takes its offset when it is due");
    publish(&w.bus, "t", 0..1).await;
    let first = one(&sub).await;
    assert_eq!(text(&first), "0");
    let later = one(&sub).await;
    assert_timely(started, delay);
    assert_eq!((text(&later), later.attempt, later.message.delay), ("later", 1, None));
    assert!(later.position.offset >= first.position.offset);
    assert!(later.time.duration_since(first.time).as_millis() >= 700, "stored when it was due");
    if !w.bus.caps().replay {
        return;
    }
    // For groups that come later it is a message like any other.
    assert_eq!(texts(&drain(&join(&w.bus, "t", &group("late")).await).await), ["0", "later"]);
}

pub(super) async fn delayed_messages_come_in_order_of_their_time(w: World) {
    w.topic("t", 1).await;
    let sub = join(&w.bus, "t", &group("g")).await;
    let started = Instant::now();
    // Further apart than a message may be late, else the order says nothing.
    let delays = [3300, 1100, 2200, 0];
    let messages = delays.map(|ms| Message::new(ms.to_string()).delay(Duration::from_millis(ms)));
    send(&w.bus, "t", messages.to_vec()).await;
    for ms in [0, 1100, 2200, 3300] {
        let delivery = one(&sub).await;
        assert_eq!(number(&delivery), ms);
        assert_timely(started, Duration::from_millis(ms));
    }
}
