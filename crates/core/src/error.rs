//! The one error of every capability and every engine.

use std::error::Error as StdError;
use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::Duration;

/// `Result` with Linchpin's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, from the caller's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The URL or the options are wrong: unknown scheme or key, a value out of range, an unwritable path.
    Config,
    /// An argument is wrong: an empty topic name, a message over the size limit.
    Invalid,
    /// This engine can't do this; its capabilities said so beforehand.
    Unsupported,
    /// The named thing doesn't exist.
    NotFound,
    /// The named thing exists already, and differs from what was asked for.
    AlreadyExists,
    /// Somebody else changed it first.
    Conflict,
    /// The caller no longer holds what it acts on: the delivery, lease or partition went to another.
    Fenced,
    /// The engine knows who is asking and says no.
    Denied,
    /// A quota, a rate or a full disk stands in the way.
    Limited,
    /// The deadline passed.
    Timeout,
    /// The engine can't be reached, or can't serve at the moment.
    Unavailable,
    /// The handle or the engine was closed.
    Closed,
    /// Stored data can't be read: not a database, damaged, or written by a newer version.
    Corrupt,
    /// None of the above: a bug here or in the engine.
    Unexpected,
}

/// Whether, and how, the failed call may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Trying again gives the same answer.
    Never,
    /// Proven not applied: anybody may try again, no sooner than `after`.
    Safe {
        /// The least time to wait.
        after: Duration,
    },
    /// May have been applied: only a caller whose call is idempotent tries again.
    Unknown,
    /// Was retried until the policy gave up: an outer retry doesn't start over.
    Exhausted,
}

/// What failed, where, why, whether to try again, and what would help.
///
/// `Display` is one line for logs; `Debug` is the full report over several lines. Neither ever holds a secret:
/// engines put redacted URLs and names into errors, never options.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    retry: Retry,
    op: &'static str,
    engine: &'static str,
    message: String,
    help: Option<String>,
    context: Vec<(&'static str, String)>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of this kind. The message names the offending value. Its [`Retry`] is `Unknown` for
    /// [`Kind::Timeout`] and [`Kind::Unavailable`] and `Never` for the rest, until [`Error::retry_as`] says otherwise.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        let retry = match kind {
            Kind::Timeout | Kind::Unavailable => Retry::Unknown,
            _ => Retry::Never,
        };
        Self(Box::new(Inner {
            kind,
            retry,
            op: "",
            engine: "",
            message: message.into(),
            help: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// Names the operation; the innermost name stays.
    pub fn op(mut self, op: &'static str) -> Self {
        if self.0.op.is_empty() {
            self.0.op = op;
        }
        self
    }

    /// Names the engine; the innermost name stays.
    pub fn engine(mut self, engine: &'static str) -> Self {
        if self.0.engine.is_empty() {
            self.0.engine = engine;
        }
        self
    }

    /// Says what the reader can do about it.
    pub fn help(mut self, remedy: impl Into<String>) -> Self {
        self.0.help = Some(remedy.into());
        self
    }

    /// Adds a fact: the topic, the group, the partition.
    pub fn with(mut self, key: &'static str, value: impl Display) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Sets whether the call may be made again.
    pub fn retry_as(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Keeps the driver's error.
    pub fn source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether the call may be made again.
    pub fn retry(&self) -> Retry {
        self.0.retry
    }

    /// The message alone, without operation, engine and remedy.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What the reader can do about it.
    pub fn remedy(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.0;
        match (e.engine, e.op) {
            ("", "") => {}
            (engine, "") => write!(f, "{engine}: ")?,
            ("", op) => write!(f, "{op}: ")?,
            (engine, op) => write!(f, "{engine} {op}: ")?,
        }
        f.write_str(&e.message)?;
        for (i, (key, value)) in e.context.iter().enumerate() {
            write!(f, "{}{key}={value}", if i == 0 { " (" } else { ", " })?;
        }
        if !e.context.is_empty() {
            f.write_str(")")?;
        }
        if let Some(source) = &e.source {
            write!(f, ": {source}")?;
        }
        if let Some(help) = &e.help {
            write!(f, "; {help}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.0;
        write!(f, "{:?}: {}", e.kind, e.message)?;
        for (name, value) in [("operation", e.op), ("engine", e.engine)] {
            if !value.is_empty() {
                write!(f, "\n  {name}: {value}")?;
            }
        }
        for (key, value) in &e.context {
            write!(f, "\n  {key}: {value}")?;
        }
        write!(f, "\n  retry: {:?}", e.retry)?;
        if let Some(help) = &e.help {
            write!(f, "\n  help: {help}")?;
        }
        if let Some(source) = &e.source {
            write!(f, "\n  cause: {source:?}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_and_names_value_and_remedy() {
        let error = Error::new(Kind::NotFound, "topic \"orders\" doesn't exist")
            .op("publish")
            .engine("sqlite")
            .with("partition", 3)
            .help("create it with `linchpin topic create`");
        assert_eq!(
            error.to_string(),
            "sqlite publish: topic \"orders\" doesn't exist (partition=3); create it with `linchpin topic create`"
        );
        assert_eq!(error.retry(), Retry::Never);
    }

    #[test]
    fn innermost_operation_stays_and_unreachable_means_unknown() {
        let error = Error::new(Kind::Unavailable, "gone").op("connect").op("publish");
        assert!(error.to_string().starts_with("connect: "));
        assert_eq!(error.retry(), Retry::Unknown);
    }
}
