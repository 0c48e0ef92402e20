//! What the bits of a snowflake mean.

use serde::Serialize;

use crate::time::from_millis;
use crate::url::{EngineUrl, Options};
use crate::{Error, Kind, Result, Timestamp};

/// The engine's name in errors.
pub(super) const NAME: &str = "snowflake";

/// How the 63 bits of a snowflake are shared out, from the top: time, datacenter, worker, sequence. The sign bit is 0.
///
/// | option of the URL | default | meaning |
/// |---|---|---|
/// | `epoch` | `1525705533000` | the start time, in milliseconds since 1970: where the time of the ids begins |
/// | `time_bits` | `41` | milliseconds since then: 41 bits last 69 years |
/// | `datacenter_bits` | `5` | |
/// | `worker_bits` | `5` | |
/// | `sequence_bits` | `12` | ids of one worker within a millisecond: 12 bits are 4,096 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The start time, in milliseconds since 1970.
    pub epoch: i64,
    /// Bits of the time, in milliseconds.
    pub time_bits: u32,
    /// Bits of the datacenter's number.
    pub datacenter_bits: u32,
    /// Bits of the worker's number.
    pub worker_bits: u32,
    /// Bits of the sequence within a millisecond.
    pub sequence_bits: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            epoch: 1_525_705_533_000,
            time_bits: 41,
            datacenter_bits: 5,
            worker_bits: 5,
            sequence_bits: 12,
        }
    }
}

/// What a snowflake is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Parts {
    /// When it was issued, to the millisecond.
    pub time: Timestamp,
    /// The datacenter.
    pub datacenter: u64,
    /// The worker.
    pub worker: u64,
    /// Which of the ids of its millisecond it is.
    pub sequence: u64,
}

/// The largest number of so many bits.
pub(super) const fn largest(bits: u32) -> u64 {
    (1 << bits) - 1
}

impl Layout {
    /// Reads the layout that a `snowflake:` URL asks for, whatever else the URL says.
    ///
    /// # Errors
    /// `Config` for another scheme, or for bits that don't fit into 63.
    pub fn from_url(url: &EngineUrl) -> Result<Self> {
        if url.scheme() != NAME {
            let error = Error::new(Kind::Config, format!("{}: has no layout", url.scheme()));
            return Err(error.help("only snowflakes can be taken apart: snowflake://"));
        }
        Self::read(&mut url.options(&[]))
    }

    pub(super) fn read(options: &mut Options<'_>) -> Result<Self> {
        let usual = Self::default();
        let layout = Self {
            epoch: options.number("epoch", usual.epoch)?,
            time_bits: options.number("time_bits", usual.time_bits)?,
            datacenter_bits: options.number("datacenter_bits", usual.datacenter_bits)?,
            worker_bits: options.number("worker_bits", usual.worker_bits)?,
            sequence_bits: options.number("sequence_bits", usual.sequence_bits)?,
        };
        layout.check()?;
        Ok(layout)
    }

    fn check(&self) -> Result<()> {
        let parts = [self.time_bits, self.datacenter_bits, self.worker_bits, self.sequence_bits];
        let sum = parts.iter().fold(0_u32, |sum, bits| sum.saturating_add(*bits));
        let small = parts.iter().all(|bits| *bits < 63) && self.node_bits() <= 20;
        if sum <= 63 && small && self.time_bits > 0 && self.sequence_bits > 0 {
            return Ok(());
        }
        let [time, datacenter, worker, sequence] = parts;
        let message = format!("{time} + {datacenter} + {worker} + {sequence} bits");
        Err(Error::new(Kind::Config, message).engine(NAME).help(
            "time, datacenter, worker and sequence have 63 bits together at most, time and sequence at least one \
             each, datacenter and worker 20 together at most",
        ))
    }

    pub(super) fn node_bits(&self) -> u32 {
        self.datacenter_bits.saturating_add(self.worker_bits)
    }

    /// What the id is made of.
    ///
    /// # Errors
    /// `Invalid` for a number that isn't a snowflake of this layout.
    pub fn parse(&self, id: i64) -> Result<Parts> {
        let bits = self.node_bits() + self.sequence_bits;
        let wrong = || {
            Error::new(Kind::Invalid, format!("{id} isn't a snowflake of this layout"))
                .engine(NAME)
                .help(format!("snowflakes of it are 0 to {}", largest(self.time_bits + bits)))
        };
        let id = u64::try_from(id).map_err(|_| wrong())?;
        let time = i64::try_from(id >> bits).map_err(|_| wrong())?;
        if id > largest(self.time_bits + bits) {
            return Err(wrong());
        }
        let node = id >> self.sequence_bits;
        Ok(Parts {
            time: from_millis(self.epoch.saturating_add(time)),
            datacenter: (node >> self.worker_bits) & largest(self.datacenter_bits),
            worker: node & largest(self.worker_bits),
            sequence: id & largest(self.sequence_bits),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(url: &str) -> Result<Layout> {
        Layout::from_url(&url.parse()?)
    }

    #[test]
    fn a_snowflake_is_taken_apart() {
        let layout = layout("snowflake://?worker=3").unwrap();
        assert_eq!(layout, Layout::default());
        let id = (1000 << 22) | (7 << 17) | (3 << 12) | 42;
        let parts = layout.parse(id).unwrap();
        assert_eq!((parts.datacenter, parts.worker, parts.sequence), (7, 3, 42));
        assert_eq!(parts.time.as_millisecond(), 1_525_705_534_000);
        assert_eq!(layout.parse(-1).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(layout.parse(i64::MAX).unwrap().sequence, 4095);
    }

    #[test]
    fn bits_that_do_not_fit_are_refused() {
        for url in [
            "snowflake://?time_bits=42",
            "snowflake://?time_bits=4000000000",
            "snowflake://?sequence_bits=0",
            "snowflake://?worker_bits=30&time_bits=1",
        ] {
            let error = layout(url).unwrap_err();
            assert!(error.kind() == Kind::Config && error.to_string().contains("63"), "{error}");
        }
        let small = layout("snowflake://?time_bits=39&datacenter_bits=0&worker_bits=8&epoch=0").unwrap();
        assert!(small.parse(1 << 59).unwrap_err().to_string().contains("0 to 576460752303423487"));
        assert!(layout("uuid://v4").is_err());
    }
}
