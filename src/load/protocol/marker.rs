//! A mark in a request that its answer repeats: 16 hexadecimal digits, of which the last 10 are the request's number.

use memchr::memmem::Finder;

use crate::base::rng::Rng;

/// What stands for the mark in a text that an operator writes.
pub const MARK: &str = "{id}";
/// Bytes of the mark.
pub const LEN: usize = 16;

const PREFIX: usize = 6;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Marks of one run: all begin alike, and like those of no other run.
pub struct Marker {
    prefix: [u8; PREFIX],
    finder: Finder<'static>,
}

impl Marker {
    /// Marks that begin by chance.
    pub fn new(rng: &mut Rng) -> Self {
        let prefix = std::array::from_fn(|_| DIGITS[rng.below(16) as usize]);
        Marker { prefix, finder: Finder::new(&prefix).into_owned() }
    }

    /// Writes the mark of a request into [`LEN`] bytes. Numbers are distinct up to 2^40.
    pub fn write(&self, number: u64, into: &mut [u8]) {
        let (prefix, digits) = into.split_at_mut(PREFIX);
        prefix.copy_from_slice(&self.prefix);
        for (at, digit) in digits.iter_mut().rev().enumerate() {
            *digit = DIGITS[(number >> (4 * at)) as usize & 15];
        }
    }

    /// The number of the first mark of this run.
    pub fn find(&self, bytes: &[u8]) -> Option<u64> {
        let mut starts = self.finder.find_iter(bytes);
        starts.find_map(|start| {
            let digits = bytes.get(start + PREFIX..start + LEN)?;
            digits.iter().try_fold(0, |number, digit| {
                char::from(*digit).to_digit(16).map(|digit| number << 4 | u64::from(digit))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_wherever_it_is_and_only_if_it_is_whole() {
        let marker = Marker::new(&mut Rng::new(1));
        for number in [1, 0xfe_dcba_9876, u64::from(u32::MAX)] {
            let mut bytes = *b"<<________________>>";
            marker.write(number, &mut bytes[2..18]);
            assert_eq!(marker.find(&bytes), Some(number));
            assert_eq!(marker.find(&bytes[..17]), None, "cut off");
            // What begins like a mark and is none does not hide the one behind it.
            let twice = [&bytes[2..10], b"no number", &bytes].concat();
            assert_eq!(marker.find(&twice), Some(number));
            assert_eq!(Marker::new(&mut Rng::new(2)).find(&bytes), None, "another run's");
        }
    }
}
