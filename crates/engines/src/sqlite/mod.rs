//! SQLite: everything in one file, shared by any number of processes on one machine. The embedded default.

mod connect;
mod error;
mod sink;
mod url;

pub use self::sink::SqliteSink;
pub use self::url::{Config, Sync};

/// The engine's name in errors and in the matrix.
pub const NAME: &str = "sqlite";
