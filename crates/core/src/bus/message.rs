//! What travels: messages out, deliveries in.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::Timestamp;

/// The identity of a message: a UUIDv7 unless the publisher names its own. It survives redelivery, dead-lettering,
/// redrive and copying to another engine, and is what consumers deduplicate by.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Repr);

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    // Canonical UUID text is always held as `Uuid`, so equal ids compare equal however they were written.
    Uuid(Uuid),
    Text(Box<str>),
}

impl MessageId {
    /// A new id, larger than the ones this process made in earlier milliseconds.
    pub fn new() -> Self {
        Self(Repr::Uuid(Uuid::now_v7()))
    }

    /// The 16 bytes of a UUID, or the bytes of the text. [`MessageId::from_stored`] reads them back.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Uuid(uuid) => uuid.as_bytes(),
            Repr::Text(text) => text.as_bytes(),
        }
    }

    /// Whether [`MessageId::as_bytes`] are a UUID's.
    pub fn is_uuid(&self) -> bool {
        matches!(self.0, Repr::Uuid(_))
    }

    /// Reads what [`MessageId::as_bytes`] gave, `uuid` saying which of the two it is.
    /// Bytes that can't be either are kept as lossy text.
    pub fn from_stored(bytes: &[u8], uuid: bool) -> Self {
        match Uuid::from_slice(bytes) {
            Ok(id) if uuid => Self(Repr::Uuid(id)),
            _ => Self::from(String::from_utf8_lossy(bytes).as_ref()),
        }
    }
}

impl Default for MessageId {
    fn default() -> Self {
        Self::new()
    }
}

impl From<&str> for MessageId {
    fn from(text: &str) -> Self {
        match Uuid::try_parse(text) {
            Ok(uuid) if uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text => {
                Self(Repr::Uuid(uuid))
            }
            _ => Self(Repr::Text(text.into())),
        }
    }
}

impl From<Uuid> for MessageId {
    fn from(uuid: Uuid) -> Self {
        Self(Repr::Uuid(uuid))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Uuid(uuid) => fmt::Display::fmt(uuid, f),
            Repr::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Named values beside the payload, in the order they were added. A name may occur more than once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Bytes)>);

impl Headers {
    /// The last value under this name.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The last value under this name, if it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Adds a value behind those that are there.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<Bytes>) {
        self.0.push((name.into(), value.into()));
    }

    /// Takes out every value under this name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| n != name);
    }

    /// Name and value, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<String>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// One message.
///
/// ```
/// use linchpin_core::bus::Message;
///
/// let message = Message::new("2 × white lantern").key("customer-17850").header("country", "GB");
/// assert_eq!(message.headers.text("country"), Some("GB"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its identity.
    pub id: MessageId,
    /// What orders it: messages of one key stay in publish order. `None` has no order.
    pub key: Option<Bytes>,
    /// Named values beside the payload.
    pub headers: Headers,
    /// The content, opaque to every engine. Small ones that were fetched together may share memory, up to 64 KiB of it: copy what
    /// is kept for long.
    pub payload: Bytes,
    /// The partition, chosen by hand; `None` leaves it to the [`Partitioner`](super::Partitioner). `None` in a delivery:
    /// its [`Delivery::position`] says where it stands.
    pub partition: Option<u32>,
    /// How long the engine keeps it back: it enters the topic, and takes its offset, only when due. `None` in a
    /// delivery.
    pub delay: Option<Duration>,
}

impl Message {
    /// A message with a new id and nothing but a payload.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self {
            id: MessageId::new(),
            key: None,
            headers: Headers::default(),
            payload: payload.into(),
            partition: None,
            delay: None,
        }
    }

    /// With this identity instead of a new one.
    pub fn id(mut self, id: impl Into<MessageId>) -> Self {
        self.id = id.into();
        self
    }

    /// With this key.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With one more header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.add(name, value);
        self
    }

    /// To this partition.
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Not before `delay` has passed.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Bytes of payload, key, headers and id: what the size limit of a topic counts.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.payload.len() + self.key.as_ref().map_or(0, Bytes::len) + headers + self.id.as_bytes().len()
    }
}

/// Where a message stands in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The partition, counted from 0.
    pub partition: u32,
    /// Its place in the partition; rises with publish order. `None` where it has none: a delayed message that
    /// isn't due yet, or an engine without offsets.
    pub offset: Option<u64>,
}

impl Position {
    /// The place `offset` in `partition`.
    pub fn new(partition: u32, offset: u64) -> Self {
        Self { partition, offset: Some(offset) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{}/{offset}", self.partition),
            None => write!(f, "{}/-", self.partition),
        }
    }
}

/// Names one delivery to the subscription that made it. Meaningless to any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Receipt(pub u64);

/// One message handed to one member of a group.
///
/// Not `Clone`: settling takes it, so a delivery is settled once or not at all.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Where it stands.
    pub position: Position,
    /// When the engine stored it, by the engine's clock.
    pub time: Timestamp,
    /// How often it was handed out, this time included: 1 is the first. Survives restarts.
    pub attempt: u32,
    /// The fencing token of the partition's owner under [`Order::Key`](super::Order::Key) and
    /// [`Order::Partition`](super::Order::Partition): a later owner's is larger. 0 without order.
    pub fence: u64,
    /// Names this delivery when it is settled.
    pub receipt: Receipt,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_compare_by_meaning_and_round_trip() {
        let id = MessageId::new();
        assert_eq!(MessageId::from(id.to_string().as_str()), id);
        assert_eq!(MessageId::from_stored(id.as_bytes(), true), id);
        let own = MessageId::from("order-17");
        assert!(!own.is_uuid());
        assert_eq!(MessageId::from_stored(own.as_bytes(), own.is_uuid()), own);
        // 16 bytes of text are text, and upper-case UUID text is kept as written.
        let text = MessageId::from("0123456789abcdef");
        assert_eq!(MessageId::from_stored(text.as_bytes(), text.is_uuid()), text);
        let upper = id.to_string().to_uppercase();
        assert_eq!(MessageId::from(upper.as_str()).to_string(), upper);
    }

    #[test]
    fn last_header_wins_and_all_are_kept() {
        let mut headers: Headers = [("a", "1"), ("b", "2"), ("a", "3")].into_iter().collect();
        assert_eq!((headers.text("a"), headers.iter().len()), (Some("3"), 3));
        headers.remove("a");
        assert_eq!(headers.get("a"), None);
    }
}
