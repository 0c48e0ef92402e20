//! The names of everything Linchpin keeps on the server.
//!
//! What belongs to one partition shares the hash tag `{prefix:topic:partition}`, and so one slot of a cluster; what belongs
//! to a topic as a whole shares `{prefix:topic}`. The stream of a partition is the tag itself. Lists have names of their own
//! behind the same tags, so that a topic of the one kind and a topic of the other don't meet.

/// Makes names under one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    /// Empty, or the prefix with a colon behind it.
    prefix: String,
    lists: bool,
}

/// The keys of one partition for one group: stream, or list of the group; record of the group, waiting, delayed.
pub(super) type PartKeys = [String; 4];

impl Keys {
    pub(super) fn new(prefix: &str, lists: bool) -> Self {
        Self { prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}:") }, lists }
    }

    /// What stands behind a tag, before all names but that of the messages themselves.
    fn kind(&self) -> &'static str {
        if self.lists { ":lists" } else { "" }
    }

    /// The names of all topics: a set.
    pub(super) fn catalogue(&self) -> String {
        format!("{}lp:{}", self.prefix, if self.lists { "lists" } else { "topics" })
    }

    /// The options of a topic: a hash.
    pub(super) fn topic(&self, topic: &str) -> String {
        format!("{{{}{topic}}}{}", self.prefix, self.kind())
    }

    /// The groups of a topic, with their births: a hash.
    pub(super) fn groups(&self, topic: &str) -> String {
        format!("{}:groups", self.topic(topic))
    }

    /// The members of a group: a hash.
    pub(super) fn members(&self, topic: &str, group: &str) -> String {
        format!("{}:m:{group}", self.topic(topic))
    }

    /// The messages of a partition: a stream; or a list, while there is no group.
    pub(super) fn stream(&self, topic: &str, partition: u32) -> String {
        format!("{{{}{topic}:{partition}}}{}", self.prefix, if self.lists { ":list" } else { "" })
    }

    fn root(&self, topic: &str, partition: u32) -> String {
        format!("{{{}{topic}:{partition}}}{}", self.prefix, self.kind())
    }

    /// The topic's birth as the partition knows it: a hash.
    pub(super) fn record(&self, topic: &str, partition: u32) -> String {
        format!("{}:p", self.root(topic, partition))
    }

    /// Messages that wait for their publish delay: a sorted set.
    pub(super) fn delayed(&self, topic: &str, partition: u32) -> String {
        format!("{}:d", self.root(topic, partition))
    }

    /// What the scripts of a group get: see [`PartKeys`].
    pub(super) fn part(&self, topic: &str, partition: u32, group: &str) -> PartKeys {
        let (stream, root) = (self.stream(topic, partition), self.root(topic, partition));
        let messages = if self.lists { format!("{stream}:{group}") } else { stream };
        [messages, format!("{root}:g:{group}"), format!("{root}:w:{group}"), format!("{root}:d")]
    }

    /// Where those who wait for messages of a topic are woken: a channel.
    pub(super) fn hints(&self, topic: &str) -> String {
        format!("{}lp:{}:{topic}", self.prefix, if self.lists { "list-hint" } else { "hint" })
    }

    /// Where the names of topics that were made, changed or removed are told: a channel.
    pub(super) fn changes(&self) -> String {
        format!("{}lp:{}", self.prefix, if self.lists { "list-changes" } else { "changes" })
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
        for keys in [Keys::new("shop", false), Keys::new("shop", true)] {
            has_one_slot(&keys);
        }
        assert_eq!(Keys::new("", false).stream("orders", 0), "{orders:0}");
        assert_eq!(Keys::new("", true).stream("orders", 0), "{orders:0}:list");
        assert_eq!(Keys::new("", true).part("orders", 0, "billing")[0], "{orders:0}:list:billing");
    }

    fn has_one_slot(keys: &Keys) {
        let mut part = keys.part("orders", 3, "billing").to_vec();
        part.extend([keys.stream("orders", 3), keys.record("orders", 3), keys.delayed("orders", 3)]);
        assert!(part.iter().all(|key| tag(key) == "shop:orders:3"), "{part:?}");
        let topic = [keys.topic("orders"), keys.groups("orders"), keys.members("orders", "billing")];
        assert!(topic.iter().all(|key| tag(key) == "shop:orders"), "{topic:?}");
    }
}
