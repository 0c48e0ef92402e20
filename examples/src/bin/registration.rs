//! Somebody registers; a mail and a text message go out. Each group gets every registration, at its own pace, with its own
//! failures: a busy gateway delays the text messages and not the mails, and what can't be sent is kept, with the reason.
//!
//! ```console
//! $ cargo run -p linchpin-examples --bin registration [URL]
//! ```

use linchpin::bus::{DEAD_REASON, Failure, Running, Settle, SubscribeOptions, Typed, dead_topic};
use linchpin::{Bus, Result, TopicOptions};
use linchpin_examples::{Place, next};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::mpsc::{self, Sender};

const TOPIC: &str = "registered";

#[derive(Debug, Serialize, Deserialize)]
struct User {
    name: String,
    mail: String,
    phone: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Place { bus, folder: _folder, .. } = Place::open().await?;
    bus.ensure(TOPIC, &TopicOptions::default()).await?;
    let (sent, mut sending) = mpsc::channel(10);
    let mails = send_mails(&bus, sent.clone()).await?;
    let texts = send_texts(&bus, sent).await?;

    let registered = bus.topic::<User>(TOPIC);
    for (name, phone) in [("Ada", "+44 1"), ("Grace", "unlisted"), ("Edsger", "+31 2"), ("Barbara", "+1 3")] {
        let mail = format!("{}@example.org", name.to_lowercase());
        let user = User { name: name.into(), mail, phone: phone.into() };
        bus.publish(TOPIC, registered.message(&user)?.key(user.name)).await?;
    }
    // Four mails, three text messages.
    for _ in 0..7 {
        println!("{}", next(&mut sending).await?);
    }
    println!("mails: {}", mails.stop().await?);
    println!("texts: {}", texts.stop().await?);
    show_dead_letters(&bus).await?;
    bus.close().await
}

async fn send_mails(bus: &Bus, sent: Sender<String>) -> Result<Running> {
    let registered = bus.topic::<User>(TOPIC);
    let mails = registered.consume().group("mail");
    let send = move |user: Typed<User>| {
        let sent = sent.clone();
        async move { Ok(sent.send(format!("mail to {}", user.value.mail)).await?) }
    };
    registered.run(mails, send).await
}

async fn send_texts(bus: &Bus, sent: Sender<String>) -> Result<Running> {
    let registered = bus.topic::<User>(TOPIC);
    let texts = registered.consume().group("sms").max_attempts(5);
    let send = move |user: Typed<User>| {
        let sent = sent.clone();
        async move {
            let (User { name, phone, .. }, attempt) = (user.value, user.delivery.attempt);
            if !phone.starts_with('+') {
                return Err(Failure::dead(format!("{name} has no phone number but {phone:?}")));
            }
            if name == "Edsger" && attempt == 1 {
                return Err(Failure::retry("the gateway is busy"));
            }
            Ok(sent.send(format!("text message to {phone}, attempt {attempt}")).await?)
        }
    };
    registered.run(texts, send).await
}

async fn show_dead_letters(bus: &Bus) -> Result<()> {
    let letters = bus.subscribe(&dead_topic(TOPIC, "sms"), &SubscribeOptions::group("operator")).await?;
    let batch = letters.next(10, Duration::from_secs(5)).await?;
    for letter in &batch {
        println!("given up: {}", letter.message.headers.text(DEAD_REASON).unwrap_or("no reason"));
    }
    let seen = batch.into_iter().map(|letter| (letter, Settle::Ack)).collect();
    letters.settle(seen).await.into_iter().collect::<Result<()>>()?;
    letters.close(Duration::from_secs(5)).await
}
