//! The sample window: the difference between the newest sample and one a few samples before.

use std::collections::VecDeque;
use std::time::Instant;

use crate::pool::stats::LatencySnapshot;

/// Responses of one slot and their latencies, of all workers together.
#[derive(Clone, Debug, Default)]
pub(super) struct SlotSample {
    pub answered: u64,
    pub latency: LatencySnapshot,
}

/// The samples of the window, by slot.
pub(super) struct SampleWindow {
    /// Samples that the window reaches back.
    span: usize,
    times: VecDeque<Instant>,
    slots: Vec<VecDeque<SlotSample>>,
}

impl SampleWindow {
    /// A window that reaches back `span` samples, 1 at least; `first` is the first sample of each slot.
    pub fn new(span: usize, first: Vec<SlotSample>) -> Self {
        let slots = first.into_iter().map(|sample| VecDeque::from([sample])).collect();
        SampleWindow { span: span.max(1), times: VecDeque::from([Instant::now()]), slots }
    }

    /// Begins a sample of all slots. Returns the seconds since the sample that it is compared with.
    pub fn begin(&mut self) -> f64 {
        let now = Instant::now();
        let oldest = *self.times.front().expect("there is a first look");
        self.times.push_back(now);
        if self.times.len() > self.span {
            self.times.pop_front();
        }
        now.duration_since(oldest).as_secs_f64().max(1e-6)
    }

    /// Adds the sample of a slot. Returns the difference within the window.
    pub fn sample(&mut self, slot: usize, now: SlotSample) -> SlotSample {
        let samples = &mut self.slots[slot];
        let oldest = samples.front().expect("there is a first look");
        let passed = SlotSample {
            answered: now.answered.saturating_sub(oldest.answered),
            latency: now.latency.since(&oldest.latency),
        };
        samples.push_back(now);
        if samples.len() > self.span {
            samples.pop_front();
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_reaches_back_as_far_as_it_shall() {
        let latency = |count| {
            let histogram = crate::pool::stats::LatencyHistogram::default();
            (0..count).for_each(|_| histogram.record(100));
            histogram.snapshot()
        };
        let sample = |answered| SlotSample { answered, latency: latency(answered) };
        for (span, expected) in [(1, [3, 4, 5, 6]), (3, [3, 7, 12, 15]), (9, [3, 7, 12, 18])] {
            let mut window = SampleWindow::new(span, vec![SlotSample::default(), sample(10)]);
            for (answered, passed) in [13, 17, 22, 28].into_iter().zip(expected) {
                assert!(window.begin() > 0.0);
                let seen = window.sample(1, sample(answered));
                assert_eq!((seen.answered, seen.latency.count()), (passed, passed), "{span}");
                assert_eq!(window.sample(0, SlotSample::default()).answered, 0, "the other slot");
            }
        }
    }
}
