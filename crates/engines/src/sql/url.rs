//! The options of `postgres://` and `mysql://` URLs.

use std::path::PathBuf;
use std::time::Duration;

use linchpin_core::bus::check_name;
use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};

use super::dialect::Dialect;

/// Option keys every bus engine shares; they are taken out of the URL before it gets here.
const SHARED: &[&str] = &["auto_create"];
/// Connections an engine can't do without: to publish, to settle, to claim, to read.
const LEAST_POOL: usize = 4;
/// The longest prefix.
const MAX_PREFIX: usize = 100;

/// What a URL says: `postgres://user:password@host:port/database?options`, `mysql://…` alike.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `timeout` | `10s` | the longest one request waits for the server, at least 100 ms |
/// | `prefix` | empty | put before every topic's name and every key stored, so that several share a database |
/// | `schema` | `public` | PostgreSQL: the schema of the tables, created if missing |
/// | `pool` | `8` | the most connections at once, 4 to 1,000; PostgreSQL takes one more to listen |
/// | `poll` | `500ms` PostgreSQL, `25ms` MySQL | how often to look for commits of other processes while somebody waits |
/// | `tls` | `false` | whether the connection is encrypted and the server's name checked |
/// | `tls_ca`, `tls_cert`, `tls_key` | none | PEM files: who vouches for the server; the client's certificate and key |
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    pub(super) dialect: Dialect,
    /// The URL as it may be shown.
    pub(super) url: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: String,
    pub(super) database: String,
    pub(super) schema: String,
    pub(super) prefix: String,
    pub(super) timeout: Duration,
    pub(super) pool: usize,
    pub(super) poll: Duration,
    pub(super) tls: bool,
    pub(super) tls_ca: Option<PathBuf>,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads a URL.
    ///
    /// # Errors
    /// `Config` for a URL without host or database, an unknown option or a value out of range.
    pub fn from_url(url: &EngineUrl) -> Result<Self> {
        Self::read(url, SHARED)
    }

    /// The same; `shared` names the keys that were taken out of the URL before.
    pub(super) fn read(url: &EngineUrl, shared: &[&str]) -> Result<Self> {
        let dialect = if url.scheme().starts_with("mysql") { Dialect::MySql } else { Dialect::Postgres };
        let mut options = url.options(shared);
        let poll = if dialect == Dialect::MySql { 25 } else { 500 };
        let mut path = |key| options.text(key).map(PathBuf::from);
        let (tls_ca, tls_cert, tls_key) = (path("tls_ca"), path("tls_cert"), path("tls_key"));
        let (host, port) = address(url, dialect)?;
        let schema = if dialect == Dialect::Postgres { options.text("schema") } else { None };
        let config = Self {
            dialect,
            url: url.to_string(),
            host,
            port,
            user: url
                .user()
                .unwrap_or(if dialect == Dialect::MySql { "root" } else { "postgres" })
                .to_owned(),
            password: url.password().unwrap_or_default().to_owned(),
            database: url.path().trim_start_matches('/').to_owned(),
            schema: schema.unwrap_or("public").to_owned(),
            prefix: options.text("prefix").unwrap_or_default().to_owned(),
            timeout: options.duration("timeout", Duration::from_secs(10))?,
            pool: options.number("pool", 8)?,
            poll: options.duration("poll", Duration::from_millis(poll))?,
            tls: options.flag("tls", false)?,
            tls_ca,
            tls_cert,
            tls_key,
        };
        options.finish()?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let name = self.dialect.name();
        let wrong = |message: String, help: String| {
            Err(Error::new(Kind::Config, message).engine(name).help(help).with("url", &self.url))
        };
        if self.database.is_empty() || self.database.contains('/') {
            let help = format!("write {name}://user:password@host:{}/database", self.dialect.port());
            return wrong("the URL names no database".into(), help);
        }
        if self.timeout < Duration::from_millis(100) {
            return wrong(format!("timeout={:?}", self.timeout), "use 100ms or more".into());
        }
        if !(LEAST_POOL..=1000).contains(&self.pool) {
            return wrong(format!("pool={}", self.pool), format!("use {LEAST_POOL} to 1000"));
        }
        if self.poll < Duration::from_millis(1) {
            return wrong(format!("poll={:?}", self.poll), "use 1ms or more".into());
        }
        if self.schema.is_empty() || self.schema.len() > 63 {
            return wrong(format!("schema={}", self.schema), "use 1 to 63 bytes".into());
        }
        let prefix = self.prefix.as_str();
        if !prefix.is_empty() && (prefix.len() > MAX_PREFIX || check_name("prefix", prefix).is_err()) {
            let help = format!("use up to {MAX_PREFIX} ASCII letters, digits, '.', '_' or '-'");
            return wrong(format!("prefix={prefix}"), help);
        }
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return wrong("tls_cert and tls_key go together".into(), "name both, or none".into());
        }
        if !self.tls && (self.tls_ca.is_some() || self.tls_cert.is_some()) {
            return wrong("tls_ca, tls_cert and tls_key need tls=true".into(), "add tls=true".into());
        }
        Ok(())
    }
}

fn address(url: &EngineUrl, dialect: Dialect) -> Result<(String, u16)> {
    let wrong = |message: &str| {
        let help = format!("write {}://user:password@host:{}/database", dialect.name(), dialect.port());
        Error::new(Kind::Config, message).engine(dialect.name()).with("url", url).help(help)
    };
    let [host] = url.hosts() else { return Err(wrong("the URL must name one host")) };
    // A colon within the brackets of an IPv6 address isn't the port's.
    match host.rsplit_once(':').filter(|(name, _)| !name.starts_with('[') || name.ends_with(']')) {
        Some((name, port)) => {
            Ok((name.to_owned(), port.parse().map_err(|_| wrong("the port isn't a number from 1 to 65535"))?))
        }
        None => Ok((host.clone(), dialect.port())),
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
        let config = read("postgresql://ada:s3cret@db.example/shop").unwrap();
        assert_eq!((config.dialect, config.port, config.pool), (Dialect::Postgres, 5432, 8));
        assert_eq!((config.schema.as_str(), config.poll), ("public", Duration::from_millis(500)));
        assert!(!format!("{config:?}").contains("s3cret"));
        let config =
            read("mysql://[::1]:3307/shop?timeout=2s&prefix=a-&pool=4&poll=5ms&tls=true&tls_ca=/ca.pem");
        let config = config.unwrap();
        assert_eq!((config.host.as_str(), config.port, config.user.as_str()), ("[::1]", 3307, "root"));
        assert_eq!((config.prefix.as_str(), config.pool, config.tls), ("a-", 4, true));
    }

    #[test]
    fn mistakes_are_named() {
        for (url, part) in [
            ("postgres://", "one host"),
            ("postgres://h", "names no database"),
            ("postgres://a,b/shop", "one host"),
            ("postgres://h:x/shop", "port"),
            ("mysql://h/shop?schema=x", "schema"),
            ("mysql://h/shop?pool=1", "pool=1"),
            ("mysql://h/shop?prefix=a%20b", "prefix=a b"),
            ("mysql://h/shop?tls_ca=/x", "tls=true"),
            ("postgres://h/shop?tls=true&tls_cert=/x", "go together"),
            ("postgres://h/shop?timeout=1ms", "timeout"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{url}");
            assert!(error.to_string().contains(part), "{url}: {error}");
        }
    }
}
