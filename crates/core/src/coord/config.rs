//! Typed values that change live, with a history.

mod live;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::live::Live;
use super::name::own_keys;
use super::{Coord, Entry, Rev, When, check_key};
use crate::{Error, Kind, Result};

/// How often a write without a condition begins anew because another came first.
const ATTEMPTS: u32 = 20;

/// Typed values by key, as JSON. Cheap to clone.
///
/// A value is under `config/<key>` as plain JSON, so that other tools read and write it too; earlier ones are under
/// `config-history/<key>/`.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use linchpin_core::coord::{Coord, MemoryCoord, When};
/// # let coord = Coord::new(MemoryCoord::new());
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Limits { orders: u32 }
///
/// let config = coord.config();
/// config.set("shop/limits", &Limits { orders: 10 }, When::Absent).await?;
/// let mut limits = config.watch::<Limits>("shop/limits").await?;
/// assert_eq!(limits.value().unwrap().orders, 10);
///
/// config.set("shop/limits", &Limits { orders: 20 }, When::Always).await?;
/// limits.changed().await;
/// assert_eq!(limits.value().unwrap().orders, 20);
/// # Ok::<(), linchpin_core::Error>(()) }).unwrap();
/// ```
///
/// # Guarantees
/// * Every write is a compare-and-set, also one under [`When::Always`]: no version is lost from the history to a race.
/// * A version enters the history before it is replaced. A crash between the two leaves the value as it was.
/// * The history holds the last versions before the present one, 10 unless said otherwise.
#[derive(Debug, Clone)]
pub struct Config {
    coord: Coord,
    keep: usize,
}

/// A value and the revision it was written at, for a write under [`When::Is`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Its revision.
    pub rev: Rev,
}

impl Coord {
    /// Typed values that change live.
    pub fn config(&self) -> Config {
        Config { coord: self.clone(), keep: 10 }
    }
}

fn path(key: &str) -> Result<String> {
    // Its history needs a place, too.
    own_keys("config-history", key)?;
    let path = format!("config/{key}");
    check_key(&path).map(|()| path)
}

fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T> {
    serde_json::from_slice(&entry.value).map_err(|error| {
        Error::new(Kind::Invalid, "the value can't be read")
            .op("config")
            .with("key", &entry.key)
            .source(error)
    })
}

impl Config {
    /// How many earlier versions are kept. Default 10.
    pub fn keep(mut self, versions: usize) -> Self {
        self.keep = versions;
        self
    }

    /// The value under the key.
    ///
    /// # Errors
    /// `Invalid` if it isn't a `T`, saying where; what the engine says otherwise.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Setting<T>>> {
        let entry = self.coord.get(&path(key)?).await?;
        entry.map(|entry| Ok(Setting { value: decode(&entry)?, rev: entry.rev })).transpose()
    }

    /// Writes the value under a condition. The answer is its revision.
    ///
    /// # Errors
    /// `Conflict` if the condition isn't met, and nothing was changed; `Invalid` if the value has no JSON form; what the
    /// engine says otherwise.
    pub async fn set<T: Serialize>(&self, key: &str, value: &T, when: When) -> Result<Rev> {
        let json = serde_json::to_vec(value);
        let no_json = |e| Error::new(Kind::Invalid, "the value has no JSON form").op("config").source(e);
        self.write(key, json.map_err(no_json)?.into(), when).await
    }

    /// Removes the value under a condition; whether it was there. Its history stays.
    ///
    /// # Errors
    /// `Conflict` if the condition isn't met; `Invalid` for [`When::Absent`]; what the engine says otherwise.
    pub async fn remove(&self, key: &str, when: When) -> Result<bool> {
        let path = path(key)?;
        for _ in 0..ATTEMPTS {
            let Some(now) = self.coord.get(&path).await? else { break };
            self.archive(key, &now).await?;
            let condition = if when == When::Always { When::Is(now.rev) } else { when };
            match self.coord.delete(&path, condition).await {
                Err(error) if error.kind() == Kind::Conflict && when == When::Always => {}
                answer => return answer,
            }
        }
        self.coord.delete(&path, when).await
    }

    /// A handle that holds the value and follows it.
    ///
    /// # Errors
    /// `Invalid` if what is there now isn't a `T`; what the engine says otherwise.
    pub async fn watch<T: DeserializeOwned + Send + Sync + 'static>(&self, key: &str) -> Result<Live<T>> {
        Live::begin(self.coord.engine().clone(), path(key)?).await
    }

    /// The versions before the present one as JSON, the newest first.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn history(&self, key: &str) -> Result<Vec<Setting<Bytes>>> {
        let now = self.coord.get(&path(key)?).await?.map(|entry| entry.rev);
        let prefix = own_keys("config-history", key)?;
        let entries = self.coord.list(&prefix).await?;
        let old = entries.into_iter().rev().filter_map(|entry| {
            let rev = Rev(entry.key.strip_prefix(&prefix)?.parse().ok()?);
            (Some(rev) != now).then_some(Setting { value: entry.value, rev })
        });
        Ok(old.take(self.keep).collect())
    }

    /// Writes the version of this revision again, over whatever is there now. The answer is the new revision.
    ///
    /// # Errors
    /// `NotFound` if the history has no such version; what the engine says otherwise.
    pub async fn rollback(&self, key: &str, to: Rev) -> Result<Rev> {
        let old = self.coord.get(&version(key, to)?).await?.ok_or_else(|| {
            Error::new(Kind::NotFound, format!("{key:?} has no version {to}"))
                .op("rollback")
                .help(format!("the last {} are kept: choose one of its history", self.keep))
        })?;
        self.write(key, old.value, When::Always).await
    }

    async fn write(&self, key: &str, json: Bytes, when: When) -> Result<Rev> {
        let path = path(key)?;
        let mut attempt = 1;
        loop {
            let now = self.coord.get(&path).await?;
            let condition = match (when, &now) {
                (When::Always, Some(now)) => When::Is(now.rev),
                (When::Always, None) => When::Absent,
                (when, _) => when,
            };
            if let Some(now) = now.filter(|now| condition == When::Is(now.rev)) {
                self.archive(key, &now).await?;
            }
            match self.coord.put(&path, json.clone(), condition).await {
                Err(error)
                    if error.kind() == Kind::Conflict && when == When::Always && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                Ok(rev) => {
                    self.trim(key).await;
                    return Ok(rev);
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn archive(&self, key: &str, entry: &Entry) -> Result<()> {
        match self.coord.put(&version(key, entry.rev)?, entry.value.clone(), When::Absent).await {
            // It was archived before, by a write that then failed or lost a race.
            Err(error) if error.kind() == Kind::Conflict => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Removes what is too old for the history. What remains goes with the next write.
    async fn trim(&self, key: &str) {
        let trim = async {
            let old = self.coord.list(&own_keys("config-history", key)?).await?;
            for entry in old.iter().rev().skip(self.keep) {
                self.coord.delete(&entry.key, When::Always).await?;
            }
            Ok::<(), Error>(())
        };
        if let Err(error) = trim.await {
            tracing::debug!(key, %error, "could not trim the history");
        }
    }
}

/// The key of a version. Revisions are padded: keys sort as text.
fn version(key: &str, rev: Rev) -> Result<String> {
    Ok(format!("{}{rev:020}", own_keys("config-history", key)?))
}

#[cfg(test)]
mod tests;
