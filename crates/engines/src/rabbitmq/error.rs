//! The one mapping of lapin's errors, and what this engine says itself.

use std::time::Duration;

use lapin::{Error as Said, ErrorKind as Cause};
use linchpin_core::{Error, Kind, Retry};

use super::NAME;
use super::url::Config;

const SAFE: Retry = Retry::Safe { after: Duration::from_millis(100) };
const REACH: &str = "check host and port, and that the server is running";
const CREDENTIALS: &str = "check user and password of the URL";
const RIGHTS: &str = "give the user the permissions configure, write and read on the names under prefix=";
const OTHERWISE: &str = "something of that name was declared otherwise; delete it, or use another prefix=";
const BUG: &str = "this is a bug; please report it";

const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;

pub(super) fn error(kind: Kind, message: impl Into<String>) -> Error {
    Error::new(kind, message).engine(NAME)
}

/// The same error, of something that was proven not to have happened.
pub(super) fn not_applied(error: Error) -> Error {
    match error.kind() {
        Kind::Timeout | Kind::Unavailable | Kind::Limited => error.retry_as(SAFE),
        _ => error,
    }
}

pub(super) fn closed() -> Error {
    error(Kind::Closed, "the bus is closed").help("open it again")
}

pub(super) fn missing(topic: &str) -> Error {
    error(Kind::NotFound, format!("topic {topic:?} doesn't exist")).help("create it with `ensure`")
}

pub(super) fn missing_group(topic: &str, group: &str) -> Error {
    let message = format!("group {group:?} of topic {topic:?} doesn't exist");
    error(Kind::NotFound, message).help("subscribing creates it")
}

pub(super) fn fenced() -> Error {
    error(Kind::Fenced, "the delivery was lost or settled before").help("it comes again if it wasn't settled")
}

pub(super) fn interrupted() -> Error {
    error(Kind::Unavailable, "the server took a queue away, and has it again")
        .help("it is read again; try again")
}

pub(super) fn late(after: Duration) -> Error {
    error(Kind::Timeout, format!("the server doesn't answer within {after:?}"))
        .help("raise timeout= of the URL, or check the server")
}

pub(super) fn blocked() -> Error {
    error(Kind::Limited, "the server takes no messages: it is short of memory or disk")
        .retry_as(Retry::Safe { after: Duration::from_secs(1) })
        .help("free memory or disk of the server, or raise its watermarks")
}

pub(super) fn refused() -> Error {
    error(Kind::Limited, "a queue of the topic refused the message")
        .retry_as(Retry::Unknown)
        .help("check the policies of the virtual host: max-length with reject-publish refuses")
}

/// The AMQP code of what the server said, if it said something.
fn code(said: &Said) -> Option<u16> {
    match said.kind() {
        Cause::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

fn text(said: &Said) -> String {
    match said.kind() {
        Cause::ProtocolError(error) => error.get_message().to_string(),
        _ => String::new(),
    }
}

pub(super) fn is_missing(said: &Said) -> bool {
    code(said) == Some(NOT_FOUND)
}

pub(super) fn is_locked(said: &Said) -> bool {
    code(said) == Some(RESOURCE_LOCKED)
}

/// Whether nothing was sent, because there is nothing left to send it by.
pub(super) fn is_unsent(said: &Said) -> bool {
    matches!(
        said.kind(),
        Cause::InvalidChannel(_) | Cause::InvalidChannelState(..) | Cause::InvalidConnectionState(_)
    )
}

/// Why a request failed.
pub(super) fn map(said: Said) -> Error {
    let (kind, retry, message, help) = match said.kind() {
        Cause::ProtocolError(_) => by_code(&said),
        Cause::ChannelsLimitReached => {
            (Kind::Limited, SAFE, "the connection has no channel left", "raise channel_max of the server")
        }
        Cause::IOError(_)
        | Cause::MissingHeartbeatError
        | Cause::InvalidChannel(_)
        | Cause::InvalidChannelState(..)
        | Cause::InvalidConnectionState(_) => {
            let message = "the connection to the server is down";
            (Kind::Unavailable, Retry::Unknown, message, "it is restored by itself; try again")
        }
        Cause::RuntimeShutdownError(_) => (Kind::Closed, Retry::Never, "the runtime ended", "start again"),
        Cause::InvalidProtocolVersion(_) => (
            Kind::Config,
            Retry::Never,
            "the server doesn't speak AMQP 0-9-1",
            "enable it, or use another port",
        ),
        _ => (Kind::Unexpected, Retry::Never, "the driver failed", BUG),
    };
    Error::new(kind, message).retry_as(retry).engine(NAME).help(help).source(said)
}

fn by_code(said: &Said) -> (Kind, Retry, &'static str, &'static str) {
    let never = Retry::Never;
    match code(said).unwrap_or_default() {
        311 => (Kind::Invalid, never, "the message is too large for the server", "send a reference instead"),
        ACCESS_REFUSED => (Kind::Denied, never, "the server says no", RIGHTS),
        NOT_FOUND => (Kind::NotFound, never, "it isn't there", "create it with `ensure`"),
        RESOURCE_LOCKED => (Kind::Conflict, SAFE, "somebody else uses it", "try again"),
        PRECONDITION_FAILED if text(said).contains("larger than") => {
            let help = "raise max_message_size of the server, or send a reference";
            (Kind::Invalid, never, "the message is too large for the server", help)
        }
        PRECONDITION_FAILED => (Kind::Config, never, "the server refuses the settings", OTHERWISE),
        320 => (Kind::Unavailable, Retry::Unknown, "the server is shutting down", "try again"),
        530 => (Kind::Denied, never, "the server doesn't allow it", RIGHTS),
        506 | 541 => (Kind::Unavailable, Retry::Unknown, "the server failed", "look into its log; try again"),
        _ => (Kind::Unexpected, never, "the server refused the request", BUG),
    }
}

/// Why there is no connection.
pub(super) fn connect(said: Said, config: &Config) -> Error {
    let words = text(&said);
    let vhost = &config.vhost;
    let new = |kind, message: String, help: &str| error(kind, message).help(help);
    let found = match code(&said) {
        Some(ACCESS_REFUSED) => new(Kind::Denied, "the server refuses user and password".into(), CREDENTIALS),
        Some(530) if words.contains("not found") => {
            let help = "create it with `rabbitmqctl add_vhost`, or name another in the URL";
            new(Kind::NotFound, format!("the virtual host {vhost:?} doesn't exist"), help)
        }
        Some(530) => {
            let help = "give the user permissions there with `rabbitmqctl set_permissions`";
            new(Kind::Denied, format!("the user may not use the virtual host {vhost:?}"), help)
        }
        Some(_) => return not_applied(map(said)).op("open"),
        None => match by_certificate(&said) {
            Some((kind, message, help)) => new(kind, message.into(), help),
            None => new(Kind::Unavailable, "the server can't be reached".into(), REACH),
        },
    };
    not_applied(found).op("open").source(said)
}

/// What TLS says of certificates.
fn by_certificate(said: &Said) -> Option<(Kind, &'static str, &'static str)> {
    let Cause::IOError(failure) = said.kind() else { return None };
    let text = failure.to_string();
    if text.contains("invalid peer certificate") {
        let help = "name the authority that signed it in tls_ca=, and the server as its certificate does";
        return Some((Kind::Config, "the server's certificate isn't trusted", help));
    }
    text.contains("received fatal alert").then_some((
        Kind::Config,
        "the server asks for a certificate, or doesn't trust the one it got",
        "name them in tls_cert= and tls_key=",
    ))
}

#[cfg(test)]
mod tests {
    use lapin::protocol::AMQPError;

    use super::*;

    fn said(code: u16, text: &str) -> Said {
        Cause::ProtocolError(AMQPError::from_id(code, text.into()).unwrap()).into()
    }

    #[test]
    fn each_code_has_its_kind() {
        for (code, text, kind) in [
            (311, "", Kind::Invalid),
            (403, "", Kind::Denied),
            (404, "", Kind::NotFound),
            (405, "", Kind::Conflict),
            (406, "inequivalent arg 'x-queue-type'", Kind::Config),
            (406, "message size 9 is larger than configured max size 8", Kind::Invalid),
            (320, "", Kind::Unavailable),
            (504, "", Kind::Unexpected),
        ] {
            let error = map(said(code, text));
            assert_eq!(error.kind(), kind, "{code} {text}");
            assert!(error.remedy().is_some());
        }
    }

    #[test]
    fn a_lost_connection_proves_nothing_unless_nothing_was_sent() {
        let lost = map(Cause::MissingHeartbeatError.into());
        assert_eq!(lost.retry(), Retry::Unknown);
        assert!(matches!(not_applied(lost).retry(), Retry::Safe { .. }));
    }
}
