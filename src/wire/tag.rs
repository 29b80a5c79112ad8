//! The trailer: `epoch u64 | counter u64 | tag [16]`, the last 32 bytes of a frame between components.
//!
//! The tag is SipHash-2-4 with 128 bits of output over everything before it, under the key that the
//! operator gave to all components (`key_file`). Epoch and counter make each frame valid for one use.
//! The epoch is random per process and is adopted only with proof of freshness (an echoed nonce). The
//! counter passes a [`ReplayWindow`].

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher24};

use super::header::TRAILER_LEN;
use super::window::ReplayWindow;
use crate::base::drop_reason::DropReason;

const TAG_LEN: usize = 16;

/// Writes trailers. Each sending process has one per direction.
#[derive(Clone)]
pub struct Sealer {
    hasher: SipHasher24,
    epoch: u64,
    counter: u64,
}

impl Sealer {
    /// A sealer under the shared key; `epoch` is random per process.
    pub fn new(key: &[u8; 16], epoch: u64) -> Self {
        Sealer { hasher: SipHasher24::new_with_key(key), epoch, counter: 0 }
    }

    /// A sealer that continues after the frame with this stamp; receivers see the same sender.
    pub fn going_on(key: &[u8; 16], last: Stamp) -> Self {
        Sealer { counter: last.counter, ..Sealer::new(key, last.epoch) }
    }

    /// The stamp of the last frame; its counter is 0 before the first.
    pub fn last(&self) -> Stamp {
        Stamp { epoch: self.epoch, counter: self.counter }
    }

    /// Writes the trailer into the last 32 bytes of the frame. Nothing may be patched afterwards.
    pub fn seal(&mut self, frame: &mut [u8]) {
        self.counter += 1;
        let at = frame.len() - TRAILER_LEN;
        frame[at..at + 8].copy_from_slice(&self.epoch.to_le_bytes());
        frame[at + 8..at + 16].copy_from_slice(&self.counter.to_le_bytes());
        let (covered, tag) = frame.split_at_mut(at + TRAILER_LEN - TAG_LEN);
        tag.copy_from_slice(&tag_of(self.hasher, covered));
    }
}

/// Checks tags. A [`PeerReplay`] per peer keeps the counters already seen.
#[derive(Clone)]
pub struct Opener {
    hasher: SipHasher24,
}

impl Opener {
    /// An opener under the shared key.
    pub fn new(key: &[u8; 16]) -> Self {
        Opener { hasher: SipHasher24::new_with_key(key) }
    }

    /// Checks the tag, and returns the sender's epoch and counter.
    pub fn open(&self, frame: &[u8]) -> Result<Stamp, DropReason> {
        let at = frame.len() - TRAILER_LEN;
        let (covered, tag) = frame.split_at(at + TRAILER_LEN - TAG_LEN);
        // Constant time: every byte is compared, regardless of earlier differences.
        let difference =
            tag_of(self.hasher, covered).iter().zip(tag).fold(0, |difference, (a, b)| difference | (a ^ b));
        if difference != 0 {
            return Err(DropReason::Tag);
        }
        let number = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().expect("eight bytes"));
        Ok(Stamp { epoch: number(at), counter: number(at + 8) })
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener(..)")
    }
}

fn tag_of(mut hasher: SipHasher24, covered: &[u8]) -> [u8; TAG_LEN] {
    hasher.write(covered);
    hasher.finish128().as_bytes()
}

/// Sender of a frame, and the frame's number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Random number of the sending process.
    pub epoch: u64,
    /// Number of the frame at its sender, from 1.
    pub counter: u64,
}

/// The frames of one peer that were seen: one epoch, one window.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeerReplay {
    epoch: u64,
    window: ReplayWindow,
}

impl PeerReplay {
    /// Adopts this epoch and forgets the previous one. Only for a frame whose freshness is proved.
    pub fn adopt(&mut self, stamp: Stamp) {
        if self.epoch != stamp.epoch {
            *self = PeerReplay { epoch: stamp.epoch, window: ReplayWindow::default() };
        }
    }

    /// The highest stamp that was accepted; its counter is 0 before the first.
    pub fn newest(&self) -> Stamp {
        Stamp { epoch: self.epoch, counter: self.window.newest() }
    }

    /// Whether a frame has the adopted epoch.
    pub fn knows(&self, stamp: Stamp) -> bool {
        self.epoch == stamp.epoch
    }

    /// Accepts a frame of the adopted epoch once.
    pub fn accept(&mut self, stamp: Stamp) -> Result<(), DropReason> {
        if self.knows(stamp) && self.window.accept(stamp.counter) { Ok(()) } else { Err(DropReason::Replay) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = *b"0123456789abcdef";

    #[test]
    fn a_sealed_frame_opens_and_no_changed_bit_does() {
        let mut frame = vec![3; 160];
        Sealer::new(&KEY, 77).seal(&mut frame);
        let opener = Opener::new(&KEY);
        assert_eq!(opener.open(&frame), Ok(Stamp { epoch: 77, counter: 1 }));
        for bit in 0..frame.len() * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(opener.open(&frame), Err(DropReason::Tag), "bit {bit}");
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(Opener::new(&[9; 16]).open(&frame), Err(DropReason::Tag));
    }

    #[test]
    fn a_replayed_frame_and_one_of_an_old_epoch_are_refused() {
        let mut frame = vec![3; 160];
        let opener = Opener::new(&KEY);
        let mut stamp = |epoch: u64| {
            Sealer::new(&KEY, epoch).seal(&mut frame);
            opener.open(&frame).unwrap()
        };
        let (old, new) = (stamp(1), stamp(2));
        let mut peer = PeerReplay::default();
        assert_eq!(peer.accept(old), Err(DropReason::Replay), "not adopted yet");
        peer.adopt(old);
        assert_eq!(peer.accept(old), Ok(()));
        assert_eq!(peer.accept(old), Err(DropReason::Replay));
        peer.adopt(old);
        assert_eq!(peer.accept(old), Err(DropReason::Replay), "adopting again forgets nothing");
        peer.adopt(new);
        assert_eq!(peer.accept(new), Ok(()));
        assert_eq!(peer.accept(old), Err(DropReason::Replay));
    }
}
