//! What there is to see in a SQLite file and its surroundings.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use linchpin::engines::relational::VERSION;
use linchpin::engines::sqlite::{Config, Sync};
use linchpin::{Error, Kind, Result};
use nix::sys::statvfs::statvfs;
use rusqlite::{Connection, OpenFlags};

use super::Report;

/// Less free space than this is worth a look.
const TIGHT: u64 = 1 << 30;
/// Less than this is wrong.
const FULL: u64 = 64 << 20;
/// A log larger than this means that somebody keeps it from being copied into the file.
const LONG_LOG: u64 = 256 << 20;

/// Looks at the file that `url` names.
pub(super) async fn examine(url: &str, report: &mut Report) {
    let config = match url.parse().and_then(|mut url: linchpin::url::EngineUrl| {
        url.take("auto_create");
        Config::from_url(&url)
    }) {
        Ok(config) => config,
        Err(error) => return report.wrong("file", &error),
    };
    durability(config.sync, report);
    if config.in_memory() {
        return report.look("file", "none: everything goes with this process");
    }
    space(&config.path, report);
    log(&config.path, report);
    let path = config.path.clone();
    let looked = tokio::task::spawn_blocking(move || inside(&path)).await;
    match looked.unwrap_or_else(|e| Err(Error::new(Kind::Unexpected, "the check ended early").source(e))) {
        Ok(checked) => checked.tell(report),
        Err(error) => report.wrong("file", &error),
    }
}

fn durability(sync: Sync, report: &mut Report) {
    match sync {
        Sync::Full => report.well("sync", "full: every commit waits for the disk"),
        Sync::Normal => report.look("sync", "normal: a loss of power may take the last commits"),
        Sync::Off => report.look("sync", "off: a loss of power may damage the file"),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn space(path: &Path, report: &mut Report) {
    match statvfs(folder(path)) {
        // The types of the counts differ between platforms.
        #[allow(clippy::unnecessary_cast)]
        Ok(disk) => {
            let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
            let text = format!("{} free", ByteSize(free));
            match free {
                ..FULL => report.wrong("disk", &Error::new(Kind::Limited, text).help("make room")),
                FULL..TIGHT => report.look("disk", text),
                _ => report.well("disk", text),
            }
        }
        Err(error) => report.look("disk", format!("can't ask for free space: {error}")),
    }
    if let Some(kind) = network(folder(path)) {
        let text =
            format!("the file is on {kind}: its locks don't hold between machines; keep it on a local disk");
        report.look("disk", text);
    }
}

/// The network file system a folder is on, if it is on one.
#[cfg(target_os = "linux")]
fn network(folder: &Path) -> Option<&'static str> {
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
fn network(_folder: &Path) -> Option<&'static str> {
    None
}

fn log(path: &Path, report: &mut Report) {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let size = std::fs::metadata(PathBuf::from(name)).map_or(0, |meta| meta.len());
    if size > LONG_LOG {
        report.look(
            "log",
            format!("{} of log beside the file: a reader keeps a transaction open", ByteSize(size)),
        );
    }
}

/// What the file says itself.
#[derive(Debug)]
struct Checked {
    bytes: u64,
    mode: String,
    version: i64,
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
    let version = conn.query_row("SELECT version FROM lp_schema", [], |row| row.get(0))?;
    let bytes = conn.query_row(
        "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
        [],
        |row| row.get(0),
    )?;
    let damage =
        conn.prepare("PRAGMA quick_check(3)")?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(Checked { bytes, mode, version, damage })
}

impl Checked {
    fn tell(self, report: &mut Report) {
        let (size, mode) = (ByteSize(self.bytes), self.mode);
        let text = format!("{size}, journal mode {mode}, schema {}", self.version);
        // The engine refuses other versions and modes when it opens; here they are for the reader.
        if mode == "wal" && self.version == VERSION {
            report.well("file", text)
        } else {
            report.look("file", text)
        }
        match self.damage.as_slice() {
            [fine] if fine == "ok" => report.well("integrity", "quick_check found nothing"),
            damage => {
                let error = Error::new(Kind::Corrupt, damage.join("; "));
                report.wrong(
                    "integrity",
                    &error.help("restore a backup, or save what can be saved with `sqlite3 FILE .recover`"),
                );
            }
        }
    }
}
