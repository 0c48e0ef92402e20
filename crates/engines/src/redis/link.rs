//! Connections: one for commands, shared by everything of a bus, and one that listens.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use linchpin_core::{Error, Kind, Result};
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{
    Arg, AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    FromRedisValue, IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError, RedisResult,
    ServerErrorKind, TlsCertificates, Value, from_redis_value,
};
use tokio::time::{sleep, timeout};

use super::error::{NAME, map};
use super::script::Call;
use super::url::{Config, Tls};
use super::wire::Wire;
use crate::pem::{CERTIFICATE, PRIVATE_KEY, pem};

/// How long a cluster gets to mend itself before it is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// The connection for commands. Each call answers within the configured timeout.
#[derive(Clone)]
pub(super) struct Link {
    driver: Driver,
    config: Config,
}

#[derive(Clone)]
enum Driver {
    Single(Arc<Wire>),
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({})", self.config.url)
    }
}

impl Link {
    pub(super) async fn open(config: Config) -> Result<Self> {
        let opening = timeout(config.timeout, connect(&config)).await;
        let driver = opening.map_err(|_| late(&config, "open"))??;
        let link = Self { driver, config };
        // A server that isn't there, or refuses the password, is told of now.
        link.command(&redis::cmd("PING"), "open").await.map_err(|e| e.with("url", &link.config.url))?;
        Ok(link)
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.driver, Driver::Cluster(_))
    }

    async fn send(&self, cmd: &Cmd, op: &'static str) -> Result<RedisResult<Value>> {
        let sending = async {
            match self.driver.clone() {
                Driver::Single(wire) => wire.send(async |mut c| c.req_packed_command(cmd).await).await,
                Driver::Cluster(mut connection) => loop {
                    match connection.req_packed_command(cmd).await.and_then(Value::extract_error) {
                        Err(failure) if may_mend(&failure) => sleep(AGAIN).await,
                        answer => break answer,
                    }
                },
            }
        };
        let answer = timeout(self.config.timeout, sending).await.map_err(|_| late(&self.config, op))?;
        Ok(answer.and_then(Value::extract_error))
    }

    pub(super) async fn command(&self, cmd: &Cmd, op: &'static str) -> Result<Value> {
        self.send(cmd, op).await?.map_err(|e| {
            let key = cmd.args_iter().nth(1).filter(|_| e.code() == Some("WRONGTYPE"));
            let error = map(e, op);
            match key {
                Some(Arg::Simple(key)) => error.with("key", String::from_utf8_lossy(key)),
                _ => error,
            }
        })
    }

    /// One answer per command. In a cluster all keys are of one slot, and all commands or none take effect.
    /// `key` is one of them.
    pub(super) async fn pipeline(
        &self,
        pipeline: Pipeline,
        key: &str,
        op: &'static str,
    ) -> Result<Vec<Result<Value>>> {
        let count = pipeline.len();
        let sending = async {
            match self.driver.clone() {
                Driver::Single(wire) => {
                    let sending = wire.send(async |mut c| c.req_packed_commands(&pipeline, 0, count).await);
                    sending.await.map_err(|e| map(e, op))
                }
                Driver::Cluster(connection) => self.transaction(connection, pipeline, key, op).await,
            }
        };
        let answers = timeout(self.config.timeout, sending).await.map_err(|_| late(&self.config, op))??;
        Ok(answers.into_iter().map(|value| value.extract_error().map_err(|e| map(e, op))).collect())
    }

    /// One answer per command of a transaction on a single server, an error among them as it is; `None` if the server refused it as a whole.
    pub(super) async fn transact(&self, pipeline: &Pipeline, op: &'static str) -> Result<Option<Vec<Value>>> {
        let Driver::Single(wire) = &self.driver else { return Ok(None) };
        // The answer of all is that of EXEC, behind those of MULTI and of each command.
        let sending = wire.send(async |mut c| c.req_packed_commands(pipeline, pipeline.len() + 1, 1).await);
        let answer = timeout(self.config.timeout, sending).await.map_err(|_| late(&self.config, op))?;
        match answer.and_then(|all| self::answer(all.into_iter().next().unwrap_or_default())) {
            Ok(Value::Array(answers)) => Ok(Some(answers)),
            Ok(_) => Err(map(RedisError::from((ErrorKind::UnexpectedReturnType, "no array")), op)),
            Err(failure) if failure.kind() == ErrorKind::Server(ServerErrorKind::ExecAbort) => Ok(None),
            Err(failure) => Err(map(failure, op)),
        }
    }

    async fn transaction(
        &self,
        mut connection: ClusterConnection,
        mut pipeline: Pipeline,
        key: &str,
        op: &'static str,
    ) -> Result<Vec<Value>> {
        pipeline.atomic();
        loop {
            // The answer of all is that of EXEC, behind those of MULTI and of each command.
            let answer = connection.req_packed_commands(&pipeline, pipeline.len() + 1, 1).await;
            let answer = answer.and_then(|all| all.into_iter().next().unwrap_or_default().extract_error());
            match answer {
                Ok(Value::Array(answers)) => return Ok(answers),
                Ok(_) => {
                    return Err(map(RedisError::from((ErrorKind::UnexpectedReturnType, "no array")), op));
                }
                Err(failure) if may_mend(&failure) => {
                    // The driver learns from a single command where the key is now, but not from a transaction.
                    let _moved = connection.req_packed_command(redis::cmd("EXISTS").arg(key)).await;
                    sleep(AGAIN).await;
                }
                Err(failure) => return Err(map(failure, op)),
            }
        }
    }

    /// Runs a script; a server that doesn't know it learns it.
    pub(super) async fn call<T: FromRedisValue>(&self, call: &Call, op: &'static str) -> Result<T> {
        self.try_call(call, op).await?.map_err(|e| {
            let key = (e.code() == Some("WRONGTYPE")).then(|| call.names());
            let error = map(e, op);
            key.map_or(error.clone(), |key| error.with("key", key))
        })
    }

    /// Like [`Link::call`], with the server's error as it is.
    pub(super) async fn try_call<T: FromRedisValue>(
        &self,
        call: &Call,
        op: &'static str,
    ) -> Result<RedisResult<T>> {
        let mut answer = self.send(&call.command(false), op).await?;
        if answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Server(ServerErrorKind::NoScript)) {
            answer = self.send(&call.command(true), op).await?;
        }
        Ok(answer.and_then(|value| Ok(from_redis_value(value)?)))
    }

    /// The server's clock, in milliseconds.
    pub(super) async fn now(&self, op: &'static str) -> Result<i64> {
        let answer = self.command(&redis::cmd("TIME"), op).await?;
        let (seconds, micros): (i64, i64) = from_redis_value(answer).map_err(|e| map(e.into(), op))?;
        Ok(seconds * 1_000 + micros / 1_000)
    }

    /// Tells those who listen on a channel. Only a hint: nobody waits for its answer.
    pub(super) fn hint(&self, channel: String, text: String) {
        let link = self.clone();
        tokio::spawn(async move {
            let mut cmd = redis::cmd("PUBLISH");
            cmd.arg(channel).arg(text);
            if let Err(error) = link.command(&cmd, "hint").await {
                tracing::debug!(%error, "nobody was told");
            }
        });
    }
}

/// What a command answered. Unlike the driver's `extract_error` this doesn't look for errors within an answer, which takes it
/// apart and builds it anew.
pub(super) fn answer(value: Value) -> RedisResult<Value> {
    match value {
        Value::ServerError(error) => Err(error.into()),
        value => Ok(value),
    }
}

/// Whether a cluster that mends itself answers otherwise soon, and nothing was applied: what may have been is never sent
/// twice.
fn may_mend(failure: &RedisError) -> bool {
    use ServerErrorKind as S;
    let mends = |kind: S| {
        matches!(
            kind,
            S::Moved | S::Ask | S::TryAgain | S::ClusterDown | S::MasterDown | S::ReadOnly | S::BusyLoading
        )
    };
    match failure.kind() {
        ErrorKind::ClusterConnectionNotFound => true,
        ErrorKind::Server(S::ExecAbort) => {
            let errors = failure.clone().into_server_errors().unwrap_or_default();
            errors.iter().any(|(_, error)| error.kind().is_some_and(mends))
        }
        ErrorKind::Server(kind) => mends(kind),
        _ => failure.is_connection_refusal(),
    }
}

pub(super) fn late(config: &Config, op: &'static str) -> Error {
    Error::new(Kind::Timeout, format!("the server didn't answer within {:?}", config.timeout))
        .engine(NAME)
        .op(op)
        .with("url", &config.url)
        .help("check the server and the network, or raise `timeout` in the URL")
}

async fn connect(config: &Config) -> Result<Driver> {
    if config.cluster {
        let nodes = config.hosts.iter().map(|(host, port)| info(config, host, *port));
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        // What may have been applied is never sent again by the driver: this side knows what is safe.
        let mut builder = ClusterClientBuilder::new(nodes)
            .retries(0)
            .connection_timeout(config.timeout)
            .response_timeout(config.timeout)
            .overall_response_timeout(Some(config.timeout));
        if let Some(tls) = &config.tls {
            builder = builder.certs(certificates(tls)?);
        }
        let client = builder.build().map_err(|e| map(e, "open"))?;
        let connection = client.get_async_connection().await;
        return connection.map(Driver::Cluster).map_err(|e| map(e, "open").with("url", &config.url));
    }
    let (host, port) = config.hosts.first().cloned().unwrap_or_default();
    let options = AsyncConnectionConfig::new()
        .set_pipeline_buffer_size(1024)
        .set_connection_timeout(Some(config.timeout))
        .set_response_timeout(Some(config.timeout));
    let wire = Wire::open(client(config, &host, port)?, options).await;
    wire.map(|wire| Driver::Single(Arc::new(wire))).map_err(|e| map(e, "open").with("url", &config.url))
}

/// A connection of its own to one host, for messages that are pushed.
pub(super) async fn listen(config: &Config, turn: usize) -> Result<PubSub> {
    let at = turn.checked_rem(config.hosts.len()).unwrap_or(0);
    let (host, port) = config.hosts.get(at).cloned().unwrap_or_default();
    let client = client(config, &host, port)?;
    let connecting = timeout(config.timeout, client.get_async_pubsub()).await;
    connecting.map_err(|_| late(config, "listen"))?.map_err(|e| map(e, "listen"))
}

/// A connection of its own to one node.
pub(super) async fn node(config: &Config, host: &str, port: u16) -> Result<MultiplexedConnection> {
    let client = client(config, host, port)?;
    let connecting = timeout(config.timeout, client.get_multiplexed_async_connection()).await;
    connecting.map_err(|_| late(config, "open"))?.map_err(|e| map(e, "open"))
}

fn client(config: &Config, host: &str, port: u16) -> Result<Client> {
    let info = info(config, host, port)?;
    let client = match &config.tls {
        Some(tls) => Client::build_with_tls(info, certificates(tls)?),
        None => Client::open(info),
    };
    client.map_err(|e| map(e, "open").with("url", &config.url))
}

fn info(config: &Config, host: &str, port: u16) -> Result<ConnectionInfo> {
    let address = match config.tls {
        Some(_) => ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None },
        None => ConnectionAddr::Tcp(host.to_owned(), port),
    };
    let mut login = RedisConnectionInfo::default().set_db(config.database);
    if let Some(user) = &config.user {
        login = login.set_username(user);
    }
    if let Some(password) = &config.password {
        login = login.set_password(password);
    }
    let info = address.into_connection_info().map_err(|e: RedisError| map(e, "open"))?;
    Ok(info.set_redis_settings(login))
}

fn certificates(tls: &Tls) -> Result<TlsCertificates> {
    let pem = |path: &Path, part| pem(path, part).map_err(|e| e.engine(NAME).op("open"));
    let client_tls = match &tls.client {
        Some((cert, key)) => {
            Some(ClientTlsConfig { client_cert: pem(cert, CERTIFICATE)?, client_key: pem(key, PRIVATE_KEY)? })
        }
        None => None,
    };
    let root_cert = tls.ca.as_deref().map(|ca| pem(ca, CERTIFICATE)).transpose()?;
    Ok(TlsCertificates { client_tls, root_cert })
}
