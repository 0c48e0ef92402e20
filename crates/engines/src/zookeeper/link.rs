//! The way to the servers: a connection that is restored when it goes, and connections for leases.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use linchpin_core::{Error, Kind, Result, Retry};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::conn::{Conn, Manner, Session, Stream};
use super::hub::Hub;
use super::op::{self, Access, Request};
use super::path::Paths;
use super::tls::Tls;
use super::url::Config;
use super::{NAME, error};

/// A server that leaves a request unanswered for so long is given up for another.
const SILENCE: Duration = Duration::from_secs(4);
/// The pause after none of the servers could be reached.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Connections for leases at a time.
const LEASES: usize = 16;

/// The servers of one URL.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) config: Config,
    pub(super) paths: Paths,
    pub(super) hub: Arc<Hub>,
    tls: Option<Tls>,
    /// The connection that everything but leases shares.
    shared: Mutex<Option<Arc<Conn>>>,
    /// Held by who restores it.
    restoring: tokio::sync::Mutex<()>,
    /// The server that was reached last: it is tried first.
    preferred: AtomicUsize,
    /// Bounds the connections for leases: servers take 60 from one address unless they are told otherwise.
    leases: Arc<Semaphore>,
}

/// A connection on the session of a lease.
#[derive(Debug)]
pub(super) struct LeaseConn {
    pub(super) conn: Conn,
    _permit: OwnedSemaphorePermit,
}

impl Link {
    pub(super) fn new(config: Config) -> Result<Self> {
        Ok(Self {
            paths: Paths::new(&config.root),
            hub: Arc::default(),
            tls: Tls::of(&config)?,
            shared: Mutex::default(),
            restoring: tokio::sync::Mutex::default(),
            preferred: AtomicUsize::new(fastrand::usize(..config.hosts.len().max(1))),
            leases: Arc::new(Semaphore::new(LEASES)),
            config,
        })
    }

    /// Does `work` within the timeout of the URL.
    pub(super) async fn in_time<T>(&self, wrote: bool, work: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = timeout(self.config.timeout, work).await.unwrap_or(Err(error::unanswered(wrote)));
        answer.map_err(|e| e.engine(NAME))
    }

    /// Reads within the timeout of the URL, again if the connection goes meanwhile.
    pub(super) async fn reading<T, F>(&self, read: impl Fn(Arc<Conn>) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.in_time(false, async {
            loop {
                match read(self.conn().await?).await {
                    Err(e) if e.kind() == Kind::Unavailable => sleep(PAUSE).await,
                    answer => return answer,
                }
            }
        })
        .await
    }

    pub(super) fn access(&self) -> Access {
        if self.config.user.is_some() { Access::Creator } else { Access::Everybody }
    }

    fn silence(&self) -> Duration {
        SILENCE.min(self.config.timeout / 2)
    }

    fn current(&self) -> Option<Arc<Conn>> {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.as_ref().filter(|conn| !conn.is_dead()).cloned()
    }

    /// The connection that everything but leases shares.
    ///
    /// # Errors
    /// `Unavailable` if none of the servers can be reached within the timeout.
    pub(super) async fn conn(&self) -> Result<Arc<Conn>> {
        if let Some(conn) = self.current() {
            return Ok(conn);
        }
        let deadline = self.deadline();
        let restoring = timeout_at(deadline, self.restoring.lock()).await;
        let _restoring = restoring.map_err(|_| error::unreachable(None))?;
        if let Some(conn) = self.current() {
            return Ok(conn);
        }
        let silence = self.silence();
        let session = Session::new(silence * 2);
        let manner = Manner { silence, ping: Some(silence / 4), hub: Some(self.hub.clone()) };
        let conn = Arc::new(self.open(session, manner, deadline).await?);
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(conn.clone());
        Ok(conn)
    }

    /// A connection of its own on this session, which ends unless something is asked on it. Taking up a session keeps it
    /// for its whole time from then on: the leader of the servers is told before the answer. A ping to another server
    /// wouldn't do: that tells the leader later, and not at all if it dies first.
    ///
    /// # Errors
    /// `NotFound` if the session has ended.
    pub(super) async fn session(&self, session: Session) -> Result<LeaseConn> {
        let manner = Manner { silence: self.silence(), ping: None, hub: None };
        let deadline = self.deadline();
        let permit = timeout_at(deadline, self.leases.clone().acquire_owned()).await;
        let permit = permit.ok().and_then(Result::ok).ok_or_else(error::busy)?;
        Ok(LeaseConn { conn: self.open(session, manner, deadline).await?, _permit: permit })
    }

    /// Somewhat before the timeout, so that what is said then is why.
    fn deadline(&self) -> Instant {
        Instant::now() + self.config.timeout / 10 * 9
    }

    /// The server that is reached first, from the preferred one on.
    async fn open(&self, session: Session, manner: Manner, deadline: Instant) -> Result<Conn> {
        let count = self.config.hosts.len();
        let mut pause = PAUSE;
        let mut last = error::unreachable(None);
        loop {
            let first = self.preferred.load(Ordering::Relaxed);
            for host in (first..first + count).map(|n| n % count) {
                let attempt = deadline.min(Instant::now() + self.silence() / 2);
                let opening = self.open_at(host, session.clone(), manner.clone());
                let opened = timeout_at(attempt, opening).await;
                match opened.unwrap_or(Err(error::unreachable(None))) {
                    Ok(conn) => {
                        self.preferred.store(host, Ordering::Relaxed);
                        return Ok(conn);
                    }
                    Err(e) if matches!(e.kind(), Kind::Unavailable) => last = e,
                    Err(e) => return Err(e),
                }
            }
            if Instant::now() + pause >= deadline {
                return Err(last);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A connection to one server.
    async fn open_at(&self, host: usize, session: Session, manner: Manner) -> Result<Conn> {
        let name = self.config.hosts.get(host).map(String::as_str).unwrap_or_default();
        let stream = TcpStream::connect(name).await.map_err(|e| error::unreachable(Some(e)))?;
        stream.set_nodelay(true).map_err(|e| error::unreachable(Some(e)))?;
        let stream: Box<dyn Stream> = match &self.tls {
            Some(tls) => Box::new(tls.connect(name, stream).await?),
            None => Box::new(stream),
        };
        let auth = self.config.user.as_ref().map(|(user, password)| op::auth(user, password));
        Conn::open(stream, session, auth, manner).await
    }

    /// Asks for what goes through a majority of the servers and changes nothing. What is read on the connection after it sees
    /// every write that was answered before; after `sync` it might not, since a leader that was frozen while another was
    /// elected answers it at once.
    pub(super) fn barrier(&self) -> Request {
        op::multi(&[op::check(self.paths.keys(), op::ANY)])
    }

    /// Stops watching a directory, if there is a connection.
    pub(super) fn forget(&self, dir: &str) {
        if let Some(conn) = self.current() {
            drop(conn.ask(op::remove_watches(dir)));
        }
    }

    /// Makes the nodes a key needs: directories, and its guard. What is there already stays.
    ///
    /// # Errors
    /// None if the servers refuse some of it, but that refusal: what is refused may be there already.
    pub(super) async fn prepare(&self, conn: &Conn, key: Option<&str>) -> Result<Option<Error>> {
        let mut nodes: Vec<_> =
            self.paths.permanent().into_iter().map(|path| (path, op::Mode::Persistent)).collect();
        if let Some(key) = key {
            nodes.push((self.paths.guard(key), op::Mode::Persistent));
            let dirs = self.paths.dirs(&self.paths.leaf(key));
            nodes.extend(dirs.into_iter().map(|path| (path, op::Mode::Container)));
        }
        let asked: Vec<_> =
            nodes.iter().map(|(path, mode)| conn.ask(op::create(path, &[], *mode, self.access()))).collect();
        let mut refused = None;
        for answer in asked {
            match answer.await?.code {
                error::Code(0) | error::Code::NODE_EXISTS | error::Code::NO_NODE => {}
                error::Code::NO_AUTH => refused = Some(error::said(error::Code::NO_AUTH)),
                code => return Err(error::said(code).retry_as(Retry::Never)),
            }
        }
        Ok(refused)
    }
}
