//! Requests over HTTP: to whichever agent answers, with the token, and each with a deadline.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::HeaderValue;
use hyper::{Method, Request};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use linchpin_core::{Error, Kind, Result};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use super::url::Config;
use super::{NAME, error, tls};

/// The first pause after every agent has failed; it doubles, up to ten times as long.
const PAUSE: Duration = Duration::from_millis(50);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);

/// The agents.
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// `http://host:port`.
    agents: Vec<String>,
    /// The agent that is asked; the next one when it fails.
    turn: AtomicUsize,
    token: Option<HeaderValue>,
    timeout: Duration,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Http({})", self.agents.join(","))
    }
}

/// A request, which may be made several times.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    method: Method,
    /// With its query.
    path: String,
    body: Bytes,
    /// Done twice it is as done once, so it is made again when its outcome is unknown.
    repeatable: bool,
    /// How long it may take beyond the timeout: the server waits too.
    longer: Duration,
}

impl Ask {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: Bytes::new(), repeatable: true, longer: Duration::ZERO }
    }

    pub(super) fn put(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        let (path, body) = (path.into(), body.into());
        Self { method: Method::PUT, path, body, repeatable: false, longer: Duration::ZERO }
    }

    pub(super) fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }

    pub(super) fn waiting(self, longer: Duration) -> Self {
        Self { longer, ..self }
    }
}

/// What came.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `X-Consul-Index`.
    pub(super) index: Option<u64>,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(error::malformed)
    }
}

/// Why nothing came.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing was sent.
    Connect(hyper_util::client::legacy::Error),
    Lost(hyper_util::client::legacy::Error),
    /// In the middle of the answer.
    Torn(hyper::Error),
    Late,
}

impl Http {
    pub(super) async fn new(config: &Config) -> Result<Self> {
        let connector = tls::connector(config).await?;
        let scheme = if config.tls { "https" } else { "http" };
        let agents: Vec<_> = config.hosts.iter().map(|host| format!("{scheme}://{host}")).collect();
        for agent in &agents {
            let wrong = |e| {
                let message = format!("the address {agent:?} can't be used");
                Error::new(Kind::Config, message).engine(NAME).help("write consul://host:8500").source(e)
            };
            agent.parse::<hyper::Uri>().map_err(wrong)?;
        }
        let mut token = config.token.as_deref().and_then(|token| HeaderValue::from_str(token).ok());
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self { client, agents, turn: AtomicUsize::new(0), token, timeout: config.timeout })
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Asks one agent after another, until one answers or the time is over. An answer may be a refusal.
    pub(super) async fn call(&self, ask: Ask) -> Result<Answer> {
        let deadline = Instant::now() + self.timeout + ask.longer;
        let agents = u32::try_from(self.agents.len()).unwrap_or(u32::MAX).max(1);
        let (mut tries, mut told) = (0_u32, None);
        loop {
            let turn = self.turn.load(Ordering::Relaxed);
            // What may be asked again doesn't spend all its time on one agent.
            let share = Instant::now() + self.timeout / agents + ask.longer;
            let until = if ask.repeatable { deadline.min(share) } else { deadline };
            let outcome = match self.once(turn, &ask, until).await {
                // That the time was over says less than what used it up.
                Err(Failure::Late) if ask.repeatable => Err(told.take().unwrap_or(Failure::Late)),
                outcome => outcome,
            };
            let again = match &outcome {
                Ok(answer) => error::leaderless(answer) || (answer.status >= 502 && ask.repeatable),
                Err(Failure::Connect(_)) => true,
                Err(_) => ask.repeatable,
            };
            if outcome.is_err() || again {
                let next = turn.wrapping_add(1);
                let _ = self.turn.compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed);
            }
            tries += 1;
            let pause = pause(tries, agents);
            if !again || Instant::now() + pause >= deadline {
                return outcome.map_err(|failure| error::failed(failure, ask.repeatable));
            }
            told = outcome.err();
            sleep(pause).await;
        }
    }

    /// The same, but any other status than 200 is an error.
    pub(super) async fn well(&self, ask: Ask) -> Result<Answer> {
        let repeatable = ask.repeatable;
        let answer = self.call(ask).await?;
        if answer.status == 200 { Ok(answer) } else { Err(error::refused(&answer, repeatable)) }
    }

    async fn once(&self, turn: usize, ask: &Ask, until: Instant) -> Result<Answer, Failure> {
        let agent = self.agents.get(turn % self.agents.len().max(1)).map_or("", String::as_str);
        let mut request = Request::new(Full::new(ask.body.clone()));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = format!("{agent}{}", ask.path).parse().unwrap_or_default();
        if let Some(token) = &self.token {
            request.headers_mut().insert("x-consul-token", token.clone());
        }
        let work = async {
            let response = self
                .client
                .request(request)
                .await
                .map_err(|e| if e.is_connect() { Failure::Connect(e) } else { Failure::Lost(e) })?;
            let index = response.headers().get("x-consul-index");
            let index = index.and_then(|index| index.to_str().ok()?.parse().ok());
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.map_err(Failure::Torn)?.to_bytes();
            Ok(Answer { status, index, body })
        };
        timeout_at(until, work).await.map_err(|_| Failure::Late)?
    }
}

/// None within a round of the agents.
fn pause(tries: u32, agents: u32) -> Duration {
    let rounds = tries / agents;
    if rounds == 0 || !tries.is_multiple_of(agents) {
        Duration::ZERO
    } else {
        PAUSE * (1 << (rounds - 1).min(3))
    }
}
