//! The options of the URLs.

use std::path::PathBuf;
use std::time::Duration;

use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};

/// Option keys every bus engine shares; they are taken out of the URL before it gets here.
const SHARED: &[&str] = &["auto_create"];
const PORT: u16 = 6379;

/// What a `redis:`, `redis-cluster:`, `redis-list:` or `redis-pubsub:` URL says.
///
/// `redis://user:password@host:port/database`; the port is 6379 and the database 0 unless named. A cluster names some of
/// its nodes, separated by commas, and has no other database than 0.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `timeout` | `10s` | the longest one request waits for the server |
/// | `prefix` | none | put before every key and channel, with a colon: several buses share one server |
/// | `tls` | `false` | whether the connection is encrypted; `true` under the schemes that begin with `rediss` |
/// | `tls_ca` | the system's | a PEM file of the authorities that are trusted |
/// | `tls_cert`, `tls_key` | none | PEM files of the client's certificate and key |
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The URL as it may be shown.
    pub url: String,
    /// Host and port of the server, or of some nodes of the cluster.
    pub hosts: Vec<(String, u16)>,
    /// The user of the server's access list.
    pub user: Option<String>,
    /// The password. It must not reach a log, an error or `Debug`.
    pub password: Option<String>,
    /// The number of the database.
    pub database: i64,
    /// The longest one request waits for the server.
    pub timeout: Duration,
    /// Put before every key and channel.
    pub prefix: String,
    /// How the connection is encrypted, if it is.
    pub tls: Option<Tls>,
    /// Whether the hosts are nodes of a cluster.
    pub cluster: bool,
}

/// Files of an encrypted connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Authorities that are trusted.
    pub ca: Option<PathBuf>,
    /// The client's certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config({})", self.url)
    }
}

impl Config {
    /// Reads a URL.
    ///
    /// # Errors
    /// `Config` for an unknown option, a value out of range, or hosts and a database that don't go together.
    pub fn from_url(url: &EngineUrl) -> Result<Self> {
        Self::read(url, SHARED)
    }

    /// The same; `shared` names the keys that were taken out of the URL before.
    pub(super) fn read(url: &EngineUrl, shared: &[&str]) -> Result<Self> {
        let scheme = url.scheme();
        let cluster = scheme.ends_with("-cluster");
        let mut options = url.options(shared);
        let timeout = options.duration("timeout", Duration::from_secs(10))?;
        let prefix = options.text("prefix").unwrap_or_default().to_owned();
        let encrypted = options.flag("tls", scheme.starts_with("rediss"))?;
        let file = |text: Option<&str>| text.map(PathBuf::from);
        let ca = file(options.text("tls_ca"));
        let client = (file(options.text("tls_cert")), file(options.text("tls_key")));
        options.finish()?;
        let wrong = |message: &str, help: &str| wrong(url, message, help);
        let client = match client {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(wrong("tls_cert or tls_key alone", "name both, or neither")),
        };
        if !encrypted && (ca.is_some() || client.is_some()) {
            return Err(wrong("certificates without tls", "add tls=true, or use the scheme with rediss"));
        }
        if timeout.is_zero() {
            return Err(wrong("timeout=0s", "use 1ms or more"));
        }
        if prefix.contains(['{', '}']) {
            let message = format!("prefix={prefix}");
            return Err(wrong(&message, "use no braces: they choose the slot of a cluster"));
        }
        let (hosts, database) = place(url, cluster)?;
        Ok(Self {
            url: url.to_string(),
            hosts,
            user: url.user().map(str::to_owned),
            password: url.password().map(str::to_owned),
            database,
            timeout,
            prefix,
            tls: encrypted.then_some(Tls { ca, client }),
            cluster,
        })
    }
}

fn wrong(url: &EngineUrl, message: &str, help: &str) -> Error {
    Error::new(Kind::Config, message).with("url", url).help(help)
}

/// The hosts and the number of the database.
fn place(url: &EngineUrl, cluster: bool) -> Result<(Vec<(String, u16)>, i64)> {
    let wrong = |message: &str, help: &str| wrong(url, message, help);
    let database = url.path().trim_matches('/');
    let number = database.parse().ok().filter(|number| *number >= 0);
    let Some(database) = (if database.is_empty() { Some(0) } else { number }) else {
        let message = format!("the database {database:?}");
        return Err(wrong(&message, "write its number: redis://host:6379/0"));
    };
    let hosts = url.hosts().iter().map(|host| address(host)).collect::<Option<Vec<_>>>();
    let Some(hosts) = hosts.filter(|hosts| !hosts.is_empty()) else {
        return Err(wrong("the URL names no host", "write redis://host:6379"));
    };
    if hosts.len() > 1 && !cluster {
        let help = "a cluster is opened with redis-cluster://host:port,host:port";
        return Err(wrong("several hosts", help));
    }
    if database != 0 && cluster {
        return Err(wrong(&format!("database {database}"), "a cluster has only database 0"));
    }
    Ok((hosts, database))
}

fn address(text: &str) -> Option<(String, u16)> {
    let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => Some((bare(host), port.parse().ok()?)),
        _ => Some((bare(text), PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<Config> {
        Config::from_url(&url.parse()?)
    }

    #[test]
    fn every_part_is_read() {
        let config = read("rediss://me:s3cret@cache:7000/3?timeout=2s&prefix=shop").unwrap();
        assert_eq!(config.hosts, [("cache".to_owned(), 7000)]);
        assert_eq!((config.user.as_deref(), config.password.as_deref()), (Some("me"), Some("s3cret")));
        assert_eq!((config.database, config.timeout), (3, Duration::from_secs(2)));
        assert!(config.tls.is_some() && !config.cluster && config.prefix == "shop");
        assert!(!format!("{config:?}").contains("s3cret"));
        let config = read("redis-cluster://a:1,b,[::1]:2").unwrap();
        assert_eq!(config.hosts, [("a".to_owned(), 1), ("b".to_owned(), 6379), ("::1".to_owned(), 2)]);
        assert!(config.cluster && config.tls.is_none());
    }

    #[test]
    fn mistakes_are_named() {
        for (url, part) in [
            ("redis://", "names no host"),
            ("redis://a/x", "database \"x\""),
            ("redis://a,b", "several hosts"),
            ("redis-cluster://a/1", "only database 0"),
            ("redis://a?timout=1s", "timeout, prefix, tls, tls_ca, tls_cert, tls_key"),
            ("redis://a?tls_ca=x", "certificates without tls"),
            ("redis://a?tls=true&tls_key=x", "alone"),
            ("redis://a?prefix={x}", "braces"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{url}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
