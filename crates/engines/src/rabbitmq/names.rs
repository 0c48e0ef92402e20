//! What exchanges and queues are called.

/// The longest name in AMQP is 255 bytes; what is longer than this is cut, and told apart by its hash.
const LONGEST: usize = 150;

#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The exchange of a topic.
    pub(super) fn exchange(&self, topic: &str) -> String {
        format!("{}{}", self.prefix, short(topic))
    }

    /// The record of all topics and groups.
    pub(super) fn book(&self) -> String {
        format!("{}~topics", self.prefix)
    }

    /// The lock around that record.
    pub(super) fn lock(&self) -> String {
        format!("{}~topics.lock", self.prefix)
    }

    /// A queue that nothing else is called.
    pub(super) fn seal(&self) -> String {
        format!("{}~seal-{}", self.prefix, uuid::Uuid::new_v4().simple())
    }

    /// What the queues of a slot begin with: those of one group, or those that wait for the first.
    pub(super) fn slot(&self, topic: &str, slot: u64) -> Slot {
        Slot { base: format!("{}/{slot}", self.exchange(topic)) }
    }
}

/// Names of one group's queues. The number of a slot is never used again.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    base: String,
}

impl Slot {
    /// The messages of a partition.
    pub(super) fn queue(&self, partition: u32) -> String {
        format!("{}/{partition}", self.base)
    }

    /// Every living member is a consumer of it.
    pub(super) fn roster(&self) -> String {
        format!("{}/members", self.base)
    }

    /// Every member that wants partitions is a consumer of it.
    pub(super) fn wanting(&self) -> String {
        format!("{}/wanting", self.base)
    }

    /// Holds one message: who has that in hand owns the partition.
    pub(super) fn turn(&self, partition: u32) -> String {
        format!("{}/{partition}/turn", self.base)
    }

    /// What owners leave to those who come after them.
    pub(super) fn notes(&self, partition: u32) -> String {
        format!("{}/{partition}/notes", self.base)
    }

    /// Where nacked messages wait for about so many milliseconds.
    pub(super) fn stage(&self, ttl: u64) -> String {
        stage(&self.base, ttl)
    }
}

/// Where messages wait for about so many milliseconds before they go on; a queue, and the exchange before it.
pub(super) fn stage(base: &str, ttl: u64) -> String {
    format!("{base}/after/{ttl}ms")
}

fn short(name: &str) -> String {
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    // FNV-1a: its values are part of the names on the server, so they must never change.
    let hash = name.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    let head: String = name.chars().take(LONGEST - 33).collect();
    format!("{head}~{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_names_fit_and_stay_apart() {
        let names = Names::new(&"p".repeat(64));
        let (one, two) = ("x".repeat(249), format!("{}y", "x".repeat(248)));
        assert_ne!(names.exchange(&one), names.exchange(&two));
        let slot = names.slot(&one, u64::from(u32::MAX));
        for name in [slot.notes(1023), slot.stage(1 << 40), slot.roster(), slot.wanting()] {
            assert!(name.len() <= 255, "{name}");
        }
        assert_eq!(Names::new("a-").slot("orders", 1).queue(0), "a-orders/1/0");
    }
}
