//! The one mapping of librdkafka's errors.

use std::time::Duration;

use linchpin_core::{Error, Kind, Retry};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::NAME;

/// An error of the driver as ours.
pub(super) fn map(error: KafkaError, op: &'static str) -> Error {
    let code = match &error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    };
    let mapped = match (&error, code) {
        (_, Some(code)) => of_code(code, op),
        (KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_), None) => {
            Error::new(Kind::Config, "librdkafka refuses the configuration")
                .help("check the options of the URL")
        }
        (KafkaError::Canceled, None) => Error::new(Kind::Closed, "the bus is closed"),
        (KafkaError::Nul(_), None) => Error::new(Kind::Invalid, "a name has a zero byte"),
        _ => Error::new(Kind::Unexpected, "librdkafka was used wrongly").help(BUG),
    };
    mapped.engine(NAME).op(op).source(error)
}

/// One of Kafka's or librdkafka's codes as an error.
pub(super) fn of_code(code: Code, op: &'static str) -> Error {
    let (kind, retry, message, help) = meaning(code);
    Error::new(kind, format!("{message} ({code:?})")).retry_as(retry).engine(NAME).op(op).help(help)
}

const BUG: &str = "this is a bug; please report it";
const REACH: &str = "check the addresses in the URL, and that the brokers run";
const RIGHTS: &str = "grant the user the right in the cluster's ACLs";
const LOGIN: &str = "check user, password and the sasl option of the URL";
const AGAIN: &str = "try again";
const SIZE: &str = "raise the topic's `max_message` and the brokers' message.max.bytes, or send a reference";
const ENSURE: &str = "create it with `ensure`";

fn meaning(code: Code) -> (Kind, Retry, &'static str, &'static str) {
    let safe = Retry::Safe { after: Duration::from_millis(100) };
    match code {
        Code::UnknownTopicOrPartition
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicId => {
            (Kind::NotFound, Retry::Never, "the topic or partition doesn't exist", ENSURE)
        }
        Code::TopicAlreadyExists => (Kind::AlreadyExists, Retry::Never, "the topic exists", AGAIN),
        Code::GroupIdNotFound => {
            (Kind::NotFound, Retry::Never, "the group doesn't exist", "subscribe creates it")
        }
        Code::NonEmptyGroup => (Kind::Conflict, safe, "the group has living members", "close them first"),
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::FencedInstanceId
        | Code::StaleMemberEpoch
        | Code::FencedMemberEpoch
        | Code::AssignmentLost => (Kind::Fenced, Retry::Never, "the partition went to another member", AGAIN),
        Code::RebalanceInProgress
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::WaitingForCoordinator
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::NotEnoughReplicas
        | Code::NotController
        | Code::ReassignmentInProgress => {
            (Kind::Unavailable, safe, "the cluster is between two states", AGAIN)
        }
        Code::NotEnoughReplicasAfterAppend => (
            Kind::Unavailable,
            Retry::Unknown,
            "too few replicas are in step",
            "bring the other brokers back",
        ),
        Code::MessageTimedOut | Code::RequestTimedOut | Code::OperationTimedOut | Code::TimedOutQueue => {
            (Kind::Timeout, Retry::Unknown, "the brokers gave no answer in time", REACH)
        }
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::NetworkException
        | Code::KafkaStorageError => (Kind::Unavailable, Retry::Unknown, "no broker can be reached", REACH),
        Code::Authentication | Code::SaslAuthenticationFailed | Code::IllegalSASLState => {
            (Kind::Denied, Retry::Never, "the login was refused", LOGIN)
        }
        Code::UnsupportedSASLMechanism => {
            (Kind::Config, Retry::Never, "the brokers don't take this login", LOGIN)
        }
        Code::SSL => (Kind::Config, Retry::Never, "TLS failed", "check the tls options of the URL"),
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => {
            (Kind::Denied, Retry::Never, "access was denied", RIGHTS)
        }
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => {
            (Kind::Invalid, Retry::Never, "the message is too large for the brokers", SIZE)
        }
        Code::InvalidSessionTimeout => (
            Kind::Invalid,
            Retry::Never,
            "the brokers don't take ack_wait as a session timeout",
            "choose ack_wait within group.min.session.timeout.ms and group.max.session.timeout.ms of the brokers, \
             or change these",
        ),
        Code::InconsistentGroupProtocol => {
            (Kind::Conflict, Retry::Never, "the group has members of another kind", "give them another group")
        }
        Code::GroupMaxSizeReached => (Kind::Limited, safe, "the group is full", "raise group.max.size"),
        Code::InvalidTopic => (
            Kind::Invalid,
            Retry::Never,
            "Kafka doesn't take the name",
            "names that differ only in '.' and '_' exclude each other, and name and prefix have 249 bytes together",
        ),
        Code::InvalidConfig | Code::PolicyViolation => (
            Kind::Invalid,
            Retry::Never,
            "the brokers refuse the topic's settings",
            "see the brokers' policies",
        ),
        Code::InvalidReplicationFactor => (
            Kind::Config,
            Retry::Never,
            "there are too few brokers for so many replicas",
            "lower the replicas option of the URL",
        ),
        Code::QueueFull | Code::ThrottlingQuotaExceeded => {
            (Kind::Limited, safe, "too much is under way", AGAIN)
        }
        Code::OffsetMetadataTooLarge => {
            (Kind::Limited, safe, "the brokers' offset.metadata.max.bytes is too small", "set it to 4096")
        }
        Code::BrokerDestroy => (Kind::Closed, Retry::Never, "the bus is closed", "open it again"),
        Code::Fatal
        | Code::OutOfOrderSequenceNumber
        | Code::InvalidProducerEpoch
        | Code::UnknownProducerId => {
            (Kind::Unavailable, Retry::Unknown, "the producer lost its place", "open the bus again")
        }
        _ => (Kind::Unexpected, Retry::Unknown, "the cluster answered with an error", BUG),
    }
}

/// Whether it may be otherwise in a moment.
pub(super) fn passing(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::Limited)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_kind() {
        for (code, kind) in [
            (Code::UnknownTopicOrPartition, Kind::NotFound),
            (Code::IllegalGeneration, Kind::Fenced),
            (Code::UnknownMemberId, Kind::Fenced),
            (Code::MessageTimedOut, Kind::Timeout),
            (Code::AllBrokersDown, Kind::Unavailable),
            (Code::SaslAuthenticationFailed, Kind::Denied),
            (Code::TopicAuthorizationFailed, Kind::Denied),
            (Code::MessageSizeTooLarge, Kind::Invalid),
            (Code::InvalidSessionTimeout, Kind::Invalid),
        ] {
            assert_eq!(of_code(code, "publish").kind(), kind, "{code:?}");
            assert!(of_code(code, "publish").remedy().is_some());
        }
    }

    #[test]
    fn retry_says_what_is_proven() {
        assert_eq!(of_code(Code::MessageTimedOut, "publish").retry(), Retry::Unknown);
        assert!(matches!(of_code(Code::NotEnoughReplicas, "publish").retry(), Retry::Safe { .. }));
        let refused = of_code(Code::InvalidSessionTimeout, "subscribe").to_string();
        assert!(refused.contains("group.min.session.timeout.ms"), "{refused}");
    }
}
