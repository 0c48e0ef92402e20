//! Trace context and the names of metrics, in one place.
//!
//! Spans and metrics are recorded at the handles, once, never inside engines. Metrics go to whatever recorder
//! the program installed for the `metrics` crate; spans to its `tracing` subscriber. Trace context follows W3C
//! Trace Context level 1: a `traceparent` header on each message.

use std::fmt;
use std::future::Future;
use std::str::FromStr;

/// The message header that carries the trace context.
pub const TRACEPARENT: &str = "traceparent";

/// Messages stored, by `topic`.
pub const PUBLISHED: &str = "linchpin_bus_published_total";
/// Messages that failed to be stored, by `topic`.
pub const PUBLISH_FAILED: &str = "linchpin_bus_publish_failed_total";
/// Messages handed out, by `topic` and `group`.
pub const DELIVERED: &str = "linchpin_bus_delivered_total";
/// Deliveries with an attempt above one, by `topic` and `group`.
pub const REDELIVERED: &str = "linchpin_bus_redelivered_total";
/// Deliveries settled, by `topic`, `group` and `outcome` (`ack`, `nack`, `dead`).
pub const SETTLED: &str = "linchpin_bus_settled_total";
/// Segments taken from a counter of ids, by `counter`.
pub const SEGMENTS: &str = "linchpin_ids_segments_total";

/// Sessions that were lost: their lease ended, or couldn't be renewed in time.
pub const SESSIONS_LOST: &str = "linchpin_coord_sessions_lost_total";
/// Locks, permits and leaderships acquired, by `kind` (`lock`, `read`, `write`, `permit`, `leadership`).
pub const ACQUIRED: &str = "linchpin_coord_acquired_total";
/// How long acquiring took, in seconds, by `kind`.
pub const ACQUIRE_SECONDS: &str = "linchpin_coord_acquire_seconds";
/// Instances to pick from, by `service`.
pub const ENDPOINTS: &str = "linchpin_coord_endpoints";
/// Calls of keys by hand, by `op` (`get`, `list`, `put`, `delete`, `watch`) and `outcome` (`ok`, `conflict`, `error`).
pub const COORD_CALLS: &str = "linchpin_coord_calls_total";

tokio::task_local! {
    static CURRENT: Option<TraceContext>;
}

/// Which trace this work belongs to, and which span is its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl TraceContext {
    /// A new trace.
    pub fn root() -> Self {
        Self { trace: fastrand::u128(1..), span: fastrand::u64(1..), sampled: true }
    }

    /// A new span of the same trace.
    pub fn child(self) -> Self {
        Self { span: fastrand::u64(1..), ..self }
    }

    /// The context of the running task, if a consumer or the caller set one.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(|context| *context).ok().flatten()
    }

    /// Runs `work` inside this context: messages it publishes carry it on.
    pub async fn scope<F: Future>(self, work: F) -> F::Output {
        within(Some(self), work).await
    }
}

/// Runs `work` inside this context, or in none.
pub(crate) fn within<F: Future>(context: Option<TraceContext>, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(context, work)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

fn hex(part: Option<&str>, len: usize) -> Result<&str, ()> {
    part.filter(|p| p.len() == len && p.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(())
}

impl FromStr for TraceContext {
    type Err = ();

    /// Reads a `traceparent`. Anything malformed is no context at all, as the specification asks.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split('-');
        let version = hex(parts.next(), 2)?;
        let trace = u128::from_str_radix(hex(parts.next(), 32)?, 16).map_err(drop)?;
        let span = u64::from_str_radix(hex(parts.next(), 16)?, 16).map_err(drop)?;
        let flags = u8::from_str_radix(hex(parts.next(), 2)?, 16).map_err(drop)?;
        if version == "ff" || trace == 0 || span == 0 || (version == "00" && parts.next().is_some()) {
            return Err(());
        }
        Ok(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn traceparent_round_trips_and_scopes() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context: TraceContext = text.parse().unwrap();
        assert_eq!(context.to_string(), text);
        assert_eq!(TraceContext::current(), None);
        let child = context.child().scope(async { TraceContext::current() }).await.unwrap();
        assert_eq!(child.trace, context.trace);
        assert_ne!(child.span, context.span);
    }

    #[test]
    fn malformed_is_no_context() {
        for text in [
            "",
            "00-0-0-0",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            assert!(text.parse::<TraceContext>().is_err(), "{text}");
        }
    }
}
