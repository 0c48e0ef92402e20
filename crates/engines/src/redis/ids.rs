//! Ids: counters that `INCRBY` moves on.

use async_trait::async_trait;
use linchpin_core::id::{IdEngine, Segment};
use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Info, Kind, Result};
use redis::from_redis_value;

use super::error::{NAME, error, map};
use super::link::Link;
use super::url::Config;

const KEYS: &[&str] = &["counter", "block"];

/// Counters on a Redis server or cluster: the key of a counter is its name, behind the prefix and a colon if there is
/// one. Other programs may `INCR` and `INCRBY` it, too. A missing key is a counter at 0.
///
/// Beside the options of [`Config`]:
///
/// | option | default | meaning |
/// |---|---|---|
/// | `counter` | none | the counter that the URL names |
/// | `block` | `1000` | how many numbers are taken at a time, at least; 1 to 1,000,000 |
#[derive(Debug)]
pub struct RedisIds {
    info: Info,
    link: Link,
    prefix: String,
    name: Option<String>,
    block: u64,
}

impl RedisIds {
    /// Connects.
    ///
    /// # Errors
    /// See [`ids`](super::ids).
    pub async fn open(url: &EngineUrl) -> Result<Self> {
        let (shown, mut url) = (url.to_string(), url.clone());
        let mut options = url.options(&[]);
        let name = options.text("counter").map(str::to_owned);
        let block = options.number("block", 1000)?;
        let wrong = |message: String, help: &str| Err(error(Kind::Config, message).help(help));
        if !(1..=1_000_000).contains(&block) {
            return wrong(format!("block={block}"), "use 1 to 1000000");
        }
        if name.as_deref() == Some("") {
            return wrong("counter= is empty".into(), "name the counter, or leave the option out");
        }
        for key in KEYS {
            while url.take(key).is_some() {}
        }
        let config = Config::read(&url, KEYS)?;
        let durability = "in the server's memory, and in its log as `appendonly` and `appendfsync` say: what it forgets \
                          by a crash or a failover it gives out again";
        let info = Info { engine: NAME, url: shown, durability };
        let prefix = if config.prefix.is_empty() { String::new() } else { format!("{}:", config.prefix) };
        Ok(Self { info, link: Link::open(config).await?, prefix, name, block })
    }
}

#[async_trait]
impl IdEngine for RedisIds {
    fn info(&self) -> &Info {
        &self.info
    }

    fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    async fn take(&self, name: &str, count: Option<u64>) -> Result<Segment> {
        let count = count.unwrap_or(self.block).max(1);
        let mut cmd = redis::cmd("INCRBY");
        cmd.arg(format!("{}{name}", self.prefix)).arg(count);
        let last: i64 = match self.link.command(&cmd, "next").await {
            Ok(value) => from_redis_value(value).map_err(|e| map(e.into(), "next"))?,
            Err(e) => return Err(refused(e, name)),
        };
        let first = last.saturating_sub_unsigned(count - 1);
        Ok(Segment { first, last, step: self.block })
    }
}

/// What the server says of a key that can't be counted up, it says in words alone.
fn refused(error: Error, name: &str) -> Error {
    let text = error.to_string();
    if text.contains("would overflow") {
        let message = format!("the counter {name:?} is used up");
        return self::error(Kind::Limited, message).op("next").help("begin another counter").source(error);
    }
    if text.contains("not an integer") {
        let message = format!("the key of the counter {name:?} holds something else");
        let help = "name another counter, or keep apart from its owner with ?prefix=";
        return self::error(Kind::Conflict, message).op("next").help(help).source(error);
    }
    error
}
