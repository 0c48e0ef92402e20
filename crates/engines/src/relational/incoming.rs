//! Messages on their way in.

use linchpin_core::bus::{Message, Partitioner, Position, Round};
use linchpin_core::{Error, Kind, Result};

use super::topic::Topic;

/// A message on its way in, with what of it the database holds in a form of its own.
#[derive(Debug)]
pub(crate) struct Incoming<F> {
    /// Its index in the call.
    pub(crate) at: usize,
    pub(crate) partition: u32,
    pub(crate) form: F,
    pub(crate) message: Message,
}

/// Gives each row its partition, sorts them by partition, delayed ones last, and takes out those that the topic refuses.
pub(crate) fn accept<F>(
    topic: &Topic,
    round: &Round,
    partitioner: Partitioner,
    mut rows: Vec<Incoming<F>>,
    mut refuse: impl FnMut(usize, Error),
) -> Vec<Incoming<F>> {
    rows.retain_mut(|row| {
        let chosen = check_size(topic, &row.message)
            .and_then(|()| partitioner.choose(&row.message, topic.partitions, round));
        match chosen {
            Ok(partition) => row.partition = partition,
            Err(error) => {
                refuse(row.at, error.op("publish").with("topic", &topic.name));
                return false;
            }
        }
        true
    });
    // Rows are large: their keys are sorted, and each row is moved once.
    rows.sort_by_cached_key(|row| (row.message.delay.is_some(), row.partition, row.at));
    rows
}

fn check_size(topic: &Topic, message: &Message) -> Result<()> {
    let size = message.size() as u64;
    if size <= topic.max_message {
        return Ok(());
    }
    let text = format!("the message has {size} bytes, the topic takes {}", topic.max_message);
    Err(Error::new(Kind::Invalid, text).help("send less, or raise the topic's max_message"))
}

/// Fills in the answer of the message at `at`.
pub(crate) fn answer(answers: &mut [Result<Position>], at: usize, result: Result<Position>) {
    if let Some(answer) = answers.get_mut(at) {
        *answer = result;
    }
}
