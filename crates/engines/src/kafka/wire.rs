//! A message as a Kafka record and back: payload as value, key as key, headers as headers, our id as one more header.

use bytes::{Bytes, BytesMut};
use linchpin_core::bus::{Headers, Message, MessageId};
use linchpin_core::time::from_millis;
use linchpin_core::{Error, Kind, Result, Timestamp};
use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};

/// The header that carries [`Message::id`].
const ID: &str = "lp-id";
/// The header that says when a delayed message is due, in milliseconds since 1970.
pub(super) const DUE: &str = "lp-due";
/// The most bytes that share their memory with their neighbours, and how many share one piece.
const SMALL: usize = 2048;
const PAGE: usize = 16 << 10;

/// Memory that small messages share: one allocation for many of them. It is free when the last one is.
#[derive(Debug, Default)]
pub(super) struct Pages(BytesMut);

impl Pages {
    fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() || bytes.len() > SMALL {
            return Bytes::copy_from_slice(bytes);
        }
        if self.0.capacity() < bytes.len() {
            self.0 = BytesMut::with_capacity(PAGE);
        }
        self.0.extend_from_slice(bytes);
        self.0.split().freeze()
    }
}

/// A record as it was fetched.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) message: Message,
    pub(super) time: Timestamp,
    /// It is kept back until then.
    pub(super) due: i64,
}

impl Parcel {
    pub(super) fn read(record: &BorrowedMessage<'_>, pages: &mut Pages) -> Self {
        let (mut id, mut due) = (None, 0);
        let mut headers = Headers::default();
        for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
            let value = header.value.unwrap_or_default();
            match std::str::from_utf8(value) {
                Ok(text) if id.is_none() && header.key == ID => id = Some(MessageId::from(text)),
                Ok(text) if header.key == DUE => due = text.parse().unwrap_or(0),
                _ => headers.add(header.key, pages.copy(value)),
            }
        }
        let place = || format!("{}/{}/{}", record.topic(), record.partition(), record.offset());
        let message = Message {
            id: id.unwrap_or_else(|| MessageId::from(place().as_str())),
            key: record.key().map(|key| pages.copy(key)),
            headers,
            payload: pages.copy(record.payload().unwrap_or_default()),
            partition: None,
            delay: None,
        };
        Self { message, time: from_millis(record.timestamp().to_millis().unwrap_or_default()), due }
    }

    pub(super) fn size(&self) -> usize {
        self.message.size()
    }

    /// The same in memory of its own: it may stay long, and mustn't keep its neighbours'.
    pub(super) fn alone(&self) -> Self {
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let Message { id, key, headers, payload, partition, delay } = &self.message;
        let message = Message {
            id: id.clone(),
            key: key.as_ref().map(own),
            headers: headers.iter().map(|(name, value)| (name, own(value))).collect(),
            payload: own(payload),
            partition: *partition,
            delay: *delay,
        };
        Self { message, ..*self }
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
