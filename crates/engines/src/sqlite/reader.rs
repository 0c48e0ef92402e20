//! The reader thread: payloads beside the writer, and a look for the commits of other processes.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::relational::hub::Hub;

/// After this much quiet, other processes' commits are looked for half as often.
const QUIET: Duration = Duration::from_secs(5);

/// What the reader thread is asked.
pub(super) enum Look {
    Read(Box<dyn FnOnce(&Connection) + Send>),
    /// Somebody waits: start polling.
    Wake,
    Stop(oneshot::Sender<()>),
}

pub(super) struct Reader {
    conn: Connection,
    poll: Duration,
    hub: Arc<Hub>,
    version: i64,
    changed: Instant,
    polled: Instant,
}

impl Reader {
    pub(super) fn new(conn: Connection, poll: Duration, hub: Arc<Hub>) -> Self {
        let now = Instant::now();
        Self { conn, poll, hub, version: 0, changed: now, polled: now }
    }

    /// Runs until it is stopped or every handle is gone. Without waiting subscriptions it sleeps.
    pub(super) fn work(mut self, looks: &Receiver<Look>) {
        loop {
            let look = if self.hub.waiting() == 0 {
                looks.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                looks.recv_timeout(self.pause())
            };
            match look {
                Ok(Look::Read(read)) => {
                    read(&self.conn);
                    self.poll_if_due();
                }
                Ok(Look::Wake) => {}
                Ok(Look::Stop(answer)) => {
                    drop(self);
                    let _gone = answer.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => self.poll(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn pause(&self) -> Duration {
        if self.changed.elapsed() < QUIET { self.poll } else { self.poll * 2 }
    }

    /// Reads that come one after another must not keep it from polling.
    fn poll_if_due(&mut self) {
        if self.hub.waiting() > 0 && self.polled.elapsed() >= self.pause() {
            self.poll();
        }
    }

    /// `data_version` changes with every commit of another connection; reading it costs two microseconds.
    fn poll(&mut self) {
        self.polled = Instant::now();
        let read = self.conn.prepare_cached("PRAGMA data_version");
        let version = read.and_then(|mut read| read.query_row([], |row| row.get(0))).unwrap_or(self.version);
        if version != self.version {
            self.version = version;
            self.changed = Instant::now();
            self.hub.wake_all();
        }
    }
}
