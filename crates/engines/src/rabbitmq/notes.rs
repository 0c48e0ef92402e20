//! What owners of a partition leave to those who come after them.
//!
//! Each note has the fence of who wrote it, and facts: when the queue had taken this message back so often, it had
//! been handed out so often, and is due then. A fact stays true for ever, so notes can be read in any
//! order, and twice: of the facts on one message the one with the most returns counts. What the queue took back since
//! then it took from the latest owners, one by one. Of these, notes say who left by themselves, with a fact on all that they had
//! handed out; the others died, and a death counts as an attempt.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use foldhash::fast::RandomState;
use futures_util::{FutureExt, StreamExt};
use lapin::Channel;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use linchpin_core::bus::Message;
use linchpin_core::time::from_millis;
use linchpin_core::{Kind, Result, Timestamp};
use serde::{Deserialize, Serialize};

use super::driver::look;
use super::error;
use super::link::asked;
use super::member::Member;
use super::message::{Stored, read as read_message};
use super::send::{To, prove, store};
use super::state::Parcel;

/// Of so many owners before it each knows how they ended; those before count as dead.
const REMEMBERED: u64 = 1_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Fact {
    id: String,
    attempts: u32,
    returns: u32,
    /// In milliseconds since 1970.
    due: i64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    fence: u64,
    facts: Vec<Fact>,
    /// Owners that left by themselves.
    left: BTreeSet<u64>,
}

/// What is known of a partition's past.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// By the message they are about.
    facts: HashMap<String, Fact, RandomState>,
    /// By their fences: the present owner, and those before it that left by themselves.
    fence: u64,
    left: BTreeSet<u64>,
}

impl Parcel {
    /// What is to be known of the message once it was taken back `returns` times.
    pub(super) fn fact(&self, attempts: u32, returns: u32, due: Option<Timestamp>) -> Fact {
        let due = due.map_or(0, |due| due.as_millisecond());
        Fact { id: self.stored.message.id.to_string(), attempts, returns, due }
    }
}

impl Facts {
    fn learn(&mut self, fact: Fact) {
        let known = self.facts.get(&fact.id);
        if known.is_none_or(|known| (known.returns, known.attempts) <= (fact.returns, fact.attempts)) {
            self.facts.insert(fact.id.clone(), fact);
        }
    }

    /// How many of the latest `count` owners died.
    fn deaths(&self, count: u32) -> u32 {
        let latest = self.fence.saturating_sub(u64::from(count))..self.fence;
        let left = u32::try_from(self.left.range(latest).count()).unwrap_or(count);
        count.saturating_sub(left)
    }

    /// How often the message was handed out, and when it is due.
    pub(super) fn of(&self, stored: &Stored, returns: u32) -> (u32, Option<Timestamp>) {
        match self.facts.get(&stored.message.id.to_string()) {
            Some(fact) => {
                let deaths = self.deaths(returns.saturating_sub(fact.returns));
                let due = (fact.due > 0).then(|| from_millis(fact.due));
                (fact.attempts.saturating_add(deaths), due.max(stored.due))
            }
            None => (stored.attempts.saturating_add(self.deaths(returns)), stored.due),
        }
    }

    /// Once nothing more comes that was taken back, no fact is needed that isn't about what has come.
    pub(super) fn clear(&mut self) {
        self.facts.clear();
    }

    pub(super) fn list(&self) -> Vec<Fact> {
        self.facts.values().cloned().collect()
    }
}

impl Member {
    /// A note of the owner of a partition, to be stored.
    pub(super) fn note(&self, partition: u32, fence: u64, facts: Vec<Fact>) -> Result<(To, Stored)> {
        self.write_down(partition, &Note { fence, facts, left: BTreeSet::new() })
    }

    /// The last note of an owner that leaves.
    pub(super) fn farewell(&self, partition: u32, fence: u64, facts: Vec<Fact>) -> Result<(To, Stored)> {
        self.write_down(partition, &Note { fence, facts, left: BTreeSet::from([fence]) })
    }

    fn write_down(&self, partition: u32, note: &Note) -> Result<(To, Stored)> {
        let queue = self.slot.as_ref().map(|slot| slot.notes(partition)).unwrap_or_default();
        let message = Message::new(write(note)?);
        Ok((To::queue(queue), Stored { message, time: Timestamp::now(), due: None, attempts: 0 }))
    }

    /// Reads the notes on a partition, and puts one in their place that has a larger fence. Nobody else does so at that time.
    pub(super) async fn take_notes(&self, partition: u32) -> Result<(u64, Facts)> {
        let within = self.core.config.timeout;
        let queue = self.slot.as_ref().map(|slot| slot.notes(partition)).unwrap_or_default();
        let mut admin = super::admin::Admin::new(&self.link, within);
        let channel = admin.channel().await?;
        let (tags, mut notes) = gather(&channel, &queue, within).await?;
        let fence = notes.iter().map(|note| note.fence).max().unwrap_or(0) + 1;
        let mut facts = Facts { fence, ..Facts::default() };
        for note in notes.drain(..) {
            note.facts.into_iter().for_each(|fact| facts.learn(fact));
            facts.left.extend(note.left.range(fence.saturating_sub(REMEMBERED)..));
        }
        let note = Note { fence, facts: facts.list(), left: facts.left.clone() };
        let (to, stored) = self.write_down(partition, &note)?;
        let note = (to, stored.message.payload.to_vec(), stored.properties());
        store(&channel, within, vec![note]).await?;
        prove(&channel, within, &queue, tags.iter().max().copied(), &[]).await?;
        admin.close().await;
        Ok((fence, facts))
    }
}

/// Takes all notes in hand.
async fn gather(channel: &Channel, queue: &str, within: Duration) -> Result<(Vec<u64>, Vec<Note>)> {
    asked(within, channel.basic_qos(u16::MAX, BasicQosOptions::default())).await?;
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume(queue.into(), "notes".into(), options, FieldTable::default());
    let mut came = asked(within, consuming).await?;
    look(channel, queue, within).await?;
    let (mut tags, mut notes) = (Vec::new(), Vec::new());
    while let Some(Some(delivery)) = came.next().now_or_never() {
        let delivery = delivery.map_err(error::map)?;
        tags.push(delivery.delivery_tag);
        if !read_message(&delivery.properties, Vec::new()).marker {
            notes.push(parse(&delivery.data)?);
        }
    }
    asked(within, channel.basic_cancel("notes".into(), BasicCancelOptions::default())).await?;
    Ok((tags, notes))
}

fn parse(bytes: &[u8]) -> Result<Note> {
    serde_json::from_slice(bytes)
        .map_err(|e| error::error(Kind::Corrupt, "a note on a partition can't be read").source(e))
}

fn write(note: &Note) -> Result<Vec<u8>> {
    serde_json::to_vec(note)
        .map_err(|e| error::error(Kind::Unexpected, "a note on a partition can't be written").source(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_fact_counts_and_deaths_since_then() {
        let message = Message::new("x").id("a");
        let stored = Stored { message, time: from_millis(0), due: None, attempts: 0 };
        let fact = |attempts, returns, due| Fact { id: "a".into(), attempts, returns, due };
        let mut facts = Facts { fence: 100, ..Facts::default() };
        assert_eq!(facts.of(&stored, 2), (2, None));
        facts.learn(fact(3, 4, 7));
        facts.learn(fact(1, 0, 0));
        assert_eq!(facts.of(&stored, 4), (3, Some(from_millis(7))));
        assert_eq!(facts.of(&stored, 6), (5, Some(from_millis(7))));
    }

    #[test]
    fn owners_that_left_are_no_deaths() {
        let stored =
            Stored { message: Message::new("x").id("a"), time: from_millis(0), due: None, attempts: 1 };
        let mut facts = Facts { fence: 9, left: BTreeSet::from([3, 6, 8]), ..Facts::default() };
        assert_eq!([0, 1, 2, 3, 4].map(|returns| facts.of(&stored, returns).0), [1, 1, 2, 2, 3]);
        facts.learn(Fact { id: "a".into(), attempts: 4, returns: 2, due: 0 });
        assert_eq!([2, 3, 4].map(|returns| facts.of(&stored, returns).0), [4, 4, 5]);
    }
}
