//! Reading many keys.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use linchpin_core::Result;
use linchpin_core::coord::{Entry, Rev};

use super::conn::Conn;
use super::error::{self, Code};
use super::lease;
use super::op::{self, Request, Said};
use super::path::{Paths, Scope};
use super::wire::Stat;
use super::write::rev;

/// The largest request: servers take 1 MiB unless they are told otherwise.
const REQUEST: usize = 900 * 1024;
/// Values that are asked for in one request.
const AT_ONCE: usize = 1000;

/// What is in a part of the tree, by name.
#[derive(Debug, Default)]
struct Names {
    dirs: BTreeSet<String>,
    /// Keys, with their nodes.
    keys: BTreeMap<String, String>,
}

pub(super) fn entry(key: &str, value: Bytes, stat: Stat) -> Entry {
    // The owner of a container, which only somebody else can have put here, marks what it is.
    let session = stat.owner != 0 && stat.owner != i64::MIN;
    Entry {
        key: key.to_owned(),
        value,
        created: rev(stat.czxid),
        rev: rev(stat.mzxid),
        lease: session.then(|| lease::name(stat.owner)),
    }
}

/// Requests in groups that a server takes.
fn groups(requests: Vec<Request>) -> Vec<Vec<Request>> {
    let mut groups: Vec<Vec<Request>> = Vec::new();
    let mut room = 0;
    for request in requests {
        let size = request.record.len() + 16;
        match groups.last_mut().filter(|group| room >= size && group.len() < AT_ONCE) {
            Some(group) => {
                room -= size;
                group.push(request);
            }
            None => {
                room = REQUEST.saturating_sub(size);
                groups.push(vec![request]);
            }
        }
    }
    groups
}

/// Reads, not all at one time; with the last transaction each answer may have seen.
pub(super) async fn each(conn: &Conn, requests: Vec<Request>) -> Result<Vec<(Said, Rev)>> {
    let mut said = Vec::with_capacity(requests.len());
    for group in groups(requests) {
        let count = group.len();
        let (answers, zxid) = conn.multi(op::multi_read(&group)).await?;
        if answers.len() != count {
            return Err(error::garbled());
        }
        said.extend(answers.into_iter().map(|answer| (answer, rev(zxid))));
    }
    Ok(said)
}

/// Reads one state. What a single request doesn't hold is read in several until nothing is written in between.
async fn state(conn: &Conn, requests: impl Fn() -> Vec<Request>) -> Result<(Vec<Said>, Rev)> {
    loop {
        let said = each(conn, requests()).await?;
        let at = said.first().map_or(Rev(0), |(_, at)| *at);
        if said.iter().all(|(_, then)| *then == at) {
            return Ok((said.into_iter().map(|(said, _)| said).collect(), at));
        }
    }
}

impl Names {
    /// Takes in what is in a directory.
    fn learn(&mut self, paths: &Paths, scope: &Scope, dir: &str, children: Vec<String>) {
        let Some(begins) = paths.beginning(dir) else { return };
        for child in children {
            let path = format!("{dir}/{child}");
            if let Some(key) = paths.key(&path) {
                if key.starts_with(&scope.prefix) {
                    self.keys.insert(key, path);
                }
            } else if let Some(below) = paths.beginning(&path).filter(|below| below.len() > begins.len())
                && below.starts_with(&scope.prefix)
            {
                self.dirs.insert(path);
            }
        }
    }

    /// Every name in the scope, level by level.
    async fn read(conn: &Conn, paths: &Paths, scope: &Scope) -> Result<Self> {
        let mut level = vec![scope.dir.clone()];
        let mut names = Self { dirs: level.iter().cloned().collect(), ..Self::default() };
        while !level.is_empty() {
            let asked = level.iter().map(|dir| op::children(dir)).collect();
            let mut below = Self::default();
            for (dir, (said, _)) in level.iter().zip(each(conn, asked).await?) {
                below.learn(paths, scope, dir, listing(said)?);
            }
            level = below.dirs.iter().cloned().collect();
            names.dirs.append(&mut below.dirs);
            names.keys.append(&mut below.keys);
        }
        Ok(names)
    }
}

/// The children of a directory; none if it isn't there.
fn listing(said: Said) -> Result<Vec<String>> {
    match said {
        Said::Children(children) => Ok(children),
        Said::Failed(Code::NO_NODE) => Ok(Vec::new()),
        Said::Failed(code) => Err(error::said(code)),
        _ => Err(error::garbled()),
    }
}

/// A value; none if it isn't there.
pub(super) fn value(key: &str, said: Said) -> Result<Option<Entry>> {
    match said {
        Said::Data(data, stat) => Ok(Some(entry(key, data, stat))),
        Said::Failed(Code::NO_NODE) => Ok(None),
        Said::Failed(code) => Err(error::said(code)),
        _ => Err(error::garbled()),
    }
}

/// A page of one state: the names are read, then names and values together, until the names are the same.
pub(super) async fn page(
    conn: &Conn,
    paths: &Paths,
    scope: &Scope,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Entry>> {
    let choose = |names: &Names| -> Vec<(String, String)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let keys = names.keys.range::<str, _>((from, Bound::Unbounded)).take(limit.max(1));
        keys.map(|(key, path)| (key.clone(), path.clone())).collect()
    };
    loop {
        let names = Names::read(conn, paths, scope).await?;
        let chosen = choose(&names);
        let requests = || {
            let dirs = names.dirs.iter().map(|dir| op::children(dir));
            dirs.chain(chosen.iter().map(|(_, path)| op::data(path))).collect()
        };
        let (said, _) = state(conn, requests).await?;
        let mut said = said.into_iter();
        let mut again = Names::default();
        for (dir, said) in names.dirs.iter().zip(said.by_ref()) {
            again.learn(paths, scope, dir, listing(said)?);
        }
        if again.dirs.is_subset(&names.dirs) && choose(&again) == chosen {
            let entries = chosen.iter().zip(said).map(|((key, _), said)| value(key, said));
            return entries.filter_map(Result::transpose).collect();
        }
    }
}

/// Everything in the scope, and a revision: what isn't there was gone then, and what comes later comes after it.
pub(super) async fn everything(conn: &Conn, paths: &Paths, scope: &Scope) -> Result<(Vec<Entry>, Rev)> {
    let mut have: BTreeMap<String, Entry> = BTreeMap::new();
    let mut names = Names::read(conn, paths, scope).await?;
    loop {
        let lacking: Vec<_> = names.keys.iter().filter(|(key, _)| !have.contains_key(*key)).collect();
        let asked = lacking.iter().map(|(_, path)| op::data(path)).collect();
        for ((key, _), (said, _)) in lacking.into_iter().zip(each(conn, asked).await?) {
            have.extend(value(key, said)?.map(|entry| (key.clone(), entry)));
        }
        let (said, at) = state(conn, || names.dirs.iter().map(|dir| op::children(dir)).collect()).await?;
        let mut again = Names::default();
        for (dir, said) in names.dirs.iter().zip(said) {
            again.learn(paths, scope, dir, listing(said)?);
        }
        if again.dirs.is_subset(&names.dirs) && again.keys.keys().all(|key| have.contains_key(key)) {
            have.retain(|key, _| again.keys.contains_key(key));
            return Ok((have.into_values().collect(), at));
        }
        names = Names::read(conn, paths, scope).await?;
    }
}
