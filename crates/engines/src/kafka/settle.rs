//! Settling: what is written down, and the dead letters that are stored before.

use std::time::{Duration, Instant};

use linchpin_core::bus::{Receipt, Settle};
use linchpin_core::{Kind, Result};

use super::NAME;
use super::hub::Hub;
use super::state::{Hopeless, Settling, fenced};

impl Hub {
    /// Settles deliveries of a seat: answers once the commit that says so is through.
    pub(super) async fn settle(&self, seat: u64, batch: Vec<(Receipt, Settle)>) -> Vec<Result<()>> {
        let receipts: Vec<_> = batch.iter().map(|(receipt, _)| *receipt).collect();
        if let Err(error) = self.check("settle") {
            let error = if error.kind() == Kind::NotFound { fenced() } else { error };
            return receipts.iter().map(|_| Err(error.clone())).collect();
        }
        let now = Instant::now();
        let settled: Vec<_> = {
            let mut state = self.lock();
            let hopeless = state.expire(now);
            self.bury_later(hopeless);
            let settled = batch.into_iter().map(|(receipt, how)| state.settle(seat, receipt, how, now));
            settled.collect()
        };
        let mut answers = self.store_letters(&receipts, settled).await;
        let version = {
            let mut state = self.lock();
            let mut hopeless = Vec::new();
            if let Err(error) = state.stage_ahead(seat, &mut hopeless) {
                self.complain(&error);
            }
            let version = state.version();
            self.commit(&mut state);
            drop(state);
            self.bury_later(hopeless);
            version
        };
        self.news.notify_waiters();
        let through = if answers.iter().any(Result::is_ok) { self.through(version).await } else { Ok(()) };
        let mut state = self.lock();
        for (receipt, answer) in receipts.iter().zip(&mut answers) {
            match (&through, answer.as_ref()) {
                (_, Err(_)) => {}
                (Ok(()), Ok(false)) => {}
                (Ok(()), Ok(true)) => state.hands.forget(*receipt),
                (Err(_), Ok(false)) => {}
                (Err(error), Ok(true)) => *answer = Err(error.clone()),
            }
        }
        drop(state);
        answers.into_iter().map(|answer| answer.map(drop).map_err(|e| e.engine(NAME).op("settle"))).collect()
    }

    /// Stores the dead letters among `settled`; `Ok(true)` is what a commit has to confirm.
    async fn store_letters(&self, receipts: &[Receipt], settled: Vec<Settling>) -> Vec<Result<bool>> {
        let mut answers = Vec::with_capacity(settled.len());
        let mut letters = Vec::new();
        for (at, settling) in settled.into_iter().enumerate() {
            answers.push(match settling {
                Settling::Written => Ok(true),
                Settling::Extended => Ok(false),
                Settling::Lost => Err(fenced()),
                Settling::Dead(hopeless) => {
                    letters.push((at, *hopeless));
                    Ok(true)
                }
            });
        }
        if letters.is_empty() {
            return answers;
        }
        let (places, letters): (Vec<_>, Vec<_>) = letters.into_iter().unzip();
        let stored = self.core.bury(&self.scope, &letters).await;
        let mut state = self.lock();
        for (at, stored) in places.into_iter().zip(stored) {
            match (stored, receipts.get(at), answers.get_mut(at)) {
                (Ok(()), Some(receipt), _) => state.finish(*receipt),
                (Err(error), _, Some(answer)) => *answer = Err(error),
                _ => {}
            }
        }
        answers
    }

    /// Buries what time alone has made hopeless, until it is done.
    pub(super) fn bury_later(&self, hopeless: Vec<Hopeless>) {
        let member = self.member();
        let Some(hub) = member.and_then(|member| member.hub()) else { return };
        if hopeless.is_empty() {
            return;
        }
        self.runtime.spawn(async move {
            let mut left = hub.try_to_bury(hopeless).await;
            while !left.is_empty() && !hub.is_over() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                left = hub.try_to_bury(left).await;
            }
        });
    }

    /// Stores dead letters; what couldn't be stored comes back.
    async fn try_to_bury(&self, hopeless: Vec<Hopeless>) -> Vec<Hopeless> {
        let stored = self.core.bury(&self.scope, &hopeless).await;
        let mut left = Vec::new();
        let mut state = self.lock();
        for (one, stored) in hopeless.into_iter().zip(stored) {
            match stored {
                Ok(()) => state.done(one.partition, one.born, one.offset),
                Err(error) => {
                    tracing::warn!(%error, "a dead letter can't be stored yet");
                    left.push(one);
                }
            }
        }
        self.commit(&mut state);
        drop(state);
        self.news.notify_waiters();
        left
    }
}
