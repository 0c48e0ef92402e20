//! The one mapping of async-nats' errors.

use std::error::Error as StdError;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::MessagesErrorKind;
use async_nats::jetstream::context::{PublishErrorKind, RequestErrorKind};
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{Error as Said, ErrorCode as Code};
use async_nats::{ConnectError, ConnectErrorKind};
use linchpin_core::{Error, Kind, Retry};

use super::NAME;

const SAFE: Retry = Retry::Safe { after: Duration::from_millis(100) };
const LATER: Retry = Retry::Safe { after: Duration::from_secs(1) };

const REACH: &str = "check host and port, and that nats-server is running";
const CREDENTIALS: &str = "check user and password, token= or creds= of the URL";
const ENABLE: &str = "start nats-server with -js, and enable JetStream for the account";
const ROOM: &str = "raise the server's or the account's JetStream limits, or remove what isn't needed";
const BUG: &str = "this is a bug; please report it";

fn error(kind: Kind, retry: Retry, message: impl Into<String>, help: &str) -> Error {
    Error::new(kind, message).retry_as(retry).engine(NAME).help(help)
}

/// Why there is no connection.
pub(super) fn connect(failure: ConnectError) -> Error {
    use ConnectErrorKind as E;
    let (kind, message, help) = match failure.kind() {
        E::ServerParse => (Kind::Config, "the server's address can't be read", "write nats://host:4222"),
        E::Dns => (Kind::Unavailable, "the server's name isn't known", REACH),
        E::Authentication => (Kind::Denied, "the credentials can't sign", CREDENTIALS),
        E::AuthorizationViolation => (Kind::Denied, "the server refuses the credentials", CREDENTIALS),
        E::TimedOut => (Kind::Timeout, "the server doesn't answer", REACH),
        E::Tls => {
            (Kind::Unavailable, "TLS can't be agreed on", "check tls=, tls_ca=, tls_cert= and tls_key=")
        }
        E::Io | E::MaxReconnects => (Kind::Unavailable, "the server can't be reached", REACH),
    };
    let retry = if matches!(kind, Kind::Timeout | Kind::Unavailable) { LATER } else { Retry::Never };
    error(kind, retry, message, help).op("open").source(failure)
}

/// The connection is down, and nothing was sent.
pub(super) fn disconnected() -> Error {
    error(
        Kind::Unavailable,
        SAFE,
        "the connection to the server is down",
        "it is restored by itself; try again",
    )
}

/// The connection went while something may have been sent, or the server is silent.
pub(super) fn unanswered() -> Error {
    error(
        Kind::Timeout,
        Retry::Unknown,
        "the server doesn't answer",
        "raise timeout= of the URL, or check the server",
    )
}

/// What a request to JetStream failed with, other than an answer.
pub(super) fn request(kind: RequestErrorKind) -> Error {
    match kind {
        RequestErrorKind::NoResponders => error(Kind::Unavailable, LATER, "JetStream doesn't answer", ENABLE),
        RequestErrorKind::TimedOut => unanswered(),
        RequestErrorKind::InvalidSubject => {
            error(Kind::Unexpected, Retry::Never, "a subject can't be used", BUG)
        }
        RequestErrorKind::Other => {
            error(Kind::Unavailable, Retry::Unknown, "the request failed", "try again")
        }
    }
}

/// What JetStream said no with.
pub(super) fn said(said: &Said) -> Error {
    let (kind, retry, message, help) = by_code(said);
    error(kind, retry, message, help).source(said.clone())
}

fn by_code(said: &Said) -> (Kind, Retry, &'static str, &'static str) {
    match said.error_code() {
        Code::JETSTREAM_NOT_ENABLED | Code::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT | Code::NO_ACCOUNT => {
            (Kind::Config, Retry::Never, "JetStream isn't enabled", ENABLE)
        }
        Code::STREAM_NOT_FOUND => {
            (Kind::NotFound, Retry::Never, "the stream doesn't exist", "create it with ensure")
        }
        Code::NO_MESSAGE_FOUND | Code::SEQUENCE_NOT_FOUND => {
            (Kind::NotFound, Retry::Never, "the message isn't there any more", "it was removed by retention")
        }
        Code::CONSUMER_NOT_FOUND => (Kind::NotFound, SAFE, "the consumer is gone", "try again"),
        Code::STREAM_NAME_EXIST => (
            Kind::AlreadyExists,
            Retry::Never,
            "a stream of that name is there",
            "use another name or prefix=",
        ),
        Code::STREAM_SUBJECT_OVERLAP => {
            let help = "another stream holds the subjects; use another name or prefix=";
            (Kind::AlreadyExists, Retry::Never, "the subjects are taken", help)
        }
        Code::STREAM_WRONG_LAST_SEQUENCE => (Kind::Conflict, SAFE, "somebody else wrote first", "try again"),
        Code::ACCOUNT_RESOURCES_EXCEEDED
        | Code::STORAGE_RESOURCES_EXCEEDED
        | Code::MEMORY_RESOURCES_EXCEEDED
        | Code::INSUFFICIENT_RESOURCES
        | Code::MAXIMUM_STREAMS_LIMIT
        | Code::MAXIMUM_CONSUMERS_LIMIT
        | Code::STREAM_MAX_STREAM_BYTES_EXCEEDED
        | Code::STREAM_MAX_BYTES_REQUIRED => (Kind::Limited, LATER, "a limit of JetStream is reached", ROOM),
        Code::STREAM_MESSAGE_EXCEEDS_MAXIMUM | Code::STREAM_HEADER_EXCEEDS_MAXIMUM => {
            let help = "raise max_msg_size of the stream, or send less";
            (Kind::Invalid, Retry::Never, "the message is too large for the stream", help)
        }
        // The store may have written before it failed.
        Code::STREAM_STORE_FAILED | Code::TEMP_STORAGE_FAILED => store_failed(said),
        Code::CLUSTER_NOT_AVAILABLE
        | Code::CLUSTER_NOT_LEADER
        | Code::CLUSTER_NOT_ACTIVE
        | Code::CLUSTER_INCOMPLETE
        | Code::RAFT_GENERAL => {
            (Kind::Unavailable, SAFE, "the cluster has no leader at the moment", "try again")
        }
        Code::CLUSTER_NO_PEERS | Code::STREAM_REPLICAS_NOT_SUPPORTED => (
            Kind::Config,
            Retry::Never,
            "there aren't enough servers for so many replicas",
            "lower replicas=",
        ),
        Code::STREAM_SEALED => (Kind::Denied, Retry::Never, "the stream is sealed", "use another stream"),
        _ if said.code() == 503 => {
            (Kind::Unavailable, SAFE, "JetStream can't serve at the moment", "try again")
        }
        _ if said.code() == 404 => (Kind::NotFound, Retry::Never, "it isn't there", "create it with ensure"),
        _ => (Kind::Unexpected, Retry::Never, "JetStream refused the request", BUG),
    }
}

fn store_failed(said: &Said) -> (Kind, Retry, &'static str, &'static str) {
    let text = said.to_string();
    if text.contains("maximum") || text.contains("resource") || text.contains("no space") {
        return (Kind::Limited, LATER, "the store is full", ROOM);
    }
    (Kind::Unavailable, Retry::Unknown, "the store failed", "check the server's disk and its log")
}

/// Why a message wasn't acknowledged. `None` if the topic has no stream.
pub(super) fn publish(failure: async_nats::jetstream::context::PublishError) -> Option<Error> {
    use PublishErrorKind as E;
    Some(match failure.kind() {
        E::StreamNotFound => return None,
        E::TimedOut | E::BrokenPipe => unanswered(),
        E::WrongLastSequence | E::WrongLastMessageId => {
            error(Kind::Conflict, SAFE, "somebody else wrote first", "try again")
        }
        E::MaxAckPending => {
            error(Kind::Limited, SAFE, "too many messages wait for their answer", "slow down")
        }
        E::MaxPayloadExceeded => {
            let help = "raise max_payload of the server, or send a reference";
            error(Kind::Invalid, Retry::Never, "the message is too large for the server", help)
                .source(failure)
        }
        E::Other => match failure.source().and_then(|cause| cause.downcast_ref::<Said>()) {
            Some(cause) => said(cause),
            None => {
                error(Kind::Unavailable, Retry::Unknown, "publishing failed", "try again").source(failure)
            }
        },
    })
}

/// Why there is no consumer.
pub(super) fn consumer(failure: ConsumerError) -> Error {
    match failure.kind() {
        ConsumerErrorKind::JetStream(cause) => said(&cause),
        ConsumerErrorKind::TimedOut => unanswered(),
        ConsumerErrorKind::Request => {
            error(Kind::Unavailable, SAFE, "the consumer wasn't created", "try again").source(failure)
        }
        ConsumerErrorKind::InvalidConsumerType
        | ConsumerErrorKind::InvalidName
        | ConsumerErrorKind::Other => {
            error(Kind::Unexpected, Retry::Never, "the consumer can't be created", BUG).source(failure)
        }
    }
}

/// Why reading ended; it is begun anew in any case.
pub(super) fn reading(kind: MessagesErrorKind) -> Error {
    use MessagesErrorKind as E;
    let message = match kind {
        E::MissingHeartbeat => "the server is silent",
        E::ConsumerDeleted => "the consumer was deleted",
        E::NoResponders => "nobody answers for the consumer",
        E::Pull | E::PushBasedConsumer | E::RequestLimitExceeded | E::Other => "reading failed",
    };
    error(Kind::Unavailable, SAFE, message, "it is begun anew by itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(code: u64, description: &str) -> Error {
        let json = format!(r#"{{"code":500,"err_code":{code},"description":"{description}"}}"#);
        said(&serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn each_code_has_its_kind() {
        for (code, kind) in [
            (10076, Kind::Config),
            (10059, Kind::NotFound),
            (10058, Kind::AlreadyExists),
            (10071, Kind::Conflict),
            (10047, Kind::Limited),
            (10054, Kind::Invalid),
            (10008, Kind::Unavailable),
            (10003, Kind::Unexpected),
        ] {
            let error = mapped(code, "x");
            assert_eq!(error.kind(), kind, "code {code}");
            assert!(error.remedy().is_some());
        }
    }

    #[test]
    fn retry_says_what_is_proven() {
        assert!(matches!(mapped(10008, "x").retry(), Retry::Safe { .. }));
        assert_eq!(mapped(10077, "error opening block").retry(), Retry::Unknown);
        assert_eq!(mapped(10077, "maximum bytes exceeded").kind(), Kind::Limited);
        assert_eq!(unanswered().retry(), Retry::Unknown);
        assert!(matches!(disconnected().retry(), Retry::Safe { .. }));
    }
}
