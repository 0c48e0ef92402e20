//! Messages on the wire: payload as payload, headers as headers.
//!
//! What NATS has no place for goes into headers of ours: `lp-id`, `lp-key` (percent-encoded) and, where NATS' headers
//! can't hold what was sent — several names keep no order there, values must be one line of text —, `lp-headers`:
//! every header in order, joined by `&`, as `name` (its value is the next under that name) or `name=value`, both
//! percent-encoded.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::RawMessage;
use bytes::Bytes;
use linchpin_core::bus::{Headers, Message, MessageId};
use linchpin_core::{Error, Kind, Result, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use super::NAME;

const ID: &str = "lp-id";
const KEY: &str = "lp-key";
const HEADERS: &str = "lp-headers";
/// When a delayed message is due, in milliseconds since 1970 by the server's clock.
pub(super) const DUE: &str = "lp-due";
/// The subject a delayed message is bound for.
pub(super) const BOUND: &str = "lp-bound-for";
/// What the server itself reads, and writes.
const SERVER: &str = "nats-";

const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, ESCAPED).to_string()
}

fn decode(text: &str) -> Bytes {
    match Cow::from(percent_decode_str(text)) {
        Cow::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
        Cow::Owned(bytes) => bytes.into(),
    }
}

fn is_ours(name: &str) -> bool {
    [ID, KEY, HEADERS, DUE, BOUND].contains(&name)
}

/// The name and value as NATS can hold them, if it can. Names the server reads would do something there.
fn native<'m>(name: &str, value: &'m [u8]) -> Option<&'m str> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    let theirs = name.get(..SERVER.len()).is_some_and(|start| start.eq_ignore_ascii_case(SERVER));
    let text = std::str::from_utf8(value).ok()?;
    let line = !text.is_empty() && text.trim() == text && !text.contains(['\r', '\n', '\0']);
    (plain && line && !theirs && !is_ours(name)).then_some(text)
}

/// The headers of a message.
pub(super) fn headers(message: &Message) -> HeaderMap {
    let mut map = HeaderMap::new();
    let id = message.id.to_string();
    map.insert(ID, if message.id.is_uuid() { id } else { encode(id.as_bytes()) });
    if let Some(key) = &message.key {
        map.insert(KEY, encode(key));
    }
    let mut names = BTreeSet::new();
    let mut lossless = true;
    for (name, value) in message.headers.iter() {
        names.insert(name);
        match native(name, value) {
            Some(text) => map.append(name, text),
            None => lossless = false,
        }
    }
    if !lossless || names.len() > 1 {
        map.insert(HEADERS, listed(&message.headers));
    }
    map
}

fn listed(headers: &Headers) -> String {
    let entries = headers.iter().map(|(name, value)| match native(name, value) {
        Some(_) => encode(name.as_bytes()),
        None => format!("{}={}", encode(name.as_bytes()), encode(value)),
    });
    entries.collect::<Vec<_>>().join("&")
}

/// The message of `sequence`; one without an id of ours gets one made from its place.
pub(super) fn message(map: Option<&HeaderMap>, payload: Bytes, stream: &str, sequence: u64) -> Message {
    let empty = HeaderMap::new();
    let map = map.unwrap_or(&empty);
    let id = map.get(ID).map(|id| percent_decode_str(id.as_str()).decode_utf8_lossy());
    let id = id.map(|id| MessageId::from(id.as_ref()));
    let ours = id.is_some();
    Message {
        id: id.unwrap_or_else(|| MessageId::from(format!("{stream}/{sequence}").as_str())),
        key: map.get(KEY).map(|key| decode(key.as_str())),
        headers: restored(map, ours),
        payload,
        partition: None,
        delay: None,
    }
}

/// The headers in the order of `lp-headers`, then what others added.
fn restored(map: &HeaderMap, ours: bool) -> Headers {
    // Most have none of their own.
    if map.iter().all(|(name, _)| [ID, KEY].contains(&name.as_ref())) {
        return Headers::default();
    }
    let mut left: HashMap<&str, std::vec::IntoIter<&str>> = HashMap::new();
    for (name, values) in map.iter() {
        let name: &str = name.as_ref();
        let servers = ours && name.get(..SERVER.len()).is_some_and(|s| s.eq_ignore_ascii_case(SERVER));
        if !is_ours(name) && !servers {
            left.insert(name, values.iter().map(|v| v.as_str()).collect::<Vec<_>>().into_iter());
        }
    }
    let mut headers = Headers::default();
    let list = map.get(HEADERS).map_or("", |list| list.as_str());
    for entry in list.split('&').filter(|entry| !entry.is_empty()) {
        let (name, value) = entry.split_once('=').map_or((entry, None), |(n, v)| (n, Some(v)));
        let name = String::from_utf8_lossy(&decode(name)).into_owned();
        let mut native = || left.get_mut(name.as_str()).and_then(|v| v.next());
        match value.map(decode).or_else(|| native().map(|v| Bytes::copy_from_slice(v.as_bytes()))) {
            Some(value) => headers.add(name, value),
            None => continue,
        }
    }
    let mut rest: Vec<_> = left.into_iter().collect();
    rest.sort_unstable_by_key(|(name, _)| *name);
    for (name, values) in rest {
        values.for_each(|value| headers.add(name, Bytes::copy_from_slice(value.as_bytes())));
    }
    headers
}

/// The server's time as ours.
pub(super) fn time(at: async_nats::datetime::DateTime) -> Timestamp {
    Timestamp::from_nanosecond(at.unix_timestamp_nanos()).unwrap_or_default()
}

/// A message as JetStream's API shows it.
pub(super) fn raw(raw: RawMessage) -> Result<StreamMessage> {
    let unreadable = |e: async_nats::Error| {
        Error::new(Kind::Corrupt, "a stored message can't be read").engine(NAME).help(e.to_string())
    };
    StreamMessage::try_from(raw).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(sent: &Message) -> Message {
        message(Some(&headers(sent)), sent.payload.clone(), "t", 7)
    }

    #[test]
    fn everything_comes_back_in_order() {
        let sent = Message::new("x").id("own/id ö").key(vec![0, 255, b'%']);
        let sent =
            sent.header("z", "1").header("a", [0_u8, 10, 255].to_vec()).header("z", "2").header("", "");
        let sent = sent.header("Nats-Msg-Id", "mine").header("space", " x").header("lp-id", "theirs");
        assert_eq!(round_trip(&sent), sent);
        let map = headers(&sent);
        assert!(map.get("Nats-Msg-Id").is_none(), "the server would act on it");
        assert_eq!(map.get("z").map(|v| v.as_str()), Some("1"), "text stays text");
    }

    #[test]
    fn one_header_needs_no_list() {
        let sent = Message::new("x").header("traceparent", "00-1-2-01");
        assert!(headers(&sent).get(HEADERS).is_none());
        assert_eq!(round_trip(&sent), sent);
    }

    #[test]
    fn what_others_wrote_is_delivered() {
        let mut map = HeaderMap::new();
        map.insert("b", "2");
        map.insert("a", "1");
        let came = message(Some(&map), "x".into(), "orders", 9);
        assert_eq!(came.id, MessageId::from("orders/9"));
        assert_eq!(came.headers, [("a", "1"), ("b", "2")].into_iter().collect());
        assert_eq!(message(None, "x".into(), "orders", 9).id, came.id);
    }
}
