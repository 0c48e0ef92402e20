//! Requests over gRPC: to whichever endpoint answers, signed, and each with a deadline.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use linchpin_core::Result;
use prost::Message;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::error::{self, Verdict};
use super::link;
use super::url::Config;
use super::wire::{AuthenticateRequest, AuthenticateResponse, WatchCreate, WatchRequest, WatchResponse};

/// The first pause after every endpoint has failed; it doubles, up to ten times as long.
const PAUSE: Duration = Duration::from_millis(50);

/// One of etcd's calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method {
    path: &'static str,
    /// Done twice it is as done once, so it is made again when its outcome is unknown.
    repeatable: bool,
    /// A member without a leader refuses it at once.
    led: bool,
}

const fn read(path: &'static str) -> Method {
    Method { path, repeatable: true, led: true }
}

pub(super) const RANGE: Method = read("/etcdserverpb.KV/Range");
pub(super) const PUT: Method = Method { repeatable: false, ..read("/etcdserverpb.KV/Put") };
pub(super) const DELETE: Method = Method { repeatable: false, ..read("/etcdserverpb.KV/DeleteRange") };
pub(super) const TXN: Method = Method { repeatable: false, ..read("/etcdserverpb.KV/Txn") };
/// A lease that nobody knows of ends by itself.
pub(super) const GRANT: Method = read("/etcdserverpb.Lease/LeaseGrant");
pub(super) const REVOKE: Method = read("/etcdserverpb.Lease/LeaseRevoke");
pub(super) const KEEP_ALIVE: Method = read("/etcdserverpb.Lease/LeaseKeepAlive");
pub(super) const ALARM: Method = read("/etcdserverpb.Maintenance/Alarm");
pub(super) const MEMBERS: Method = read("/etcdserverpb.Cluster/MemberList");
pub(super) const STATUS: Method = Method { led: false, ..read("/etcdserverpb.Maintenance/Status") };
const WATCH: Method = read("/etcdserverpb.Watch/Watch");
const AUTHENTICATE: Method = Method { led: false, ..read("/etcdserverpb.Auth/Authenticate") };

type Token = MetadataValue<Ascii>;

/// Connections to every endpoint, made when they are needed.
pub(super) struct Client {
    endpoints: Vec<Channel>,
    /// The endpoint that is asked; the next one when it fails.
    turn: AtomicUsize,
    timeout: Duration,
    login: Option<Login>,
}

struct Login {
    name: String,
    password: String,
    token: Mutex<Option<Token>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({} endpoints)", self.endpoints.len())
    }
}

impl Client {
    pub(super) async fn new(config: &Config) -> Result<Self> {
        let login = config.user.clone();
        let login = login.map(|(name, password)| Login { name, password, token: Mutex::default() });
        let endpoints = link::endpoints(config).await?;
        Ok(Self { endpoints, turn: AtomicUsize::new(0), timeout: config.timeout, login })
    }

    /// The longest one request waits.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether requests are signed.
    pub(super) fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// How many endpoints the URL names.
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// Asks one endpoint after another, until one answers or the time is over.
    pub(super) async fn call<Q, A>(&self, method: Method, request: &Q) -> Result<A>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut tries = Tries::new(self, method, Instant::now() + self.timeout);
        loop {
            match self.signed(tries.turn(), method, request, tries.until()).await {
                Ok(answer) => return Ok(answer),
                Err(status) => tries.failed(status).await?,
            }
        }
    }

    /// Asks one endpoint, once.
    pub(super) async fn call_one<Q, A>(&self, turn: usize, method: Method, request: &Q) -> Result<A>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let deadline = Instant::now() + self.timeout;
        let asked = self.signed(turn, method, request, deadline).await;
        asked.map_err(|status| error::map(status, method.repeatable))
    }

    /// Opens a watch by the deadline. Its answers begin with one that says that it was created, or why not.
    pub(super) async fn watch(
        &self,
        create: &WatchCreate,
        deadline: Instant,
    ) -> Result<Streaming<WatchResponse>> {
        let mut tries = Tries::new(self, WATCH, deadline);
        loop {
            match in_time(tries.until(), self.watch_one(tries.turn(), create, deadline)).await {
                Ok(answers) => return Ok(answers),
                Err(status) => tries.failed(status).await?,
            }
        }
    }

    async fn watch_one(
        &self,
        turn: usize,
        create: &WatchCreate,
        deadline: Instant,
    ) -> Result<Streaming<WatchResponse>, Status> {
        let first = WatchRequest { create: Some(create.clone()) };
        // Its end would be the watch's.
        let requests = stream::iter([first]).chain(stream::pending());
        let request = prepared(requests, WATCH, self.token(turn, deadline).await?);
        let answers = self.grpc(turn).await?.streaming(request, path(WATCH), codec()).await?;
        Ok(answers.into_inner())
    }

    /// Makes the next request get a new token.
    pub(super) async fn forget_token(&self) {
        if let Some(login) = &self.login {
            *login.token.lock().await = None;
        }
    }

    async fn signed<Q, A>(
        &self,
        turn: usize,
        method: Method,
        request: &Q,
        deadline: Instant,
    ) -> Result<A, Status>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let token = self.token(turn, deadline).await?;
        self.ask(turn, method, request.clone(), token, deadline).await
    }

    async fn token(&self, turn: usize, deadline: Instant) -> Result<Option<Token>, Status> {
        let Some(login) = &self.login else { return Ok(None) };
        let authenticate = async {
            let mut token = login.token.lock().await;
            if token.is_none() {
                let (name, password) = (login.name.clone(), login.password.clone());
                let request = AuthenticateRequest { name, password };
                let answer: AuthenticateResponse =
                    self.ask(turn, AUTHENTICATE, request, None, deadline).await?;
                let fresh =
                    answer.token.parse().map_err(|_| Status::internal("a token that can't be sent"))?;
                *token = Some(fresh);
            }
            Ok(token.clone())
        };
        in_time(deadline, authenticate).await
    }

    /// The first answer, once the call has come to its end.
    async fn ask<Q, A>(
        &self,
        turn: usize,
        method: Method,
        request: Q,
        token: Option<Token>,
        deadline: Instant,
    ) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        in_time(deadline, async {
            let request = prepared(request, method, token);
            let answers =
                self.grpc(turn).await?.server_streaming(request, path(method), codec::<Q, A>()).await?;
            let mut answers = answers.into_inner();
            let answer = answers.message().await?;
            while answers.message().await?.is_some() {}
            answer.ok_or_else(|| Status::internal("an answer without a message"))
        })
        .await
    }

    async fn grpc(&self, turn: usize) -> Result<Grpc<Channel>, Status> {
        let none = || Status::internal("no endpoint");
        let channel = self.endpoints.get(turn % self.endpoints.len().max(1)).ok_or_else(none)?;
        let mut grpc = Grpc::new(channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
        Ok(grpc)
    }
}

/// One request, tried until its deadline.
struct Tries<'a> {
    client: &'a Client,
    method: Method,
    deadline: Instant,
    turn: usize,
    failures: usize,
    renewed: bool,
    /// What the try before failed with.
    told: Option<Status>,
}

impl<'a> Tries<'a> {
    fn new(client: &'a Client, method: Method, deadline: Instant) -> Self {
        let turn = client.turn.load(Ordering::Relaxed);
        Self { client, method, deadline, turn, failures: 0, renewed: false, told: None }
    }

    /// Which endpoint to ask now.
    fn turn(&self) -> usize {
        self.turn
    }

    /// Until when to ask it: what may be asked again doesn't spend all its time on one.
    fn until(&self) -> Instant {
        let endpoints = u32::try_from(self.client.endpoints.len()).unwrap_or(u32::MAX).max(1);
        let share = Instant::now() + self.client.timeout / endpoints;
        if self.method.repeatable { self.deadline.min(share) } else { self.deadline }
    }

    /// Prepares the next try.
    ///
    /// # Errors
    /// What the last one failed with, if there is to be none.
    async fn failed(&mut self, status: Status) -> Result<()> {
        let again = match error::verdict(&status) {
            Verdict::Untouched => self.elsewhere(true),
            Verdict::Lost => self.elsewhere(self.method.repeatable),
            Verdict::Token => {
                self.client.forget_token().await;
                self.client.has_login() && !std::mem::replace(&mut self.renewed, true)
            }
            Verdict::Said => false,
        };
        // That the time was over says less than what used it up.
        let late = self.method.repeatable && status.code() == Code::DeadlineExceeded;
        let status = self.told.take().filter(|_| late).unwrap_or(status);
        let pause = self.pause();
        if !again || Instant::now() + pause >= self.deadline {
            return Err(error::map(status, self.method.repeatable));
        }
        self.told = Some(status);
        sleep(pause).await;
        Ok(())
    }

    /// Everybody's next request goes to the next endpoint.
    fn elsewhere(&mut self, again: bool) -> bool {
        let (turn, next) = (self.turn, self.turn.wrapping_add(1));
        let moved = self.client.turn.compare_exchange(turn, next, Ordering::Relaxed, Ordering::Relaxed);
        self.turn = moved.map_or_else(|elsewhere| elsewhere, |_| next);
        self.failures += 1;
        again
    }

    /// None within a round of the endpoints.
    fn pause(&self) -> Duration {
        let endpoints = self.client.endpoints.len().max(1);
        let rounds = self.failures / endpoints;
        let within = !self.failures.is_multiple_of(endpoints);
        if rounds == 0 || within { Duration::ZERO } else { PAUSE * (1 << (rounds - 1).min(3)) }
    }
}

fn codec<Q, A>() -> ProstCodec<Q, A> {
    ProstCodec::default()
}

fn path(method: Method) -> PathAndQuery {
    PathAndQuery::from_static(method.path)
}

fn prepared<T>(message: T, method: Method, token: Option<Token>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    if method.led {
        request.metadata_mut().insert("hasleader", Token::from_static("true"));
    }
    request
}

async fn in_time<T>(deadline: Instant, work: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("the deadline passed");
    timeout_at(deadline, work).await.map_err(late)?
}
