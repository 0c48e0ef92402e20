//! The cases of the bus: the contract of [`BusEngine`](linchpin::bus::BusEngine), point by point.

mod close;
mod death;
mod delay;
mod failover;
mod letters;
mod order;
mod outage;
mod partitions;
mod publisher;
mod redelivery;
mod replay;
mod restart;
mod retention;
mod runner;
mod topics;
mod travel;

use crate::case::{Case, Class, Need, Run};

macro_rules! cases {
    ($($file:ident::$name:ident => $class:ident [$($need:ident)*])*) => {
        &[$(Case {
            name: stringify!($name),
            class: Class::$class,
            needs: &[$(Need::$need),*],
            run: Run::Bus(|world| Box::pin($file::$name(world))),
        }),*]
    };
}

pub(crate) const CASES: &[Case] = cases! {
    travel::hundred_in_hundred_out_intact => Basic [Groups Metadata]
    travel::five_thousand_over_fifty_subscribers => Race [Groups]
    travel::topics_are_isolated => Basic [Groups]
    travel::every_group_gets_all => Basic [Groups]
    travel::a_new_group_gets_old_messages => Basic [Groups Replay]
    travel::a_new_group_can_start_at_the_newest => Basic [Groups Replay]
    travel::broadcast_gets_all_and_leaves_nothing => Basic [Broadcast]
    travel::a_waiting_fetch_wakes_when_something_comes => Timing [Groups]
    travel::an_empty_fetch_waits_as_long_as_asked => Timing [Groups]
    travel::a_fetch_is_no_larger_than_asked => Basic [Groups]
    travel::a_slow_consumer_is_bounded => Basic [Groups]
    travel::several_tasks_fetch_from_one_subscription => Race [Groups]
    travel::cancelled_fetches_lose_nothing => Race [Groups]

    topics::ensure_is_idempotent => Basic []
    topics::a_missing_topic_is_not_found => Basic [Groups]
    topics::wrong_names_are_refused => Basic [Groups]
    topics::options_out_of_range_are_refused => Basic [Groups]
    topics::a_removed_topic_ends_its_subscriptions => Basic [Groups]
    topics::a_removed_group_ends_its_subscriptions => Basic [Groups]
    topics::a_topic_made_again_is_empty => Basic [Groups]
    topics::a_closed_engine_answers_closed => Basic [Groups]
    topics::oversize_is_refused_alone => Basic [Groups Metadata]
    topics::stats_add_up => Basic [Groups Redelivery Delay]

    partitions::keys_choose_partitions_as_kafka_does => Basic [Groups Metadata]
    partitions::partitions_are_chosen_by_hand_or_in_turn => Basic [Groups Metadata]
    partitions::offsets_rise => Basic [Groups Offsets Metadata]
    partitions::a_subscription_to_chosen_partitions_gets_only_those => Basic [Groups]

    redelivery::acknowledged_stays_acknowledged => Timing [Groups]
    redelivery::a_nack_comes_back_after_its_delay => Timing [Groups Redelivery Delay]
    redelivery::attempts_count_up => Timing [Groups Redelivery]
    redelivery::a_dropped_subscription_loses_its_deliveries => Timing [Groups Redelivery]
    redelivery::a_late_ack_is_fenced_and_changes_nothing => Timing [Groups Redelivery]
    redelivery::extending_keeps_a_delivery => Timing [Groups Redelivery]
    redelivery::a_batch_can_be_settled_in_parts => Basic [Groups Redelivery]
    redelivery::settling_twice_is_fenced => Basic [Groups]
    redelivery::a_failing_message_does_not_hold_up_others => Basic [Groups Redelivery]
    redelivery::an_extended_delivery_outlives_a_lapsed_membership => Timing [Groups Redelivery]

    letters::the_last_attempt_makes_a_dead_letter => Basic [Groups Redelivery Metadata]
    letters::silence_at_the_last_attempt_makes_a_dead_letter => Timing [Groups Redelivery Metadata]
    letters::a_hopeless_message_is_dead_at_once => Basic [Groups Redelivery Metadata]
    letters::redrive_reaches_only_the_group_it_failed_in => Basic [Groups Redelivery Metadata]
    letters::redrive_keeps_the_partition => Basic [Groups Redelivery Metadata]

    order::keys_stay_in_order => Race [Groups Ordered]
    order::one_of_a_key_at_a_time => Basic [Groups Ordered]
    order::keys_stay_in_order_across_nacks => Basic [Groups Ordered Redelivery]
    order::keys_stay_in_order_across_the_death_of_their_owner => Timing [Groups Ordered Redelivery]
    order::a_poison_key_does_not_block_others => Basic [Groups Ordered Redelivery]
    order::partitions_stay_in_order_across_nacks => Basic [Groups Ordered Redelivery]
    order::partitions_stay_in_order => Race [Groups Ordered Offsets]
    order::a_silent_owner_is_fenced => Timing [Groups Ordered Redelivery]
    order::members_come_and_go_without_disorder => Race [Groups Ordered]
    order::a_later_owner_has_a_larger_fence => Basic [Groups Ordered]
    order::members_share_partitions_fairly => Timing [Groups Ordered]

    close::closing_hands_back_at_once => Basic [Groups Redelivery]
    close::a_clean_stop_causes_no_redelivery => Timing [Groups]
    close::what_was_never_handed_out_is_no_attempt => Basic [Groups Redelivery]
    close::ten_members_closing_at_once_lose_nothing => Race [Groups Redelivery]
    close::a_closed_subscription_answers_closed => Basic [Groups]

    delay::a_delayed_message_comes_after_its_delay => Timing [Groups Delay]
    delay::delayed_messages_come_in_order_of_their_time => Timing [Groups Delay]

    replay::seeking_the_oldest_replays_all => Basic [Groups Replay]
    replay::seeking_the_newest_skips_all => Basic [Groups Replay Redelivery]
    replay::seeking_a_position_moves_one_partition => Basic [Groups Replay Offsets]
    replay::seeking_fences_what_is_in_hand => Basic [Groups Replay]
    replay::seeking_a_time_replays_from_there => Timing [Groups Replay]
    replay::groups_start_where_they_are_told => Timing [Groups Replay Offsets]

    retention::length_removes_the_oldest_settled => Basic [Groups Retention]
    retention::age_removes_the_oldest_settled => Timing [Groups Retention]
    retention::what_a_group_has_not_settled_stays => Timing [Groups Retention]

    publisher::ten_tasks_publish_ten_thousand => Race [Groups]
    publisher::receipts_match_what_consumers_see => Basic [Groups Offsets Metadata]
    publisher::closing_publishes_all_it_accepted => Race [Groups]

    runner::handlers_retry_and_bury => Timing [Groups Redelivery Delay Metadata]
    runner::handlers_of_one_key_take_turns => Race [Groups Ordered Redelivery Delay]
    runner::a_slow_handler_keeps_its_lease => Timing [Groups Redelivery]

    restart::messages_and_progress_survive => Fault [Groups Durable]
    restart::ten_thousand_survive_two_restarts => Fault [Groups Durable Redelivery]
    restart::attempts_survive => Fault [Groups Durable Redelivery]
    restart::delays_survive => Fault [Groups Durable Redelivery Delay]

    death::a_killed_consumer_loses_its_deliveries => Fault [Groups Redelivery Shared]
    death::a_frozen_consumer_is_fenced => Fault [Groups Redelivery Shared]
    death::attempts_survive_the_death_of_every_process => Fault [Groups Redelivery Shared Durable]
    death::a_killed_publisher_loses_nothing_acknowledged => Fault [Groups Shared Durable Offsets]
    death::keys_stay_in_order_across_a_kill => Fault [Groups Ordered Redelivery Shared]
    death::two_processes_publish_and_two_consume => Race [Groups Shared]
    death::another_process_is_woken => Timing [Groups Shared]

    outage::ten_thousand_survive_kills_of_the_server => Outage [Groups Durable Redelivery]
    outage::publishing_during_an_outage_fails_or_persists => Outage [Groups Durable Redelivery]
    outage::a_frozen_server_is_told_of_and_loses_nothing => Outage [Groups Durable Redelivery]
    outage::progress_survives_a_kill_of_the_server => Outage [Groups Durable Redelivery]
    outage::cut_connections_lose_nothing => Cut [Groups Durable Redelivery]

    failover::lost_leaders_lose_nothing_acknowledged => Failover [Groups Durable Redelivery Failover]
    failover::work_goes_on_after_a_failover => Failover [Groups Durable Redelivery]
};
