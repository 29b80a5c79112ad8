//! Bytes as a program: any datagram, at any socket and time. The bench checks the counts after each turn. A
//! datagram that leaves a client-side socket goes to a sender of that socket. In the end nothing is in
//! flight.

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::bench::*;
use super::*;

/// Reads a program; bytes after its end are zero.
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

/// A query that is well formed: one of four names.
fn query(n: u8) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let name = [1, b'a' + n % 4, 0];
    let len = crate::wire::dns::write_query(&mut bytes, u16::from(n) * 257, &name, 1);
    bytes.truncate(len);
    bytes
}

fn run(settings: DatagramSettings, program: &[u8]) {
    let mut pool = Bench::new(settings, 4, 1..5);
    let (mut program, mut senders, mut ways) = (Program(program), HashSet::new(), Vec::<Sent>::new());
    while !program.0.is_empty() {
        let (what, which) = (program.byte(), program.byte());
        let client = client(u16::from(which % 5));
        let front = u16::from(which) % FRONTS;
        let way = ways.get(usize::from(which) % ways.len().max(1)).cloned();
        let arrived = match (what % 8, way) {
            (0, _) => {
                let len = usize::from(program.byte() % 32) + 1;
                In::new(front, client, &program.bytes(len))
            }
            (1 | 2, _) => In::new(front, client, &query(program.byte())),
            (3 | 4, Some(way)) => {
                let mut bytes = way.bytes.clone();
                if let Some(flags) = bytes.get_mut(2) {
                    *flags |= 0x80;
                }
                if what % 8 == 3 {
                    let at = usize::from(program.byte()) % bytes.len();
                    bytes[at] ^= program.byte();
                }
                way.answered(&bytes)
            }
            (5, _) => {
                let sockets = FRONTS..pool.ports().end + 2;
                let socket = sockets.start + u16::from(program.byte()) % (sockets.end - sockets.start);
                let len = usize::from(program.byte() % 32) + 1;
                In::new(socket, server(u16::from(which % 6)), &program.bytes(len))
            }
            (6, _) => {
                pool.refuse(0, server(u16::from(which % 6)), 1);
                continue;
            }
            _ => {
                ways.extend(pool.pass(MS * u32::from(which)));
                continue;
            }
        };
        if pool.is_front(arrived.socket) {
            senders.insert((arrived.socket, arrived.peer));
        }
        for sent in pool.turn(&[arrived]) {
            match pool.is_front(sent.socket) {
                true => assert!(senders.contains(&(sent.socket, sent.to)), "{sent:?}"),
                false => ways.push(sent),
            }
        }
    }
    pool.pass(IDLE + TIMEOUT + MS * 20);
    pool.check_rest();
}

fn checked(protocol: Protocol, check: Check) -> DatagramSettings {
    let mut settings = settings(protocol);
    settings.health.check = check;
    settings
}

fn run_all(program: &[u8]) {
    let flows =
        DatagramSettings { affinity: Affinity::Client, replies: None, ..settings(Protocol::Datagram) };
    run(settings(Protocol::Dns), program);
    run(checked(Protocol::Dns, Check::Dns { name: vec![0], kind: 2 }), program);
    run(settings(Protocol::Datagram), program);
    run(checked(Protocol::Datagram, Check::Payload { send: vec![1], expect: vec![] }), program);
    run(flows, program);
    run(DatagramSettings { replies: Some(0), ..settings(Protocol::Datagram) }, program);
}

#[test]
fn programs_that_go_everywhere() {
    for seed in 0..20u64 {
        let mut rng = crate::base::rng::Rng::new(seed);
        let program: Vec<u8> = (0..600).map(|_| rng.next_u64() as u8).collect();
        run_all(&program);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_program_leaves_the_accounts_right(program in vec(any::<u8>(), 0..200)) {
        run_all(&program);
    }
}
