//! No storms: no frame is answered at once by a frame that is answered at once, and without requests no two
//! components exchange more than a few frames in an interval, whatever state they are in.

use std::collections::BTreeMap;

use super::*;

/// Frames that two components may exchange in an interval without requests, both directions together, on
/// average over ten intervals.
const FEW: u64 = 4;

/// What happens to a pool before it is left alone.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Nothing,
    /// Servers drain with a request that takes long.
    Drain,
    /// Servers stand still.
    Freeze,
    /// Servers are killed.
    Kill,
    /// Servers ask for ids that others have, and for slots that are not there.
    Refuse,
    /// The balancer is killed and another one starts.
    Restart,
    /// The balancer is killed.
    Silence,
    /// All of it, one after the other.
    All,
}

const HAPPENINGS: [Happening; 8] = [
    Happening::Nothing,
    Happening::Drain,
    Happening::Freeze,
    Happening::Kill,
    Happening::Refuse,
    Happening::Restart,
    Happening::Silence,
    Happening::All,
];

/// A pool whose servers have requests that take a minute, if they have any.
fn busy_pool(seed: u64, servers: u32) -> World {
    let loss = [0.0, 0.0, 0.02, 0.2][seed as usize % 4];
    let mut world = World::new(seed, faults(loss, loss / 2.0, loss));
    world.workers = 1 + (seed as usize / 2) % 4;
    world.servers_max = servers as usize;
    world.key = (seed % 5 == 4).then_some([7; 16]);
    let mut world = fill(world, servers, Some(ServiceTime::fixed(Duration::from_secs(60))));
    let now = world.now();
    for number in 0..u64::from(servers) * (seed % 3) {
        let client = number as usize % world.clients.len();
        world.clients[client].submit(now, number);
    }
    world.run(MS * 50);
    world
}

fn happen(world: &mut World, happening: Happening, rng: &mut Rng) {
    let some: Vec<u32> = world.servers.keys().copied().filter(|_| rng.below(2) == 0).collect();
    match happening {
        Happening::Nothing => {}
        Happening::Drain => {
            let now = world.now();
            some.iter().for_each(|id| world.servers.get_mut(id).expect("it runs").role.drain(now));
        }
        Happening::Freeze => world.frozen.extend(some),
        Happening::Kill => {
            some.iter().for_each(|&id| world.kill_server(id));
            world.frozen.retain(|id| !some.contains(id));
        }
        Happening::Refuse => {
            let taken = world.servers.keys().next().copied().unwrap_or(0);
            world.start_server_as(1_000, taken);
            world.start_server_as(1_001, 1_001);
        }
        Happening::Restart => {
            world.kill_balancer();
            world.start_balancer(PolicyKind::ShortestQueue);
        }
        Happening::Silence => world.kill_balancer(),
        Happening::All => {
            use Happening::*;
            for happening in [Drain, Refuse, Freeze, Restart, Kill] {
                happen(world, happening, rng);
                world.run(MS * 20);
            }
        }
    }
}

/// Frames that each two components have exchanged so far.
fn exchanged(world: &World) -> BTreeMap<(SocketAddr, SocketAddr), u64> {
    let size = if world.key.is_some() { 160 } else { 128 };
    let backs: Vec<SocketAddr> = (0..world.workers).map(back_of).collect();
    let others = world.servers.keys().map(|&id| server_addr(id)).chain([controller_addr()]);
    let pairs = others.flat_map(|other| backs.iter().map(move |&back| (back, other)));
    let count =
        |(back, other)| (world.net.sent_between(back, other) + world.net.sent_between(other, back)) / size;
    pairs.map(|pair| (pair, count(pair))).collect()
}

#[test]
fn without_requests_no_two_components_exchange_more_than_a_few_frames_in_an_interval() {
    for seed in seeds(32) {
        let servers = [1, 3, 8, 64][seed as usize % 4];
        let happening = HAPPENINGS[(seed / 4) as usize % HAPPENINGS.len()];
        let mut world = busy_pool(seed, servers);
        happen(&mut world, happening, &mut Rng::new(seed));
        // What was lost may be repeated, and clients give up, before the pool is left alone.
        for round in 0..6 {
            let before = exchanged(&world);
            world.run(INTERVAL * 10);
            for (pair, count) in exchanged(&world) {
                let frames = count - before.get(&pair).copied().unwrap_or(0);
                assert!(
                    frames <= 10 * FEW,
                    "seed {seed}, {servers} servers, {happening:?}, round {round}: {frames} frames between \
                     {pair:?} in ten intervals"
                );
            }
        }
    }
}

#[test]
fn no_frame_is_answered_at_once_by_a_frame_that_is_answered_at_once() {
    let mut pairs = std::collections::BTreeSet::new();
    for seed in seeds(16) {
        let mut world = World::new(seed, faults(0.02, 0.02, 0.05));
        world.workers = 1 + seed as usize % 3;
        world.key = (seed % 4 == 3).then_some([7; 16]);
        world.scale.threshold = 0.2;
        world.service = Some(ServiceTime::exponential(MS));
        world.start_controller(4);
        world.start_balancer(PolicyKind::ShortestQueue);
        world.start_clients(3, Duration::from_secs(20));
        assert!(world.run_until(Duration::from_secs(20), |w| w.up().len() >= 4), "seed {seed}");
        let mut rng = Rng::new(seed);
        traffic(&mut world, 600, 2.0, |w, number| match number {
            150 => {
                w.kill_balancer();
                w.start_balancer(PolicyKind::ShortestQueue);
            }
            300 => {
                let id = *w.servers.keys().nth(rng.below(3) as usize).expect("four run");
                let now = w.now();
                w.servers.get_mut(&id).expect("it runs").role.drain(now);
            }
            450 => w.start_server_as(1_000, 1_000),
            _ => {}
        });
        world.run(Duration::from_secs(3));
        pairs.append(&mut world.answers.pairs);
    }
    for pair in [("REGISTER", "CHALLENGE"), ("REPORT", "CHALLENGE"), ("GROW", "CHALLENGE"), ("GROW", "ACK")] {
        assert!(pairs.contains(&pair), "{pair:?} was not tried: {pairs:?}");
    }
    for (frame, answer) in &pairs {
        let next = pairs.iter().find(|(other, _)| other == answer);
        assert_eq!(next, None, "{frame} is answered at once by {answer}, which is answered at once");
    }
}
