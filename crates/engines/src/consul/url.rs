//! The options of a `consul:` URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};

use super::NAME;

const PORT: u16 = 8500;
const TLS_PORT: u16 = 8501;
/// The longest prefix, in bytes: it counts as part of the key, of which Consul takes 512.
const MAX_PREFIX: usize = 128;

/// What a `consul://host:8500,host:8500` or `consul+tls:` URL says; the port is 8500, or 8501 under TLS, unless named.
/// A password, without a user, is the token: `consul://:token@host`.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `timeout` | `10s` | the longest one request waits, all agents together |
/// | `prefix` | empty | put before every key as it stands: several spaces in one datacenter; `shop/` |
/// | `token` | none | the ACL token |
/// | `tls` | `false`; `true` under `consul+tls:` | whether connections are encrypted |
/// | `tls_ca` | the system's | path of the certificates that the agents' are checked against |
/// | `tls_cert`, `tls_key` | none | paths of the client's certificate and key |
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// Every `host:port`.
    pub hosts: Vec<String>,
    /// The URL as it may be shown.
    pub url: String,
    /// The ACL token. It must not reach a log, an error or `Debug`.
    pub token: Option<String>,
    /// The longest one request waits.
    pub timeout: Duration,
    /// Put before every key.
    pub prefix: String,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// What the agents' certificates are checked against.
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
        let token = options.text("token");
        let tls = options.flag("tls", url.scheme() == "consul+tls")?;
        let config = Self {
            hosts: url.hosts().iter().map(|host| with_port(host, tls)).collect(),
            url: url.to_string(),
            token: token.or(url.password()).map(str::to_owned),
            timeout: options.duration("timeout", Duration::from_secs(10))?,
            prefix: options.text("prefix").unwrap_or_default().to_owned(),
            tls,
            tls_ca: path(options.text("tls_ca")),
            tls_identity: cert.clone().zip(key.clone()),
        };
        let two_tokens = token.is_some() && url.password().is_some();
        options.finish()?;
        config.check(url, two_tokens)?;
        config.check_files(cert.is_some(), key.is_some())?;
        Ok(config)
    }

    fn check(&self, url: &EngineUrl, two_tokens: bool) -> Result<()> {
        if self.hosts.is_empty() {
            return wrong("the URL names no server".into(), "write consul://host:8500");
        }
        if !matches!(url.path(), "" | "/") {
            let help = "Consul has none; use prefix= to keep spaces apart";
            return wrong(format!("the URL has the path {:?}", url.path()), help);
        }
        if url.user().is_some() || two_tokens {
            return wrong("the URL authenticates in more than one way".into(), "use token= alone");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || ",-_./".contains(c);
        let slashes = self.prefix.starts_with('/') || self.prefix.contains("//");
        if self.prefix.len() > MAX_PREFIX || slashes || !self.prefix.chars().all(plain) {
            let help = "use up to 128 ASCII letters, digits, ',', '-', '_', '.' and '/', such as shop/";
            return wrong(format!("prefix={:?}", self.prefix), help);
        }
        if self.token.as_ref().is_some_and(|token| !token.chars().all(|c| c.is_ascii_graphic())) {
            return wrong(
                "the token has a character that tokens don't have".into(),
                "check token= of the URL",
            );
        }
        Ok(())
    }

    fn check_files(&self, cert: bool, key: bool) -> Result<()> {
        if cert != key {
            return wrong("one of tls_cert and tls_key is missing".into(), "give both, or neither");
        }
        if !self.tls && (cert || self.tls_ca.is_some()) {
            return wrong(
                "the URL has certificates without TLS".into(),
                "write consul+tls://, or add tls=true",
            );
        }
        if self.timeout.is_zero() {
            return wrong("timeout=0s".into(), "use a longer one, such as 10s");
        }
        Ok(())
    }
}

fn wrong(message: String, help: &str) -> Result<()> {
    Err(Error::new(Kind::Config, message).engine(NAME).help(help))
}

/// `host`, `host:port`, `[::1]`, `[::1]:port`.
fn with_port(host: &str, tls: bool) -> String {
    let port = host.rsplit_once(':').map(|(_, port)| port);
    match port.is_some_and(|port| port.parse::<u16>().is_ok()) {
        true => host.to_owned(),
        false => format!("{host}:{}", if tls { TLS_PORT } else { PORT }),
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
        let config = read("consul://a:1,b").unwrap();
        assert_eq!(config.hosts, ["a:1", "b:8500"]);
        assert_eq!(
            (config.timeout, config.prefix.as_str(), config.tls),
            (Duration::from_secs(10), "", false)
        );
        let config = read("consul+tls://a?token=s3cret&timeout=2s&prefix=shop/&tls_ca=/ca").unwrap();
        assert_eq!((config.hosts[0].as_str(), config.token.as_deref()), ("a:8501", Some("s3cret")));
        assert!(config.tls && config.tls_ca.is_some() && !format!("{config:?}").contains("s3cret"));
        let config = read("consul://:s3cret@a").unwrap();
        assert!(config.token.as_deref() == Some("s3cret") && !config.url.contains("s3cret"));
    }

    #[test]
    fn mistakes_are_named() {
        for (url, part) in [
            ("consul:", "names no server"),
            ("consul://a/b", "\"/b\""),
            ("consul://a?dc=b", "\"dc\""),
            ("consul://a?prefix=/a", "prefix="),
            ("consul://a?prefix=%C3%A9", "prefix="),
            ("consul://me:s3cret@a", "more than one way"),
            ("consul://:s3cret@a?token=s3cret", "more than one way"),
            ("consul://a?token=a%0Ab", "the token"),
            ("consul+tls://a?tls_cert=c", "tls_cert and tls_key"),
            ("consul://a?tls_ca=c", "without TLS"),
            ("consul://a?timeout=0s", "timeout=0s"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{url}");
            assert!(error.to_string().contains(part) && !error.to_string().contains("s3cret"), "{error}");
        }
    }
}
