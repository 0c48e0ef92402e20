//! Groups: native consumer groups of a topic's streams, with a record of their own beside each.

use std::time::Duration;

use futures_util::future::try_join_all;
use linchpin_core::bus::{Order, Start, SubscribeOptions, check_name};
use linchpin_core::{Error, Kind, Result, Retry};
use uuid::Uuid;

use super::core::Core;
use super::error::{NO_TOPIC, ORDER, error, map, no_topic};
use super::script::{Call, JOIN, SEEK};
use super::topic::{Known, check_start, start_of};

/// What the groups of broadcast subscribers are called; no other name begins like this.
pub(super) const BROADCAST: &str = "~";

/// A group that a member joined.
#[derive(Debug, Clone)]
pub(super) struct Joined {
    pub(super) group: String,
    /// Tells the group from a later one of the same name.
    pub(super) born: String,
    pub(super) consumer: String,
    /// Rises with the time the member joined.
    pub(super) number: i64,
}

/// How long a member counts as alive after it last said so.
pub(super) fn lease(options: &SubscribeOptions) -> Duration {
    options.ack_wait.min(Duration::from_secs(30))
}

/// The partitions a member restricts itself to, as its entry holds them.
pub(super) fn only(options: &SubscribeOptions) -> String {
    let list = options.partitions.iter().flatten().map(u32::to_string);
    list.collect::<Vec<_>>().join(",")
}

impl Core {
    /// Adds a member to a group, creating the group if need be.
    pub(super) async fn join(
        &self,
        topic: &Known,
        options: &SubscribeOptions,
        shelf: Duration,
    ) -> Result<Joined> {
        let fresh = Uuid::now_v7().simple().to_string();
        let group = options.group.clone().unwrap_or_else(|| format!("{BROADCAST}{fresh}"));
        // Others read from its end how long what the consumer holds is its own.
        let held = (options.ack_wait + shelf).as_millis();
        let consumer = format!("lp.{}.{held}", Uuid::now_v7().simple());
        let call = Call::new(&JOIN).key(self.keys.topic(&topic.name)).key(self.keys.groups(&topic.name));
        let call = call.key(self.keys.members(&topic.name, &group)).text(&group).text(&fresh).text(&consumer);
        let call = call.number(lease(options).as_millis()).number(u8::from(options.order != Order::None));
        let joining = self.link.try_call(&call.text(&only(options)), "subscribe").await?;
        let (born, complete, number): (String, bool, i64) = joining.map_err(|e| match e.code() {
            Some(NO_TOPIC) => no_topic(&topic.name).op("subscribe"),
            Some(ORDER) => other_order(e.detail()).op("subscribe"),
            _ => map(e, "subscribe"),
        })?;
        if complete {
            self.check_known(topic, &group, &born).await?;
        } else {
            self.open_group(topic, &group, &born, options.start).await?;
        }
        Ok(Joined { group, born, consumer, number })
    }

    async fn open_group(&self, topic: &Known, group: &str, born: &str, start: Start) -> Result<()> {
        let opening = (0..topic.options.partitions).map(|n| async move {
            let (keys, name) = (&self.keys, &topic.name);
            let call = Call::new(self.form.scripts.open).keys(&keys.part(name, n, group));
            let call = call.key(keys.record(name, n)).key(keys.stream(name, n));
            let call = call.text(group).text(born).text(&start_of(start, n));
            self.link.call::<i64>(&call, "subscribe").await
        });
        try_join_all(opening).await?;
        self.complete(topic, group, born).await
    }

    async fn complete(&self, topic: &Known, group: &str, born: &str) -> Result<()> {
        let mut done = redis::cmd("HSET");
        done.arg(self.keys.groups(&topic.name)).arg(group).arg(born);
        self.link.command(&done, "subscribe").await.map(drop)
    }

    /// A group that the topic's record names stands on every partition: one that was lost isn't begun anew in silence.
    async fn check_known(&self, topic: &Known, group: &str, born: &str) -> Result<()> {
        let checking = (0..topic.options.partitions).map(|n| async move {
            let [_, record, ..] = self.keys.part(&topic.name, n, group);
            let mut cmd = redis::cmd("HGET");
            cmd.arg(record).arg("born");
            let answer = self.link.command(&cmd, "subscribe").await?;
            let there: Option<String> =
                redis::from_redis_value(answer).map_err(|e| map(e.into(), "subscribe"))?;
            if there.as_deref() == Some(born) {
                return Ok(());
            }
            let message =
                format!("group {group:?} lost its place in partition {n} of topic {:?}", topic.name);
            Err(error(Kind::Corrupt, message)
                .op("subscribe")
                .help("the server lost it: say by `seek` where the group goes on, or remove it"))
        });
        try_join_all(checking).await.map(drop)
    }

    pub(super) async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        check_name("group", group).map_err(|e| e.engine(super::NAME).op("seek"))?;
        let known = self.look_up(topic, "seek").await?;
        check_start(to, known.options.partitions).map_err(|e| e.op("seek"))?;
        let known = known.as_ref();
        let entry = self.groups_of(topic, "seek").await?.remove(group);
        let born = match entry {
            Some(born) if !born.starts_with('?') => born,
            other => {
                let fresh = other.unwrap_or_else(|| format!("?{}", Uuid::now_v7().simple()));
                let mut set = redis::cmd("HSET");
                set.arg(self.keys.groups(topic)).arg(group).arg(&fresh);
                self.link.command(&set, "seek").await?;
                let born = fresh.trim_start_matches('?').to_owned();
                return self.open_group(known, group, &born, to).await;
            }
        };
        let moved = match to {
            Start::At(position) => position.partition..position.partition + 1,
            _ => 0..known.options.partitions,
        };
        let (group, born) = (group, born.as_str());
        let moving = moved.map(|n| async move {
            let [stream, record, waiting, _] = self.keys.part(topic, n, group);
            let call = Call::new(&SEEK).key(stream).key(record).key(waiting);
            self.link.call::<i64>(&call.text(group).text(born).text(&start_of(to, n)), "seek").await
        });
        try_join_all(moving).await?;
        self.forget_fetched(topic, Some(group));
        self.tell(topic);
        Ok(())
    }

    /// What members here fetched is no longer theirs: their group was moved or removed.
    pub(super) fn forget_fetched(&self, topic: &str, group: Option<&str>) {
        let all = self.members().into_iter().filter(|member| member.topic.name == topic);
        all.filter(|m| group.is_none_or(|group| group == m.joined.group)).for_each(|m| m.forget_fetched());
    }

    pub(super) async fn remove_group(&self, topic: &str, group: &str) -> Result<()> {
        let known = self.look_up(topic, "remove").await?;
        if !self.groups_of(topic, "remove").await?.contains_key(group) {
            let message = format!("topic {topic:?} has no group {group:?}");
            return Err(error(Kind::NotFound, message)
                .op("remove")
                .help("`stats` names the groups of a topic"));
        }
        self.drop_group(&known, group, "").await?;
        self.forget_fetched(topic, Some(group));
        self.tell(topic);
        Ok(())
    }

    /// Removes a group; only that of this birth, if one is named.
    pub(super) async fn drop_group(&self, topic: &Known, group: &str, born: &str) -> Result<()> {
        let (mut forget, groups) = (redis::pipe(), self.keys.groups(&topic.name));
        forget.cmd("HDEL").arg(&groups).arg(group);
        forget.cmd("DEL").arg(self.keys.members(&topic.name, group));
        self.link.pipeline(forget, &groups, "remove").await?.into_iter().collect::<Result<Vec<_>>>()?;
        let dropping = (0..topic.options.partitions).map(|n| async move {
            let call = Call::new(self.form.scripts.drop).keys(&self.keys.part(&topic.name, n, group));
            let call = call.key(self.keys.record(&topic.name, n)).text(group).text(born);
            self.link.call::<i64>(&call, "remove").await
        });
        try_join_all(dropping).await.map(drop)
    }

    /// Wakes who waits for messages of a topic, here and elsewhere.
    pub(super) fn tell(&self, topic: &str) {
        let channel = self.keys.hints(topic);
        self.wake(Some(&channel));
        self.link.hint(channel, String::new());
    }
}

fn other_order(detail: Option<&str>) -> Error {
    let after = detail.and_then(|ms| ms.trim().parse().ok()).unwrap_or(1_000);
    error(Kind::Conflict, "the group has living members with another order")
        .retry_as(Retry::Safe { after: Duration::from_millis(after) })
        .help("give all members of a group an order, or none of them")
}

/// A script's word that the group isn't there, as an error that names it.
pub(super) fn gone(failure: Error, topic: &str, group: &str) -> Error {
    if failure.kind() != Kind::NotFound {
        return failure;
    }
    error(Kind::NotFound, format!("group {group:?} of topic {topic:?} was removed"))
        .help("subscribing creates a group anew; `Bus::ensure` creates a topic")
}
