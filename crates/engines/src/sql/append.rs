//! Storing messages.

use std::collections::BTreeMap;

use linchpin_core::bus::Message;

use super::conn::Line;
use super::message::{BODY, message};
use super::tx::{Step, Tx};
use super::{headers, topic};
use crate::relational::incoming::Incoming;
use crate::relational::topic::{Topic, millis_up, place};

/// A message on its way in.
pub(super) type Row = Incoming<Form>;

/// The id as text, and the headers as JSON.
#[derive(Debug)]
pub(super) struct Form {
    id: String,
    headers: Option<String>,
}

impl Form {
    fn of(message: &Message) -> Self {
        Self { id: message.id.to_string(), headers: headers::encode(&message.headers) }
    }

    fn line<'a>(&'a self, message: &'a Message, heads: [i64; 2]) -> Line<'a> {
        let (id, headers) = (self.id.as_bytes(), self.headers.as_deref());
        Line { heads, id, key: message.key.as_deref(), headers, payload: &message.payload }
    }
}

pub(super) fn row(at: usize, partition: u32, message: Message) -> Row {
    Row { at, partition, form: Form::of(&message), message }
}

/// The offset of each row; none for one that is delayed.
pub(super) type Offsets = Vec<Option<u64>>;

/// The end of a partition that is locked.
#[derive(Debug, Clone, Copy)]
struct End {
    topic: i64,
    next: u64,
    time: i64,
}

/// Stores the rows of several callers, in the order of the callers; `None` for one whose topic has changed since it looked.
pub(super) async fn append(tx: &mut Tx, asks: &[(&Topic, &[Row])]) -> Step<Vec<Option<Offsets>>> {
    tx.begin().await?;
    let mut ids: Vec<i64> = asks.iter().map(|(topic, _)| topic.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let now = topic::by_ids(tx, &ids).await?;
    let as_it_was = |topic: &Topic| now.contains(topic);
    let mut ends = lock(tx, asks.iter().filter(|(topic, _)| as_it_was(topic))).await?;
    let same = |(topic, _): &(&Topic, &[Row])| {
        as_it_was(topic) && ends.get(&topic.base).is_none_or(|end| end.topic == topic.id)
    };
    let valid: Vec<bool> = asks.iter().map(same).collect();
    let (mut stored, mut delayed, mut out) = (Vec::new(), Vec::new(), Vec::with_capacity(asks.len()));
    for ((topic, rows), valid) in asks.iter().zip(valid) {
        if !valid {
            out.push(None);
            continue;
        }
        tx.touch(topic.id);
        out.push(Some(
            rows.iter().map(|row| lay(tx, topic, row, &mut ends, &mut stored, &mut delayed)).collect(),
        ));
    }
    stored.sort_unstable_by_key(|line: &Line<'_>| line.heads);
    tx.fill("lp_message", ["place", "time"], &stored).await?;
    tx.fill("lp_delayed", ["due", "part"], &delayed).await?;
    close(tx, &ends).await?;
    Ok(out)
}

/// Takes the partitions that rows go to, in rising order so that nobody waits in a circle: who has a partition's row is
/// alone at its end until the commit, so the order of offsets is that of commits.
async fn lock<'a>(
    tx: &mut Tx,
    asks: impl Iterator<Item = &'a (&'a Topic, &'a [Row])>,
) -> Step<BTreeMap<i64, End>> {
    let part = |topic: &Topic, row: &Row| row.message.delay.is_none().then(|| topic.part(row.partition));
    let mut parts: Vec<i64> =
        asks.flat_map(|(topic, rows)| rows.iter().filter_map(|row| part(topic, row))).collect();
    parts.sort_unstable();
    parts.dedup();
    lock_parts(tx, &parts).await
}

async fn lock_parts(tx: &mut Tx, parts: &[i64]) -> Step<BTreeMap<i64, End>> {
    let sql = "SELECT id, topic, next, last FROM lp_partition WHERE id IN";
    let mut ends = BTreeMap::new();
    for row in tx.all_in(sql, parts, "ORDER BY id FOR UPDATE").await? {
        // Times of a partition never fall, whatever clock the server had before.
        let end = End { topic: row.int(1)?, next: row.count(2)?, time: row.int(3)?.max(tx.now()) };
        ends.insert(row.int(0)?, end);
    }
    Ok(ends)
}

async fn close(tx: &mut Tx, ends: &BTreeMap<i64, End>) -> Step<()> {
    for (part, end) in ends.iter().filter(|(_, end)| end.topic != 0) {
        let sql = "UPDATE lp_partition SET next = ?, last = ? WHERE id = ?";
        tx.run(sql, &[end.next.into(), end.time.into(), (*part).into()]).await?;
    }
    Ok(())
}

/// Gives a row its place.
fn lay<'r>(
    tx: &Tx,
    topic: &Topic,
    row: &'r Row,
    ends: &mut BTreeMap<i64, End>,
    stored: &mut Vec<Line<'r>>,
    delayed: &mut Vec<Line<'r>>,
) -> Option<u64> {
    let (part, message) = (topic.part(row.partition), &row.message);
    let line = |heads| row.form.line(message, heads);
    if let Some(delay) = message.delay {
        delayed.push(line([tx.now().saturating_add(millis_up(delay)), part]));
        return None;
    }
    let end = ends.get_mut(&part)?;
    let offset = end.next;
    end.next += 1;
    stored.push(line([place(part, offset), end.time]));
    Some(offset)
}

/// Moves up to `limit` delayed messages that are due into their topics. Says whether there may be more.
pub(super) async fn move_due(tx: &mut Tx, limit: u64) -> Step<bool> {
    tx.begin().await?;
    let due = format!("SELECT seq, part, {BODY} FROM lp_delayed WHERE due <= ? ORDER BY due, seq LIMIT ?");
    // Of several processes that do this, each takes others.
    let args = [tx.now().into(), limit.into()];
    let rows = tx.all(&format!("{due} FOR UPDATE SKIP LOCKED"), &args).await?;
    let mut due = Vec::with_capacity(rows.len());
    for row in &rows {
        due.push((row.int(0)?, row.int(1)?, message(row, 2)?));
    }
    // Stable: those of a partition stay in the order of their times.
    due.sort_by_key(|(_, part, _)| *part);
    let mut parts: Vec<i64> = due.iter().map(|(_, part, _)| *part).collect();
    parts.dedup();
    let mut ends = lock_parts(tx, &parts).await?;
    let forms: Vec<_> = due.iter().map(|(.., message)| Form::of(message)).collect();
    let mut lines = Vec::with_capacity(due.len());
    for ((_, part, message), form) in due.iter().zip(&forms) {
        let Some(end) = ends.get_mut(part).filter(|end| end.topic != 0) else { continue };
        lines.push(form.line(message, [place(*part, end.next), end.time]));
        end.next += 1;
    }
    tx.fill("lp_message", ["place", "time"], &lines).await?;
    let seqs: Vec<i64> = due.iter().map(|(seq, ..)| *seq).collect();
    tx.run_in("DELETE FROM lp_delayed WHERE seq IN", &seqs).await?;
    close(tx, &ends).await?;
    ends.values().for_each(|end| tx.touch(end.topic));
    Ok(due.len() as u64 == limit)
}
