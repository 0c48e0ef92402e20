//! The connections.

use std::path::Path;
use std::time::Duration;

use linchpin_core::{Error, Kind, Result};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::NAME;
use super::url::Config;

/// How often a connection that waits is looked at. etcd closes those that ask more often than every five seconds.
const PING: Duration = Duration::from_secs(7);
/// What a connection gets to answer that.
const PONG: Duration = Duration::from_secs(5);

/// One connection per host, made when it is first needed and again when it broke.
pub(super) async fn endpoints(config: &Config) -> Result<Vec<Channel>> {
    let tls = if config.tls { Some(tls(config).await?) } else { None };
    let scheme = if config.tls { "https" } else { "http" };
    let mut channels = Vec::with_capacity(config.hosts.len());
    for host in &config.hosts {
        let wrong = |e| {
            let help = "write etcd://host:2379";
            Error::new(Kind::Config, format!("the address {host:?} can't be used"))
                .engine(NAME)
                .help(help)
                .source(e)
        };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{host}")).map_err(wrong)?;
        if let Some(tls) = &tls {
            endpoint = endpoint.tls_config(tls.clone()).map_err(unusable)?;
        }
        let connect = config.timeout / u32::try_from(config.hosts.len()).unwrap_or(u32::MAX).max(1);
        let endpoint = endpoint.connect_timeout(connect).http2_keep_alive_interval(PING);
        channels.push(endpoint.keep_alive_timeout(PONG.min(config.timeout)).connect_lazy());
    }
    Ok(channels)
}

async fn tls(config: &Config) -> Result<ClientTlsConfig> {
    let mut tls = ClientTlsConfig::new();
    tls = match &config.tls_ca {
        Some(path) => tls.ca_certificate(Certificate::from_pem(pem(path).await?)),
        None => tls.with_native_roots(),
    };
    if let Some((cert, key)) = &config.tls_identity {
        tls = tls.identity(Identity::from_pem(pem(cert).await?, pem(key).await?));
    }
    Ok(tls)
}

async fn pem(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |e| {
        let message = format!("{} can't be read", path.display());
        Error::new(Kind::Config, message)
            .engine(NAME)
            .help("check tls_ca, tls_cert and tls_key of the URL")
            .source(e)
    };
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking({
        let path = path.clone();
        move || std::fs::read(path)
    });
    let read = read.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    let text = read.map_err(unreadable)?;
    if text.windows(11).any(|part| part == b"-----BEGIN ") {
        return Ok(text);
    }
    let message = format!("{} isn't a PEM file", path.display());
    Err(Error::new(Kind::Config, message).engine(NAME).help("name PEM files in tls_ca, tls_cert and tls_key"))
}

fn unusable(e: tonic::transport::Error) -> Error {
    let help = "name PEM files in tls_ca, tls_cert and tls_key";
    Error::new(Kind::Config, "the certificates can't be used").engine(NAME).help(help).source(e)
}
