//! The options of a `zookeeper:` URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};

use super::NAME;

/// Where keys are if the URL doesn't say.
const ROOT: &str = "/linchpin";
/// The longest root: it is part of every path.
const MAX_ROOT: usize = 256;
/// Where servers listen if the URL doesn't say.
const PORT: &str = "2181";

/// What a `zookeeper://user:password@host:2181,host:2181/apps/shop` or `zookeeper+tls:` URL says.
///
/// The path is the node under which everything is, `/linchpin` by default: several spaces of keys on the same servers.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `timeout` | `10s` | the longest one call waits for the servers |
/// | `tls` | `false`; `true` under `zookeeper+tls:` | whether the connection must be encrypted |
/// | `tls_ca` | the system's | path of the certificates that the server's is checked against |
/// | `tls_cert`, `tls_key` | none | paths of the client's certificate and key |
///
/// With a user and password (`digest`), what is made is accessible to that user alone; without, to everybody.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// Every `host:port`.
    pub hosts: Vec<String>,
    /// The URL as it may be shown.
    pub url: String,
    /// The user's name and password.
    pub user: Option<(String, String)>,
    /// The node under which everything is.
    pub root: String,
    /// Whether the connection must be encrypted.
    pub tls: bool,
    /// What the server's certificate is checked against.
    pub tls_ca: Option<PathBuf>,
    /// The client's certificate and key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// The longest one call waits for the servers.
    pub timeout: Duration,
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
        let root = url.path().trim_end_matches('/');
        let config = Self {
            hosts: url.hosts().iter().map(|host| with_port(host)).collect(),
            url: url.to_string(),
            user: url.user().map(|user| (user.to_owned(), url.password().unwrap_or_default().to_owned())),
            root: if root.is_empty() { ROOT.to_owned() } else { root.to_owned() },
            tls: options.flag("tls", url.scheme() == "zookeeper+tls")?,
            tls_ca: path(options.text("tls_ca")),
            tls_identity: cert.clone().zip(key.clone()),
            timeout: options.duration("timeout", Duration::from_secs(10))?,
        };
        options.finish()?;
        config.check(cert.is_some() != key.is_some())?;
        Ok(config)
    }

    fn check(&self, half_an_identity: bool) -> Result<()> {
        let wrong = |message: String, help| Err(Error::new(Kind::Config, message).engine(NAME).help(help));
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let proper = |name: &str| !matches!(name, "" | "." | "..") && name.chars().all(plain);
        if self.hosts.is_empty() {
            return wrong("the URL names no server".into(), "write zookeeper://host:2181");
        }
        let mut names = self.root.split('/').skip(1);
        if self.root.len() > MAX_ROOT || !names.all(proper) || self.root.starts_with("/zookeeper") {
            let help = "use names of ASCII letters, digits, '_', '-' and '.': /apps/shop; not /zookeeper, the servers' own";
            return wrong(format!("the URL has the path {:?}", self.root), help);
        }
        if half_an_identity {
            return wrong("one of tls_cert and tls_key is missing".into(), "give both, or neither");
        }
        if self.timeout < Duration::from_millis(100) {
            let given = format!("timeout={}ms", self.timeout.as_millis());
            return wrong(given, "use at least 100ms, such as 10s");
        }
        Ok(())
    }
}

fn with_port(host: &str) -> String {
    let port = host.rsplit_once(':').filter(|(_, port)| port.chars().all(|c| c.is_ascii_digit()));
    if port.is_some() { host.to_owned() } else { format!("{host}:{PORT}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Config> {
        Config::from_url(&url.parse()?)
    }

    #[test]
    fn defaults_and_every_option() {
        let config = read("zookeeper://a:1,b,[::1]").unwrap();
        assert_eq!(config.hosts, ["a:1", "b:2181", "[::1]:2181"]);
        assert_eq!((config.root.as_str(), config.tls), ("/linchpin", false));
        assert_eq!(config.timeout, Duration::from_secs(10));
        let config = read("zookeeper+tls://me:s3cret@a/apps/shop/?timeout=2s&tls_ca=/ca.pem").unwrap();
        assert_eq!(config.user, Some(("me".into(), "s3cret".into())));
        assert!(config.tls && config.tls_ca.is_some());
        assert_eq!((config.root.as_str(), config.timeout), ("/apps/shop", Duration::from_secs(2)));
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn mistakes_are_named() {
        for (url, part) in [
            ("zookeeper:", "names no server"),
            ("zookeeper://a/b//c", "\"/b//c\""),
            ("zookeeper://a/../c", "\"/../c\""),
            ("zookeeper://a/zookeeper/x", "\"/zookeeper/x\""),
            ("zookeeper://a?prefix=all", "\"prefix\""),
            ("zookeeper://a?tls_cert=c", "tls_cert and tls_key"),
            ("zookeeper://a?timeout=1ms", "timeout=1ms"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{url}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
