//! What went wrong with a server.

use std::fmt;
use std::io;

/// The result of something done to a server.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the engine, what was awaited, why it didn't come, and the last lines of the server's log.
#[derive(Debug)]
pub struct Error {
    engine: String,
    what: String,
    log: String,
    source: Option<io::Error>,
}

impl Error {
    /// `what` is a sentence without the engine's name: `doesn't answer on port 20001 after 10s`.
    pub fn new(engine: impl Into<String>, what: impl Into<String>) -> Error {
        Error { engine: engine.into(), what: what.into(), log: String::new(), source: None }
    }

    /// Because of what the operating system said.
    pub(crate) fn io(engine: &str, what: impl Into<String>, source: io::Error) -> Error {
        Error { source: Some(source), ..Error::new(engine, what) }
    }

    pub(crate) fn log(mut self, tail: String) -> Error {
        self.log = tail;
        self
    }

    /// The server found its port taken: another one is worth a try.
    pub(crate) fn is_port_clash(&self) -> bool {
        let log = self.log.to_lowercase();
        ["address already in use", "eaddrinuse", "address in use"].iter().any(|words| log.contains(words))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.engine, self.what)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if !self.log.is_empty() {
            write!(f, "\n--- the end of its log\n{}\n---", self.log.trim_end())?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
