//! The connection, and requests to JetStream with a deadline.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::Error as Said;
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::PublishMessage as Publish;
use async_nats::jetstream::response::Response;
use async_nats::{Client, ConnectOptions};
use linchpin_core::{Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};

use super::url::Config;
use super::{NAME, error};

/// Messages that may wait for their acknowledgement at a time.
const IN_FLIGHT: usize = 16 * 1024;
/// How often a lost connection is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// The longest wait between two attempts to connect anew.
const RECONNECT: Duration = Duration::from_millis(500);

/// One connection, shared by everything of a bus.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) js: Context,
    pub(super) timeout: Duration,
    closed: AtomicBool,
}

impl Link {
    /// Connects, and checks that JetStream answers.
    pub(super) async fn open(config: &Config) -> Result<Self> {
        let options = options(config).await?;
        let connecting = options.connect(addresses(config));
        let client = timeout(config.timeout, connecting).await.map_err(|_| error::unanswered().op("open"))?;
        let client = client.map_err(error::connect)?;
        let builder = ContextBuilder::new().timeout(config.timeout).ack_timeout(config.timeout);
        let js = builder.max_ack_inflight(IN_FLIGHT).backpressure_on_inflight(true).build(client.clone());
        let link = Self { client, js, timeout: config.timeout, closed: AtomicBool::new(false) };
        link.call::<serde_json::Value>("INFO", &serde_json::json!({})).await.map_err(|e| e.op("open"))?;
        Ok(link)
    }

    /// # Errors
    /// `Closed` after [`Link::close`].
    pub(super) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Closed, "the bus is closed").engine(NAME));
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Waits until there is a connection: what is sent without one would be sent later, when nobody counts on it.
    ///
    /// # Errors
    /// `Unavailable` if there is none within the timeout, `Closed`.
    pub(super) async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        loop {
            self.check_open()?;
            if self.client.connection_state() == State::Connected {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(error::disconnected());
            }
            sleep_until(deadline.min(Instant::now() + LOOK)).await;
        }
    }

    /// A request to JetStream's API.
    pub(super) async fn call<T: DeserializeOwned>(&self, subject: &str, body: &impl Serialize) -> Result<T> {
        match self.ask(subject, body).await? {
            Ok(answer) => Ok(answer),
            Err(said) => Err(error::said(&said)),
        }
    }

    /// A request whose refusal is looked at.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        subject: &str,
        body: &impl Serialize,
    ) -> Result<Result<T, Said>> {
        self.ready().await?;
        let asking = self.js.request::<_, _, Response<T>>(subject.to_owned(), body);
        match self.in_time(asking).await?.map_err(|e| error::request(e.kind()).source(e))? {
            Response::Ok(answer) => Ok(Ok(answer)),
            Response::Err { error } => Ok(Err(error)),
        }
    }

    /// Stores one message and waits for its sequence; `None` if no stream takes the subject.
    pub(super) async fn store(&self, subject: String, message: Publish) -> Result<Option<u64>> {
        self.ready().await?;
        let storing = async { self.js.send_publish(subject, message).await?.await };
        match self.in_time(storing).await? {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(failure) => error::publish(failure).map_or(Ok(None), Err),
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        timeout(self.timeout, work).await.map_err(|_| error::unanswered())
    }
}

fn addresses(config: &Config) -> Vec<String> {
    let scheme = if config.tls { "tls" } else { "nats" };
    config.hosts.iter().map(|host| format!("{scheme}://{host}")).collect()
}

async fn options(config: &Config) -> Result<ConnectOptions> {
    let (cert, key) = config.tls_identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path())).unzip();
    crate::pem::check(config.tls_ca.as_deref(), cert, key).map_err(|e| e.engine(NAME).op("open"))?;
    let mut options = ConnectOptions::new()
        .name("linchpin")
        .connection_timeout(config.timeout.min(Duration::from_secs(5)))
        .request_timeout(Some(config.timeout))
        .ping_interval(config.timeout.min(Duration::from_secs(30)))
        .reconnect_delay_callback(|attempts| {
            let exponent = u32::try_from(attempts.min(10)).unwrap_or(10);
            Duration::from_millis(4).saturating_mul(1 << exponent).min(RECONNECT)
        })
        .require_tls(config.tls);
    if let Some((user, password)) = &config.user {
        options = options.user_and_password(user.clone(), password.clone());
    }
    if let Some(token) = &config.token {
        options = options.token(token.clone());
    }
    if let Some(path) = &config.creds {
        let unreadable = |e| {
            let message = format!("the credentials in {} can't be read", path.display());
            Error::new(Kind::Config, message)
                .engine(NAME)
                .op("open")
                .help("check creds= of the URL")
                .source(e)
        };
        options = options.credentials_file(path).await.map_err(unreadable)?;
    }
    if let Some(path) = &config.tls_ca {
        options = options.add_root_certificates(path.clone());
    }
    if let Some((cert, key)) = &config.tls_identity {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    Ok(options)
}
