//! Settling: acknowledgements, nacks, extensions, dead letters.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage as Publish;
use linchpin_core::bus::{Order, Origin, Position, Receipt, Settle, dead_letter, dead_topic};
use linchpin_core::{Error, Kind, Result};
use tokio::time::Instant;

use super::NAME;
use super::error;
use super::ledger::Fate;
use super::member::{Flight, Member};
use super::message::headers;

fn fenced() -> Error {
    Error::new(Kind::Fenced, "the delivery was lost to another or settled before").engine(NAME)
}

/// The answer of each settle of a batch. One that isn't told of by the end was lost before.
type Answers = [Option<Result<()>>];

fn put(answers: &mut Answers, at: usize, answer: Result<()>) {
    if let Some(slot) = answers.get_mut(at) {
        *slot = Some(answer);
    }
}

fn refuse(wishes: &[Wish], answers: &mut Answers, e: &Error) {
    wishes.iter().for_each(|wish| put(answers, wish.at, Err(e.clone())));
}

/// A delivery to be settled: the receipt's place in the batch, and what becomes of it.
struct Wish {
    at: usize,
    receipt: u64,
    flight: Flight,
    fate: Fate,
    /// To the dead letters first.
    reason: Option<String>,
}

impl Member {
    pub(super) async fn settle(self: &Arc<Self>, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        if let Err(e) = self.core.link.check_open() {
            return vec![Err(e); batch.len()];
        }
        let mut answers: Vec<Option<Result<()>>> = batch.iter().map(|_| None).collect();
        // Before what the server is told.
        let until = Instant::now() + self.options.ack_wait;
        let mut wishes = self.wishes(batch);
        match self.bury_all(&mut wishes).await {
            Ok(()) => self.carry_out(wishes, until, &mut answers).await,
            Err(e) => {
                refuse(&wishes, &mut answers, &e);
                self.keep(wishes);
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(fenced()))).collect()
    }

    /// `until`: when what is extended lapses.
    async fn carry_out(self: &Arc<Self>, wishes: Vec<Wish>, until: Instant, answers: &mut Answers) {
        let items: Vec<_> = wishes.iter().map(|wish| (wish.flight.clone(), wish.fate)).collect();
        match self.settle_flights(&items).await {
            Ok(took) => {
                self.make_way(&items).await;
                let mut extended = Vec::new();
                for (wish, took) in wishes.into_iter().zip(took) {
                    put(answers, wish.at, took.then_some(()).ok_or_else(fenced));
                    if took && matches!(wish.fate, Fate::Keep(_)) {
                        let flight = Flight { due: until, ..wish.flight.clone() };
                        extended.push(Wish { flight, ..wish });
                    }
                }
                self.keep(extended);
            }
            Err(e) if e.kind() == Kind::NotFound => self.end(),
            Err(e) => {
                refuse(&wishes, answers, &e);
                self.keep(wishes);
            }
        }
        self.nudge_if_leaving(&self.lock());
        self.changed.notify_waiters();
    }

    /// Nothing of a partition in order is handed out before what was nacked: what was taken already goes back.
    async fn make_way(&self, items: &[(Flight, Fate)]) {
        if self.options.order != Order::Partition {
            return;
        }
        let back = items.iter().filter(|(_, fate)| matches!(fate, Fate::Back(_))).map(|(flight, _)| flight);
        let back: Vec<_> = back.collect();
        let behind = |ready: &Flight| {
            back.iter().any(|flight| flight.partition == ready.partition && flight.offset < ready.offset)
        };
        if let Err(e) = self.give_back(behind).await {
            // They come back when their lease ends.
            tracing::debug!(error = %e, "what was taken can't be given back");
        }
    }

    /// Takes the deliveries out of the hand; what is gone already is left out.
    fn wishes(&self, batch: Vec<(Receipt, Settle)>) -> Vec<Wish> {
        let mut state = self.lock();
        let wishes = batch.into_iter().enumerate().filter_map(|(at, (Receipt(receipt), settle))| {
            let flight = state.flights.remove(&receipt)?;
            let (fate, reason) = self.fate(&flight, settle);
            Some(Wish { at, receipt, flight, fate, reason })
        });
        wishes.collect()
    }

    fn fate(&self, flight: &Flight, settle: Settle) -> (Fate, Option<String>) {
        let clock = &self.core.clock;
        match settle {
            Settle::Ack => (Fate::Done, None),
            Settle::Extend => (Fate::Keep(clock.after(self.options.ack_wait)), None),
            Settle::Nack { delay: Duration::ZERO, .. } if flight.attempt < self.options.max_attempts => {
                (Fate::Back(0), None)
            }
            Settle::Nack { delay, .. } if flight.attempt < self.options.max_attempts => {
                (Fate::Back(clock.after(delay)), None)
            }
            Settle::Nack { reason, .. } | Settle::Dead { reason } => (Fate::Done, Some(reason)),
        }
    }

    /// Puts deliveries back into the hand: they weren't settled, or were extended.
    fn keep(&self, wishes: Vec<Wish>) {
        let mut state = self.lock();
        for Wish { receipt, flight, .. } in wishes {
            state.flights.insert(receipt, flight);
        }
    }

    /// Publishes the dead letters of those that are still this member's; the others leave `wishes`.
    async fn bury_all(&self, wishes: &mut Vec<Wish>) -> Result<()> {
        let mut lost = Vec::new();
        for wish in wishes.iter() {
            let Some(reason) = &wish.reason else { continue };
            if self.still_holds(&wish.flight).await? {
                self.bury(&wish.flight, reason).await?;
            } else {
                lost.push(wish.at);
            }
        }
        wishes.retain(|wish| !lost.contains(&wish.at));
        Ok(())
    }

    /// Whether the delivery wasn't lost; after its lease, only the server knows.
    async fn still_holds(&self, flight: &Flight) -> Result<bool> {
        let Some(page) = self.pages.get(flight.partition as usize) else { return Ok(false) };
        if flight.due <= Instant::now() {
            page.reread().await;
        }
        let (member, epoch, offset, attempt) = (self.id, flight.epoch, flight.offset, flight.attempt);
        let held = page.edit(move |ledger| ledger.holds(member, epoch, offset, attempt)).await;
        match held {
            Err(e) if e.kind() == Kind::NotFound => Ok(false),
            held => held,
        }
    }

    /// Makes the dead letter of a message. The same one made twice is stored once, for as long as the server looks for
    /// duplicates. Broadcast subscribers leave none.
    pub(super) async fn bury(&self, flight: &Flight, reason: &str) -> Result<()> {
        let Some(group) = self.options.group.as_deref() else { return Ok(()) };
        let Some(read) = self.core.fetch(&self.topic, flight.offset).await? else { return Ok(()) };
        let Flight { partition, offset, attempt, epoch, .. } = *flight;
        let position = Position::new(partition, offset);
        let origin = Origin { topic: &self.topic.name, group, position, attempts: attempt };
        let letter = dead_letter(read.message, origin, reason, self.core.clock.now());
        let name = dead_topic(&self.topic.name, group);
        let grave = self.core.ensure_grave(&name, &self.topic).await?;
        let once = format!("lp-dead/{}/{group}/{epoch}/{position}/{attempt}", self.topic.created);
        let headers = headers(&letter);
        let subject = grave.subject(partition % grave.options.partitions)?.to_owned();
        let message = Publish::build().payload(letter.payload).headers(headers).message_id(once);
        match self.core.link.store(subject, message).await? {
            Some(_) => Ok(()),
            None => {
                self.core.forget(&name);
                Err(error::disconnected())
            }
        }
    }
}
