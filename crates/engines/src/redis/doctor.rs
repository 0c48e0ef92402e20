//! What there is to see of a Redis server: what it keeps, what it throws away, what the user may do, its clock.

use std::collections::HashMap;
use std::time::Duration;

use linchpin_core::Finding;
use linchpin_core::time::{from_millis, since};
use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result, Timestamp};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Value, from_redis_value};
use tokio::time::timeout;

use super::error::map;
use super::keys::Keys;
use super::link::{Link, node};
use super::url::Config;

/// Clocks that differ by more than this are worth a look.
const SKEW: Duration = Duration::from_secs(2);
/// A replica that is further behind is, too.
const LAG: u64 = 5;

/// In the order they are told.
const CHECKS: [&str; 7] = ["server", "version", "appendonly", "appendfsync", "maxmemory", "replica", "clock"];

/// Looks at the server, or at the named nodes of the cluster, without changing anything.
pub async fn examine(url: EngineUrl) -> Vec<Finding> {
    let config = match Config::from_url(&url) {
        Ok(config) => config,
        Err(error) => return vec![Finding::wrong("url", &error)],
    };
    // As a bus does it: a cluster is only found if its nodes tell of each other.
    let link = match Link::open(config.clone()).await {
        Ok(link) => link,
        Err(error) => return vec![Finding::wrong("server", &error)],
    };
    let mut nodes = Vec::new();
    for (host, port) in &config.hosts {
        let found = examine_node(&config, host, *port).await;
        nodes.push((
            format!("{host}:{port}"),
            found.unwrap_or_else(|error| vec![Finding::wrong("server", &error)]),
        ));
    }
    let mut report = merged(nodes);
    report.push(rights(&config, &link).await);
    report
}

/// What all nodes have in common is told once, the rest with the node it was found on.
fn merged(nodes: Vec<(String, Vec<Finding>)>) -> Vec<Finding> {
    let all = nodes.len();
    let mut report: Vec<(Finding, Vec<String>)> = Vec::new();
    for (node, found) in nodes {
        for finding in found {
            match report.iter_mut().find(|(known, _)| *known == finding) {
                Some((_, on)) => on.push(node.clone()),
                None => report.push((finding, vec![node.clone()])),
            }
        }
    }
    report.sort_by_key(|(finding, _)| CHECKS.iter().position(|name| *name == finding.name));
    let told = |(mut finding, on): (Finding, Vec<String>)| {
        if on.len() < all {
            finding.text = format!("{} ({})", finding.text, on.join(", "));
        }
        finding
    };
    report.into_iter().map(told).collect()
}

async fn examine_node(config: &Config, host: &str, port: u16) -> Result<Vec<Finding>> {
    let mut connection = node(config, host, port).await?;
    let info: String = ask(config, &mut connection, redis::cmd("INFO").arg("everything")).await?;
    let info: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim().split_once(':')).collect();
    let mut report = vec![version(&info), log(&info)];
    if text(&info, "aof_enabled") == "1" {
        let policy = redis::cmd("CONFIG").arg("GET").arg("appendfsync").to_owned();
        let policy = ask::<HashMap<String, String>>(config, &mut connection, &policy).await;
        report.push(sync(policy.ok().and_then(|mut policy| policy.remove("appendfsync")).as_deref()));
    }
    report.push(memory(&info));
    report.extend(replicas(&info));
    let (seconds, micros): (i64, i64) = ask(config, &mut connection, &redis::cmd("TIME")).await?;
    report.push(clock(from_millis(seconds * 1_000 + micros / 1_000), Timestamp::now()));
    Ok(report)
}

async fn ask<T: redis::FromRedisValue>(
    config: &Config,
    connection: &mut MultiplexedConnection,
    cmd: &Cmd,
) -> Result<T> {
    let late =
        |_| Error::new(Kind::Timeout, format!("no answer within {:?}", config.timeout)).engine(super::NAME);
    let answer = timeout(config.timeout, connection.req_packed_command(cmd)).await.map_err(late)?;
    let answer = answer.and_then(Value::extract_error).map_err(|e| map(e, "doctor"))?;
    from_redis_value(answer).map_err(|e| map(e.into(), "doctor"))
}

fn text<'i>(info: &HashMap<&str, &'i str>, name: &str) -> &'i str {
    info.get(name).copied().unwrap_or_default()
}

fn version(info: &HashMap<&str, &str>) -> Finding {
    let version = text(info, "redis_version");
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major >= 7) {
        return Finding::well("version", version);
    }
    let error = Error::new(Kind::Unsupported, format!("version {version}"));
    Finding::wrong("version", &error.help("Redis 7.0 or later is needed"))
}

fn log(info: &HashMap<&str, &str>) -> Finding {
    if text(info, "aof_enabled") != "1" {
        return Finding::look(
            "appendonly",
            "no: when the server dies, everything since its last snapshot is lost; set `appendonly yes`",
        );
    }
    if text(info, "aof_last_write_status") != "ok" {
        return Finding::look("appendonly", "yes, but the last write failed: look into the server's log");
    }
    Finding::well("appendonly", "yes")
}

/// `policy` is none if the user may not ask for it.
fn sync(policy: Option<&str>) -> Finding {
    const ALWAYS: &str = "`appendfsync always` loses nothing";
    let text = match policy {
        Some("always") => return Finding::well("appendfsync", "always"),
        Some("everysec") => {
            "everysec: when the disk is busy, the death of the server can lose up to two seconds of what was answered"
        }
        Some(_) => {
            "no: a crash of the machine can lose what the system hasn't written yet, some thirty seconds"
        }
        None => {
            "unknown, the user may not read it (`+config|get`): under everysec, the default, the death of the server can lose up to two seconds of what was answered"
        }
    };
    Finding::look("appendfsync", format!("{text}; {ALWAYS}"))
}

fn memory(info: &HashMap<&str, &str>) -> Finding {
    let (most, policy) = (text(info, "maxmemory"), text(info, "maxmemory_policy"));
    match (most, policy) {
        ("0", _) => Finding::look("maxmemory", "no limit: the server grows until the system ends it"),
        // Nothing that Linchpin keeps has an expiry.
        (_, policy) if policy == "noeviction" || policy.starts_with("volatile-") => {
            Finding::well("maxmemory", "writes are refused when it is used up")
        }
        _ => {
            let error = Error::new(Kind::Config, format!("maxmemory-policy {policy} throws messages away"));
            Finding::wrong("maxmemory", &error.help("set `maxmemory-policy noeviction`"))
        }
    }
}

fn replicas(info: &HashMap<&str, &str>) -> Vec<Finding> {
    let mut found = Vec::new();
    if text(info, "role") == "slave" && text(info, "master_link_status") != "up" {
        found.push(Finding::look("replica", "it has lost its primary"));
    }
    for (name, state) in info.iter().filter(|(name, _)| name.starts_with("slave") && name.len() <= 7) {
        let lag = state.split(',').find_map(|part| part.strip_prefix("lag=")?.parse::<u64>().ok());
        if let Some(lag) = lag.filter(|lag| *lag > LAG) {
            found.push(Finding::look(
                "replica",
                format!("{name} is {lag} s behind: a failover would lose that"),
            ));
        }
    }
    found
}

fn clock(theirs: Timestamp, ours: Timestamp) -> Finding {
    let apart = since(theirs, ours).max(since(ours, theirs));
    if apart <= SKEW {
        return Finding::well("clock", "agrees with this machine's");
    }
    let text =
        format!("{apart:.0?} apart from this machine's: delays go by the server's; check its time service");
    Finding::look("clock", text)
}

/// Tries what a bus needs, on a key that isn't there.
async fn rights(config: &Config, link: &Link) -> Finding {
    let keys = Keys::new(&config.prefix, false);
    let stream = keys.stream("lp-doctor", 0);
    let mut tries = [redis::cmd("EVAL"), redis::cmd("XADD"), redis::cmd("HGET"), redis::cmd("PUBLISH")];
    let [eval, add, get, publish] = &mut tries;
    eval.arg("return redis.call('ZCARD', KEYS[1])").arg(1).arg(&stream);
    add.arg(&stream).arg("NOMKSTREAM").arg("*").arg("a").arg(1);
    get.arg(keys.topic("lp-doctor")).arg("born");
    publish.arg(keys.hints("lp-doctor")).arg("");
    for cmd in &tries {
        if let Err(error) = link.command(cmd, "doctor").await {
            let help = "allow `+@all -@dangerous +info +script`, the keys and the channels of the prefix";
            return Finding::wrong("rights", &error.help(help));
        }
    }
    Finding::well("rights", "scripts, streams and channels may be used")
}

#[cfg(test)]
mod tests {
    use linchpin_core::Status;

    use super::*;

    fn info(pairs: &[(&'static str, &'static str)]) -> HashMap<&'static str, &'static str> {
        pairs.iter().copied().collect()
    }

    #[test]
    fn what_nodes_have_in_common_is_told_once() {
        let (seven, five) = (Finding::well("version", "7.0.1"), Finding::look("replica", "5 s behind"));
        let node =
            |name: &str, found: &[&Finding]| (name.to_owned(), found.iter().map(|f| (*f).clone()).collect());
        let told = merged(vec![node("a:1", &[&five, &seven]), node("b:2", &[&seven])]);
        assert_eq!(told, [seven, Finding::look("replica", "5 s behind (a:1)")]);
    }

    #[test]
    fn what_loses_messages_is_told() {
        assert_eq!(log(&info(&[("aof_enabled", "0")])).status, Status::Look);
        let well = [("aof_enabled", "1"), ("aof_last_write_status", "ok")];
        assert_eq!(log(&info(&well)).status, Status::Well);
        for (policy, part) in [(Some("everysec"), "two seconds"), (Some("no"), "thirty"), (None, "unknown")] {
            let found = sync(policy);
            assert!(found.status == Status::Look && found.text.contains(part), "{found:?}");
        }
        assert_eq!(sync(Some("always")).status, Status::Well);
        for (most, policy, status) in [
            ("1000", "allkeys-lru", Status::Wrong),
            ("1000", "noeviction", Status::Well),
            ("1000", "volatile-lru", Status::Well),
            ("0", "noeviction", Status::Look),
        ] {
            let found = memory(&info(&[("maxmemory", most), ("maxmemory_policy", policy)]));
            assert_eq!(found.status, status, "{policy}");
        }
        assert_eq!(version(&info(&[("redis_version", "6.2.1")])).status, Status::Wrong);
        let behind = info(&[("role", "master"), ("slave0", "ip=a,port=1,state=online,offset=1,lag=60")]);
        assert_eq!(replicas(&behind).len(), 1);
        let now = Timestamp::now();
        assert_eq!(clock(now, now).status, Status::Well);
        assert_eq!(clock(now, linchpin_core::time::plus(now, SKEW * 2)).status, Status::Look);
    }
}
