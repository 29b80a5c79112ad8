//! The provided-buffer ring: a queue of free slots from which the kernel takes one for each datagram
//! (io_uring_register_buf_ring(3), Linux 5.19, commit c7fb19428d67).
//!
//! ```text
//!      taken by the kernel     free slots            not in use
//!   ──────────────────────┬──────────────────────┬───────────────▸
//!                     the kernel's head        `tail`
//! ```
//!
//! The kernel keeps the head and this code the tail; both only grow. There are never more free slots
//! than entries.

#![allow(unsafe_code)] // system calls

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::ring::Ring;

/// The only group of buffers.
pub(super) const GROUP: u16 = 0;

/// Alignment of the ring, at least the page size, as the kernel requires.
const ALIGNMENT: usize = 64 << 10;

/// The ring of free slots.
pub(super) struct SlotRing {
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    count: u16,
    tail: u16,
}

// SAFETY: the memory belongs only to this value, like that of a box.
unsafe impl Send for SlotRing {}

impl SlotRing {
    /// An empty ring for this many slots.
    pub(super) fn new(slot_count: usize) -> io::Result<Self> {
        let count = slot_count.next_power_of_two();
        if count > 1 << 15 {
            let message = "io_uring takes at most 32,768 slots";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let layout = Layout::array::<BufRingEntry>(count).and_then(|layout| layout.align_to(ALIGNMENT));
        let layout = layout.map_err(io::Error::other)?;
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(entries) = NonNull::new(memory.cast()) else { handle_alloc_error(layout) };
        Ok(SlotRing { entries, layout, count: count as u16, tail: 0 })
    }

    /// Registers the ring with the kernel. It starts empty.
    ///
    /// # Safety
    ///
    /// `self` must live until the registration is undone or the io_uring is closed.
    pub(super) unsafe fn register(&mut self, ring: &Ring) -> io::Result<()> {
        self.tail = 0;
        self.publish();
        let address = self.entries.as_ptr() as u64;
        // SAFETY: the memory has space for `count` entries; the caller guarantees that it lives.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, self.count, GROUP, 0) }
    }

    /// Adds a free slot. The kernel sees it after [`SlotRing::publish`].
    pub(super) fn provide(&mut self, slot: u16, memory: &mut [u8]) {
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index is below `count`; the kernel reads and writes no entry from `tail` on.
        let entry = unsafe { &mut *self.entries.as_ptr().add(index) };
        entry.set_addr(memory.as_mut_ptr() as u64);
        entry.set_len(u32::try_from(memory.len()).unwrap_or(u32::MAX));
        entry.set_bid(slot);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Publishes the added slots to the kernel.
    pub(super) fn publish(&mut self) {
        // SAFETY: the tail is in the first entry, two aligned bytes that no entry uses.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        // Pairs with the acquire load in io_buffer_select (io_uring/kbuf.c).
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for SlotRing {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and by the contract of `register` no longer known to the
        // kernel.
        unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) }
    }
}
