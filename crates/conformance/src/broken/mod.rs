//! Deliberately broken engines. The suite is itself under test: each of them must turn a named case red.

mod engines;
mod publishing;
mod receiving;
mod settling;

use linchpin::{Bus, Coord};

use crate::case::{Case, Run};
use crate::world::{SOUND, Tamper};

pub(crate) use engines::understate;

/// A sound engine with one fault.
pub(crate) struct Broken {
    /// What it does wrong.
    pub(crate) name: &'static str,
    /// The case that must fail on it.
    pub(crate) caught_by: &'static str,
    /// The target that is sound without it. It needs no server.
    pub(crate) on: &'static str,
    pub(crate) wrap: Wrap,
}

/// How the fault gets into the engine.
#[derive(Clone, Copy)]
pub(crate) enum Wrap {
    /// Not at all.
    None,
    Bus(fn(Bus) -> Bus),
    Coord(fn(Coord) -> Coord),
    Ids(&'static Tamper),
}

impl Wrap {
    pub(crate) fn fits(self, case: &Case) -> bool {
        matches!(
            (self, case.run),
            (Self::Bus(_), Run::Bus(_)) | (Self::Coord(_), Run::Coord(_)) | (Self::Ids(_), Run::Ids(_))
        )
    }

    pub(crate) fn bus(self) -> fn(Bus) -> Bus {
        if let Self::Bus(wrap) = self { wrap } else { |bus| bus }
    }

    pub(crate) fn coord(self) -> fn(Coord) -> Coord {
        if let Self::Coord(wrap) = self { wrap } else { |coord| coord }
    }

    pub(crate) fn ids(self) -> &'static Tamper {
        if let Self::Ids(tamper) = self { tamper } else { &SOUND }
    }
}

macro_rules! broken {
    ($($name:ident: $case:ident <= $wrap:expr;)*) => {
        &[$(Broken {
            name: stringify!($name),
            caught_by: stringify!($case),
            on: "memory",
            wrap: Wrap::Bus($wrap),
        }),*]
    };
}

pub(crate) const BROKEN: &[Broken] = broken! {
    swallows_a_publish: five_thousand_over_fifty_subscribers <= |bus| bus.layer(publishing::Swallows);
    stores_twice: every_group_gets_all <= |bus| bus.layer(publishing::Doubles);
    drops_headers: hundred_in_hundred_out_intact <= |bus| bus.layer(publishing::DropsHeaders);
    ignores_the_delay_of_a_publish: a_delayed_message_comes_after_its_delay <= |bus| bus.layer(publishing::Hurries);
    stores_a_batch_backwards: keys_stay_in_order <= |bus| bus.layer(publishing::Backwards);
    refuses_the_whole_batch: oversize_is_refused_alone <= |bus| bus.layer(publishing::AllOrNothing);
    hashes_keys_its_own_way: keys_choose_partitions_as_kafka_does <= |bus| bus.layer(publishing::HashesOddly);

    ignores_key_order: one_of_a_key_at_a_time <= |bus| bus.layer(receiving::IgnoresOrder);
    ignores_max_in_flight: a_slow_consumer_is_bounded <= |bus| bus.layer(receiving::Unbounded);
    never_buries: the_last_attempt_makes_a_dead_letter <= |bus| bus.layer(receiving::NeverBuries);
    leaks_between_groups: every_group_gets_all <= |bus| bus.layer(receiving::OneGroup);
    ignores_chosen_partitions: a_subscription_to_chosen_partitions_gets_only_those
        <= |bus| bus.layer(receiving::AllPartitions);
    starts_every_group_at_the_oldest: groups_start_where_they_are_told <= |bus| bus.layer(receiving::FromTheOldest);
    forgets_attempts: attempts_count_up <= |bus| bus.layer(receiving::ForgetsAttempts);
    repeats_a_fence: a_later_owner_has_a_larger_fence <= |bus| bus.layer(receiving::RepeatsFence);
    loses_a_cancelled_fetch: cancelled_fetches_lose_nothing <= |bus| bus.layer(receiving::LosesCancelled);
    wakes_late: a_waiting_fetch_wakes_when_something_comes <= |bus| bus.layer(receiving::WakesLate);

    drops_an_ack: acknowledged_stays_acknowledged <= |bus| bus.layer(settling::DropsAnAck::default());
    answers_ok_to_a_late_ack: a_late_ack_is_fenced_and_changes_nothing <= |bus| bus.layer(settling::SaysOk);
    lets_a_late_ack_count: a_late_ack_is_fenced_and_changes_nothing
        <= |bus| bus.layer(settling::LateAckCounts::default());
    ignores_nack_delay: a_nack_comes_back_after_its_delay <= |bus| bus.layer(settling::HurriesBack);
    comes_back_too_late: a_nack_comes_back_after_its_delay <= |bus| bus.layer(settling::ComesBackLate);
    ignores_extend: extending_keeps_a_delivery <= |bus| bus.layer(settling::IgnoresExtend);
    acks_the_whole_batch: a_batch_can_be_settled_in_parts <= |bus| bus.layer(settling::AcksAll);
    loses_on_close: closing_hands_back_at_once <= |bus| bus.layer(settling::LosesOnClose::default());
    keeps_on_close: closing_hands_back_at_once <= |bus| bus.layer(settling::KeepsOnClose);

    ignores_seek: seeking_the_oldest_replays_all <= engines::ignore_seek;
    trims_what_is_not_settled: what_a_group_has_not_settled_stays <= engines::trim_too_much;
    never_trims: length_removes_the_oldest_settled <= engines::never_trim;
    lives_on_after_close: a_closed_engine_answers_closed <= engines::never_close;
    changes_a_refused_topic: ensure_is_idempotent <= engines::ensure_anything;
};
