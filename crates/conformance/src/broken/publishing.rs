//! Faults on the way in.

#![allow(unused_mut, reason = "not every fault changes the messages")]

use async_trait::async_trait;
use linchpin::bus::{BusEngine, Headers, Layer, Message, Partitioner, Position, PublishOptions};
use linchpin::{Error, Kind, Result};

type Answers = Vec<Result<Position>>;

/// A layer of one hook: what it does to a publish.
macro_rules! publishing {
    ($(#[$doc:meta])* $name:ident |$topic:ident, $messages:ident, $options:ident, $inner:ident| $body:block) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        #[async_trait]
        impl Layer for $name {
            async fn publish(
                &self,
                $topic: &str,
                mut $messages: Vec<Message>,
                $options: &PublishOptions,
                $inner: &dyn BusEngine,
            ) -> Answers $body
        }
    };
}

publishing! {
    /// Answers `Ok` for the last of a large batch without storing it.
    Swallows |topic, messages, options, inner| {
        let swallowed = messages.len() >= 100 && messages.pop().is_some();
        let mut answers = inner.publish(topic, messages, options).await;
        answers.extend(swallowed.then_some(Ok(Position { partition: 0, offset: None })));
        answers
    }
}

publishing! {
    /// Stores the first of a batch twice.
    Doubles |topic, messages, options, inner| {
        messages.extend(messages.first().cloned());
        let mut answers = inner.publish(topic, messages, options).await;
        answers.pop();
        answers
    }
}

publishing! {
    /// Keeps one header of each name.
    DropsHeaders |topic, messages, options, inner| {
        for message in &mut messages {
            let last = |name| message.headers.get(name).cloned().unwrap();
            let mut names: Vec<_> = message.headers.iter().map(|(name, _)| name.to_owned()).collect();
            names.sort();
            names.dedup();
            message.headers = names.iter().map(|name| (name.clone(), last(name))).collect::<Headers>();
        }
        inner.publish(topic, messages, options).await
    }
}

publishing! {
    /// Lets every message in at once, and answers as if it waited.
    Hurries |topic, messages, options, inner| {
        let delayed: Vec<_> = messages.iter_mut().map(|message| message.delay.take().is_some()).collect();
        let mut answers = inner.publish(topic, messages, options).await;
        for (answer, _) in answers.iter_mut().zip(delayed).filter(|(_, delayed)| *delayed) {
            answer.as_mut().unwrap().offset = None;
        }
        answers
    }
}

publishing! {
    /// Stores the messages of one call in the opposite order.
    Backwards |topic, messages, options, inner| {
        messages.reverse();
        let mut answers = inner.publish(topic, messages, options).await;
        answers.reverse();
        answers
    }
}

publishing! {
    /// Refuses a whole call because of one message.
    AllOrNothing |topic, messages, options, inner| {
        let limit = inner.stats(Some(topic)).await.unwrap()[0].options.max_message;
        if messages.iter().any(|message| message.size() as u64 > limit) {
            return messages.iter().map(|_| Err(Error::new(Kind::Invalid, "too large"))).collect();
        }
        inner.publish(topic, messages, options).await
    }
}

publishing! {
    /// Spreads keys without regard to what they are.
    HashesOddly |topic, messages, _options, inner| {
        let options = PublishOptions { partitioner: Partitioner::RoundRobin };
        inner.publish(topic, messages, &options).await
    }
}
