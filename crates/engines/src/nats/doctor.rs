//! What there is to see of a server and its JetStream.

use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use linchpin_core::Finding;
use linchpin_core::url::EngineUrl;
use linchpin_core::{Result, Timestamp};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

use super::error;
use super::link::Link;
use super::message::time;
use super::url::Config;

/// A clock that is off by more than this is worth a look.
const SKEW: Duration = Duration::from_secs(1);
/// How long the server keeps the consumer its clock is read from.
const ASKED: Duration = Duration::from_secs(2);

/// The account, as far as it is looked at. A limit below zero is none.
#[derive(Debug, Deserialize)]
struct Account {
    #[serde(default)]
    storage: u64,
    #[serde(default)]
    streams: u64,
    limits: Limits,
}

#[derive(Debug, Deserialize)]
struct Limits {
    #[serde(default)]
    max_storage: i64,
    #[serde(default)]
    max_streams: i64,
}

/// Looks at the server that `url` names, without changing it.
pub async fn examine(url: EngineUrl) -> Vec<Finding> {
    let config = match Config::from_url(&url) {
        Ok(config) => config,
        Err(e) => return vec![Finding::wrong("server", &e)],
    };
    let link = match Link::open(&config).await {
        Ok(link) => link,
        Err(e) => return vec![Finding::wrong("server", &e)],
    };
    let server = link.client.server_info();
    let mut report = vec![
        Finding::well("server", format!("nats-server {} answers", server.version)),
        Finding::look(
            "sync",
            "an answer comes before the disk was synced (sync_interval, 2 minutes by default): a loss of power may take \
             the last writes; replicas=3 on a cluster, or sync_interval: always, keeps them",
        ),
    ];
    if server.auth_required || config.tls {
        report.push(Finding::well("access", "the server asks who connects"));
    } else {
        report.push(Finding::look("access", "the server lets everybody in: set a user and a password"));
    }
    match link.call::<Account>("INFO", &json!({})).await {
        Ok(account) => report.extend(account.tell()),
        Err(e) => report.push(Finding::wrong("jetstream", &e)),
    }
    match skew(&link).await {
        Ok(skew) => report.push(clock(skew)),
        Err(e) => report.push(Finding::wrong("clock", &e)),
    }
    report
}

impl Account {
    fn tell(&self) -> [Finding; 2] {
        let full =
            |used: u64, most: i64| u64::try_from(most).is_ok_and(|most| most > 0 && used >= most / 10 * 9);
        let limit = |most: i64| if most > 0 { most.to_string() } else { "no limit".to_owned() };
        let tell = |name, used: u64, most: i64, what: &str| {
            let text = format!("{used} {what} of {}", limit(most));
            match full(used, most) {
                true => Finding::look(name, format!("{text}: raise the limit, or remove what isn't needed")),
                false => Finding::well(name, text),
            }
        };
        [
            tell("storage", self.storage, self.limits.max_storage, "bytes"),
            tell("streams", self.streams, self.limits.max_streams, "streams"),
        ]
    }
}

fn clock(skew: Option<Duration>) -> Finding {
    match skew {
        None => Finding::well("clock", "not compared: there is no stream yet"),
        Some(skew) if skew <= SKEW => Finding::well("clock", "as this host's, within a second"),
        Some(skew) => {
            let text = format!("differs from this host's by {} s: synchronise both", skew.as_secs());
            Finding::look("clock", text)
        }
    }
}

/// How far the server's clock is from this host's: it stamps a new consumer, which needs a stream.
async fn skew(link: &Link) -> Result<Option<Duration>> {
    #[derive(Deserialize)]
    struct Names {
        #[serde(default)]
        streams: Option<Vec<String>>,
    }
    let names: Names = link.call("STREAM.NAMES", &json!({})).await?;
    let Some(stream) = names.streams.unwrap_or_default().into_iter().next() else { return Ok(None) };
    let config = PullConfig {
        ack_policy: AckPolicy::Explicit,
        deliver_policy: DeliverPolicy::New,
        inactive_threshold: ASKED,
        memory_storage: true,
        num_replicas: 1,
        ..PullConfig::default()
    };
    let before = Timestamp::now();
    let consumer = link.js.create_consumer_on_stream(config, stream).await.map_err(error::consumer)?;
    let (stood, after) = (time(consumer.cached_info().created), Timestamp::now());
    let late = linchpin_core::time::since(stood, after);
    Ok(Some(late.max(linchpin_core::time::since(before, stood))))
}
