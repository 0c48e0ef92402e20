//! The engines by name, and whether this machine has them.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::engines::ENGINES;
use crate::error::{Error, Result};
use crate::maven;
use crate::plan::{Plan, Site, Sync};
use crate::running::Running;

/// How often a start is tried again when somebody took the port first.
const CLASHES: usize = 3;

/// An engine, in one way of running it.
pub struct Engine {
    /// `redis`, `redis-cluster`, `kafka-3`.
    pub name: &'static str,
    /// What it takes on this machine.
    pub needs: Needs,
    pub(crate) plan: fn(&Site<'_>) -> Result<Plan>,
}

/// What an engine takes on this machine.
pub struct Needs {
    /// The file that must be there: a name to look for in `PATH`, or paths of which one must exist.
    pub(crate) program: &'static [&'static str],
    /// Debian's packages; empty if it has none.
    pub packages: &'static [&'static str],
    /// What of it comes from Maven Central, by the name of the folder of jars.
    pub jars: Option<&'static str>,
    pub(crate) version: &'static [&'static str],
}

/// Why an engine can't be had, and how to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absence(String);

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The engine of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Engine> {
    ENGINES.iter().find(|engine| engine.name == name)
}

impl Engine {
    /// Starts one in a fresh folder, and waits until it is ready; or hands out the one that
    /// [`url_variable`](Engine::url_variable) names.
    ///
    /// # Errors
    /// When this machine doesn't have it, or it ends instead, or isn't ready within 90 s; with the end of its log.
    pub fn start(&'static self) -> Result<Running> {
        self.launch(Sync::ByDefault, &[])
    }

    /// The same, with more words on the command line of each server; never one that runs already. In them `{port}` stands
    /// for the server's own port, and `{peers}` for the one its peers use, if it has one.
    ///
    /// # Errors
    /// As [`start`](Engine::start).
    pub fn start_with(&'static self, words: &[&str]) -> Result<Running> {
        self.launch(Sync::ByDefault, words)
    }

    /// The same, but a server that doesn't wait for the disk: what it answered survives its own death, not the machine's.
    /// For tests that kill servers, and mustn't be late because the disk is busy.
    ///
    /// # Errors
    /// As [`start`](Engine::start).
    pub fn start_unsynced(&'static self) -> Result<Running> {
        self.launch(Sync::Never, &[])
    }

    fn launch(&'static self, sync: Sync, words: &[&str]) -> Result<Running> {
        if let Some(url) = self.external().filter(|_| words.is_empty()) {
            return Ok(Running::external(self, url));
        }
        if let Some(absence) = self.absence() {
            return Err(Error::new(self.name, absence.to_string()));
        }
        let mut clashes = 0;
        loop {
            match Running::start(self, sync, words) {
                Err(error) if error.is_port_clash() && clashes < CLASHES => clashes += 1,
                outcome => return outcome,
            }
        }
    }

    /// `LINCHPIN_TEST_REDIS_URL`: a server that already runs, to use instead of starting one.
    #[must_use]
    pub fn url_variable(&self) -> String {
        format!("LINCHPIN_TEST_{}_URL", self.name.to_uppercase().replace('-', "_"))
    }

    /// The URL of a server that already runs.
    #[must_use]
    pub fn external(&self) -> Option<String> {
        env::var(self.url_variable()).ok().filter(|url| !url.is_empty())
    }

    /// Why it can't be started here; `None` when it can.
    #[must_use]
    pub fn absence(&self) -> Option<Absence> {
        let remedy = format!("cargo xtask engines install {}", self.name);
        if self.program().is_none() && !self.is_installable() {
            let (name, variable) = (self.name, self.url_variable());
            return Some(Absence(format!(
                "{name} isn't on this machine, and Debian has no package of it; put it into PATH, or name a running one in \
                 {variable}"
            )));
        }
        if self.program().is_none() {
            let program = self.needs.program.join(" or ");
            let packages = self.needs.packages.join(", ");
            return Some(Absence(format!("{program} isn't on this machine ({packages}); {remedy}")));
        }
        let jars = self.needs.jars.filter(|name| !maven::is_installed(name))?;
        Some(Absence(format!("the jars of {jars} haven't been fetched from Maven Central; {remedy}")))
    }

    /// Whether `cargo xtask engines install` can bring it: it can't what neither Debian nor Maven Central has.
    #[must_use]
    pub fn is_installable(&self) -> bool {
        !self.needs.packages.is_empty() || self.needs.jars.is_some()
    }

    /// The file that is run, or looked at.
    #[must_use]
    pub fn program(&self) -> Option<PathBuf> {
        self.needs.program.iter().find_map(|name| locate(name))
    }

    /// The version, as the engine tells it; `None` when it isn't here or doesn't tell.
    #[must_use]
    pub fn version(&self) -> Option<String> {
        if self.absence().is_some() {
            return None;
        }
        if let Some(jars) = self.needs.jars {
            return maven::version(jars);
        }
        let [program, args @ ..] = self.needs.version else { return None };
        let output = std::process::Command::new(locate(program)?).args(args).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        first_version(&String::from_utf8_lossy(&text))
    }
}

/// A path, of which a `*` stands for the newest version, or a name to look for in `PATH` and where servers are that
/// ordinary users don't start.
#[must_use]
pub fn locate(program: &str) -> Option<PathBuf> {
    if let Some((versions, rest)) = program.split_once("/*/") {
        let versions = std::fs::read_dir(versions).ok()?.flatten().map(|version| version.path());
        let programs = versions.map(|version| version.join(rest)).filter(|path| path.exists());
        return programs.max_by_key(|path| version_in(path));
    }
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders =
        env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/bin")]);
    folders.map(|folder| folder.join(program)).find(|path: &PathBuf| Path::is_file(path))
}

/// `/usr/lib/postgresql/15/bin/postgres`: 15.
fn version_in(path: &Path) -> u32 {
    path.iter().filter_map(|part| part.to_str()?.parse().ok()).next_back().unwrap_or(0)
}

/// The first word that starts with a digit and has a dot: `v=7.0.15` and `v2.9.10` count.
fn first_version(text: &str) -> Option<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
    let words = words.map(|word| word.trim_start_matches('v').trim_end_matches('.'));
    words
        .filter(|word| word.contains('.'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64";
        assert_eq!(first_version(redis).as_deref(), Some("7.0.15"));
        assert_eq!(first_version("nats-server: v2.9.10").as_deref(), Some("2.9.10"));
        assert_eq!(first_version("postgres (PostgreSQL) 15.18 (Debian)").as_deref(), Some("15.18"));
        assert_eq!(first_version("no version"), None);
    }

    #[test]
    fn what_nobody_has_says_how_to_get_it() {
        let consul = find("consul").unwrap();
        assert!(!consul.is_installable() && find("redis").unwrap().is_installable());
        if let Some(absence) = consul.absence() {
            assert!(absence.to_string().contains("LINCHPIN_TEST_CONSUL_URL"), "{absence}");
        }
    }

    #[test]
    fn names_are_distinct_and_variables_follow() {
        let names: std::collections::BTreeSet<&str> = ENGINES.iter().map(|engine| engine.name).collect();
        assert_eq!(names.len(), ENGINES.len());
        assert_eq!(find("redis-cluster").unwrap().url_variable(), "LINCHPIN_TEST_REDIS_CLUSTER_URL");
        assert!(find("no-such-engine").is_none());
    }
}
