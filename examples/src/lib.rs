//! What the examples share: the bus they run on, and waiting for what comes.

use std::time::Duration;

use linchpin::{Bus, Error, Kind, Open, Result};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// Where an example runs.
#[derive(Debug)]
pub struct Place {
    /// The bus that the first argument names; without one, a SQLite file in the folder.
    pub bus: Bus,
    /// Its URL.
    pub url: String,
    /// Goes when the example ends.
    pub folder: TempDir,
}

impl Place {
    /// Opens the bus.
    ///
    /// # Errors
    /// What [`Open::open`] says.
    pub async fn open() -> Result<Self> {
        let folder = tempfile::tempdir()
            .map_err(|e| Error::new(Kind::Config, "can't make a temporary folder").source(e))?;
        let file = || format!("sqlite://{}", folder.path().join("bus.db").display());
        let url = std::env::args().nth(1).unwrap_or_else(file);
        Ok(Self { bus: Bus::open(&url).await?, url, folder })
    }
}

/// The next thing that a consumer tells the program.
///
/// # Errors
/// `Timeout` if nothing came for half a minute.
pub async fn next<T>(channel: &mut Receiver<T>) -> Result<T> {
    let next = timeout(Duration::from_secs(30), channel.recv()).await.ok().flatten();
    next.ok_or_else(|| {
        Error::new(Kind::Timeout, "nothing came for 30 seconds")
            .help("`linchpin topic stat URL TOPIC` shows where the messages are")
    })
}
