//! Selection: reserve a shortest queue and complete one request, against the obvious alternatives.
//!
//! `cargo bench --bench select`. Names: structure/threads/servers; each iteration is one reserve and one
//! completion.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use lbd::base::rng::Rng;
use lbd::pool::select::{Chooser, LeafState, PolicyKind, Slot, Tree};

const SERVERS: [usize; 6] = [4, 16, 64, 256, 1024, 4096];
/// Requests that stay in the queues, per server, so that they are not all equal.
const STANDING: usize = 2;

/// What is compared: count one request up at a shortest queue, and down again.
trait Structure: Sync {
    fn reserve(&self, rng: &mut Rng) -> usize;
    fn complete(&self, server: usize);
}

struct FArray(Tree);

impl FArray {
    fn new(servers: usize) -> Self {
        let tree = Tree::new(servers, u32::MAX);
        (0..servers).for_each(|i| tree.set(Slot::new(i), LeafState::Eligible, 1));
        FArray(tree)
    }
}

impl Structure for FArray {
    fn reserve(&self, rng: &mut Rng) -> usize {
        self.0.reserve(rng).unwrap().slot.index()
    }
    fn complete(&self, server: usize) {
        self.0.adjust(Slot::new(server), -1);
    }
}

/// Every length read, the least counted up.
struct Scan(Vec<AtomicU32>);

impl Structure for Scan {
    fn reserve(&self, _: &mut Rng) -> usize {
        let least = |i: &usize| self.0[*i].load(Ordering::Relaxed);
        let server = (0..self.0.len()).min_by_key(least).unwrap();
        self.0[server].fetch_add(1, Ordering::Relaxed);
        server
    }
    fn complete(&self, server: usize) {
        self.0[server].fetch_sub(1, Ordering::Relaxed);
    }
}

/// A heap behind a lock. A binary heap cannot change the key of a known server, so a changed one is pushed
/// again and the old entry is passed over when it comes up.
struct LockedHeap(Mutex<HeapAndLengths>);

type HeapAndLengths = (BinaryHeap<Reverse<(u32, u32)>>, Vec<u32>);

impl LockedHeap {
    fn new(servers: usize) -> Self {
        LockedHeap(Mutex::new(((0..servers as u32).map(|i| Reverse((0, i))).collect(), vec![0; servers])))
    }
}

impl Structure for LockedHeap {
    fn reserve(&self, _: &mut Rng) -> usize {
        let (heap, lengths) = &mut *self.0.lock().unwrap();
        loop {
            let Reverse((len, server)) = heap.pop().unwrap();
            if lengths[server as usize] == len {
                lengths[server as usize] += 1;
                heap.push(Reverse((len + 1, server)));
                return server as usize;
            }
        }
    }
    fn complete(&self, server: usize) {
        let (heap, lengths) = &mut *self.0.lock().unwrap();
        lengths[server] -= 1;
        heap.push(Reverse((lengths[server], server as u32)));
        if heap.len() > 8 * lengths.len() {
            *heap = lengths.iter().enumerate().map(|(i, &len)| Reverse((len, i as u32))).collect();
        }
    }
}

/// The shorter of two random queues, on the same tree.
struct TwoChoices(Tree);

impl Structure for TwoChoices {
    fn reserve(&self, rng: &mut Rng) -> usize {
        let mut pick = || Slot::new(rng.below(self.0.slot_count() as u64) as usize);
        let (a, b) = (pick(), pick());
        self.0.reserve_shorter(a, b).unwrap().index()
    }
    fn complete(&self, server: usize) {
        self.0.adjust(Slot::new(server), -1);
    }
}

/// Runs `rounds` rounds on each thread. Requests complete in the order of their arrival.
fn run(structure: &impl Structure, servers: usize, threads: u64, rounds: u64) -> Duration {
    let worker = |seed: u64| {
        let (mut rng, standing) = (Rng::new(seed), servers * STANDING / threads as usize);
        let mut held: Vec<usize> = (0..standing.max(1)).map(|_| structure.reserve(&mut rng)).collect();
        let (mut at, start) = (0, Instant::now());
        for _ in 0..rounds {
            structure.complete(held[at]);
            held[at] = black_box(structure.reserve(&mut rng));
            at = if at + 1 == held.len() { 0 } else { at + 1 };
        }
        let took = start.elapsed();
        held.into_iter().for_each(|server| structure.complete(server));
        took
    };
    std::thread::scope(|scope| {
        let handles: Vec<_> = (1..threads).map(|seed| scope.spawn(move || worker(seed))).collect();
        let mine = worker(threads);
        handles.into_iter().map(|h| h.join().unwrap()).fold(mine, Duration::max)
    })
}

fn bench(c: &mut Criterion, name: &str, make: impl Fn(usize) -> Box<dyn Fn(u64, u64) -> Duration>) {
    for threads in [1, 2] {
        let mut group = c.benchmark_group(format!("{name}/{threads}"));
        for servers in SERVERS {
            let run = make(servers);
            group.bench_function(BenchmarkId::from_parameter(servers), |b| {
                b.iter_custom(|rounds| run(threads, rounds))
            });
        }
    }
}

fn select(c: &mut Criterion) {
    bench(c, "tree", |n| {
        let structure = FArray::new(n);
        Box::new(move |threads, rounds| run(&structure, n, threads, rounds))
    });
    bench(c, "scan", |n| {
        let structure = Scan((0..n).map(|_| AtomicU32::new(0)).collect());
        Box::new(move |threads, rounds| run(&structure, n, threads, rounds))
    });
    bench(c, "mutex_heap", |n| {
        let structure = LockedHeap::new(n);
        Box::new(move |threads, rounds| run(&structure, n, threads, rounds))
    });
    bench(c, "two_choices", |n| {
        let structure = TwoChoices(FArray::new(n).0);
        Box::new(move |threads, rounds| run(&structure, n, threads, rounds))
    });
}

/// The policies as the balancer calls them, 16 servers.
fn policies(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy");
    for kind in PolicyKind::ALL {
        let (tree, mut chooser) = (FArray::new(16).0, Chooser::new(kind, 1));
        group.bench_function(kind.name(), |b| {
            b.iter(|| {
                let slot = chooser.reserve(&tree).unwrap().slot;
                tree.adjust(slot, -1);
            });
        });
    }
}

criterion_group!(benches, select, policies);
criterion_main!(benches);
