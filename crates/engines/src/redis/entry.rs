//! A message as an entry of a stream: `payload`, `lp-id`, `lp-key` if it has one, then its headers, as fields.

use std::fmt;

use bytes::Bytes;
use linchpin_core::bus::{Headers, Message, MessageId};
use linchpin_core::time::from_millis;
use linchpin_core::{Timestamp, bus::Position};
use redis::{Cmd, FromRedisValue, ParsingError, Value};

/// The field that holds the content.
pub(super) const PAYLOAD: &str = "payload";
/// The field that holds the identity.
pub(super) const ID: &str = "lp-id";
/// The field that holds the key.
pub(super) const KEY: &str = "lp-key";

/// Bits of an offset that hold the sequence number within a millisecond.
const SEQ_BITS: u32 = 20;

/// The id of an entry. Ids of one stream rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryId {
    pub(super) ms: u64,
    pub(super) seq: u64,
}

impl EntryId {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (ms, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { ms: ms.parse().ok()?, seq: seq.parse().ok()? })
    }

    /// `ms << 20 | seq`: rises with the id, and isn't dense.
    pub(super) fn offset(self) -> u64 {
        let most = (1 << SEQ_BITS) - 1;
        self.ms.min(u64::MAX >> SEQ_BITS) << SEQ_BITS | self.seq.min(most)
    }

    pub(super) fn from_offset(offset: u64) -> Self {
        Self { ms: offset >> SEQ_BITS, seq: offset & ((1 << SEQ_BITS) - 1) }
    }

    pub(super) fn position(self, partition: u32) -> Position {
        Position::new(partition, self.offset())
    }

    pub(super) fn time(self) -> Timestamp {
        from_millis(i64::try_from(self.ms).unwrap_or(i64::MAX))
    }

    /// The last id that could stand before this one.
    pub(super) fn before(self) -> Self {
        match (self.ms, self.seq) {
            (0, 0) => self,
            (ms, 0) => Self { ms: ms - 1, seq: u64::MAX },
            (ms, seq) => Self { ms, seq: seq - 1 },
        }
    }

    /// The first id that could stand behind this one.
    pub(super) fn after(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { seq, ..self },
            None => Self { ms: self.ms + 1, seq: 0 },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// An entry as the server hands it out: its id, and its fields' names and values, one after another.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: EntryId,
    pub(super) fields: Vec<Value>,
}

impl FromRedisValue for Entry {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        match value {
            Value::Array(both) => match <[Value; 2]>::try_from(both) {
                Ok([Value::BulkString(id), Value::Array(fields)]) => {
                    let id =
                        EntryId::parse(&id).ok_or_else(|| "an id of a stream's entry is no id".to_owned())?;
                    Ok(Self { id, fields })
                }
                _ => Err("an entry of a stream isn't an id and its fields".to_owned().into()),
            },
            _ => Err("an entry of a stream is no array".to_owned().into()),
        }
    }
}

/// Field and value of a message, one after another.
pub(super) fn encode(message: &Message) -> Vec<Bytes> {
    let plain = |text: &'static str| Bytes::from_static(text.as_bytes());
    let mut fields = vec![plain(PAYLOAD), message.payload.clone(), plain(ID), message.id.to_string().into()];
    if let Some(key) = &message.key {
        fields.extend([plain(KEY), key.clone()]);
    }
    for (name, value) in message.headers.iter() {
        fields.extend([name.to_owned().into(), value.clone()]);
    }
    fields
}

/// The command that adds a message to a stream that is there. `id` is room for the identity's text.
pub(super) fn add(stream: &str, message: &Message, id: &mut String) -> Cmd {
    id.clear();
    // Writing to a string can't fail.
    let _written = fmt::write(id, format_args!("{}", message.id));
    let words = "XADD".len() + "NOMKSTREAM".len() + "*".len() + PAYLOAD.len() + ID.len() + KEY.len();
    let size = words + stream.len() + id.len() + message.size();
    let mut cmd = Cmd::with_capacity(10 + 2 * message.headers.iter().len(), size);
    cmd.arg("XADD").arg(stream).arg("NOMKSTREAM").arg("*");
    cmd.arg(PAYLOAD).arg(message.payload.as_ref()).arg(ID).arg(id.as_str());
    if let Some(key) = &message.key {
        cmd.arg(KEY).arg(key.as_ref());
    }
    for (name, value) in message.headers.iter() {
        cmd.arg(name).arg(value.as_ref());
    }
    cmd
}

/// Reads an entry's fields. One that Linchpin didn't write is taken as it is: the field `payload`, or the only one there
/// is, is the content, all others are headers; its place makes its identity.
pub(super) fn decode(stream: &str, id: EntryId, fields: Vec<Value>) -> Message {
    let ours = matches!(fields.as_slice(), [Value::BulkString(a), _, Value::BulkString(b), ..]
        if a == PAYLOAD.as_bytes() && b == ID.as_bytes());
    let mut values = fields.into_iter().map(bytes);
    let pairs = std::iter::from_fn(|| Some((values.next()?, values.next()?)));
    if ours { own(pairs) } else { foreign(stream, id, pairs.collect()) }
}

fn own(pairs: impl Iterator<Item = (Bytes, Bytes)>) -> Message {
    let mut pairs = pairs.peekable();
    let payload = pairs.next().map(|(_, value)| value).unwrap_or_default();
    let id = pairs.next().map(|(_, value)| value).unwrap_or_default();
    let key = pairs.next_if(|(name, _)| name == KEY.as_bytes()).map(|(_, value)| value);
    Message { id: identity(&id), key, headers: headers(pairs), payload, partition: None, delay: None }
}

fn foreign(stream: &str, id: EntryId, mut pairs: Vec<(Bytes, Bytes)>) -> Message {
    let mut take = |wanted: &str| {
        let at = pairs.iter().position(|(name, _)| name == wanted.as_bytes())?;
        Some(pairs.remove(at).1)
    };
    let own_id = take(ID).map(|id| identity(&id));
    let (key, payload) = (take(KEY), take(PAYLOAD));
    let payload = match payload {
        Some(payload) => payload,
        None if pairs.len() == 1 => pairs.pop().map(|(_, value)| value).unwrap_or_default(),
        None => Bytes::new(),
    };
    let id = own_id.unwrap_or_else(|| MessageId::from(format!("{stream}/{id}").as_str()));
    Message { id, key, headers: headers(pairs), payload, partition: None, delay: None }
}

fn identity(text: &[u8]) -> MessageId {
    MessageId::from(String::from_utf8_lossy(text).as_ref())
}

fn headers(pairs: impl IntoIterator<Item = (Bytes, Bytes)>) -> Headers {
    pairs.into_iter().map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value)).collect()
}

fn bytes(value: Value) -> Bytes {
    match value {
        Value::BulkString(bytes) => bytes.into(),
        Value::SimpleString(text) => text.into(),
        Value::Int(number) => number.to_string().into(),
        _ => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(fields: &[&str]) -> Vec<Value> {
        fields.iter().map(|f| Value::BulkString(f.as_bytes().to_vec())).collect()
    }

    #[test]
    fn messages_round_trip() {
        let id = EntryId { ms: 7, seq: 1 };
        let message =
            Message::new("x").header("payload", "other").header("", "").header("n", "1").header("n", "2");
        for message in [message.clone(), message.key("k"), Message::new("").id("own id")] {
            let fields = encode(&message).into_iter().map(|f| Value::BulkString(f.to_vec())).collect();
            assert_eq!(decode("s", id, fields), message);
        }
    }

    #[test]
    fn foreign_entries_are_read() {
        let id = EntryId { ms: 7, seq: 1 };
        let one = decode("{t:0}", id, values(&["anything", "x"]));
        assert_eq!((one.payload.as_ref(), one.id.to_string().as_str()), (&b"x"[..], "{t:0}/7-1"));
        assert!(one.headers.is_empty());
        let two = decode("{t:0}", id, values(&["a", "1", "payload", "x", "lp-key", "k"]));
        assert_eq!((two.payload.as_ref(), two.key.as_deref()), (&b"x"[..], Some(&b"k"[..])));
        assert_eq!(two.headers.text("a"), Some("1"));
        let none = decode("{t:0}", id, values(&["a", "1", "b", "2"]));
        assert_eq!((none.payload.len(), none.headers.iter().len()), (0, 2));
    }

    #[test]
    fn offsets_rise_with_ids() {
        let ids = [(0, 1), (5, 0), (5, 3), (1_800_000_000_000, 0), (1_800_000_000_000, 9)];
        let ids = ids.map(|(ms, seq)| EntryId { ms, seq });
        assert!(ids.is_sorted_by(|a, b| a.offset() < b.offset()));
        assert!(ids.iter().all(|id| EntryId::from_offset(id.offset()) == *id));
        assert_eq!(ids[1].before().to_string(), "4-18446744073709551615");
        assert_eq!(EntryId::parse(b"5-3"), Some(ids[2]));
        assert_eq!(ids[1].before().after(), ids[1]);
    }
}
