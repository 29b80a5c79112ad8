use super::super::tests::{Bench, NOW, addr, header, reply, report};
use super::super::*;
use super::*;
use crate::base::rng::Rng;
use crate::pool::event::Event;
use crate::pool::order::{Order, Refused};
use crate::wire::tag::Opener;
use proptest::prelude::*;

/// The exported state of a balancer of one worker.
fn exported(bench: &mut Bench) -> Part {
    bench.balancer.export(bench.now)
}

/// NativePoolSettings of another process: another secret and seed.
fn settings() -> NativePoolSettings {
    NativePoolSettings { secret: [77; 16], seed: 99, ..Bench::settings(None) }
}

fn successor_with(part: &Part, settings: NativePoolSettings, now: Instant) -> Result<Bench, Mismatch> {
    let part: Part = postcard::from_bytes(&postcard::to_allocvec(part).unwrap()).unwrap();
    Ok(Bench::over(NativeRole::workers_from(settings, vec![part], now)?.remove(0), now))
}

fn successor(bench: &mut Bench) -> Bench {
    let part = exported(bench);
    successor_with(&part, settings(), bench.now).unwrap()
}

#[test]
fn the_successor_delivers_a_reply_in_flight_and_no_delivered_reply_again() {
    let mut old = Bench::new(None).with_server();
    let (first, second) = (old.dispatched(), old.dispatched());
    assert_eq!(old.turn(BACK, addr(50_000), &reply(&first, 2)).len(), 1);
    let mut new = successor(&mut old);
    assert_eq!(new.balancer.tree().total(), 1);
    assert_eq!(new.turn(BACK, addr(50_000), &reply(&first, 3)), [], "its client has it");
    assert_eq!(new.drops(DropReason::Duplicate), 1);
    let sent = new.turn(BACK, addr(50_000), &reply(&second, 4));
    assert_eq!((sent.len(), sent[0].0), (1, addr(40_000)));
    assert_eq!(new.turn(BACK, addr(50_000), &reply(&second, 5)), []);
    assert_eq!(new.drops(DropReason::Duplicate), 2);
    // The successor continues the sequence numbers.
    let third = new.dispatched();
    assert_eq!(header(&third).dispatch_seq.get(), header(&second).dispatch_seq.get() + 1);
    assert_eq!(header(&third).balancer_epoch.get(), header(&first).balancer_epoch.get());
}

#[test]
fn an_export_does_not_change_the_predecessor() {
    let mut old = Bench::new(None).with_server();
    let request = old.dispatched();
    let before = exported(&mut old);
    assert_eq!(exported(&mut old), before);
    drop(successor(&mut old));
    assert_eq!(old.turn(BACK, addr(50_000), &reply(&request, 2)).len(), 1);
    assert_eq!(old.balancer.tree().total(), 0);
}

#[test]
fn a_successor_exports_the_state_that_it_got() {
    let mut old = Bench::new(None).with_server();
    old.dispatched();
    let part = exported(&mut old);
    let mut new = successor(&mut old);
    assert!(exported(&mut new) == part, "equal bytes, except random numbers of each process");
    assert_eq!(new.stats.servers[0].common.id_plus_one.get(), 2);
    assert_eq!(new.stats.servers[0].common.state.get(), State::Up as u64);
}

#[test]
fn the_last_reply_of_a_server_that_has_left_is_delivered_by_the_successor() {
    let mut old = Bench::new(None).with_server();
    let request = old.dispatched();
    let mut stopped = header(&request);
    stopped.kind = crate::wire::Kind::ServerResponse as u8;
    stopped.op = crate::wire::ServerOp::Report as u8;
    let mut last_report = report(&stopped, 2, 1);
    let mut as_header = header(&last_report);
    as_header.server_state = crate::wire::ServerState::Stopped as u8;
    crate::wire::Frame::write(&mut last_report, &as_header, &[]);
    old.turn(BACK, addr(50_000), &last_report);
    assert_eq!(old.balancer.registry().unwrap().iter().count(), 0);
    let mut new = successor(&mut old);
    assert_eq!(new.turn(BACK, addr(50_000), &reply(&request, 3)).len(), 1);
    assert_eq!(new.turn(BACK, addr(50_001), &reply(&request, 3)), [], "from there only");
}

#[test]
fn a_pause_between_the_two_processes_is_no_silence_of_servers() {
    let mut old = Bench::new(None).with_server();
    let part = exported(&mut old);
    let later = NOW + Duration::from_secs(2);
    let mut new = successor_with(&part, settings(), later).unwrap();
    new.balancer.on_timeout(later, &mut Tx::new(16, 4096, 1));
    assert_eq!(new.balancer.poll_event(), Some(Event::Stalled(later.since(NOW))));
    let (_, server) = new.balancer.registry().unwrap().iter().next().unwrap();
    assert_eq!(server.health.state(), State::Up);
}

#[test]
fn frames_are_sealed_by_the_same_sender_with_the_next_number() {
    let key = Some([3; 16]);
    let mut old = NativeRole::workers(Bench::settings(key), NOW).remove(0);
    let stamp = |balancer: &mut NativeRole| {
        let mut frame = vec![0; 160];
        balancer.seal(&mut frame);
        Opener::new(&[3; 16]).open(&frame).unwrap()
    };
    let (_, last) = (stamp(&mut old), stamp(&mut old));
    let parts = vec![old.export(NOW)];
    let settings = NativePoolSettings { seed: 5, ..Bench::settings(key) };
    let mut new = NativeRole::workers_from(settings, parts.clone(), NOW).unwrap().remove(0);
    assert_eq!(stamp(&mut new), Stamp { counter: last.counter + 1, ..last });
}

#[test]
fn settings_that_do_not_fit_are_refused_by_name() {
    let mut old = Bench::new(None).with_server();
    let part = exported(&mut old);
    let with = |change: &dyn Fn(&mut NativePoolSettings), now: Instant| {
        let mut settings = settings();
        change(&mut settings);
        successor_with(&part, settings, now).map(drop)
    };
    assert_eq!(with(&|_| {}, NOW), Ok(()));
    assert_eq!(with(&|s| s.servers_max = 1, NOW), Ok(()), "the slot that is used fits");
    assert_eq!(with(&|s| s.max_outstanding = Some(Limit::Fixed(3)), NOW), Ok(()));
    let frames = |size| Mismatch::FrameSize { theirs: 128, ours: size };
    assert_eq!(with(&|s| s.format.size = 256, NOW), Err(frames(256)));
    assert_eq!(with(&|s| s.key = Some([1; 16]), NOW), Err(Mismatch::Key));
    assert_eq!(with(&|s| s.workers = 2, NOW), Err(Mismatch::Workers { theirs: 1, ours: 2 }));
    assert_eq!(with(&|s| s.own[0] = addr(1), NOW), Err(Mismatch::Addresses));
    assert_eq!(with(&|_| {}, NOW - Duration::from_millis(1)), Err(Mismatch::Clock));
    assert_eq!(with(&|_| {}, NOW + AGE_MAX + Duration::from_secs(1)), Err(Mismatch::Clock));
    let text = with(&|s| s.workers = 2, NOW).unwrap_err().to_string();
    assert!(text.starts_with("workers: ") && text.ends_with("restart without --takeover"), "{text}");
}

#[test]
fn another_key_and_a_slot_beyond_the_capacity_are_refused() {
    let keyed = |key| NativePoolSettings { secret: [77; 16], ..Bench::settings(Some([key; 16])) };
    let mut old = NativeRole::workers(keyed(1), NOW).remove(0);
    let parts = vec![old.export(NOW)];
    assert!(NativeRole::workers_from(keyed(1), parts.clone(), NOW).is_ok());
    assert_eq!(NativeRole::workers_from(keyed(2), parts.clone(), NOW).err(), Some(Mismatch::Key));

    let mut old = NativeRole::workers(settings(), NOW).remove(0);
    old.lanes[Slot::new(3)].window.dispatch(); // a server was there once
    let parts = vec![old.export(NOW)];
    let small = NativePoolSettings { servers_max: 3, ..settings() };
    let refused = NativeRole::workers_from(small, parts.clone(), NOW).err();
    assert_eq!(refused, Some(Mismatch::ServersMax { theirs: 4, ours: 3 }));
    assert!(NativeRole::workers_from(settings(), parts.clone(), NOW).is_ok());
}

#[test]
fn parts_are_put_together_in_any_order_and_none_may_be_missing() {
    let settings = NativePoolSettings { workers: 3, ..settings() };
    let mut workers = NativeRole::workers(settings, NOW);
    let parts: Vec<Part> = workers.iter_mut().map(|worker| worker.export(NOW)).collect();
    let pick = |numbers: &[usize]| {
        let picked: Vec<Part> = numbers.iter().map(|&number| parts[number].clone()).collect();
        Handover::from_parts(&picked).map(|handover| handover.workers.len())
    };
    assert_eq!(pick(&[2, 0, 1]), Ok(3));
    assert_eq!(pick(&[0, 1]), Ok(2), "two parts are complete: no part counts the workers");
    for missing in [&[][..], &[1, 2], &[0, 2], &[0, 1, 1], &[0, 0]] {
        assert_eq!(pick(missing), Err(Mismatch::Incomplete), "{missing:?}");
    }
}

#[test]
fn front_addresses_keep_their_numbers() {
    let mut old = Bench::new(None);
    let ip = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
    for (last, number) in [(7, 0), (3, 1)] {
        assert_eq!(old.balancer.shared.pool.locals.number(ip(last)), number);
    }
    let new = successor(&mut old);
    let locals = &new.balancer.shared.pool.locals;
    assert_eq!((locals.get(1), locals.number(ip(9)), locals.number(ip(7))), (ip(3), 2, 0));
}

#[test]
fn another_version_is_told_from_garbage_and_keys_are_not_printed() {
    let mut old = Bench::new(None).with_server();
    let part = exported(&mut old);
    let refused = |part: &Part| successor_with(part, settings(), NOW).err();
    assert_eq!(
        refused(&Part { version: VERSION + 1, ..part.clone() }),
        Some(Mismatch::State(Unreadable::Version))
    );
    assert_eq!(refused(&Part { bytes: vec![], ..part.clone() }), Some(Mismatch::State(Unreadable::Garbled)));
    let longer = [&part.bytes[..], &[0]].concat();
    assert_eq!(refused(&Part { bytes: longer, ..part.clone() }), Some(Mismatch::State(Unreadable::Garbled)));
    assert_eq!(format!("{part:?}"), format!("Part(version 4, {} bytes)", part.bytes.len()));
}

#[test]
fn the_successor_knows_orders_and_failures() {
    let mut old = Bench::new(None).with_server();
    old.balancer.order(NOW, 1, Order::Weight(7)).unwrap();
    old.balancer.order(NOW, 1, Order::Disable).unwrap();
    let mut new = successor(&mut old);
    let (slot, server) = new.balancer.registry().unwrap().iter().next().unwrap();
    assert_eq!((server.weight, server.health.state()), (7, State::Disabled));
    assert!(!new.balancer.can_serve() && !new.balancer.tree().is_choosable(slot));
    new.balancer.remove(NOW, slot, "for this test");
    let mut third = successor(&mut new);
    assert!(third.balancer.order(NOW, 1, Order::Enable).is_ok(), "departed servers are known, too");
    assert_eq!(third.balancer.order(NOW, 2, Order::Enable), Err(Refused::UnknownServer));
}

#[test]
fn a_hundred_used_slots_take_some_hundred_kilobytes_at_most() {
    let settings = NativePoolSettings { servers_max: 100, ..settings() };
    let mut old = NativeRole::workers(settings, NOW).remove(0);
    let mut rng = Rng::new(1);
    for slot in (0..100).map(Slot::new) {
        let lane = &mut old.lanes[slot];
        // One in a hundred is lost, all over the window.
        for seq in (0..70_000).map(|_| lane.window.dispatch()) {
            if rng.below(100) > 0 {
                lane.window.accept(seq);
            }
        }
    }
    let size = old.export(NOW).bytes.len();
    assert!(size < 1_000_000, "{size} bytes");
}

proptest! {
    #[test]
    fn a_damaged_state_is_refused_or_harmless(
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut old = Bench::new(None).with_server();
        old.dispatched();
        let mut part = exported(&mut old);
        let len = part.bytes.len();
        part.bytes[at.index(len)] ^= 1 << bit;
        if is_cut {
            part.bytes.truncate(cut.index(len));
        }
        if let Ok(mut new) = successor_with(&part, settings(), NOW) {
            new.turn_unchecked(BACK, addr(50_000), &[0; 128]);
        }
    }
}
