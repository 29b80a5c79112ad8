//! A small seeded random number generator. It is passed in wherever randomness is needed, so that a seed
//! reproduces a run.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng};

/// 64 unpredictable bits: the seed of all random numbers in a process.
pub fn entropy() -> u64 {
    rand::random()
}

/// A cryptographic generator: the numbers so far do not reveal the next one. For what an attacker must not
/// guess, such as the ids and ports of DNS queries (RFC 5452). It makes no system call.
///
/// ChaCha with 12 rounds, which is the standard generator of the crate `rand`.
#[derive(Debug)]
pub struct SecretRng(StdRng);

impl SecretRng {
    /// The generator of this secret, which comes from the system. Each `seed` and `stream` has a sequence of
    /// its own, so that a test reproduces a run.
    pub fn new(secret: &[u8; 16], seed: u64, stream: u64) -> Self {
        let mut key = [0; 32];
        key[..16].copy_from_slice(secret);
        key[16..24].copy_from_slice(&seed.to_le_bytes());
        key[24..].copy_from_slice(&stream.to_le_bytes());
        SecretRng(StdRng::from_seed(key))
    }

    /// 16 random bits.
    #[inline]
    pub fn next_u16(&mut self) -> u16 {
        self.0.next_u32() as u16
    }

    /// A number below `n`; the distribution is uniform to within n / 2^32. Zero if `n` is zero.
    #[inline]
    pub fn below(&mut self, n: u16) -> u16 {
        ((u64::from(self.0.next_u32()) * u64::from(n)) >> 32) as u16
    }
}

/// xoshiro256** by Blackman and Vigna (<https://prng.di.unimi.it/>): fast, and good in all bits. Not for
/// secrets.
#[derive(Clone, Debug)]
pub struct Rng([u64; 4]);

impl Rng {
    /// The generator of this seed. Similar seeds give unrelated sequences.
    pub fn new(mut seed: u64) -> Self {
        // SplitMix64, which the authors recommend for filling the state.
        Rng(std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number below `n`; the distribution is uniform to within n / 2^64. Zero if `n` is zero.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// A number from 0 up to, but not including, 1.
    pub fn unit_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_of_a_seed_never_changes() {
        // The authors' reference, with the state 1, 2, 3, 4.
        let mut rng = Rng([1, 2, 3, 4]);
        let sequence: [u64; 4] = std::array::from_fn(|_| rng.next_u64());
        assert_eq!(sequence, [11520, 0, 1_509_978_240, 1_215_971_899_390_074_240]);
        assert_ne!(Rng::new(0).next_u64(), Rng::new(1).next_u64());
    }

    #[test]
    fn a_secret_a_seed_and_a_stream_each_change_the_sequence() {
        let sequence = |secret: u8, seed, stream| {
            let mut rng = SecretRng::new(&[secret; 16], seed, stream);
            let sequence: [u16; 8] = std::array::from_fn(|_| rng.next_u16());
            sequence
        };
        let first = sequence(1, 2, 3);
        assert_eq!(first, sequence(1, 2, 3));
        for other in [sequence(2, 2, 3), sequence(1, 3, 3), sequence(1, 2, 4)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn secret_numbers_are_even_in_both_bytes_and_below_a_limit() {
        let mut rng = SecretRng::new(&[1; 16], 1, 1);
        let (mut high, mut low, mut below) = ([0; 256], [0; 256], [0; 7]);
        for _ in 0..256_000 {
            let [h, l] = rng.next_u16().to_be_bytes();
            high[usize::from(h)] += 1;
            low[usize::from(l)] += 1;
            below[usize::from(rng.below(7))] += 1;
        }
        for counts in [high, low] {
            let chi: f64 = counts.iter().map(|&n| (f64::from(n) - 1_000.0).powi(2) / 1_000.0).sum();
            assert!(chi < 345.0, "chi squared {chi} of 255 degrees of freedom");
        }
        assert!(below.iter().all(|n| (35_500..37_700).contains(n)), "{below:?}");
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn ranges_are_kept_and_filled() {
        let mut rng = Rng::new(1);
        let mut seen = [0; 7];
        for _ in 0..7_000 {
            seen[rng.below(7) as usize] += 1;
            assert!((0.0..1.0).contains(&rng.unit_f64()));
        }
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
    }
}
