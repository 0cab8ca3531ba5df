//! All tests, one file for each part of the system that a user would name. A
//! test is an `async fn(Scene) -> Result<()>` and a line here.

mod bad_input;
mod channel;
mod doors;
mod facts;
mod faults;
mod host_faults;
mod host_life;
mod hostile;
mod isolation;
mod kills;
mod lab_guest;
mod life;
mod list;
mod power_cuts;
mod subscribers;

use crate::runner::Case;

/// Every test, in the order in which they run.
pub fn all() -> Vec<Case> {
    crate::cases![
        lab_guest::boots_to_its_own_programs,
        life::boots_reports_and_stops,
        life::pauses_resumes_and_stops_while_paused,
        life::restarts_cold_and_refuses_what_cannot_be,
        life::stops_without_an_agent,
        facts::are_true_of_a_real_guest,
        bad_input::names_the_wrong_field,
        bad_input::names_all_wrong_fields_at_once,
        bad_input::refuses_the_same_name_twice,
        bad_input::refuses_to_start_what_cannot_boot,
        bad_input::survives_a_full_disk,
        list::goes_through_pages_filters_and_orders,
        doors::tcp_answers_only_health,
        doors::the_socket_is_for_root,
        doors::a_second_daemon_leaves,
        doors::all_mistakes_in_the_configuration_are_told,
        channel::survives_a_hundred_reconnects,
        channel::a_stale_shutdown_does_not_run,
        channel::an_agent_that_is_killed_comes_back,
        channel::a_guest_that_reboots_is_heard_again,
        hostile::garbage_costs_only_itself,
        hostile::a_line_without_end_is_dropped,
        hostile::deep_nesting_is_dropped,
        hostile::terminal_escapes_are_shown_escaped,
        hostile::a_hundred_megabytes_of_garbage,
        hostile::ten_thousand_messages_a_second,
        hostile::a_hello_each_millisecond,
        hostile::facts_that_grow_without_end,
        hostile::wide_json_is_dropped,
        hostile::a_port_that_opens_and_closes_all_the_time,
        hostile::a_guest_that_never_reads,
        faults::a_killed_qemu_is_a_failed_vm,
        faults::a_silent_monitor_is_told,
        faults::a_killed_daemon_finds_its_vms_again,
        faults::a_killed_keeper_leaves_the_vm_running,
        faults::daemon_and_keeper_killed_together,
        faults::a_vm_outlives_the_daemons_process_group_and_session,
        faults::ends_that_nobody_saw_are_told,
        kills::at_random_moments,
        host_faults::a_damaged_state_is_refused_or_read_as_it_was,
        host_faults::a_lost_state_is_not_begun_anew,
        host_faults::a_full_disk,
        host_faults::a_read_only_disk,
        host_faults::out_of_descriptors,
        host_faults::a_clock_set_back_an_hour_and_on_a_year,
        power_cuts::undo_nothing,
        isolation::qemu_has_no_rights_and_no_network,
        isolation::an_isolated_guest_reaches_no_loopback_port,
        isolation::a_guest_behind_passt_reaches_no_loopback_port,
        host_life::machines_outlive_the_daemon,
        host_life::a_host_goes_down_in_order_and_starts_what_is_to_be_started,
        subscribers::only_the_stopped_one_misses_events,
        subscribers::that_connect_a_thousand_times_a_second,
    ]
}
