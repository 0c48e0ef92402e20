//! Retrying with exponential backoff and jitter.

use std::future::Future;
use std::time::Duration;

use crate::{Error, Result, Retry};

/// How long to wait before attempt *n*: exponential, capped, with equal jitter.
///
/// A pure function of the attempt number — written here rather than taken from a retry library, because a
/// message's attempts are counted in the engine and outlive any iterator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The wait after the first failure. Default 100 ms.
    pub first: Duration,
    /// The longest wait. Default 60 s.
    pub max: Duration,
    /// What each further failure multiplies the wait by. Default 2.
    pub factor: f64,
    /// Whether the wait is drawn from the upper half of its range, so that failures don't march in step. Default true.
    pub jitter: bool,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(60), factor: 2.0, jitter: true }
    }
}

impl Backoff {
    /// The same wait every time, without jitter.
    pub fn fixed(wait: Duration) -> Self {
        Self { first: wait, max: wait, factor: 1.0, jitter: false }
    }

    /// The wait after failure number `attempt`, counted from 1. With jitter it lies in `[w/2, w]`.
    pub fn delay(&self, attempt: u32, rng: &mut fastrand::Rng) -> Duration {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let wait = self.first.as_secs_f64() * self.factor.powi(exponent);
        let wait = wait.min(self.max.as_secs_f64());
        let wait = if self.jitter { wait * (0.5 + rng.f64() / 2.0) } else { wait };
        Duration::try_from_secs_f64(wait).unwrap_or(self.max)
    }
}

/// When to give up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// Attempts in all, the first included. Default 5.
    pub attempts: u32,
    /// The wait between them.
    pub backoff: Backoff,
    /// Whether the call is idempotent, so that an error of unknown outcome may be retried too. Default false.
    pub idempotent: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { attempts: 5, backoff: Backoff::default(), idempotent: false }
    }
}

impl Policy {
    /// The wait before the call that failed with `error` may be made again, or `None` to give up.
    pub fn wait(&self, error: &Error, attempt: u32, rng: &mut fastrand::Rng) -> Option<Duration> {
        let least = match error.retry() {
            Retry::Safe { after } => after,
            Retry::Unknown if self.idempotent => Duration::ZERO,
            _ => return None,
        };
        (attempt < self.attempts).then(|| self.backoff.delay(attempt, rng).max(least))
    }

    /// Calls until it succeeds, fails for good, or the attempts run out; then the error is [`Retry::Exhausted`].
    ///
    /// Cancel-safe if `call` is: dropping the future between attempts abandons nothing.
    pub async fn run<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut rng = fastrand::Rng::new();
        let mut attempt = 1;
        loop {
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match self.wait(&error, attempt, &mut rng) {
                Some(wait) => tokio::time::sleep(wait).await,
                None if attempt >= self.attempts && error.retry() != Retry::Never => {
                    return Err(error.retry_as(Retry::Exhausted).with("attempts", attempt));
                }
                None => return Err(error),
            }
            attempt += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn backoff_grows_to_its_cap_and_stays_in_the_upper_half() {
        let mut rng = fastrand::Rng::with_seed(7);
        let backoff = Backoff::default();
        for (attempt, full) in [(1, 100), (2, 200), (3, 400), (30, 60_000), (4_000_000_000, 60_000)] {
            let wait = backoff.delay(attempt, &mut rng).as_millis();
            assert!((full / 2..=full).contains(&wait), "attempt {attempt}: {wait} ms");
        }
    }

    async fn calls(policy: Policy, retry: Retry) -> (u32, Error) {
        let mut n = 0;
        let result: Result<()> = policy
            .run(|| {
                n += 1;
                std::future::ready(Err(Error::new(Kind::Unavailable, "down").retry_as(retry)))
            })
            .await;
        (n, result.unwrap_err())
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_safe_is_retried() {
        let safe = Retry::Safe { after: Duration::ZERO };
        let (n, error) = calls(Policy::default(), safe).await;
        assert_eq!((n, error.retry()), (5, Retry::Exhausted));
        assert_eq!(calls(Policy::default(), Retry::Unknown).await.0, 1);
        assert_eq!(calls(Policy { idempotent: true, ..Policy::default() }, Retry::Unknown).await.0, 5);
        assert_eq!(calls(Policy::default(), Retry::Exhausted).await.0, 1);
    }
}
