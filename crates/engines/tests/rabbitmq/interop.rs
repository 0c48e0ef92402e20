//! What plain clients publish is delivered, and they read what Linchpin publishes.

use lapin::BasicProperties;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use linchpin_core::bus::{Message, Settle, SubscribeOptions};

use futures_util::StreamExt;

use crate::{SOON, bus, plain, publish, server, topic};

fn text(value: Option<&AMQPValue>) -> String {
    match value {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_client_reads_body_id_key_and_headers() {
    let bus = bus("reads-").await;
    topic(&bus, "orders", 2).await;
    let (_connection, channel) = plain(server().url()).await;
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
    let (name, bind) = (queue.name().clone(), QueueBindOptions::default());
    let (exchange, key) = ("reads-orders".into(), "1".into());
    channel.queue_bind(name.clone(), exchange, key, bind, FieldTable::default()).await.unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut came = channel.basic_consume(name, "".into(), options, FieldTable::default()).await.unwrap();
    let sent = Message::new("two lanterns").key("customer-7").header("country", "GB").partition(1);
    publish(&bus, "orders", vec![sent.clone()]).await.remove(0).unwrap();
    let came = tokio::time::timeout(SOON, came.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(came.data, b"two lanterns");
    assert_eq!(came.properties.message_id().as_ref().map(|id| id.to_string()), Some(sent.id.to_string()));
    let headers = came.properties.headers().clone().unwrap();
    assert_eq!(text(headers.inner().get("country")), "GB");
    assert_eq!(text(headers.inner().get("lp-key")), "customer-7");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plain_client_publishes_is_delivered() {
    let bus = bus("writes-").await;
    topic(&bus, "orders", 2).await;
    let (_connection, channel) = plain(server().url()).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let mut headers = FieldTable::default();
    headers.insert("country".into(), AMQPValue::LongString("GB".into()));
    headers.insert("count".into(), AMQPValue::LongInt(3));
    let properties = BasicProperties::default().with_message_id("order-17".into()).with_headers(headers);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let publishing =
        channel.basic_publish("writes-orders".into(), "1".into(), options, b"by hand", properties);
    assert!(publishing.await.unwrap().await.unwrap().take_message().is_none(), "it was routed");
    let sub = bus.subscribe("orders", &SubscribeOptions::group("g")).await.unwrap();
    let first = sub.next(1, SOON).await.unwrap().remove(0);
    assert_eq!((first.message.payload.as_ref(), first.position.partition), (&b"by hand"[..], 1));
    assert_eq!(first.message.id, "order-17".into());
    assert_eq!(first.message.headers.text("country"), Some("GB"));
    assert_eq!(first.message.headers.text("count"), Some("3"));
    let nack = Settle::Nack { delay: std::time::Duration::ZERO, reason: "again".into() };
    sub.settle(vec![(first.receipt, nack)]).await.remove(0).unwrap();
    let again = sub.next(1, SOON).await.unwrap().remove(0);
    assert_eq!((again.message, again.attempt), (first.message, 2));
    sub.settle(vec![(again.receipt, Settle::Ack)]).await.remove(0).unwrap();
    sub.close(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn buses_with_prefixes_of_their_own_are_apart() {
    let (a, b) = (bus("a-").await, bus("b-").await);
    topic(&a, "t", 1).await;
    let refused = publish(&b, "t", vec![Message::new("x")]).await.remove(0).unwrap_err();
    assert_eq!(refused.kind(), linchpin_core::Kind::NotFound);
    assert_eq!((a.stats(None).await.unwrap().len(), b.stats(None).await.unwrap().len()), (1, 0));
}
