//! What the examples share: what they run on, and waiting for what comes.

use std::time::Duration;

use linchpin::{Bus, Coord, Error, Kind, Open, Result};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
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
        let (url, folder) = place("bus.db")?;
        Ok(Self { bus: Bus::open(&url).await?, url, folder })
    }
}

/// Where an example of coordination runs.
#[derive(Debug)]
pub struct Meeting {
    /// What the first argument names; without one, a SQLite file in the folder.
    pub coord: Coord,
    /// Its URL.
    pub url: String,
    /// Goes when the example ends.
    pub folder: TempDir,
}

impl Meeting {
    /// Opens it.
    ///
    /// # Errors
    /// What [`Open::open`] says.
    pub async fn open() -> Result<Self> {
        let (url, folder) = place("coord.db")?;
        Ok(Self { coord: Coord::open(&url).await?, url, folder })
    }

    /// Runs this program once more, with the URL and `words` as its arguments, and passes on what it prints; or `work` in
    /// this process, if no other can see what `url` names. It ends with the task.
    pub fn start(
        &self,
        words: &[&str],
        work: impl Future<Output = Result<()>> + Send + 'static,
    ) -> JoinHandle<Result<()>> {
        if !self.coord.caps().shared {
            return tokio::spawn(work);
        }
        let failed = |e| Error::new(Kind::Unexpected, "can't run another process").source(e);
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let url = self.url.clone();
        tokio::spawn(async move {
            let program = std::env::current_exe().map_err(failed)?;
            let status = Command::new(program).arg(url).args(words).kill_on_drop(true).status().await;
            let status = status.map_err(failed)?;
            let ended = status.success().then_some(());
            ended.ok_or_else(|| Error::new(Kind::Unexpected, format!("a process failed: {status}")))
        })
    }
}

/// What came of a task.
///
/// # Errors
/// Its own; `Unexpected` if it panicked.
pub async fn ended(task: JoinHandle<Result<()>>) -> Result<()> {
    task.await.map_err(|e| Error::new(Kind::Unexpected, "a task panicked").source(e))?
}

/// The first argument, or a file in a new folder.
fn place(file: &str) -> Result<(String, TempDir)> {
    let folder = tempfile::tempdir()
        .map_err(|e| Error::new(Kind::Config, "can't make a temporary folder").source(e))?;
    let file = || format!("sqlite://{}", folder.path().join(file).display());
    let url = std::env::args().nth(1).unwrap_or_else(file);
    Ok((url, folder))
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
