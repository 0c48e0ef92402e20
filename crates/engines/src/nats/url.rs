//! The options of a `nats:` URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};

use super::NAME;

/// Option keys every bus engine shares; they are taken out of the URL before it gets here.
const SHARED: &[&str] = &["auto_create"];

/// The longest prefix: what is left of a stream's name is for the topic.
const MAX_PREFIX: usize = 64;

/// What a `nats://user:password@host:4222,host:4222` or `nats+tls:` URL says.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `timeout` | `10s` | the longest one request waits for the server |
/// | `prefix` | empty | put before the name of every stream and subject: several buses on one account |
/// | `token` | none | authenticates instead of user and password |
/// | `creds` | none | path of a credentials file (JWT and seed), instead of user and password |
/// | `tls` | `false`; `true` under `nats+tls:` | whether the connection must be encrypted |
/// | `tls_ca` | the system's | path of the certificates that the server's is checked against |
/// | `tls_cert`, `tls_key` | none | paths of the client's certificate and key |
/// | `replicas` | `1` | copies of each stream that Linchpin creates, 1 to 5; a cluster wants 3 |
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// Every `host:port`.
    pub hosts: Vec<String>,
    /// The URL as it may be shown.
    pub url: String,
    /// The user's name and password.
    pub user: Option<(String, String)>,
    /// The token.
    pub token: Option<String>,
    /// The file of credentials.
    pub creds: Option<PathBuf>,
    /// Whether the connection must be encrypted.
    pub tls: bool,
    /// What the server's certificate is checked against.
    pub tls_ca: Option<PathBuf>,
    /// The client's certificate and key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// The longest one request waits for the server.
    pub timeout: Duration,
    /// Put before every name.
    pub prefix: String,
    /// Copies of each stream.
    pub replicas: usize,
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
        let mut options = url.options(SHARED);
        let path = |text: Option<&str>| text.map(PathBuf::from);
        let token = options.text("token").map(str::to_owned);
        let creds = path(options.text("creds"));
        let (cert, key) = (path(options.text("tls_cert")), path(options.text("tls_key")));
        let config = Self {
            hosts: url.hosts().to_vec(),
            url: url.to_string(),
            user: url.user().map(|user| (user.to_owned(), url.password().unwrap_or_default().to_owned())),
            token,
            creds,
            tls: options.flag("tls", url.scheme() == "nats+tls")?,
            tls_ca: path(options.text("tls_ca")),
            tls_identity: cert.clone().zip(key.clone()),
            timeout: options.duration("timeout", Duration::from_secs(10))?,
            prefix: options.text("prefix").unwrap_or_default().to_owned(),
            replicas: options.number("replicas", 1)?,
        };
        options.finish()?;
        config.check(cert.is_some() != key.is_some(), url.path())?;
        Ok(config)
    }

    fn check(&self, half_an_identity: bool, path: &str) -> Result<()> {
        let wrong = |message: String, help| Err(Error::new(Kind::Config, message).engine(NAME).help(help));
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        let ways = [self.user.is_some(), self.token.is_some(), self.creds.is_some()];
        if self.hosts.is_empty() {
            return wrong("the URL names no server".into(), "write nats://host:4222");
        }
        if !matches!(path, "" | "/") {
            return wrong(
                format!("the URL has the path {path:?}"),
                "NATS has none; use prefix= to keep buses apart",
            );
        }
        if self.prefix.len() > MAX_PREFIX || !self.prefix.chars().all(plain) {
            let help = "use up to 64 ASCII letters, digits, '_' or '-'";
            return wrong(format!("prefix={}", self.prefix), help);
        }
        if ways.iter().filter(|way| **way).count() > 1 {
            let help = "use one of user and password, token= and creds=";
            return wrong("the URL authenticates in more than one way".into(), help);
        }
        if half_an_identity {
            return wrong("one of tls_cert and tls_key is missing".into(), "give both, or neither");
        }
        if !(1..=5).contains(&self.replicas) {
            return wrong(format!("replicas={}", self.replicas), "use 1 to 5");
        }
        if self.timeout.is_zero() {
            return wrong("timeout=0s".into(), "use a longer one, such as 10s");
        }
        Ok(())
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
        let config = read("nats://a:1,b").unwrap();
        assert_eq!((config.hosts.len(), config.tls, config.replicas), (2, false, 1));
        assert_eq!((config.timeout, config.prefix.as_str()), (Duration::from_secs(10), ""));
        let config =
            read("nats+tls://me:s3cret@a?timeout=2s&prefix=shop-&replicas=3&tls_ca=/ca.pem").unwrap();
        assert_eq!(config.user, Some(("me".into(), "s3cret".into())));
        assert!(config.tls && config.tls_ca.is_some());
        assert_eq!((config.prefix.as_str(), config.replicas), ("shop-", 3));
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn mistakes_are_named() {
        for (url, part) in [
            ("nats:", "names no server"),
            ("nats://a/b", "\"/b\""),
            ("nats://a?acks=all", "\"acks\""),
            ("nats://a?prefix=a.b", "prefix=a.b"),
            ("nats://a?replicas=6", "replicas=6"),
            ("nats://u:p@a?token=t", "more than one way"),
            ("nats://a?tls_cert=c", "tls_cert and tls_key"),
            ("nats://a?timeout=0s", "timeout=0s"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{url}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
