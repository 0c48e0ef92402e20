//! The handle.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use metrics::counter;
use tokio::sync::Mutex;
use tracing::Instrument;

use super::queue;
use super::{Caps, CoordEngine, DEFAULT_TTL, Entry, Rev, Session, Watched, When};
use crate::scheme::{self, Scheme};
use crate::telemetry::COORD_CALLS;
use crate::url::EngineUrl;
use crate::{Info, Kind, Result};

/// Coordination, on any engine. Cheap to clone; clones share the engine.
///
/// Opened by URL — `Coord::open` of the facade crate `linchpin`, which holds the table of engines — or around an engine with
/// [`Coord::new`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use linchpin_core::coord::{Coord, MemoryCoord, When};
///
/// let coord = Coord::new(MemoryCoord::new());
/// let first = coord.put("shop/limits", "10", When::Absent).await?;
/// let second = coord.put("shop/limits", "20", When::Is(first)).await?;
/// assert!(second > first);
/// assert_eq!(coord.get("shop/limits").await?.unwrap().value, "20");
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Coord {
    engine: Arc<dyn CoordEngine>,
    /// Begun when first asked for, and again after it was lost.
    session: Arc<Mutex<Option<Session>>>,
}

impl fmt::Debug for Coord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Coord({})", self.engine.info().url)
    }
}

impl Coord {
    /// Coordination on this engine.
    pub fn new(engine: Arc<dyn CoordEngine>) -> Self {
        Self { engine, session: Arc::default() }
    }

    /// The session that is shared by what is asked of this handle and its clones without naming one. Its time is
    /// [`DEFAULT_TTL`], or the engine's shortest if that is longer.
    pub(super) async fn shared_session(&self) -> Result<Session> {
        let mut shared = self.session.lock().await;
        match shared.as_ref().filter(|session| session.is_alive()) {
            Some(session) => Ok(session.clone()),
            None => {
                let session = self.session(DEFAULT_TTL.max(self.caps().min_ttl)).await?;
                Ok(shared.insert(session).clone())
            }
        }
    }

    /// Opens `url` with the engine that `schemes` names for it.
    ///
    /// # Errors
    /// [`Kind::Config`](crate::Kind::Config) for a URL that doesn't parse, an unknown scheme (the error lists the known ones and
    /// the cargo feature that is missing), or an unknown option; what the engine says otherwise.
    pub async fn open_with(url: &str, schemes: &[Scheme]) -> Result<Self> {
        let url: EngineUrl = url.parse()?;
        let open = scheme::find(&url, schemes, "coordination", |ways| ways.coord)?;
        Ok(Self::new(open(url).await?))
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<dyn CoordEngine> {
        &self.engine
    }

    /// Name, URL and durability of the engine.
    pub fn info(&self) -> &Info {
        self.engine.info()
    }

    /// What the engine can do.
    pub fn caps(&self) -> Caps {
        self.engine.caps()
    }

    /// What is under the key.
    ///
    /// # Errors
    /// `Invalid` for a key that [`check_key`](super::check_key) refuses; what the engine says otherwise.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>> {
        counted("get", self.engine.get(key)).await
    }

    /// Everything whose key begins with `prefix`, in the order of keys, page by page: what changes meanwhile may be seen or
    /// not.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        counted("list", queue::list(self.engine.as_ref(), prefix)).await
    }

    /// Writes the key for good, under a condition. The answer is the revision of this write.
    ///
    /// # Errors
    /// `Conflict` if the condition isn't met; `Invalid` for a key or value out of bounds; what the engine says otherwise.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>, when: When) -> Result<Rev> {
        counted("put", self.engine.put(key, value.into(), when, None)).await
    }

    /// Removes the key under a condition; whether it was there.
    ///
    /// # Errors
    /// `Conflict` if it is there with another revision; what the engine says otherwise.
    pub async fn delete(&self, key: &str, when: When) -> Result<bool> {
        counted("delete", self.engine.delete(key, when)).await
    }

    /// Everything whose key begins with `prefix`, and from then on what changes.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn watch(&self, prefix: &str) -> Result<Watched> {
        counted("watch", self.engine.watch(prefix)).await
    }
}

async fn counted<T>(op: &'static str, call: impl Future<Output = Result<T>>) -> Result<T> {
    let answer = call.instrument(tracing::debug_span!("coord", op)).await.map_err(|error| error.op(op));
    let outcome = match &answer {
        Ok(_) => "ok",
        Err(error) if error.kind() == Kind::Conflict => "conflict",
        Err(_) => "error",
    };
    counter!(COORD_CALLS, "op" => op, "outcome" => outcome).increment(1);
    answer
}
