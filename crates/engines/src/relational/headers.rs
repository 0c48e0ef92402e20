//! Message headers in one blob: each name and value with its length before it, as LEB128.

use bytes::Bytes;
use linchpin_core::bus::Headers;

/// The headers as stored; `None` if there are none.
pub fn encode_headers(headers: &Headers) -> Option<Vec<u8>> {
    if headers.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    for (name, value) in headers.iter() {
        put(&mut out, name.as_bytes());
        put(&mut out, value);
    }
    Some(out)
}

/// Reads what [`encode_headers`] gave; what is cut short is left out.
pub fn decode_headers(mut stored: &[u8]) -> Headers {
    let mut headers = Headers::default();
    while let Some((name, rest)) = take(stored) {
        let Some((value, rest)) = take(rest) else { break };
        headers.add(String::from_utf8_lossy(name), Bytes::copy_from_slice(value));
        stored = rest;
    }
    headers
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    let mut len = part.len();
    while len >= 0x80 {
        out.push(0x80 | (len & 0x7f) as u8);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(part);
}

fn take(stored: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = stored.iter().position(|byte| *byte < 0x80).filter(|end| *end < 9)?;
    let (len, rest) = stored.split_at_checked(end + 1)?;
    let len = len.iter().rev().fold(0, |len, byte| len << 7 | usize::from(byte & 0x7f));
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        let long = "v".repeat(20_000);
        let mut headers: Headers = [("a", "1"), ("", ""), ("a", "ü")].into_iter().collect();
        headers.add("long", long);
        let stored = encode_headers(&headers).unwrap();
        assert_eq!(decode_headers(&stored), headers);
        assert_eq!(encode_headers(&Headers::default()), None);
    }

    #[test]
    fn damage_ends_the_list_without_a_panic() {
        let stored = encode_headers(&[("a", "1"), ("b", "2")].into_iter().collect()).unwrap();
        assert_eq!(decode_headers(&stored[..stored.len() - 1]).iter().len(), 1);
        assert!(decode_headers(&[0xff; 32]).is_empty());
    }
}
