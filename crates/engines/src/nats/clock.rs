//! The server's clock, read from the time it stamps a message with.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use linchpin_core::time::from_millis;
use linchpin_core::{Error, Kind, Result, Timestamp};

use super::NAME;
use super::page::lock;
use super::store::Store;

/// How long a reading serves.
const SERVES: Duration = Duration::from_secs(60);

/// Between `asked` and `answered` the server's clock stood at `stood`, in milliseconds since 1970.
#[derive(Debug, Clone, Copy)]
struct Reading {
    stood: i64,
    asked: Instant,
    answered: Instant,
}

/// The server's clock, as narrowly as it is known.
#[derive(Debug, Default)]
pub(super) struct ServerClock(Mutex<Option<Reading>>);

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

impl ServerClock {
    /// Reads the server's clock if the last reading is old.
    pub(super) async fn refresh(&self, store: &Store) -> Result<()> {
        let known = lock(&self.0).is_some_and(|reading| reading.answered.elapsed() < SERVES);
        if known {
            return Ok(());
        }
        // Another process may overwrite the record before it is read.
        for _ in 0..8 {
            let asked = Instant::now();
            let rev = store.set(&store.names.clock(), Bytes::new()).await?;
            let answered = Instant::now();
            if let Some(record) = store.at(rev).await? {
                let stood = record.time.as_millisecond();
                *lock(&self.0) = Some(Reading { stood, asked, answered });
                return Ok(());
            }
        }
        let message = "the server's clock can't be read: too many processes do so at once";
        Err(Error::new(Kind::Unavailable, message).engine(NAME).help("try again"))
    }

    fn since(&self, from: impl Fn(Reading) -> Instant) -> i64 {
        let reading = *lock(&self.0);
        let local = || Timestamp::now().as_millisecond();
        reading.map_or_else(local, |reading| reading.stood.saturating_add(millis(from(reading).elapsed())))
    }

    /// It isn't earlier than this: what is due by it, is due.
    pub(super) fn earliest(&self) -> i64 {
        self.since(|reading| reading.answered)
    }

    /// It isn't later than this: what is to last from now on, is counted from here.
    pub(super) fn latest(&self) -> i64 {
        self.since(|reading| reading.asked).saturating_add(1)
    }

    /// [`ServerClock::earliest`] as a time.
    pub(super) fn now(&self) -> Timestamp {
        from_millis(self.earliest())
    }

    /// The time `span` from now at the soonest.
    pub(super) fn after(&self, span: Duration) -> i64 {
        self.latest().saturating_add(millis(span))
    }
}
