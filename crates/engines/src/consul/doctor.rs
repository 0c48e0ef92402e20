//! What there is to see of a datacenter.

use std::time::Duration;

use linchpin_core::coord::CoordEngine;
use linchpin_core::url::EngineUrl;
use linchpin_core::{Finding, Result};
use serde::Deserialize;

use super::coord::ConsulCoord;
use super::http::{Ask, Http};
use super::url::Config;
use super::watch::probe;
use super::{NAME, error};

/// What `/v1/agent/self` tells.
#[derive(Deserialize)]
struct Agent {
    #[serde(rename = "Config")]
    config: AgentConfig,
}

#[derive(Deserialize)]
struct AgentConfig {
    #[serde(rename = "Version")]
    version: String,
    #[serde(rename = "Datacenter", default)]
    datacenter: String,
}

/// Looks at the datacenter that `url` names. Its only write is a session, which it ends.
pub async fn examine(url: EngineUrl) -> Vec<Finding> {
    let config = match Config::from_url(&url) {
        Ok(config) => config,
        Err(e) => return vec![Finding::wrong("server", &e)],
    };
    let http = match Http::new(&config).await {
        Ok(http) => http,
        Err(e) => return vec![Finding::wrong("server", &e)],
    };
    let leader = match http.well(Ask::get("/v1/status/leader".into())).await {
        Ok(answer) => answer.text(),
        Err(e) => return vec![Finding::wrong("server", &e)],
    };
    let mut report = vec![server(&http).await];
    report.push(match leader.trim_matches('"') {
        "" => Finding::wrong("quorum", &error::without_leader()),
        leader => Finding::well("quorum", format!("{leader} leads")),
    });
    report.push(servers(&http).await.unwrap_or_else(|e| Finding::wrong("servers", &e)));
    report.push(if http.has_token() || config.tls_identity.is_some() {
        Finding::well("access", "requests have a token or a certificate")
    } else {
        Finding::look("access", "requests have no token: enable ACLs, and name one in token=")
    });
    report.push(rights(&http, config).await.unwrap_or_else(|e| Finding::wrong("rights", &e)));
    report
}

async fn server(http: &Http) -> Finding {
    let told = http.well(Ask::get("/v1/agent/self".into())).await;
    match told.and_then(|answer| answer.json::<Agent>()) {
        Ok(agent) => {
            let AgentConfig { version, datacenter } = agent.config;
            Finding::well("server", format!("{NAME} {version} answers, of datacenter {datacenter}"))
        }
        Err(_) => Finding::well("server", format!("{NAME} answers; the token may not ask for its version")),
    }
}

async fn servers(http: &Http) -> Result<Finding> {
    let servers = http.well(Ask::get("/v1/status/peers".into())).await?.json::<Vec<String>>()?.len();
    Ok(match servers {
        0 | 1 => Finding::look(
            "servers",
            "the datacenter has one: nobody takes over when it dies; three are usual",
        ),
        _ => Finding::well("servers", format!("{servers}, of which {} may die", (servers - 1) / 2)),
    })
}

/// Whether keys can be read, and sessions had.
async fn rights(http: &Http, config: Config) -> Result<Finding> {
    let answer = http.call(Ask::get(probe(&config.prefix))).await?;
    if !matches!(answer.status, 200 | 404) {
        return Err(error::refused(&answer, true));
    }
    let coord = ConsulCoord::open(config).await?;
    let lease = coord.grant(Duration::from_secs(10)).await?;
    coord.revoke(&lease).await?;
    Ok(Finding::well("rights", "keys can be read and leases granted"))
}
