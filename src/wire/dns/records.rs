//! Walks over the records of a message: whether a query has an OPT record, and where a zone transfer ends.
//! Pure; every loop is bounded by the message.

use super::{FLAGS, HEADER_LEN, QDCOUNT, RCODE};

/// QTYPE of an incremental zone transfer (RFC 1995).
pub const IXFR: u16 = 251;
/// QTYPE of a whole zone transfer (RFC 5936).
pub const AXFR: u16 = 252;
const SOA: u16 = 6;
/// Type, class, TTL and length of the data, in bytes.
const FIXED_LEN: usize = 10;
/// The first two bits of a compression pointer.
const POINTER: u8 = 0xc0;

fn count(message: &[u8], section: usize) -> usize {
    let at = QDCOUNT + 2 * section;
    message.get(at..at + 2).map_or(0, |count| usize::from(u16::from_be_bytes([count[0], count[1]])))
}

/// The position after a name that may be compressed.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length & POINTER == POINTER => return Some(at + 2),
            length if length & POINTER == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// A record of a message.
struct Record<'a> {
    kind: u16,
    data: &'a [u8],
}

/// The records of a message in their order, until one is malformed.
struct Records<'a> {
    message: &'a [u8],
    at: Option<usize>,
}

impl<'a> Records<'a> {
    fn of(message: &'a [u8]) -> Self {
        let mut at = Some(HEADER_LEN);
        for _ in 0..count(message, 0) {
            at = at.and_then(|at| skip_name(message, at)).map(|at| at + 4);
            if at.is_none() {
                break;
            }
        }
        Records { message, at }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let fixed = skip_name(self.message, self.at.take()?)?;
        let [k0, k1, _, _, _, _, _, _, d0, d1] = *self.message.get(fixed..)?.first_chunk::<FIXED_LEN>()?;
        let start = fixed + FIXED_LEN;
        let end = start + usize::from(u16::from_be_bytes([d0, d1]));
        let data = self.message.get(start..end)?;
        self.at = Some(end);
        Some(Record { kind: u16::from_be_bytes([k0, k1]), data })
    }
}

/// Finds the last message of a zone transfer.
///
/// A whole transfer ends with the second SOA record (RFC 5936 section 2.2). An incremental one has further
/// SOA records, which alternately begin what is removed and what is added; it ends where the first one comes
/// back in place of something to remove (RFC 1995 section 4). A message that has an error, or no answer, is
/// the last one. Where the first record is no SOA, only the end of the connection is the end.
#[derive(Clone, Copy, Debug)]
pub struct TransferProgress {
    /// QTYPE of the request: [`AXFR`] or [`IXFR`].
    kind: u16,
    /// Serial of the first SOA record; `None` before it.
    serial: Option<[u8; 4]>,
    /// Records so far, up to 2.
    seen: u8,
    /// SOA records after the first one.
    later: u32,
    /// Whether the second record is a SOA record: only incremental transfers have that.
    is_incremental: bool,
    /// Whether the first record is no SOA record.
    is_other: bool,
}

impl TransferProgress {
    /// A transfer that a request of this QTYPE asks for.
    pub fn new(kind: u16) -> Self {
        TransferProgress { kind, serial: None, seen: 0, later: 0, is_incremental: false, is_other: false }
    }

    /// Takes a message; true if it is the last one.
    pub fn is_last(&mut self, message: &[u8]) -> bool {
        let answers = count(message, 1);
        if message.get(FLAGS + 1).is_none_or(|flags| flags & RCODE != 0) {
            return true;
        }
        if self.seen == 0 && answers == 0 {
            return true;
        }
        for record in Records::of(message).take(answers) {
            if self.is_end(&record) {
                return true;
            }
        }
        // The answer to an incremental request of a client that is up to date is one SOA record. Some servers
        // send whole transfers with one record in each message.
        self.kind == IXFR && answers == 1 && self.seen == 1 && !self.is_other
    }

    fn is_end(&mut self, record: &Record<'_>) -> bool {
        let position = self.seen;
        self.seen = (position + 1).min(2);
        if record.kind != SOA {
            self.is_other |= position == 0;
            return false;
        }
        let serial = serial(record.data);
        match position {
            0 => {
                self.serial = serial;
                return false;
            }
            1 => self.is_incremental = self.serial != serial,
            _ => {}
        }
        self.later += 1;
        let begins_removal = self.later % 2 == 1;
        !self.is_other && (!self.is_incremental || (begins_removal && serial == self.serial))
    }
}

/// The serial of a SOA record: after two names, which may be compressed, the first of five numbers.
fn serial(data: &[u8]) -> Option<[u8; 4]> {
    data.len().checked_sub(20).and_then(|at| data[at..].first_chunk().copied())
}

#[cfg(test)]
mod tests {
    use super::super::QUERY_MAX;
    use super::super::{name_to_wire, write_query};
    use super::*;

    fn question(kind: u16) -> Vec<u8> {
        let mut query = vec![0; QUERY_MAX];
        let len = write_query(&mut query, 7, &name_to_wire("zone.example").unwrap(), kind);
        query.truncate(len);
        query
    }

    fn record(kind: u16, data: &[u8]) -> Vec<u8> {
        let mut record = vec![0xc0, 12];
        record.extend(kind.to_be_bytes());
        record.extend([0, 1, 0, 0, 0, 60]);
        record.extend((data.len() as u16).to_be_bytes());
        record.extend(data);
        record
    }

    /// A record as a letter (A), or a SOA record with this serial.
    #[derive(Clone, Copy)]
    enum Part {
        A,
        Soa(u32),
    }

    fn message(parts: &[Part]) -> Vec<u8> {
        let mut message = question(AXFR);
        message[2] |= 0x80;
        message[6..8].copy_from_slice(&(parts.len() as u16).to_be_bytes());
        for part in parts {
            message.extend(match part {
                Part::A => record(1, &[192, 0, 2, 1]),
                Part::Soa(serial) => {
                    let data = [&[0xc0, 12, 0xc0, 12][..], &serial.to_be_bytes(), &[0; 16]].concat();
                    record(SOA, &data)
                }
            });
        }
        message
    }

    /// The number of messages up to the last one; `None` if none is the last.
    fn last_of(kind: u16, messages: &[&[Part]]) -> Option<usize> {
        let mut progress = TransferProgress::new(kind);
        messages.iter().position(|parts| progress.is_last(&message(parts))).map(|at| at + 1)
    }

    use Part::{A, Soa};

    fn last(messages: &[&[Part]]) -> Option<usize> {
        last_of(AXFR, messages)
    }

    #[test]
    fn a_whole_transfer_ends_with_its_second_soa() {
        assert_eq!(last(&[&[Soa(5), A, A, Soa(5)]]), Some(1));
        assert_eq!(last(&[&[Soa(5), A], &[A, A], &[A], &[Soa(5)], &[A]]), Some(4));
        assert_eq!(last(&[&[Soa(5), A], &[A, A]]), None);
        assert_eq!(last(&[&[Soa(5), Soa(5)]]), Some(1), "an empty zone");
        assert_eq!(last(&[&[Soa(5)], &[A], &[A], &[Soa(5)]]), Some(4), "one record in each message");
        assert_eq!(last_of(IXFR, &[&[Soa(5), A], &[A, Soa(5)]]), Some(2), "in place of an incremental one");
    }

    #[test]
    fn an_incremental_transfer_ends_where_the_newest_soa_returns() {
        let whole: &[Part] = &[Soa(9), Soa(7), A, Soa(8), A, A, Soa(8), A, Soa(9), A, Soa(9)];
        let last = |messages: &[&[Part]]| last_of(IXFR, messages);
        assert_eq!(last(&[whole]), Some(1));
        for cut in 2..whole.len() {
            assert_eq!(last(&[&whole[..cut], &whole[cut..], &[A]]), Some(2), "cut after {cut} records");
        }
        assert_eq!(last(&[&whole[..10]]), None);
        assert_eq!(last(&[&[Soa(9)]]), Some(1), "up to date");
    }

    #[test]
    fn errors_and_empty_answers_end_a_transfer_and_other_records_do_not() {
        assert_eq!(last(&[&[]]), Some(1));
        let mut refused = message(&[]);
        refused[3] |= 5;
        assert!(TransferProgress::new(AXFR).is_last(&refused));
        assert!(TransferProgress::new(AXFR).is_last(b"short"));
        assert_eq!(last(&[&[A], &[A], &[Soa(1)], &[Soa(1)]]), None, "until the connection ends");
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_do_no_harm(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut progress = TransferProgress::new(AXFR);
            let _ = (progress.is_last(&bytes), progress.is_last(&bytes));
        }
    }
}
