//! A model of pools that match by port and server. It keeps each request with its pair and its client, and
//! checks for each datagram to a client whether it belongs to that client.

use std::collections::HashMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::bench::*;
use super::*;

#[derive(Clone, Debug)]
pub enum Step {
    Ask(u16),
    /// A datagram of a server as if it were the reply to any that was ever sent.
    Reply {
        which: usize,
        forgery: Forgery,
        times: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Forgery {
    None,
    Server(u16),
    Port(u16),
}

#[derive(Clone, Debug)]
pub struct Turn {
    pub wait: Duration,
    pub worker: usize,
    pub steps: Vec<Step>,
    pub end: End,
}

/// What happens after a turn.
#[derive(Clone, Debug)]
pub enum End {
    Nothing,
    /// Time passes, with ticks.
    Pass(Duration),
    /// The pool has no room for what it wants to send in this turn.
    Full,
    /// The pool should have these servers.
    Want(Vec<u16>),
    /// The network says that a server is not there.
    Refuse(u16),
}

pub const SERVERS: std::ops::Range<u16> = 1..6;

fn step(clients: u16) -> impl Strategy<Value = Step> {
    let forgery = prop_oneof![
        8 => Just(Forgery::None),
        1 => SERVERS.prop_map(Forgery::Server),
        1 => (0..8u16).prop_map(Forgery::Port),
    ];
    // Mostly to recent requests.
    let which = prop_oneof![3 => 0..8usize, 1 => any::<usize>()];
    let reply = (which, forgery, prop_oneof![8 => 1..2usize, 1 => 2..5usize])
        .prop_map(|(which, forgery, times)| Step::Reply { which, forgery, times });
    prop_oneof![1 => (0..clients).prop_map(Step::Ask), 1 => reply]
}

pub fn turns(clients: u16, workers: usize) -> impl Strategy<Value = Vec<Turn>> {
    let servers = Just(SERVERS.collect::<Vec<_>>()).prop_shuffle();
    let want = (servers, 0..4usize).prop_map(|(mut servers, count)| {
        servers.truncate(count);
        End::Want(servers)
    });
    let pass = prop_oneof![1..100u64, 100..1_000u64].prop_map(|ms| End::Pass(MS * ms as u32));
    let end = prop_oneof![
        20 => Just(End::Nothing),
        4 => pass,
        2 => Just(End::Full),
        2 => want,
        1 => SERVERS.prop_map(End::Refuse),
    ];
    let turn = (wait(), 0..workers, vec(step(clients), 0..8), end)
        .prop_map(|(wait, worker, steps, end)| Turn { wait, worker, steps, end });
    vec(turn, 1..60)
}

/// A datagram that left for a server.
#[derive(Clone, Debug)]
pub struct Way {
    pub worker: usize,
    pub sent: Sent,
    pub client: SocketAddr,
    pub at: Instant,
}

/// A datagram that reached a client, by a pair.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub pair: (usize, u16, SocketAddr),
    pub client: SocketAddr,
    pub at: Instant,
}

impl Way {
    pub fn pair(&self) -> (usize, u16, SocketAddr) {
        (self.worker, self.sent.socket, self.sent.to)
    }
}

#[derive(Default)]
pub struct Model {
    pub ways: Vec<Way>,
    pub delivered: Vec<Delivered>,
    owners: HashMap<(usize, u16, SocketAddr), SocketAddr>,
}

impl Model {
    /// Whether a pair may serve another client by now: all was answered and has rested for [`HOLD`], or
    /// `rest` is over since this way was sent.
    pub fn is_settled(&self, way: &Way, now: Instant, rest: Duration) -> bool {
        let asked =
            self.ways.iter().filter(|w| w.pair() == way.pair() && w.client == way.client && w.at >= way.at);
        let of = |d: &&Delivered| d.pair == way.pair() && d.client == way.client && d.at >= way.at;
        let replies = self.delivered.iter().filter(of);
        let last = replies.clone().map(|d| d.at).max();
        let is_answered = asked.count() <= replies.count() && last.is_some_and(|last| now >= last + HOLD);
        is_answered || now >= way.at + rest
    }
}

/// Plays the turns in a pool with the servers 1 and 2. `replies` is how many a client may get for each
/// datagram; `is_settled` says whether a pair may have another owner, although the reply to this may come
/// yet.
pub fn play(
    mut pool: Bench,
    turns: &[Turn],
    replies: Option<usize>,
    is_settled: impl Fn(&Model, &Way, Instant) -> bool,
) -> TestCaseResult {
    let one_way = pool.shared.settings().replies == Some(0);
    let mut model = Model::default();
    let mut marks = 0;
    for (number, turn) in turns.iter().enumerate() {
        pool.now += turn.wait;
        let (mut arrived, mut asks, mut sources) = (vec![], HashMap::new(), HashMap::new());
        for step in &turn.steps {
            marks += 1;
            match *step {
                Step::Ask(n) => {
                    arrived.push(In::new(0, client(n), format!("ask {marks}").as_bytes()));
                    asks.insert(marks, client(n));
                }
                Step::Reply { which, forgery, times } => {
                    let of_worker = |way: &&Way| way.worker == turn.worker;
                    let count = model.ways.iter().filter(of_worker).count();
                    if count == 0 {
                        continue;
                    }
                    let which = count - 1 - which % count;
                    let way = model.ways.iter().filter(of_worker).nth(which).unwrap().clone();
                    let mut datagram = way.sent.answered(format!("reply {marks}").as_bytes());
                    match forgery {
                        Forgery::None => {}
                        Forgery::Server(n) => datagram.peer = server(n),
                        Forgery::Port(n) => {
                            let ports = pool.ports_to(datagram.peer);
                            datagram.socket = ports.start + n % ports.len() as u16;
                        }
                    }
                    let is_genuine = (datagram.socket, datagram.peer) == (way.sent.socket, way.sent.to);
                    let pair = (turn.worker, datagram.socket, datagram.peer);
                    sources.insert(marks, (pair, is_genuine.then_some(way)));
                    arrived.extend(std::iter::repeat_n(datagram, times));
                }
            }
        }
        let place = format!("turn {number}");
        let is_full = matches!(turn.end, End::Full);
        let sent = pool.turn_in(turn.worker, &arrived, is_full);
        let mark = |sent: &Sent| -> usize {
            std::str::from_utf8(&sent.bytes).unwrap().split_once(' ').unwrap().1.parse().unwrap()
        };
        // Answers were first.
        let (delivered, forwarded): (Vec<_>, Vec<_>) =
            sent.into_iter().partition(|sent| pool.is_front(sent.socket));
        for sent in delivered {
            let (pair, genuine) = &sources[&mark(&sent)];
            prop_assert_eq!(model.owners.get(pair), Some(&sent.to), "{} by {:?}", place, pair);
            if let Some(way) = genuine.as_ref().filter(|way| way.client != sent.to) {
                prop_assert!(
                    is_settled(&model, way, pool.now),
                    "{place}: at {:?} {sent:?} reached another than {way:?}",
                    pool.now
                );
            }
            prop_assert!(!one_way, "{}: {:?}", place, sent);
            model.delivered.push(Delivered { pair: *pair, client: sent.to, at: pool.now });
            if let Some(replies) = replies {
                let asked = model.ways.iter().filter(|way| way.client == sent.to).count();
                let got = model.delivered.iter().filter(|delivered| delivered.client == sent.to).count();
                prop_assert!(got <= asked * replies, "{}: {} of {}", place, got, asked);
            }
        }
        for sent in forwarded {
            let client = asks.remove(&mark(&sent)).expect("no datagram is sent twice");
            let way = Way { worker: turn.worker, sent, client, at: pool.now };
            model.owners.insert(way.pair(), client);
            model.ways.push(way);
        }
        match &turn.end {
            End::Nothing | End::Full => {}
            End::Pass(time) => drop(pool.pass(*time)),
            End::Want(servers) => pool.shared.want(wanted(servers.iter().copied())),
            End::Refuse(n) => pool.refuse(turn.worker, server(*n), 1),
        }
    }
    pool.pass(IDLE + TIMEOUT);
    pool.check_rest();
    Ok(())
}
