//! What there is to see of a Kafka cluster.

use linchpin_core::Finding;
use linchpin_core::Result;
use linchpin_core::url::EngineUrl;
use rdkafka::admin::ResourceSpecifier;
use rdkafka::consumer::Consumer;

use super::client::{Control, blocking};
use super::error::{map, of_code};
use super::url::{Acks, Config};

/// The shortest lease that other engines take.
const LEASE_MS: u64 = 1_000;
/// A group without members should be remembered for a week at least.
const REMEMBERED_MINUTES: u64 = 7 * 24 * 60;

/// Looks at the cluster that `url` names, without changing it.
pub async fn examine(url: EngineUrl) -> Vec<Finding> {
    let control = Config::from_url(&url).and_then(Control::new);
    let control = match control {
        Ok(control) => control,
        Err(error) => return vec![Finding::wrong("url", &error)],
    };
    let mut report = vec![acks(control.config.acks)];
    let broker = match brokers(&control).await {
        Ok(brokers) => {
            let text = format!("{} answer", brokers.len());
            report.push(if brokers.len() < 3 {
                Finding::look("brokers", format!("{text}: with fewer than 3 one failure may stop writing"))
            } else {
                Finding::well("brokers", text)
            });
            brokers.first().copied()
        }
        Err(error) => {
            report.push(Finding::wrong("brokers", &error));
            None
        }
    };
    if let Some(broker) = broker {
        match settings(&control, broker).await {
            Ok(settings) => report.extend(tell(&settings)),
            Err(error) => report.push(Finding::wrong("settings", &error)),
        }
    }
    report
}

fn acks(acks: Acks) -> Finding {
    match acks {
        Acks::All => Finding::well("acks", "all: every replica in step has a message before the answer"),
        Acks::Leader => Finding::look("acks", "leader: a change of leader may lose what was answered"),
        Acks::None => Finding::look("acks", "none: nobody says whether a message arrived"),
    }
}

async fn brokers(control: &Control) -> Result<Vec<i32>> {
    let (asker, timeout) = (control.asker.clone(), control.timeout());
    blocking("doctor", move || {
        let metadata = asker.fetch_metadata(None, timeout).map_err(|e| map(e, "doctor"))?;
        Ok(metadata.brokers().iter().map(|broker| broker.id()).collect())
    })
    .await
}

/// Names and values of a broker's settings.
async fn settings(control: &Control, broker: i32) -> Result<Vec<(String, String)>> {
    let resource = [ResourceSpecifier::Broker(broker)];
    let answers = control.admin.describe_configs(&resource, &control.options()).await;
    let answers = answers.map_err(|e| map(e, "doctor"))?;
    let mut all = Vec::new();
    for answer in answers {
        let entries = answer.map_err(|code| of_code(code, "doctor"))?.entries;
        all.extend(entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))));
    }
    Ok(all)
}

fn tell(settings: &[(String, String)]) -> Vec<Finding> {
    let value = |name: &str| settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let number = |name: &str| value(name).and_then(|value| value.parse::<u64>().ok());
    let judge = |name: &'static str, good: fn(u64) -> bool, else_what: &str| {
        let number = number(name)?;
        Some(match good(number) {
            true => Finding::well(name, number.to_string()),
            false => Finding::look(name, format!("{number}: {else_what}")),
        })
    };
    let findings = [
        judge(
            "min.insync.replicas",
            |n| n >= 2,
            "what was answered may be on one broker only; set 2 with 3 replicas",
        ),
        judge(
            "default.replication.factor",
            |n| n >= 3,
            "new topics have so few replicas; set 3, or replicas= in the URL",
        ),
        judge("group.min.session.timeout.ms", |n| n <= LEASE_MS, "a shorter ack_wait is refused"),
        judge("offset.metadata.max.bytes", |n| n >= 4096, "commits need 4096"),
        judge(
            "offsets.retention.minutes",
            |n| n >= REMEMBERED_MINUTES,
            "groups without members are forgotten after that",
        ),
    ];
    let mut report: Vec<_> = findings.into_iter().flatten().collect();
    if value("unclean.leader.election.enable") == Some("true") {
        report.push(Finding::look(
            "unclean.leader.election.enable",
            "true: a replica out of step may become leader, and what it lacks is lost",
        ));
    }
    report
}

#[cfg(test)]
mod tests {
    use linchpin_core::Status;

    use super::*;

    #[test]
    fn what_may_lose_messages_is_worth_a_look() {
        let settings = |replicas: &str, unclean: &str| {
            let pairs = [("min.insync.replicas", replicas), ("unclean.leader.election.enable", unclean)];
            tell(&pairs.map(|(name, value)| (name.to_owned(), value.to_owned())))
        };
        let statuses = |found: Vec<Finding>| found.into_iter().map(|f| f.status).collect::<Vec<_>>();
        assert_eq!(statuses(settings("1", "true")), [Status::Look, Status::Look]);
        assert_eq!(statuses(settings("2", "false")), [Status::Well]);
    }
}
