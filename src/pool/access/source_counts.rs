//! How many of something each source holds: a count-min sketch (Cormode and Muthukrishnan 2005) of counters
//! that also go down.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use siphasher::sip::SipHasher13;

use super::source_hash;

const ROWS: usize = 4;
/// Cells of a row, as a power of two.
const ROW_BITS: usize = 14;
const ROW_CELLS: usize = 1 << ROW_BITS;

/// Counts by source, in 256 KiB. A source is an IPv4 address, mapped or not, or an IPv6 /64.
///
/// A count is never too low. It is too high only if other sources share all four of a source's cells: with
/// 8,192 sources that hold one each, by 1 for two sources in a hundred. Shared by threads, wait-free.
pub struct SourceCounts {
    /// Row by row. Relaxed: each cell guards no other memory.
    cells: Box<[AtomicU32]>,
    /// A random key, so that an attacker cannot choose sources that share a victim's cells.
    key: SipHasher13,
}

impl SourceCounts {
    /// All counts are zero; `key` is 16 random bytes.
    pub fn new(key: [u8; 16]) -> Self {
        let cells = (0..ROWS * ROW_CELLS).map(|_| AtomicU32::new(0)).collect();
        SourceCounts { cells, key: SipHasher13::new_with_key(&key) }
    }

    /// Counts one more, and returns the new count.
    pub fn add(&self, source: IpAddr) -> u32 {
        let counts = self.cells(source).map(|cell| cell.fetch_add(1, Ordering::Relaxed));
        counts.into_iter().fold(u32::MAX, u32::min).saturating_add(1)
    }

    /// Counts one less, for each [`SourceCounts::add`] once.
    pub fn remove(&self, source: IpAddr) {
        for cell in self.cells(source) {
            let before = cell.fetch_sub(1, Ordering::Relaxed);
            debug_assert!(before > 0, "{source} holds nothing");
        }
    }

    /// The count of a source.
    pub fn get(&self, source: IpAddr) -> u32 {
        let counts = self.cells(source).map(|cell| cell.load(Ordering::Relaxed));
        counts.into_iter().fold(u32::MAX, u32::min)
    }

    /// The cells of a source, one in each row.
    fn cells(&self, source: IpAddr) -> [&AtomicU32; ROWS] {
        let hash = source_hash(&self.key, source);
        std::array::from_fn(|row| {
            let column = (hash >> (row * ROW_BITS)) as usize % ROW_CELLS;
            &self.cells[row * ROW_CELLS + column]
        })
    }
}

impl std::fmt::Debug for SourceCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SourceCounts(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    fn ip(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_table(ops in vec((0..6u32, any::<bool>()), 0..200)) {
            let (counts, mut plain) = (SourceCounts::new([1; 16]), HashMap::<u32, u32>::new());
            for (n, adds) in ops {
                let count = plain.entry(n).or_default();
                if adds {
                    *count += 1;
                    prop_assert_eq!(counts.add(ip(n)), *count);
                } else if *count > 0 {
                    *count -= 1;
                    counts.remove(ip(n));
                }
                prop_assert_eq!(counts.get(ip(n)), *count);
            }
        }
    }

    #[test]
    fn a_v6_prefix_is_one_source_and_a_mapped_address_is_ipv4() {
        let counts = SourceCounts::new([1; 16]);
        for text in ["2001:db8::1", "2001:db8::ffff:0:0:2", "::ffff:10.0.0.1"] {
            counts.add(text.parse().unwrap());
        }
        let get = |text: &str| counts.get(text.parse().unwrap());
        assert_eq!((get("2001:db8::9"), get("2001:db8:0:1::1"), get("10.0.0.1")), (2, 0, 1));
    }

    #[test]
    fn many_sources_hardly_ever_count_for_each_other() {
        let counts = SourceCounts::new([1; 16]);
        (0..8_192).for_each(|n| _ = counts.add(ip(n)));
        let wrong = (0..8_192).filter(|&n| counts.get(ip(n)) > 1).count();
        assert!(wrong < 400, "{wrong} of 8192 too high");
        assert!((0..8_192).all(|n| (1..=3).contains(&counts.get(ip(n)))));
    }
}
