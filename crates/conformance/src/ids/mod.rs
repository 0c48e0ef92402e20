//! The cases of ids: none comes twice, whatever dies.

pub(crate) mod absent;
mod broken;
mod clock;
mod draws;
mod leases;
mod other;
mod outage;
mod processes;
mod table;
mod targets;
mod tools;

pub(crate) use broken::BROKEN;
pub(crate) use targets::TARGETS;

use crate::case::{Case, Class, Need, Run};

macro_rules! cases {
    ($($file:ident::$name:ident => $class:ident [$($need:ident)*])*) => {
        &[$(Case {
            name: stringify!($name),
            class: Class::$class,
            needs: &[$(Need::$need),*],
            run: Run::Ids(|issuer| Box::pin($file::$name(issuer))),
        }),*]
    };
}

pub(crate) const CASES: &[Case] = cases! {
    draws::a_call_gives_as_many_as_asked => Basic []
    draws::ids_rise => Basic [Rising]
    draws::an_id_tells_when_it_was_made => Basic [Timed]
    draws::another_counter_is_apart => Basic [Counted]
    draws::a_segment_for_others_is_drawn_by_nobody => Basic [Counted]
    draws::wrong_options_are_refused => Basic []
    draws::many_open_at_once => Race []
    draws::many_handles_draw_and_none_comes_twice => Race []

    processes::eight_processes_draw_and_none_comes_twice => Race [Shared]
    processes::a_killed_process_and_its_successor_repeat_nothing => Fault [Shared Durable]
    processes::a_frozen_process_issues_nothing_past_its_lease => Fault [Leased Shared]
    processes::a_restart_repeats_nothing => Fault [Durable]
    processes::a_state_file_belongs_to_one_process => Basic [Filed]

    clock::a_full_millisecond_is_waited_for => Basic [Timed]
    clock::a_clock_a_little_behind_is_waited_for => Basic [Timed]
    clock::a_clock_far_behind_is_refused => Basic [Timed]
    clock::a_restart_with_the_clock_set_back_repeats_nothing => Basic [Timed]

    leases::worker_numbers_run_out_and_come_back => Timing [Leased]
    leases::a_number_taken_away_is_its_new_holders_alone => Timing [Leased]
    leases::ids_stop_before_a_silent_server_leases_their_number_again => Outage [Leased]

    table::other_programs_take_segments_of_the_same_row => Basic [Tabled]
    table::soft_deleted_rows_are_not_there => Basic [Tabled]
    table::wrong_rows_are_named => Basic [Tabled]
    table::an_older_state_is_refused => Basic [Tabled]

    outage::kills_of_the_server_repeat_nothing => Outage [Durable]
    outage::two_segments_outlast_the_server => Outage [Counted]
    outage::lost_leaders_repeat_nothing => Failover [Durable Failover]
    outage::numbers_of_an_unknown_outcome_are_nobodys => Cut [Counted]
};

/// What would be seen if it were declared absent though it is there, and a target where it is.
pub(crate) const UNDERSTATED: &[(Need, &str)] = &[
    (Need::Shared, "segment-sqlite"),
    (Need::Durable, "segment-sqlite"),
    (Need::Rising, "uuid-v7"),
    (Need::Timed, "snowflake"),
    (Need::Leased, "snowflake-memory"),
    (Need::Filed, "snowflake"),
    (Need::Counted, "memory"),
    (Need::Tabled, "segment-sqlite"),
];
