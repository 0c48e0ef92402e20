//! Redis lists (`redis-list:`): a queue of bare payloads for each group, which `LPUSH`, `RPOP` and `BRPOP` understand.
//!
//! An element is a payload and nothing else, so a key and headers are refused (`Unsupported`). A message gets its id where a
//! group takes it, and keeps it until it is settled; its time is that of the taking. Without order, replay, retention
//! and offsets it is weaker than `redis:`: use it where other programs speak lists.
//!
//! # Keys
//! Of the topic `orders`, partition 0, and the group `billing`; `?prefix=shop` puts `shop:` behind the brace, and in front of
//! what has no brace. All of a partition has one hash tag.
//!
//! | key | what |
//! |---|---|
//! | `{orders:0}:list:billing` | what `billing` has yet to take: pushed on the left, taken on the right |
//! | `{orders:0}:list` | what was published before there was any group: the first one takes it over |
//! | `{orders:0}:lists:g:billing` | the record of the group; behind it `:t`, `:a`, `:h`: what it took, how often and by whom, until when |
//! | `{orders:0}:lists:w:billing` | what it nacked or lost, by due time |
//! | `{orders:0}:lists:d` | what waits for its publish delay |
//! | `{orders:0}:lists:p`, `{orders}:lists`, `lp:lists` | records of the partition, of the topic, and the names of all topics |
//!
//! # Other programs
//! `LPUSH {orders:0}:list:billing …` is delivered to `billing` alone, as soon as somebody waits, at the latest
//! after 0.2 s. `RPOP` takes a message for good: it was never handed out, and nobody gets it back. What a member took isn't in the list any
//! more; what it fetched ahead and handed back unread is again.
//!
//! # Limits of the engine
//! * Each group has a copy of the payload.
//! * Dead letters are payloads: they don't say why they are, and can't be redriven.
//! * `TopicStats::messages` is what the group has that is furthest behind; `oldest` is known of what was taken, and is that
//!   of one among the oldest.
//! * What survives the death of the server is the server's to say, as for [streams](super).

mod publish;

use std::sync::Arc;

use linchpin_core::Result;
use linchpin_core::bus::BusEngine;
use linchpin_core::url::EngineUrl;

use super::bus::RedisBus;
use super::form::LISTS;
use super::url::Config;

/// Opens the bus on the server that `url` names.
///
/// # Errors
/// `Config` for wrong options, `Denied` for a wrong password, `Unavailable` for a server that can't be reached.
pub async fn open(url: &EngineUrl) -> Result<Arc<dyn BusEngine>> {
    let durability = "in the server's memory, and in its log as `appendonly` and `appendfsync` say: under `everysec` a kill can lose up to two seconds on a busy disk, under `always` nothing";
    Ok(Arc::new(RedisBus::in_form(Config::from_url(url)?, &LISTS, durability).await?))
}
