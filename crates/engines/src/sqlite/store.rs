//! What members ask, done on the threads: claims and settles on the writer's, reading on the reader's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use linchpin_core::Result;
use linchpin_core::bus::SubscribeOptions;
use rusqlite::Connection;

use super::core::Core;
use super::fetch::fetch;
use super::message::{read_keys, read_places};
use super::settle::settle_all;
use super::tx::{Step, Tx};
use super::{NAME, claim, group, lease};
use crate::relational::hand::Lost;
use crate::relational::store::{
    Batch, Chunk, Claim, Done, Fetched, Keys, Marked, Picks, Scope, Settled, Store, Stored, View, Want,
};

impl Store for Core {
    fn engine(&self) -> &'static str {
        NAME
    }

    fn check_open(&self) -> Result<()> {
        Core::check_open(self)
    }

    fn now(&self) -> i64 {
        self.clock.now()
    }

    fn poll(&self) -> Duration {
        self.config.poll
    }

    fn at_least(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn patience(&self) -> Duration {
        self.config.busy + Duration::from_secs(1)
    }

    fn wait(&self) {
        if self.hub.wait() {
            Core::poll(self);
        }
    }

    fn waited(&self) {
        self.hub.waited();
    }

    fn fetch(&self, scope: &Arc<Scope>, want: Want, done: Done<(Fetched, i64)>) {
        let scope = scope.clone();
        let work = move |tx: &Tx<'_>| {
            let fetched = fetch(tx, &scope, &want)?;
            Ok((fetched, tx.now()))
        };
        self.submit("next", false, 1, work, done);
    }

    fn read(&self, claims: Arc<Vec<(Claim, u64)>>, done: Done<Vec<Vec<Stored>>>) {
        let read = |conn: &Connection, (claim, _): &(Claim, u64)| read_places(conn, claim.part, &claim.span);
        self.look(move |conn| {
            let read: Step<_> = claims.iter().map(|claim| read(conn, claim)).collect();
            done(read.map_err(|e| e.into_error("next")));
        });
    }

    fn settle(&self, scope: &Arc<Scope>, batches: Vec<Arc<Batch>>, done: Done<Vec<Settled>>) {
        let scope = scope.clone();
        let weight = batches.iter().map(|batch| batch.asked.len()).sum();
        let work = move |tx: &Tx<'_>| settle_all(tx, &scope, &batches);
        self.submit("settle", true, weight, work, done);
    }

    fn unfetch(&self, scope: &Arc<Scope>, unused: Vec<Lost>, done: Done<Vec<Claim>>) {
        let scope = scope.clone();
        self.submit("give back", false, 1, move |tx| claim::unfetch_all(tx, &scope, &unused), done);
    }

    fn look(&self, scope: &Arc<Scope>, mine: BTreeMap<i64, u64>, woken: bool, done: Done<View>) {
        let scope = scope.clone();
        let work = move |tx: &Tx<'_>| {
            if woken {
                lease::set_active(tx, &scope, true)?;
            }
            lease::look(tx, &scope, &mine)
        };
        self.submit("next", false, 1, work, done);
    }

    fn keys(&self, chunks: Arc<Vec<Chunk>>, done: Done<Vec<Keys>>) {
        self.look(move |conn| {
            let read: Step<_> = chunks.iter().map(|chunk| read_keys(conn, chunk)).collect();
            done(read.map_err(|e| e.into_error("next")));
        });
    }

    fn mark(&self, scope: &Arc<Scope>, picks: Arc<Vec<Picks>>, done: Done<Vec<Option<Marked>>>) {
        let scope = scope.clone();
        let work = move |tx: &Tx<'_>| {
            picks.iter().map(|p| lease::mark(tx, &scope, p.part, p.fence, &p.picks)).collect::<Step<_>>()
        };
        self.submit("next", false, 1, work, done);
    }

    fn take_back(&self, scope: &Arc<Scope>, late: Arc<Lost>, done: Done<Vec<Claim>>) {
        let scope = scope.clone();
        let work = move |tx: &Tx<'_>| lease::take_back(tx, &scope, late.claim, &late.offsets);
        self.submit("take back", false, 1, work, done);
    }

    fn release(&self, scope: &Arc<Scope>, parts: Vec<(i64, u64)>, active: bool) {
        let scope = scope.clone();
        self.submit("hand over", false, 1, move |tx| lease::release(tx, &scope, &parts, active), drop);
    }

    fn beat(&self, scope: &Arc<Scope>, options: &SubscribeOptions) {
        let (scope, options) = (scope.clone(), options.clone());
        self.submit("beat", false, 1, move |tx| group::beat(tx, &scope, &options), drop);
    }

    fn leave(&self, scope: &Arc<Scope>, unused: Vec<Lost>, done: Done<()>) {
        let scope = scope.clone();
        let work = move |tx: &Tx<'_>| {
            claim::unfetch_all(tx, &scope, &unused)?;
            group::leave(tx, &scope)
        };
        self.submit("close", true, 1, work, done);
    }
}
