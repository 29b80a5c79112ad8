//! Servers of unlike speed under policy shortest_delay, and what the choices are worth.

use std::collections::HashMap;

use super::bench::*;
use super::*;
use crate::pool::select::PolicyKind;

const QUERY: &[u8] = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
const SECOND: Duration = Duration::from_secs(1);
const SERVERS: [u16; 3] = [1, 2, 4];
/// Fast and slow.
const FAST: Duration = Duration::from_micros(2_400);
const SLOW: Duration = Duration::from_millis(10);

/// A pool whose servers serve one request after the other.
struct Served {
    pool: Bench,
    /// Until when each server is busy.
    busy: HashMap<SocketAddr, Instant>,
    /// What will be answered, when, and at which worker.
    due: Vec<(Instant, usize, Sent)>,
    asked: u16,
}

impl Served {
    fn new(protocol: Protocol, policy: PolicyKind) -> Served {
        let settings = DatagramSettings { policy, workers: 2, timeout: 60 * SECOND, ..settings(protocol) };
        let pool = Bench::new(settings, 128, SERVERS);
        Served { pool, busy: HashMap::new(), due: vec![], asked: 0 }
    }

    /// Eleven requests in 12 ms, of the workers in turn, for so long; gives how many went to each server.
    fn run(&mut self, time: Duration, takes: impl Fn(u16) -> Duration) -> [u64; 3] {
        let mut chosen = [0; 3];
        for ms in 0..time.as_millis() as u64 {
            self.pool.now += MS;
            for worker in 0..2 {
                let now = self.pool.now;
                let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.due)
                    .into_iter()
                    .partition(|&(at, of, _)| of == worker && at <= now);
                self.due = rest;
                let answer = |(_, _, way): &(Instant, usize, Sent)| {
                    let mut bytes = way.bytes.clone();
                    bytes[2] |= 0x80;
                    way.answered(&bytes)
                };
                self.pool.turn_of(worker, &due.iter().map(answer).collect::<Vec<_>>());
            }
            if ms % 12 == 0 {
                continue;
            }
            self.asked += 1;
            let (worker, client) = (usize::from(self.asked) % 2, client(self.asked % 200));
            let way = self.pool.turn_of(worker, &[In::new(0, client, QUERY)]).remove(0);
            let place = SERVERS.iter().position(|&n| server(n) == way.to).expect("one of them");
            chosen[place] += 1;
            let busy = self.busy.entry(way.to).or_insert(Instant::ZERO);
            *busy = (*busy).max(self.pool.now) + takes(SERVERS[place]);
            self.due.push((*busy, worker, way));
        }
        chosen
    }

    /// The queue lengths after as many more requests as make 44 in all, which are answered at once
    /// afterwards.
    fn spread(&mut self) -> [u32; 3] {
        let more = 44 - self.pool.shared.pool.tree.total() as u16;
        let ways: Vec<_> = (0..more).map(|n| self.pool.forwarded(client(n), QUERY)).collect();
        self.due.extend(ways.into_iter().map(|way| (self.pool.now, 0, way)));
        SERVERS.map(|n| self.pool.queue(n))
    }
}

fn first_is_slow(n: u16) -> Duration {
    if n == 1 { SLOW } else { FAST }
}

#[test]
fn a_slow_server_gets_its_share_and_an_equal_one_soon_after_it_has_recovered() {
    for protocol in Protocol::ALL {
        let mut served = Served::new(protocol, PolicyKind::ShortestDelay);
        served.run(2 * SECOND, |_| FAST);
        let equal = served.run(2 * SECOND, |_| FAST);
        assert!(equal.iter().all(|&n| (550..=680).contains(&n)), "{protocol:?}: {equal:?}");
        served.run(SECOND, first_is_slow);
        let [slow, ..] = served.run(3 * SECOND, first_is_slow);
        // Of 2,750 requests the others can do 2,500 at most, and it can do 300.
        assert!((250..=305).contains(&slow), "{protocol:?}: {slow}");
        let slot = served.pool.slot(1).unwrap().index();
        let shown = &served.pool.stats().servers[slot].common.served;
        assert!((7_000..=13_000).contains(&shown.service_us.get()), "{protocol:?}: {shown:?}");
        assert!((2_500..=5_000).contains(&shown.slowness.get()), "{protocol:?}: {shown:?}");
        served.run(3 * SECOND, |_| FAST);
        let again = served.run(2 * SECOND, |_| FAST);
        assert!(again.iter().all(|&n| (550..=680).contains(&n)), "{protocol:?}: {again:?}");
        served.pool.pass(61 * SECOND); // what is left is given up
        served.pool.check_rest();
    }
}

#[test]
fn the_cost_goes_with_the_policy() {
    for protocol in Protocol::ALL {
        let mut served = Served::new(protocol, PolicyKind::ShortestQueue);
        served.run(2 * SECOND, first_is_slow);
        let spread = served.spread();
        assert!(spread.iter().all(|n| (13..=16).contains(n)), "{protocol:?}: {spread:?}");
        let reconfigure = |served: &Served, policy| {
            let settings = DatagramSettings { policy, ..served.pool.shared.settings().as_ref().clone() };
            served.pool.shared.reconfigure(settings).unwrap();
        };
        reconfigure(&served, PolicyKind::ShortestDelay);
        served.run(3 * SECOND, first_is_slow);
        let spread = served.spread();
        assert!((3..=8).contains(&spread[0]) && (17..=21).contains(&spread[1]), "{protocol:?}: {spread:?}");
        reconfigure(&served, PolicyKind::ShortestQueue);
        served.run(MS * 2, first_is_slow);
        let spread = served.spread();
        assert!(spread.iter().all(|n| (13..=16).contains(n)), "{protocol:?}: {spread:?}");
        let slot = served.pool.slot(1).unwrap().index();
        let shown = &served.pool.stats().servers[slot].common.served;
        assert_eq!((shown.service_us.get(), shown.slowness.get()), (0, 0), "{protocol:?}");
    }
}

#[test]
fn another_server_at_the_place_of_a_slow_one_is_not_slow() {
    let mut served = Served::new(Protocol::Dns, PolicyKind::ShortestDelay);
    served.run(3 * SECOND, first_is_slow);
    assert!(served.spread()[0] < 9);
    served.run(SECOND, |_| Duration::ZERO);
    served.pool.want(wanted([2, 4]));
    served.pool.pass(SECOND);
    served.pool.want(wanted(SERVERS));
    let spread = served.spread();
    assert!(spread.iter().all(|n| (13..=16).contains(n)), "{spread:?}");
}

#[test]
fn choices_are_looked_at_and_what_is_given_up_is_counted() {
    for protocol in Protocol::ALL {
        for (policy, regrets) in [(PolicyKind::ShortestQueue, false), (PolicyKind::Random, true)] {
            let mut served = Served::new(protocol, policy);
            served.run(20 * SECOND, |_| FAST);
            let of = |worker: usize| &served.pool.workers[worker].stats().common.decisions;
            for worker in 0..2 {
                let (regret, age) = (of(worker).regret.snapshot(), of(worker).age.snapshot());
                assert!((110..180).contains(&regret.count()), "one of 64 in 9,166: {}", regret.count());
                assert_eq!(regret.mean() > 0.1, regrets, "{protocol:?}: {}", regret.mean());
                assert!((regret.sum() == 0) != regrets, "{protocol:?}: {regret:?}");
                let p50 = age.quantile(0.5).unwrap();
                assert!(age.count() >= regret.count() - 1 && p50 <= MS * 12, "{protocol:?}: {p50:?}");
            }
            assert_eq!(of(0).given_up.get(), 0);
            served.due.clear();
            let mut expected = served.pool.shared.pool.tree.total();
            for n in 0..5 {
                expected += served.pool.ask(client(n), QUERY).len() as u64;
            }
            served.pool.pass(61 * SECOND);
            let given_up: u64 =
                served.pool.workers.iter().map(|w| w.stats().common.decisions.given_up.get()).sum();
            assert!(given_up >= expected, "{given_up} {expected}");
            served.pool.check_rest();
        }
    }
}
