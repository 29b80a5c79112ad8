//! DNS: an answer counts only from the right server, by the right port, with the right id and question.

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::bench::*;
use super::*;
use crate::pool::waiting::Limit;
use crate::wire::dns::name_to_wire;

const QR: u8 = 0x80;
const TC: u8 = 0x02;
const PORTS: u16 = 4;

/// A query, with these bytes after its question.
fn query(id: u16, name: &str, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!rest.is_empty())];
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes.extend(name_to_wire(name).unwrap());
    bytes.extend([0, 1, 0, 1]);
    bytes.extend(rest);
    bytes
}

/// What an honest server makes of a query: the same bytes as an answer, and some more.
fn answer(query: &[u8], more: &[u8]) -> Vec<u8> {
    let mut bytes = [query, more].concat();
    bytes[2] |= QR;
    bytes
}

fn id(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn with_id(bytes: &[u8], id: u16) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[..2].copy_from_slice(&id.to_be_bytes());
    bytes
}

fn pool(servers: impl IntoIterator<Item = u16>) -> Bench {
    Bench::new(settings(Protocol::Dns), PORTS, servers)
}

#[test]
fn the_answer_has_the_clients_id_and_leaves_from_where_it_asked() {
    let mut pool = pool([1]);
    let asked = query(0xabcd, "example.com", b"");
    for (socket, peer, local_ip) in [
        (0, client(1), None),
        (1, addr("[2001:db8::9]:999"), None),
        (WILDCARD, client(2), Some("192.0.2.7".parse().unwrap())),
        (WILDCARD, client(2), Some("192.0.2.8".parse().unwrap())),
    ] {
        let sent = pool.turn(&[In { local_ip, ..In::new(socket, peer, &asked) }]);
        let [way] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!((way.to, way.source_ip), (server(1), None));
        assert!(pool.ports_to(way.to).contains(&way.socket));
        assert_eq!(way.bytes, with_id(&asked, id(&way.bytes)));
        let bytes = answer(&way.bytes, b"and more");
        let expected = Sent { socket, to: peer, source_ip: local_ip, bytes: with_id(&bytes, 0xabcd) };
        assert_eq!(pool.turn(&[way.answered(&bytes)]), [expected]);
    }
    pool.check_rest();
}

#[test]
fn ids_and_ports_are_never_the_same_for_long() {
    let mut pool = pool([1]);
    let sent: Vec<_> = (0..200).map(|_| pool.forwarded(client(1), &query(1, "a", b""))).collect();
    let ids: HashSet<_> = sent.iter().map(|way| id(&way.bytes)).collect();
    let ports: HashSet<_> = sent.iter().map(|way| way.socket).collect();
    assert!(ids.len() > 190 && ports.len() == usize::from(PORTS), "{} ids, {ports:?}", ids.len());
    let steps: HashSet<_> =
        sent.windows(2).map(|two| id(&two[1].bytes).wrapping_sub(id(&two[0].bytes))).collect();
    assert!(steps.len() > 190, "no pattern");
}

#[test]
fn what_is_not_the_answer_is_counted_and_the_wait_goes_on() {
    let mut pool = pool([1, 2]);
    let asked = query(7, "example.com", b"");
    let way = pool.forwarded(client(1), &asked);
    let right = answer(&way.bytes, b"");
    let other_port = pool.ports_to(way.to).find(|&port| port != way.socket).unwrap();
    let other_server = if way.to == server(1) { server(2) } else { server(1) };
    let mut no_question = right.clone();
    no_question[5] = 0;
    let other_type = [&right[..right.len() - 3], &[28, 0, 1]].concat();
    let other_name = with_id(&answer(&query(0, "example.org", b""), b""), id(&right));
    use DropReason::*;
    for (socket, peer, bytes, reason) in [
        (way.socket, other_server, right.clone(), WrongSource),
        (way.socket, addr("203.0.113.9:7000"), right.clone(), WrongSource),
        (way.socket, SocketAddr::new(way.to.ip(), 7_001), right.clone(), WrongSource),
        (other_port, way.to, right.clone(), NotOpen),
        (other_port, addr("203.0.113.9:7000"), right.clone(), WrongSource),
        (way.socket, way.to, with_id(&right, id(&right).wrapping_add(1)), NotOpen),
        (way.socket, way.to, other_name, WrongQuestion),
        (way.socket, way.to, other_type, WrongQuestion),
        (way.socket, way.to, way.bytes.clone(), Malformed), // QR is 0
        (way.socket, way.to, no_question, WrongQuestion),
        (way.socket, way.to, right[..11].to_vec(), Malformed),
        (way.socket, way.to, right[..right.len() - 1].to_vec(), Malformed),
    ] {
        let before = pool.dropped(reason);
        assert_eq!(pool.turn(&[In::new(socket, peer, &bytes)]), [], "{reason:?} {bytes:?}");
        assert_eq!(pool.dropped(reason), before + 1, "{reason:?} {bytes:?}: {:?}", pool.all_dropped());
    }
    let delivered = pool.turn(&[way.answered(&right)]);
    assert_eq!(delivered[0].bytes, with_id(&right, 7));
    assert_eq!(pool.turn(&[way.answered(&right)]), [], "but once");
    pool.check_rest();
}

#[test]
fn an_error_without_its_question_reaches_the_client_and_ends_the_query() {
    let mut pool = pool([1, 2]);
    for rcode in [1, 2, 3, 4, 5] {
        let way = pool.forwarded(client(1), &query(7, "example.com", b""));
        let mut bare = way.bytes[..12].to_vec();
        bare[2..6].copy_from_slice(&[0x81, rcode, 0, 0]);
        let other_server = if way.to == server(1) { server(2) } else { server(1) };
        assert_eq!(pool.turn(&[In::new(way.socket, other_server, &bare)]), [], "not from that server");
        let delivered = pool.turn(&[way.answered(&bare)]);
        assert_eq!((delivered.len(), &delivered[0].bytes), (1, &with_id(&bare, 7)), "RCODE {rcode}");
        pool.check_rest();
    }
    assert_eq!(pool.stats().common.answered.get(), 5);
}

#[test]
fn a_query_without_a_question_is_forwarded_and_matched() {
    let mut pool = pool([1]);
    // A cookie alone (RFC 7873 section 5.4), and the opcodes that have no question.
    for opcode in [0, 1, 2, 6] {
        let mut asked = b"\x00\x07\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
        asked[2] = opcode << 3;
        let way = pool.forwarded(client(1), &asked);
        let mut right = way.bytes.clone();
        right[2] |= QR;
        let with_question = answer(&query(id(&right), "example.com", b""), b"");
        assert_eq!(pool.turn(&[way.answered(&with_question)]), [], "an answer to something else");
        assert_eq!(pool.turn(&[way.answered(&right)])[0].bytes, with_id(&right, 7), "opcode {opcode}");
    }
    pool.check_rest();
}

#[test]
fn the_case_of_the_name_does_not_matter_and_is_kept() {
    let mut pool = pool([1]);
    let way = pool.forwarded(client(1), &query(7, "eXaMple.Com", b""));
    assert_eq!(&way.bytes[12..], &query(7, "eXaMple.Com", b"")[12..]);
    let bytes = answer(&with_id(&query(0, "ExAmPlE.cOM", b""), id(&way.bytes)), b"");
    assert_eq!(pool.turn(&[way.answered(&bytes)])[0].bytes, with_id(&bytes, 7));
}

#[test]
fn large_and_truncated_answers_and_edns_pass_byte_for_byte() {
    let mut pool = pool([1]);
    let opt = [0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 0];
    let way = pool.forwarded(client(1), &query(7, "example.com", &opt));
    assert!(way.bytes.ends_with(&opt));
    let more: Vec<u8> = (0..4096 - way.bytes.len()).map(|n| n as u8).collect();
    let mut bytes = answer(&way.bytes, &more);
    bytes[2] |= TC;
    bytes[3] = 0xa3;
    assert_eq!(bytes.len(), 4096);
    assert_eq!(pool.turn(&[way.answered(&bytes)])[0].bytes, with_id(&bytes, 7));
}

#[test]
fn several_queries_that_came_as_one_are_several() {
    let mut pool = pool([1]);
    let merged: Vec<u8> = (0..3).flat_map(|n| query(100 + n, "a.example", b"")).collect();
    let stride = merged.len() / 3;
    let sent = pool.turn(&[In { stride, ..In::new(0, client(1), &merged) }]);
    assert_eq!(sent.len(), 3);
    let answers: Vec<u8> = sent.iter().rev().flat_map(|way| answer(&way.bytes, b"")).collect();
    let delivered = pool.turn(&[In { stride, ..sent[0].answered(&answers) }]);
    assert_eq!(delivered.iter().map(|sent| id(&sent.bytes)).collect::<Vec<_>>(), [102, 101, 100]);
    pool.check_rest();
}

#[test]
fn answers_that_came_as_one_go_to_whom_each_is_for() {
    let mut pool = pool([1]);
    let asks = [2, 1, 2].map(|n| In::new(0, client(n), &query(n, "a.example", b"")));
    let sent = pool.turn(&asks);
    let merged: Vec<u8> = sent.iter().flat_map(|way| answer(&way.bytes, b"")).collect();
    let delivered = pool.turn(&[In { stride: merged.len() / 3, ..sent[0].answered(&merged) }]);
    let count = |n| delivered.iter().filter(|sent| sent.to == client(n) && id(&sent.bytes) == n).count();
    assert_eq!((delivered.len(), count(1), count(2)), (3, 1, 2));
}

#[test]
fn an_answer_after_the_time_out_reaches_nobody_even_if_its_id_is_another_query_s() {
    let mut pool = Bench::new(settings(Protocol::Dns), 1, [1]);
    let late = pool.forwarded(client(1), &query(7, "old.example", b""));
    pool.pass(TIMEOUT - MS);
    assert_eq!(pool.stats().timed_out.get(), 0);
    pool.pass(MS);
    assert_eq!(pool.stats().timed_out.get(), 1);
    let bytes = answer(&late.bytes, b"");
    assert_eq!(pool.turn(&[late.answered(&bytes)]), []);
    assert_eq!(pool.dropped(DropReason::NotOpen), 1);
    // Until the query of another client has the id.
    let mut same_id = None;
    while same_id.is_none() {
        let turn: Vec<_> = (0..256).map(|n| In::new(0, client(2), &query(n, "new.example", b""))).collect();
        same_id = pool.turn(&turn).into_iter().find(|way| id(&way.bytes) == id(&late.bytes));
        pool.now += MS / 4;
    }
    assert_eq!(pool.turn(&[late.answered(&bytes)]), []);
    assert_eq!(pool.dropped(DropReason::WrongQuestion), 1);
    let way = same_id.unwrap();
    assert_eq!(pool.turn(&[way.answered(&answer(&way.bytes, b""))])[0].to, client(2));
}

#[test]
fn answers_and_nonsense_at_the_front_are_refused() {
    let mut pool = pool([1]);
    let good = query(7, "example.com", b"");
    let mut two_questions = [&good[..], &good[12..]].concat();
    two_questions[5] = 2;
    for (n, (bytes, reason)) in [
        (answer(&good, b""), DropReason::AnAnswer),
        (good[..11].to_vec(), DropReason::Malformed),
        (vec![0], DropReason::Malformed),
        (good[..good.len() - 1].to_vec(), DropReason::Malformed),
        (two_questions, DropReason::Malformed),
    ]
    .into_iter()
    .enumerate()
    {
        let before = pool.refused(reason);
        let sent = pool.ask(client(n as u16), &bytes);
        // A query whose answer could not be matched is a format error.
        let expected = (n >= 3).then(|| {
            let bytes = b"\x00\x07\x81\x01\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
            Sent { socket: 0, to: client(n as u16), source_ip: None, bytes }
        });
        assert_eq!(sent, Vec::from_iter(expected), "{bytes:?}");
        assert_eq!(pool.refused(reason), before + 1, "{bytes:?}");
    }
    pool.check_rest();
}

#[test]
fn nonsense_in_answer_to_format_errors_does_not_go_on() {
    let mut pool = pool([1]);
    let mut nonsense = query(7, "example.com", b"");
    nonsense.pop();
    let answers = (0..100).filter(|_| {
        pool.now += MS;
        !pool.ask(client(1), &nonsense).is_empty()
    });
    assert_eq!(answers.count(), 10);
    assert_eq!(pool.ask(addr("192.0.2.9:19"), &nonsense), [], "to chargen");
}

/// That these are the bytes of "not now" to this query, with the reason if it has EDNS.
fn assert_servfail(sent: &[Sent], to: SocketAddr, query: &[u8], reason: &str) {
    let [sent] = sent else { panic!("{sent:?}") };
    assert_eq!((sent.to, sent.bytes[2] & QR, sent.bytes[3] & 0xf), (to, QR, 2));
    assert_eq!(sent.bytes[..2], query[..2]);
    let end = crate::wire::dns::query(query).unwrap().wire_len() + 12;
    assert_eq!(sent.bytes[12..end], query[12..end]);
    let has_edns = query[11] > 0;
    assert_eq!((sent.bytes[11] == 1, sent.bytes.len() > end), (has_edns, has_edns));
    assert!(!has_edns || sent.bytes.ends_with(reason.as_bytes()), "{sent:?}");
}

/// An OPT record (RFC 6891).
const OPT: [u8; 11] = [0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn without_servers_the_client_hears_so_at_once() {
    let mut pool = pool([]);
    for asked in [query(0x1234, "example.com", b""), query(0x1235, "x", &OPT)] {
        let sent = pool.ask(client(1), &asked);
        assert_servfail(&sent, client(1), &asked, "no server is up");
    }
    assert_eq!((pool.refused(DropReason::NoServer), pool.stats().servfail.get()), (2, 2));
    pool.check_rest();
}

#[test]
fn a_full_pool_says_so_at_once_and_has_room_again() {
    let limited = DatagramSettings {
        max_outstanding: Some(Limit::Fixed(2)),
        waiting_max: 0,
        ..settings(Protocol::Dns)
    };
    let mut pool = Bench::new(limited, PORTS, [1, 2]);
    let ways: Vec<_> = (0..4).map(|n| pool.forwarded(client(1), &query(n, "a", b""))).collect();
    assert_eq!((pool.queue(1), pool.queue(2)), (2, 2));
    let asked = query(9, "a", &OPT);
    let sent = pool.ask(client(2), &asked);
    assert_servfail(&sent, client(2), &asked, "all servers are at their limit");
    assert_eq!(pool.refused(DropReason::ServersFull), 1);
    pool.turn(&[ways[0].answered(&answer(&ways[0].bytes, b""))]);
    assert_eq!(pool.forwarded(client(2), &asked).to, ways[0].to);
}

#[test]
fn a_full_table_says_so_at_once() {
    let mut pool = Bench::new(settings(Protocol::Dns), 4, [1]);
    let asked = query(3, "a", b"");
    let turn: Vec<_> = (0..256).map(|_| In::new(0, client(1), &asked)).collect();
    for _ in 0..256 {
        assert_eq!(pool.turn(&turn).len(), 256);
    }
    assert_eq!(pool.stats().in_flight.get(), 65_536);
    let asked = query(3, "a", &OPT);
    let sent = pool.ask(client(2), &asked);
    assert_servfail(&sent, client(2), &asked, "too many open queries");
    assert_eq!(pool.refused(DropReason::TableFull), 1);
    pool.pass(TIMEOUT);
    assert_eq!(pool.stats().timed_out.get(), 65_536);
    pool.check_rest();
}

#[test]
fn above_the_rate_every_second_query_is_told_to_come_by_tcp() {
    for (every, expected) in [(2, 5), (1, 10), (3, 3), (0, 0)] {
        let limited = DatagramSettings {
            rate_per_source: Some(10.0),
            rate_limit_truncate: every,
            ..settings(Protocol::Dns)
        };
        let mut pool = Bench::new(limited, PORTS, [1]);
        let asked = query(7, "example.com", &OPT);
        let turn: Vec<_> = (0..20).map(|_| In::new(0, client(1), &asked)).collect();
        let sent = pool.turn(&turn);
        let (told, ways): (Vec<_>, Vec<_>) = sent.into_iter().partition(|sent| pool.is_front(sent.socket));
        assert_eq!((ways.len(), told.len()), (10, expected), "every {every}");
        for sent in told {
            assert_eq!((sent.bytes[2] & (QR | TC), sent.bytes[3] & 0xf), (QR | TC, 0));
            assert_eq!(sent.bytes.len(), asked.len(), "not longer than the query");
        }
        assert_eq!(pool.refused(DropReason::Rate), 10);
        // An update or nonsense is not told anything.
        let mut update = asked.clone();
        update[2] = 5 << 3;
        for bytes in [update, answer(&asked, b""), asked[..20].to_vec()] {
            assert_eq!(pool.turn(&vec![In::new(0, client(1), &bytes); 4]), []);
        }
    }
}

#[test]
fn a_notify_reaches_one_server_or_all_and_is_answered_once() {
    for notify_all in [false, true] {
        let mut pool =
            Bench::new(DatagramSettings { notify_all, ..settings(Protocol::Dns) }, PORTS, [1, 2, 3]);
        let mut asked = query(7, "example.com", b"");
        asked[2] = 4 << 3;
        let ways = pool.ask(client(1), &asked);
        let mut servers: Vec<_> = ways.iter().map(|way| way.to).collect();
        servers.sort();
        assert_eq!(servers.len(), if notify_all { 3 } else { 1 }, "{servers:?}");
        servers.dedup();
        assert_eq!(servers.len(), ways.len(), "each once");
        let answers: Vec<_> = ways.iter().map(|way| way.answered(&answer(&way.bytes, b""))).collect();
        let delivered = pool.turn(&answers);
        assert_eq!((delivered.len(), &delivered[0].bytes), (1, &answer(&asked, b"")));
        assert_eq!(pool.forwarded(client(1), &query(8, "example.com", b"")).bytes[2], 1, "only a NOTIFY");
    }
}

/// What may happen, with choices that the state gives a meaning.
#[derive(Clone, Debug)]
enum Step {
    Ask { client: u16, name: u8, id: u16 },
    Answer { which: usize, forgery: Forgery },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Forgery {
    None,
    Server(u16),
    Port,
    Id(u16),
    Name(u8),
    Query,
    Short,
    Bare(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let forgery = prop_oneof![
        6 => Just(Forgery::None),
        1 => (1..4u16).prop_map(Forgery::Server),
        1 => Just(Forgery::Port),
        1 => any::<u16>().prop_map(Forgery::Id),
        1 => (0..4u8).prop_map(Forgery::Name),
        1 => Just(Forgery::Query),
        1 => Just(Forgery::Short),
        1 => (0..3u8).prop_map(Forgery::Bare),
    ];
    prop_oneof![
        4 => (0..4u16, 0..4u8, prop_oneof![Just(0xffffu16), 0..3u16])
            .prop_map(|(client, name, id)| Step::Ask { client, name, id }),
        4 => (any::<usize>(), forgery).prop_map(|(which, forgery)| Step::Answer { which, forgery }),
    ]
}

/// A query that was ever sent to a server.
#[derive(Clone, Debug)]
struct Asked {
    way: Sent,
    client: SocketAddr,
    client_id: u16,
    sent: Instant,
    is_open: bool,
}

/// Queries of clients that each server has got. A copy, which tries out a server that has left others
/// unanswered, does not count.
fn dispatched(pool: &Bench) -> [u64; 3] {
    [1, 2, 3].map(|n| pool.stats().servers[pool.slot(n).unwrap().index()].common.dispatched.get())
}

const NAMES: [&str; 4] = ["a.example", "b.example", "c.example", "c.c.example"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The model never forgets a query. Whether an answer counts is decided by server, port, id and question.
    #[test]
    fn an_answer_reaches_who_asked_that_question_with_that_id_once_or_nobody(
        turns in vec((wait(), vec(step(), 0..8)), 1..60),
        seed: u64,
        two_ports: bool,
    ) {
        let mut settings = settings(Protocol::Dns);
        settings.health.interval = Duration::from_secs(3600); // no copies for suspects
        settings.health.rules.fall = 255;
        let mut pool = Bench::with_seed(seed, settings, 1 + u16::from(two_ports), [1, 2, 3]);
        let mut all: Vec<Asked> = vec![];
        for (number, (wait, steps)) in turns.iter().enumerate() {
            pool.now += *wait;
            let mut arrived = vec![];
            let mut asks = vec![];
            let mut expected = vec![];
            for step in steps {
                match *step {
                    Step::Ask { client: n, name, id } => {
                        // Numbered, so that the model knows it again.
                        let mark = [number as u8, asks.len() as u8];
                        let bytes = query(id, NAMES[usize::from(name)], &mark);
                        arrived.push(In::new(0, client(n), &bytes));
                        asks.push((client(n), bytes));
                    }
                    Step::Answer { which, forgery } if !all.is_empty() => {
                        let of = all[which % all.len()].way.clone();
                        let mut datagram = of.answered(&answer(&of.bytes, b"an answer"));
                        match forgery {
                            Forgery::None => {}
                            Forgery::Server(n) => datagram.peer = server(n),
                            Forgery::Port => datagram.socket = pool.ports().start + which as u16 % 2,
                            Forgery::Id(id) => datagram.bytes = with_id(&datagram.bytes, id),
                            Forgery::Name(n) => {
                                let bytes = query(id(&of.bytes), NAMES[usize::from(n)], b"");
                                datagram.bytes = answer(&bytes, b"");
                            }
                            Forgery::Query => datagram.bytes[2] &= !QR,
                            Forgery::Short => datagram.bytes.truncate(14),
                            Forgery::Bare(rcode) => {
                                datagram.bytes.truncate(12);
                                (datagram.bytes[3], datagram.bytes[5]) = (rcode, 0);
                            }
                        }
                        arrived.push(datagram);
                    }
                    Step::Answer { .. } => {}
                }
            }
            for datagram in arrived.iter().filter(|datagram| !pool.is_front(datagram.socket)) {
                let question = crate::wire::dns::response(&datagram.bytes);
                let is_bare_error = datagram.bytes.len() == 12 && datagram.bytes[3] > 0;
                if question.is_err() && !is_bare_error {
                    continue;
                }
                let counts = |asked: &&mut Asked| {
                    let way = &asked.way;
                    asked.is_open
                        && (way.socket, way.to) == (datagram.socket, datagram.peer)
                        && id(&way.bytes) == id(&datagram.bytes)
                        && (is_bare_error || crate::wire::dns::query(&way.bytes) == question)
                };
                if let Some(asked) = all.iter_mut().find(counts) {
                    asked.is_open = false;
                    let bytes = with_id(&datagram.bytes, asked.client_id);
                    expected.push(Sent { socket: 0, to: asked.client, source_ip: None, bytes });
                }
            }
            let before = dispatched(&pool);
            let (mut delivered, mut ways): (Vec<_>, Vec<_>) =
                pool.turn(&arrived).into_iter().partition(|sent| pool.is_front(sent.socket));
            delivered.sort_by(|a, b| (a.to, &a.bytes).cmp(&(b.to, &b.bytes)));
            expected.sort_by(|a, b| (a.to, &a.bytes).cmp(&(b.to, &b.bytes)));
            prop_assert_eq!(delivered, expected, "turn {} of seed {}", number, seed);
            let after = dispatched(&pool);
            let copy = ways.iter().rposition(|way| {
                let at = [1, 2, 3].iter().position(|&n| server(n) == way.to).unwrap();
                let mark = way.bytes.last();
                let of_server = ways.iter().filter(|other| other.to == way.to).count() as u64;
                of_server > after[at] - before[at]
                    && ways.iter().filter(|other| other.bytes.last() == mark).count() == 2
            });
            copy.map(|copy| ways.remove(copy));
            prop_assert_eq!(ways.len(), asks.len(), "turn {} of seed {}", number, seed);
            for way in ways {
                let (client, bytes) = &asks[usize::from(way.bytes[way.bytes.len() - 1])];
                prop_assert_eq!(&way.bytes, &with_id(bytes, id(&way.bytes)));
                let (client, client_id, sent) = (*client, id(bytes), pool.now);
                all.push(Asked { way, client, client_id, sent, is_open: true });
            }
            for asked in all.iter_mut().filter(|asked| asked.sent + TIMEOUT <= pool.now) {
                asked.is_open = false;
            }
            let open = all.iter().filter(|asked| asked.is_open).count();
            prop_assert_eq!(pool.stats().in_flight.get(), open as u64, "turn {} of seed {}", number, seed);
        }
        pool.pass(TIMEOUT);
        pool.check_rest();
    }
}
