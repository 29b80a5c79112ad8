//! A marker in a request that its response repeats: 16 hexadecimal digits; the last 10 are the request's
//! number.

use memchr::memmem::Finder;

use crate::base::rng::Rng;

/// Placeholder of the marker in a payload or a name.
pub const MARK: &str = "{id}";
/// Size of the marker, in bytes.
pub const LEN: usize = 16;

const PREFIX: usize = 6;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Markers of one run: they share a random prefix, so markers of other runs do not match.
pub struct Marker {
    prefix: [u8; PREFIX],
    finder: Finder<'static>,
}

impl Marker {
    /// Markers with a random prefix.
    pub fn new(rng: &mut Rng) -> Self {
        let prefix = std::array::from_fn(|_| DIGITS[rng.below(16) as usize]);
        Marker { prefix, finder: Finder::new(&prefix).into_owned() }
    }

    /// Writes the marker of a request into [`LEN`] bytes. Numbers below 2^40 are distinct.
    pub fn write(&self, number: u64, into: &mut [u8]) {
        let (prefix, digits) = into.split_at_mut(PREFIX);
        prefix.copy_from_slice(&self.prefix);
        for (at, digit) in digits.iter_mut().rev().enumerate() {
            *digit = DIGITS[(number >> (4 * at)) as usize & 15];
        }
    }

    /// The number of the first marker of this run.
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
            // A prefix without a number does not hide the marker after it.
            let twice = [&bytes[2..10], b"no number", &bytes].concat();
            assert_eq!(marker.find(&twice), Some(number));
            assert_eq!(Marker::new(&mut Rng::new(2)).find(&bytes), None, "a marker of another run");
        }
    }
}
