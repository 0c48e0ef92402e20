//! What a member asks of its database: [`Store`], and what goes back and forth.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use linchpin_core::Result;
use linchpin_core::bus::{Message, Settle, SubscribeOptions};

use super::Span;
use super::hand::Lost;
use super::topic::Topic;

/// Takes the answer: called once, on any thread; dropped uncalled if the engine is gone.
pub(crate) type Done<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// The database under a member. Each call hands the work over and returns at once; what it does takes effect whole or
/// not at all.
pub(crate) trait Store: Send + Sync + Debug {
    /// The engine's name.
    fn engine(&self) -> &'static str;

    /// Refuses once the engine is closed.
    fn check_open(&self) -> Result<()>;

    /// The time by which leases and delays are judged, in milliseconds since 1970.
    fn now(&self) -> i64;

    /// An empty fetch older than this says nothing about the present.
    fn poll(&self) -> Duration;

    /// A waiting `next` asks anew at least this often, whatever it was told.
    fn at_least(&self) -> Duration;

    /// The longest a fetch takes.
    fn patience(&self) -> Duration;

    /// A `next` call begins to wait.
    fn wait(&self);

    /// A `next` call waits no longer.
    fn waited(&self);

    /// Claims messages for a member that competes; answers the time of the claim, too.
    fn fetch(&self, scope: &Arc<Scope>, want: Want, done: Done<(Fetched, i64)>);

    /// The messages of each claim that are there, by offset.
    fn read(&self, claims: Arc<Vec<(Claim, u64)>>, done: Done<Vec<Vec<Stored>>>);

    /// Settles, if the member still holds the claims: one answer each.
    fn settle(&self, scope: &Arc<Scope>, batches: Vec<Arc<Batch>>, done: Done<Vec<Settled>>);

    /// Gives back what was fetched and never handed out: the attempt doesn't count. Answers where it waits.
    fn unfetch(&self, scope: &Arc<Scope>, unused: Vec<Lost>, done: Done<Vec<Claim>>);

    /// Looks at the group, and takes the partitions that are the member's share and free. `mine` are those it owns, with
    /// their fences; `woken` says that it wants partitions again.
    fn look(&self, scope: &Arc<Scope>, mine: BTreeMap<i64, u64>, woken: bool, done: Done<View>);

    /// The keys of each chunk; a message that isn't there any more may be left in, and is found missing when it is read.
    fn keys(&self, chunks: Arc<Vec<Chunk>>, done: Done<Vec<Keys>>);

    /// Writes down what is handed out now; `None` for a partition that has another owner.
    fn mark(&self, scope: &Arc<Scope>, picks: Arc<Vec<Picks>>, done: Done<Vec<Option<Marked>>>);

    /// Takes back what wasn't settled in time: it waits again, or goes to the dead letters after its last attempt.
    fn take_back(&self, scope: &Arc<Scope>, late: Arc<Lost>, done: Done<Vec<Claim>>);

    /// Lets go of partitions of which nothing is in hand; `active` says whether the member wants others.
    fn release(&self, scope: &Arc<Scope>, parts: Vec<(i64, u64)>, active: bool);

    /// Tells that the member lives, also one that was silent for so long that it was counted as gone.
    fn beat(&self, scope: &Arc<Scope>, options: &SubscribeOptions);

    /// Gives back what wasn't handed out, then takes the member out of its group.
    fn leave(&self, scope: &Arc<Scope>, unused: Vec<Lost>, done: Done<()>);
}

/// What a member does everything with: its topic, group and limits.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub(crate) topic: Topic,
    /// `None` for a broadcast subscriber.
    pub(crate) name: Option<String>,
    pub(crate) group: i64,
    pub(crate) member: i64,
    /// How long a claim is held, in milliseconds; under an order the partition's owner decides instead.
    pub(crate) lease: Option<i64>,
    pub(crate) max_attempts: u32,
}

impl Scope {
    /// When a claim that is taken or extended at `now` ends.
    pub(crate) fn lease_end(&self, now: i64) -> i64 {
        self.lease.map_or(i64::MAX, |lease| now.saturating_add(lease))
    }
}

/// A row of `lp_claim`.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub(crate) id: i64,
    pub(crate) part: i64,
    pub(crate) span: Span,
    pub(crate) due: i64,
    /// How often its messages were handed out.
    pub(crate) attempt: u32,
    /// The member that holds it; 0 if it waits.
    pub(crate) owner: i64,
}

/// How much a member wants.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    /// Messages that failed before, at most: as many as were asked for, since fetching ahead may cost an attempt.
    pub(crate) again: u64,
    /// Messages in all, at most.
    pub(crate) all: u64,
    /// The partitions it may take; `None` for all.
    pub(crate) only: Option<Vec<u32>>,
    /// Where among the partitions to begin, so that all get their turn.
    pub(crate) turn: u32,
}

/// What was claimed.
#[derive(Debug, Default)]
pub(crate) struct Fetched {
    pub(crate) claims: Vec<Claim>,
    /// When something that is held or waits may be taken next, in milliseconds since 1970.
    pub(crate) next_due: Option<i64>,
}

/// A message as it is stored.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) offset: u64,
    /// Milliseconds since 1970.
    pub(crate) time: i64,
    pub(crate) message: Message,
}

/// Deliveries of one claim that are settled together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) claim: i64,
    /// Offset and fate.
    pub(crate) asked: Vec<(u64, Settle)>,
}

/// What became of it.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Which settles took effect; the others were lost or settled before.
    pub(crate) took: Vec<bool>,
    /// The claim that holds what was extended.
    pub(crate) extended: i64,
    /// What waits now: the claim, its offsets, when it is due, and its attempt.
    pub(crate) waiting: Vec<Claim>,
}

/// A partition that was taken, with everything in it that waits.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) part: i64,
    pub(crate) fence: u64,
    /// What lies from here on was never handed out.
    pub(crate) next: u64,
    pub(crate) waiting: Vec<Claim>,
}

/// What a member learns when it looks at its group.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) taken: Vec<Taken>,
    /// Partitions it no longer owns.
    pub(crate) lost: Vec<i64>,
    /// Partitions it is to hand over once nothing of them is in hand.
    pub(crate) leave: Vec<i64>,
    /// The next offset of each partition of the topic.
    pub(crate) ends: Vec<(i64, u64)>,
    /// Whether no other member is alive.
    pub(crate) alone: bool,
}

/// Keys to be read: the part, from where, to where, and what to put in the gate with them.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) part: i64,
    pub(crate) fence: u64,
    pub(crate) span: Span,
    /// The claim they wait in; `None` for what lies above the cursor.
    pub(crate) claim: Option<Claim>,
}

/// Keys that were read.
pub(crate) type Keys = Vec<(u64, Option<Bytes>)>;

/// What to hand out of one partition.
#[derive(Debug)]
pub(crate) struct Picks {
    pub(crate) part: i64,
    pub(crate) fence: u64,
    pub(crate) picks: Vec<Pick>,
}

/// A message that its owner is about to hand out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pick {
    pub(crate) offset: u64,
    /// How often it was handed out before.
    pub(crate) attempt: u32,
    /// The claim it waits in; `None` if it lies above the cursor.
    pub(crate) claim: Option<i64>,
}

/// Claims that were made for what is handed out.
#[derive(Debug, Default)]
pub(crate) struct Marked {
    pub(crate) held: Vec<Claim>,
    /// What the cursor passed over, because an earlier message of its key is still out.
    pub(crate) passed: Vec<Claim>,
}
