//! Loops: servers that lead back to this pool, such as a balancer that has this pool as its server.
//!
//! A DNS check carries a mark. A server ignores it, and another balancer passes it on. A check that arrives
//! where clients send shows that its server leads back, and which server that is. The mark holds the server's
//! slot and a keyed hash of its registration. So a host that has seen the mark of one server cannot make that
//! of another.
//!
//! A check by a payload cannot carry anything. There the evidence is that a server leaves check after check
//! unanswered, and that each time the same payload arrives where clients send. A server that answers is never
//! suspected, and a server that does not answer would be down anyway.
//!
//! A loop among pools that have no checks ends when the pairs of a pool are used up, or the table of queries
//! is.

use siphasher::sip::SipHasher13;

use crate::pool::select::Slot;
use crate::wire::dns::Mark;

/// The key of a pool's marks.
pub(super) struct LoopMarks(SipHasher13);

impl LoopMarks {
    pub fn new(key: [u8; 16]) -> Self {
        LoopMarks(SipHasher13::new_with_key(&key))
    }

    /// The mark of checks of the server in this slot, whose registration has this epoch.
    pub fn mark(&self, slot: Slot, epoch: u32) -> Mark {
        let [s0, s1] = (slot.index() as u16).to_be_bytes(); // at most 4,096 slots
        let [e0, e1, e2, e3] = epoch.to_be_bytes();
        let [h0, h1, h2, h3, h4, h5, h6, h7] = self.0.hash(&[s0, s1, e0, e1, e2, e3]).to_be_bytes();
        [s0, s1, h0, h1, h2, h3, h4, h5, h6, h7]
    }

    /// The slot that a mark names; `None` if this pool has not made the mark for the slot's present server.
    pub fn slot(&self, mark: &Mark, epoch: impl Fn(Slot) -> Option<u32>) -> Option<Slot> {
        let slot = Slot::new(u16::from_be_bytes([mark[0], mark[1]]).into());
        (self.mark(slot, epoch(slot)?) == *mark).then_some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_its_slot_under_its_key_and_epoch_only() {
        let (marks, other) = (LoopMarks::new([1; 16]), LoopMarks::new([2; 16]));
        let mark = marks.mark(Slot::new(4_095), 7);
        let of = |marks: &LoopMarks, mark: &Mark, epoch| {
            marks.slot(mark, |slot| (slot.index() == 4_095).then_some(epoch)).map(Slot::index)
        };
        assert_eq!(of(&marks, &mark, 7), Some(4_095));
        assert_eq!(
            (of(&marks, &mark, 8), of(&other, &mark, 7)),
            (None, None),
            "another registration, another pool"
        );
        let mut forged = mark;
        forged[1] ^= 1;
        assert_eq!(of(&marks, &forged, 7), None, "a slot without a server");
        assert_eq!(marks.slot(&forged, |_| Some(7)), None, "another slot");
    }
}
