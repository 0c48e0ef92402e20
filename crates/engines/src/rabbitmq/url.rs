//! The options of an `amqp:` URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};

use super::NAME;

/// Option keys every bus engine shares; they are taken out of the URL before it gets here.
const SHARED: &[&str] = &["auto_create"];
/// The longest prefix: what is left of a queue's name is for the topic.
const MAX_PREFIX: usize = 64;

/// What an `amqp://user:password@host:5672/vhost` or `amqps:` URL says. Several hosts, separated by commas, are
/// nodes of one cluster, tried in turn. User and password are `guest`, the virtual host is `/` unless named.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `timeout` | `10s` | the longest one request waits for the server |
/// | `prefix` | empty | put before the name of every exchange and queue: several buses on one virtual host |
/// | `tls_ca` | the system's | a PEM file of the authorities that are trusted; only under `amqps:` |
/// | `tls_cert`, `tls_key` | none | PEM files of the client's certificate and key; only under `amqps:` |
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The URL as it may be shown.
    pub url: String,
    /// Host and port of each node.
    pub hosts: Vec<(String, u16)>,
    /// The user's name.
    pub user: String,
    /// The password. It must not reach a log, an error or `Debug`.
    pub password: String,
    /// The virtual host.
    pub vhost: String,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Authorities that are trusted.
    pub tls_ca: Option<PathBuf>,
    /// The client's certificate and key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// The longest one request waits for the server.
    pub timeout: Duration,
    /// Put before every name.
    pub prefix: String,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Config({})", self.url)
    }
}

impl Config {
    /// Reads a URL.
    ///
    /// # Errors
    /// `Config` for a missing host, an unknown option or a value out of range.
    pub fn from_url(url: &EngineUrl) -> Result<Self> {
        let tls = url.scheme() == "amqps";
        let mut options = url.options(SHARED);
        let path = |text: Option<&str>| text.map(PathBuf::from);
        let (cert, key) = (path(options.text("tls_cert")), path(options.text("tls_key")));
        let port = if tls { 5671 } else { 5672 };
        let vhost = match url.path().strip_prefix('/').unwrap_or(url.path()) {
            "" => "/",
            named => named,
        };
        let config = Self {
            url: url.to_string(),
            hosts: url.hosts().iter().map(|host| place(host, port)).collect::<Result<_>>()?,
            user: url.user().unwrap_or("guest").to_owned(),
            password: url.password().unwrap_or("guest").to_owned(),
            vhost: vhost.to_owned(),
            tls,
            tls_ca: path(options.text("tls_ca")),
            tls_identity: cert.clone().zip(key.clone()),
            timeout: options.duration("timeout", Duration::from_secs(10))?,
            prefix: options.text("prefix").unwrap_or_default().to_owned(),
        };
        options.finish()?;
        config.check(cert.is_some() || key.is_some())?;
        Ok(config)
    }

    fn check(&self, identity: bool) -> Result<()> {
        let wrong = |message: &str, help| Err(wrong(message, help));
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if self.hosts.is_empty() {
            return wrong("the URL names no server", "write amqp://host:5672");
        }
        if self.prefix.len() > MAX_PREFIX || !self.prefix.chars().all(plain) {
            let help = "use up to 64 ASCII letters, digits, '_', '-' or '.'";
            return wrong(&format!("prefix={}", self.prefix), help);
        }
        if identity && self.tls_identity.is_none() {
            return wrong("one of tls_cert and tls_key is missing", "give both, or neither");
        }
        if !self.tls && (identity || self.tls_ca.is_some()) {
            return wrong("certificates without TLS", "use the scheme amqps:");
        }
        if self.timeout.is_zero() {
            return wrong("timeout=0s", "use a longer one, such as 10s");
        }
        Ok(())
    }
}

fn wrong(message: &str, help: &str) -> Error {
    Error::new(Kind::Config, message).engine(NAME).help(help)
}

fn place(host: &str, port: u16) -> Result<(String, u16)> {
    match host.rsplit_once(':') {
        Some((host, number)) if !number.ends_with(']') => match number.parse() {
            Ok(number) => Ok((host.to_owned(), number)),
            Err(_) => Err(wrong(&format!("the port {number:?} of {host:?}"), "use a number up to 65535")),
        },
        _ => Ok((host.to_owned(), port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Config> {
        Config::from_url(&url.parse()?)
    }

    #[test]
    fn defaults_and_every_option() {
        let config = read("amqp://a,b:1").unwrap();
        assert_eq!(config.hosts, [("a".into(), 5672), ("b".into(), 1)]);
        assert_eq!((config.user.as_str(), config.vhost.as_str(), config.tls), ("guest", "/", false));
        assert_eq!((config.timeout, config.prefix.as_str()), (Duration::from_secs(10), ""));
        let config = read("amqps://me:s3cret@a/shop?timeout=2s&prefix=x-&tls_ca=/ca.pem").unwrap();
        assert_eq!((config.hosts[0].1, config.vhost.as_str(), config.tls), (5671, "shop", true));
        assert!(!format!("{config:?}").contains("s3cret"));
        assert_eq!(read("amqp://a/%2f").unwrap().vhost, "/");
    }

    #[test]
    fn mistakes_are_named() {
        for (url, part) in [
            ("amqp:", "names no server"),
            ("amqp://a:x", "\"x\""),
            ("amqp://a?heartbeat=1", "\"heartbeat\""),
            ("amqp://a?prefix=a/b", "prefix=a/b"),
            ("amqps://a?tls_cert=c", "tls_cert and tls_key"),
            ("amqp://a?tls_ca=c", "certificates without TLS"),
            ("amqp://a?timeout=0s", "timeout=0s"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{url}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
