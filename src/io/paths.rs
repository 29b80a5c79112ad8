//! Destinations that take shorter datagrams than others, as the kernel's refusals (EMSGSIZE) show. Pure.
//!
//! Nothing here comes from the network: sockets that pack frames ignore ICMP messages about a path's MTU
//! (`socket::bind`). The kernel refuses what exceeds the MTU of the interface, and that is local knowledge.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::packing::PAYLOAD_MAX;

/// Destinations that are remembered, a power of two. A newer one replaces an older one of the same place.
const PATHS: usize = 256;

/// After this number of turns with messages to a destination, the full length is tried again: the interface
/// or the route may have changed. A try costs a few refused calls, and no frame.
const FORGET_AFTER: u32 = 1 << 16;

/// Maximum reports, so that no number of destinations fills a log.
const REPORTS_MAX: u32 = 256;

/// Maximum reports that wait for the log; further ones are dropped.
const REPORTS_WAITING: usize = 16;

/// A datagram that was dropped because it does not fit the interface of its destination by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// The destination.
    pub to: IpAddr,
    /// Size of the datagram, in bytes.
    pub len: usize,
}

#[derive(Clone, Copy, Debug)]
struct NarrowPath {
    to: IpAddr,
    /// Maximum size of a datagram with several frames, in bytes.
    datagram_max: usize,
    /// Turns until the full length is tried again.
    turns_left: u32,
    /// Whether a datagram that does not fit was reported.
    is_reported: bool,
}

/// The destinations that take shorter datagrams than others.
#[derive(Debug)]
pub struct NarrowPaths {
    paths: Box<[Option<NarrowPath>]>,
    /// Whether there was ever an entry. Without one, a look-up costs nothing.
    is_used: bool,
    reports: VecDeque<TooLarge>,
    reports_left: u32,
}

impl Default for NarrowPaths {
    fn default() -> Self {
        NarrowPaths {
            paths: vec![None; PATHS].into(),
            is_used: false,
            reports: VecDeque::with_capacity(REPORTS_WAITING),
            reports_left: REPORTS_MAX,
        }
    }
}

impl NarrowPaths {
    /// Maximum size in bytes of a datagram with several frames to this destination, for the messages of one
    /// turn.
    pub fn datagram_max(&mut self, to: IpAddr) -> usize {
        if !self.is_used {
            return PAYLOAD_MAX;
        }
        let Some(path) = self.paths[place(to)].as_mut().filter(|path| path.to == to) else {
            return PAYLOAD_MAX;
        };
        match path.turns_left.checked_sub(1) {
            Some(left) => path.turns_left = left,
            None => path.datagram_max = PAYLOAD_MAX,
        }
        path.datagram_max
    }

    /// Remembers that this destination refuses longer datagrams.
    pub fn narrow(&mut self, to: IpAddr, datagram_max: usize) {
        let path = self.path(to);
        (path.datagram_max, path.turns_left) = (datagram_max, FORGET_AFTER);
    }

    /// Reports a datagram that does not fit by itself, once per destination.
    pub fn report(&mut self, too_large: TooLarge) {
        let is_reported = std::mem::replace(&mut self.path(too_large.to).is_reported, true);
        if !is_reported && self.reports_left > 0 && self.reports.len() < REPORTS_WAITING {
            self.reports_left -= 1;
            self.reports.push_back(too_large);
        }
    }

    /// The oldest report that was not fetched yet.
    pub fn poll_report(&mut self) -> Option<TooLarge> {
        self.reports.pop_front()
    }

    fn path(&mut self, to: IpAddr) -> &mut NarrowPath {
        self.is_used = true;
        let entry = &mut self.paths[place(to)];
        if entry.is_none_or(|path| path.to != to) {
            *entry = None;
        }
        let fresh =
            NarrowPath { to, datagram_max: PAYLOAD_MAX, turns_left: FORGET_AFTER, is_reported: false };
        entry.get_or_insert(fresh)
    }
}

/// The next lower number of frames to try in a datagram: one fewer of a few, a quarter fewer of many. At
/// least 1.
pub fn fewer_frames(frames: usize) -> usize {
    (frames - 1).min(frames - frames / 4).max(1)
}

/// The place of a destination. No key is needed: an entry that is replaced costs a few refused calls.
fn place(to: IpAddr) -> usize {
    let bits = match to {
        IpAddr::V4(ip) => u64::from(u32::from(ip)),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ (ip.to_bits() as u64).rotate_left(29),
    };
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % PATHS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    #[test]
    fn a_refusal_concerns_its_destination_only_and_is_tried_again_much_later() {
        let mut paths = NarrowPaths::default();
        assert_eq!(paths.datagram_max(host(1)), PAYLOAD_MAX);
        paths.narrow(host(1), 1_024);
        let v6 = "2001:db8::1".parse().unwrap();
        paths.narrow(v6, 768);
        for _ in 0..FORGET_AFTER {
            assert_eq!((paths.datagram_max(host(1)), paths.datagram_max(host(2))), (1_024, PAYLOAD_MAX));
        }
        assert_eq!((paths.datagram_max(host(1)), paths.datagram_max(v6)), (PAYLOAD_MAX, 768));
        paths.narrow(host(1), 512);
        assert_eq!(paths.datagram_max(host(1)), 512);
    }

    #[test]
    fn what_does_not_fit_is_reported_once_per_destination_and_in_limits() {
        let mut paths = NarrowPaths::default();
        for _ in 0..3 {
            paths.report(TooLarge { to: host(1), len: 1_200 });
            paths.report(TooLarge { to: host(2), len: 900 });
        }
        let mut reports: Vec<TooLarge> = std::iter::from_fn(|| paths.poll_report()).collect();
        reports.sort_by_key(|report| report.to);
        assert_eq!(reports, [(1, 1_200), (2, 900)].map(|(n, len)| TooLarge { to: host(n), len }));
        let mut count = 0;
        for n in 0..100_000_u32 {
            paths.report(TooLarge { to: IpAddr::V4(n.into()), len: 1 });
            count += u32::from(paths.poll_report().is_some());
        }
        assert_eq!(count, REPORTS_MAX - 2);
    }

    #[test]
    fn the_number_of_frames_falls_to_one() {
        let steps = |from: usize| std::iter::successors(Some(from), |&n| (n > 1).then(|| fewer_frames(n)));
        assert_eq!(steps(5).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
        assert_eq!(steps(11).take(4).collect::<Vec<_>>(), [11, 9, 7, 6]);
        assert!(steps(511).count() < 25, "{}", steps(511).count());
        assert_eq!(fewer_frames(1), 1);
    }
}
