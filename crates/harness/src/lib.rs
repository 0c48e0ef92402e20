//! Real servers for tests: started in a fresh folder on 127.0.0.1, killed, frozen, restarted, and gone at the end.
//!
//! ```no_run
//! let redis = linchpin_harness::find("redis").ok_or("no such engine")?.start()?;
//! println!("{}", redis.url());
//! redis.kill()?; // SIGKILL
//! redis.restart()?; // the same data, the same port
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Dropping the handle ends the server and removes its folder; so does the death of this program, however it comes.
//! Every wait has a deadline, and every error has the end of the server's log. Linux only.

mod certificates;
mod engine;
mod engines;
mod error;
mod link;
mod maven;
mod node;
mod plan;
mod port;
mod process;
mod running;
mod wait;
pub mod wire;

pub use certificates::certificates;
pub use engine::{Absence, Engine, Needs, find, locate};
pub use engines::ENGINES;
pub use error::{Error, Result};
pub use link::Link;
pub use maven::{install as install_jars, jars};
pub use node::Node;
pub use port::Port;
pub use process::{freeze, started_at};
pub use running::Running;
