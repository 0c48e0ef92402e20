//! What things are called on the server.
//!
//! | name | what it is |
//! |---|---|
//! | stream `<prefix><topic>`, subjects `<prefix><topic>.<partition>` | a topic |
//! | stream `<prefix>~state`, one message per subject | groups: their rosters and ledgers |
//! | stream `<prefix>~delayed` | messages that wait for their publish delay |
//! | subject `<prefix>~news.<topic>.<group>` | tells members to look at their group; not stored |
//!
//! A dot of a topic's or group's name is written `=` where a name may hold none.

/// The longest name of a stream that any server and file system takes, with room for a prefix.
const MAX_STREAM: usize = 200;

/// The names of one bus.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

/// One token of a subject, or the name of a stream: injective, because neither topics nor groups may have a `=`.
fn token(name: &str) -> String {
    let plain = name.replace('.', "=");
    if plain.len() <= MAX_STREAM {
        return plain;
    }
    let (head, _) = plain.split_at(MAX_STREAM - 17);
    format!("{head}~{:016x}", fnv(name.as_bytes()))
}

/// FNV-1a: its values are stored, so it never changes.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The stream of a topic.
    pub(super) fn stream(&self, topic: &str) -> String {
        format!("{}{}", self.prefix, token(topic))
    }

    /// The subject of a partition. A name that can't be a subject as it stands is written as its stream's.
    pub(super) fn subject(&self, topic: &str, partition: u32) -> String {
        if topic.split('.').any(str::is_empty) {
            return format!("{}.{partition}", self.stream(topic));
        }
        format!("{}{topic}.{partition}", self.prefix)
    }

    /// The stream of rosters and ledgers.
    pub(super) fn state(&self) -> String {
        format!("{}~state", self.prefix)
    }

    /// The stream of delayed messages.
    pub(super) fn delayed(&self) -> String {
        format!("{}~delayed", self.prefix)
    }

    /// The subject of a topic's delayed messages.
    pub(super) fn delayed_of(&self, topic: &str) -> String {
        format!("{}.{}", self.delayed(), token(topic))
    }

    /// The subject of a group's roster; `*` for all of a topic.
    pub(super) fn roster(&self, topic: &str, group: &str) -> String {
        format!("{}.roster.{}.{}", self.state(), token(topic), token(group))
    }

    /// The subject of a group's ledger of one partition; `*` for all.
    pub(super) fn ledger(&self, topic: &str, group: &str, partition: &str) -> String {
        format!("{}.ledger.{}.{}.{partition}", self.state(), token(topic), token(group))
    }

    /// The subject that tells the members of a group.
    pub(super) fn news(&self, topic: &str, group: &str) -> String {
        format!("{}~news.{}.{}", self.prefix, token(topic), token(group))
    }

    /// Where this bus reads the server's clock.
    pub(super) fn clock(&self) -> String {
        format!("{}.clock", self.state())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_legal_and_differ() {
        let names = Names::new("shop-");
        assert_eq!(names.stream("orders.billing.dead"), "shop-orders=billing=dead");
        assert_eq!(names.subject("orders.eu", 3), "shop-orders.eu.3");
        assert_eq!(names.subject("a..b", 0), "shop-a==b.0");
        assert_eq!(names.roster("a.b", "*"), "shop-~state.roster.a=b.*");
        let (a, b) = (format!("{}a", "x".repeat(248)), format!("{}b", "x".repeat(248)));
        assert!(names.stream(&a) != names.stream(&b) && names.stream(&a).len() <= 5 + MAX_STREAM);
    }
}
