//! Windows over sequence numbers: each number is accepted once.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use zerocopy::FromZeros;

/// Tracks which of the last 65,536 dispatches of one (worker, slot) were answered.
///
/// The bit of a dispatch is set while it waits for its reply. So "not sent yet", "answered" and "too
/// old" all read as zero: one bit array, one test. One worker dispatches. Any worker may accept replies,
/// since a server may reply to another worker's port; each reply is accepted once.
#[derive(Debug)]
pub struct DispatchWindow {
    /// The dispatching worker sets bits, and the worker that accepts the reply clears them, both atomically.
    open: Box<[AtomicU64; WORDS]>,
    /// Last dispatch sequence, written by the dispatching worker.
    sent: AtomicU32,
}

const WORDS: usize = 1024;
const SPAN: u32 = (WORDS * 64) as u32;

impl Default for DispatchWindow {
    fn default() -> Self {
        Self::starting_at(0)
    }
}

impl DispatchWindow {
    /// A window whose next dispatch is `sent + 1`. The kernel allocates its memory on first use.
    pub fn starting_at(sent: u32) -> Self {
        let open = <[AtomicU64; WORDS]>::new_box_zeroed().expect("8 KiB");
        DispatchWindow { open, sent: AtomicU32::new(sent) }
    }

    /// Last dispatch sequence; 0 at first.
    pub fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns the next dispatch sequence and opens its bit. A dispatch 65,536 earlier is forgotten.
    /// Only one thread calls it.
    pub fn dispatch(&self) -> u32 {
        let sent = self.sent().wrapping_add(1);
        // The number comes first: from now on the previous dispatch with this bit is too old.
        self.sent.store(sent, Ordering::Release);
        let (word, bit) = place(sent);
        self.open[word].fetch_or(bit, Ordering::Release);
        sent
    }

    /// Accepts the reply to a dispatch: true once, then false. Also false for a sequence that is too old
    /// or was never sent.
    pub fn accept(&self, seq: u32) -> bool {
        if self.sent.load(Ordering::Acquire).wrapping_sub(seq) >= SPAN {
            return false;
        }
        let (word, bit) = place(seq);
        self.open[word].fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }
}

/// The state of a [`DispatchWindow`] for another process, taken between turns, when no thread changes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowState {
    sent: u32,
    /// Runs of equal words: length and word. Most words have no bit set.
    runs: Vec<(u16, u64)>,
}

impl WindowState {
    /// Last dispatch sequence.
    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// Whether the state belongs to a window of this size.
    pub fn is_whole(&self) -> bool {
        self.runs.iter().map(|&(count, _)| usize::from(count)).sum::<usize>() == WORDS
    }
}

impl DispatchWindow {
    /// The state that another process needs to continue.
    pub fn state(&self) -> WindowState {
        let mut runs: Vec<(u16, u64)> = Vec::new();
        for word in self.open.iter().map(|word| word.load(Ordering::Acquire)) {
            match runs.last_mut() {
                Some((count, last)) if *last == word => *count += 1,
                _ => runs.push((1, word)),
            }
        }
        WindowState { sent: self.sent(), runs }
    }

    /// Continues the window of another process. Call it before any other use.
    pub fn restore(&self, state: &WindowState) {
        let words = state.runs.iter().flat_map(|&(count, word)| std::iter::repeat_n(word, count.into()));
        for (place, word) in self.open.iter().zip(words) {
            place.store(word, Ordering::Release);
        }
        self.sent.store(state.sent, Ordering::Release);
    }
}

fn place(seq: u32) -> (usize, u64) {
    ((seq / 64) as usize % WORDS, 1 << (seq % 64))
}

/// Counters of a sender that were seen, as in RFC 6479: the newest 1,024; older ones are rejected.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplayWindow {
    newest: u64,
    seen: [u64; REPLAY_WORDS],
}

/// One word more than the span, so that the word being cleared is not in the span.
const REPLAY_WORDS: usize = 17;
const REPLAY_SPAN: u64 = 1024;

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow { newest: 0, seen: [0; REPLAY_WORDS] }
    }
}

impl ReplayWindow {
    /// The highest accepted counter; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Accepts a counter once: true if it is new. Counters start at 1.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter == 0 || self.newest.saturating_sub(counter) >= REPLAY_SPAN {
            return false;
        }
        let word = |counter: u64| (counter / 64) as usize % REPLAY_WORDS;
        if counter > self.newest {
            let steps = (counter / 64 - self.newest / 64).min(REPLAY_WORDS as u64);
            for step in 0..steps {
                self.seen[word(counter - step * 64)] = 0;
            }
            self.newest = counter;
        }
        let bit = 1 << (counter % 64);
        let fresh = self.seen[word(counter)] & bit == 0;
        self.seen[word(counter)] |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashSet, VecDeque};

    #[test]
    fn a_dispatch_is_answered_once() {
        let window = DispatchWindow::default();
        let seq = window.dispatch();
        assert!(!window.accept(seq + 1), "never sent");
        assert!(window.accept(seq));
        assert!(!window.accept(seq));
    }

    #[test]
    fn a_reply_later_than_the_window_is_refused() {
        let window = DispatchWindow::default();
        let first = window.dispatch();
        for _ in 0..SPAN - 1 {
            window.dispatch();
        }
        assert!(window.accept(first), "the oldest in the window");
        window.dispatch();
        assert!(!window.accept(first + SPAN + 1) && !window.accept(first));
    }

    #[test]
    fn a_reply_that_comes_to_two_workers_at_once_is_taken_by_one() {
        const ROUNDS: u32 = 20;
        let (window, start) = (DispatchWindow::default(), std::sync::Barrier::new(2));
        let taken = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for dispatches in [true, false] {
                let (window, start, taken) = (&window, &start, &taken);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        if dispatches {
                            (0..SPAN).for_each(|_| assert_ne!(window.dispatch(), 0));
                        }
                        start.wait();
                        let first = round * SPAN + 1;
                        let mine = (first..first + SPAN).filter(|&seq| window.accept(seq)).count();
                        taken.fetch_add(mine as u32, Ordering::Relaxed);
                        start.wait();
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), ROUNDS * SPAN);
    }

    #[test]
    fn it_runs_through_the_wrap() {
        let window = DispatchWindow::starting_at(u32::MAX - 1);
        let seqs = [window.dispatch(), window.dispatch(), window.dispatch()];
        assert_eq!(seqs, [u32::MAX, 0, 1]);
        assert!(seqs.iter().all(|&s| window.accept(s)));
        assert!(seqs.iter().all(|&s| !window.accept(s)));
    }

    #[test]
    fn a_gap_wider_than_the_replay_window_forgets_nothing_new() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(1));
        assert!(window.accept(100_000));
        assert!(!window.accept(100_000 - REPLAY_SPAN));
        assert!(window.accept(100_001 - REPLAY_SPAN));
        assert!(!window.accept(100_001 - REPLAY_SPAN));
    }

    #[test]
    fn the_last_counter_of_all_is_taken_once() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(u64::MAX) && !window.accept(u64::MAX) && window.accept(u64::MAX - 1));
    }

    proptest! {
        #[test]
        fn dispatch_window_agrees_with_a_set(
            ops in prop::collection::vec((any::<bool>(), 0u32..80), 1..400),
            start in prop::sample::select(vec![0, u32::MAX - 50]),
        ) {
            let window = DispatchWindow::starting_at(start);
            let mut open = HashSet::new();
            for (dispatch, back) in ops {
                if dispatch {
                    open.insert(window.dispatch());
                } else {
                    let seq = window.sent().wrapping_sub(back);
                    prop_assert_eq!(window.accept(seq), open.remove(&seq));
                }
            }
        }

        #[test]
        fn a_window_goes_on_in_another_process(
            sent in 0u32..200_000,
            start in prop::sample::select(vec![0, u32::MAX - 70_000]),
            answered in prop::collection::vec(0u32..70_000, 0..200),
        ) {
            let window = DispatchWindow::starting_at(start);
            for _ in 0..sent {
                window.dispatch();
            }
            for back in answered {
                window.accept(window.sent().wrapping_sub(back));
            }
            let bytes = postcard::to_allocvec(&window.state()).unwrap();
            let state: WindowState = postcard::from_bytes(&bytes).unwrap();
            prop_assert!(state.is_whole());
            let other = DispatchWindow::default();
            other.restore(&state);
            prop_assert_eq!(other.state(), window.state());
            prop_assert_eq!(other.dispatch(), window.dispatch());
            for back in 0..66_000 {
                let seq = window.sent().wrapping_sub(back);
                prop_assert_eq!(other.accept(seq), window.accept(seq));
            }
        }

        #[test]
        fn replay_window_agrees_with_a_list(
            steps in prop::collection::vec((0u64..3000, any::<bool>()), 1..300),
        ) {
            let mut window = ReplayWindow::default();
            let (mut seen, mut newest) = (VecDeque::new(), 1u64);
            for (distance, ahead) in steps {
                let counter = if ahead { newest + distance } else { newest.saturating_sub(distance).max(1) };
                let fresh = counter + REPLAY_SPAN > newest && !seen.contains(&counter);
                prop_assert_eq!(window.accept(counter), fresh, "counter {} newest {}", counter, newest);
                if fresh { seen.push_back(counter); }
                newest = newest.max(counter);
            }
        }
    }
}
