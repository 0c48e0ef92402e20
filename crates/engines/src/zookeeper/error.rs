//! The one mapping of what ZooKeeper says no with, and of connections that fail.

use std::io;
use std::time::Duration;

use linchpin_core::{Error, Kind, Retry};

use super::NAME;

const SAFE: Retry = Retry::Safe { after: Duration::from_millis(100) };
const LATER: Retry = Retry::Safe { after: Duration::from_secs(1) };

const REACH: &str = "check host and port, that a majority of the servers is running, and that they take more connections from \
                     this address: maxClientCnxns, 60 unless set; each lease has one";
const BUG: &str = "this is a bug; please report it";

/// ZooKeeper's number for what went wrong; 0 is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) i32);

impl Code {
    pub(super) const NO_NODE: Self = Self(-101);
    pub(super) const NO_AUTH: Self = Self(-102);
    pub(super) const BAD_VERSION: Self = Self(-103);
    pub(super) const NODE_EXISTS: Self = Self(-110);
    pub(super) const SESSION_EXPIRED: Self = Self(-112);
}

fn error(kind: Kind, retry: Retry, message: impl Into<String>, help: &str) -> Error {
    Error::new(kind, message).retry_as(retry).engine(NAME).help(help)
}

/// What a server says no with. All of these are said instead of doing something.
pub(super) fn said(code: Code) -> Error {
    let (kind, retry, message, help) = by_code(code);
    error(kind, retry, message, help).with("code", code.0)
}

fn by_code(code: Code) -> (Kind, Retry, &'static str, &'static str) {
    match code.0 {
        // The leader changes, or is overloaded, after it may have taken the request.
        -4..=-1 | -7 | -122 => {
            (Kind::Unavailable, Retry::Unknown, "the server failed in the midst of the request", "try again")
        }
        -5 | -8 => (Kind::Unexpected, Retry::Never, "the server can't read the request", BUG),
        -6 => {
            let help = "Linchpin needs ZooKeeper 3.6 or newer";
            (Kind::Unsupported, Retry::Never, "the server doesn't know the request", help)
        }
        -12 | -112 => (Kind::NotFound, Retry::Never, "the session has ended", "grant another lease"),
        -13 | -14 => (Kind::Unavailable, LATER, "the servers are being reconfigured", "try again later"),
        -101 => (Kind::NotFound, Retry::Never, "the node isn't there", "check the path of the URL"),
        -102 | -124 => {
            let help = "check user and password of the URL, and the nodes' ACLs (getAcl)";
            (Kind::Denied, Retry::Never, "the server's access list refuses it", help)
        }
        -103 => (Kind::Conflict, SAFE, "somebody else wrote first", "try again"),
        -108 => {
            let help = "something else writes under the path of the URL: use another path";
            (Kind::Conflict, Retry::Never, "a node in the way can't have children", help)
        }
        -110 => (Kind::AlreadyExists, Retry::Never, "the node is there already", "try again"),
        -111 => (Kind::Conflict, SAFE, "the node has children", "try again"),
        -114 => {
            let help = "name user and password in the URL, or neither";
            (Kind::Config, Retry::Never, "the server can't use the access list", help)
        }
        -115 => {
            let help = "check user and password of the URL, and that the server takes digest";
            (Kind::Denied, Retry::Never, "the server refuses the credentials", help)
        }
        -118 => (Kind::Unavailable, SAFE, "the session went to another server", "try again"),
        -119 => (Kind::Unavailable, SAFE, "the server has lost its majority", REACH),
        -120 => {
            let help = "set localSessionsUpgradingEnabled on the servers, or localSessionsEnabled=false";
            (Kind::Config, Retry::Never, "a local session can't hold a lease", help)
        }
        -125 => (Kind::Limited, Retry::Never, "a quota is reached", "raise it with setquota"),
        -127 => (Kind::Limited, LATER, "the server is overloaded", "try again later"),
        _ => (Kind::Unexpected, Retry::Never, "the server says something unknown", BUG),
    }
}

/// No server could be reached in time.
pub(super) fn unreachable(last: Option<io::Error>) -> Error {
    let failed = error(Kind::Unavailable, LATER, "no server can be reached", REACH);
    match last {
        Some(cause) => failed.source(cause),
        None => failed,
    }
}

/// The connection went, and nothing of the request was sent.
pub(super) fn disconnected() -> Error {
    let help = "it is restored by itself; try again";
    error(Kind::Unavailable, SAFE, "the connection to the server is down", help)
}

/// The connection went after the request was sent.
pub(super) fn lost(wrote: bool) -> Error {
    let retry = if wrote { Retry::Unknown } else { SAFE };
    error(Kind::Unavailable, retry, "the connection went before the answer came", "try again")
}

/// Nothing came in time.
pub(super) fn unanswered(wrote: bool) -> Error {
    let retry = if wrote { Retry::Unknown } else { SAFE };
    let help = "raise timeout= of the URL, or check the servers";
    error(Kind::Timeout, retry, "the server doesn't answer", help)
}

/// The lease has ended, or isn't of this engine.
pub(super) fn ended() -> Error {
    let help = "grant another; a lease is renewed and written under only through the engine that granted it";
    error(Kind::NotFound, Retry::Never, "the lease has ended", help)
}

/// Others write so often that no attempt gets through.
pub(super) fn outrun() -> Error {
    let help = "write it less often, or raise timeout= of the URL";
    error(Kind::Limited, LATER, "others write all the time, and no attempt got through", help)
}

/// Too many leases are granted, renewed or written under at a time.
pub(super) fn busy() -> Error {
    let help = "share one lease among many keys, or raise timeout= of the URL";
    error(Kind::Limited, LATER, "too many leases are in use at this moment", help)
}

/// The servers' longest session is shorter than the lease.
pub(super) fn too_long(asked: Duration, granted: Duration) -> Error {
    let message = format!("a lease of {} s", asked.as_secs_f64());
    let help = format!(
        "the servers' longest is {} s: ask for that or less, or raise maxSessionTimeout",
        granted.as_secs_f64()
    );
    error(Kind::Invalid, Retry::Never, message, &help)
}

/// The key isn't as the condition wants it.
pub(super) fn conflict(message: String) -> Error {
    error(Kind::Conflict, Retry::Never, message, "read it again")
}

/// What isn't ZooKeeper's protocol.
pub(super) fn garbled() -> Error {
    let help = "check that the port is ZooKeeper's, and tls= of the URL";
    error(Kind::Unexpected, Retry::Never, "the server's answer can't be read", help)
}

/// TLS can't be set up.
pub(super) fn tls(message: impl Into<String>) -> Error {
    let help = "check tls_ca=, tls_cert= and tls_key= of the URL";
    error(Kind::Config, Retry::Never, message, help).op("open")
}

/// TLS can't be agreed on.
pub(super) fn handshake(cause: io::Error) -> Error {
    use tokio_rustls::rustls::Error as Tls;
    let inner = cause.get_ref().and_then(|inner| inner.downcast_ref::<Tls>());
    match inner {
        Some(Tls::InvalidCertificate(_)) => tls("the server's certificate isn't trusted").source(cause),
        Some(Tls::AlertReceived(_)) => tls("the server refuses the certificate").source(cause),
        _ => unreachable(Some(cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_kind() {
        for (code, kind) in [
            (-1, Kind::Unavailable),
            (-6, Kind::Unsupported),
            (-8, Kind::Unexpected),
            (-101, Kind::NotFound),
            (-102, Kind::Denied),
            (-103, Kind::Conflict),
            (-110, Kind::AlreadyExists),
            (-112, Kind::NotFound),
            (-114, Kind::Config),
            (-115, Kind::Denied),
            (-118, Kind::Unavailable),
            (-125, Kind::Limited),
            (-9999, Kind::Unexpected),
        ] {
            let error = said(Code(code));
            assert_eq!(error.kind(), kind, "code {code}");
            assert!(error.remedy().is_some());
        }
    }

    #[test]
    fn retry_says_what_is_proven() {
        assert_eq!(said(Code(-1)).retry(), Retry::Unknown);
        assert_eq!(lost(true).retry(), Retry::Unknown);
        assert!(matches!(lost(false).retry(), Retry::Safe { .. }));
        assert!(matches!(disconnected().retry(), Retry::Safe { .. }));
        assert!(matches!(said(Code(-118)).retry(), Retry::Safe { .. }));
    }
}
