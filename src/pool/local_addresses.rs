//! The local addresses at which clients reach a pool whose client-side socket is bound to a wildcard.
//!
//! A reply must leave from the address to which its request was sent. Frames, queries and leases store the
//! address as one byte: its number. All workers of a pool share the numbers, since any worker may send a
//! reply. Pure.

use std::net::IpAddr;
use std::sync::OnceLock;

/// The most addresses with a number of their own.
pub const ADDRESSES_MAX: usize = 255;

/// Addresses by number, in the order in which they were first used. Reading takes no lock.
#[derive(Debug)]
pub struct LocalAddresses {
    /// Filled from the front; an entry never changes.
    entries: Box<[OnceLock<IpAddr>; ADDRESSES_MAX]>,
}

impl Default for LocalAddresses {
    fn default() -> Self {
        LocalAddresses { entries: Box::new([const { OnceLock::new() }; ADDRESSES_MAX]) }
    }
}

impl LocalAddresses {
    /// The number of no address: the reply leaves from the address to which the socket is bound, or from one
    /// that the kernel selects.
    pub const UNSPECIFIED: u8 = ADDRESSES_MAX as u8;

    /// The number of an address; a new address gets the next free one. The 256th and later addresses have
    /// [`LocalAddresses::UNSPECIFIED`].
    #[inline]
    pub fn number(&self, ip: Option<IpAddr>) -> u8 {
        let Some(ip) = ip else { return Self::UNSPECIFIED };
        // Another worker may fill the entry first, with this address or with another.
        let number = self.entries.iter().position(|entry| *entry.get_or_init(|| ip) == ip);
        number.map_or(Self::UNSPECIFIED, |number| number as u8)
    }

    /// The address with this number.
    #[inline]
    pub fn get(&self, number: u8) -> Option<IpAddr> {
        self.entries.get(usize::from(number))?.get().copied()
    }

    /// All addresses, by number.
    pub fn to_vec(&self) -> Vec<IpAddr> {
        self.entries.iter().map_while(|entry| entry.get().copied()).collect()
    }
}

/// Addresses with the numbers that they had in another process; those after the first 255 have none.
impl FromIterator<IpAddr> for LocalAddresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let numbered = LocalAddresses::default();
        for (entry, ip) in numbered.entries.iter().zip(addresses) {
            let _ = entry.set(ip);
        }
        numbered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn ip(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    #[test]
    fn an_address_has_one_number_for_all_workers() {
        let addresses = LocalAddresses::default();
        let numbers: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4u32)
                .map(|worker| {
                    let addresses = &addresses;
                    scope.spawn(move || {
                        (0..100).map(|n| addresses.number(Some(ip((n + 25 * worker) % 100)))).collect()
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        for (worker, numbers) in numbers.iter().enumerate() {
            for (n, &number) in numbers.iter().enumerate() {
                assert_eq!(addresses.get(number), Some(ip((n as u32 + 25 * worker as u32) % 100)));
            }
        }
        assert_eq!(addresses.to_vec().len(), 100, "each address once");
    }

    #[test]
    fn no_address_and_no_number_are_unspecified() {
        let addresses = LocalAddresses::default();
        assert_eq!((addresses.number(None), addresses.get(255), addresses.get(7)), (255, None, None));
        assert!(addresses.to_vec().is_empty());
    }

    #[test]
    fn addresses_beyond_the_numbers_are_unspecified() {
        let addresses = LocalAddresses::default();
        let numbers: Vec<u8> = (0..300).map(|n| addresses.number(Some(ip(n)))).collect();
        assert!((0..255).all(|n| numbers[n] == n as u8) && numbers[255..].iter().all(|&n| n == 255));
    }

    #[test]
    fn numbers_of_another_process_stay() {
        let addresses: LocalAddresses = (0..300).map(ip).collect();
        assert_eq!((addresses.number(Some(ip(200))), addresses.number(Some(ip(299)))), (200, 255));
        assert_eq!(addresses.to_vec().len(), 255);
        let two: LocalAddresses = [ip(7), ip(3)].into_iter().collect();
        assert_eq!([3, 9, 7].map(|n| two.number(Some(ip(n)))), [1, 2, 0]);
    }
}
