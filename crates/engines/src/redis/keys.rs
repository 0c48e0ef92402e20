//! The names of everything Linchpin keeps on the server.
//!
//! What belongs to one partition shares the hash tag `{prefix:topic:partition}`, and so one slot of a cluster; what belongs
//! to a topic as a whole shares `{prefix:topic}`. The stream of a partition is the tag itself.

/// Makes names under one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// Empty, or the prefix with a colon behind it.
    prefix: String,
}

/// The keys of one partition for one group: stream, record of the group, waiting, delayed.
pub(super) type PartKeys = [String; 4];

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}:") } }
    }

    /// The names of all topics: a set.
    pub(super) fn catalogue(&self) -> String {
        format!("{}lp:topics", self.prefix)
    }

    /// The options of a topic: a hash.
    pub(super) fn topic(&self, topic: &str) -> String {
        format!("{{{}{topic}}}", self.prefix)
    }

    /// The groups of a topic, with their births: a hash.
    pub(super) fn groups(&self, topic: &str) -> String {
        format!("{{{}{topic}}}:groups", self.prefix)
    }

    /// The members of a group: a hash.
    pub(super) fn members(&self, topic: &str, group: &str) -> String {
        format!("{{{}{topic}}}:m:{group}", self.prefix)
    }

    /// The messages of a partition: a stream.
    pub(super) fn stream(&self, topic: &str, partition: u32) -> String {
        format!("{{{}{topic}:{partition}}}", self.prefix)
    }

    /// The topic's birth as the partition knows it: a hash.
    pub(super) fn record(&self, topic: &str, partition: u32) -> String {
        format!("{}:p", self.stream(topic, partition))
    }

    /// Messages that wait for their publish delay: a sorted set.
    pub(super) fn delayed(&self, topic: &str, partition: u32) -> String {
        format!("{}:d", self.stream(topic, partition))
    }

    /// What the scripts of a group get: see [`PartKeys`].
    pub(super) fn part(&self, topic: &str, partition: u32, group: &str) -> PartKeys {
        let stream = self.stream(topic, partition);
        let (record, waiting) = (format!("{stream}:g:{group}"), format!("{stream}:w:{group}"));
        let delayed = format!("{stream}:d");
        [stream, record, waiting, delayed]
    }

    /// Where those who wait for messages of a topic are woken: a channel.
    pub(super) fn hints(&self, topic: &str) -> String {
        format!("{}lp:hint:{topic}", self.prefix)
    }

    /// Where the names of topics that were made, changed or removed are told: a channel.
    pub(super) fn changes(&self) -> String {
        format!("{}lp:changes", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(key: &str) -> &str {
        key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or(key, |(tag, _)| tag)
    }

    #[test]
    fn a_partition_has_one_slot() {
        let keys = Keys::new("shop");
        let mut part = keys.part("orders", 3, "billing").to_vec();
        part.extend([keys.stream("orders", 3), keys.record("orders", 3), keys.delayed("orders", 3)]);
        assert!(part.iter().all(|key| tag(key) == "shop:orders:3"), "{part:?}");
        let topic = [keys.topic("orders"), keys.groups("orders"), keys.members("orders", "billing")];
        assert!(topic.iter().all(|key| tag(key) == "shop:orders"), "{topic:?}");
        assert_eq!(Keys::new("").stream("orders", 0), "{orders:0}");
    }
}
