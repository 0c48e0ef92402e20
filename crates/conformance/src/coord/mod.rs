//! The cases of coordination: the contract of [`CoordEngine`](linchpin::coord::CoordEngine), point by point.

pub(crate) mod absent;
mod broken;
mod keys;
mod leases;
mod locks;
mod outage;
mod processes;
mod races;
mod recipes;
mod registry;
mod settings;
mod tools;
mod watches;

use crate::broken::{Broken, Wrap};
use crate::case::{Case, Class, Need, Run};

macro_rules! cases {
    ($($file:ident::$name:ident => $class:ident [$($need:ident)*])*) => {
        &[$(Case {
            name: stringify!($name),
            class: Class::$class,
            needs: &[$(Need::$need),*],
            run: Run::Coord(|space| Box::pin($file::$name(space))),
        }),*]
    };
}

pub(crate) const CASES: &[Case] = cases! {
    keys::what_is_put_is_there => Basic []
    keys::absent_means_absent => Basic []
    keys::a_revision_guards_what_it_saw => Basic []
    keys::deleting_tells_whether_it_was_there => Basic []
    keys::revisions_rise_across_delete_and_create => Basic []
    keys::lists_are_in_order_and_in_pages => Basic []
    keys::a_prefix_is_taken_literally => Basic []
    keys::wrong_keys_are_refused => Basic []
    keys::too_large_a_value_is_refused => Basic []

    races::one_of_many_creates_a_key => Race []
    races::compare_and_set_loses_no_increment => Race []
    races::revisions_are_in_the_order_of_writes => Race []
    races::one_of_many_deletes_a_key => Race []

    leases::a_lease_that_ends_takes_its_keys_in_time => Timing []
    leases::a_renewed_lease_keeps_its_keys => Timing []
    leases::revoking_takes_the_keys_at_once => Basic []
    leases::an_ended_lease_is_not_found => Timing []
    leases::a_put_without_the_lease_frees_the_key => Timing []
    leases::a_key_moves_to_another_lease => Basic []
    leases::too_short_a_lease_is_refused => Basic []
    leases::revisions_rise_across_the_end_of_a_lease => Timing []
    leases::leases_end_one_by_one => Timing []

    watches::a_watch_begins_with_what_is_there => Basic []
    watches::a_watch_tells_every_kind_of_change => Basic []
    watches::a_watch_keeps_to_its_prefix => Basic []
    watches::a_waiting_watch_wakes_at_once => Timing []
    watches::a_watch_tells_of_the_end_of_a_lease_in_time => Timing []
    watches::a_cancelled_wait_loses_no_change => Race []
    watches::ten_thousand_changes_leave_no_hole => Race []
    watches::fifty_watchers_see_the_same => Race []

    locks::a_lock_is_passed_on_in_the_order_of_asking => Race []
    locks::a_token_rises_whenever_the_lock_is_taken => Basic []
    locks::trying_and_waiting_at_most_leave_nothing => Timing []
    locks::cancelled_waiters_leave_nothing => Race []
    locks::many_contend_and_never_two_hold => Race []
    locks::nobody_releases_what_another_holds => Timing []
    locks::a_killed_holder_is_followed => Fault [Shared]
    locks::a_frozen_holder_is_told_that_it_lost => Fault [Shared]
    recipes::an_acquire_whose_answer_was_lost_holds_once => Basic []
    recipes::readers_share_and_writers_exclude => Race []
    recipes::a_semaphore_gives_no_more_than_its_permits => Race []
    recipes::an_election_has_one_leader_at_a_time => Timing []

    locks::twenty_processes_contend => Race [Shared]
    locks::twenty_processes_contend_while_the_server_dies => Outage [Durable]
    locks::a_holder_is_told_before_a_silent_server_can_pass_it_on => Outage [Durable]
    locks::twenty_processes_contend_while_leaders_are_lost => Failover [Durable Failover]

    registry::a_registration_is_seen_in_another_process => Timing [Shared]
    registry::an_instance_registers_again => Timing []
    registry::a_killed_instance_is_gone_after_its_lease => Fault [Shared]
    registry::many_that_vanish_at_once_are_kept_as_suspects => Timing []
    registry::the_last_list_stays_while_the_registry_is_gone => Outage [Durable]

    settings::a_setting_is_followed_live => Timing []
    settings::the_last_good_value_is_kept => Basic []
    settings::of_many_one_compares_and_sets => Race []
    settings::a_setting_has_a_history_and_goes_back => Basic []
    settings::settings_outlast_the_server => Outage [Durable]

    processes::keys_and_revisions_survive_a_restart => Fault [Durable]
    processes::another_process_sees_and_is_woken => Timing [Shared]
    processes::a_killed_holder_loses_its_keys => Fault [Shared]
    processes::a_frozen_holder_is_told => Fault [Shared]
    processes::a_lease_lasts_while_many_processes_write => Race [Shared]
    processes::processes_lose_no_increment => Race [Shared]

    outage::increments_survive_kills_of_the_server => Outage [Durable]
    outage::a_frozen_server_is_told_of => Outage [Durable]
    outage::a_watch_has_no_hole_across_kills_of_the_server => Outage [Durable]
    outage::a_lease_ends_in_time_after_a_kill_of_the_server => Outage [Durable]
    outage::a_watch_has_no_hole_across_cut_connections => Cut [Durable]

    outage::revisions_rise_across_lost_leaders => Failover [Durable Failover]
    outage::work_goes_on_after_a_lost_leader => Failover [Durable]
};

macro_rules! broken {
    ($($name:ident: $case:ident <= $fault:ident;)*) => {
        &[$(Broken {
            name: stringify!($name),
            caught_by: stringify!($case),
            on: "memory",
            wrap: Wrap::Coord(|coord| broken::with(coord, broken::Fault::$fault)),
        }),*]
    };
}

pub(crate) const BROKEN: &[Broken] = broken! {
    repeats_a_revision: revisions_rise_across_delete_and_create <= RepeatsRevision;
    drops_a_change: ten_thousand_changes_leave_no_hole <= DropsChange;
    ignores_the_revision: a_revision_guards_what_it_saw <= IgnoresRevision;
    creates_what_is_there: one_of_many_creates_a_key <= CreatesAnyway;
    never_ends_a_lease: a_lease_that_ends_takes_its_keys_in_time <= KeepsLeases;
    ends_a_lease_early: a_renewed_lease_keeps_its_keys <= IgnoresRenewal;
    lists_out_of_order: lists_are_in_order_and_in_pages <= ListsBackwards;
    pages_without_regard: lists_are_in_order_and_in_pages <= IgnoresAfter;
    deletes_in_spite_of_the_condition: a_revision_guards_what_it_saw <= DeletesAnyway;
    forgets_the_snapshot: a_watch_begins_with_what_is_there <= EmptySnapshot;
    hides_the_end_of_a_lease: a_watch_tells_of_the_end_of_a_lease_in_time <= HidesDeletes;
    takes_any_key: wrong_keys_are_refused <= TakesAnyKey;
    writes_under_a_lease_that_is_gone: an_ended_lease_is_not_found <= WritesWithoutLease;
    repeats_a_token_after_release: a_token_rises_whenever_the_lock_is_taken <= CountsAnew;
    passes_a_lock_on_out_of_order: a_lock_is_passed_on_in_the_order_of_asking <= SwapsNeighbours;
    releases_what_another_holds: nobody_releases_what_another_holds <= DeletesAnother;
    does_not_tell_that_a_lock_is_lost: nobody_releases_what_another_holds <= RenewsTheDead;
    hides_that_an_instance_is_gone: an_instance_registers_again <= HidesDeletes;
    overwrites_a_setting: of_many_one_compares_and_sets <= IgnoresRevision;
};
