//! A snowflake's high-water mark in a file of its own.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::layout::NAME;
use crate::{Error, Kind, Result};

/// The file: one line, `linchpin-snowflake NODE MILLISECONDS`. It is replaced whole, so a crash leaves the old line or the
/// new one. Whoever has it holds the lock of a second file beside it, `<name>.lock`, which the operating system frees when
/// the process ends.
#[derive(Debug)]
pub(super) struct MarkFile {
    path: PathBuf,
    node: u64,
    _lock: File,
}

const MAGIC: &str = "linchpin-snowflake";

impl MarkFile {
    /// Opens it for this worker number; the mark that is there. Blocks.
    pub(super) fn open(path: &Path, node: u64) -> Result<(Self, Option<i64>)> {
        let lock = beside(path, ".lock");
        let file = File::options().create(true).append(true).open(&lock);
        let file = file.map_err(|e| io_error(path, "can't be written", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let error = Error::new(Kind::Conflict, "another process issues ids with this state file");
                let help = "give every process a worker number and a state file of its own, or lease numbers: coord=";
                return Err(error.engine(NAME).with("state", path.display()).help(help));
            }
            Err(TryLockError::Error(e)) => return Err(io_error(path, "can't be locked", e)),
        }
        let mark = match fs::read_to_string(path) {
            Ok(text) => Some(parse(&text, node).ok_or_else(|| damaged(path, &text, node))?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(io_error(path, "can't be read", e)),
        };
        Ok((Self { path: path.to_owned(), node, _lock: file }, mark))
    }

    /// Stores the mark; it survives a loss of power when this returns. Blocks.
    pub(super) fn store(&self, mark: i64) -> Result<()> {
        let write = || {
            let fresh = beside(&self.path, ".new");
            let mut file = File::create(&fresh)?;
            writeln!(file, "{MAGIC} {} {mark}", self.node)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)?;
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|e| io_error(&self.path, "can't be written", e))
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn parse(text: &str, node: u64) -> Option<i64> {
    let mut words = text.split_whitespace();
    let right = words.next() == Some(MAGIC) && words.next()?.parse() == Ok(node);
    let mark = words.next()?.parse().ok()?;
    (right && words.next().is_none()).then_some(mark)
}

fn damaged(path: &Path, text: &str, node: u64) -> Error {
    let other = text.split_whitespace().nth(1).and_then(|other| other.parse::<u64>().ok());
    let error = match other.filter(|other| text.starts_with(MAGIC) && *other != node) {
        Some(other) => Error::new(
            Kind::Config,
            format!("the state file is that of the worker number {other}, not {node}"),
        )
        .help(
            "a number counts its datacenter: datacenter << worker_bits | worker; name the file of this one",
        ),
        None => Error::new(Kind::Corrupt, "the file isn't a snowflake's state").help(
            "name another; if this one was damaged, remove it once the clock is right and past the last id",
        ),
    };
    error.engine(NAME).with("state", path.display())
}

fn io_error(path: &Path, what: &str, source: io::Error) -> Error {
    Error::new(Kind::Config, format!("the state file {what}"))
        .engine(NAME)
        .with("state", path.display())
        .help("check that the folder is there, and that the user may write to it")
        .source(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let folder = std::env::temp_dir().join(format!("linchpin-mark-{:x}", fastrand::u64(..)));
            fs::create_dir(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_mark_is_kept_for_one_at_a_time() {
        let folder = Folder::new();
        let path = folder.0.join("state");
        let (file, mark) = MarkFile::open(&path, 5).unwrap();
        assert_eq!(mark, None);
        file.store(1000).unwrap();
        file.store(2000).unwrap();
        assert_eq!(MarkFile::open(&path, 5).unwrap_err().kind(), Kind::Conflict);
        drop(file);
        assert_eq!(MarkFile::open(&path, 5).unwrap().1, Some(2000));
        let error = MarkFile::open(&path, 6).unwrap_err();
        assert!(error.kind() == Kind::Config && error.to_string().contains("number 5, not 6"), "{error}");
        fs::write(&path, "linchpin-snowflake 5").unwrap();
        assert_eq!(MarkFile::open(&path, 5).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(MarkFile::open(&folder.0.join("no/state"), 5).unwrap_err().kind(), Kind::Config);
    }
}
