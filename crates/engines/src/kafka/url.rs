//! The options of a `kafka:` URL.

use std::time::Duration;

use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};

use super::NAME;

/// Option keys every bus engine shares; they are taken out of the URL before it gets here.
const SHARED: &[&str] = &["auto_create"];

/// Who must have a message before `publish` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Nobody: `publish` answers when it is sent, and without an offset. A lost connection loses messages silently.
    None,
    /// The partition's leader; what it didn't pass on yet dies with it.
    Leader,
    /// All replicas in step, each message once: the producer is idempotent.
    All,
}

/// How a user proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sasl {
    /// The password as it is: only over TLS, or where nobody listens.
    Plain,
    /// SCRAM-SHA-256; needs the cargo feature `kafka-tls`.
    ScramSha256,
    /// SCRAM-SHA-512; needs the cargo feature `kafka-tls`.
    ScramSha512,
}

/// What a `kafka:` URL says.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `timeout` | `10s` | the longest one request waits for the brokers, 1 s at least |
/// | `prefix` | none | put before the name of every topic and group, so that several buses share a cluster |
/// | `acks` | `all` | `none`, `leader` or `all`: see [`Acks`] |
/// | `compression` | `none` | `none`, `gzip`, `snappy`, `lz4` or `zstd` |
/// | `replicas` | the cluster's | replicas of the topics made here |
/// | `sasl` | `plain` with a user | `plain`, `scram-sha-256` or `scram-sha-512` |
/// | `tls` | `false` | TLS; needs the cargo feature `kafka-tls` |
/// | `tls_ca`, `tls_cert`, `tls_key` | the system's | files in PEM: who signs the brokers, our certificate, its key |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `host:port,host:port`.
    pub brokers: String,
    /// The URL as it may be shown.
    pub url: String,
    /// The longest one request waits.
    pub timeout: Duration,
    /// Put before names.
    pub prefix: String,
    /// See [`Acks`].
    pub acks: Acks,
    /// The codec's name in librdkafka.
    pub compression: &'static str,
    /// `None` leaves it to the cluster.
    pub replicas: Option<i32>,
    /// How to log in, if at all.
    pub login: Option<Login>,
    /// TLS, if any.
    pub tls: Option<Tls>,
}

/// A user. `Debug` doesn't show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
    /// How it is proven.
    pub sasl: Sasl,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({}:*** by {:?})", self.user, self.sasl)
    }
}

/// Files in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Who signs the brokers' certificates; `None`: those the system trusts.
    pub ca: Option<String>,
    /// Our certificate.
    pub cert: Option<String>,
    /// Its key.
    pub key: Option<String>,
}

impl Config {
    /// Reads a URL.
    ///
    /// # Errors
    /// `Config` for missing brokers, an unknown option, a value out of range, or TLS in a build without it.
    pub fn from_url(url: &EngineUrl) -> Result<Self> {
        Self::read(url).map_err(|e| e.engine(NAME))
    }

    fn read(url: &EngineUrl) -> Result<Self> {
        let mut options = url.options(SHARED);
        let second = Duration::from_secs(1);
        let codecs = ["none", "gzip", "snappy", "lz4", "zstd"].map(|name| (name, name));
        let acks = [("none", Acks::None), ("leader", Acks::Leader), ("all", Acks::All)];
        let replicas = options.number("replicas", 0_i16)?;
        let sasl = [
            ("plain", Sasl::Plain),
            ("scram-sha-256", Sasl::ScramSha256),
            ("scram-sha-512", Sasl::ScramSha512),
        ];
        let sasl = options.choice("sasl", &sasl, Sasl::Plain)?;
        let login = url.user().map(|user| Login {
            user: user.to_owned(),
            password: url.password().unwrap_or_default().to_owned(),
            sasl,
        });
        let config = Self {
            brokers: url.hosts().join(","),
            url: url.to_string(),
            timeout: options.duration("timeout", Duration::from_secs(10))?.max(second),
            prefix: options.text("prefix").unwrap_or_default().to_owned(),
            acks: options.choice("acks", &acks, Acks::All)?,
            compression: options.choice("compression", &codecs, "none")?,
            replicas: (replicas > 0).then_some(i32::from(replicas)),
            login,
            tls: {
                let mut file = |key| options.text(key).map(str::to_owned);
                let files = Tls { ca: file("tls_ca"), cert: file("tls_cert"), key: file("tls_key") };
                (options.flag("tls", files != Tls::default())?).then_some(files)
            },
        };
        options.finish()?;
        config.check(url)?;
        Ok(config)
    }

    fn check(&self, url: &EngineUrl) -> Result<()> {
        let wrong = |message: &str, help: &str| Err(Error::new(Kind::Config, message).help(help));
        if self.brokers.is_empty() {
            return wrong("the URL names no broker", "write kafka://host:9092,host:9092");
        }
        if !matches!(url.path(), "" | "/") {
            return wrong(
                "the URL has a path",
                "topics are named in calls; the option prefix sets buses apart",
            );
        }
        let fine = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.prefix.len() > 64 || !self.prefix.chars().all(fine) {
            return wrong("the prefix won't do", "use up to 64 ASCII letters, digits, '.', '_' or '-'");
        }
        let scram = self.login.as_ref().is_some_and(|login| login.sasl != Sasl::Plain);
        if !cfg!(feature = "kafka-tls") && (scram || self.tls.is_some()) {
            let what = if scram { "SCRAM" } else { "TLS" };
            return wrong(
                &format!("this build has no {what} for Kafka"),
                "build with the feature `kafka-tls`",
            );
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
        let config = read("kafka://a:1,b:2").unwrap();
        assert_eq!(
            (config.brokers.as_str(), config.acks, config.compression),
            ("a:1,b:2", Acks::All, "none")
        );
        assert_eq!((config.timeout, config.replicas), (Duration::from_secs(10), None));
        let config =
            read("kafka://u:p@a:1?acks=leader&compression=zstd&timeout=2s&prefix=x.&replicas=3").unwrap();
        assert_eq!((config.acks, config.compression, config.replicas), (Acks::Leader, "zstd", Some(3)));
        assert_eq!(config.login.as_ref().map(|l| l.sasl), Some(Sasl::Plain));
        assert!(!format!("{config:?}").contains("\"p\""));
    }

    #[test]
    fn mistakes_are_named() {
        for (url, part) in [
            ("kafka:", "names no broker"),
            ("kafka://a:1?ack=all", "acks"),
            ("kafka://a:1?acks=some", "acks=some"),
            ("kafka://a:1?compression=rar", "compression=rar"),
            ("kafka://a:1/topic", "path"),
            ("kafka://a:1?prefix=a/b", "prefix"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{url}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn what_needs_tls_names_the_feature() {
        for url in ["kafka://a:1?tls=true", "kafka://u:p@a:1?sasl=scram-sha-256"] {
            assert!(read(url).unwrap_err().to_string().contains("kafka-tls"), "{url}");
        }
    }
}
