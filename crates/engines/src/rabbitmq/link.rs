//! A connection to the server that is opened again when it is needed and was lost.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties};
use linchpin_core::{Error, Kind, Result};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::url::Config;
use super::{NAME, error};
use crate::pem::{CERTIFICATE, PRIVATE_KEY, pem};

/// One connection. Whoever finds it lost, or used up, opens it again.
#[derive(Debug)]
pub(super) struct Link {
    config: Config,
    heartbeat: u16,
    turn: AtomicUsize,
    connection: Mutex<Option<Live>>,
}

/// Channels are numbered up, and a number under which the server once closed a channel stays unusable in lapin: what is
/// sent under it fails with the error of that time. So a connection is left before its numbers come around; it ends
/// with the last of its channels.
#[derive(Debug)]
struct Live {
    connection: Arc<Connection>,
    numbers_left: u16,
}

impl Live {
    fn new(connection: Connection) -> Self {
        let most = match connection.configuration().channel_max() {
            0 => u16::MAX,
            most => most,
        };
        Self { connection: Arc::new(connection), numbers_left: most }
    }

    /// The connection, for one more channel.
    fn one_more(&mut self) -> Option<Arc<Connection>> {
        self.numbers_left = self.numbers_left.checked_sub(1)?;
        self.connection.status().connected().then(|| self.connection.clone())
    }
}

impl Link {
    /// `heartbeat` in seconds: the server gives a silent client up after two to three of them.
    pub(super) fn new(config: Config, heartbeat: u16) -> Self {
        Self { config, heartbeat, turn: AtomicUsize::new(0), connection: Mutex::default() }
    }

    /// A new channel that confirms what is published. A failure means that nothing was asked of the server.
    pub(super) async fn channel(&self) -> Result<Channel> {
        let opening = async {
            let connection = self.connection().await?;
            let channel = connection.create_channel().await.map_err(error::map)?;
            channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(error::map)?;
            Ok(channel)
        };
        let opened = timeout(self.config.timeout, opening).await;
        opened.unwrap_or_else(|_| Err(error::late(self.config.timeout))).map_err(error::not_applied)
    }

    async fn connection(&self) -> Result<Arc<Connection>> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_mut().and_then(Live::one_more) {
            return Ok(connection);
        }
        let live = slot.insert(Live::new(self.connect().await?));
        live.one_more().ok_or_else(error::interrupted)
    }

    /// To the first node that answers, beginning with the one after the last that was tried.
    async fn connect(&self) -> Result<Connection> {
        let tls = tls(&self.config)?;
        let count = self.config.hosts.len().max(1);
        let from = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failed = error::error(Kind::Config, "the URL names no server");
        for n in 0..count {
            let Some((host, port)) = self.config.hosts.get((from + n) % count) else { continue };
            let connecting = dial(&self.config, host, *port, self.heartbeat, tls.clone());
            let each = self.config.timeout / u32::try_from(count).unwrap_or(1);
            match timeout(each, connecting).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(said)) => failed = error::connect(said, &self.config),
                Err(_) => failed = error::not_applied(error::late(each)).op("open"),
            }
        }
        Err(failed)
    }

    /// Whether the server takes no messages at the moment.
    pub(super) async fn is_blocked(&self) -> bool {
        self.connection.lock().await.as_ref().is_some_and(|live| live.connection.status().blocked())
    }

    pub(super) async fn close(&self) {
        if let Some(live) = self.connection.lock().await.take() {
            // It is gone either way.
            let _ = timeout(self.config.timeout, live.connection.close(200, "closed".into())).await;
        }
    }
}

async fn dial(
    config: &Config,
    host: &str,
    port: u16,
    heartbeat: u16,
    tls: OwnedTLSConfig,
) -> lapin::Result<Connection> {
    let uri = AMQPUri {
        scheme: if config.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: config.user.clone(), password: config.password.clone() },
            host: host.to_owned(),
            port,
        },
        vhost: config.vhost.clone(),
        query: AMQPQueryString { heartbeat: Some(heartbeat), ..AMQPQueryString::default() },
    };
    let properties = ConnectionProperties::default().with_connection_name("linchpin".into());
    let runtime = lapin::runtime::default_runtime()?;
    Connection::connect_uri_with_config(uri, properties, tls, runtime).await
}

fn tls(config: &Config) -> Result<OwnedTLSConfig> {
    let read = |path: &Path, part| pem(path, part).map_err(|e| e.engine(NAME).op("open"));
    let identity = match &config.tls_identity {
        Some((cert, key)) => {
            Some(OwnedIdentity::PKCS8 { pem: read(cert, CERTIFICATE)?, key: read(key, PRIVATE_KEY)? })
        }
        None => None,
    };
    let chain = config.tls_ca.as_deref().map(|path| read(path, CERTIFICATE)).transpose()?;
    let cert_chain = chain.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok(OwnedTLSConfig { identity, cert_chain })
}

/// What the server answers to a request, within `within`.
pub(super) async fn asked<T>(
    within: Duration,
    request: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Error> {
    match timeout(within, request).await {
        Ok(answer) => answer.map_err(error::map),
        Err(_) => Err(error::late(within)),
    }
}
