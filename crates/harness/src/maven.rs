//! Engines that come as jars from Maven Central.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::error::{Error, Result};

/// What is fetched, by the name of the folder it goes to.
struct Jars {
    name: &'static str,
    version: &'static str,
    /// `group:artifact:version`.
    artifacts: &'static [&'static str],
}

const JARS: &[Jars] = &[
    Jars {
        name: "kafka",
        // The 4 series runs on Java 17 and later.
        version: "4.1.0",
        artifacts: &[
            "org.apache.kafka:kafka_2.13:4.1.0",
            "org.apache.kafka:kafka-tools:4.1.0",
            "org.slf4j:slf4j-simple:1.7.36",
        ],
    },
    Jars {
        name: "activemq",
        // The 6 series too.
        version: "6.1.6",
        artifacts: &[
            "org.apache.activemq:activemq-broker:6.1.6",
            "org.apache.activemq:activemq-kahadb-store:6.1.6",
            "org.apache.activemq:activemq-amqp:6.1.6",
            "org.apache.activemq:activemq-stomp:6.1.6",
            "org.apache.activemq:activemq-console:6.1.6",
            "org.slf4j:slf4j-simple:2.0.16",
        ],
    },
];

/// How often a fetch is tried.
const ATTEMPTS: usize = 3;

/// Where the jars are: `target/engines/NAME` of the workspace.
pub(crate) fn folder(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).join("target/engines").join(name)
}

/// The folder of the jars of that name, in the version used here; it is there only when it is complete.
#[must_use]
pub fn jars(name: &str) -> Option<PathBuf> {
    let jars = JARS.iter().find(|jars| jars.name == name)?;
    Some(folder(name).join(jars.version))
}

pub(crate) fn is_installed(name: &str) -> bool {
    jars(name).is_some_and(|folder| folder.is_dir())
}

pub(crate) fn version(name: &str) -> Option<String> {
    JARS.iter().find(|jars| jars.name == name).map(|jars| jars.version.to_owned())
}

/// Fetches the jars of that name with Maven, unless they are there.
///
/// # Errors
/// When there is no Maven, or it fails: what it says goes to standard error.
pub fn install(name: &str) -> Result<()> {
    let failed = |what: &str, failure| Error::io(name, what, failure);
    let jars = JARS.iter().find(|jars| jars.name == name);
    let jars = jars.ok_or_else(|| Error::new(name, "isn't fetched from Maven Central"))?;
    if is_installed(name) {
        return Ok(());
    }
    let folder = folder(name);
    fs::create_dir_all(&folder).map_err(|failure| failed("can't make its folder", failure))?;
    fs::write(folder.join("pom.xml"), pom(jars))
        .map_err(|failure| failed("can't write its pom.xml", failure))?;
    // What one attempt has fetched, the next doesn't fetch again.
    let fetched = (0..ATTEMPTS).any(|_| copy_dependencies(&folder).is_ok_and(|status| status.success()));
    if !fetched {
        return Err(Error::new(name, format!("mvn failed {ATTEMPTS} times in {}", folder.display())));
    }
    fs::rename(folder.join("partial"), folder.join(jars.version))
        .map_err(|failure| failed("can't move what mvn fetched", failure))
}

fn copy_dependencies(folder: &Path) -> io::Result<ExitStatus> {
    Command::new("mvn")
        .args(["--quiet", "--batch-mode", "dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg("-DoutputDirectory=partial")
        .current_dir(folder)
        .status()
}

fn pom(jars: &Jars) -> String {
    let mut dependencies = String::new();
    for artifact in jars.artifacts {
        let mut parts = artifact.split(':');
        for (open, tag) in [("<dependency>", "groupId"), ("", "artifactId"), ("", "version")] {
            dependencies += &format!("{open}<{tag}>{}</{tag}>", parts.next().unwrap_or_default());
        }
        dependencies += "</dependency>\n";
    }
    format!(
        r#"<project>
<modelVersion>4.0.0</modelVersion>
<groupId>linchpin</groupId><artifactId>{}</artifactId><version>1</version>
<dependencies>
{dependencies}</dependencies>
</project>
"#,
        jars.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pom_names_its_artifacts() {
        let pom = pom(&JARS[0]);
        let one = "<dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId>\
            <version>1.7.36</version></dependency>";
        assert!(pom.contains(one), "{pom}");
    }
}
