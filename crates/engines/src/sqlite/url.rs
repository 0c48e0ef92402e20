//! The options of a `sqlite:` URL.

use std::path::PathBuf;
use std::time::Duration;

use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};

use super::NAME;

/// Option keys every bus engine shares; they are taken out of the URL before it gets here.
const SHARED: &[&str] = &["auto_create"];

/// When a commit waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// At each commit: what was answered survives a loss of power.
    Full,
    /// At checkpoints: what was answered survives the death of the process; a loss of power may take the last commits.
    Normal,
    /// Never: a loss of power may damage the file.
    Off,
}

/// What a `sqlite:` URL says.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `sync` | `full` | `full`, `normal` or `off`: see [`Sync`] |
/// | `busy` | `5s` | how long to wait for another process's transaction before answering `Unavailable` |
/// | `poll` | `10ms` | how often to look for commits of other processes while somebody waits for messages; twice that after 5 s of quiet |
/// | `create` | `true` | whether a missing file is created |
/// | `max_size` | none | the size the file may grow to, at least 1 MiB; beyond it writes answer `Limited` |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file; `:memory:` for none.
    pub path: PathBuf,
    /// The URL as it may be shown.
    pub url: String,
    /// See [`Sync`].
    pub sync: Sync,
    /// How long to wait for the file's write lock.
    pub busy: Duration,
    /// How often to look for commits of other processes.
    pub poll: Duration,
    /// Whether a missing file is created.
    pub create: bool,
    /// The most bytes the file may have.
    pub max_size: Option<u64>,
}

impl Config {
    /// Reads a URL.
    ///
    /// # Errors
    /// `Config` for a missing path, an unknown option or a value out of range.
    pub fn from_url(url: &EngineUrl) -> Result<Self> {
        Self::read(url, SHARED)
    }

    /// The same; `shared` names the keys that were taken out of the URL before.
    pub(super) fn read(url: &EngineUrl, shared: &[&str]) -> Result<Self> {
        let mut options = url.options(shared);
        let words = [("full", Sync::Full), ("normal", Sync::Normal), ("off", Sync::Off)];
        let max_size = options.size("max_size", 0)?;
        let config = Self {
            path: PathBuf::from(url.file_path()),
            url: url.to_string(),
            sync: options.choice("sync", &words, Sync::Full)?,
            busy: options.duration("busy", Duration::from_secs(5))?,
            poll: options.duration("poll", Duration::from_millis(10))?.max(Duration::from_millis(1)),
            create: options.flag("create", true)?,
            max_size: (max_size > 0).then_some(max_size),
        };
        options.finish()?;
        let wrong = |message: String, help| Err(Error::new(Kind::Config, message).engine(NAME).help(help));
        if config.path.as_os_str().is_empty() {
            return wrong("the URL names no file".into(), "write sqlite:///path/file.db or sqlite::memory:");
        }
        if config.max_size.is_some_and(|size| size < 1 << 20) {
            return wrong(format!("max_size={max_size}"), "use 1MiB or more");
        }
        Ok(config)
    }

    /// Whether there is no file.
    pub fn in_memory(&self) -> bool {
        self.path.as_os_str() == ":memory:"
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
        let config = read("sqlite:///var/a.db").unwrap();
        assert_eq!((config.sync, config.busy, config.create), (Sync::Full, Duration::from_secs(5), true));
        assert!(!config.in_memory() && read("sqlite::memory:").unwrap().in_memory());
        let config = read("sqlite:a.db?sync=off&busy=1s&poll=2ms&create=false&max_size=2MiB").unwrap();
        assert_eq!((config.sync, config.poll), (Sync::Off, Duration::from_millis(2)));
        assert_eq!((config.create, config.max_size), (false, Some(2 << 20)));
    }

    #[test]
    fn mistakes_are_named() {
        for (url, part) in [
            ("sqlite:", "names no file"),
            ("sqlite:a.db?snyc=off", "auto_create, max_size, sync, busy, poll, create"),
            ("sqlite:a.db?sync=on", "sync=on"),
            ("sqlite:a.db?max_size=1", "max_size=1"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Config, "{url}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
