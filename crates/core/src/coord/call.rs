//! Calls of the engine, each with a deadline.

use std::future::Future;
use std::time::Duration;

use crate::retry::Backoff;
use crate::{Error, Kind, Result, Retry};

/// How long one call of the engine may take. Engines keep shorter limits of their own.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// The wait between attempts.
pub(super) const BACKOFF: Backoff =
    Backoff { first: Duration::from_millis(50), max: Duration::from_secs(2), factor: 2.0, jitter: true };

/// The engine's answer, or `Timeout` with an unknown outcome after `limit`.
pub(super) async fn answer_within<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::new(Kind::Timeout, format!("no answer within {limit:?}"))),
    }
}

/// Whether the call may be made again by a caller to whom its having been applied already is fine.
pub(super) fn may_try_again(error: &Error) -> bool {
    matches!(error.retry(), Retry::Safe { .. } | Retry::Unknown)
}

/// Calls until there is an answer or an error that stays. Only for calls that may be applied twice, and inside
/// something with a deadline: it has none.
pub(super) async fn insist<T, F: Future<Output = Result<T>>>(mut call: impl FnMut() -> F) -> Result<T> {
    let mut pause = Pause::default();
    loop {
        match answer_within(LIMIT, call()).await {
            Err(error) if may_try_again(&error) => {
                tracing::debug!(%error, "trying again");
                pause.wait(Some(&error)).await;
            }
            answer => return answer,
        }
    }
}

/// Waits that grow.
#[derive(Debug, Default)]
pub(super) struct Pause {
    attempt: u32,
}

impl Pause {
    /// The next wait, no shorter than the error asks for.
    pub(super) async fn wait(&mut self, error: Option<&Error>) {
        tokio::time::sleep(self.next(error)).await;
    }

    /// How long the next wait is.
    pub(super) fn next(&mut self, error: Option<&Error>) -> Duration {
        self.attempt = self.attempt.saturating_add(1);
        let least = match error.map(Error::retry) {
            Some(Retry::Safe { after }) => after,
            _ => Duration::ZERO,
        };
        BACKOFF.delay(self.attempt, &mut fastrand::Rng::new()).max(least)
    }
}
