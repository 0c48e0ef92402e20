//! Ten greetings through a topic, typed on both ends.
//!
//! ```console
//! $ cargo run -p linchpin-examples --bin hello_topic
//! $ cargo run -p linchpin-examples --features full --bin hello_topic -- \
//!     'kafka://127.0.0.1:9092?compression=snappy&acks=all'
//! ```

use linchpin::{Result, Timestamp, TopicOptions};
use linchpin_examples::{Place, next};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    number: u32,
    text: String,
    sent: Timestamp,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Place { bus, folder: _folder, .. } = Place::open().await?;
    bus.ensure("topic_hello", &TopicOptions::default()).await?;
    let topic = bus.topic::<Hello>("topic_hello");

    // The group joins first: not every engine keeps what was sent before.
    let (tell, mut heard) = mpsc::channel(10);
    let readers = topic.consume().group("readers");
    let running = topic.run(readers, move |hello| {
        let tell = tell.clone();
        async move { Ok(tell.send(hello).await?) }
    });
    let running = running.await?;

    for number in 1..=10 {
        let hello = Hello { number, text: format!("hello, topic #{number}"), sent: Timestamp::now() };
        let position = topic.publish(&hello).await?;
        println!("sent  {:2} to partition {}", hello.number, position.partition);
    }
    for _ in 1..=10 {
        let hello = next(&mut heard).await?;
        let waited = hello.delivery.time.as_millisecond() - hello.value.sent.as_millisecond();
        println!(
            "heard {:2}: {:?}, stored {waited} ms after it was sent, attempt {}",
            hello.value.number, hello.value.text, hello.delivery.attempt
        );
    }
    let totals = running.stop().await?;
    println!("{totals}");
    bus.close().await
}
