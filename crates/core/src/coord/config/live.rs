//! A value that follows its key.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::decode;
use crate::coord::follow::Follow;
use crate::coord::{CoordEngine, Entry, Rev};
use crate::{Error, Result};

/// The value of a key, kept in step. Cheap to clone; when the last clone is dropped, following ends.
///
/// # Guarantees
/// * It holds what was read last. While the engine can't be reached, or if what is under the key is no `T`, that is the last
///   good value, and [`Live::problem`] says so.
/// * Of several changes in a short time the last alone may be seen; the last one always is.
#[derive(Debug)]
pub struct Live<T> {
    seen: watch::Receiver<Seen<T>>,
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self { seen: self.seen.clone() }
    }
}

#[derive(Debug)]
struct Seen<T> {
    value: Option<(Arc<T>, Rev)>,
    problem: Option<Error>,
}

impl<T> Live<T> {
    /// The last good value; `None` if the key isn't there.
    pub fn value(&self) -> Option<Arc<T>> {
        self.seen.borrow().value.as_ref().map(|(value, _)| value.clone())
    }

    /// The revision of that value.
    pub fn rev(&self) -> Option<Rev> {
        self.seen.borrow().value.as_ref().map(|(_, rev)| *rev)
    }

    /// Why the value may not be what is under the key: that is no `T`, or the engine can't be reached.
    pub fn problem(&self) -> Option<Error> {
        self.seen.borrow().problem.clone()
    }

    /// Waits for a value that this clone hasn't been told of; at first, for one after it was made. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            // The task lives as long as its runtime, and nothing changes any more.
            std::future::pending::<()>().await;
        }
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Live<T> {
    pub(super) async fn begin(engine: Arc<dyn CoordEngine>, key: String) -> Result<Self> {
        let mut follow = Follow::begin(engine, &key).await?;
        let value = match follow.entries().get(&key) {
            Some(entry) => Some((Arc::new(decode(entry)?), entry.rev)),
            None => None,
        };
        let (sender, seen) = watch::channel(Seen { value, problem: None });
        tokio::spawn(async move {
            loop {
                let news = tokio::select! {
                    news = follow.next() => news,
                    () = sender.closed() => return,
                };
                match news {
                    Ok(()) => see(&sender, &key, follow.entries().get(&key)),
                    Err(error) => trouble(&sender, &key, error),
                }
            }
        });
        Ok(Self { seen })
    }
}

fn trouble<T>(sender: &watch::Sender<Seen<T>>, key: &str, error: Error) {
    if sender.borrow().problem.is_none() {
        tracing::warn!(key, %error, "the last good value is kept");
    }
    sender.send_if_modified(|seen| {
        seen.problem = Some(error);
        false
    });
}

fn see<T: DeserializeOwned>(sender: &watch::Sender<Seen<T>>, key: &str, entry: Option<&Entry>) {
    let rev = entry.map(|entry| entry.rev);
    let old = sender.borrow().value.as_ref().map(|(_, rev)| *rev);
    let value = match entry {
        Some(entry) if old != rev => match decode(entry) {
            Ok(value) => Some((Arc::new(value), entry.rev)),
            Err(error) => return trouble(sender, key, error),
        },
        _ => None,
    };
    sender.send_if_modified(|seen| {
        seen.problem = None;
        if old != rev {
            seen.value = value;
        }
        old != rev
    });
}
