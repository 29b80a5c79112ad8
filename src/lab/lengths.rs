//! True queue lengths, which no balancer knows, with the minimum in constant time.

use crate::base::rng::Rng;

/// The queue length of every server.
#[derive(Debug)]
pub(super) struct Lengths {
    length: Vec<u32>,
    /// Servers by queue length.
    rows: Vec<Vec<u32>>,
    /// Position of each server within its row.
    place: Vec<u32>,
    /// Index of the first row that is not empty.
    least: usize,
}

impl Lengths {
    /// Servers without a request.
    pub fn new(servers: usize) -> Self {
        let all: Vec<u32> = (0..servers as u32).collect();
        Lengths { length: vec![0; servers], place: all.clone(), rows: vec![all], least: 0 }
    }

    /// Queue length of a server.
    pub fn of(&self, server: usize) -> u32 {
        self.length[server]
    }

    /// The shortest queue length.
    pub fn least(&self) -> u32 {
        self.least as u32
    }

    /// A random server among those with the shortest queue; all of them are equally likely.
    pub fn shortest(&self, rng: &mut Rng) -> usize {
        let row = &self.rows[self.least];
        row[rng.below(row.len() as u64) as usize] as usize
    }

    /// Adds a request.
    pub fn add(&mut self, server: usize) {
        self.change(server, self.length[server] + 1);
        if self.rows[self.least].is_empty() {
            self.least += 1;
        }
    }

    /// Removes a request.
    pub fn take(&mut self, server: usize) {
        let length = self.length[server].checked_sub(1).expect("no request ends twice");
        self.change(server, length);
        self.least = self.least.min(length as usize);
    }

    fn change(&mut self, server: usize, length: u32) {
        let old = &mut self.rows[self.length[server] as usize];
        let place = self.place[server];
        old.swap_remove(place as usize);
        if let Some(&moved) = old.get(place as usize) {
            self.place[moved as usize] = place;
        }
        if self.rows.len() <= length as usize {
            self.rows.push(vec![]);
        }
        self.length[server] = length;
        self.place[server] = self.rows[length as usize].len() as u32;
        self.rows[length as usize].push(server as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_least_is_the_least_of_all(
            servers in 1usize..9,
            ops in prop::collection::vec((any::<bool>(), 0usize..9), 0..200),
        ) {
            let (mut lengths, mut plain) = (Lengths::new(servers), vec![0u32; servers]);
            let mut rng = Rng::new(1);
            for (more, server) in ops {
                let server = server % servers;
                if more {
                    lengths.add(server);
                    plain[server] += 1;
                } else if plain[server] > 0 {
                    lengths.take(server);
                    plain[server] -= 1;
                }
                let least = *plain.iter().min().unwrap();
                prop_assert_eq!(lengths.least(), least);
                prop_assert_eq!(plain[lengths.shortest(&mut rng)], least);
                prop_assert!((0..servers).all(|s| lengths.of(s) == plain[s]));
            }
        }
    }

    #[test]
    fn ties_are_as_likely_as_each_other() {
        let mut lengths = Lengths::new(4);
        lengths.add(2);
        let (mut rng, mut seen) = (Rng::new(5), [0; 4]);
        (0..3_000).for_each(|_| seen[lengths.shortest(&mut rng)] += 1);
        assert_eq!(seen[2], 0);
        assert!([0, 1, 3].iter().all(|&s| (850..1_150).contains(&seen[s])), "{seen:?}");
    }
}
