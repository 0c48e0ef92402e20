//! The URL is the whole configuration: `scheme://user:password@host:port,host:port/path?key=value`.
//!
//! Parsed here rather than by a URL library because an authority may name several hosts and a scheme may carry
//! a plain file path (`sqlite:orders.db`, `sqlite::memory:`), which WHATWG URLs can't.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::{Error, Kind, Result};

/// Query keys whose value never prints, beside the password.
const SECRET_KEYS: &[&str] = &["password", "token", "secret", "key"];

/// A parsed engine URL. `Display` and `Debug` show secrets as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct EngineUrl {
    scheme: String,
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<String>,
    path: String,
    query: Vec<(String, String)>,
}

impl FromStr for EngineUrl {
    type Err = Error;

    /// # Errors
    /// [`Kind::Config`] if there is no scheme or something isn't valid percent-encoded UTF-8.
    fn from_str(text: &str) -> Result<Self> {
        let no_scheme = || {
            Error::new(Kind::Config, "the URL has no scheme")
                .help("write it as scheme://…, for example sqlite:///var/lib/shop.db or memory://")
        };
        let (scheme, rest) = text.split_once(':').ok_or_else(no_scheme)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if scheme.is_empty() || !scheme.chars().all(plain) {
            return Err(no_scheme());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let (userinfo, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(decode(password)?)),
            None => (userinfo, None),
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        });
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            user: if user.is_empty() { None } else { Some(decode(user)?) },
            password,
            hosts: hosts.split(',').filter(|h| !h.is_empty()).map(decode).collect::<Result<_>>()?,
            path: decode(path)?,
            query: pairs.collect::<Result<_>>()?,
        })
    }
}

fn decode(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|e| Error::new(Kind::Config, "the URL isn't valid UTF-8").source(e))?;
    Ok(decoded.into_owned())
}

impl EngineUrl {
    /// The scheme in lower case: `sqlite`, `memory`.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user name.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password. It must not reach a log, an error or `Debug`.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Every `host:port` of the authority, in order.
    pub fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// The path, with its leading slash if it has one.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Authority and path read as one file path: `sqlite:a.db`, `sqlite://a.db` → `a.db`, `sqlite:///a.db` → `/a.db`.
    pub fn file_path(&self) -> String {
        format!("{}{}", self.hosts.join(","), self.path)
    }

    /// Takes one key out of the query, for options that every engine of a capability shares.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let at = self.query.iter().position(|(k, _)| k == key)?;
        Some(self.query.remove(at).1)
    }

    /// Reads the query; `shared` names the keys that were taken before, for the error that lists the valid ones.
    pub fn options<'a>(&'a self, shared: &'a [&'a str]) -> Options<'a> {
        Options { url: self, valid: shared.to_vec() }
    }
}

impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if !self.path.starts_with(':') {
            f.write_str("//")?;
        }
        match (&self.user, &self.password) {
            (Some(user), Some(_)) => write!(f, "{user}:***@")?,
            (None, Some(_)) => f.write_str(":***@")?,
            (Some(user), None) => write!(f, "{user}@")?,
            (None, None) => {}
        }
        write!(f, "{}{}", self.hosts.join(","), self.path)?;
        for (i, (key, value)) in self.query.iter().enumerate() {
            let secret = SECRET_KEYS.iter().any(|s| key.to_ascii_lowercase().contains(s));
            let mark = if i == 0 { '?' } else { '&' };
            match value.parse::<Self>() {
                _ if secret => write!(f, "{mark}{key}=***")?,
                // A URL within the URL may have a password, too.
                Ok(inner) if value.contains("://") => write!(f, "{mark}{key}={inner}")?,
                _ => write!(f, "{mark}{key}={value}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads a URL's query key by key; [`Options::finish`] then refuses what nobody asked for.
///
/// ```
/// use std::time::Duration;
/// use linchpin_core::url::EngineUrl;
///
/// let url: EngineUrl = "sqlite:a.db?busy=2s&sync=of".parse()?;
/// let mut options = url.options(&[]);
/// assert_eq!(options.duration("busy", Duration::from_secs(5))?, Duration::from_secs(2));
/// let error = options.choice("sync", &[("full", 2), ("off", 0)], 2).unwrap_err();
/// assert!(error.to_string().contains("sync=of: expected one of full, off"));
/// # Ok::<(), linchpin_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Options<'a> {
    url: &'a EngineUrl,
    valid: Vec<&'a str>,
}

impl<'a> Options<'a> {
    fn raw(&mut self, key: &'a str) -> Option<&'a str> {
        self.valid.push(key);
        self.url.query.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    fn read<T>(
        &mut self,
        key: &'a str,
        default: T,
        what: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let Some(value) = self.raw(key) else { return Ok(default) };
        parse(value).ok_or_else(|| {
            Error::new(Kind::Config, format!("{key}={value}: expected {what}")).with("url", self.url)
        })
    }

    /// Text as it stands.
    pub fn text(&mut self, key: &'a str) -> Option<&'a str> {
        self.raw(key)
    }

    /// A duration with its unit: `250ms`, `30s`, `7d`.
    pub fn duration(&mut self, key: &'a str, default: Duration) -> Result<Duration> {
        self.read(key, default, "a duration such as 250ms, 30s or 7d", |v| humantime::parse_duration(v).ok())
    }

    /// A size in bytes, with or without a unit: `1048576`, `1MiB`.
    pub fn size(&mut self, key: &'a str, default: u64) -> Result<u64> {
        self.read(key, default, "a size such as 65536 or 1MiB", |v| {
            v.parse::<bytesize::ByteSize>().ok().map(|s| s.0)
        })
    }

    /// A whole number.
    pub fn number<T: FromStr>(&mut self, key: &'a str, default: T) -> Result<T> {
        self.read(key, default, "a whole number", |v| v.parse().ok())
    }

    /// `true` or `false`; the key alone means `true`.
    pub fn flag(&mut self, key: &'a str, default: bool) -> Result<bool> {
        self.read(key, default, "true or false", |v| if v.is_empty() { Some(true) } else { v.parse().ok() })
    }

    /// One of several words.
    pub fn choice<T: Copy>(&mut self, key: &'a str, words: &[(&str, T)], default: T) -> Result<T> {
        let names: Vec<_> = words.iter().map(|(name, _)| *name).collect();
        let what = format!("one of {}", names.join(", "));
        self.read(key, default, &what, |v| words.iter().find(|(name, _)| *name == v).map(|(_, value)| *value))
    }

    /// Call after the last key was read.
    ///
    /// # Errors
    /// [`Kind::Config`] that names the first key nobody read, and lists the valid ones.
    pub fn finish(self) -> Result<()> {
        let unknown = self.url.query.iter().find(|(key, _)| !self.valid.contains(&key.as_str()));
        let Some((key, _)) = unknown else { return Ok(()) };
        let help = match self.valid.as_slice() {
            [] => format!("{}: takes no options", self.url.scheme),
            valid => format!("valid options of {}: are {}", self.url.scheme, valid.join(", ")),
        };
        Err(Error::new(Kind::Config, format!("unknown option {key:?}")).with("url", self.url).help(help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> EngineUrl {
        text.parse().unwrap()
    }

    #[test]
    fn file_paths_in_every_spelling() {
        for (text, path) in [
            ("sqlite:a.db", "a.db"),
            ("sqlite://a.db?x=1", "a.db"),
            ("sqlite:///var/a%20b.db", "/var/a b.db"),
            ("sqlite::memory:", ":memory:"),
            ("sqlite://dir/a.db", "dir/a.db"),
        ] {
            assert_eq!(url(text).file_path(), path, "{text}");
        }
        assert_eq!(url("sqlite::memory:").to_string(), "sqlite::memory:");
    }

    #[test]
    fn several_hosts_and_secrets_redacted() {
        let u = url("kafka://me:s3cr%40t@a:1,b:2/x?sasl_password=hush&acks=all");
        assert_eq!(u.hosts(), ["a:1", "b:2"]);
        assert_eq!(u.password(), Some("s3cr@t"));
        for shown in [u.to_string(), format!("{u:?}")] {
            assert_eq!(shown, "kafka://me:***@a:1,b:2/x?sasl_password=***&acks=all");
        }
    }

    #[test]
    fn a_url_within_the_url_hides_its_password() {
        let u = url("snowflake://?coord=redis%3A%2F%2Fme%3As3cret%40h%2F0%3Fttl%3D5s&ttl=5s");
        assert_eq!(u.to_string(), "snowflake://?coord=redis://me:***@h/0?ttl=5s&ttl=5s");
    }

    #[test]
    fn unknown_key_lists_the_valid_ones() {
        let u = url("memory://x?a=1&b=2");
        let mut options = u.options(&["auto_create"]);
        assert_eq!(options.number("a", 0_u32).unwrap(), 1);
        let error = options.finish().unwrap_err().to_string();
        assert!(error.contains("\"b\"") && error.contains("auto_create, a"), "{error}");
    }

    #[test]
    fn values_are_named_when_wrong() {
        let u = url("memory://?d=soon&s=1MiB&f&n=-1");
        let mut options = u.options(&[]);
        assert!(options.duration("d", Duration::ZERO).unwrap_err().to_string().contains("d=soon"));
        assert_eq!(options.size("s", 0).unwrap(), 1 << 20);
        assert!(options.flag("f", false).unwrap());
        assert!(options.number("n", 1_u8).is_err());
        assert!("nonsense".parse::<EngineUrl>().is_err());
    }
}
