//! Connections, encrypted or not.

use std::path::Path;
use std::sync::Arc;

use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use linchpin_core::{Error, Kind, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::NAME;
use super::url::Config;

const FILES: &str = "name PEM files in tls_ca, tls_cert and tls_key";

pub(super) async fn connector(config: &Config) -> Result<HttpsConnector<HttpConnector>> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(config.timeout / u32::try_from(config.hosts.len()).unwrap_or(1).max(1)));
    let builder = HttpsConnectorBuilder::new().with_tls_config(client(config).await?);
    let builder = if config.tls { builder.https_only() } else { builder.https_or_http() };
    Ok(builder.enable_http1().wrap_connector(http))
}

async fn client(config: &Config) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| unusable("TLS can't be set up".into()).source(e))?;
    let builder = match &config.tls_ca {
        Some(path) => builder.with_root_certificates(authorities(path).await?),
        // Not asked for: nothing is to be read.
        None if !config.tls => builder.with_root_certificates(RootCertStore::empty()),
        None => builder.with_native_roots().map_err(|e| {
            unusable("the system has no certificates of authorities".into())
                .source(e)
                .help("name some in tls_ca=")
        })?,
    };
    let Some((cert, key)) = &config.tls_identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(cert).await?;
    let read = PrivateKeyDer::from_pem_slice(&file(key).await?);
    let key = read.map_err(|e| unusable(format!("{} has no key", key.display())).source(e))?;
    let client = builder.with_client_auth_cert(chain, key);
    client.map_err(|e| unusable("certificate and key don't go together".into()).source(e))
}

async fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path).await? {
        roots
            .add(certificate)
            .map_err(|e| unusable(format!("{} can't be used", path.display())).source(e))?;
    }
    Ok(roots)
}

async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = file(path).await?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|e| unusable(format!("{} can't be read", path.display())).source(e))?;
    if all.is_empty() { Err(unusable(format!("{} has no certificate", path.display()))) } else { Ok(all) }
}

async fn file(path: &Path) -> Result<Vec<u8>> {
    let owned = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read(owned)).await;
    let read = read.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    read.map_err(|e| unusable(format!("{} can't be read", path.display())).source(e))
}

fn unusable(message: String) -> Error {
    Error::new(Kind::Config, message).engine(NAME).help(FILES)
}
