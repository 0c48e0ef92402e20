//! The one mapping of what Consul and the way to it say.

use std::error::Error as StdError;
use std::time::Duration;

use linchpin_core::{Error, Kind, Retry};

use super::NAME;
use super::http::{Answer, Failure};

const SAFE: Retry = Retry::Safe { after: Duration::from_millis(100) };
const LATER: Retry = Retry::Safe { after: Duration::from_secs(1) };

const REACH: &str = "check host and port, and that a Consul agent is running there";
const BUG: &str = "check that the server is Consul; if it is, this is a bug: please report it";

fn error(kind: Kind, retry: Retry, message: impl Into<String>, help: &str) -> Error {
    Error::new(kind, message).retry_as(retry).engine(NAME).help(help)
}

/// No answer came. `repeatable`: done twice it is as done once, so that an unknown outcome is no harm.
pub(super) fn failed(failure: Failure, repeatable: bool) -> Error {
    let unknown = if repeatable { SAFE } else { Retry::Unknown };
    match failure {
        Failure::Late => {
            let help = "raise timeout= of the URL, or check the servers";
            error(Kind::Timeout, unknown, "Consul doesn't answer in time", help)
        }
        Failure::Connect(cause) => match untrusted(&cause) {
            Some((message, help)) => error(Kind::Config, Retry::Never, message, help).source(cause),
            None => error(Kind::Unavailable, SAFE, "Consul can't be reached", REACH).source(cause),
        },
        Failure::Lost(cause) => {
            error(Kind::Unavailable, unknown, "the connection to Consul broke", "try again").source(cause)
        }
        Failure::Torn(cause) => {
            error(Kind::Unavailable, unknown, "Consul's answer broke off", "try again").source(cause)
        }
    }
}

/// Whether the servers were without a leader, so that nothing was done.
pub(super) fn leaderless(answer: &Answer) -> bool {
    answer.status == 500 && answer.text().contains("No cluster leader")
}

/// An answer that isn't what was asked for.
pub(super) fn refused(answer: &Answer, repeatable: bool) -> Error {
    let text = answer.text();
    let unknown = if repeatable { SAFE } else { Retry::Unknown };
    match answer.status {
        401 | 403 => {
            let help =
                "give the token's policy key write and session write on prefix= of the URL; check token=";
            error(Kind::Denied, Retry::Never, "the token may not do this", help)
        }
        413 => {
            let help = "send less, or raise limits.txn_max_req_len of Consul";
            error(Kind::Invalid, Retry::Never, "the request is too large for Consul", help)
        }
        429 => error(Kind::Limited, LATER, "Consul has too much to do", "try again later"),
        500 if leaderless(answer) => without_leader(),
        // A token that another server doesn't know.
        500 if text.contains("ACL not found") => denied(),
        500..=599 => {
            let help = "try again; look into the servers' logs";
            error(Kind::Unavailable, unknown, "Consul can't serve at the moment", help)
        }
        _ => error(Kind::Unexpected, Retry::Never, "Consul refused the request", BUG),
    }
    .with("status", answer.status)
    .with("answer", text.chars().take(200).collect::<String>())
}

/// Consul knows who asks, and says no.
pub(super) fn denied() -> Error {
    let help =
        "let the token's policy write keys under prefix= of the URL, and sessions; or name another in token=";
    error(Kind::Denied, Retry::Never, "the token may not do this", help)
}

/// Nobody decides.
pub(super) fn without_leader() -> Error {
    let help = "try again; check that a majority of the servers is running";
    error(Kind::Unavailable, SAFE, "the cluster has no leader at the moment", help)
}

/// The answer isn't the JSON it should be.
pub(super) fn malformed(cause: impl StdError + Send + Sync + 'static) -> Error {
    error(Kind::Unexpected, Retry::Never, "Consul's answer can't be read", BUG).source(cause)
}

/// The answer lacks something.
pub(super) fn incomplete(what: &str) -> Error {
    error(Kind::Unexpected, Retry::Never, format!("Consul's answer lacks {what}"), BUG)
}

pub(super) fn ended() -> Error {
    error(Kind::NotFound, Retry::Never, "the lease has ended", "grant a new one")
}

/// What TLS fails at for good.
fn untrusted(cause: &(dyn StdError + 'static)) -> Option<(&'static str, &'static str)> {
    let causes = std::iter::successors(Some(cause), |&cause| cause.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if text.contains("invalid peer certificate") {
        Some(("the server's certificate isn't trusted", "name the authority that signed it: tls_ca=PATH"))
    } else if text.contains("fatal alert") && text.contains("ertificate") {
        let message = "the server asks for a certificate, or doesn't trust the one it got";
        Some((message, "name one that it trusts: tls_cert=PATH&tls_key=PATH"))
    } else if text.contains("corrupt message") {
        Some(("the server doesn't speak TLS", "write consul:// if the server has no TLS"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_kind() {
        for (status, text, kind, retry) in [
            (403, "Permission denied", Kind::Denied, Retry::Never),
            (500, "ACL not found", Kind::Denied, Retry::Never),
            (413, "Request body too large, max size: 524288 bytes", Kind::Invalid, Retry::Never),
            (429, "Rate limit exceeded", Kind::Limited, LATER),
            (500, "No cluster leader", Kind::Unavailable, SAFE),
            (500, "rpc error making call: EOF", Kind::Unavailable, Retry::Unknown),
            (400, "Bad request", Kind::Unexpected, Retry::Never),
        ] {
            let answer = Answer { status, index: None, body: text.into() };
            let error = refused(&answer, false);
            assert_eq!((error.kind(), error.retry()), (kind, retry), "{error}");
            assert!(error.remedy().is_some() && error.to_string().contains(text), "{error}");
        }
    }
}
