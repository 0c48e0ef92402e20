//! Who stores a snowflake's high-water mark ahead of what is issued, and keeps its worker number.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::layout::{Layout, NAME};
use super::mark::MarkFile;
use super::mint::Mint;
use super::snowflake::Board;
use super::worker::{Office, WorkerId, behind, is_lost};
use crate::time::SharedClock;
use crate::{Error, Kind, Result};

/// How far ahead of the clock the mark in a file is: after a crash, so long is waited for.
const AHEAD: Duration = Duration::from_secs(3);

/// Where the worker number and its mark come from.
#[derive(Debug)]
pub(super) enum Keeper {
    /// A fixed number without a memory.
    Nobody(u64),
    /// A fixed number with its mark in a file.
    File(PathBuf, u64),
    /// A leased number.
    Lease(Office),
}

/// One that has started.
#[derive(Debug)]
pub(super) enum Kept {
    File(Arc<MarkFile>),
    Lease(Box<WorkerId>, Office),
}

impl Keeper {
    /// Gets the number, and what issues ids with it.
    pub(super) async fn start(self, layout: Layout, clock: &SharedClock) -> Result<(Option<Kept>, Mint)> {
        match self {
            Self::Nobody(number) => {
                Ok((None, Mint::new(layout, number, None, Duration::ZERO, clock.clone())))
            }
            Self::File(path, number) => {
                let (file, mark) = blocking(move || MarkFile::open(&path, number)).await?;
                if let Some(mark) = mark {
                    wait_past(mark, clock).await?;
                }
                let mint = Mint::new(layout, number, mark, AHEAD / 2, clock.clone());
                let file = Arc::new(file);
                store(&file, &mint).await?;
                Ok((Some(Kept::File(file)), mint))
            }
            Self::Lease(office) => {
                let (worker, mint) = lease(&office, layout).await?;
                Ok((Some(Kept::Lease(Box::new(worker), office)), mint))
            }
        }
    }
}

/// After a crash the mark is ahead of the last id, and so of the clock.
async fn wait_past(mark: i64, clock: &SharedClock) -> Result<()> {
    let by = u64::try_from(mark.saturating_sub(clock.now().as_millisecond())).unwrap_or(0);
    let by = Duration::from_millis(by);
    if by > AHEAD {
        return Err(behind(by, "the last ids of the state file").op("open"));
    }
    sleep(by).await;
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let lost = |e| Error::new(Kind::Unexpected, "a blocking task was lost").engine(NAME).source(e);
    spawn_blocking(work).await.map_err(lost)?
}

/// The time that ids may have from now on: ahead of the clock and of what was issued. Never less than what is allowed
/// already, for somebody may be about to use that.
fn ahead(mint: &Mint, by: Duration) -> i64 {
    let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    let now = mint.now().max(mint.last().unwrap_or(i64::MIN)).saturating_add(by);
    now.max(mint.limit().unwrap_or(i64::MIN))
}

async fn store(file: &Arc<MarkFile>, mint: &Mint) -> Result<()> {
    let (file, mark) = (file.clone(), ahead(mint, AHEAD));
    blocking(move || file.store(mark)).await?;
    mint.extend(mark, None);
    Ok(())
}

async fn lease(office: &Office, layout: Layout) -> Result<(WorkerId, Mint)> {
    let (mut worker, mark) = office.claim().await?;
    // The number is renewed long before the limit anyway.
    let mint = Mint::new(layout, worker.number, mark, Duration::ZERO, office.clock.clone());
    match renew(&mut worker, &mint, office).await {
        Ok(()) => Ok((worker, mint)),
        Err(e) => {
            worker.release(None).await;
            Err(e.engine(NAME).op("lease a worker number"))
        }
    }
}

async fn renew(worker: &mut WorkerId, mint: &Mint, office: &Office) -> Result<()> {
    let mark = ahead(mint, office.ttl);
    let deadline = worker.renew(mark).await?;
    mint.extend(mark, Some(deadline));
    Ok(())
}

/// Keeps it until it is told to stop, or nobody is left to tell.
pub(super) fn keep(kept: Kept, board: Arc<Board>) -> mpsc::Sender<oneshot::Sender<()>> {
    let (stop, stopped) = mpsc::channel(1);
    tokio::spawn(async move {
        match kept {
            Kept::File(file) => keep_file(file, board, stopped).await,
            Kept::Lease(worker, office) => keep_lease(*worker, office, board, stopped).await,
        }
    });
    stop
}

type Stopped = mpsc::Receiver<oneshot::Sender<()>>;

fn done(mut stopped: Stopped, answer: Option<oneshot::Sender<()>>) {
    stopped.close();
    if let Some(answer) = answer {
        let _gone = answer.send(());
    }
}

async fn keep_file(file: Arc<MarkFile>, board: Arc<Board>, mut stopped: Stopped) {
    let answer = loop {
        tokio::select! {
            answer = stopped.recv() => break answer,
            () = board.wanted.notified() => {
                let outcome = store(&file, &board.mint.load_full()).await;
                board.news.send_replace(outcome.err());
            }
        }
    };
    // Nothing issued leaves nothing behind.
    let last = board.mint.load().end().unwrap_or(0);
    if let Err(error) = blocking(move || file.store(last)).await {
        tracing::warn!(%error, "the mark stays ahead of the last id: the next start waits for it");
    }
    done(stopped, answer);
}

async fn keep_lease(worker: WorkerId, office: Office, board: Arc<Board>, mut stopped: Stopped) {
    let (usual, soon) = (office.ttl / 3, office.ttl / 20);
    let mut held = Some(worker);
    let mut pause = usual;
    let answer = loop {
        tokio::select! {
            answer = stopped.recv() => break answer,
            () = board.wanted.notified() => {}
            () = sleep(pause) => {}
        }
        let outcome = again(&mut held, &office, &board).await;
        pause = if outcome.is_ok() { usual } else { soon };
        if let Err(error) = &outcome {
            tracing::warn!(%error, "the worker number isn't safe");
            // Whoever waits for a later limit asks in a loop.
            sleep(soon.min(Duration::from_millis(50))).await;
        }
        board.news.send_replace(outcome.err());
    };
    let last = board.mint.load().end();
    if let Some(worker) = held {
        worker.release(Some(last.unwrap_or(0))).await;
    }
    // Who closes the ids is told once nothing of them holds the engine open.
    drop(office);
    done(stopped, answer);
}

/// Renews the number; takes another if it is lost.
async fn again(held: &mut Option<WorkerId>, office: &Office, board: &Board) -> Result<()> {
    let mint = board.mint.load_full();
    if let Some(worker) = held {
        match renew(worker, &mint, office).await {
            Err(error) if is_lost(&error) => {
                mint.end();
                if let Some(worker) = held.take() {
                    worker.release(None).await;
                }
                return Err(error);
            }
            outcome => return outcome,
        }
    }
    let (worker, mint) = lease(office, mint.layout).await?;
    *held = Some(worker);
    board.mint.store(Arc::new(mint));
    Ok(())
}
