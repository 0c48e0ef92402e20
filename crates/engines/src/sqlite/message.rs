//! Reading messages back.

use bytes::Bytes;
use linchpin_core::bus::{Message, MessageId};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};

use super::tx::Step;
use crate::relational::store::{Chunk, Keys, Stored};
use crate::relational::topic::{offset, place};
use crate::relational::{Span, decode_headers};

/// The messages of a span that are there, by offset.
pub(super) fn read_places(conn: &Connection, part: i64, span: &Span) -> Step<Vec<Stored>> {
    let count = span.len();
    let mut out = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    if count == 0 {
        return Ok(out);
    }
    let sql = "SELECT place, time, id, key, headers, payload FROM lp_message WHERE place BETWEEN ?1 AND ?2";
    let mut select = conn.prepare_cached(sql)?;
    let mut read = |first: u64, last: u64| -> Step<()> {
        let mut rows = select.query([place(part, first), place(part, last)])?;
        while let Some(row) = rows.next()? {
            let at = offset(row.get(0)?);
            if span.contains(at) {
                out.push(stored(at, row)?);
            }
        }
        Ok(())
    };
    // Passing a row over costs about a fifth of looking one up.
    if (span.last() - span.first()) / 5 <= count {
        read(span.first(), span.last())?;
    } else {
        span.iter().try_for_each(|offset| read(offset, offset))?;
    }
    Ok(out)
}

fn stored(offset: u64, row: &Row<'_>) -> rusqlite::Result<Stored> {
    let id = match row.get_ref(2)? {
        ValueRef::Blob(bytes) => MessageId::from_stored(bytes, true),
        other => MessageId::from_stored(other.as_bytes()?, false),
    };
    let blob = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_blob_or_null()?);
    let message = Message {
        id,
        key: blob(3)?.map(Bytes::copy_from_slice),
        headers: blob(4)?.map(decode_headers).unwrap_or_default(),
        payload: blob(5)?.map(Bytes::copy_from_slice).unwrap_or_default(),
        partition: None,
        delay: None,
    };
    Ok(Stored { offset, time: row.get(1)?, message })
}

/// The keys of a chunk.
pub(super) fn read_keys(conn: &Connection, chunk: &Chunk) -> Step<Keys> {
    let mut select =
        conn.prepare_cached("SELECT place, key FROM lp_message WHERE place BETWEEN ?1 AND ?2")?;
    let (first, last) = (place(chunk.part, chunk.span.first()), place(chunk.part, chunk.span.last()));
    let mut rows = select.query([first, last])?;
    let mut out = Vec::with_capacity(usize::try_from(chunk.span.len()).unwrap_or(0));
    while let Some(row) = rows.next()? {
        let at = offset(row.get(0)?);
        if chunk.span.contains(at) {
            out.push((at, row.get_ref(1)?.as_blob_or_null()?.map(Bytes::copy_from_slice)));
        }
    }
    Ok(out)
}
