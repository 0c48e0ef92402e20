//! The handle.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{Caps, CoordEngine, Entry, Rev, Watched, When};
use crate::scheme::{self, Scheme};
use crate::url::EngineUrl;
use crate::{Info, Result};

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
}

impl fmt::Debug for Coord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Coord({})", self.engine.info().url)
    }
}

impl Coord {
    /// Coordination on this engine.
    pub fn new(engine: Arc<dyn CoordEngine>) -> Self {
        Self { engine }
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
        self.engine.get(key).await
    }

    /// Everything whose key begins with `prefix`, in the order of keys, page by page: what changes meanwhile may be seen or
    /// not.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        const PAGE: usize = 1000;
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map(|entry| entry.key.clone());
            let page = self.engine.list(prefix, after.as_deref(), PAGE).await?;
            let full = page.len() >= PAGE;
            all.extend(page);
            if !full {
                return Ok(all);
            }
        }
    }

    /// Writes the key for good, under a condition. The answer is the revision of this write.
    ///
    /// # Errors
    /// `Conflict` if the condition isn't met; `Invalid` for a key or value out of bounds; what the engine says otherwise.
    pub async fn put(&self, key: &str, value: impl Into<Bytes>, when: When) -> Result<Rev> {
        self.engine.put(key, value.into(), when, None).await
    }

    /// Removes the key under a condition; whether it was there.
    ///
    /// # Errors
    /// `Conflict` if it is there with another revision; what the engine says otherwise.
    pub async fn delete(&self, key: &str, when: When) -> Result<bool> {
        self.engine.delete(key, when).await
    }

    /// Everything whose key begins with `prefix`, and from then on what changes.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn watch(&self, prefix: &str) -> Result<Watched> {
        self.engine.watch(prefix).await
    }
}
