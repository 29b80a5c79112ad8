//! One suite for every I/O back end: what a role may rely on.
//!
//! Each case takes a [`Backend`] and runs on all of them. Nothing sleeps: a case waits for facts and
//! gives up after a time that no working back end needs.

mod backend;
mod cases;
mod mmsg_only;

use backend::{Mmsg, MmsgV6, MmsgWithoutOffload, Sim, has_ipv6};

macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        mod mmsg_v4 { $(#[test] fn $case() { super::cases::$case(super::Mmsg) })* }
        mod mmsg_v6 {
            $(#[test] fn $case() {
                if super::has_ipv6() { super::cases::$case(super::MmsgV6) }
            })*
        }
        mod mmsg_without_offload { $(#[test] fn $case() { super::cases::$case(super::MmsgWithoutOffload) })* }
        mod sim { $(#[test] fn $case() { super::cases::$case(super::Sim::new()) })* }
    };
}

suite! {
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
}
