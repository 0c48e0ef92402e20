//! On RabbitMQ: beside lapin used well on the same server.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::harness::{Claim, Job, Result, Side};
use crate::{broker, work};

const MESSAGES: usize = 300_000;
const QUEUE: &str = "readings";

pub(crate) const PUBLISH: Claim = Claim {
    name: "rabbitmq_publish",
    what: "100-byte messages stored in RabbitMQ's quorum queues, each confirmed",
    unit: "messages/s",
    goal: 0.97,
    floor: 0.0,
    cost: false,
    ours: Side {
        what: "`Publisher` on `amqp:`, every answer awaited; 4 partitions, ids, keys",
        messages: MESSAGES,
        settings: &[0],
        run: |job| Box::pin(broker::publish(job, "rabbitmq", 100)),
    },
    theirs: Side {
        what: "lapin by hand: one quorum queue, persistent messages with id and key, 256, 1,024 or 4,096 confirmations under way, every one \
               awaited",
        messages: MESSAGES,
        settings: &[256, 1_024, 4_096],
        run: |job| Box::pin(publishing(job, 100)),
    },
    needs: Some("rabbitmq-server"),
    memory: false,
};

pub(crate) const PUBLISH_1K: Claim = Claim {
    name: "rabbitmq_publish_1k",
    what: "1-KiB messages stored in RabbitMQ's quorum queues, each confirmed",
    ours: Side { run: |job| Box::pin(broker::publish(job, "rabbitmq", 1024)), ..PUBLISH.ours },
    theirs: Side { run: |job| Box::pin(publishing(job, 1024)), ..PUBLISH.theirs },
    ..PUBLISH
};

pub(crate) const CONSUME: Claim = Claim {
    name: "rabbitmq_consume",
    what: "100-byte messages read from RabbitMQ's quorum queues, handled, and acknowledged",
    goal: 0.95,
    ours: Side {
        what: "`Consumer` on `amqp:`, default options, acknowledgements proven",
        run: |job| Box::pin(broker::consume(job, "rabbitmq", 100)),
        ..PUBLISH.ours
    },
    theirs: Side {
        what: "lapin by hand: one consumer, a prefetch of 512 or 2,048, one acknowledgement for half of them at a time, \
               until the queue is empty",
        settings: &[512, 2_048],
        run: |job| Box::pin(consuming(job, 100)),
        ..PUBLISH.theirs
    },
    ..PUBLISH
};

pub(crate) const CONSUME_1K: Claim = Claim {
    name: "rabbitmq_consume_1k",
    what: "1-KiB messages read from RabbitMQ's quorum queues, handled, and acknowledged",
    ours: Side { run: |job| Box::pin(broker::consume(job, "rabbitmq", 1024)), ..CONSUME.ours },
    theirs: Side { run: |job| Box::pin(consuming(job, 1024)), ..CONSUME.theirs },
    ..CONSUME
};

async fn open(url: &str) -> Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), options, arguments).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

async fn publish(channel: &Channel, messages: usize, size: usize, in_flight: usize) -> Result<Duration> {
    let start = Instant::now();
    let mut answers = VecDeque::with_capacity(in_flight);
    for n in 0..messages {
        if answers.len() >= in_flight
            && let Some(answer) = answers.pop_front()
        {
            let answer: lapin::PublisherConfirm = answer;
            answer.await?;
        }
        let mut headers = FieldTable::default();
        headers.insert("key".into(), AMQPValue::LongString(work::key(n).into()));
        let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
        let properties = properties.with_message_id(work::id().into());
        let options = BasicPublishOptions::default();
        let body = work::body(n, size);
        answers.push_back(channel.basic_publish("".into(), QUEUE.into(), options, &body, properties).await?);
    }
    for answer in answers {
        answer.await?;
    }
    Ok(start.elapsed())
}

async fn publishing(job: Job, size: usize) -> Result<Duration> {
    let server = broker::start("rabbitmq").await?;
    let (connection, channel) = open(server.url()).await?;
    let took = publish(&channel, job.messages, size, job.setting).await?;
    connection.close(200, "done".into()).await?;
    Ok(took)
}

async fn consuming(job: Job, size: usize) -> Result<Duration> {
    let server = broker::start("rabbitmq").await?;
    let (connection, channel) = open(server.url()).await?;
    publish(&channel, job.messages, size, 4_096).await?;
    let start = Instant::now();
    channel.basic_qos(u16::try_from(job.setting)?, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume(QUEUE.into(), "bench".into(), options, FieldTable::default()).await?;
    for n in 1..=job.messages {
        let delivery = consumer.next().await.ok_or("the consumer ended")??;
        let whole = delivery.data.len() == size;
        if whole && (n.is_multiple_of(job.setting / 2) || n == job.messages) {
            delivery.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    let took = start.elapsed();
    connection.close(200, "done".into()).await?;
    Ok(took)
}
