//! Reference results: one queue in front of all servers, and a balancer with exact knowledge of every
//! queue. Both have no network, so no datagram is in transit or lost.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use super::lengths::Lengths;
use super::speeds::Speeds;
use super::trace::RequestTrace;
use crate::base::rng::Rng;
use crate::base::time::Instant;

/// Order in which free servers are taken: fastest first, then lowest index. (All speeds are positive, so
/// their bits order like the speeds.)
fn rank(speeds: &Speeds, server: usize, at: Instant) -> (Reverse<u64>, usize) {
    (Reverse(speeds.at(server, at).to_bits()), server)
}

/// Ends of service, earliest first.
type Ends = BinaryHeap<Reverse<(Instant, usize)>>;

/// Removes a server whose service has ended by `by`.
fn pop_ended(ends: &mut Ends, by: Instant) -> Option<usize> {
    let &Reverse((at, server)) = ends.peek()?;
    (at <= by).then(|| {
        ends.pop();
        server
    })
}

/// Latency of each request in nanoseconds with *one queue for all servers*: first come, first served, by
/// the fastest server that is free.
///
/// With equal servers, no policy has a better tail unless it knows service times in advance. With
/// unequal servers, this queue never leaves a server idle. A policy that leaves slow servers idle on
/// purpose may have a better tail.
pub fn central_queue(trace: &RequestTrace, speeds: &Speeds) -> Vec<u64> {
    let mut free: BTreeSet<_> = speeds.all().map(|server| rank(speeds, server, Instant::ZERO)).collect();
    let mut busy = Ends::new();
    let mut changes = speeds.changes().into_iter().peekable();
    let mut latencies = Vec::with_capacity(trace.requests().len());
    let mut ranked_at = Instant::ZERO;
    let mut begins = Instant::ZERO;
    for request in trace.requests() {
        // Requests start in the order of arrival.
        begins = begins.max(request.at);
        // Takes all servers that are free by then, or the next one to become free.
        loop {
            while let Some(server) = pop_ended(&mut busy, begins) {
                free.insert(rank(speeds, server, ranked_at));
            }
            match busy.peek() {
                Some(&Reverse((ends, _))) if free.is_empty() => begins = ends,
                _ => break,
            }
        }
        while let Some(change) = changes.next_if(|&change| change <= begins) {
            ranked_at = change;
            free = free.iter().map(|&(_, server)| rank(speeds, server, ranked_at)).collect();
        }
        let (_, server) = free.pop_first().expect("the loop ends with a free server");
        let ends = Instant::from_nanos(begins.as_nanos() + speeds.time_for(server, request.work, begins));
        busy.push(Reverse((ends, server)));
        latencies.push(ends.as_nanos() - request.at.as_nanos());
    }
    latencies
}

/// Latency of each request in nanoseconds, and the longest queue, with *exact knowledge*. Each request
/// goes at once to a server with the shortest queue, at random among equals, and waits there.
pub fn exact_shortest_queue(trace: &RequestTrace, speeds: &Speeds, seed: u64) -> (Vec<u64>, u32) {
    let mut rng = Rng::new(seed);
    let mut lengths = Lengths::new(speeds.servers());
    let mut free_at = vec![Instant::ZERO; speeds.servers()];
    let mut ends_of = Ends::new();
    let mut longest = 0;
    let mut latencies = Vec::with_capacity(trace.requests().len());
    for request in trace.requests() {
        while let Some(server) = pop_ended(&mut ends_of, request.at) {
            lengths.take(server);
        }
        let server = lengths.shortest(&mut rng);
        let begins = free_at[server].max(request.at);
        let ends = Instant::from_nanos(begins.as_nanos() + speeds.time_for(server, request.work, begins));
        free_at[server] = ends;
        lengths.add(server);
        longest = longest.max(lengths.of(server));
        ends_of.push(Reverse((ends, server)));
        latencies.push(ends.as_nanos() - request.at.as_nanos());
    }
    (latencies, longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::trace::TracedRequest;
    use crate::lab::{Group, Spell};
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// The same queue, simulated step by step: waiting requests, free servers, one nanosecond after another.
    fn acted_out(trace: &RequestTrace, speeds: &Speeds) -> Vec<u64> {
        let requests = trace.requests();
        let mut latencies = vec![0; requests.len()];
        let mut waiting: VecDeque<usize> = VecDeque::new();
        let mut ends = vec![0u64; speeds.servers()];
        let (mut next, mut served) = (0, 0);
        for now in 0.. {
            while next < requests.len() && requests[next].at.as_nanos() == now {
                waiting.push_back(next);
                next += 1;
            }
            loop {
                let at = Instant::from_nanos(now);
                let free = speeds.all().filter(|&server| ends[server] <= now);
                let speed = |server: usize| speeds.at(server, at);
                let fastest =
                    free.reduce(|best, other| if speed(other) > speed(best) { other } else { best });
                let Some(server) = fastest.filter(|_| !waiting.is_empty()) else { break };
                let index = waiting.pop_front().unwrap();
                ends[server] = now + (requests[index].work as f64 / speed(server)) as u64;
                latencies[index] = ends[server] - requests[index].at.as_nanos();
                served += 1;
            }
            if served == requests.len() {
                return latencies;
            }
        }
        unreachable!("the loop over time is endless");
    }

    fn trace() -> impl Strategy<Value = RequestTrace> {
        // A service time of zero would end in the nanosecond of its start, whose order is not defined.
        prop::collection::vec((0u64..20, 1u64..60), 1..60).prop_map(|drawn| {
            let mut at = 0;
            let request = |(gap, work)| {
                at += gap;
                TracedRequest { at: Instant::from_nanos(at), work: work * 10, balancer: 0 }
            };
            RequestTrace::from(drawn.into_iter().map(request).collect::<Vec<_>>())
        })
    }

    proptest! {
        #[test]
        fn the_central_queue_is_the_queue_that_is_acted_out(
            trace in trace(),
            servers in 1usize..6,
            fast in prop::sample::select(vec![0.5, 1.0, 2.0, 4.0]),
            slow in prop::sample::select(vec![1.0, 3.0, 5.0]),
            from in 0u64..300,
        ) {
            let from = Instant::from_nanos(from);
            let until = Some(Instant::from_nanos(from.as_nanos() + 150));
            let spell = Spell { count: 2, factor: slow, from, until };
            let speeds = Speeds::new(servers, &[Group { count: 1, speed: fast }], &[spell]);
            prop_assert_eq!(central_queue(&trace, &speeds), acted_out(&trace, &speeds));
        }

        #[test]
        fn with_one_server_both_are_the_same(trace in trace()) {
            let speeds = Speeds::new(1, &[], &[]);
            let (latencies, longest) = exact_shortest_queue(&trace, &speeds, 1);
            prop_assert_eq!(&latencies, &central_queue(&trace, &speeds));
            prop_assert!(longest as usize <= trace.requests().len() && longest > 0);
        }
    }

    #[test]
    fn exact_knowledge_takes_an_idle_server_if_there_is_one() {
        let at = |nanos| TracedRequest { at: Instant::from_nanos(nanos), work: 100, balancer: 0 };
        let trace = RequestTrace::from(vec![at(0), at(0), at(0), at(50), at(100), at(101)]);
        let (latencies, longest) = exact_shortest_queue(&trace, &Speeds::new(3, &[], &[]), 7);
        assert_eq!((latencies, longest), (vec![100, 100, 100, 150, 100, 100], 2));
    }
}
