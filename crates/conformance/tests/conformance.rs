//! `cargo test -p linchpin-conformance [-- FILTER]`: every case on every target, and every broken engine.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let results = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("conformance/results.json");
    linchpin_conformance::run(env!("CARGO_BIN_EXE_linchpin-conformance-child"), &results)
}
