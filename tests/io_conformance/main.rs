//! One suite for every I/O back end: what a role may rely on.
//!
//! Each case takes a [`Backend`] and runs on all of them. Nothing sleeps: a case waits for facts and
//! gives up after a time that no working back end needs.

mod backend;
mod cases;
mod datagrams;
mod kernel_only;
mod peer_errors;
mod uring_only;

use backend::{Kernel, Sim};
use lbd::io::IoChoice::{IoUring, Mio};

/// The cases of a module, on one back end.
macro_rules! suite {
    ($module:ident on $backend:expr, as $name:ident: $($case:ident)*) => {
        mod $name { $(#[test] fn $case() {
            use super::*;
            if let Some(backend) = $backend { $module::$case(backend) }
        })* }
    };
}

macro_rules! everywhere {
    ($($case:ident),* $(,)?) => {
        suite! { cases on Kernel::v4(Mio), as mmsg_v4: $($case)* }
        suite! { cases on Kernel::v6(Mio), as mmsg_v6: $($case)* }
        suite! { cases on Kernel::without_offload(Mio), as mmsg_without_offload: $($case)* }
        suite! { cases on Kernel::v4(IoUring), as uring_v4: $($case)* }
        suite! { cases on Kernel::v6(IoUring), as uring_v6: $($case)* }
        suite! { cases on Kernel::without_offload(IoUring), as uring_without_offload: $($case)* }
        suite! { cases on Some(Sim::new()), as sim: $($case)* }
    };
}

macro_rules! over_the_kernel {
    ($($case:ident),* $(,)?) => {
        suite! { kernel_only on Kernel::v4(Mio), as mmsg_kernel_only: $($case)* }
        suite! { kernel_only on Kernel::v4(IoUring), as uring_kernel_only: $($case)* }
    };
}

macro_rules! over_both_families {
    ($module:ident, as $name:ident: $($case:ident),* $(,)?) => {
        mod $name {
            use super::*;
            suite! { $module on Kernel::v4(Mio), as mmsg_v4: $($case)* }
            suite! { $module on Kernel::v6(Mio), as mmsg_v6: $($case)* }
            suite! { $module on Kernel::v4(IoUring), as uring_v4: $($case)* }
            suite! { $module on Kernel::v6(IoUring), as uring_v6: $($case)* }
        }
    };
}

everywhere! {
    a_frame_goes_each_way,
    many_frames_reach_many_destinations_in_order,
    frames_share_datagrams_and_come_apart_at_the_stride,
    frames_of_different_lengths_keep_their_order,
    received_frames_can_be_sent_on_from_their_slots,
    a_wildcard_socket_tells_and_keeps_the_address_that_was_asked,
    each_socket_sends_from_its_own_address,
    a_full_turn_leaves_the_rest_for_the_next,
    a_flooded_socket_does_not_starve_another,
    a_datagram_longer_than_a_slot_is_counted_and_does_no_harm,
    what_cannot_be_sent_is_counted_and_the_rest_goes_out,
    a_peer_that_is_gone_does_not_stop_the_loop,
    an_empty_turn_is_harmless,
    what_comes_to_a_paused_socket_is_there_when_it_is_resumed,
    a_pause_in_the_middle_of_a_turn_keeps_what_was_read_and_leaves_the_rest,
}

over_the_kernel! {
    a_wait_ends_at_its_deadline_and_not_before,
    a_deadline_that_was_reached_by_traffic_does_not_shorten_the_next_wait,
    the_waker_ends_a_wait_again_and_again,
    offload_carries_many_datagrams_in_few_slots,
    a_datagram_without_a_byte_is_counted_and_does_no_harm,
    turns_full_of_empty_datagrams_pass,
    an_icmp_error_on_a_connected_socket_neither_stops_nor_hides_anything,
    datagrams_that_the_kernel_dropped_are_accounted_for,
    no_wake_up_is_lost_between_two_threads,
    sockets_survive_a_hand_over,
    what_comes_to_a_paused_socket_is_read_by_who_shares_it,
    a_paused_socket_ends_no_wait,
    whatever_is_paused_and_resumed_each_datagram_is_read_once,
    drops_are_counted_by_who_reads,
    a_back_end_can_move_to_its_thread,
}

over_both_families! { peer_errors, as errors_of_peers:
    a_dead_server_is_told_and_costs_the_others_nothing,
    each_socket_tells_of_its_own_peers,
    nothing_is_left_unread_beside_errors,
    more_errors_than_a_turn_lists_are_left_for_the_next,
    clients_that_are_gone_do_not_disturb_a_socket_that_reports_no_errors,
    errors_of_a_paused_socket_are_told_when_it_is_resumed,
}

over_both_families! { datagrams, as datagrams_of_servers:
    a_long_answer_passes_in_fragments_and_segmentation_goes_on,
    without_fragments_a_long_datagram_is_refused,
    frames_that_do_not_fit_together_leave_at_once_in_shorter_datagrams,
    a_datagram_that_does_not_fit_is_reported_once,
    a_transparent_socket_sends_from_addresses_of_others,
    other_sockets_do_not_send_from_addresses_of_others,
}
