//! A message as a Kafka record and back: payload as value, key as key, headers as headers, our id as one more header.

use bytes::Bytes;
use linchpin_core::bus::{Headers, Message, MessageId};
use linchpin_core::time::from_millis;
use linchpin_core::{Error, Kind, Result, Timestamp};
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};

/// The header that carries [`Message::id`].
const ID: &str = "lp-id";
/// The header that says when a delayed message is due, in milliseconds since 1970.
pub(super) const DUE: &str = "lp-due";
/// The largest payload that shares its memory with the key, in bytes.
const SMALL: usize = 4096;

/// A record as it was fetched.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) message: Message,
    pub(super) time: Timestamp,
    /// It is kept back until then.
    pub(super) due: i64,
}

impl Parcel {
    pub(super) fn read(record: &BorrowedMessage<'_>) -> Self {
        let (mut id, mut due) = (None, 0);
        let mut headers = Headers::default();
        for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
            let value = header.value.unwrap_or_default();
            match std::str::from_utf8(value) {
                Ok(text) if id.is_none() && header.key == ID => id = Some(MessageId::from(text)),
                Ok(text) if header.key == DUE => due = text.parse().unwrap_or(0),
                _ => headers.add(header.key, Bytes::copy_from_slice(value)),
            }
        }
        let place = || format!("{}/{}/{}", record.topic(), record.partition(), record.offset());
        let (key, payload) = copy(record.key(), record.payload().unwrap_or_default());
        let message = Message {
            id: id.unwrap_or_else(|| MessageId::from(place().as_str())),
            key,
            headers,
            payload,
            partition: None,
            delay: None,
        };
        Self { message, time: from_millis(record.timestamp().to_millis().unwrap_or_default()), due }
    }

    pub(super) fn size(&self) -> usize {
        self.message.size()
    }
}

/// Key and payload, in one piece of memory if the key can't keep much of it alive.
fn copy(key: Option<&[u8]>, payload: &[u8]) -> (Option<Bytes>, Bytes) {
    match key {
        Some(key) if payload.len() <= SMALL => {
            let mut both = Bytes::from([key, payload].concat());
            (Some(both.split_to(key.len())), both)
        }
        key => (key.map(Bytes::copy_from_slice), Bytes::copy_from_slice(payload)),
    }
}

/// The headers of a message's record.
///
/// # Errors
/// `Invalid` for a header name that Kafka's clients can't read back.
pub(super) fn headers(message: &Message) -> Result<OwnedHeaders> {
    let mut all = OwnedHeaders::new_with_capacity(message.headers.iter().len() + 1);
    all = all.insert(Header { key: ID, value: Some(message.id.to_string().as_str()) });
    for (name, value) in message.headers.iter() {
        if name.contains('\0') {
            return Err(Error::new(Kind::Invalid, format!("the header name {name:?} has a zero byte"))
                .help("leave it out"));
        }
        all = all.insert(Header { key: name, value: Some(value.as_ref()) });
    }
    Ok(all)
}
