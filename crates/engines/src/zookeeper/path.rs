//! Keys as paths of nodes.
//!
//! Under the root, `keys` holds a directory for each segment of a key but the last, and in it the key itself, whose name
//! begins with `=`: `shop/limits` is `/linchpin/keys/shop/=limits`. So `shop` and `shop/limits` are two keys that don't
//! get into each other's way, though a node that vanishes with its session can't have children. What ZooKeeper doesn't
//! take in a path is written as `%XX`, and so are `%`, and `=` at the beginning of a segment.
//!
//! `guards` holds 256 nodes; each stands for the keys of one hash: see [`Paths::guard`].

use std::fmt::Write;

use percent_encoding::percent_decode_str;

/// Marks what is a key among the directories.
const LEAF: char = '=';

/// Where things are.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    root: String,
    keys: String,
}

/// The part of the tree where keys with some prefix are.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    /// The directory all of them are in, or in one below it.
    pub(super) dir: String,
    /// What they begin with.
    pub(super) prefix: String,
}

impl Paths {
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.to_owned(), keys: format!("{root}/keys") }
    }

    /// The node of a key.
    pub(super) fn leaf(&self, key: &str) -> String {
        let (dir, name) = key.rsplit_once('/').unwrap_or(("", key));
        let mut path = self.dir(dir);
        path.push('/');
        path.push(LEAF);
        encode(name, &mut path);
        path
    }

    fn dir(&self, dir: &str) -> String {
        let mut path = self.keys.clone();
        for segment in dir.split('/').filter(|segment| !segment.is_empty()) {
            path.push('/');
            encode(segment, &mut path);
        }
        path
    }

    /// The node whose version counts how often one of the keys of its hash was made. A node that is made again begins
    /// with version 0 again, so a version alone doesn't tell it from the one before; together with its guard's it does.
    pub(super) fn guard(&self, key: &str) -> String {
        let hash = key
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let shard = (hash ^ (hash >> 8) ^ (hash >> 16) ^ (hash >> 24)) & 0xff;
        format!("{}/guards/{shard:02x}", self.root)
    }

    /// The directory of all keys.
    pub(super) fn keys(&self) -> &str {
        &self.keys
    }

    /// Nodes that stay: those down to the directories of keys and of guards.
    pub(super) fn permanent(&self) -> Vec<String> {
        let mut all: Vec<_> = ancestors(&self.keys, 0);
        all.push(self.keys.clone());
        all.push(format!("{}/guards", self.root));
        all
    }

    /// The directories above a key, which come and go, from the top.
    pub(super) fn dirs(&self, leaf: &str) -> Vec<String> {
        ancestors(leaf, self.keys.len() + 1)
    }

    /// The key of a node, if it is one.
    pub(super) fn key(&self, path: &str) -> Option<String> {
        let (dirs, name) = path.strip_prefix(&self.keys)?.strip_prefix('/')?.split_at_leaf()?;
        let mut key = String::new();
        for dir in dirs.split('/').filter(|dir| !dir.is_empty()) {
            key.push_str(&decode(dir)?);
            key.push('/');
        }
        key.push_str(&decode(name)?);
        Some(key)
    }

    /// What a directory is, as the beginning of keys; it ends with `/` if it isn't empty.
    pub(super) fn beginning(&self, dir: &str) -> Option<String> {
        let mut begins = String::new();
        for segment in dir.strip_prefix(&self.keys)?.split('/').filter(|segment| !segment.is_empty()) {
            begins.push_str(&decode(segment)?);
            begins.push('/');
        }
        Some(begins)
    }

    /// Where keys with this prefix are. A prefix that no key can begin with has none, in the directory of all.
    pub(super) fn scope(&self, prefix: &str) -> Scope {
        let dir = prefix.rsplit_once('/').map_or("", |(dir, _)| dir);
        let proper =
            |segment: &str| !matches!(segment, "" | "." | "..") && !segment.chars().any(char::is_control);
        let dir = if dir.split('/').all(proper) { self.dir(dir) } else { self.keys.clone() };
        Scope { dir, prefix: prefix.to_owned() }
    }
}

/// The path and all above it that are longer than `than`, from the top, without the path itself.
fn ancestors(path: &str, than: usize) -> Vec<String> {
    let ends = path.char_indices().filter(|(at, c)| *c == '/' && *at > than);
    ends.filter_map(|(at, _)| path.get(..at)).map(str::to_owned).collect()
}

trait SplitAtLeaf {
    fn split_at_leaf(&self) -> Option<(&str, &str)>;
}

impl SplitAtLeaf for str {
    /// The directories and the name of the key.
    fn split_at_leaf(&self) -> Option<(&str, &str)> {
        let (dirs, name) = self.rsplit_once('/').unwrap_or(("", self));
        Some((dirs, name.strip_prefix(LEAF)?))
    }
}

/// Whether ZooKeeper takes the character in a path, and we don't need it for ourselves.
fn plain(c: char) -> bool {
    c != '%' && !c.is_control() && !matches!(c, '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

fn encode(segment: &str, path: &mut String) {
    for (at, c) in segment.char_indices() {
        if plain(c) && (at > 0 || c != LEAF) {
            path.push(c);
            continue;
        }
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            let _ = write!(path, "%{byte:02X}");
        }
    }
}

fn decode(segment: &str) -> Option<String> {
    if segment.starts_with(LEAF) {
        return None;
    }
    Some(percent_decode_str(segment).decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> Paths {
        Paths::new("/apps/shop")
    }

    #[test]
    fn keys_come_back() {
        for (key, path) in [
            ("a", "/apps/shop/keys/=a"),
            ("a/b/c", "/apps/shop/keys/a/b/=c"),
            ("=a/=", "/apps/shop/keys/%3Da/=%3D"),
            ("a=b/50%", "/apps/shop/keys/a=b/=50%25"),
            ("💡/käse \u{e000}", "/apps/shop/keys/%F0%9F%92%A1/=käse %EE%80%80"),
        ] {
            assert_eq!(paths().leaf(key), path);
            assert_eq!(paths().key(path).as_deref(), Some(key));
        }
        for path in ["/apps/shop/keys", "/apps/shop/keys/a", "/apps/shop/guards/=a", "/apps/shop/keys/=a/=b"]
        {
            assert_eq!(paths().key(path), None, "{path}");
        }
    }

    #[test]
    fn what_is_above_a_key() {
        assert_eq!(paths().dirs("/apps/shop/keys/a/b/=c"), ["/apps/shop/keys/a", "/apps/shop/keys/a/b"]);
        assert!(paths().dirs("/apps/shop/keys/=c").is_empty());
        let all = ["/apps", "/apps/shop", "/apps/shop/keys", "/apps/shop/guards"];
        assert_eq!(paths().permanent(), all);
        assert_eq!(paths().beginning("/apps/shop/keys").as_deref(), Some(""));
        assert_eq!(paths().beginning("/apps/shop/keys/a/%3Db").as_deref(), Some("a/=b/"));
    }

    #[test]
    fn a_prefix_has_its_directory() {
        for (prefix, dir) in [
            ("", "/apps/shop/keys"),
            ("a", "/apps/shop/keys"),
            ("a/", "/apps/shop/keys/a"),
            ("a/b", "/apps/shop/keys/a"),
            ("a/b/", "/apps/shop/keys/a/b"),
            ("a//b", "/apps/shop/keys"),
            ("../b", "/apps/shop/keys"),
        ] {
            assert_eq!(paths().scope(prefix).dir, dir, "{prefix}");
        }
    }

    #[test]
    fn guards_are_spread() {
        let guards: std::collections::BTreeSet<_> =
            (0..4000).map(|n| paths().guard(&format!("locks/{n}"))).collect();
        assert_eq!(guards.len(), 256);
        assert_eq!(paths().guard("a").len(), "/apps/shop/guards/00".len());
    }
}
