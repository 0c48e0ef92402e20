//! Coordination: keys with revisions, leases and watches, and what is built on them, the same on every engine.
//!
//! [`Coord`] is the handle. [`CoordEngine`] and [`Watch`] are what an engine implements, and carry the contract. Everything else is
//! written once, on top of them:
//!
//! * [`Session`] — a lease kept alive, which tells of its loss in time.
//! * [`Lock`], [`RwLock`], [`Semaphore`], [`Election`] — lines of keys under a session; [`fence`] is what their tokens are for.
//! * [`Config`] — typed values that change live.
//! * [`Registration`] and [`Endpoints`] — instances of services, and whom to call next ([`Balance`]).

mod balance;
mod call;
mod config;
mod election;
mod endpoints;
mod engine;
pub mod fence;
mod follow;
mod handle;
mod known;
mod lock;
mod memory;
mod name;
mod queue;
mod registry;
mod rwlock;
mod semaphore;
mod session;
#[cfg(test)]
mod testing;

pub use balance::{Balance, Picked};
pub use config::{Config, Live, Setting};
pub use election::{Election, Leader, Leaders, Leadership};
pub use endpoints::{Endpoint, Endpoints, EndpointsOptions};
pub use engine::*;
pub use handle::Coord;
pub use known::Known;
pub use lock::{Lock, LockGuard};
pub use memory::MemoryCoord;
pub use name::{MAX_KEY, check_key, check_ttl, check_value};
pub use registry::{Health, Instance, Registration};
pub use rwlock::RwLock;
pub use semaphore::Semaphore;
pub use session::{DEFAULT_TTL, Session};
