//! Ports of 127.0.0.1 that nobody else takes.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below the ports the kernel hands to outgoing connections, so that nothing takes a server's port while it is down.
const RANGE: Range<u16> = 20_000..32_000;
const ATTEMPTS: usize = 500;

/// A port held by a lock file: no other harness on this machine hands it out while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// One that is free now.
    ///
    /// # Errors
    /// When none is found, or the folder of the locks can't be made.
    pub fn free() -> io::Result<Port> {
        let folder = std::env::temp_dir().join(format!("linchpin-ports-{}", nix::unistd::geteuid()));
        fs::create_dir_all(&folder)?;
        for _ in 0..ATTEMPTS {
            let number = fastrand::u16(RANGE);
            let lock = File::create(folder.join(number.to_string()))?;
            if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Port { number, _lock: lock });
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no free port in {RANGE:?} on 127.0.0.1")))
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_ports_differ() {
        let ports: Vec<Port> = (0..50).map(|_| Port::free().unwrap()).collect();
        let distinct: std::collections::BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(distinct.len(), ports.len());
    }
}
