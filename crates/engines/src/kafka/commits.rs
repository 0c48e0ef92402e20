//! Which changes are through: one commit is under way at a time, and the next one carries everything since.

use std::time::Instant;

use linchpin_core::Error;

/// Changes are numbered by the commit that will carry them.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// The commit under way.
    sent: Option<u64>,
    last: u64,
    done: u64,
    /// Changes up to here, and above `kept`, were lost with their partitions.
    lost: u64,
    kept: u64,
    /// Not before, after a failure.
    pub(super) pause: Option<Instant>,
    /// Why the last one failed.
    pub(super) failure: Option<Error>,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Through,
    Lost,
    Open,
}

impl Commits {
    /// The number of the commit that carries what changes now.
    pub(super) fn next(&self) -> u64 {
        self.last + 1
    }

    pub(super) fn is_done(&self, version: u64) -> bool {
        self.done >= version
    }

    pub(super) fn outcome(&self, version: u64) -> Outcome {
        match version {
            _ if version <= self.lost && version > self.kept => Outcome::Lost,
            _ if version <= self.done => Outcome::Through,
            _ => Outcome::Open,
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.sent.is_some()
    }

    /// A commit goes out with everything up to now.
    pub(super) fn send(&mut self) -> u64 {
        self.last += 1;
        self.sent = Some(self.last);
        self.last
    }

    /// The commit under way came through.
    pub(super) fn succeed(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.done = self.done.max(sent);
        }
        self.failure = None;
    }

    /// It didn't, and will be sent again.
    pub(super) fn fail(&mut self, error: Error, again: Instant) {
        self.sent = None;
        self.pause = Some(again);
        self.failure = Some(error);
    }

    /// What isn't through never will be.
    pub(super) fn lose(&mut self) {
        self.sent = None;
        self.kept = self.done;
        self.last += 1;
        self.lost = self.last;
    }
}
