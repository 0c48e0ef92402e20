//! Clients of librdkafka: how they are configured, and calls that block, made beside the runtime.

use std::sync::Arc;
use std::time::{Duration, Instant};

use linchpin_core::{Error, Kind, Result, Retry};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, DefaultConsumerContext};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::metadata::Metadata;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::NAME;
use super::error::{map, of_code};
use super::url::{Acks, Config, Sasl};

/// How often an unanswered greeting looks whether it was turned away.
const GREETING: Duration = Duration::from_secs(1);

/// How long it listens for that then.
const LISTENING: Duration = Duration::from_millis(100);

/// A consumer that only asks: metadata, offsets, commits.
pub(super) type Asker = BaseConsumer<DefaultConsumerContext>;

/// What every client has in common.
pub(super) fn base(config: &Config) -> ClientConfig {
    let mut client = ClientConfig::new();
    let millis = config.timeout.as_millis().to_string();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("client.id", "linchpin")
        .set("allow.auto.create.topics", "false")
        .set("socket.timeout.ms", &millis)
        .set("socket.connection.setup.timeout.ms", &millis)
        .set("socket.nagle.disable", "true")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "1000")
        .set("receive.message.max.bytes", "2147483647");
    let protocol = match (&config.tls, &config.login) {
        (None, None) => "plaintext",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), None) => "ssl",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    client.set("security.protocol", protocol);
    if let Some(login) = &config.login {
        let mechanism = match login.sasl {
            Sasl::Plain => "PLAIN",
            Sasl::ScramSha256 => "SCRAM-SHA-256",
            Sasl::ScramSha512 => "SCRAM-SHA-512",
        };
        client.set("sasl.mechanism", mechanism);
        client.set("sasl.username", &login.user).set("sasl.password", &login.password);
    }
    if let Some(tls) = &config.tls {
        // OpenSSL is built in, and doesn't know by itself where this system keeps the authorities it trusts.
        client.set("ssl.ca.location", "probe");
        let files = [
            ("ssl.ca.location", &tls.ca),
            ("ssl.certificate.location", &tls.cert),
            ("ssl.key.location", &tls.key),
        ];
        for (key, file) in files {
            if let Some(file) = file {
                client.set(key, file);
            }
        }
    }
    client
}

/// A producer. What a call publishes goes out at once; the linger only gathers what is being handed in.
pub(super) fn producer(config: &Config) -> ClientConfig {
    let mut client = base(config);
    let (acks, idempotent) = match config.acks {
        Acks::None => ("0", "false"),
        Acks::Leader => ("1", "false"),
        Acks::All => ("all", "true"),
    };
    client
        .set("acks", acks)
        .set("enable.idempotence", idempotent)
        .set("compression.codec", config.compression)
        .set("linger.ms", "0.5")
        .set("batch.num.messages", "100000")
        .set("batch.size", BATCH.to_string())
        .set("message.max.bytes", "1000000000")
        .set("queue.buffering.max.messages", "200000")
        .set("message.timeout.ms", config.timeout.as_millis().to_string())
        .set("request.timeout.ms", config.timeout.as_millis().to_string());
    client
}

/// The most bytes of a batch of several messages.
pub(super) const BATCH: u64 = 1_000_000;

/// A member of a Kafka group, or one that only asks in its name.
pub(super) fn member(config: &Config, group: &str) -> ClientConfig {
    let mut client = base(config);
    client
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.error.backoff.ms", "50")
        // How long a queue that was full isn't filled: a second by default.
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.min.messages", "20000")
        .set("queued.max.messages.kbytes", "32768");
    client
}

/// Runs a call that blocks for `timeout` at most.
pub(super) async fn blocking<T: Send + 'static>(
    op: &'static str,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(call).await;
    done.unwrap_or_else(|_| Err(Error::new(Kind::Closed, "the runtime is shutting down")))
        .map_err(|e| e.engine(NAME).op(op))
}

/// Asks again, until `timeout`, while the cluster is between two states: a coordinator that has just changed answers
/// nothing else for a moment.
pub(super) fn patiently<T>(timeout: Duration, ask: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        match ask() {
            Err(error) => match error.retry() {
                Retry::Safe { after } if Instant::now() + after < deadline => std::thread::sleep(after),
                _ => return Err(error),
            },
            answer => return answer,
        }
    }
}

/// Why brokers turn the client away. librdkafka goes on trying for as long as it may, and says this only beside its answer,
/// among much else that never ends while nobody can be reached.
fn refusal(asker: &Asker) -> Option<Error> {
    let deadline = Instant::now() + LISTENING;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match asker.poll(left)? {
            Err(failure) if failure.rdkafka_error_code().is_some_and(is_refusal) => {
                return Some(map(failure, "open"));
            }
            _ if left.is_zero() => return None,
            _ => {}
        }
    }
}

fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL | Code::UnsupportedSASLMechanism
    )
}

/// What asks the controller.
pub(super) type Admin = AdminClient<DefaultClientContext>;

/// What the bus asks the cluster with.
pub(super) struct Control {
    pub(super) config: Config,
    pub(super) admin: Arc<Admin>,
    pub(super) asker: Arc<Asker>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A partition and the lowest and next offset of its log.
pub(super) type Ends = Vec<(u32, u64, u64)>;

impl Control {
    /// # Errors
    /// `Config` if librdkafka refuses the options.
    pub(super) fn new(config: Config) -> Result<Self> {
        let admin = Arc::new(base(&config).create().map_err(|e| map(e, "open"))?);
        let asker = asker(&config, &format!("{}{SEEKS}", config.prefix))?;
        Ok(Self { admin, asker: Arc::new(asker), config })
    }

    /// Finds out whether the brokers answer, and take the login.
    pub(super) async fn greet(&self) -> Result<()> {
        let (asker, timeout) = (self.asker.clone(), self.config.timeout);
        let uncertified = self.config.tls.as_ref().is_some_and(|tls| tls.cert.is_none());
        let greeting = blocking("open", move || {
            let deadline = Instant::now() + timeout;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                match asker.fetch_metadata(None, left.min(GREETING)) {
                    Ok(_) => return Ok(()),
                    Err(failure) => match refusal(&asker) {
                        Some(refusal) => return Err(refusal),
                        None if left <= GREETING => return Err(map(failure, "open")),
                        None => {}
                    },
                }
            }
        });
        greeting.await.map_err(|error| match error.kind() {
            Kind::Unavailable if uncertified => error.help(
                "check the addresses in the URL, and that the brokers run; those that ask for a client's certificate hang up \
                 without one: name it in tls_cert and tls_key",
            ),
            _ => error,
        })
    }

    pub(super) fn options(&self) -> AdminOptions {
        let timeout = Some(self.config.timeout);
        AdminOptions::new().request_timeout(timeout).operation_timeout(timeout)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// The number of partitions, `NotFound` without the topic.
    pub(super) async fn partitions(&self, kafka: &str, op: &'static str) -> Result<u32> {
        let (asker, name, timeout) = (self.asker.clone(), kafka.to_owned(), self.timeout());
        blocking(op, move || count_partitions(asker.fetch_metadata(Some(&name), timeout), &name, op)).await
    }

    /// The client whose requests go to the controller, once it has looked which broker that is: it never does so again by itself,
    /// not even when the one it knows is dead.
    pub(super) async fn admin(&self, kafka: &str, op: &'static str) -> Result<&Admin> {
        let (admin, name, timeout) = (self.admin.clone(), kafka.to_owned(), self.timeout());
        let looking = move || {
            let looked = admin.inner().fetch_metadata(Some(&name), timeout);
            looked.map(drop).map_err(|e| map(e, op))
        };
        blocking(op, looking).await?;
        Ok(&self.admin)
    }

    /// Where the logs of a topic begin and end.
    pub(super) async fn ends(&self, kafka: &str, partitions: u32, op: &'static str) -> Result<Ends> {
        let (asker, name, timeout) = (self.asker.clone(), kafka.to_owned(), self.timeout());
        blocking(op, move || (0..partitions).map(|n| ends(&*asker, &name, n, timeout, op)).collect()).await
    }
}

/// The Kafka group that seeks are announced in.
const SEEKS: &str = "lp-seeks";

/// A consumer that asks in the name of a group.
pub(super) fn asker(config: &Config, group: &str) -> Result<Asker> {
    member(config, group).create().map_err(|e| map(e, "open"))
}

pub(super) fn count_partitions(metadata: KafkaResult<Metadata>, name: &str, op: &'static str) -> Result<u32> {
    let metadata = metadata.map_err(|e| map(e, op))?;
    let topic = metadata.topics().iter().find(|topic| topic.name() == name);
    let topic = topic.ok_or_else(|| of_code(Code::UnknownTopicOrPartition, op))?;
    if let Some(error) = topic.error() {
        return Err(of_code(error.into(), op));
    }
    u32::try_from(topic.partitions().len()).map_err(|_| Error::new(Kind::Unexpected, "too many partitions"))
}

pub(super) fn ends<C: ConsumerContext>(
    asker: &BaseConsumer<C>,
    name: &str,
    partition: u32,
    timeout: Duration,
    op: &'static str,
) -> Result<(u32, u64, u64)> {
    let (low, high) = asker.fetch_watermarks(name, native(partition), timeout).map_err(|e| map(e, op))?;
    Ok((partition, offset(low), offset(high)))
}

/// The partitions of one topic, to be asked about.
pub(super) fn list(name: &str, partitions: impl IntoIterator<Item = u32>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(name, native(partition));
    }
    list
}

pub(super) fn native(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

pub(super) fn offset(native: i64) -> u64 {
    u64::try_from(native).unwrap_or_default()
}
