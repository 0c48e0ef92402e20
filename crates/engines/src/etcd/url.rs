//! The options of an `etcd:` URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};

use super::NAME;

const PORT: u16 = 2379;
/// The longest prefix, in bytes.
const MAX_PREFIX: usize = 256;

/// What an `etcd://user:password@host:2379,host:2379` or `etcd+tls:` URL says; the port is 2379 unless named.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `timeout` | `5s` | the longest one request waits, all endpoints together |
/// | `prefix` | empty | put before every key as it stands: several spaces in one cluster; `shop/` |
/// | `tls` | `false`; `true` under `etcd+tls:` | whether connections are encrypted |
/// | `tls_ca` | the system's | path of the certificates that the servers' are checked against |
/// | `tls_cert`, `tls_key` | none | paths of the client's certificate and key |
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// Every `host:port`.
    pub hosts: Vec<String>,
    /// The URL as it may be shown.
    pub url: String,
    /// The user's name and password.
    pub user: Option<(String, String)>,
    /// The longest one request waits.
    pub timeout: Duration,
    /// Put before every key.
    pub prefix: String,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// What the servers' certificates are checked against.
    pub tls_ca: Option<PathBuf>,
    /// The client's certificate and key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
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
        let mut options = url.options(&[]);
        let path = |text: Option<&str>| text.map(PathBuf::from);
        let (cert, key) = (path(options.text("tls_cert")), path(options.text("tls_key")));
        let config = Self {
            hosts: url.hosts().iter().map(|host| with_port(host)).collect(),
            url: url.to_string(),
            user: url
                .user()
                .zip(url.password())
                .map(|(user, password)| (user.to_owned(), password.to_owned())),
            timeout: options.duration("timeout", Duration::from_secs(5))?,
            prefix: options.text("prefix").unwrap_or_default().to_owned(),
            tls: options.flag("tls", url.scheme() == "etcd+tls")?,
            tls_ca: path(options.text("tls_ca")),
            tls_identity: cert.clone().zip(key.clone()),
        };
        options.finish()?;
        config.check(url, cert.is_some(), key.is_some())?;
        Ok(config)
    }

    fn check(&self, url: &EngineUrl, cert: bool, key: bool) -> Result<()> {
        let wrong =
            |message: String, help: &str| Err(Error::new(Kind::Config, message).engine(NAME).help(help));
        if self.hosts.is_empty() {
            return wrong("the URL names no server".into(), "write etcd://host:2379");
        }
        if !matches!(url.path(), "" | "/") {
            let help = "etcd has none; use prefix= to keep spaces apart";
            return wrong(format!("the URL has the path {:?}", url.path()), help);
        }
        if url.user().is_some() != url.password().is_some() {
            return wrong("the URL has one of user and password".into(), "write user:password@, or neither");
        }
        if self.prefix.len() > MAX_PREFIX || self.prefix.chars().any(char::is_control) {
            return wrong(
                format!("prefix={:?}", self.prefix),
                "use up to 256 bytes without control characters",
            );
        }
        if cert != key {
            return wrong("one of tls_cert and tls_key is missing".into(), "give both, or neither");
        }
        if !self.tls && (cert || self.tls_ca.is_some()) {
            return wrong(
                "the URL has certificates without TLS".into(),
                "write etcd+tls://, or add tls=true",
            );
        }
        if self.timeout.is_zero() {
            return wrong("timeout=0s".into(), "use a longer one, such as 5s");
        }
        Ok(())
    }
}

/// `host`, `host:port`, `[::1]`, `[::1]:port`.
fn with_port(host: &str) -> String {
    let port = host.rsplit_once(':').map(|(_, port)| port);
    if port.is_some_and(|port| port.parse::<u16>().is_ok()) {
        host.to_owned()
    } else {
        format!("{host}:{PORT}")
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
        let config = read("etcd://a:1,b,[::1]").unwrap();
        assert_eq!(config.hosts, ["a:1", "b:2379", "[::1]:2379"]);
        assert_eq!((config.timeout, config.prefix.as_str(), config.tls), (Duration::from_secs(5), "", false));
        let config =
            read("etcd+tls://me:s3cret@a?timeout=2s&prefix=shop/&tls_ca=/ca&tls_cert=c&tls_key=k").unwrap();
        assert_eq!(config.user, Some(("me".into(), "s3cret".into())));
        assert!(config.tls && config.tls_ca.is_some() && config.tls_identity.is_some());
        assert_eq!(config.prefix, "shop/");
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn mistakes_are_named() {
        for (url, part) in [
            ("etcd:", "names no server"),
            ("etcd://a/b", "\"/b\""),
            ("etcd://a?endpoints=b", "\"endpoints\""),
            ("etcd://a?prefix=a%0Ab", "prefix="),
            ("etcd://me@a", "one of user and password"),
            ("etcd+tls://a?tls_cert=c", "tls_cert and tls_key"),
            ("etcd://a?tls_ca=c", "without TLS"),
            ("etcd://a?timeout=0s", "timeout=0s"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{url}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
