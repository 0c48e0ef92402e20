//! `cargo xtask engines install`: Debian's packages, and jars from Maven Central.

use std::collections::BTreeSet;
use std::process::Command;

use linchpin_harness::{Engine, install_jars, locate};

use crate::Failure;

/// Installs the packages `$@`. Debian asks `policy-rc.d` whether a service may start, and 101 says no; the machine's own
/// answer is put back at the end, also of a run that is interrupted.
const SCRIPT: &str = r#"
set -e
policy=/usr/sbin/policy-rc.d
aside=$policy.linchpin
restore() { if [ -e "$aside" ]; then mv -f "$aside" "$policy"; else rm -f "$policy"; fi; }
if [ -e "$policy" ] && [ ! -e "$aside" ]; then mv "$policy" "$aside"; fi
trap restore EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q -o Acquire::Retries=5
apt-get install --yes -q -o Acquire::Retries=5 --no-install-recommends "$@"
"#;

pub(crate) fn run(engines: &[&'static Engine]) -> Result<(), Failure> {
    let missing: Vec<_> = engines.iter().filter(|engine| engine.absence().is_some()).collect();
    let packages = missing.iter().filter(|engine| lacks_packages(engine));
    let packages: BTreeSet<&str> = packages.flat_map(|engine| engine.needs.packages).copied().collect();
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    let jars: BTreeSet<&str> = missing.iter().filter_map(|engine| engine.needs.jars).collect();
    for name in jars {
        println!("fetching the jars of {name} from Maven Central");
        install_jars(name)?;
    }
    for engine in engines {
        if let Some(absence) = engine.absence() {
            if !engine.is_installable() {
                println!("{:<14} {absence}", engine.name);
                continue;
            }
            return Err(format!("{} is still missing: {absence}", engine.name).into());
        }
        println!("{:<14} {}", engine.name, engine.version().unwrap_or_else(|| "installed".to_owned()));
    }
    Ok(())
}

/// Maven, which fetches jars, is a package too.
fn lacks_packages(engine: &Engine) -> bool {
    engine.program().is_none() || (engine.needs.jars.is_some() && locate("mvn").is_none())
}

fn install_packages(packages: &BTreeSet<&str>) -> Result<(), Failure> {
    let list = packages.iter().copied().collect::<Vec<_>>().join(" ");
    if locate("apt-get").is_none() {
        let docker = "docker compose -f compose.engines.yml up";
        return Err(format!("no apt-get here to install {list}; `{docker}` runs the same engines").into());
    }
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new("sh")
    } else if locate("sudo").is_some() {
        let mut sudo = Command::new("sudo");
        sudo.arg("sh");
        sudo
    } else {
        return Err(format!("installing {list} takes root, and there is no sudo; run this as root").into());
    };
    println!("installing {list}");
    let status = command.args(["-c", SCRIPT, "install"]).args(packages).status()?;
    if status.success() { Ok(()) } else { Err(format!("apt-get failed: {status}").into()) }
}
