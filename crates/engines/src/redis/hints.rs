//! Being woken: a connection of its own listens to channels on which others say that there is something new.
//!
//! Hints may be lost; whoever waits looks by itself every [`POLL`] too.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use futures_util::StreamExt;
use linchpin_core::Result;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::watch;
use tokio::time::sleep;

use super::core::{Core, lock};
use super::error::map;
use super::link;
use super::url::Config;

/// How often those who wait look without being told.
pub(super) const POLL: Duration = Duration::from_millis(200);
/// How long after a connection failed the next is made.
const AGAIN: Duration = Duration::from_millis(500);

/// The channels that somebody here waits on.
#[derive(Debug)]
pub(super) struct Hints(watch::Sender<BTreeSet<String>>);

impl Hints {
    pub(super) fn new() -> Self {
        Self(watch::channel(BTreeSet::new()).0)
    }

    pub(super) fn want(&self, channels: BTreeSet<String>) {
        self.0.send_if_modified(|now| {
            let differs = *now != channels;
            *now = channels;
            differs
        });
    }
}

/// Listens until the bus is gone.
pub(super) async fn listen(core: Weak<Core>, config: Config) {
    let mut turn = 0;
    while let Some(wanted) = core.upgrade().map(|core| core.hints.0.subscribe()) {
        if let Err(error) = session(&core, &config, wanted, turn).await {
            tracing::debug!(%error, "no hints for now");
        }
        turn += 1;
        sleep(AGAIN).await;
    }
}

async fn session(
    core: &Weak<Core>,
    config: &Config,
    mut wanted: watch::Receiver<BTreeSet<String>>,
    turn: usize,
) -> Result<()> {
    let (mut sink, mut stream) = link::listen(config, turn).await?.split();
    let Some(changes) = core.upgrade().map(|core| core.keys.changes()) else { return Ok(()) };
    sink.subscribe(&changes).await.map_err(|e| map(e, "listen"))?;
    let mut heard = BTreeSet::new();
    let now = wanted.borrow_and_update().clone();
    follow(&mut sink, &mut heard, now).await?;
    // What was said meanwhile wasn't heard.
    if let Some(core) = core.upgrade() {
        lock(&core.topics).clear();
        core.wake(None);
    }
    loop {
        tokio::select! {
            more = hear(core, &changes, &mut stream) => if !more { return Ok(()) },
            changed = wanted.changed() => {
                if changed.is_err() { return Ok(()) }
                let now = wanted.borrow_and_update().clone();
                follow(&mut sink, &mut heard, now).await?;
            }
        }
    }
}

/// Passes one hint on; false if there will be no more.
async fn hear(core: &Weak<Core>, changes: &str, stream: &mut PubSubStream) -> bool {
    let Some((message, core)) = stream.next().await.and_then(|message| Some((message, core.upgrade()?)))
    else {
        return false;
    };
    if message.get_channel_name() == changes {
        let topic = String::from_utf8_lossy(message.get_payload_bytes()).into_owned();
        core.forget(&topic);
        core.wake(Some(&core.keys.hints(&topic)));
    } else {
        core.wake(Some(message.get_channel_name()));
    }
    true
}

async fn follow(sink: &mut PubSubSink, heard: &mut BTreeSet<String>, wanted: BTreeSet<String>) -> Result<()> {
    let (new, old): (Vec<_>, Vec<_>) =
        (wanted.difference(heard).collect(), heard.difference(&wanted).collect());
    if !new.is_empty() {
        sink.subscribe(&new).await.map_err(|e| map(e, "listen"))?;
    }
    if !old.is_empty() {
        sink.unsubscribe(&old).await.map_err(|e| map(e, "listen"))?;
    }
    *heard = wanted;
    Ok(())
}
