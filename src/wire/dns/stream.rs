//! DNS over TCP: a stream of messages, each after its length in two bytes (RFC 1035 section 4.2.2, RFC 7766
//! section 8). Pure.

/// Size of the length before a message, in bytes.
pub const LENGTH_LEN: usize = 2;
/// An empty buffer keeps at most this number of bytes for its next use.
const KEPT_MAX: usize = 1_024;

/// The first message of a stream, without its length; `None` until all its bytes are there.
pub fn first_message(stream: &[u8]) -> Option<&[u8]> {
    let (length, rest) = stream.split_first_chunk::<LENGTH_LEN>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

/// Bytes of a stream between two ends: appended at one, consumed at the other. Empty without memory.
#[derive(Debug, Default)]
pub struct ByteQueue {
    bytes: Vec<u8>,
    /// The first byte that is not consumed yet.
    start: usize,
}

impl ByteQueue {
    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes, the oldest first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Appends bytes.
    pub fn append(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a message, with its length before it and another id. A message has 2 to 65,535 bytes.
    pub fn append_message(&mut self, id: u16, message: &[u8]) {
        let [length_high, length_low] = (message.len() as u16).to_be_bytes();
        let [id_high, id_low] = id.to_be_bytes();
        self.append(&[length_high, length_low, id_high, id_low]);
        self.append(&message[2..]);
    }

    /// Removes the oldest `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.bytes.len(), "{count} bytes too many");
        if self.start >= self.bytes.len() {
            self.clear();
        }
    }

    /// Removes all bytes.
    pub fn clear(&mut self) {
        self.start = 0;
        self.bytes.clear();
        if self.bytes.capacity() > KEPT_MAX {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_whole_or_not_there() {
        assert_eq!(first_message(&[]), None);
        assert_eq!(first_message(&[0]), None);
        assert_eq!(first_message(&[0, 0]), Some(&[][..]));
        assert_eq!(first_message(&[0, 2, 7]), None);
        assert_eq!(first_message(&[0, 2, 7, 8, 9]), Some(&[7, 8][..]));
        let longest = [&[0xff, 0xff][..], &vec![1; 65_535]].concat();
        assert_eq!(first_message(&longest).map(<[u8]>::len), Some(65_535));
        assert_eq!(first_message(&longest[..65_536]), None);
    }

    #[test]
    fn an_empty_queue_keeps_little_memory() {
        let mut queue = ByteQueue::default();
        queue.append(&[1; 100_000]);
        queue.consume(99_999);
        assert_eq!(queue.bytes(), [1]);
        queue.consume(1);
        assert!(queue.is_empty() && queue.bytes.capacity() <= KEPT_MAX);
    }

    #[test]
    fn a_message_leaves_under_its_other_id() {
        let mut queue = ByteQueue::default();
        queue.append_message(0x0102, &[9, 9, 3, 4]);
        assert_eq!(queue.bytes(), [0, 4, 1, 2, 3, 4]);
    }

    proptest! {
        /// Messages of any size that arrive in pieces of any size are the messages that were sent.
        #[test]
        fn messages_survive_any_segmentation(
            sizes in prop::collection::vec(prop_oneof![2usize..40, 2usize..65_536], 1..12),
            cuts in prop::collection::vec(1usize..9_000, 1..20),
        ) {
            let message = |size: usize| (0..size).map(|at| (at * size) as u8).collect::<Vec<_>>();
            let mut sent = ByteQueue::default();
            for &size in &sizes {
                let message = message(size);
                sent.append_message(u16::from_be_bytes([message[0], message[1]]), &message);
            }
            let (mut held, mut received, mut cuts) = (ByteQueue::default(), vec![], cuts.into_iter().cycle());
            while !sent.is_empty() {
                let piece = cuts.next().unwrap().min(sent.len());
                held.append(&sent.bytes()[..piece]);
                sent.consume(piece);
                while let Some(whole) = first_message(held.bytes()) {
                    received.push(whole.to_vec());
                    let size = whole.len();
                    held.consume(LENGTH_LEN + size);
                }
            }
            prop_assert!(held.is_empty());
            prop_assert_eq!(received, sizes.into_iter().map(message).collect::<Vec<_>>());
        }
    }
}
