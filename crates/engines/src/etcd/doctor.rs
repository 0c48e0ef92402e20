//! What there is to see of a cluster.

use std::collections::BTreeSet;

use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Finding, Result};

use super::client::{ALARM, Client, MEMBERS, RANGE, STATUS};
use super::coord::shortest_lease;
use super::keys::Space;
use super::url::Config;
use super::wire::{
    AlarmRequest, AlarmResponse, MembersResponse, Nothing, RangeRequest, RangeResponse, StatusResponse,
};

/// What etcd's database may grow to by default.
const QUOTA: i64 = 2 << 30;
const NO_SPACE: i32 = 1;

/// Looks at the cluster that `url` names. Its only write is a lease, which it revokes.
pub async fn examine(url: EngineUrl) -> Vec<Finding> {
    let config = match Config::from_url(&url) {
        Ok(config) => config,
        Err(e) => return vec![Finding::wrong("server", &e)],
    };
    let client = match Client::new(&config).await {
        Ok(client) => client,
        Err(e) => return vec![Finding::wrong("server", &e)],
    };
    let (status, mut report) = servers(&config, &client).await;
    let Some(status) = status else { return report };
    report.push(quorum(&config, &client).await);
    report.push(members(&client).await.unwrap_or_else(|e| Finding::wrong("members", &e)));
    report.push(space(&client, &status).await.unwrap_or_else(|e| Finding::wrong("space", &e)));
    report.push(access(&config, &client));
    report.push(match shortest_lease(&client).await {
        Ok(ttl) => Finding::well("lease", format!("the shortest lasts {} s", ttl.as_secs())),
        Err(e) => Finding::wrong("lease", &e),
    });
    report
}

/// One that answers, and what became of all.
async fn servers(config: &Config, client: &Client) -> (Option<StatusResponse>, Vec<Finding>) {
    let (mut found, mut report, mut versions) = (None, Vec::new(), BTreeSet::new());
    for (turn, host) in config.hosts.iter().enumerate() {
        match client.call_one::<_, StatusResponse>(turn, STATUS, &Nothing {}).await {
            Ok(status) => {
                versions.insert(status.version.clone());
                found = Some(status);
            }
            Err(e) => report.push(Finding::wrong("server", &e.with("host", host))),
        }
    }
    if !versions.is_empty() {
        let versions = versions.into_iter().collect::<Vec<_>>().join(" and ");
        let text = format!(
            "etcd {versions} answers on {} of {}",
            config.hosts.len() - report.len(),
            config.hosts.len()
        );
        report.insert(0, Finding::well("server", text));
    }
    (found, report)
}

/// Whether a majority agrees on something now.
async fn quorum(config: &Config, client: &Client) -> Finding {
    let request = RangeRequest { key: Space::new(&config.prefix).key("linchpin"), ..RangeRequest::default() };
    match client.call::<_, RangeResponse>(RANGE, &request).await {
        Ok(_) => Finding::well("quorum", "a majority of the members agrees on what is there"),
        Err(e) => Finding::wrong("quorum", &e),
    }
}

async fn members(client: &Client) -> Result<Finding, Error> {
    let members = client.call::<_, MembersResponse>(MEMBERS, &Nothing {}).await?.members.len();
    let named = client.endpoints();
    Ok(match members {
        1 => Finding::look(
            "members",
            "the cluster has one member: nobody takes over when it dies; three are usual",
        ),
        _ if named < members => {
            Finding::look("members", format!("{members}, of which the URL names {named}: name them all"))
        }
        _ => Finding::well("members", format!("{members}, of which {} may die", (members - 1) / 2)),
    })
}

async fn space(client: &Client, status: &StatusResponse) -> Result<Finding, Error> {
    let answer: AlarmResponse = client.call(ALARM, &AlarmRequest { action: 0 }).await?;
    let mib = |bytes: i64| bytes >> 20;
    let quota = if status.db_size_quota > 0 { status.db_size_quota } else { QUOTA };
    let used = format!("the database has {} MiB", mib(status.db_size));
    if let Some(alarm) = answer.alarms.first() {
        let text = if alarm.kind == NO_SPACE {
            "the database is full, and nothing can be written: compact and defragment, then `etcdctl alarm disarm`"
        } else {
            "a member's data are corrupt: restore it from the others"
        };
        return Ok(Finding { status: linchpin_core::Status::Wrong, ..Finding::look("space", text) });
    }
    if status.db_size >= quota / 10 * 8 {
        let text = format!("{used}, near the {} MiB at which it is full: compact and defragment", mib(quota));
        return Ok(Finding::look("space", text));
    }
    Ok(Finding::well("space", used))
}

fn access(config: &Config, client: &Client) -> Finding {
    if client.has_login() || config.tls_identity.is_some() {
        Finding::well("access", "the server knows who connects")
    } else {
        Finding::look(
            "access",
            "the server lets everybody in: enable authentication, and name a user and a password",
        )
    }
}
