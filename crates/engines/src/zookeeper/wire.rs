//! ZooKeeper's records ("jute"): big-endian numbers, lengths before bytes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use linchpin_core::Result;

use super::error;

/// The first four bytes of a frame tell its length.
pub(super) const LENGTH: usize = 4;

/// What a node is, without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// The transaction that made the node.
    pub(super) czxid: i64,
    /// The transaction that wrote its data last.
    pub(super) mzxid: i64,
    /// How often its data was written. It begins at 0 again when the node is made again.
    pub(super) version: i32,
    /// The session the node vanishes with, 0 for none.
    pub(super) owner: i64,
}

/// Writes a record.
pub(super) trait Put {
    fn put_text(&mut self, text: &str);
    fn put_buffer(&mut self, bytes: &[u8]);
    fn put_bool(&mut self, flag: bool);
}

impl Put for BytesMut {
    fn put_text(&mut self, text: &str) {
        self.put_buffer(text.as_bytes());
    }

    fn put_buffer(&mut self, bytes: &[u8]) {
        // Keys and values are bounded far below 2 GiB.
        self.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        self.put_slice(bytes);
    }

    fn put_bool(&mut self, flag: bool) {
        self.put_u8(u8::from(flag));
    }
}

/// Reads a record; what is short is an error, never a panic.
pub(super) trait Take {
    fn int(&mut self) -> Result<i32>;
    fn long(&mut self) -> Result<i64>;
    fn flag(&mut self) -> Result<bool>;
    fn buffer(&mut self) -> Result<Bytes>;
    fn text(&mut self) -> Result<String>;
    fn texts(&mut self) -> Result<Vec<String>>;
    fn stat(&mut self) -> Result<Stat>;
}

impl Take for Bytes {
    fn int(&mut self) -> Result<i32> {
        self.try_get_i32().map_err(|_| error::garbled())
    }

    fn long(&mut self) -> Result<i64> {
        self.try_get_i64().map_err(|_| error::garbled())
    }

    fn flag(&mut self) -> Result<bool> {
        Ok(self.try_get_u8().map_err(|_| error::garbled())? != 0)
    }

    /// A length of -1 is null, which is empty here.
    fn buffer(&mut self) -> Result<Bytes> {
        let length = usize::try_from(self.int()?.max(0)).unwrap_or_default();
        if length > self.len() {
            return Err(error::garbled());
        }
        Ok(self.split_to(length))
    }

    fn text(&mut self) -> Result<String> {
        String::from_utf8(self.buffer()?.into()).map_err(|_| error::garbled())
    }

    fn texts(&mut self) -> Result<Vec<String>> {
        let count = self.int()?.max(0);
        (0..count).map(|_| self.text()).collect()
    }

    fn stat(&mut self) -> Result<Stat> {
        let (czxid, mzxid) = (self.long()?, self.long()?);
        let (_ctime, _mtime) = (self.long()?, self.long()?);
        let version = self.int()?;
        let (_cversion, _aversion) = (self.int()?, self.int()?);
        let owner = self.long()?;
        let (_length, _children, _pzxid) = (self.int()?, self.int()?, self.long()?);
        Ok(Stat { czxid, mzxid, version, owner })
    }
}

/// Takes the first whole frame off what was read.
pub(super) fn frame(read: &mut BytesMut) -> Result<Option<Bytes>> {
    let mut peek = read.as_ref();
    let Ok(length) = peek.try_get_i32() else { return Ok(None) };
    let length = usize::try_from(length).map_err(|_| error::garbled())?;
    if peek.len() < length {
        return Ok(None);
    }
    read.advance(LENGTH);
    Ok(Some(read.split_to(length).freeze()))
}

/// Puts a record into a frame.
pub(super) fn framed(record: &[u8], out: &mut BytesMut) {
    out.put_buffer(record);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut out = BytesMut::new();
        out.put_text("käse");
        out.put_buffer(b"\0\xff");
        out.put_bool(true);
        out.put_i32(2);
        out.put_text("a");
        out.put_text("b");
        let mut read = out.freeze();
        assert_eq!(read.text().unwrap(), "käse");
        assert_eq!(read.buffer().unwrap(), b"\0\xff"[..]);
        assert!(read.flag().unwrap());
        assert_eq!(read.texts().unwrap(), ["a", "b"]);
        assert!(read.is_empty());
    }

    #[test]
    fn what_is_short_is_an_error() {
        assert!(Bytes::from_static(&[0, 0]).int().is_err());
        assert!(Bytes::from_static(&[0, 0, 0, 9, 1]).buffer().is_err());
        assert!(Bytes::from_static(&[0, 0, 0, 1, 0xff]).text().is_err());
        assert!(Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff]).texts().is_err());
        assert!(Bytes::from_static(&[0xff, 0xff, 0xff, 0xff]).buffer().unwrap().is_empty());
    }

    #[test]
    fn frames_come_apart() {
        let mut read = BytesMut::from(&[0, 0, 0, 2, 7, 8, 0, 0, 0, 0, 0, 0][..]);
        assert_eq!(frame(&mut read).unwrap().unwrap(), [7, 8][..]);
        assert!(frame(&mut read).unwrap().unwrap().is_empty());
        assert!(frame(&mut read).unwrap().is_none());
        assert!(frame(&mut BytesMut::from(&[0xff; 4][..])).is_err());
    }
}
