//! Headers as a JSON object, in the order they were added. A name may occur more than once; a value that isn't text is an
//! array of its bytes.

use std::fmt;

use bytes::Bytes;
use linchpin_core::bus::Headers;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// The headers as stored; `None` if there are none.
pub(super) fn encode(headers: &Headers) -> Option<String> {
    // Strings and bytes always have a JSON form.
    if headers.is_empty() { None } else { serde_json::to_string(&Json(headers)).ok() }
}

/// Reads what [`encode`] gave, or what another program wrote; nothing of what isn't such an object.
pub(super) fn decode(stored: &[u8]) -> Headers {
    serde_json::from_slice::<Read>(stored).map(|read| read.0).unwrap_or_default()
}

struct Json<'a>(&'a Headers);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.0.iter() {
            match std::str::from_utf8(value) {
                Ok(text) => map.serialize_entry(name, text)?,
                Err(_) => map.serialize_entry(name, value.as_ref())?,
            }
        }
        map.end()
    }
}

struct Read(Headers);

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Bytes(Vec<u8>),
    Other(serde_json::Value),
}

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Pairs)
    }
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of headers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Read, A::Error> {
        let mut headers = Headers::default();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            headers.add(
                name,
                match value {
                    Value::Text(text) => Bytes::from(text),
                    Value::Bytes(bytes) => Bytes::from(bytes),
                    Value::Other(other) => Bytes::from(other.to_string()),
                },
            );
        }
        Ok(Read(headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_repeats_and_bytes_round_trip() {
        let mut headers: Headers = [("b", "1"), ("a", "\0\"ü"), ("b", "2"), ("", "")].into_iter().collect();
        headers.add("raw", Bytes::from_static(&[0xff, 0]));
        let stored = encode(&headers).unwrap();
        assert_eq!(stored, r#"{"b":"1","a":"\u0000\"ü","b":"2","":"","raw":[255,0]}"#);
        assert_eq!(decode(stored.as_bytes()), headers);
        assert_eq!(encode(&Headers::default()), None);
    }

    #[test]
    fn what_others_wrote_is_read_as_far_as_it_goes() {
        assert_eq!(decode(br#"{"n": 7, "t": true}"#).text("n"), Some("7"));
        assert!(decode(b"[1]").is_empty() && decode(b"no JSON").is_empty());
    }
}
