//! Encrypted connections.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use linchpin_core::Result;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::error;
use super::url::Config;
use crate::pem::{CERTIFICATE, PRIVATE_KEY, pem};

/// How connections are encrypted.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// What the URL asks for.
    ///
    /// # Errors
    /// `Config` for files that can't be read or used.
    pub(super) fn of(config: &Config) -> Result<Option<Self>> {
        if !config.tls {
            return Ok(None);
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| error::tls("TLS can't be set up").source(e))?
            .with_root_certificates(roots(config.tls_ca.as_deref())?);
        let client = match &config.tls_identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let unreadable = format!("{} can't be read", key.display());
                let secret = PrivateKeyDer::from_pem_slice(&pem(key, PRIVATE_KEY)?)
                    .map_err(|e| error::tls(unreadable).source(e))?;
                let unusable = format!("{} and {} don't go together", cert.display(), key.display());
                let certs = certificates(cert)?;
                builder.with_client_auth_cert(certs, secret).map_err(|e| error::tls(unusable).source(e))?
            }
        };
        Ok(Some(Self(TlsConnector::from(Arc::new(client)))))
    }

    /// Agrees on TLS with the server at `host:port`.
    pub(super) async fn connect(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        let unusable = |e| error::tls(format!("{name:?} isn't a server's name")).source(e);
        let name = ServerName::try_from(name.to_owned()).map_err(unusable)?;
        self.0.connect(name, stream).await.map_err(error::handshake)
    }
}

fn roots(file: Option<&Path>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let certs = match file {
        Some(file) => certificates(file)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    store.add_parsable_certificates(certs);
    if store.is_empty() {
        let from = file.map_or("the system".to_owned(), |file| file.display().to_string());
        return Err(error::tls(format!("{from} has no certificate of an authority")));
    }
    Ok(store)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |e| error::tls(format!("{} can't be read", file.display())).source(e);
    CertificateDer::pem_slice_iter(&pem(file, CERTIFICATE)?).collect::<Result<_, _>>().map_err(unreadable)
}
