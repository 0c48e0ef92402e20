//! Reads a log file that grows and is rotated.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Follows `app.log`, and `app.log.1`, `app.log.2` … as rotation names what it was before: as long as a rotated file is kept
/// until it has been read, nothing is missed, however often it is renamed.
pub(crate) struct Tail {
    path: PathBuf,
    /// How far each file was read. A file is known by inode and birth, which outlive renaming. One that isn't met stays
    /// known: it may be renamed in that moment, and be met the next time.
    read: HashMap<(u64, u128), u64>,
}

/// A whole line. Its id says where it stands, so a tail that begins anew gives it the same one.
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) text: String,
}

impl Tail {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read: HashMap::new() }
    }

    /// The lines that were completed since the last call, the oldest file first.
    pub(crate) fn read(&mut self) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        for file in files(&self.path).iter().rev() {
            let file = match File::open(file) {
                // Rotated away a moment ago: it is met under its new name.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                file => file?,
            };
            let about = file.metadata()?;
            let born = about.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let name = (about.ino(), born.map_or(0, |born| born.as_nanos()));
            // A shorter one is another, or begins anew.
            let from = self.read.get(&name).copied().filter(|read| *read <= about.len()).unwrap_or(0);
            let end = read_lines(file, from, |offset, text| {
                lines.push(Line { id: format!("{}-{}-{offset}", name.0, name.1), text });
            })?;
            self.read.insert(name, end);
        }
        Ok(lines)
    }
}

/// The log and what rotation made of it, the newest first.
pub(crate) fn files(path: &Path) -> Vec<PathBuf> {
    let rotated = (1..).map(|n| PathBuf::from(format!("{}.{n}", path.display())));
    std::iter::once(path.to_owned()).chain(rotated.take_while(|file| file.exists())).collect()
}

/// Gives each whole line with its offset; returns where the next one begins.
fn read_lines(mut file: File, from: u64, mut give: impl FnMut(u64, String)) -> io::Result<u64> {
    file.seek(SeekFrom::Start(from))?;
    let (mut reader, mut offset, mut line) = (BufReader::new(file), from, Vec::new());
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line)?;
        let Some(text) = line.strip_suffix(b"\n") else { return Ok(offset) };
        give(offset, String::from_utf8_lossy(text).into_owned());
        offset += length as u64;
    }
}
