//! What there is to see in a SQLite file and its surroundings.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use linchpin_core::Finding;
use linchpin_core::url::EngineUrl;
use linchpin_core::{Error, Kind, Result};
use nix::sys::statvfs::statvfs;
use rusqlite::{Connection, OpenFlags};

use super::{Config, Sync, coord, schema};
use crate::relational::VERSION;

/// Less free space than this is worth a look.
const TIGHT: u64 = 1 << 30;
/// Less than this is wrong.
const FULL: u64 = 64 << 20;
/// A log larger than this means that somebody keeps it from being copied into the file.
const LONG_LOG: u64 = 256 << 20;

/// Looks at the file that `url` names, without changing it.
pub async fn examine(url: EngineUrl) -> Vec<Finding> {
    let config = match Config::from_url(&url) {
        Ok(config) => config,
        Err(error) => return vec![Finding::wrong("file", &error)],
    };
    let mut report = vec![durability(config.sync)];
    if config.in_memory() {
        report.push(Finding::look("file", "none: everything goes with this process"));
        return report;
    }
    report.push(space(&config.path));
    report.extend(network(folder(&config.path)));
    report.extend(log(&config.path));
    let path = config.path.clone();
    let looked = tokio::task::spawn_blocking(move || inside(&path)).await;
    match looked.unwrap_or_else(|e| Err(Error::new(Kind::Unexpected, "the check ended early").source(e))) {
        Ok(checked) => report.extend(checked.tell()),
        Err(error) => report.push(Finding::wrong("file", &error)),
    }
    report
}

fn durability(sync: Sync) -> Finding {
    match sync {
        Sync::Full => Finding::well("sync", "full: every commit waits for the disk"),
        Sync::Normal => Finding::look("sync", "normal: a loss of power may take the last commits"),
        Sync::Off => Finding::look("sync", "off: a loss of power may damage the file"),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn space(path: &Path) -> Finding {
    match statvfs(folder(path)) {
        // The types of the counts differ between platforms.
        #[allow(clippy::unnecessary_cast)]
        Ok(disk) => {
            let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
            let text = format!("{} free", ByteSize(free));
            match free {
                ..FULL => Finding::wrong("disk", &Error::new(Kind::Limited, text).help("make room")),
                FULL..TIGHT => Finding::look("disk", text),
                _ => Finding::well("disk", text),
            }
        }
        Err(error) => Finding::look("disk", format!("can't ask for free space: {error}")),
    }
}

fn network(folder: &Path) -> Option<Finding> {
    let kind = file_system(folder)?;
    let text =
        format!("the file is on {kind}: its locks don't hold between machines; keep it on a local disk");
    Some(Finding::look("disk", text))
}

/// The network file system a folder is on, if it is on one.
#[cfg(target_os = "linux")]
fn file_system(folder: &Path) -> Option<&'static str> {
    use nix::sys::statfs::{AFS_SUPER_MAGIC, CODA_SUPER_MAGIC, FUSE_SUPER_MAGIC, NCP_SUPER_MAGIC};
    use nix::sys::statfs::{NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, statfs};
    let found = statfs(folder).ok()?.filesystem_type();
    let kinds = [
        (NFS_SUPER_MAGIC, "NFS"),
        (SMB_SUPER_MAGIC, "SMB"),
        (AFS_SUPER_MAGIC, "AFS"),
        (CODA_SUPER_MAGIC, "Coda"),
        (NCP_SUPER_MAGIC, "NCP"),
        (FUSE_SUPER_MAGIC, "a FUSE file system"),
    ];
    // CIFS and SMB2 have numbers of their own, which the library doesn't name.
    let cifs = [0xff53_4d42_u32, 0xfe53_4d42].iter().any(|magic| i64::from(*magic) == found.0 as i64);
    kinds.iter().find(|(kind, _)| *kind == found).map(|(_, name)| *name).or(cifs.then_some("SMB"))
}

#[cfg(not(target_os = "linux"))]
fn file_system(_folder: &Path) -> Option<&'static str> {
    None
}

fn log(path: &Path) -> Option<Finding> {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let size = std::fs::metadata(PathBuf::from(name)).map_or(0, |meta| meta.len());
    let text = || format!("{} of log beside the file: a reader keeps a transaction open", ByteSize(size));
    (size > LONG_LOG).then(|| Finding::look("log", text()))
}

/// What the file says itself.
#[derive(Debug)]
struct Checked {
    bytes: u64,
    mode: String,
    /// What has tables here, their version, and the version that this build knows.
    versions: [(&'static str, Option<i64>, i64); 2],
    damage: Vec<String>,
}

fn inside(path: &Path) -> Result<Checked> {
    look(path).map_err(|e| {
        let shown = path.display().to_string();
        Error::new(Kind::Corrupt, "the file can't be read").with("file", shown).source(e)
    })
}

fn look(path: &Path) -> rusqlite::Result<Checked> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    let mode = conn.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    let versions = [
        ("bus", schema::version(&conn)?, VERSION),
        ("coordination", coord::version(&conn)?, crate::relational::coord::VERSION),
    ];
    let bytes = conn.query_row(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
        [],
        |row| row.get(0),
    )?;
    let damage =
        conn.prepare("PRAGMA quick_check(3)")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(Checked { bytes, mode, versions, damage })
}

impl Checked {
    fn tell(self) -> [Finding; 2] {
        let (size, mode) = (ByteSize(self.bytes), self.mode);
        let there = self.versions.iter().filter_map(|(what, version, _)| version.map(|of| (what, of)));
        let schemas: Vec<_> = there.map(|(what, version)| format!(", {what} version {version}")).collect();
        let text = format!("{size}, journal mode {mode}{}", schemas.concat());
        // The engine refuses other versions and modes when it opens; here they are for the reader.
        let file =
            if mode == "wal" && self.versions.iter().all(|(_, is, known)| is.is_none_or(|is| is == *known)) {
                Finding::well("file", text)
            } else {
                Finding::look("file", text)
            };
        let integrity = match self.damage.as_slice() {
            [fine] if fine == "ok" => Finding::well("integrity", "quick_check found nothing"),
            damage => {
                let error = Error::new(Kind::Corrupt, damage.join("; "));
                Finding::wrong(
                    "integrity",
                    &error.help("restore a backup, or save what can be saved with `sqlite3 FILE .recover`"),
                )
            }
        };
        [file, integrity]
    }
}
