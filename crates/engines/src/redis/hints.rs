//! Being woken: a connection of its own listens to channels on which others say that there is something new.
//!
//! Hints may be lost, and other programs give none. Whoever waits looks by itself too: every [`POLL`] while its channel
//! isn't heard, or while messages come that nobody told of; less and less often, down to every [`CALM`], while they don't.

use std::collections::BTreeSet;
use std::sync::{Mutex, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use linchpin_core::Result;
use redis::aio::{PubSubSink, PubSubStream};
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

use super::core::{Core, lock};
use super::error::map;
use super::link;
use super::url::Config;

/// How often those who wait look without being told.
pub(super) const POLL: Duration = Duration::from_millis(200);
/// How often they look at least, when all that came was told of.
pub(super) const CALM: Duration = Duration::from_secs(2);
/// How long after a message of which nobody told more of them are looked for.
pub(super) const UNTOLD: Duration = Duration::from_secs(60);
/// How often it is asked whether the connection lives.
const BEAT: Duration = Duration::from_secs(5);
/// How long after a connection failed the next is made.
const AGAIN: Duration = Duration::from_millis(500);

/// The channels that somebody here waits on.
#[derive(Debug)]
pub(super) struct Hints {
    wanted: watch::Sender<BTreeSet<String>>,
    /// Those that are listened to. Whoever waits on one of them was woken after it came to be here, and is when it goes.
    heard: Mutex<BTreeSet<String>>,
}

impl Hints {
    pub(super) fn new() -> Self {
        Self { wanted: watch::channel(BTreeSet::new()).0, heard: Mutex::default() }
    }

    pub(super) fn want(&self, channels: BTreeSet<String>) {
        self.wanted.send_if_modified(|now| {
            let differs = *now != channels;
            *now = channels;
            differs
        });
    }

    /// Whether what is told on a channel is heard, as far as is known.
    pub(super) fn is_heard(&self, channel: &str) -> bool {
        lock(&self.heard).contains(channel)
    }
}

/// Listens until the bus is gone.
pub(super) async fn listen(core: Weak<Core>, config: Config) {
    let mut turn = 0;
    while let Some(wanted) = core.upgrade().map(|core| core.hints.wanted.subscribe()) {
        if let Err(error) = session(&core, &config, wanted, turn).await {
            tracing::debug!(%error, "no hints for now");
        }
        if let Some(core) = core.upgrade() {
            lock(&core.hints.heard).clear();
            core.deaf();
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
    say(config, sink.subscribe(&changes)).await?;
    let mut heard = BTreeSet::new();
    let now = wanted.borrow_and_update().clone();
    follow(core, config, &mut sink, &mut heard, now).await?;
    // What was said meanwhile wasn't heard.
    if let Some(core) = core.upgrade() {
        lock(&core.topics).clear();
        core.wake(None);
    }
    let mut beat = interval(BEAT);
    loop {
        tokio::select! {
            more = hear(core, &changes, &mut stream) => if !more { return Ok(()) },
            changed = wanted.changed() => {
                if changed.is_err() { return Ok(()) }
                let now = wanted.borrow_and_update().clone();
                follow(core, config, &mut sink, &mut heard, now).await?;
            }
            // A network that swallows everything closes nothing: to subscribe once more changes nothing, and is answered.
            _ = beat.tick() => say(config, sink.subscribe(&changes)).await?,
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

/// Waits for the answer, but not for ever.
async fn say(config: &Config, saying: impl Future<Output = redis::RedisResult<()>>) -> Result<()> {
    let answer = timeout(config.timeout, saying).await;
    answer.map_err(|_| link::late(config, "listen"))?.map_err(|e| map(e, "listen"))
}

async fn follow(
    core: &Weak<Core>,
    config: &Config,
    sink: &mut PubSubSink,
    heard: &mut BTreeSet<String>,
    wanted: BTreeSet<String>,
) -> Result<()> {
    let (new, old): (Vec<_>, Vec<_>) =
        (wanted.difference(heard).collect(), heard.difference(&wanted).collect());
    if !new.is_empty() {
        say(config, sink.subscribe(&new)).await?;
    }
    if !old.is_empty() {
        say(config, sink.unsubscribe(&old)).await?;
    }
    if let Some(core) = core.upgrade() {
        *lock(&core.hints.heard) = wanted.clone();
        new.iter().for_each(|channel| core.wake(Some(channel)));
    }
    *heard = wanted;
    Ok(())
}
