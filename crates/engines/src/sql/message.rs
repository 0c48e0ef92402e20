//! Reading messages back.

use bytes::Bytes;
use linchpin_core::bus::{Message, MessageId};

use super::conn::{Answer, Row};
use super::headers;
use super::tx::{Step, Tx};
use crate::relational::Span;
use crate::relational::store::{Chunk, Keys, Stored};
use crate::relational::topic::{offset, place};

/// The columns of a message behind its first two.
pub(super) const BODY: &str = "id, msg_key, headers, payload";

/// The messages of a span that are there, by offset.
pub(super) async fn read_places(tx: &mut Tx, part: i64, span: &Span) -> Step<Vec<Stored>> {
    let count = span.len();
    if count == 0 {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT place, time, {BODY} FROM lp_message WHERE place");
    // A scattered few are looked up one by one rather than passing by all between them.
    let rows = if (span.last() - span.first()) / 8 <= count {
        let range = [place(part, span.first()).into(), place(part, span.last()).into()];
        tx.all(&format!("{sql} BETWEEN ? AND ? ORDER BY place"), &range).await?
    } else {
        let places: Vec<i64> = span.iter().map(|offset| place(part, offset)).collect();
        tx.all_in(&format!("{sql} IN"), &places, "ORDER BY place").await?
    };
    let mut out = Vec::with_capacity(rows.len());
    for row in &rows {
        let at = offset(row.int(0)?);
        if span.contains(at) {
            out.push(Stored { offset: at, time: row.int(1)?, message: message(row, 2)? });
        }
    }
    Ok(out)
}

/// The message in a row, from this column on.
pub(super) fn message(row: &Row, from: usize) -> Answer<Message> {
    Ok(Message {
        id: MessageId::from(String::from_utf8_lossy(row.blob(from)?.unwrap_or_default()).as_ref()),
        key: row.blob(from + 1)?.map(Bytes::copy_from_slice),
        headers: row.blob(from + 2)?.map(headers::decode).unwrap_or_default(),
        payload: row.blob(from + 3)?.map(Bytes::copy_from_slice).unwrap_or_default(),
        partition: None,
        delay: None,
    })
}

/// The keys of a chunk.
pub(super) async fn read_keys(tx: &mut Tx, chunk: &Chunk) -> Step<Keys> {
    let range = [place(chunk.part, chunk.span.first()).into(), place(chunk.part, chunk.span.last()).into()];
    let sql = "SELECT place, msg_key FROM lp_message WHERE place BETWEEN ? AND ? ORDER BY place";
    let mut out = Vec::new();
    for row in tx.all(sql, &range).await? {
        let at = offset(row.int(0)?);
        if chunk.span.contains(at) {
            out.push((at, row.blob(1)?.map(Bytes::copy_from_slice)));
        }
    }
    Ok(out)
}
