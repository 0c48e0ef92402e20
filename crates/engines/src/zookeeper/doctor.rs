//! What there is to see of the servers.

use std::time::Duration;

use linchpin_core::url::EngineUrl;
use linchpin_core::{Finding, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::conn::Session;
use super::coord::shortest;
use super::error::{self, Code};
use super::link::Link;
use super::op;
use super::url::Config;
use super::wire::Take;

/// A transaction that takes longer is worth a look: a lease's renewal waits for the same disks.
const SLOW: Duration = Duration::from_millis(100);
/// What is asked of one server by itself.
const PATIENCE: Duration = Duration::from_secs(2);
/// Transactions that are timed.
const TIMED: usize = 5;

/// Looks at the servers that `url` names, without changing them.
pub async fn examine(url: EngineUrl) -> Vec<Finding> {
    let link = match Config::from_url(&url).and_then(Link::new) {
        Ok(link) => link,
        Err(e) => return vec![Finding::wrong("server", &e)],
    };
    let mut report = Vec::new();
    for host in &link.config.hosts {
        report.push(server(host, link.config.tls).await);
    }
    if let Err(e) = link.conn().await {
        report.push(Finding::wrong("server", &e));
        return report;
    }
    report.push(count(link.config.hosts.len()));
    report.push(found("latency", latency(&link).await));
    report.push(found("session", session(&link).await));
    report.push(found("access", access(&link).await));
    report
}

fn found(name: &'static str, seen: Result<Finding>) -> Finding {
    seen.unwrap_or_else(|e| Finding::wrong(name, &e))
}

/// What a server says of itself.
async fn server(host: &str, tls: bool) -> Finding {
    if tls {
        return Finding::well("server", format!("{host} isn't asked for its mode: the port is encrypted"));
    }
    let said = match timeout(PATIENCE, srvr(host)).await {
        Ok(Ok(said)) => said,
        Ok(Err(e)) => return Finding::look("server", format!("{host} can't be reached: {e}")),
        Err(_) => return Finding::look("server", format!("{host} doesn't answer")),
    };
    let line = |begin: &str| said.lines().find_map(|line| line.strip_prefix(begin)).map(str::trim);
    match (line("Mode:"), line("Zookeeper version:")) {
        (Some(mode), version) => {
            let version = version.and_then(|version| version.split('-').next()).unwrap_or("of some version");
            Finding::well("server", format!("{host} answers: {mode}, ZooKeeper {version}"))
        }
        (None, _) if said.contains("not currently serving") => {
            let text = format!("{host} has no majority: check the other servers, and its configuration");
            Finding::look("server", text)
        }
        (None, _) => {
            let text =
                format!("{host} doesn't tell its mode: allow srvr in 4lw.commands.whitelist to see it");
            Finding::look("server", text)
        }
    }
}

async fn srvr(host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(host).await?;
    stream.write_all(b"srvr").await?;
    let mut said = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut said).await?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

fn count(servers: usize) -> Finding {
    match servers {
        1 => Finding::look("servers", "the URL names one: nothing takes over if it dies; name three or five"),
        _ => Finding::well("servers", format!("the URL names {servers}")),
    }
}

/// How long a transaction takes.
async fn latency(link: &Link) -> Result<Finding> {
    let conn = link.conn().await?;
    let mut worst = Duration::ZERO;
    for _ in 0..TIMED {
        let before = Instant::now();
        link.in_time(false, async { conn.ask(link.barrier()).await?.body() }).await?;
        worst = worst.max(before.elapsed());
    }
    let text = format!("a transaction takes up to {:.1} ms", worst.as_secs_f64() * 1e3);
    if worst < SLOW {
        return Ok(Finding::well("latency", text));
    }
    Ok(Finding::look("latency", format!("{text}: give the transaction log a disk of its own")))
}

/// The bounds of a lease.
async fn session(link: &Link) -> Result<Finding> {
    let shortest = shortest(link).await?;
    let probe = link.session(Session::new(Duration::from_secs(24 * 60 * 60))).await?;
    drop(probe.conn.ask(op::close()));
    let (from, to) = (shortest.as_secs_f64(), probe.conn.session.timeout.as_secs_f64());
    Ok(Finding::well("session", format!("a lease may last from {from} s to {to} s")))
}

/// Who may do what.
async fn access(link: &Link) -> Result<Finding> {
    let conn = link.conn().await?;
    let root = &link.config.root;
    let reply = link.in_time(false, async { conn.ask(op::acl(link.paths.keys())).await }).await?;
    if reply.code == Code::NO_NODE {
        return Ok(Finding::well("access", format!("{root} isn't there yet")));
    }
    let mut body = reply.body()?;
    for _ in 0..body.int()? {
        let (_permitted, scheme, _id) = (body.int()?, body.text()?, body.text()?);
        if scheme == "world" {
            let text =
                format!("everybody may use {root}: name user and password in the URL before it is made");
            return Ok(Finding::look("access", text));
        }
    }
    let seen = link.in_time(false, async { conn.ask(op::children(link.paths.keys())).await }).await?;
    match seen.code {
        Code(0) => Ok(Finding::well("access", format!("{root} is accessible, and not to everybody"))),
        code => Err(error::said(code)),
    }
}
