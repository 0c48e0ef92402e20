//! The requests that are made, and what is said to them.

use bytes::{BufMut, Bytes, BytesMut};
use linchpin_core::Result;

use super::error::{self, Code};
use super::wire::{Put, Stat, Take};

/// What a request is, by ZooKeeper's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Delete = 2,
    Exists = 3,
    GetData = 4,
    SetData = 5,
    GetAcl = 6,
    GetChildren = 8,
    Ping = 11,
    Check = 13,
    Multi = 14,
    Create = 15,
    RemoveWatches = 18,
    CreateContainer = 19,
    MultiRead = 22,
    Auth = 100,
    AddWatch = 106,
    Close = -11,
}

impl Op {
    pub(super) fn number(self) -> i32 {
        self as i32
    }

    /// Whether it changes something: then nobody knows what happened if the answer is lost.
    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Delete | Self::SetData | Self::Multi | Self::Create | Self::CreateContainer)
    }
}

/// One request: what it is, and its record.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) op: Op,
    pub(super) record: BytesMut,
}

/// How a node is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Persistent = 0,
    /// Vanishes with the session that makes it.
    Ephemeral = 1,
    /// Vanishes some time after its last child.
    Container = 4,
}

/// Who may do what to the nodes that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Everybody,
    /// Whoever made them.
    Creator,
}

/// Everything there is to permit.
const ALL: i32 = 31;
/// Any version.
pub(super) const ANY: i32 = -1;

fn request(op: Op, write: impl FnOnce(&mut BytesMut)) -> Request {
    let mut record = BytesMut::new();
    write(&mut record);
    Request { op, record }
}

pub(super) fn create(path: &str, data: &[u8], mode: Mode, access: Access) -> Request {
    let op = if mode == Mode::Container { Op::CreateContainer } else { Op::Create };
    request(op, |out| {
        out.put_text(path);
        out.put_buffer(data);
        out.put_i32(1);
        out.put_i32(ALL);
        let (scheme, id) = match access {
            Access::Everybody => ("world", "anyone"),
            Access::Creator => ("auth", ""),
        };
        out.put_text(scheme);
        out.put_text(id);
        out.put_i32(mode as i32);
    })
}

pub(super) fn set(path: &str, data: &[u8], version: i32) -> Request {
    request(Op::SetData, |out| {
        out.put_text(path);
        out.put_buffer(data);
        out.put_i32(version);
    })
}

fn versioned(op: Op, path: &str, version: i32) -> Request {
    request(op, |out| {
        out.put_text(path);
        out.put_i32(version);
    })
}

pub(super) fn delete(path: &str, version: i32) -> Request {
    versioned(Op::Delete, path, version)
}

pub(super) fn check(path: &str, version: i32) -> Request {
    versioned(Op::Check, path, version)
}

fn reading(op: Op, path: &str) -> Request {
    request(op, |out| {
        out.put_text(path);
        out.put_bool(false);
    })
}

pub(super) fn exists(path: &str) -> Request {
    reading(Op::Exists, path)
}

pub(super) fn data(path: &str) -> Request {
    reading(Op::GetData, path)
}

pub(super) fn children(path: &str) -> Request {
    reading(Op::GetChildren, path)
}

pub(super) fn acl(path: &str) -> Request {
    request(Op::GetAcl, |out| out.put_text(path))
}

/// A watch on the node and all below it, until it is removed.
pub(super) fn add_watch(path: &str) -> Request {
    const RECURSIVE: i32 = 1;
    versioned(Op::AddWatch, path, RECURSIVE)
}

pub(super) fn remove_watches(path: &str) -> Request {
    const OF_ANY_KIND: i32 = 3;
    versioned(Op::RemoveWatches, path, OF_ANY_KIND)
}

pub(super) fn ping() -> Request {
    request(Op::Ping, |_| {})
}

pub(super) fn close() -> Request {
    request(Op::Close, |_| {})
}

pub(super) fn auth(user: &str, password: &str) -> Request {
    request(Op::Auth, |out| {
        out.put_i32(0);
        out.put_text("digest");
        out.put_buffer(format!("{user}:{password}").as_bytes());
    })
}

fn together(op: Op, parts: &[Request]) -> Request {
    const END: i32 = -1;
    request(op, |out| {
        let header = |out: &mut BytesMut, kind: i32| {
            out.put_i32(kind);
            out.put_bool(kind == END);
            out.put_i32(END);
        };
        for part in parts {
            header(out, part.op.number());
            out.put_slice(&part.record);
        }
        header(out, END);
    })
}

/// All of them in one transaction, or none.
pub(super) fn multi(parts: &[Request]) -> Request {
    together(Op::Multi, parts)
}

/// Several reads of one state: the server applies no transaction while it reads.
pub(super) fn multi_read(parts: &[Request]) -> Request {
    together(Op::MultiRead, parts)
}

/// What is said to one part of a multi.
#[derive(Debug)]
pub(super) enum Said {
    Data(Bytes, Stat),
    Children(Vec<String>),
    Done,
    Failed(Code),
}

/// Reads the answers to a multi. Parts before one that failed, and after it, count as done: see [`failure`].
pub(super) fn answers(mut body: Bytes) -> Result<Vec<Said>> {
    let mut all = Vec::new();
    loop {
        let (kind, end, _) = (body.int()?, body.flag()?, body.int()?);
        if end {
            return Ok(all);
        }
        all.push(match kind {
            -1 => match body.int()? {
                // -2 is said to those that weren't tried because another failed.
                0 | -2 => Said::Done,
                code => Said::Failed(Code(code)),
            },
            4 => Said::Data(body.buffer()?, body.stat()?),
            5 => {
                body.stat()?;
                Said::Done
            }
            8 => Said::Children(body.texts()?),
            15 | 19 => {
                body.text()?;
                body.stat()?;
                Said::Done
            }
            // Before 3.8.2, a node's making is answered without what it is.
            1 => {
                body.text()?;
                Said::Done
            }
            2 | 13 => Said::Done,
            _ => return Err(error::garbled()),
        });
    }
}

/// Why a multi failed, if it did.
pub(super) fn failure(answers: &[Said]) -> Option<Code> {
    answers.iter().find_map(|said| match said {
        Said::Failed(code) => Some(*code),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multi_that_failed_names_the_part_that_did() {
        let mut out = BytesMut::new();
        for code in [0, -103, -2] {
            out.put_i32(-1);
            out.put_bool(false);
            out.put_i32(code);
            out.put_i32(code);
        }
        out.put_i32(-1);
        out.put_bool(true);
        out.put_i32(-1);
        let said = answers(out.freeze()).unwrap();
        assert_eq!(said.len(), 3);
        assert_eq!(failure(&said), Some(Code::BAD_VERSION));
    }

    #[test]
    fn an_answer_of_another_kind_is_an_error() {
        let mut out = BytesMut::new();
        out.put_i32(77);
        out.put_bool(false);
        out.put_i32(0);
        assert!(answers(out.freeze()).is_err());
    }
}
