//! A message as one line of JSON: what `tail` prints and `send` reads.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use linchpin::bus::{Delivery, Message};
use serde::{Deserialize, Serialize};

/// One message. Bytes that aren't UTF-8 travel in base64, so that what `tail` printed can be sent again unharmed;
/// headers come by name, and those of one name in their order.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Header>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    // Where it stood and how it came: told by `tail`, ignored by `send`.
    partition: Option<u32>,
    offset: Option<u64>,
    time: Option<String>,
    attempt: Option<u32>,
}

/// A header's value, or its values if it occurs more than once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Header {
    Text(String),
    Base64 { base64: String },
    Many(Vec<Header>),
}

impl Line {
    /// What `tail` prints.
    pub(super) fn of(delivery: &Delivery) -> Self {
        let message = &delivery.message;
        let (payload, payload_base64) = split(Some(&message.payload));
        let (key, key_base64) = split(message.key.as_ref());
        let mut headers = BTreeMap::new();
        for (name, value) in message.headers.iter() {
            let value = Header::of(value);
            match headers.get_mut(name) {
                None => drop(headers.insert(name.to_owned(), value)),
                Some(Header::Many(values)) => values.push(value),
                Some(first) => {
                    let one = std::mem::replace(first, Header::Many(Vec::new()));
                    *first = Header::Many(vec![one, value]);
                }
            }
        }
        Self {
            id: Some(message.id.to_string()),
            key,
            key_base64,
            headers,
            payload,
            payload_base64,
            delay: None,
            partition: Some(delivery.position.partition),
            offset: delivery.position.offset,
            time: Some(delivery.time.to_string()),
            attempt: Some(delivery.attempt),
        }
    }

    /// What `send` reads from one line; the error says what is wrong with it.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        if !text.trim_ascii_start().starts_with(b"{") {
            return Err("it isn't a JSON object (--lines sends lines as they stand)".into());
        }
        // The position of the error would be one inside the line: "line 1" misleads.
        let place = |e: serde_json::Error| {
            let text = e.to_string();
            let what = text.split(" at line ").next().unwrap_or(&text);
            format!("{what} at column {}", e.column())
        };
        serde_json::from_slice(text).map_err(place)
    }

    /// The message it stands for.
    pub(super) fn message(self) -> Result<Message, String> {
        let payload = join("payload", self.payload, self.payload_base64)?;
        let mut message = Message::new(payload.ok_or("it has no payload")?);
        if let Some(id) = self.id {
            message = message.id(id.as_str());
        }
        message.key = join("key", self.key, self.key_base64)?;
        for (name, value) in self.headers {
            value.add_to(&name, &mut message)?;
        }
        message.delay = self.delay.map(|delay| super::duration(&delay)).transpose()?.filter(|d| !d.is_zero());
        Ok(message)
    }
}

impl Header {
    fn of(value: &Bytes) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64 { base64: STANDARD.encode(value) },
        }
    }

    fn add_to(self, name: &str, message: &mut Message) -> Result<(), String> {
        match self {
            Self::Text(text) => message.headers.add(name, text),
            Self::Base64 { base64 } => message.headers.add(name, decode(&format!("header {name}"), &base64)?),
            Self::Many(values) => {
                for value in values {
                    value.add_to(name, message)?;
                }
            }
        }
        Ok(())
    }
}

fn split(bytes: Option<&Bytes>) -> (Option<String>, Option<String>) {
    match bytes.map(|b| std::str::from_utf8(b).map_err(|_| b)) {
        None => (None, None),
        Some(Ok(text)) => (Some(text.to_owned()), None),
        Some(Err(bytes)) => (None, Some(STANDARD.encode(bytes))),
    }
}

fn join(what: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("it has both {what} and {what}_base64")),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => decode(what, &base64).map(Some),
        (None, None) => Ok(None),
    }
}

fn decode(what: &str, base64: &str) -> Result<Bytes, String> {
    STANDARD.decode(base64).map(Bytes::from).map_err(|e| format!("{what} isn't base64: {e}"))
}

/// What a line of `send` doesn't say itself.
#[derive(Debug, Default)]
pub(super) struct Defaults {
    pub(super) key: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) delay: Option<Duration>,
    pub(super) partition: Option<u32>,
}

impl Defaults {
    pub(super) fn fill(&self, mut message: Message) -> Message {
        message.key = message.key.or_else(|| self.key.clone().map(Bytes::from));
        message.delay = message.delay.or(self.delay);
        message.partition = self.partition;
        for (name, value) in &self.headers {
            if message.headers.get(name).is_none() {
                message.headers.add(name.clone(), value.clone());
            }
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use linchpin::Timestamp;
    use linchpin::bus::{Position, Receipt};

    use super::*;

    fn delivery(message: Message) -> Delivery {
        let position = Position::new(3, 17);
        let time = Timestamp::UNIX_EPOCH;
        Delivery { message, position, time, attempt: 2, fence: 0, receipt: Receipt(1) }
    }

    #[test]
    fn what_tail_prints_can_be_sent_again_whole() {
        let mut message = Message::new(vec![0xff, 0, 1]).key(vec![0xfe]).id("order-1").header("a", "1");
        message = message.header("a", "2").header("a", vec![0xff]).header("b", vec![0x80]);
        let sent = delivery(message);
        let line = serde_json::to_vec(&Line::of(&sent)).unwrap();
        let again = Line::parse(&line).unwrap().message().unwrap();
        assert_eq!(again, sent.message);
    }

    #[test]
    fn text_is_printed_as_text() {
        let line = Line::of(&delivery(Message::new("2 lanterns").id("o").key("k")));
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"id":"o","key":"k","payload":"2 lanterns","partition":3,"offset":17,"time":"1970-01-01T00:00:00Z","attempt":2}"#
        );
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        for (text, what) in [
            ("{}", "no payload"),
            (r#"{"payload":"a","payload_base64":"YQ=="}"#, "both payload and payload_base64"),
            (r#"{"payload_base64":"%"}"#, "isn't base64"),
            (r#"{"payload":"a","kee":"k"}"#, "unknown field `kee`"),
            (r#"{"payload":"a","delay":"soon"}"#, "expected a duration"),
            (r#"{"payload":"a""#, "at column"),
            (r#"{"payload":7}"#, "expected a string"),
            ("plain", "isn't a JSON object"),
        ] {
            let error = Line::parse(text.as_bytes()).and_then(Line::message).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
            assert!(!error.contains("at line"), "{text}: {error}");
        }
    }

    #[test]
    fn a_line_goes_before_the_defaults() {
        let defaults = Defaults {
            key: Some("all".into()),
            headers: vec![("a".into(), "0".into()), ("b".into(), "0".into())],
            delay: Some(Duration::from_secs(5)),
            partition: Some(1),
        };
        let message = defaults.fill(Message::new("x").key("own").header("a", "1"));
        assert_eq!(message.key.unwrap(), "own");
        assert_eq!((message.headers.text("a"), message.headers.text("b")), (Some("1"), Some("0")));
        assert_eq!((message.delay, message.partition), (Some(Duration::from_secs(5)), Some(1)));
    }
}
