//! Cases: what is proven of an engine, and what it must be capable of for that.

use std::fmt;

use futures_util::future::BoxFuture;
use linchpin::{bus, coord};

use crate::target::Target;
use crate::world::{Issuer, Space, World};

/// One thing that is proven of an engine.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    pub(crate) needs: &'static [Need],
    /// Panics with what it saw if the engine doesn't keep it.
    pub(crate) run: Run,
}

/// What a case is about, and how it is run.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    Bus(fn(World) -> BoxFuture<'static, ()>),
    Coord(fn(Space) -> BoxFuture<'static, ()>),
    Ids(fn(Issuer) -> BoxFuture<'static, ()>),
}

impl Case {
    /// What it is about, as in the matrix.
    pub(crate) fn capability(&self) -> &'static str {
        match self.run {
            Run::Bus(_) => "bus",
            Run::Coord(_) => "coord",
            Run::Ids(_) => "ids",
        }
    }

    /// Whether there is such a cell.
    pub(crate) fn fits(&self, target: &Target) -> bool {
        let has_it = match self.run {
            Run::Bus(_) => target.bus.is_some(),
            Run::Coord(_) => target.coord.is_some(),
            Run::Ids(_) => target.ids.is_some(),
        };
        has_it && self.class.fits(target)
    }
}

/// What makes a case hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// It waits for delays and leases, which must be neither early nor late.
    Timing,
    /// Processes are killed or frozen, engines closed and opened again.
    Fault,
    /// The server is killed, restarted and frozen.
    Outage,
    /// The connections to the server are cut.
    Cut,
    /// One server of several is killed, and another takes over.
    Failover,
    /// One thing after another.
    Basic,
    /// Many at once.
    Race,
}

impl Class {
    /// Whether its cases have a server to themselves, to do it harm.
    pub(crate) fn does_harm(self) -> bool {
        matches!(self, Self::Outage | Self::Cut | Self::Failover)
    }

    /// What the harness starts for a case of this class on this target; `None` if nothing.
    pub(crate) fn server(self, target: &Target) -> Option<&'static str> {
        if self == Self::Failover { target.cluster } else { target.server }
    }

    /// Whether the target has what it takes: without a server none can be killed, nor one of several without several.
    fn fits(self, target: &Target) -> bool {
        match self {
            Self::Outage | Self::Failover => self.server(target).is_some(),
            Self::Cut => target.server.is_some() && target.one_address,
            _ => true,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timing => "timing",
            Self::Fault => "fault",
            Self::Outage => "outage",
            Self::Cut => "cut",
            Self::Failover => "failover",
            Self::Basic => "basic",
            Self::Race => "race",
        })
    }
}

/// One of the facts in the `Caps` of a capability, or what can be said of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Durable,
    Shared,
    Groups,
    Broadcast,
    Ordered,
    Redelivery,
    Delay,
    Replay,
    Metadata,
    Retention,
    Offsets,
    Failover,
    /// Of one handle, each id is larger than the one before.
    Rising,
    /// An id tells when it was made.
    Timed,
    /// Worker numbers are leased through coordination.
    Leased,
    /// The time of the last ids is in a file.
    Filed,
    /// They are the numbers of a counter, one of several.
    Counted,
    /// The counter is a row of a table that other programs use, too.
    Tabled,
}

impl Need {
    /// Those of the bus.
    pub(crate) const OF_THE_BUS: [Self; 12] = [
        Self::Durable,
        Self::Shared,
        Self::Groups,
        Self::Broadcast,
        Self::Ordered,
        Self::Redelivery,
        Self::Delay,
        Self::Replay,
        Self::Metadata,
        Self::Retention,
        Self::Offsets,
        Self::Failover,
    ];

    /// Its name there.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Shared => "shared",
            Self::Groups => "groups",
            Self::Broadcast => "broadcast",
            Self::Ordered => "ordered",
            Self::Redelivery => "redelivery",
            Self::Delay => "delay",
            Self::Replay => "replay",
            Self::Metadata => "metadata",
            Self::Retention => "retention",
            Self::Offsets => "offsets",
            Self::Failover => "failover",
            Self::Rising => "rising",
            Self::Timed => "timed",
            Self::Leased => "leased",
            Self::Filed => "filed",
            Self::Counted => "counted",
            Self::Tabled => "tabled",
        }
    }

    pub(crate) fn is_met_by_bus(self, caps: bus::Caps) -> bool {
        match self {
            Self::Durable => caps.durable,
            Self::Shared => caps.shared,
            Self::Groups => caps.groups,
            Self::Broadcast => caps.broadcast,
            Self::Ordered => caps.ordered,
            Self::Redelivery => caps.redelivery,
            Self::Delay => caps.delay,
            Self::Replay => caps.replay,
            Self::Metadata => caps.metadata,
            Self::Retention => caps.retention,
            Self::Offsets => caps.offsets,
            Self::Failover => caps.failover,
            _ => panic!("{} says nothing about the bus", self.name()),
        }
    }

    /// The bus has most of them to itself.
    pub(crate) fn is_met_by_coord(self, caps: coord::Caps) -> bool {
        match self {
            Self::Durable => caps.durable,
            Self::Shared => caps.shared,
            Self::Failover => caps.failover,
            _ => panic!("{} says nothing about coordination", self.name()),
        }
    }
}
