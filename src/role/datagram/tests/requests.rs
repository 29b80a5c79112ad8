//! Requests of protocols that lbd does not know: whose reply it is, told by port and server.

use proptest::prelude::*;

use super::bench::*;
use super::model::{play, turns};
use super::*;

fn pool(ports: u16, servers: impl IntoIterator<Item = u16>) -> Bench {
    Bench::new(settings(Protocol::Datagram), ports, servers)
}

/// That this client is asked nothing, but gets this.
fn assert_reaches(sent: &[Sent], to: SocketAddr, bytes: &[u8]) {
    let [one] = sent else { panic!("{sent:?}") };
    assert_eq!((one.to, &one.bytes[..]), (to, bytes));
}

#[test]
fn a_reply_goes_to_who_asked_from_where_it_asked() {
    let mut pool = pool(2, [1, 3]);
    let local_ip = Some("192.0.2.7".parse().unwrap());
    for (socket, peer, local_ip) in
        [(0, client(1), None), (1, addr("[2001:db8::9]:9"), None), (WILDCARD, client(1), local_ip)]
    {
        let sent = pool.turn(&[In { local_ip, ..In::new(socket, peer, b"question") }]);
        let [way] = &sent[..] else { panic!("{sent:?}") };
        assert!(pool.ports_to(way.to).contains(&way.socket) && way.bytes == b"question");
        let expected = Sent { socket, to: peer, source_ip: local_ip, bytes: b"answer".to_vec() };
        assert_eq!(pool.turn(&[way.answered(b"answer")]), [expected]);
    }
    pool.check_rest();
}

#[test]
fn requests_of_a_client_to_a_server_share_a_lease() {
    let mut pool = pool(4, [1]);
    let ways: Vec<_> = (0..3).map(|_| pool.forwarded(client(1), b"question")).collect();
    assert!(ways.iter().all(|way| way.socket == ways[0].socket));
    assert_ne!(pool.forwarded(client(2), b"question").socket, ways[0].socket);
    assert_eq!(pool.queue(1), 4);
    for left in [3, 2, 1] {
        assert_reaches(&pool.turn(&[ways[0].answered(b"answer")]), client(1), b"answer");
        assert_eq!(pool.queue(1), left);
    }
    assert_eq!(pool.turn(&[ways[0].answered(b"one too many")]), []);
    assert_eq!((pool.stats().common.answered.get(), pool.dropped(DropReason::Unasked)), (3, 1));
}

#[test]
fn a_client_s_leases_with_several_servers_are_on_one_port() {
    let mut pool = pool(4, [1, 2, 3]);
    let turn = vec![In::new(0, client(1), b"question"); 3];
    let sent = pool.turn(&turn);
    let number = |way: &Sent| way.socket - pool.ports_to(way.to).start;
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|way| number(way) == number(&sent[0])), "{sent:?}");
}

#[test]
fn a_server_that_talks_too_much_is_heard_as_often_as_it_was_asked() {
    for replies in [1, 3] {
        let mut pool =
            Bench::new(DatagramSettings { replies: Some(replies), ..settings(Protocol::Datagram) }, 2, [1]);
        let way = pool.forwarded(client(1), b"question");
        let flood = vec![way.answered(b"answer"); 250];
        let delivered: usize = (0..4).map(|_| pool.turn(&flood).len()).sum();
        assert_eq!(delivered, replies as usize);
        assert_eq!(pool.dropped(DropReason::Unasked), 1_000 - u64::from(replies));
        pool.check_rest();
    }
}

#[test]
fn a_client_takes_its_own_pair_at_once_and_another_after_its_rest() {
    let mut pool = pool(1, [1]);
    let way = pool.forwarded(client(1), b"question");
    pool.turn(&[way.answered(b"answer")]);
    assert_eq!(pool.ask(client(2), b"question"), []);
    assert_eq!(pool.forwarded(client(1), b"question").socket, way.socket);
    assert_eq!(pool.ask(client(2), b"question"), [], "it is busy");
    pool.turn(&[way.answered(b"answer")]);
    // From now on the only pair would be that of a returning client.
    pool.pass(HOLD - MS);
    assert_eq!(pool.ask(client(2), b"question"), [], "it rests");
    assert_eq!(pool.refused(DropReason::NoPort), 3);
    pool.pass(MS);
    assert_eq!(pool.forwarded(client(2), b"question").socket, way.socket);
}

#[test]
fn an_unanswered_pair_rests_for_two_time_outs() {
    let mut pool = pool(1, [1]);
    let way = pool.forwarded(client(1), b"question");
    pool.pass(TIMEOUT * 3 - MS);
    assert_eq!((pool.stats().timed_out.get(), pool.queue(1)), (1, 0));
    assert_eq!(pool.ask(client(2), b"question"), []);
    pool.pass(MS);
    assert_eq!(pool.forwarded(client(2), b"question").socket, way.socket);
    assert_eq!(pool.refused(DropReason::NoPort), 1);
}

#[test]
fn one_answer_of_two_is_not_all() {
    let mut pool = pool(1, [1]);
    let way = pool.forwarded(client(1), b"first");
    pool.forwarded(client(1), b"second");
    pool.turn(&[way.answered(b"answer")]);
    pool.pass(TIMEOUT + HOLD);
    assert_eq!((pool.stats().common.answered.get(), pool.stats().timed_out.get()), (1, 1));
    assert_eq!(pool.ask(client(2), b"question"), [], "the other may come yet");
    assert_reaches(&pool.turn(&[way.answered(b"late")]), client(1), b"late");
}

/// A late answer passes for that to the next request, whose own may come as late as any.
#[test]
fn a_late_answer_does_not_shorten_the_rest_for_the_next() {
    let mut pool = pool(1, [1]);
    let way = pool.forwarded(client(1), b"first");
    pool.pass(TIMEOUT / 2);
    pool.forwarded(client(1), b"second");
    let second_sent = pool.now;
    pool.pass(TIMEOUT / 2);
    assert_eq!(pool.stats().timed_out.get(), 1);
    assert_reaches(&pool.turn(&[way.answered(b"to the first, late")]), client(1), b"to the first, late");
    assert_eq!((pool.stats().common.answered.get(), pool.queue(1)), (1, 0));
    pool.pass(TIMEOUT * 5 / 2 - MS);
    assert_eq!(pool.now, second_sent + TIMEOUT * 3 - MS);
    assert_eq!(pool.ask(client(2), b"question"), [], "the answer to the second may come yet");
    assert_reaches(&pool.turn(&[way.answered(b"to the second")]), client(1), b"to the second");
    pool.pass(MS);
    assert_eq!(pool.forwarded(client(2), b"question").socket, way.socket);
}

/// The same where the turn has no room for a third request.
#[test]
fn a_turn_without_room_counts_as_if_it_had_sent() {
    let mut pool = pool(1, [1]);
    let way = pool.forwarded(client(1), b"first");
    pool.pass(TIMEOUT - MS);
    pool.forwarded(client(1), b"second");
    let second_sent = pool.now;
    pool.pass(MS);
    pool.turn(&[way.answered(b"to the first, late")]);
    assert_eq!(pool.turn_in(0, &[In::new(0, client(1), b"third")], true), []);
    pool.pass(TIMEOUT * 3 - MS * 2);
    assert_eq!(pool.now, second_sent + TIMEOUT * 3 - MS);
    assert_eq!(pool.ask(client(2), b"question"), [], "the answer to the second may come yet");
    assert_reaches(&pool.turn(&[way.answered(b"to the second")]), client(1), b"to the second");
}

#[test]
fn a_late_reply_reaches_its_client_while_the_pair_rests_and_nobody_afterwards() {
    for (after, is_delivered) in [(TIMEOUT, true), (TIMEOUT * 3 - MS, true), (TIMEOUT * 3, false)] {
        let mut pool = pool(1, [1]);
        let way = pool.forwarded(client(1), b"question");
        pool.pass(after);
        let sent = pool.turn(&[way.answered(b"answer")]);
        assert_eq!(sent.len(), usize::from(is_delivered), "after {after:?}");
        assert!(sent.iter().all(|sent| sent.to == client(1)));
        let counts =
            (pool.stats().late.get(), pool.dropped(DropReason::Late), pool.stats().common.answered.get());
        assert_eq!(counts, if is_delivered { (1, 0, 0) } else { (0, 1, 0) }, "after {after:?}");
        pool.check_rest();
    }
}

#[test]
fn a_client_that_comes_back_after_the_rest_has_no_credit_left() {
    let mut pool = pool(1, [1]);
    pool.forwarded(client(1), b"question");
    pool.pass(TIMEOUT * 3);
    let way = pool.forwarded(client(1), b"question");
    assert_eq!(pool.turn(&vec![way.answered(b"answer"); 3]).len(), 1);
}

#[test]
fn the_longest_rested_pair_goes_first() {
    let mut pool = pool(3, [1]);
    let ways = [1, 2, 3].map(|n| pool.forwarded(client(n), b"question"));
    for n in [1, 0, 2] {
        pool.turn(&[ways[n].answered(b"answer")]);
        pool.now += 5 * MS;
    }
    pool.pass(HOLD);
    let sockets = [4, 5, 6].map(|n| pool.forwarded(client(n), b"question").socket);
    assert_eq!(sockets, [1, 0, 2].map(|n| ways[n].socket));
}

#[test]
fn strangers_do_not_turn_regulars_out_unless_those_are_more_than_half() {
    let mut pool = pool(4, [1]);
    let exchange = |pool: &mut Bench, n: u16| {
        let way = pool.forwarded(client(n), b"question");
        pool.turn(&[way.answered(b"answer")]);
        way.socket
    };
    let regulars = [1, 2].map(|n| exchange(&mut pool, n));
    assert_eq!([1, 2].map(|n| exchange(&mut pool, n)), regulars, "they come back");
    for n in 10..30 {
        if n > 11 {
            pool.pass(HOLD);
        }
        assert!(!regulars.contains(&exchange(&mut pool, n)), "stranger {n}");
    }
    assert_eq!([1, 2].map(|n| exchange(&mut pool, n)), regulars);
    // A third one.
    pool.pass(HOLD);
    exchange(&mut pool, 3);
    exchange(&mut pool, 3);
    pool.pass(HOLD);
    let strangers = [40, 41].map(|n| pool.forwarded(client(n), b"question").socket);
    assert!(regulars.contains(&strangers[1]), "{strangers:?} {regulars:?}");
    assert_eq!(pool.ask(client(42), b"question"), [], "two of four are kept");
}

#[test]
fn a_regular_s_pair_is_anybody_s_when_it_stays_away_for_long() {
    let mut pool = pool(2, [1]);
    let way = pool.forwarded(client(1), b"question");
    pool.turn(&[way.answered(b"answer")]);
    pool.forwarded(client(1), b"question");
    pool.turn(&[way.answered(b"answer")]);
    pool.forwarded(client(2), b"question");
    pool.pass(Duration::from_millis(9_900));
    pool.forwarded(client(2), b"question"); // a server that is known to be down would be
    assert_eq!(pool.ask(client(3), b"question"), []);
    pool.pass(200 * MS);
    assert_eq!(pool.forwarded(client(3), b"question").socket, way.socket);
}

#[test]
fn what_strangers_send_to_a_port_reaches_nobody() {
    let mut pool = pool(2, [1, 2]);
    let way = pool.forwarded(client(1), b"question");
    let other = if way.to == server(1) { server(2) } else { server(1) };
    let other_port = pool.ports_to(way.to).find(|&port| port != way.socket).unwrap();
    for (socket, peer, reason) in [
        (way.socket, addr("203.0.113.9:7000"), DropReason::WrongSource),
        (way.socket, SocketAddr::new(way.to.ip(), 7_001), DropReason::WrongSource),
        (way.socket, other, DropReason::Late),
        (other_port, way.to, DropReason::Late),
    ] {
        let before = pool.dropped(reason);
        assert_eq!(pool.turn(&[In::new(socket, peer, b"forged")]), [], "{peer} {socket}");
        assert_eq!(pool.dropped(reason), before + 1, "{peer} {socket}: {:?}", pool.all_dropped());
    }
    assert_reaches(&pool.turn(&[way.answered(b"answer")]), client(1), b"answer");
}

#[test]
fn a_turn_without_room_refuses_and_leaves_nothing_behind() {
    let mut pool = pool(1, [1]);
    let sent = pool.turn_in(0, &[In::new(0, client(1), b"question")], true);
    assert_eq!((sent, pool.refused(DropReason::TurnFull)), (vec![], 1));
    pool.check_rest();
    let way = pool.forwarded(client(1), b"question");
    // Its answer is lost, as if the network had lost it.
    assert_eq!(pool.turn_in(0, &[way.answered(b"answer")], true), []);
    assert_eq!((pool.dropped(DropReason::TurnFull), pool.stats().in_flight.get()), (1, 1));
    assert_reaches(&pool.turn(&[way.answered(b"answer")]), client(1), b"answer");
}

#[test]
fn a_turn_without_room_does_not_shorten_a_rest() {
    let mut pool = pool(1, [1]);
    let way = pool.forwarded(client(1), b"question");
    pool.pass(TIMEOUT);
    assert_eq!(pool.turn_in(0, &[In::new(0, client(1), b"again")], true), []);
    pool.pass(HOLD);
    assert_eq!(pool.ask(client(2), b"question"), [], "the answer to the first may come yet");
    assert_reaches(&pool.turn(&[way.answered(b"late")]), client(1), b"late");
}

#[test]
fn the_rest_of_answered_pairs_is_measured() {
    let measured = DatagramSettings { hold: None, ..settings(Protocol::Datagram) };
    let mut pool = Bench::new(measured, 1, [1]);
    let rests_for = |pool: &mut Bench, time: Duration| {
        pool.pass(time - MS);
        let is_resting = pool.ask(client(2), b"question").is_empty();
        pool.pass(2 * MS);
        let sent = pool.ask(client(2), b"question");
        assert!(is_resting && sent.len() == 1, "{is_resting} {sent:?}");
        sent[0].clone()
    };
    let way = pool.forwarded(client(1), b"question");
    pool.pass(80 * MS);
    pool.turn(&[way.answered(b"answer")]);
    let way = rests_for(&mut pool, 50 * MS);
    pool.pass(80 * MS);
    pool.turn(&[way.answered(b"answer")]);
    pool.pass(Duration::from_secs(1));
    let way = pool.forwarded(client(3), b"question");
    pool.turn(&[way.answered(b"answer")]);
    // Twice what the slowest took, as exactly as the histogram has it.
    pool.pass(155 * MS);
    assert_eq!(pool.ask(client(2), b"question"), []);
    pool.pass(15 * MS);
    pool.forwarded(client(2), b"question");
}

#[test]
fn one_way_datagrams_are_spread_evenly_and_nothing_waits() {
    let mut pool =
        Bench::new(DatagramSettings { replies: Some(0), ..settings(Protocol::Datagram) }, 2, [1, 2, 3]);
    let mut counts = std::collections::HashMap::new();
    let mut last = None;
    for turn in 0..100 {
        let datagrams: Vec<_> = (0..3).map(|n| In::new(0, client(turn + n), b"a line")).collect();
        for sent in pool.turn(&datagrams) {
            *counts.entry(sent.to).or_insert(0) += 1;
            last = Some(sent);
        }
    }
    assert!(counts.len() == 3 && counts.values().all(|n| (90..=110).contains(n)), "{counts:?}");
    assert_eq!(pool.stats().forwarded.get(), 300);
    pool.check_rest();
    assert_eq!(pool.turn(&[last.unwrap().answered(b"thanks")]), []);
    assert_eq!(pool.stats().common.dropped.total(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_reply_reaches_its_client_or_nobody_until_its_pair_has_rested(
        turns in turns(4, 2),
        ports in 1..3u16,
        seed: u64,
    ) {
        let settings = DatagramSettings { workers: 2, ..settings(Protocol::Datagram) };
        let pool = Bench::with_seed(seed, settings, ports, [1, 2]);
        play(pool, &turns, Some(1), |model, way, now| model.is_settled(way, now, TIMEOUT * 3))?;
    }

    #[test]
    fn one_way_datagrams_are_never_answered(turns in turns(4, 1), seed: u64) {
        let settings = DatagramSettings { replies: Some(0), ..settings(Protocol::Datagram) };
        play(Bench::with_seed(seed, settings, 2, [1, 2]), &turns, Some(0), |_, _, _| false)?;
    }
}

#[test]
fn a_pair_whose_request_is_unanswered_stays_in_quarantine_for_hold_at_least() {
    let (timeout, hold) = (Duration::from_millis(500), Duration::from_secs(6));
    let settings = DatagramSettings { timeout, hold: Some(hold), ..settings(Protocol::Datagram) };
    let mut pool = Bench::new(settings, 1, [1]);
    let way = pool.forwarded(client(1), b"question");
    pool.pass(timeout + hold - Duration::from_millis(1));
    assert_eq!(pool.ask(client(2), b"question"), []);
    assert_eq!(pool.refused(DropReason::NoPort), 1);
    assert_eq!(pool.turn(&[way.answered(b"answer")])[0].to, client(1), "late, and to its own client");
    pool.pass(Duration::from_millis(1));
    pool.forwarded(client(2), b"question");
}
