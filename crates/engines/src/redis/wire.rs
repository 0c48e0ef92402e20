//! The connection to a single server, made anew when it breaks.
//!
//! By hand, because the driver's own manager hands a new connection to the calls that wait for it in any order: what is
//! published in order must stay so.

use std::time::Duration;

use futures_util::poll;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult};
use tokio::sync::Mutex;
use tokio::time::sleep;

/// The pause before a server that can't be reached is tried once more.
const AGAIN: Duration = Duration::from_millis(100);

/// Invariant: commands reach the server in the order in which their [`Wire::send`] was first polled, or fail.
pub(super) struct Wire {
    client: Client,
    config: AsyncConnectionConfig,
    /// Whoever has it is the next to write. It is given in the order it was asked for.
    turn: Mutex<Current>,
}

struct Current {
    /// Tells one connection from the next.
    number: u64,
    connection: Option<MultiplexedConnection>,
}

impl Wire {
    pub(super) async fn open(client: Client, config: AsyncConnectionConfig) -> RedisResult<Self> {
        let wire = Self { client, config, turn: Mutex::new(Current { number: 0, connection: None }) };
        wire.connect(&mut *wire.turn.lock().await).await?;
        Ok(wire)
    }

    async fn connect(&self, current: &mut Current) -> RedisResult<MultiplexedConnection> {
        let connecting = || self.client.get_multiplexed_async_connection_with_config(&self.config);
        let connection = match connecting().await {
            Err(failure) if failure.is_connection_refusal() => {
                sleep(AGAIN).await;
                connecting().await?
            }
            connection => connection?,
        };
        current.number += 1;
        Ok(current.connection.insert(connection).clone())
    }

    /// Sends by the connection there is. What fails isn't sent again: it may have been applied.
    pub(super) async fn send<T>(
        &self,
        by: impl AsyncFnOnce(MultiplexedConnection) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let mut current = self.turn.lock().await;
        let connection = match &current.connection {
            Some(connection) => connection.clone(),
            None => self.connect(&mut current).await?,
        };
        let number = current.number;
        let mut sending = std::pin::pin!(by(connection));
        // At its first poll it queues up at the connection's writer, which keeps the order.
        let answered = poll!(sending.as_mut());
        drop(current);
        let answer = match answered {
            std::task::Poll::Ready(answer) => answer,
            std::task::Poll::Pending => sending.await,
        };
        if answer.as_ref().is_err_and(redis::RedisError::is_unrecoverable_error) {
            let mut current = self.turn.lock().await;
            if current.number == number {
                current.connection = None;
            }
        }
        answer
    }
}
