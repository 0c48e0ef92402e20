//! What an examination of an engine found: `linchpin doctor` prints it.

use serde::Serialize;

use crate::Error;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Well,
    /// Works, but promises less, or may not work for long.
    Look,
    /// Doesn't work.
    Wrong,
}

/// One thing that was looked at, in a word and a sentence. A remedy is part of the sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `sync`, `space`, `clock`.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was seen.
    pub text: String,
}

impl Finding {
    /// As it should be.
    pub fn well(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, status: Status::Well, text: text.into() }
    }

    /// Worth a look.
    pub fn look(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, status: Status::Look, text: text.into() }
    }

    /// Wrong, as the error says.
    pub fn wrong(name: &'static str, error: &Error) -> Self {
        Self { name, status: Status::Wrong, text: error.to_string() }
    }
}
