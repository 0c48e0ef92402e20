//! Who owns what: a member keeps its fair share of the partitions, each by a lease.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use linchpin_core::Result;
use linchpin_core::bus::{Candidate, Gate, shares};

use super::super::core::lock;
use super::super::entry::EntryId;
use super::super::group::lease;
use super::super::member::Living;
use super::super::script::{Call, LEASE, OWN};
use super::{Member, Owned};

/// How often a member looks whether its share has changed.
const SHARE: Duration = Duration::from_millis(200);

/// Owner and fence of a partition, as its record says.
type Record = (Option<String>, Option<u64>);

/// What is to be done about partitions; behind the number of each, its fence.
#[derive(Debug, Default)]
struct Changes {
    take: Vec<u32>,
    renew: Vec<(u32, u64)>,
    free: Vec<(u32, u64)>,
}

impl Member {
    /// Leaves the partitions of which nothing is out to others.
    pub(super) async fn rest(&self) -> Result<()> {
        let free = {
            let mut state = lock(&self.state);
            let owned: Vec<(u32, u64)> = state
                .ordered()
                .map(|o| o.owned.iter().map(|(n, o)| (*n, o.fence)).collect())
                .unwrap_or_default();
            let free: Vec<_> = owned.into_iter().filter(|(n, _)| !state.is_out(*n)).collect();
            free.iter().for_each(|(n, _)| state.lose(*n));
            if let Some(ordered) = state.ordered() {
                if ordered.idle && free.is_empty() {
                    return Ok(());
                }
                ordered.idle = true;
            }
            free
        };
        self.beat(false).await?;
        for (partition, fence) in free {
            self.lease(partition, fence, Duration::ZERO).await?;
        }
        Ok(())
    }

    /// Renews the lease of a partition, or ends it: false if another has it.
    pub(in super::super) async fn lease(&self, partition: u32, fence: u64, lease: Duration) -> Result<bool> {
        let Some([_, record, ..]) = self.keys_of(partition) else { return Ok(false) };
        let call = Call::new(&LEASE).key(record.clone()).text(&self.joined.consumer).number(fence);
        self.core.link.call(&call.number(lease.as_millis()).text(&self.channel), "next").await
    }

    /// Looks at the group: tells that it lives, keeps what is its share, takes what became its share, leaves what isn't any more.
    pub(super) async fn look(&self, wants: bool) -> Result<()> {
        let now = Instant::now();
        let renew = {
            let mut state = lock(&self.state);
            let Some(ordered) = state.ordered() else { return Ok(()) };
            ordered.look_at = now + SHARE;
            ordered.idle = !wants;
            let renew = now >= ordered.renew_at;
            if renew {
                ordered.renew_at = now + lease(&self.options) / 3;
            }
            renew
        };
        let living = self.beat(wants).await?;
        let records = self.owners().await?;
        let changes = self.weigh(&living, &records);
        for (partition, fence) in changes.renew.into_iter().filter(|_| renew) {
            if !self.lease(partition, fence, lease(&self.options)).await? {
                lock(&self.state).lose(partition);
            }
        }
        for (partition, fence) in changes.free {
            self.lease(partition, fence, Duration::ZERO).await?;
        }
        for partition in changes.take {
            self.own(partition).await?;
        }
        Ok(())
    }

    /// Compares what it owns with what is fair, and forgets what it lost or frees.
    fn weigh(&self, living: &[Living], records: &[Record]) -> Changes {
        let numbers: BTreeMap<&str, i64> = living.iter().map(|(n, _, _, name)| (name.as_str(), *n)).collect();
        let number = |owner: &Option<String>| owner.as_deref().and_then(|name| numbers.get(name)).copied();
        let owners: Vec<i64> = records.iter().map(|(owner, _)| number(owner).unwrap_or(0)).collect();
        let fair = shares(&owners, &candidates(living));
        let mut changes = Changes::default();
        let mut state = lock(&self.state);
        for (((n, _), (owner, fence)), fair) in self.parts.iter().zip(records).zip(fair) {
            let me = owner.as_deref() == Some(self.joined.consumer.as_str());
            let out = state.is_out(*n);
            let Some(ordered) = state.ordered() else { break };
            match ordered.owned.get_mut(n) {
                Some(owned) if !me || owned.fence != fence.unwrap_or(0) => state.lose(*n),
                Some(owned) => {
                    owned.leaving = fair != self.joined.number && fair != 0;
                    let list = if owned.leaving && !out { &mut changes.free } else { &mut changes.renew };
                    list.push((*n, owned.fence));
                }
                None if fair == self.joined.number => changes.take.push(*n),
                None if me => changes.free.push((*n, fence.unwrap_or(0))),
                None => {}
            }
        }
        changes.free.iter().for_each(|(n, _)| state.lose(*n));
        changes
    }

    /// Owner and fence of each partition it may take.
    async fn owners(&self) -> Result<Vec<Record>> {
        let asking = self.parts.iter().map(|(_, [_, record, ..])| async move {
            let mut cmd = redis::cmd("HMGET");
            cmd.arg(record).arg("owner").arg("fence");
            let answer = self.core.link.command(&cmd, "next").await?;
            redis::from_redis_value(answer).map_err(|e| super::super::error::map(e.into(), "next"))
        });
        futures_util::future::try_join_all(asking).await
    }

    /// Takes a partition, unless it has a living owner.
    async fn own(&self, partition: u32) -> Result<()> {
        let Some([stream, record, waiting, _]) = self.keys_of(partition) else { return Ok(()) };
        let call = Call::new(&OWN).key(stream.clone()).key(record.clone()).key(waiting.clone());
        let call = call.text(&self.joined.group).text(&self.joined.consumer).text(&self.joined.born);
        type Taken = (i64, u64, i64, Vec<(String, u32, i64)>);
        let taken =
            self.core.link.call::<Taken>(&call.number(lease(&self.options).as_millis()), "next").await;
        let (now, fence, epoch, waiting) = taken.map_err(|e| self.gone(e))?;
        let mut state = lock(&self.state);
        let Some(ordered) = state.ordered() else { return Ok(()) };
        ordered.heard(now);
        // Also when it is about to leave: leaving ends the lease of what it knows that it owns.
        if fence == 0 {
            return Ok(());
        }
        let read =
            |(id, attempts, due): (String, u32, i64)| Some((EntryId::parse(id.as_bytes())?, attempts, due));
        let owned = Owned {
            fence,
            epoch,
            gate: Gate::new(ordered.order),
            backlog: waiting.into_iter().filter_map(read).collect(),
            read_at: Instant::now(),
            leaving: false,
        };
        ordered.owned.insert(partition, owned);
        Ok(())
    }
}

/// Members that want partitions.
fn candidates(living: &[Living]) -> Vec<Candidate> {
    let only =
        |text: &str| (!text.is_empty()).then(|| text.split(',').filter_map(|n| n.parse().ok()).collect());
    let wanting = living.iter().filter(|(_, wants, ..)| *wants);
    wanting.map(|(id, _, list, _)| Candidate { id: *id, only: only(list) }).collect()
}
