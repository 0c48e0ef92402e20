//! `cargo xtask bench`.

use std::process::{Command, Stdio};

use crate::{Failure, root};

pub(crate) fn run(name: Option<&str>) -> Result<(), Failure> {
    let mut cargo = Command::new("cargo");
    cargo.args(["run", "--release", "-p", "linchpin-benches", "--"]).args(name);
    let status = cargo.current_dir(root()).stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("the benches failed: {status}").into()) }
}
