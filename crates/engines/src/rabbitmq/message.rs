//! Messages as AMQP has them: what any client can read and write.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use linchpin_core::Timestamp;
use linchpin_core::bus::{Headers, Message, MessageId};
use linchpin_core::time::from_millis;

const KEY: &str = "lp-key";
const ID: &str = "lp-id";
/// When it was stored, in milliseconds since 1970, by the publisher's clock: the server has no finer one.
const TIME: &str = "lp-time";
/// Not before this time, in the same measure.
const DUE: &str = "lp-due";
/// How often it had been handed out when this copy was made.
const ATTEMPTS: &str = "lp-attempts";
/// Names and values in turn, where a table can't hold them: it sorts, has each name once, and no empty ones.
const HEADERS: &str = "lp-headers";
/// Says of a message that it is none: it only shows that what was sent before it was taken.
pub(super) const MARKER: &str = "lp-marker";

const OWN: [&str; 7] = [KEY, ID, TIME, DUE, ATTEMPTS, HEADERS, MARKER];
const PERSISTENT: u8 = 2;
const LONGEST: usize = 255;

/// A message as it lies in a queue.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) message: Message,
    pub(super) time: Timestamp,
    pub(super) due: Option<Timestamp>,
    /// How often it had been handed out when this copy was made.
    pub(super) attempts: u32,
}

/// A message that came, and what the server says of it.
#[derive(Debug)]
pub(super) struct Came {
    pub(super) stored: Stored,
    /// How often the queue took it back.
    pub(super) returns: u32,
    pub(super) marker: bool,
}

fn long(bytes: &[u8]) -> AMQPValue {
    AMQPValue::LongString(LongString::from(bytes.to_vec()))
}

fn plain(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST && !name.starts_with("x-") && !OWN.contains(&name)
}

impl Stored {
    /// As AMQP carries it.
    pub(super) fn properties(&self) -> BasicProperties {
        let message = &self.message;
        let mut table = FieldTable::default();
        let names: Vec<&str> = message.headers.iter().map(|(name, _)| name).collect();
        if names.iter().all(|name| plain(name)) && names.is_sorted_by(|a, b| a < b) {
            for (name, value) in message.headers.iter() {
                table.insert(name.into(), long(value));
            }
        } else {
            let mut list = FieldArray::default();
            for (name, value) in message.headers.iter() {
                list.push(long(name.as_bytes()));
                list.push(long(value));
                if plain(name) {
                    table.insert(name.into(), long(value));
                }
            }
            table.insert(HEADERS.into(), AMQPValue::FieldArray(list));
        }
        if let Some(key) = &message.key {
            table.insert(KEY.into(), long(key));
        }
        table.insert(TIME.into(), AMQPValue::LongLongInt(self.time.as_millisecond()));
        if let Some(due) = self.due {
            table.insert(DUE.into(), AMQPValue::LongLongInt(due.as_millisecond()));
        }
        if self.attempts > 0 {
            table.insert(ATTEMPTS.into(), AMQPValue::LongLongInt(self.attempts.into()));
        }
        let seconds = u64::try_from(self.time.as_second()).unwrap_or(0);
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_timestamp(seconds);
        let id = message.id.to_string();
        match ShortString::try_new(id.as_str()) {
            Ok(id) => properties.with_message_id(id).with_headers(table),
            Err(_) => {
                table.insert(ID.into(), long(id.as_bytes()));
                properties.with_headers(table)
            }
        }
    }
}

/// Reads what any client may have published.
pub(super) fn read(properties: &BasicProperties, payload: Vec<u8>) -> Came {
    let empty = FieldTable::default();
    let table = properties.headers().as_ref().unwrap_or(&empty);
    let number = |name: &str| table.inner().get(name).and_then(whole);
    let count = |name: &str| number(name).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let id = match (table.inner().get(ID).and_then(bytes), properties.message_id()) {
        (Some(id), _) => MessageId::from(String::from_utf8_lossy(&id).as_ref()),
        (None, Some(id)) => MessageId::from(id.as_str()),
        (None, None) => MessageId::new(),
    };
    let seconds = properties.timestamp().and_then(|s| i64::try_from(s).ok());
    let time = number(TIME).or(seconds.map(|s| s.saturating_mul(1000)));
    let message = Message {
        id,
        key: table.inner().get(KEY).and_then(bytes),
        headers: headers(table),
        payload: payload.into(),
        partition: None,
        delay: None,
    };
    Came {
        stored: Stored {
            message,
            time: time.map_or_else(Timestamp::now, from_millis),
            due: number(DUE).map(from_millis),
            attempts: count(ATTEMPTS).unwrap_or(0),
        },
        // The first counts every way back since 4.3; before that the second does.
        returns: count("x-acquired-count").or_else(|| count("x-delivery-count")).unwrap_or(0),
        marker: table.contains_key(MARKER),
    }
}

fn headers(table: &FieldTable) -> Headers {
    if let Some(AMQPValue::FieldArray(list)) = table.inner().get(HEADERS) {
        let pairs = list.as_slice().chunks_exact(2).filter_map(|pair| match pair {
            [name, value] => Some((String::from_utf8_lossy(&bytes(name)?).into_owned(), bytes(value)?)),
            _ => None,
        });
        return pairs.collect();
    }
    let named = table.inner().iter().filter(|(name, _)| plain(name.as_str()));
    named.filter_map(|(name, value)| Some((name.as_str().to_owned(), bytes(value)?))).collect()
}

fn whole(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::ShortShortInt(n) => i64::from(*n),
        AMQPValue::ShortShortUInt(n) => i64::from(*n),
        AMQPValue::ShortInt(n) => i64::from(*n),
        AMQPValue::ShortUInt(n) => i64::from(*n),
        AMQPValue::LongInt(n) => i64::from(*n),
        AMQPValue::LongUInt(n) => i64::from(*n),
        AMQPValue::LongLongInt(n) => *n,
        AMQPValue::Timestamp(n) => i64::try_from(*n).ok()?,
        _ => return None,
    })
}

/// Text and bytes as they are, the rest as text; what is nested has none.
fn bytes(value: &AMQPValue) -> Option<Bytes> {
    Some(match value {
        AMQPValue::LongString(text) => Bytes::copy_from_slice(text.as_bytes()),
        AMQPValue::ShortString(text) => Bytes::copy_from_slice(text.as_str().as_bytes()),
        AMQPValue::ByteArray(bytes) => Bytes::copy_from_slice(bytes.as_slice()),
        AMQPValue::Boolean(flag) => Bytes::from(flag.to_string()),
        AMQPValue::Float(number) => Bytes::from(number.to_string()),
        AMQPValue::Double(number) => Bytes::from(number.to_string()),
        other => Bytes::from(whole(other)?.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(message: Message) -> Stored {
        Stored { message, time: from_millis(1_234), due: None, attempts: 0 }
    }

    fn again(stored: &Stored) -> Came {
        read(&stored.properties(), stored.message.payload.to_vec())
    }

    #[test]
    fn everything_comes_back_as_it_was() {
        let odd = Message::new("x").header("n", "1").header("n", vec![0, 255]).header("", "").key(vec![255]);
        let long = Message::new("").id("i".repeat(300).as_str()).header("lp-key", "mine").header("x-y", "z");
        for message in [Message::new("plain").header("a", "1").header("b", "2"), odd, long] {
            let came = again(&stored(message.clone()));
            assert_eq!(came.stored.message, message);
            assert_eq!((came.stored.time, came.returns, came.marker), (from_millis(1_234), 0, false));
        }
        let copy = Stored { due: Some(from_millis(9)), attempts: 3, ..stored(Message::new("x")) };
        assert_eq!((again(&copy).stored.due, again(&copy).stored.attempts), (copy.due, 3));
    }

    #[test]
    fn what_others_publish_is_read() {
        let mut table = FieldTable::default();
        table.insert("n".into(), AMQPValue::LongInt(7));
        table.insert("x-delivery-count".into(), AMQPValue::LongLongInt(2));
        let properties = BasicProperties::default().with_timestamp(5).with_headers(table);
        let came = read(&properties, b"bare".to_vec());
        assert_eq!((came.stored.message.headers.text("n"), came.returns), (Some("7"), 2));
        assert_eq!((came.stored.time, came.stored.message.headers.iter().len()), (from_millis(5_000), 1));
    }
}
