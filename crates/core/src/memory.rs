//! The engine that lives in the process: its line in the table.

use crate::bus::MemoryBus;
use crate::coord::MemoryCoord;
use crate::id::MemoryIds;
use crate::scheme::{Scheme, Ways};

/// The `memory:` line of the table of engines. `memory://` is an engine of its own; `memory://name` is shared by every
/// handle in the process that names it, and lives as long as one of them. It takes no options but the common ones, and for ids
/// those of [`MemoryIds`].
pub const MEMORY: Scheme = Scheme {
    name: "memory",
    feature: "",
    ways: Some(Ways {
        bus: Some(|url| Box::pin(async move { Ok(MemoryBus::open(&url)? as _) })),
        coord: Some(|url| Box::pin(async move { Ok(MemoryCoord::open(&url)? as _) })),
        ids: Some(|url| Box::pin(async move { Ok(MemoryIds::open(&url)? as _) })),
        ..Ways::NONE
    }),
};
