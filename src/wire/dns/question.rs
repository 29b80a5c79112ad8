//! The question of a message, and its keyed hash.

use siphasher::sip::SipHasher13;

use super::{HEADER_LEN, Malformed, NAME_MAX, QDCOUNT, name};

/// A question. Two questions are equal if types and classes are equal, and names are equal without
/// regard to ASCII case (RFC 4343).
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The name in wire format, final zero included: 1 to 255 bytes, in the received case.
    pub name: &'a [u8],
    /// QTYPE: 1 for A, 28 for AAAA.
    pub kind: u16,
    /// QCLASS: 1 for IN.
    pub class: u16,
}

/// Parses the question after a header whose length and QR were checked.
pub(super) fn parse(message: &[u8]) -> Result<Question<'_>, Malformed> {
    if message[QDCOUNT..QDCOUNT + 2] != [0, 1] {
        return Err(Malformed::Question);
    }
    let bytes = &message[HEADER_LEN..];
    let (name, rest) = bytes.split_at(name::len(bytes).ok_or(Malformed::Question)?);
    let [k0, k1, c0, c1] = *rest.first_chunk().ok_or(Malformed::Question)?;
    Ok(Question { name, kind: u16::from_be_bytes([k0, k1]), class: u16::from_be_bytes([c0, c1]) })
}

impl Question<'_> {
    /// Size of the question in a message, in bytes: name, type and class.
    pub fn wire_len(&self) -> usize {
        self.name.len() + 4
    }

    /// Hash of the question: equal for equal questions. Different questions collide with a probability
    /// of 1 in 2^64, even if an attacker selects them.
    pub fn hash(&self, key: &QuestionKey) -> u64 {
        // A valid name marks its own end, so name, type and class side by side belong to one question
        // only. Lengths are below 64 and letters above, so lowering the case of the whole name lowers
        // that of its labels. Whole words are stored, because whole words are read next.
        let name = &self.name[..self.name.len().min(NAME_MAX)];
        let (whole, tail) = name.as_chunks();
        let mut bytes = [0; HASHED_MAX];
        let mut to = bytes.as_chunks_mut().0.iter_mut();
        for (word, to) in whole.iter().zip(&mut to) {
            *to = lower_case(u64::from_le_bytes(*word)).to_le_bytes();
        }
        let [k0, k1] = self.kind.to_be_bytes();
        let [c0, c1] = self.class.to_be_bytes();
        let end = u128::from(u32::from_le_bytes([k0, k1, c0, c1])) << (8 * tail.len());
        let last = end | u128::from(lower_case(tail_word(name, tail.len())));
        for (to, word) in to.zip([last as u64, (last >> 64) as u64]) {
            *to = word.to_le_bytes();
        }
        key.0.hash(&bytes[..name.len() + 4])
    }
}

impl PartialEq for Question<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.class == other.class && self.name.eq_ignore_ascii_case(other.name)
    }
}

impl Eq for Question<'_> {}

/// The last `len` bytes of a name, fewer than 8, as the low bytes of a word.
fn tail_word(name: &[u8], len: usize) -> u64 {
    match name.last_chunk() {
        // Two shifts, because one shift by 64 bits would overflow.
        Some(word) => u64::from_le_bytes(*word) >> 1 >> (63 - 8 * len),
        None => name.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// Maximum size of name, type and class, rounded up to a whole word.
const HASHED_MAX: usize = (NAME_MAX + 4).next_multiple_of(8);

/// Lowers ASCII capitals in eight bytes.
fn lower_case(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EACH;
    let low = word & !HIGH;
    // The high bit of each byte: at least `A`, at most `Z`, ASCII. No sum carries into the next byte.
    let from_a = low + (0x80 - u64::from(b'A')) * EACH;
    let past_z = low + (0x7f - u64::from(b'Z')) * EACH;
    let capital = from_a & !past_z & !word & HIGH;
    word | capital >> 2
}

/// A random key per process, so that an attacker cannot construct collisions. SipHash-1-3.
#[derive(Clone)]
pub struct QuestionKey(SipHasher13);

impl QuestionKey {
    /// A key from 16 random bytes.
    pub fn new(key: [u8; 16]) -> Self {
        QuestionKey(SipHasher13::new_with_key(&key))
    }
}

impl std::fmt::Debug for QuestionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QuestionKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_the_case_the_standard_library_gives_it() {
        for byte in 0..=u8::MAX {
            for at in 0..8 {
                let mut word = [0xff; 8];
                word[at] = byte;
                let lower = lower_case(u64::from_ne_bytes(word)).to_ne_bytes();
                assert_eq!(lower, word.map(|b| b.to_ascii_lowercase()), "{byte} at {at}");
            }
        }
    }

    #[test]
    fn what_is_hashed_is_the_name_in_lower_case_then_type_and_class() {
        let key = QuestionKey::new([1; 16]);
        let name: [u8; NAME_MAX] = std::array::from_fn(|at| at as u8);
        for len in 0..=NAME_MAX {
            let question = Question { name: &name[..len], kind: 0x4142, class: 0x4344 };
            let plain = [&name[..len].to_ascii_lowercase()[..], b"ABCD"].concat();
            assert_eq!(question.hash(&key), key.0.hash(&plain), "{len} bytes");
        }
    }

    #[test]
    fn a_type_is_no_letter() {
        let key = QuestionKey::new([1; 16]);
        let of = |kind, class| Question { name: &[0], kind, class }.hash(&key);
        // 65 (HTTPS) and 97 are `A` and `a`.
        assert_ne!(of(65, 1), of(97, 1));
        assert_ne!(of(1, 65), of(1, 97));
        assert_ne!(of(1, 28), of(28, 1));
    }

    #[test]
    fn the_key_matters_and_is_not_printed() {
        let question = Question { name: &[1, b'a', 0], kind: 1, class: 1 };
        assert_ne!(question.hash(&QuestionKey::new([1; 16])), question.hash(&QuestionKey::new([2; 16])));
        assert_eq!(format!("{:?}", QuestionKey::new([0x41; 16])), "QuestionKey(..)");
    }
}
