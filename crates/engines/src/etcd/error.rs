//! The one mapping of what etcd and the way to it say.

use std::error::Error as StdError;
use std::time::Duration;

use linchpin_core::{Error, Kind, Retry};
use tonic::{Code, ConnectError, Status};

use super::NAME;

const SAFE: Retry = Retry::Safe { after: Duration::from_millis(100) };
const LATER: Retry = Retry::Safe { after: Duration::from_secs(1) };

const REACH: &str = "check host and port, and that etcd is running";
const SECRET: &str = "check that the server has TLS on this port; write etcd:// if it has none";
const AGAIN: &str = "try again; check that a majority of the members is running";
const CREDENTIALS: &str = "check user and password of the URL";
const RIGHTS: &str = "grant the user's role read and write on the keys under prefix= of the URL";

/// What is said to a request without a name, where one is needed.
const LOGIN: &str = "etcd asks who connects";
/// What is said to a read of what isn't kept any more.
const COMPACTED: &str = "the revision was compacted away";

/// Why a request failed, as far as trying it again goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It did nothing; another endpoint may do better.
    Untouched,
    /// Nobody knows what it did; another endpoint may do better.
    Lost,
    /// It did nothing, for the token isn't valid any more.
    Token,
    /// It is answered.
    Said,
}

/// What can be done about it.
pub(super) fn verdict(status: &Status) -> Verdict {
    let text = status.message();
    match status.code() {
        _ if untrusted(status).is_some() => Verdict::Said,
        Code::Unauthenticated => Verdict::Token,
        Code::InvalidArgument if text.contains("revision of auth store is old") => Verdict::Token,
        Code::Unavailable if text.contains("no leader") || never_connected(status) => Verdict::Untouched,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted | Code::Internal => {
            Verdict::Lost
        }
        // A broken or closed connection; without a cause etcd itself said it.
        Code::Unknown | Code::ResourceExhausted if status.source().is_some() => Verdict::Lost,
        _ => Verdict::Said,
    }
}

/// `repeatable`: done twice it is as done once, so that an unknown outcome is no harm.
pub(super) fn map(status: Status, repeatable: bool) -> Error {
    let (kind, retry, message, help) = match verdict(&status) {
        Verdict::Untouched => unreachable(&status, SAFE),
        Verdict::Lost => unreachable(&status, if repeatable { SAFE } else { Retry::Unknown }),
        Verdict::Token => (Kind::Denied, SAFE, "the token isn't valid any more", CREDENTIALS),
        Verdict::Said => said(&status, repeatable),
    };
    Error::new(kind, message).retry_as(retry).engine(NAME).help(help).source(status)
}

type Told = (Kind, Retry, &'static str, &'static str);

fn unreachable(status: &Status, retry: Retry) -> Told {
    match status.code() {
        Code::DeadlineExceeded => (
            Kind::Timeout,
            retry,
            "etcd doesn't answer in time",
            "raise timeout= of the URL, or check the servers",
        ),
        _ if status.message().contains("no leader") => {
            (Kind::Unavailable, retry, "the cluster has no leader at the moment", AGAIN)
        }
        _ if never_connected(status) => {
            let tls = status.message().contains("tls handshake");
            (Kind::Unavailable, retry, "etcd can't be reached", if tls { SECRET } else { REACH })
        }
        _ => (Kind::Unavailable, retry, "etcd can't serve at the moment", AGAIN),
    }
}

fn said(status: &Status, repeatable: bool) -> Told {
    let text = status.message();
    if let Some(told) = untrusted(status) {
        return told;
    }
    match status.code() {
        Code::PermissionDenied => (Kind::Denied, Retry::Never, "the user may not do this", RIGHTS),
        Code::InvalidArgument => argument(text),
        Code::FailedPrecondition if text.contains("authentication is not enabled") => {
            let help = "leave user and password out of the URL, or enable authentication";
            (Kind::Config, Retry::Never, "etcd asks nobody who they are", help)
        }
        Code::NotFound if text.contains("lease not found") => {
            (Kind::NotFound, Retry::Never, "the lease has ended", "grant a new one")
        }
        Code::OutOfRange if text.contains("compacted") => (Kind::Unavailable, SAFE, COMPACTED, "try again"),
        Code::OutOfRange if text.contains("lease TTL") => {
            (Kind::Invalid, Retry::Never, "the lease is too long", "ask for a shorter one")
        }
        Code::ResourceExhausted if text.contains("space exceeded") => {
            let help = "compact and defragment, or raise --quota-backend-bytes; then `etcdctl alarm disarm`";
            (Kind::Limited, LATER, "the database is full", help)
        }
        Code::ResourceExhausted if text.contains("larger than max") => too_large(),
        Code::ResourceExhausted => (Kind::Limited, LATER, "etcd has too much to do", "try again later"),
        Code::Unimplemented => {
            (Kind::Config, Retry::Never, "the server doesn't speak etcd's API v3", "use etcd 3.4 or later")
        }
        Code::DataLoss => (
            Kind::Corrupt,
            Retry::Never,
            "a member's data are corrupt",
            "restore that member from the others",
        ),
        _ => {
            let retry = if repeatable { Retry::Never } else { Retry::Unknown };
            (Kind::Unexpected, retry, "etcd refused the request", "look into the server's log")
        }
    }
}

fn argument(text: &str) -> Told {
    if text.contains("authentication failed") {
        (Kind::Denied, Retry::Never, "etcd refuses user or password", CREDENTIALS)
    } else if text.contains("user name is empty") {
        (Kind::Denied, Retry::Never, LOGIN, "write etcd://user:password@host")
    } else if text.contains("too large") {
        too_large()
    } else {
        (Kind::Unexpected, Retry::Never, "etcd refused an argument", "this is a bug; please report it")
    }
}

fn too_large() -> Told {
    let help = "send less, or raise --max-request-bytes of etcd";
    (Kind::Invalid, Retry::Never, "the request is too large for etcd", help)
}

/// Whether the error says that nobody was named, where somebody must be.
pub(super) fn is_login(error: &Error) -> bool {
    error.message() == LOGIN
}

/// Whether the error says that a revision isn't kept any more.
pub(super) fn is_compacted(error: &Error) -> bool {
    error.message() == COMPACTED
}

fn never_connected(status: &Status) -> bool {
    causes(status).any(|cause| cause.is::<ConnectError>())
}

/// What TLS fails at for good.
fn untrusted(status: &Status) -> Option<Told> {
    let text: Vec<_> = causes(status).map(ToString::to_string).collect();
    let says = |part: &str| text.iter().any(|text| text.contains(part));
    if says("invalid peer certificate") {
        let help = "name the authority that signed it: tls_ca=PATH";
        Some((Kind::Config, Retry::Never, "the server's certificate isn't trusted", help))
    } else if says("fatal alert") && says("ertificate") {
        let message = "the server asks for a certificate, or doesn't trust the one it got";
        Some((Kind::Config, Retry::Never, message, "name one that it trusts: tls_cert=PATH&tls_key=PATH"))
    } else if says("corrupt message") {
        let help = "write etcd:// if the server has no TLS";
        Some((Kind::Config, Retry::Never, "the server doesn't speak TLS", help))
    } else {
        None
    }
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
}

/// Something of a response is missing.
pub(super) fn malformed() -> Error {
    Error::new(Kind::Unexpected, "etcd's answer lacks something")
        .engine(NAME)
        .help("check that the server is etcd 3.4 or later")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_has_its_kind() {
        for (code, text, kind, retry) in [
            (Code::Unavailable, "etcdserver: no leader", Kind::Unavailable, SAFE),
            (Code::Unavailable, "etcdserver: request timed out", Kind::Unavailable, Retry::Unknown),
            (Code::DeadlineExceeded, "", Kind::Timeout, Retry::Unknown),
            (Code::PermissionDenied, "etcdserver: permission denied", Kind::Denied, Retry::Never),
            (Code::InvalidArgument, "etcdserver: user name is empty", Kind::Denied, Retry::Never),
            (Code::InvalidArgument, "etcdserver: request is too large", Kind::Invalid, Retry::Never),
            (Code::NotFound, "etcdserver: requested lease not found", Kind::NotFound, Retry::Never),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Kind::Limited, LATER),
            (Code::DataLoss, "etcdserver: corrupt cluster", Kind::Corrupt, Retry::Never),
            (Code::Unknown, "raft: stopped", Kind::Unexpected, Retry::Unknown),
        ] {
            let error = map(Status::new(code, text), false);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{error}");
            assert!(error.remedy().is_some(), "{error}");
        }
        let read = map(Status::unavailable("etcdserver: leader changed"), true);
        assert_eq!(read.retry(), SAFE);
        assert_eq!(verdict(&Status::unauthenticated("etcdserver: invalid auth token")), Verdict::Token);
    }
}
