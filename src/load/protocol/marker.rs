//! A marker in a request that its response repeats. `{id}` becomes 16 hexadecimal digits; the last 10 are the
//! request's number. `{id:8}` becomes 8 bytes, of which the last 5 are the number.

use std::ops::Range;

use memchr::memmem::Finder;

use crate::base::rng::Rng;

/// Placeholder of a marker of digits in a payload or a name.
pub const MARK: &str = "{id}";
/// Size of a marker of digits, in bytes.
pub const LEN: usize = 16;

/// Sizes of a marker of bytes.
const BYTES: std::ops::RangeInclusive<usize> = 4..=8;
/// Bytes of a request's number, if the marker has room.
const NUMBER_BYTES: usize = 5;
const PREFIX: usize = 6;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// What a placeholder becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    /// `{id}`: [`LEN`] hexadecimal digits.
    Digits,
    /// `{id:N}`: N bytes, 4 to 8.
    Bytes(usize),
}

impl MarkKind {
    /// Size of the marker, in bytes.
    pub fn len(self) -> usize {
        match self {
            MarkKind::Digits => LEN,
            MarkKind::Bytes(len) => len,
        }
    }
}

/// The placeholders in a payload: where each one is, and what it becomes.
pub fn placeholders(payload: &[u8]) -> Vec<(Range<usize>, MarkKind)> {
    let starts = memchr::memmem::find_iter(payload, b"{id");
    let found = |start: usize| match payload[start + 3..] {
        [b'}', ..] => Some((start..start + MARK.len(), MarkKind::Digits)),
        [b':', len @ b'0'..=b'9', b'}', ..] => {
            let len = usize::from(len - b'0');
            BYTES.contains(&len).then_some((start..start + MARK.len() + 2, MarkKind::Bytes(len)))
        }
        _ => None,
    };
    starts.filter_map(found).collect()
}

/// Markers of one run: they share a random prefix, so markers of other runs do not match.
pub struct Marker {
    prefix: [u8; PREFIX],
    finder: Finder<'static>,
    /// Prefix of markers of bytes, and what their numbers are combined with: the bytes beside a small number
    /// would else look like another small number.
    bytes: [u8; 3],
    mask: u64,
}

impl Marker {
    /// Markers with a random prefix.
    pub fn new(rng: &mut Rng) -> Self {
        let prefix = std::array::from_fn(|_| DIGITS[rng.below(16) as usize]);
        let bytes = std::array::from_fn(|_| rng.next_u64() as u8);
        Marker { prefix, finder: Finder::new(&prefix).into_owned(), bytes, mask: rng.next_u64() }
    }

    /// Writes the marker of a request into [`LEN`] bytes. Numbers below 2^40 are distinct.
    pub fn write(&self, number: u64, into: &mut [u8]) {
        let (prefix, digits) = into.split_at_mut(PREFIX);
        prefix.copy_from_slice(&self.prefix);
        for (at, digit) in digits.iter_mut().rev().enumerate() {
            *digit = DIGITS[(number >> (4 * at)) as usize & 15];
        }
    }

    /// Writes the marker of a request as 4 to 8 bytes.
    pub fn write_bytes(&self, number: u64, into: &mut [u8]) {
        let (prefix, low) = into.split_at_mut(into.len().saturating_sub(NUMBER_BYTES));
        prefix.copy_from_slice(&self.bytes[..prefix.len()]);
        low.copy_from_slice(&(number ^ self.mask).to_be_bytes()[8 - low.len()..]);
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

    /// The number of the first marker of `len` bytes whose number is in `open`. It is looked for at the
    /// offset at which the request has it, and then everywhere.
    pub fn find_bytes(&self, bytes: &[u8], len: usize, offset: usize, open: &Range<u64>) -> Option<u64> {
        let last = bytes.len().checked_sub(len)?;
        let mut offsets = std::iter::once(offset).filter(|offset| *offset <= last).chain(0..=last);
        offsets.find_map(|at| {
            let (prefix, low) = bytes[at..at + len].split_at(len.saturating_sub(NUMBER_BYTES));
            let low_bits = 8 * low.len() as u32;
            let low = low.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            // The number in the span with these low bits.
            let all = (1 << low_bits) - 1;
            let above = (low ^ (self.mask & all)).wrapping_sub(open.start) & all;
            let number = open.start.checked_add(above)?;
            (*prefix == self.bytes[..prefix.len()] && open.contains(&number)).then_some(number)
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

    #[test]
    fn a_mark_of_bytes_is_found_among_the_open_numbers_wherever_it_is() {
        let marker = Marker::new(&mut Rng::new(1));
        for len in BYTES {
            for number in [1, 70_000, (1 << 32) + 5] {
                let mut bytes = [0xee; 20];
                marker.write_bytes(number, &mut bytes[3..3 + len]);
                let open = number - number.min(1_000)..number + 1_000;
                for offset in [3, 0, 19, 100] {
                    assert_eq!(marker.find_bytes(&bytes, len, offset, &open), Some(number), "{len} {number}");
                }
                assert_eq!(marker.find_bytes(&bytes, len, 3, &(number + 1..number + 1_000)), None);
                assert_eq!(marker.find_bytes(&bytes[..2 + len], len, 3, &open), None, "cut off");
            }
        }
        assert_eq!(marker.find_bytes(&[], 4, 0, &(0..9)), None);
    }

    #[test]
    fn placeholders_are_those_with_a_size_that_is_possible() {
        let found = placeholders(b"a{id}b{id:8}{id:4}{id:3}{id:9}{id:x}{id");
        assert_eq!(
            found,
            [(1..5, MarkKind::Digits), (6..12, MarkKind::Bytes(8)), (12..18, MarkKind::Bytes(4))]
        );
    }
}
