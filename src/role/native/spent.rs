//! Registrations that may not be used again. Pure.
//!
//! A nonce proves the address of a server for some seconds, so within that time a recorded REGISTER would
//! prove it again. With authenticated frames each frame has a stamp: the process that sent it, and its
//! number there. So for the life of a nonce the primary remembers of each process the highest number that has
//! registered, or that the process had reached when it left. A REGISTER counts only with a higher one. A
//! process may register again: its frames have higher numbers.

use serde::{Deserialize, Serialize};

use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::wire::cookie::NONCE_LIFE;
use crate::wire::tag::Stamp;

/// Stamps for each slot. Only owners of the key can fill the list.
const STAMPS_PER_SLOT: usize = 4;

/// A process that has registered, or left, until no nonce from before can be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SpentStamp {
    stamp: Stamp,
    until: Instant,
}

/// The stamps of registrations that may not be used again.
#[derive(Debug)]
pub(super) struct SpentStamps {
    stamps: Vec<SpentStamp>,
    max: usize,
}

impl SpentStamps {
    /// An empty list for a pool of this number of slots.
    pub fn new(slots: usize) -> Self {
        let max = slots * STAMPS_PER_SLOT;
        SpentStamps { stamps: Vec::with_capacity(max), max }
    }

    /// Uses a REGISTER with this stamp. An error if it was used, or if its process has sent later frames
    /// before it left.
    pub fn spend(&mut self, now: Instant, stamp: Stamp) -> Result<(), DropReason> {
        self.stamps.retain(|spent| now < spent.until);
        let is_full = self.stamps.len() == self.max;
        let fresh = SpentStamp { stamp, until: now + NONCE_LIFE };
        match self.stamps.iter_mut().find(|spent| spent.stamp.epoch == stamp.epoch) {
            Some(spent) if stamp.counter <= spent.stamp.counter => Err(DropReason::Replay),
            Some(spent) => {
                *spent = fresh;
                Ok(())
            }
            None if is_full => Err(DropReason::SlotsFull),
            None => {
                self.stamps.push(fresh);
                Ok(())
            }
        }
    }

    /// Notes that a process has left, with the highest stamp of its frames.
    pub fn leave(&mut self, now: Instant, newest: Stamp) {
        // Refused if the process has registered with a higher stamp, which then stays. Without room, the
        // REGISTER that the process was admitted with is older than a nonce lives, or still in the list.
        let _ = self.spend(now, newest);
    }

    /// All of them, for a successor.
    pub fn to_vec(&self) -> Vec<SpentStamp> {
        self.stamps.clone()
    }

    /// Continues with those of a predecessor.
    pub fn restore(&mut self, stamps: &[SpentStamp]) {
        self.stamps.clear();
        self.stamps.extend(stamps.iter().take(self.max));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::from_nanos(9_000_000_000);

    fn stamp(epoch: u64, counter: u64) -> Stamp {
        Stamp { epoch, counter }
    }

    #[test]
    fn a_registration_is_used_once_and_a_later_one_of_the_same_process_is_not_affected() {
        let mut spent = SpentStamps::new(4);
        assert_eq!(spent.spend(NOW, stamp(7, 2)), Ok(()));
        assert_eq!(spent.spend(NOW, stamp(7, 2)), Err(DropReason::Replay));
        assert_eq!(spent.spend(NOW, stamp(7, 1)), Err(DropReason::Replay));
        assert_eq!(spent.spend(NOW, stamp(7, 3)), Ok(()));
        assert_eq!(spent.spend(NOW, stamp(8, 1)), Ok(()), "another process");
    }

    #[test]
    fn a_process_that_left_cannot_come_back_with_an_earlier_frame_while_a_nonce_lives() {
        let mut spent = SpentStamps::new(4);
        spent.spend(NOW, stamp(7, 2)).unwrap();
        let left = NOW + NONCE_LIFE * 3;
        spent.leave(left, stamp(7, 40));
        let almost = left + NONCE_LIFE - std::time::Duration::from_nanos(1);
        assert_eq!(spent.spend(almost, stamp(7, 39)), Err(DropReason::Replay), "it never arrived");
        assert_eq!(spent.spend(almost, stamp(7, 41)), Ok(()));
    }

    #[test]
    fn a_full_list_refuses_others_until_the_nonces_have_expired() {
        let mut spent = SpentStamps::new(1);
        for epoch in 0..4 {
            assert_eq!(spent.spend(NOW, stamp(epoch, 1)), Ok(()));
        }
        assert_eq!(spent.spend(NOW, stamp(9, 1)), Err(DropReason::SlotsFull));
        assert_eq!(spent.spend(NOW + NONCE_LIFE, stamp(9, 1)), Ok(()));
        assert_eq!(spent.to_vec().len(), 1);
    }
}
