//! Ctrl-C, and other polite requests to end.

use linchpin::{Error, Kind, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Whoever listens isn't ended by SIGINT and SIGTERM, but told of them. One that comes while nobody waits for
/// it is told to the next wait: between two waits, a command may have been started that it is meant for.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|e| Error::new(Kind::Unexpected, "can't listen for signals").source(e))
        };
        let (interrupt, terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate })
    }

    /// The next of them.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
