//! Which servers are up: by their answers and their silence, by what the network says, by trials and by
//! checks.

use std::collections::HashMap;

use super::bench::*;
use super::*;
use crate::wire::dns::name_to_wire;

/// A DNS query with this id.
fn query(id: u16) -> Vec<u8> {
    let mut bytes = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01".to_vec();
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes
}

/// What an honest server makes of a datagram: of a query its answer.
fn answer(way: &Sent) -> In {
    let mut bytes = way.bytes.clone();
    bytes[2] |= 0x80;
    way.answered(&bytes)
}

fn pool(protocol: Protocol, servers: impl IntoIterator<Item = u16>) -> Bench {
    Bench::new(settings(protocol), 16, servers)
}

fn checked(protocol: Protocol, check: Check) -> DatagramSettings {
    let mut settings = settings(protocol);
    settings.health.check = check;
    settings
}

/// For so long, a query each 10 ms; those servers that live answer each query and check after 10 ms. Gives
/// how many datagrams were sent to each server.
fn traffic(pool: &mut Bench, time: Duration, lives: impl Fn(u16) -> bool) -> HashMap<SocketAddr, usize> {
    let end = pool.now + time;
    let (mut answers, mut counts, mut n) = (vec![], HashMap::new(), 0);
    while pool.now < end {
        pool.now += 10 * MS;
        n += 1;
        let mut arrived = std::mem::take(&mut answers);
        arrived.push(In::new(0, client(n % 100), &query(n)));
        for way in pool.turn(&arrived) {
            if !pool.is_front(way.socket) {
                *counts.entry(way.to).or_insert(0) += 1;
                if (1..20).any(|n| lives(n) && server(n) == way.to) {
                    answers.push(answer(&way));
                }
            }
        }
    }
    counts
}

#[test]
fn a_server_that_never_answers_is_a_suspect_and_then_down() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1, 2]);
        traffic(&mut pool, Duration::from_secs(30), |n| n == 2);
        assert_eq!(pool.states(), [(1, "suspect"), (1, "down")], "{protocol:?}");
        assert_eq!(pool.state(2), "up");
        let counts = traffic(&mut pool, Duration::from_secs(1), |_| true);
        assert!(counts[&server(2)] >= 99, "{counts:?}");
    }
}

#[test]
fn a_server_that_answers_again_is_up_after_some_trials() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1, 2]);
        traffic(&mut pool, Duration::from_secs(30), |n| n == 2);
        traffic(&mut pool, Duration::from_secs(90), |_| true);
        assert_eq!(pool.states(), [(1, "suspect"), (1, "down"), (1, "up")], "{protocol:?}");
    }
}

/// Client 2 sends requests for so long, and all servers but this one answer.
fn go_on(pool: &mut Bench, time: Duration, silent: Option<u16>) {
    for _ in 0..time.as_millis() / 5 {
        let mut sent = pool.ask(client(2), &query(9));
        sent.retain(|way| !pool.is_front(way.socket) && silent.is_none_or(|n| way.to != server(n)));
        pool.pass(5 * MS);
        pool.turn(&sent.iter().map(answer).collect::<Vec<_>>());
    }
}

/// Requests of other clients, until this server has this number of unanswered ones. The other server answers
/// all.
fn leave_unanswered(pool: &mut Bench, id: u16, count: usize) {
    let (mut left, mut answers) = (0, vec![]);
    for n in 3.. {
        let way = pool.forwarded(client(n), &query(n));
        if way.to != server(id) {
            answers.push(answer(&way));
            continue;
        }
        left += 1;
        if left == count {
            break;
        }
    }
    pool.turn(&answers);
}

#[test]
fn silence_makes_a_suspect_long_before_the_time_out() {
    for protocol in Protocol::ALL {
        for (slowest, fine, over) in [(100, 150, 60), (1, 40, 30)] {
            let slow = DatagramSettings { timeout: Duration::from_secs(5), ..settings(protocol) };
            let mut pool = Bench::new(slow, 64, [1, 2]);
            let way = pool.forwarded(client(1), &query(1));
            pool.pass(slowest * MS);
            pool.turn(&[answer(&way)]);
            leave_unanswered(&mut pool, 1, 8); // more than the evidence beside so few answers
            go_on(&mut pool, fine * MS, Some(1));
            assert_eq!(pool.states(), [], "{protocol:?}, {slowest} ms: the limit is not reached");
            go_on(&mut pool, over * MS, Some(1));
            assert_eq!(pool.states(), [(1, "suspect")], "{protocol:?}, {slowest} ms");
        }
    }
}

/// 10,000 requests/s to four servers that answer after a millisecond, of which one falls silent.
#[test]
fn of_ten_thousand_requests_a_second_a_server_that_falls_silent_loses_ten_at_most() {
    for protocol in Protocol::ALL {
        let mut pool = Bench::new(settings(protocol), 200, [1, 2, 4, 5]);
        let (mut answers, mut n, mut lost) = (vec![], 0, 0);
        for ms in 0..800 {
            pool.now += MS;
            let mut arrived = std::mem::take(&mut answers);
            for _ in 0..10 {
                n += 1;
                arrived.push(In::new(0, client(n % 200), &query(n)));
            }
            for way in pool.turn(&arrived) {
                if pool.is_front(way.socket) {
                    continue;
                }
                match way.to == server(1) && ms >= 300 {
                    true => lost += 1,
                    false => answers.push(answer(&way)),
                }
            }
            if ms == 400 {
                assert_eq!(pool.states(), [(1, "suspect")], "{protocol:?}, 100 ms later");
            }
        }
        assert!((2..=10).contains(&lost), "{protocol:?}: {lost}");
    }
}

/// A request that no server answers, such as a NOTIFY, is no evidence, however long it takes.
#[test]
fn one_unanswered_request_makes_no_suspect() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1, 2]);
        for n in 0..5 {
            pool.forwarded(client(50 + n), &query(2));
            go_on(&mut pool, TIMEOUT * 2, None);
            // The server that got it is asked by others, too.
            let sent: Vec<_> = [3, 4].iter().flat_map(|&n| pool.ask(client(n), &query(n))).collect();
            pool.turn(&sent.iter().map(answer).collect::<Vec<_>>());
        }
        assert_eq!((pool.states(), pool.stats().timed_out.get()), (vec![], 5), "{protocol:?}");
    }
}

/// Clients send 10 requests/s that are answered and 50 that are not, by any server. Then server 1 falls
/// silent.
#[test]
fn requests_that_no_server_answers_condemn_none() {
    for (protocol, affinity) in [
        (Protocol::Dns, Affinity::None),
        (Protocol::Datagram, Affinity::None),
        (Protocol::Datagram, Affinity::Client),
    ] {
        let mut pool = Bench::new(DatagramSettings { affinity, ..settings(protocol) }, 64, [1, 2, 5]);
        let mut n = 0;
        let mut second = |pool: &mut Bench, is_silent: bool| {
            for _ in 0..50 {
                n += 1;
                pool.ask(client(n % 200), &query(n));
                if n % 5 == 0 {
                    let sent = pool.ask(client(200 + n % 50), &query(n));
                    let lives = |way: &&Sent| !(is_silent && way.to == server(1));
                    pool.turn(&sent.iter().filter(lives).map(answer).collect::<Vec<_>>());
                }
                pool.pass(20 * MS);
            }
        };
        (0..60).for_each(|_| second(&mut pool, false));
        let bad = |states: &[(u16, &str)]| states.iter().filter(|(_, state)| *state != "up").count();
        let states = pool.states();
        assert!(bad(&states) <= 1, "{protocol:?}, {affinity:?}: {states:?}");
        (0..20).for_each(|_| second(&mut pool, true));
        let states = pool.states();
        assert!(states.contains(&(1, "suspect")), "{protocol:?}, {affinity:?}: {states:?}");
    }
}

#[test]
fn silence_of_all_is_nobody_s_fault() {
    for protocol in Protocol::ALL {
        let slow = DatagramSettings { timeout: Duration::from_secs(5), ..settings(protocol) };
        let mut pool = Bench::new(slow, 16, [1, 2]);
        let way = pool.forwarded(client(1), &query(1));
        pool.turn(&[answer(&way)]);
        for n in 0..4 {
            pool.forwarded(client(n), &query(n));
        }
        pool.pass(Duration::from_secs(1));
        assert_eq!(pool.states(), [], "{protocol:?}");
    }
}

#[test]
fn the_network_s_word_makes_a_suspect_and_nothing_more() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1, 2]);
        pool.refuse(0, addr("203.0.113.1:7000"), 1);
        for _ in 0..125 {
            pool.refuse(0, server(1), 8);
            pool.pass(10 * MS);
        }
        assert_eq!(pool.states(), [(1, "suspect")], "{protocol:?}");
        assert_eq!((pool.state(2), pool.stats().servers[0].errors.get()), ("up", 1_000));
        for n in 0..10 {
            let sent = pool.ask(client(n), &query(n));
            assert_eq!(
                sent[0].to,
                if n == 0 && protocol == Protocol::Datagram { server(1) } else { server(2) }
            );
            pool.turn(&sent.iter().map(answer).collect::<Vec<_>>());
        }
        // The first of them was a trial, whose answer brings it back.
        pool.pass(20 * MS);
        assert_eq!(pool.states(), [(1, "up")], "{protocol:?}");
    }
}

/// Server 1 is a suspect, and its request has timed out.
fn suspect_with_a_late_answer(protocol: Protocol) -> (Bench, Sent) {
    let mut pool = pool(protocol, [1]);
    let way = pool.forwarded(client(1), &query(1));
    pool.pass(TIMEOUT + 20 * MS);
    pool.refuse(0, server(1), 1);
    pool.pass(20 * MS);
    assert_eq!(pool.states(), [(1, "suspect")], "{protocol:?}");
    (pool, way)
}

#[test]
fn an_answer_that_comes_too_late_proves_life_all_the_same() {
    for protocol in Protocol::ALL {
        let (mut pool, way) = suspect_with_a_late_answer(protocol);
        pool.turn(&[answer(&way)]);
        pool.pass(10 * MS);
        assert_eq!(pool.states(), [(1, "up")], "{protocol:?}");
    }
}

/// Any host can send datagrams from a server's address, if the network lets it.
#[test]
fn what_answers_nothing_that_was_asked_proves_nothing() {
    for protocol in Protocol::ALL {
        let (mut pool, way) = suspect_with_a_late_answer(protocol);
        let mut bytes = b"0123456789abcdef".to_vec();
        for socket in pool.ports() {
            for id in 0..20 {
                bytes[1] = id;
                if socket != way.socket || protocol == Protocol::Dns {
                    pool.turn(&[In::new(socket, server(1), &bytes)]);
                }
            }
        }
        // The right id at the right port, and another question.
        if protocol == Protocol::Dns {
            let mut other = answer(&way);
            other.bytes[13] ^= 1;
            pool.turn(&[other]);
        }
        pool.pass(10 * MS);
        assert_eq!((pool.states(), pool.state(1)), (vec![], "suspect"), "{protocol:?}");
        // What comes a second time has proved life already.
        pool.turn(&[answer(&way)]);
        pool.pass(10 * MS);
        pool.refuse(0, server(1), 1);
        pool.pass(20 * MS);
        assert_eq!(pool.state(1), "suspect", "{protocol:?}");
        assert_eq!(pool.turn(&[answer(&way)]), []);
        pool.pass(10 * MS);
        assert_eq!(pool.state(1), "suspect", "{protocol:?}");
    }
}

#[test]
fn a_suspect_that_is_the_last_is_used() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1]);
        pool.refuse(0, server(1), 1);
        pool.pass(20 * MS);
        assert_eq!(pool.states(), [(1, "suspect")]);
        let way = pool.forwarded(client(1), &query(1));
        pool.turn(&[answer(&way)]);
        pool.pass(20 * MS);
        assert_eq!(pool.states(), [(1, "up")], "{protocol:?}");
    }
}

#[test]
fn the_network_s_word_does_not_keep_a_server_down() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1, 2]);
        traffic(&mut pool, Duration::from_secs(30), |n| n == 2);
        assert_eq!(pool.state(1), "down");
        for n in 0..900 {
            pool.refuse(0, server(1), 1);
            // The last answers of each stretch are lost, so that stretches of one length would lose those of
            // all trials.
            traffic(&mut pool, MS * (70 + 10 * (n % 7)), |_| true);
        }
        assert!(pool.states().contains(&(1, "up")), "{protocol:?}");
    }
}

#[test]
fn a_suspect_gets_the_copy_of_a_query_and_nobody_gets_its_answer() {
    let mut pool = pool(Protocol::Dns, [1, 2]);
    pool.refuse(0, server(1), 1);
    pool.pass(Duration::from_secs(2));
    let sent = pool.ask(client(1), &query(7));
    let [way, copy] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((way.to, copy.to), (server(2), server(1)));
    assert_eq!(way.bytes[2..], copy.bytes[2..]);
    assert_ne!(way.bytes[..2], copy.bytes[..2], "each has an id of its own");
    assert_eq!(pool.queue(1), 1);
    assert_eq!(pool.turn(&[answer(copy)]), []);
    assert_eq!(pool.turn(&[answer(copy)]), []);
    let delivered = pool.turn(&[answer(way)]);
    assert_eq!((delivered.len(), &delivered[0].bytes[..2]), (1, &[0, 7][..]));
    pool.pass(10 * MS);
    assert_eq!(pool.states(), [(1, "suspect"), (1, "up")]);
    assert_eq!((pool.stats().common.answered.get(), pool.stats().servers[0].common.dispatched.get()), (1, 0));
    pool.check_rest();
}

#[test]
fn other_opcodes_than_query_are_not_copied() {
    let mut pool = pool(Protocol::Dns, [1, 2]);
    pool.refuse(0, server(1), 1);
    pool.pass(Duration::from_secs(2));
    let mut update = query(7);
    update[2] |= 5 << 3;
    assert_eq!(pool.forwarded(client(1), &update).to, server(2));
    assert_eq!(pool.ask(client(1), &query(7)).len(), 2);
}

#[test]
fn a_copy_that_is_not_answered_counts_against_its_server_only() {
    let mut pool = pool(Protocol::Dns, [1, 2]);
    pool.refuse(0, server(1), 1);
    pool.pass(10 * MS);
    traffic(&mut pool, Duration::from_secs(60), |n| n == 2);
    assert_eq!(pool.states(), [(1, "suspect"), (1, "down")]);
    assert_eq!(pool.stats().timed_out.get(), 0);
}

#[test]
fn trials_are_further_and_further_apart() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1, 2]);
        pool.refuse(0, server(1), 1);
        let in_the_first = traffic(&mut pool, Duration::from_secs(64), |n| n == 2)[&server(1)];
        let later = traffic(&mut pool, Duration::from_secs(64), |n| n == 2);
        assert!((5..=8).contains(&in_the_first), "{protocol:?}: {in_the_first}");
        assert!((1..=2).contains(later.get(&server(1)).unwrap_or(&0)), "{protocol:?}: {later:?}");
    }
}

#[test]
fn of_several_suspects_each_is_tried() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1, 2, 5]);
        for n in [1, 2] {
            pool.refuse(0, server(n), 1);
        }
        let counts = traffic(&mut pool, Duration::from_secs(10), |n| n == 5);
        for n in [1, 2] {
            assert!(counts.get(&server(n)).is_some_and(|&n| n >= 3), "{protocol:?} {n}: {counts:?}");
        }
    }
}

#[test]
fn a_server_that_drains_is_not_tried() {
    for protocol in Protocol::ALL {
        let slow = DatagramSettings { timeout: Duration::from_secs(60), ..settings(protocol) };
        let mut pool = Bench::new(slow, 16, [1]);
        pool.forwarded(client(1), &query(1)); // so that it stays
        pool.refuse(0, server(1), 1);
        pool.pass(Duration::from_secs(2));
        assert_eq!(pool.state(1), "suspect");
        pool.want(wanted([2]));
        assert_eq!(pool.state(1), "draining");
        for n in 1..5 {
            assert_eq!(pool.forwarded(client(n), &query(n)).to, server(2), "{protocol:?}");
        }
    }
}

#[test]
fn where_nobody_answers_no_news_is_good_news() {
    let one_way = DatagramSettings { replies: Some(0), ..settings(Protocol::Datagram) };
    let mut pool = Bench::new(one_way, 2, [1, 2]);
    pool.refuse(0, server(1), 1);
    pool.pass(500 * MS);
    assert_eq!(pool.forwarded(client(1), b"a line").to, server(2));
    assert_eq!(pool.states(), [(1, "suspect")]);
    pool.pass(Duration::from_secs(1));
    assert_eq!(pool.states(), [(1, "up")]);
}

/// The checks among what is sent.
fn checks(pool: &Bench, sent: Vec<Sent>) -> Vec<Sent> {
    let is_check = |sent: &Sent| !pool.is_front(sent.socket) && !pool.ports().contains(&sent.socket);
    sent.into_iter().filter(is_check).collect()
}

#[test]
fn a_checked_server_is_a_suspect_until_its_first_answer() {
    let name = name_to_wire("health.example").unwrap();
    for check in
        [Check::Dns { name, kind: 28 }, Check::Payload { send: b"pi ng".to_vec(), expect: b"pi".to_vec() }]
    {
        let mut pool = Bench::new(checked(Protocol::Datagram, check.clone()), 2, []);
        pool.shared.want(wanted([1, 3]));
        let sent = pool.pass(240 * MS);
        let sent = checks(&pool, sent);
        assert!(sent.iter().any(|sent| sent.to == server(1)) && sent.iter().any(|sent| sent.to == server(3)));
        assert_eq!((pool.state(1), pool.state(3)), ("suspect", "suspect"));
        pool.states();
        // The newest question is the one that counts.
        let last = sent.iter().rfind(|sent| sent.to == server(1)).unwrap();
        pool.turn(&[answer(last)]);
        pool.pass(10 * MS);
        assert_eq!(pool.states(), [(1, "up")], "{check:?}");
        assert_eq!(pool.forwarded(client(1), b"a question").to, server(1));
    }
}

#[test]
fn wrong_answers_to_checks_prove_nothing() {
    let check = Check::Payload { send: b"ping".to_vec(), expect: b"pong".to_vec() };
    let mut pool = Bench::new(checked(Protocol::Datagram, check), 2, []);
    pool.shared.want(wanted([1, 2]));
    let sent = pool.pass(240 * MS);
    let sent = checks(&pool, sent);
    let way = sent.iter().rfind(|sent| sent.to == server(1)).unwrap();
    pool.states();
    for (peer, bytes, reason) in [
        (way.to, &b"pang"[..], DropReason::WrongQuestion),
        (addr("203.0.113.1:7000"), b"pong", DropReason::WrongSource),
    ] {
        let before = pool.dropped(reason);
        pool.turn(&[In::new(way.socket, peer, bytes)]);
        assert_eq!(pool.dropped(reason), before + 1);
        assert_eq!(pool.states(), []);
    }
    pool.turn(&[way.answered(b"pong and more")]);
    pool.turn(&[way.answered(b"pong and more")]);
    assert_eq!(pool.dropped(DropReason::NotOpen), 1);
    pool.pass(10 * MS);
    assert_eq!(pool.states(), [(1, "up")]);
}

#[test]
fn a_checked_server_goes_down_after_fall_and_comes_back_after_rise() {
    let check = Check::Payload { send: b"ping".to_vec(), expect: vec![] };
    let mut pool = Bench::new(checked(Protocol::Datagram, check), 2, [1, 2]);
    let live = |pool: &mut Bench, time: Duration, lives: [u16; 2]| {
        let end = pool.now + time;
        let mut answered = 0;
        while pool.now < end {
            let sent = pool.pass(10 * MS);
            let is_alive = |way: &&Sent| lives.iter().any(|&n| server(n) == way.to);
            let answers: Vec<_> = checks(pool, sent).iter().filter(is_alive).map(answer).collect();
            answered += answers.iter().filter(|answer| answer.peer == server(1)).count();
            pool.turn(&answers);
        }
        answered
    };
    live(&mut pool, Duration::from_secs(2), [1, 2]);
    assert_eq!((pool.state(1), pool.state(2)), ("up", "up"));
    pool.states();
    live(&mut pool, Duration::from_secs(5), [2, 2]);
    assert_eq!(pool.states(), [(1, "suspect"), (1, "down")]);
    let mut answered = 0;
    while pool.state(1) == "down" {
        answered += live(&mut pool, 20 * MS, [1, 2]);
        assert!(answered < 10);
    }
    assert_eq!((answered, pool.states()), (2, vec![(1, "up")]));
}

#[test]
fn a_server_that_answers_clients_need_not_answer_checks() {
    let check = Check::Payload { send: b"ping".to_vec(), expect: vec![] };
    let mut pool = Bench::new(checked(Protocol::Datagram, check), 2, [1]);
    pool.states();
    for n in 0..300 {
        let way = pool.forwarded(client(1), b"question");
        pool.turn(&[answer(&way)]);
        pool.pass(70 * MS);
        assert!(n == 0 || pool.state(1) == "up", "{n}");
    }
    assert_eq!(pool.states(), [(1, "up")]);
}

#[test]
fn checks_of_servers_that_read_headers_have_one() {
    let check = Check::Payload { send: b"ping".to_vec(), expect: vec![] };
    let with_headers =
        DatagramSettings { proxy_protocol: ProxyProtocol::Every, ..checked(Protocol::Datagram, check) };
    let mut pool = Bench::new(with_headers, 2, [1]);
    let sent = pool.pass(Duration::from_secs(2));
    let sent = checks(&pool, sent);
    assert_eq!(sent[0].bytes, [&crate::wire::proxy_protocol::LOCAL[..], b"ping"].concat());
}

#[test]
fn when_all_are_down_dns_says_so() {
    let mut pool = pool(Protocol::Dns, [1, 2]);
    traffic(&mut pool, Duration::from_secs(60), |_| false);
    assert_eq!((pool.state(1), pool.state(2)), ("down", "down"));
    pool.pass(Duration::from_secs(1));
    for n in 0..4 {
        // Some of these are trials.
        let sent = pool.ask(client(n), &query(n));
        assert!(sent.iter().any(|s| s.to == client(n) && s.bytes[3] & 0xf == 2), "{sent:?}");
    }
    traffic(&mut pool, Duration::from_secs(130), |_| true);
    assert_eq!((pool.state(1), pool.state(2)), ("up", "up"), "it recovers");
}

#[test]
fn when_no_server_answers_datagrams_are_sent_all_the_same_and_none_is_to_blame() {
    let mut pool = pool(Protocol::Datagram, [1, 2]);
    traffic(&mut pool, Duration::from_secs(60), |_| false);
    assert_eq!(pool.states(), []);
    pool.pass(Duration::from_secs(1));
    for n in 0..4 {
        let sent = pool.ask(client(n), &query(n));
        assert!(sent.len() == 1 && !pool.is_front(sent[0].socket), "{sent:?}");
    }
}

#[test]
fn one_overdue_check_makes_no_suspect_and_two_do() {
    let check = Check::Payload { send: b"ping".to_vec(), expect: vec![] };
    let mut pool = Bench::new(checked(Protocol::Datagram, check), 2, [1]);
    let next_check = |pool: &mut Bench| (0..200).find_map(|_| pool.pass(10 * MS).pop()).expect("a check");
    let way = next_check(&mut pool);
    pool.turn(&[answer(&way)]);
    pool.pass(10 * MS);
    pool.states();
    for lost in [1, 2] {
        (0..lost).for_each(|_| _ = next_check(&mut pool));
        let last = next_check(&mut pool); // at once, and not after an interval
        let states = if lost == 1 { vec![] } else { vec![(1, "suspect")] };
        assert_eq!(pool.states(), states, "{lost} overdue");
        pool.turn(&[answer(&last)]);
        pool.pass(10 * MS);
    }
}

#[test]
fn beyond_down_max_all_are_used() {
    for protocol in Protocol::ALL {
        let mut settings = settings(protocol);
        settings.health.rules.down_max = 0.5;
        let mut pool = Bench::new(settings, 16, [1, 2, 5]);
        traffic(&mut pool, Duration::from_secs(60), |n| n == 5);
        let events: Vec<_> = std::iter::from_fn(|| pool.workers[0].poll_event()).collect();
        assert!(events.contains(&Event::FailOpen(true)), "{events:?}");
        let counts = traffic(&mut pool, Duration::from_secs(1), |n| n == 5);
        assert_eq!(counts.len(), 3, "{counts:?}");
        traffic(&mut pool, Duration::from_secs(5), |_| true);
        let events: Vec<_> = std::iter::from_fn(|| pool.workers[0].poll_event()).collect();
        assert!(events.contains(&Event::FailOpen(false)), "{events:?}");
    }
}

#[test]
fn what_the_network_says_of_one_server_does_not_disturb_the_others() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1, 2]);
        let sent: Vec<_> = (0..10).flat_map(|n| pool.ask(client(n), &query(n))).collect();
        pool.refuse(0, server(1), 64);
        pool.pass(20 * MS);
        let answers: Vec<_> = sent.iter().filter(|way| way.to == server(2)).map(answer).collect();
        assert_eq!((answers.len(), pool.turn(&answers).len()), (5, 5));
        let answers: Vec<_> = sent.iter().filter(|way| way.to == server(1)).map(answer).collect();
        assert_eq!(pool.turn(&answers).len(), 5, "nor those of the server itself");
        pool.check_rest();
    }
}

#[test]
fn after_a_pause_of_our_own_nothing_is_overdue_that_is_there_already() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1, 2]);
        let sent: Vec<_> = (0..20).flat_map(|n| pool.ask(client(n), &query(n))).collect();
        pool.pass(20 * MS);
        pool.now += Duration::from_secs(7);
        // The answers come out of the buffers in several turns.
        for some in sent.chunks(5) {
            assert_eq!(pool.turn(&some.iter().map(answer).collect::<Vec<_>>()).len(), 5);
            pool.now += 10 * MS;
        }
        assert_eq!((pool.stats().common.answered.get(), pool.stats().timed_out.get()), (20, 0));
        pool.pass(300 * MS);
        assert_eq!(pool.states(), [], "{protocol:?}");
    }
}

#[test]
fn a_pause_does_not_keep_what_is_lost() {
    for protocol in Protocol::ALL {
        let mut pool = pool(protocol, [1]);
        pool.forwarded(client(1), &query(1));
        pool.pass(20 * MS);
        pool.now += Duration::from_secs(7);
        pool.turn(&[]);
        assert_eq!(pool.stats().timed_out.get(), 0);
        pool.pass(110 * MS);
        assert_eq!(pool.stats().timed_out.get(), 1, "{protocol:?}");
        pool.check_rest();
    }
}

#[test]
fn an_idle_worker_wakes_up_without_a_stall() {
    for protocol in Protocol::ALL {
        let settings = DatagramSettings { timeout: 50 * MS, workers: 2, ..settings(protocol) };
        let mut pool = Bench::new(settings, 2, [1]);
        for _ in 0..70 {
            pool.now += 100 * MS;
            pool.turn(&[]); // the primary's, while the other worker sleeps
        }
        let sent = pool.turn_of(1, &[In::new(0, client(1), &query(1))]);
        assert_eq!(sent.len(), 1, "{protocol:?}");
        pool.pass(50 * MS);
        assert_eq!(pool.workers[1].stats().timed_out.get(), 1, "{protocol:?}");
    }
}

#[test]
fn a_stalled_event_loop_is_reported_with_its_length_and_blames_no_server() {
    let stalls = |pool: &mut Bench| -> Vec<Duration> {
        std::iter::from_fn(|| pool.workers[0].poll_event())
            .filter_map(|event| if let Event::Stalled(gap) = event { Some(gap) } else { None })
            .collect()
    };
    let next_check = |pool: &mut Bench| (0..200).find_map(|_| pool.pass(10 * MS).pop()).expect("a check");
    let mut settings = settings(Protocol::Datagram);
    settings.health.check = Check::Payload { send: b"ping".to_vec(), expect: vec![] };
    let mut pool = Bench::new(settings, 4, [1]);
    let check = next_check(&mut pool);
    pool.turn(&[check.answered(b"pong")]);
    pool.pass(50 * MS);
    assert_eq!((pool.state(1), stalls(&mut pool)), ("up", vec![]));
    // No client waits for an answer, but the primary takes a turn every 200 ms. The answer to a check is
    // overdue.
    next_check(&mut pool);
    pool.now += Duration::from_secs(3);
    let check = pool.turn(&[]).remove(0);
    assert_eq!((pool.state(1), stalls(&mut pool)), ("up", vec![Duration::from_secs(3)]));
    pool.turn(&[check.answered(b"pong")]);
    // A client waits for an answer.
    pool.forwarded(client(1), b"question");
    pool.now += 150 * MS;
    pool.turn(&[]);
    assert_eq!((pool.state(1), stalls(&mut pool)), ("up", vec![150 * MS]));
}
