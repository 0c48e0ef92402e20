//! What members ask, done on the connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use linchpin_core::Result;
use linchpin_core::bus::SubscribeOptions;

use super::core::Core;
use super::fetch::fetch;
use super::message::{read_keys, read_places};
use super::settle::Ask;
use super::tx::{Step, Tx};
use super::{claim, group, lease};
use crate::relational::hand::Lost;
use crate::relational::store::{
    Batch, Chunk, Claim, Done, Fetched, Keys, Marked, Picks, Scope, Settled, Store, Stored, View, Want,
};

/// An empty fetch older than this says nothing about the present.
const FRESH: Duration = Duration::from_millis(10);

/// The watcher sees what comes, for all subscriptions with one query: a subscription that asks by itself is the exception.
const AT_LEAST: Duration = Duration::from_secs(5);

impl Store for Core {
    fn engine(&self) -> &'static str {
        self.config.dialect.name()
    }

    fn check_open(&self) -> Result<()> {
        Core::check_open(self)
    }

    fn now(&self) -> i64 {
        self.clock.now()
    }

    fn poll(&self) -> Duration {
        FRESH
    }

    fn at_least(&self) -> Duration {
        AT_LEAST
    }

    fn patience(&self) -> Duration {
        self.config.timeout + Duration::from_secs(1)
    }

    fn wait(&self) {
        if self.tell.hub.wait() {
            self.tell.waiting.notify_one();
        }
    }

    fn waited(&self) {
        self.tell.hub.waited();
    }

    fn fetch(&self, scope: &Arc<Scope>, want: Want, done: Done<(Fetched, i64)>) {
        let context = (scope.clone(), want);
        self.submit("next", context, |tx, (scope, want)| Box::pin(fetch_at(tx, scope, want)), done);
    }

    fn read(&self, claims: Arc<Vec<(Claim, u64)>>, done: Done<Vec<Vec<Stored>>>) {
        Core::look(self, "next", claims, |tx, claims| Box::pin(read_all(tx, claims)), done);
    }

    fn settle(&self, scope: &Arc<Scope>, batches: Vec<Arc<Batch>>, done: Done<Vec<Settled>>) {
        self.settling.ask(Ask { scope: scope.clone(), batches }, self.deadline(), done);
    }

    fn unfetch(&self, scope: &Arc<Scope>, unused: Vec<Lost>, done: Done<Vec<Claim>>) {
        let context = (scope.clone(), unused);
        let op = "give back";
        self.submit(op, context, |tx, (scope, unused)| Box::pin(claim::unfetch_all(tx, scope, unused)), done);
    }

    fn look(&self, scope: &Arc<Scope>, mine: BTreeMap<i64, u64>, woken: bool, done: Done<View>) {
        let context = (scope.clone(), mine, woken);
        self.submit(
            "next",
            context,
            |tx, (scope, mine, woken)| Box::pin(look(tx, scope, mine, *woken)),
            done,
        );
    }

    fn keys(&self, chunks: Arc<Vec<Chunk>>, done: Done<Vec<Keys>>) {
        Core::look(self, "next", chunks, |tx, chunks| Box::pin(keys(tx, chunks)), done);
    }

    fn mark(&self, scope: &Arc<Scope>, picks: Arc<Vec<Picks>>, done: Done<Vec<Option<Marked>>>) {
        let context = (scope.clone(), picks);
        self.submit("next", context, |tx, (scope, picks)| Box::pin(lease::mark_all(tx, scope, picks)), done);
    }

    fn take_back(&self, scope: &Arc<Scope>, late: Arc<Lost>, done: Done<Vec<Claim>>) {
        let context = (scope.clone(), late);
        self.submit(
            "take back",
            context,
            |tx, (scope, late)| Box::pin(lease::take_back(tx, scope, late)),
            done,
        );
    }

    fn release(&self, scope: &Arc<Scope>, parts: Vec<(i64, u64)>, active: bool) {
        let context = (scope.clone(), parts, active);
        let op = "hand over";
        self.submit(
            op,
            context,
            |tx, (scope, parts, active)| Box::pin(lease::release(tx, scope, parts, *active)),
            drop,
        );
    }

    fn beat(&self, scope: &Arc<Scope>, options: &SubscribeOptions) {
        let context = (scope.clone(), options.clone());
        self.submit("beat", context, |tx, (scope, options)| Box::pin(group::beat(tx, scope, options)), drop);
    }

    fn leave(&self, scope: &Arc<Scope>, unused: Vec<Lost>, done: Done<()>) {
        let context = (scope.clone(), unused);
        self.submit("close", context, |tx, (scope, unused)| Box::pin(leave(tx, scope, unused)), done);
    }
}

async fn fetch_at(tx: &mut Tx, scope: &Scope, want: &Want) -> Step<(Fetched, i64)> {
    let fetched = fetch(tx, scope, want).await?;
    Ok((fetched, tx.now()))
}

async fn read_all(tx: &mut Tx, claims: &[(Claim, u64)]) -> Step<Vec<Vec<Stored>>> {
    let mut read = Vec::with_capacity(claims.len());
    for (claim, _) in claims {
        read.push(read_places(tx, claim.part, &claim.span).await?);
    }
    Ok(read)
}

async fn keys(tx: &mut Tx, chunks: &[Chunk]) -> Step<Vec<Keys>> {
    let mut keys = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        keys.push(read_keys(tx, chunk).await?);
    }
    Ok(keys)
}

async fn look(tx: &mut Tx, scope: &Scope, mine: &BTreeMap<i64, u64>, woken: bool) -> Step<View> {
    if woken {
        lease::set_active(tx, scope, true).await?;
    }
    lease::look(tx, scope, mine).await
}

async fn leave(tx: &mut Tx, scope: &Scope, unused: &[Lost]) -> Step<()> {
    claim::unfetch_all(tx, scope, unused).await?;
    group::leave(tx, scope).await
}
