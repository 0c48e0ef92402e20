//! Who watches in this process, and how they come to know that there is something to read.
//!
//! One connection hears of changes for all of them. A hint may be lost; that it was shows at the second look at the server's revision,
//! and then all of them read, as they do whenever the connection was made anew.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use linchpin_core::{Kind, Result};
use redis::aio::PubSubStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::space::Space;
use crate::redis::core::lock;
use crate::redis::error::{error, map};
use crate::redis::link;

/// How often the server's revision is asked for.
const TICK: Duration = Duration::from_secs(1);
/// How long after a connection failed the next is made.
const AGAIN: Duration = Duration::from_millis(500);

/// Where a watcher's news stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct News {
    count: u64,
    /// Another one whenever the server may have gone back: after a restart or a failover.
    pub(super) history: u64,
}

#[derive(Debug, Default)]
pub(super) struct Hub {
    watchers: Mutex<Vec<(String, watch::Sender<News>)>>,
    listens: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
    /// What the server last called its history.
    history: Mutex<String>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

impl Hub {
    /// Adds a watcher: its news.
    pub(super) fn add(space: &Arc<Space>, prefix: &str) -> watch::Receiver<News> {
        let hub = &space.hub;
        let (sender, receiver) = watch::channel(News::default());
        let mut watchers = lock(&hub.watchers);
        watchers.retain(|(_, sender)| !sender.is_closed());
        watchers.push((prefix.to_owned(), sender));
        drop(watchers);
        if !hub.listens.swap(true, Ordering::AcqRel) {
            let task = tokio::spawn(listen(Arc::downgrade(space)));
            *lock(&hub.task) = Some(task.abort_handle());
        }
        receiver
    }

    /// A key changed; any, if none is named.
    fn tell(&self, key: Option<&str>) {
        for (prefix, sender) in lock(&self.watchers).iter() {
            if key.is_none_or(|key| key.starts_with(prefix.as_str())) {
                sender.send_modify(|news| news.count += 1);
            }
        }
    }

    fn note_history(&self, history: String) {
        let mut known = lock(&self.history);
        if !known.is_empty() && *known != history {
            lock(&self.watchers).iter().for_each(|(_, sender)| sender.send_modify(|news| news.history += 1));
        }
        *known = history;
    }

    fn is_idle(&self) -> bool {
        let mut watchers = lock(&self.watchers);
        watchers.retain(|(_, sender)| !sender.is_closed());
        watchers.is_empty()
    }
}

/// Listens until the space is gone.
async fn listen(space: Weak<Space>) {
    let mut turn = 0;
    loop {
        let heard = session(&space, turn).await;
        let Some(space) = space.upgrade() else { return };
        if let Err(error) = heard {
            tracing::debug!(%error, "no hints for now");
        }
        // Whoever waits finds out for itself how things are.
        space.hub.tell(None);
        drop(space);
        turn += 1;
        sleep(AGAIN).await;
    }
}

async fn session(space: &Weak<Space>, turn: usize) -> Result<()> {
    let Some((config, channel)) = space.upgrade().map(|space| (space.config.clone(), space.channel.clone()))
    else {
        return Ok(());
    };
    let (mut sink, mut stream) = link::listen(&config, turn).await?.split();
    let late = |_| error(Kind::Timeout, "the server doesn't take a listener").op("watch");
    let subscribing = timeout(config.timeout, sink.subscribe(&channel)).await;
    subscribing.map_err(late)?.map_err(|e| map(e, "watch"))?;
    // What was said meanwhile wasn't heard. Up to which revision hints were heard, and what the last look said.
    let (mut heard, mut ticked, mut next) = (0, None, Instant::now());
    loop {
        tokio::select! {
            more = hear(space, &mut stream, &mut heard) => {
                if !more {
                    return Err(error(Kind::Unavailable, "the connection that listens broke").op("watch"));
                }
            }
            () = sleep_until(next) => {
                let Some(space) = space.upgrade() else { return Ok(()) };
                if space.hub.is_idle() {
                    next = Instant::now() + TICK;
                    continue;
                }
                let (rev, ends, history) = space.tick().await?;
                space.hub.note_history(history);
                match ticked.replace(rev) {
                    None => {
                        space.hub.tell(None);
                        heard = heard.max(rev);
                    }
                    Some(ticked) if heard < ticked => {
                        return Err(error(Kind::Unavailable, "hints were lost").op("watch"));
                    }
                    Some(_) => {}
                }
                let ends = u64::try_from(ends).map_or(TICK, Duration::from_micros);
                next = Instant::now() + ends.min(TICK) + Duration::from_millis(1);
            }
        }
    }
}

/// Passes one hint on; false if there will be no more.
async fn hear(space: &Weak<Space>, stream: &mut PubSubStream, heard: &mut u64) -> bool {
    let Some((message, space)) = stream.next().await.and_then(|message| Some((message, space.upgrade()?)))
    else {
        return false;
    };
    let text = String::from_utf8_lossy(message.get_payload_bytes()).into_owned();
    let mut parts = text.splitn(3, ' ');
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
    match (number(), number()) {
        // Whose changes came before it is known.
        (Some(before), Some(rev)) if before <= *heard => {
            *heard = rev.max(*heard);
            space.hub.tell(parts.next().filter(|key| !key.is_empty()));
        }
        (_, rev) => {
            *heard = rev.unwrap_or(0).max(*heard);
            space.hub.tell(None);
        }
    }
    true
}
