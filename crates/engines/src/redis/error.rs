//! The one mapping of the driver's and the server's errors.

use std::time::Duration;

use linchpin_core::{Error, Kind, Retry};
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// The engine's name in errors and in the matrix.
pub(super) const NAME: &str = "redis";

/// What our scripts answer when the group they were called for isn't there any more.
pub(super) const GONE: &str = "LPGONE";
/// What they answer when the topic isn't.
pub(super) const NO_TOPIC: &str = "LPNOTOPIC";
/// What they answer when living members keep another order; behind it, for how many milliseconds still.
pub(super) const ORDER: &str = "LPORDER";

type Said = (Kind, Retry, &'static str, &'static str);

const SOON: Retry = Retry::Safe { after: Duration::from_millis(200) };
const BUG: &str = "this is a bug: please report it";
const WAIT: &str = "try again in a moment";

pub(super) fn error(kind: Kind, message: impl Into<String>) -> Error {
    Error::new(kind, message).engine(NAME)
}

/// An error of the driver or the server as ours.
pub(super) fn map(failure: RedisError, op: &'static str) -> Error {
    let (kind, retry, message, help) = match failure.kind() {
        ErrorKind::Server(kind) => by_kind(kind, &failure),
        ErrorKind::Extension => by_code(failure.code().unwrap_or_default()),
        ErrorKind::Io => io(&failure),
        ErrorKind::AuthenticationFailed => DENIED,
        ErrorKind::InvalidClientConfig | ErrorKind::RESP3NotSupported => {
            (Kind::Config, Retry::Never, "the connection can't be set up so", "check the options of the URL")
        }
        ErrorKind::ClusterConnectionNotFound => {
            (Kind::Unavailable, SOON, "no node of the cluster serves this key now", WAIT)
        }
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
            (Kind::Unexpected, Retry::Unknown, "the answer can't be read", "is it a Redis server?")
        }
        _ => (Kind::Unexpected, Retry::Unknown, "the driver was used wrongly", BUG),
    };
    Error::new(kind, message).retry_as(retry).engine(NAME).op(op).help(help).source(failure)
}

const DENIED: Said = (
    Kind::Denied,
    Retry::Never,
    "the server refused user or password",
    "check them: redis://user:password@host; a server without users takes redis://:password@host",
);
const NO_RIGHT: Said = (
    Kind::Denied,
    Retry::Never,
    "the user may not do this",
    "give it the commands, keys and channels that `linchpin doctor` names",
);
const TAKEN: Said = (
    Kind::Conflict,
    Retry::Never,
    "a key that Linchpin needs holds something else",
    "rename or delete that key, or keep apart from its owner with ?prefix=",
);
const READ_ONLY: Said = (
    Kind::Unavailable,
    SOON,
    "the server is a replica and takes no writes",
    "name the primary, or wait for the failover",
);

fn by_kind(kind: ServerErrorKind, failure: &RedisError) -> Said {
    use ServerErrorKind as S;
    match kind {
        S::BusyLoading => (Kind::Unavailable, SOON, "the server is loading its data", WAIT),
        S::ClusterDown => (Kind::Unavailable, SOON, "the cluster is down", WAIT),
        S::MasterDown => (Kind::Unavailable, SOON, "the primary is down", WAIT),
        S::TryAgain | S::Moved | S::Ask => (Kind::Unavailable, SOON, "the key is being moved", WAIT),
        S::ReadOnly => READ_ONLY,
        S::NoPerm => NO_RIGHT,
        S::NoScript => (Kind::Unavailable, SOON, "the server lost its scripts", WAIT),
        S::CrossSlot => (
            Kind::Config,
            Retry::Never,
            "the server is part of a cluster",
            "open it with redis-cluster://host:port,host:port",
        ),
        S::ResponseError
            if failure.detail().is_some_and(|text| text.contains("DB index is out of range")) =>
        {
            (Kind::Config, Retry::Never, "there is no such database", "name a smaller number behind the host")
        }
        S::ResponseError if failure.detail().is_some_and(|text| text.contains("AUTH")) => DENIED,
        // What NOPERM is inside a script.
        S::ResponseError
            if failure.detail().is_some_and(|text| text.contains("The user executing the script")) =>
        {
            NO_RIGHT
        }
        S::ExecAbort | S::NotBusy | S::NoSub | S::ResponseError => {
            (Kind::Unexpected, Retry::Never, "the server refused a command", "Redis 7.0 or later is needed")
        }
        _ => (Kind::Unexpected, Retry::Never, "the server refused a command", BUG),
    }
}

fn by_code(code: &str) -> Said {
    match code {
        "WRONGTYPE" => TAKEN,
        "NOGROUP" => (
            Kind::Corrupt,
            Retry::Never,
            "the group is missing on the server, though its topic's record names it",
            "somebody removed it, or the server lost it: say by `seek` where it goes on, or remove it",
        ),
        "WRONGPASS" | "NOAUTH" => DENIED,
        "OOM" => (
            Kind::Limited,
            SOON,
            "the server's memory is used up",
            "raise maxmemory, or shorten the topics' retention",
        ),
        "MISCONF" => (
            Kind::Unavailable,
            SOON,
            "the server can't write to its disk and takes no writes",
            "look into the server's log",
        ),
        "NOREPLICAS" => (
            Kind::Unavailable,
            SOON,
            "too few replicas are in step",
            "bring them back, or lower min-replicas-to-write",
        ),
        "BUSY" => (Kind::Unavailable, SOON, "a script keeps the server busy", WAIT),
        "UNBLOCKED" => (Kind::Unavailable, Retry::Unknown, "the server changed its role", WAIT),
        GONE => (
            Kind::NotFound,
            Retry::Never,
            "the topic or the group was removed",
            "subscribing creates a group anew; `Bus::ensure` creates a topic",
        ),
        _ => (Kind::Unexpected, Retry::Never, "the server refused a command", BUG),
    }
}

/// Only a connection that was never made proves that nothing was applied.
fn io(failure: &RedisError) -> Said {
    const REACH: &str = "check that the server runs, and host and port";
    const MINE: &str = "the server asks for a certificate, or doesn't trust the one it got";
    let text = failure.to_string();
    if text.contains("invalid peer certificate") {
        const HELP: &str = "name the authority that signed it: tls_ca=PATH";
        (Kind::Config, Retry::Never, "the server's certificate isn't trusted", HELP)
    } else if text.contains("fatal alert") && text.contains("Certificate") {
        (Kind::Config, Retry::Never, MINE, "name one that it trusts: tls_cert=PATH&tls_key=PATH")
    } else if failure.is_connection_refusal() {
        (Kind::Unavailable, SOON, "the server can't be reached", REACH)
    } else if failure.is_timeout() {
        (Kind::Timeout, Retry::Unknown, "the server didn't answer in time", REACH)
    } else {
        (Kind::Unavailable, Retry::Unknown, "the connection to the server broke", REACH)
    }
}

/// The topic isn't there.
pub(super) fn no_topic(topic: &str) -> Error {
    error(Kind::NotFound, format!("topic {topic:?} doesn't exist"))
        .help("create it with `Bus::ensure`, or open the URL with auto_create=true")
}

pub(super) fn closed() -> Error {
    error(Kind::Closed, "the bus is closed")
}

pub(super) fn fenced() -> Error {
    error(Kind::Fenced, "the delivery was lost to another or settled before").op("settle")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn mapped(code: &str) -> Error {
        map(redis::make_extension_error(code.to_owned(), Some("said so".to_owned())), "publish")
    }

    #[test]
    fn each_code_has_its_kind() {
        for (code, kind) in [
            ("WRONGTYPE", Kind::Conflict),
            ("NOGROUP", Kind::Corrupt),
            ("WRONGPASS", Kind::Denied),
            ("NOAUTH", Kind::Denied),
            ("OOM", Kind::Limited),
            ("MISCONF", Kind::Unavailable),
            ("NOREPLICAS", Kind::Unavailable),
            (GONE, Kind::NotFound),
            ("WHATEVER", Kind::Unexpected),
        ] {
            assert_eq!(mapped(code).kind(), kind, "{code}");
            assert!(mapped(code).remedy().is_some());
        }
        for (kind, expected) in [
            (ServerErrorKind::BusyLoading, Kind::Unavailable),
            (ServerErrorKind::ClusterDown, Kind::Unavailable),
            (ServerErrorKind::ReadOnly, Kind::Unavailable),
            (ServerErrorKind::NoPerm, Kind::Denied),
            (ServerErrorKind::CrossSlot, Kind::Config),
        ] {
            let error = map(RedisError::from((ErrorKind::Server(kind), "x")), "publish");
            assert_eq!(error.kind(), expected, "{kind:?}");
        }
    }

    #[test]
    fn retry_says_what_is_proven() {
        let io = |kind| map(io::Error::from(kind).into(), "publish");
        let refused = io(io::ErrorKind::ConnectionRefused);
        assert!(matches!(refused.retry(), Retry::Safe { .. }));
        let tls = io::Error::new(io::ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer");
        assert_eq!(map(tls.into(), "open").kind(), Kind::Config);
        let late = io(io::ErrorKind::TimedOut);
        assert_eq!((late.kind(), late.retry()), (Kind::Timeout, Retry::Unknown));
        assert_eq!(io(io::ErrorKind::BrokenPipe).retry(), Retry::Unknown);
        assert!(matches!(mapped("OOM").retry(), Retry::Safe { .. }));
        assert!(mapped("OOM").to_string().starts_with("redis publish: "));
    }
}
