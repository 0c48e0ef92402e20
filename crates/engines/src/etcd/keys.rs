//! Keys, entries and leases, in etcd's spelling and in ours.

use linchpin_core::coord::{Entry, LeaseId, Rev, check_key};

use super::wire::KeyValue;

/// Where a space begins: what stands before each of its keys.
#[derive(Debug, Clone)]
pub(super) struct Space {
    prefix: Vec<u8>,
}

impl Space {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.as_bytes().to_vec() }
    }

    /// The key as etcd knows it.
    pub(super) fn key(&self, key: &str) -> Vec<u8> {
        [&self.prefix, key.as_bytes()].concat()
    }

    /// The first key, and the one after the last, of those that begin with `prefix`.
    pub(super) fn range(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        const EVERYTHING: [u8; 1] = [0];
        let first = self.key(prefix);
        if first.is_empty() {
            return (EVERYTHING.to_vec(), EVERYTHING.to_vec());
        }
        let mut end = first.clone();
        // UTF-8 has no byte 0xff.
        if let Some(last) = end.last_mut() {
            *last = last.saturating_add(1);
        }
        (first, end)
    }

    /// Ours, if it is a key that we can name: other programs are free to store others.
    pub(super) fn name(&self, key: &[u8]) -> Option<String> {
        let key = std::str::from_utf8(key.strip_prefix(self.prefix.as_slice())?).ok()?;
        check_key(key).is_ok().then(|| key.to_owned())
    }

    pub(super) fn entry(&self, kv: KeyValue) -> Option<Entry> {
        let key = self.name(&kv.key)?;
        let lease = (kv.lease != 0).then(|| lease(kv.lease));
        let (created, rev) = (rev(kv.create_revision), rev(kv.mod_revision));
        Some(Entry { key, value: kv.value, created, rev, lease })
    }
}

/// The key right after this one.
pub(super) fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

pub(super) fn rev(revision: i64) -> Rev {
    Rev(revision.unsigned_abs())
}

/// As `etcdctl lease list` shows it.
pub(super) fn lease(id: i64) -> LeaseId {
    LeaseId(format!("{:x}", id.cast_unsigned()))
}

/// `None` for what etcd can't have granted.
pub(super) fn lease_number(id: &LeaseId) -> Option<i64> {
    let number = u64::from_str_radix(&id.0, 16).ok()?.cast_signed();
    (number != 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_what_begins_with_the_prefix() {
        let space = Space::new("shop/");
        assert_eq!(space.range("a"), (b"shop/a".to_vec(), b"shop/b".to_vec()));
        assert_eq!(space.range(""), (b"shop/".to_vec(), b"shop0".to_vec()));
        assert_eq!(Space::new("").range(""), (vec![0], vec![0]));
        let (first, end) = Space::new("").range("é");
        assert!(first < "éa".as_bytes().to_vec() && "é€".as_bytes().to_vec() < end);
    }

    #[test]
    fn leases_are_told_as_etcd_tells_them() {
        assert_eq!(lease(0x694d_5765_fc71_500b).0, "694d5765fc71500b");
        assert_eq!(lease_number(&lease(-1)), Some(-1));
        assert_eq!(lease_number(&LeaseId("nonsense".into())), None);
    }

    #[test]
    fn keys_of_others_are_left_alone() {
        let space = Space::new("shop/");
        assert_eq!(space.name(b"shop/a/b").as_deref(), Some("a/b"));
        for foreign in [&b"shop/a//b"[..], b"shop/\xff", b"other/a", b"shop/"] {
            assert_eq!(space.name(foreign), None);
        }
    }
}
