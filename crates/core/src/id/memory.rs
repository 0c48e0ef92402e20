//! Counters in memory: for tests, and the contract in its plainest form.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;

use super::engine::{IdEngine, Segment};
use crate::url::EngineUrl;
use crate::{Error, Info, Kind, Result};

type Shared = Mutex<BTreeMap<String, i64>>;

static NAMED: Mutex<BTreeMap<String, Weak<Shared>>> = Mutex::new(BTreeMap::new());

/// Counters that live in this process and die with it. They begin at 1, and are there when they are first asked for.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `counter` | none | the counter that the URL names |
/// | `block` | `1000` | how many numbers are taken at a time, 1 or more |
#[derive(Debug)]
pub struct MemoryIds {
    info: Info,
    name: Option<String>,
    block: u64,
    last: Arc<Shared>,
}

impl MemoryIds {
    /// A new engine of its own.
    ///
    /// # Errors
    /// `Config` for a `block` of 0, or an unknown option.
    pub fn open(url: &EngineUrl) -> Result<Arc<Self>> {
        let mut options = url.options(&[]);
        let name = options.text("counter").map(str::to_owned);
        let block = options.number("block", 1000)?;
        options.finish()?;
        if block == 0 {
            return Err(Error::new(Kind::Config, "block=0").engine("memory").help("use 1 or more"));
        }
        let durability = "in this process's memory: lost when it ends";
        let info = Info { engine: "memory", url: url.to_string(), durability };
        Ok(Arc::new(Self { info, name, block, last: shared(&(url.hosts().join(",") + url.path())) }))
    }
}

fn shared(name: &str) -> Arc<Shared> {
    if name.is_empty() {
        return Arc::default();
    }
    let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    named.retain(|_, engine| engine.strong_count() > 0);
    if let Some(there) = named.get(name).and_then(Weak::upgrade) {
        return there;
    }
    let fresh = Arc::default();
    named.insert(name.to_owned(), Arc::downgrade(&fresh));
    fresh
}

#[async_trait]
impl IdEngine for MemoryIds {
    fn info(&self) -> &Info {
        &self.info
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    async fn take(&self, name: &str, count: Option<u64>) -> Result<Segment> {
        let mut counters = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = counters.entry(name.to_owned()).or_default();
        let last = before.saturating_add_unsigned(count.unwrap_or(self.block).max(1));
        if last == *before {
            let message = format!("the counter {name:?} is used up: it is at {last}");
            return Err(Error::new(Kind::Limited, message).engine("memory").help("begin another counter"));
        }
        let first = *before + 1;
        *before = last;
        Ok(Segment { first, last, step: self.block })
    }
}
