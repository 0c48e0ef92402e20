//! What is asked of the database that changes something.

use std::collections::BTreeSet;

use bytes::Bytes;
use linchpin_core::Result;
use linchpin_core::coord::{Rev, When};

/// One thing to do. Keys are as they are stored.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Put {
        key: Vec<u8>,
        value: Bytes,
        when: When,
        lease: Option<i64>,
    },
    Delete {
        key: Vec<u8>,
        when: When,
    },
    /// A lease of so many milliseconds, under a number of its own.
    Grant {
        lease: i64,
        ttl: i64,
    },
    Renew {
        lease: i64,
    },
    Revoke {
        lease: i64,
    },
    /// Nothing but what every write does: ending the leases that are over.
    Sweep,
}

impl Ask {
    /// How much it is, where many are done together: 256 small ones are one transaction, which fits into a megabyte however
    /// long the keys are.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Put { value, .. } => 64 + value.len() / 1024,
            _ => 64,
        }
    }

    /// Whether it does nothing but with a lease that nobody else changes.
    fn spares_keys(&self) -> bool {
        matches!(self, Self::Grant { .. } | Self::Renew { .. })
    }
}

/// What is answered, and what others are to be told.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The revision of what was done, if it changed a key.
    pub(crate) result: Result<Option<Rev>>,
    /// The keys that changed in the whole transaction, in the answer to the first who asked.
    pub(crate) changed: Vec<Vec<u8>>,
}

/// What must be read before it can be decided.
#[derive(Debug, Default)]
pub(crate) struct Needs<'a> {
    pub(crate) keys: BTreeSet<&'a [u8]>,
    pub(crate) leases: BTreeSet<i64>,
    /// The leases that are to end: all of their keys.
    pub(crate) ends: BTreeSet<i64>,
    /// Whether keys may change, so that the counter must be held, and leases that are over be ended.
    pub(crate) writes: bool,
}

impl<'a> Needs<'a> {
    pub(crate) fn of(asks: &'a [Ask]) -> Self {
        let mut needs = Self { writes: !asks.iter().all(Ask::spares_keys), ..Self::default() };
        for ask in asks {
            match ask {
                Ask::Put { key, lease, .. } => {
                    needs.keys.insert(key);
                    needs.leases.extend(lease);
                }
                Ask::Delete { key, .. } => {
                    needs.keys.insert(key);
                }
                Ask::Renew { lease } => {
                    needs.leases.insert(*lease);
                }
                Ask::Revoke { lease } => {
                    needs.leases.insert(*lease);
                    needs.ends.insert(*lease);
                }
                Ask::Grant { .. } | Ask::Sweep => {}
            }
        }
        needs
    }
}
