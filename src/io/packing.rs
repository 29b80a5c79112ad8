//! Cuts the frames of one destination into messages of equal segments. Pure.

use std::iter::Peekable;

use crate::base::batch::FrameRef;

/// Maximum UDP payload over IPv4: 65,535 minus the IP and UDP headers.
pub const PAYLOAD_MAX: usize = 65_507;

/// Maximum segments per message: UDP_MAX_SEGMENTS of linux/udp.h since 6.9, and in some stable kernels
/// before it.
pub const SEGMENTS_MAX: usize = 128;

/// Maximum segments per message in older kernels; more are rejected with EINVAL.
pub const SEGMENTS_MAX_OLD: usize = 64;

/// Maximum ranges per message: UIO_MAXIOV (linux/uio.h).
pub const RANGES_MAX: usize = 1024;

/// Limits of a message.
#[derive(Clone, Copy, Debug)]
pub struct PackingLimits {
    /// Maximum frames of equal length per datagram.
    pub frames_per_datagram: usize,
    /// Maximum size in bytes of a datagram with several frames.
    pub datagram_max: usize,
    /// Maximum datagrams per message: 1 without segmentation offload.
    pub segments: usize,
}

/// A message of `bytes` in total, cut into datagrams of `segment_size`; the last may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Total size, in bytes.
    pub bytes: usize,
    /// Size of a datagram in bytes, at most `bytes`.
    pub segment_size: usize,
    /// Size of a frame, in bytes. A datagram has `segment_size / frame_len` of them.
    pub frame_len: usize,
    /// Number of ranges that were added.
    pub ranges: usize,
}

impl Packed {
    /// Number of datagrams in the message.
    pub fn datagrams(&self) -> usize {
        self.bytes.div_ceil(self.segment_size)
    }
}

/// Adjacent frames of one slot, which become one iovec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// A receive slot, or [`STAGED`](crate::base::batch::STAGED).
    pub slot: u16,
    /// Offset of the first byte.
    pub offset: u32,
    /// Size, in bytes.
    pub len: u32,
}

/// Takes the frames of the next message from `frames` and adds their ranges, at most [`RANGES_MAX`].
/// `None` if no frame is left. No frame is empty.
///
/// A message is a run of frames of one length, cut at whole datagrams. A shorter frame may end it, since
/// only the last segment may be shorter. So frames keep their order.
pub fn next_message(
    frames: &mut Peekable<impl Iterator<Item = FrameRef>>,
    limits: PackingLimits,
    ranges: &mut Vec<Range>,
) -> Option<Packed> {
    let len = frames.peek()?.len as usize;
    let per_datagram = limits.frames_per_datagram.min(limits.datagram_max.min(PAYLOAD_MAX) / len).max(1);
    let segment_size = per_datagram * len;
    let frames_max = per_datagram * limits.segments.min(PAYLOAD_MAX / segment_size).max(1);

    let first_range = ranges.len();
    let (mut count, mut bytes) = (0, 0);
    while let Some(frame) = frames.next_if(|next| {
        let next_len = next.len as usize;
        let closes = next_len < len && count % per_datagram == 0 && count > 0;
        count < frames_max && (next_len == len || closes) && ranges.len() - first_range < RANGES_MAX
    }) {
        count += 1;
        bytes += frame.len as usize;
        append(ranges, first_range, frame);
        if (frame.len as usize) < len {
            break;
        }
    }
    let (segment_size, ranges) = (segment_size.min(bytes), ranges.len() - first_range);
    Some(Packed { bytes, segment_size, frame_len: len, ranges })
}

/// Adds a frame to the ranges of a message; an adjacent frame extends the last range.
fn append(ranges: &mut Vec<Range>, first_range: usize, frame: FrameRef) {
    match ranges[first_range..].last_mut() {
        Some(last) if last.slot == frame.slot && last.offset + last.len == frame.offset => {
            last.len += u32::from(frame.len);
        }
        _ => ranges.push(Range { slot: frame.slot, offset: frame.offset, len: frame.len.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: PackingLimits = packed(1, SEGMENTS_MAX_OLD);

    const fn packed(frames_per_datagram: usize, segments: usize) -> PackingLimits {
        PackingLimits { frames_per_datagram, datagram_max: PAYLOAD_MAX, segments }
    }

    /// Frames of these lengths, no two adjacent.
    fn frames(lens: &[u16]) -> Vec<FrameRef> {
        lens.iter().zip(0..).map(|(&len, i)| FrameRef { slot: 0, len, offset: i * 70_000 }).collect()
    }

    /// The messages of these frames as (bytes, segment size).
    fn pack(frames: &[FrameRef], limits: PackingLimits) -> Vec<(usize, usize)> {
        let mut frames = frames.iter().copied().peekable();
        let mut ranges = Vec::new();
        std::iter::from_fn(|| next_message(&mut frames, limits, &mut ranges))
            .map(|m| (m.bytes, m.segment_size))
            .collect()
    }

    #[test]
    fn equal_frames_are_one_message() {
        assert_eq!(pack(&frames(&[256; 10]), SINGLE), [(2560, 256)]);
        assert_eq!(pack(&[], SINGLE), []);
    }

    #[test]
    fn a_shorter_frame_closes_a_message_and_a_longer_one_opens_the_next() {
        assert_eq!(pack(&frames(&[256, 256, 100, 100]), SINGLE), [(612, 256), (100, 100)]);
        assert_eq!(pack(&frames(&[100, 256, 256]), SINGLE), [(100, 100), (512, 256)]);
        assert_eq!(pack(&frames(&[300, 200, 100]), SINGLE), [(500, 300), (100, 100)]);
    }

    #[test]
    fn frames_that_share_a_datagram_are_of_equal_length() {
        let limits = packed(5, SEGMENTS_MAX_OLD);
        assert_eq!(pack(&frames(&[256; 12]), limits), [(3072, 1280)]);
        assert_eq!(pack(&frames(&[256; 3]), limits), [(768, 768)]);
        assert_eq!(pack(&frames(&[256, 256, 100]), limits), [(512, 512), (100, 100)]);
        let short = PackingLimits { datagram_max: 1_000, ..limits };
        assert_eq!(pack(&frames(&[256; 12]), short), [(3072, 768)]);
        let shorter = PackingLimits { datagram_max: 255, ..limits };
        assert_eq!(pack(&frames(&[256; 12]), shorter), [(3072, 256)], "a frame is never cut");
    }

    #[test]
    fn without_offload_each_datagram_is_a_message() {
        let limits = packed(2, 1);
        assert_eq!(pack(&frames(&[256; 5]), limits), [(512, 512), (512, 512), (256, 256)]);
        let limits = packed(1, 1);
        assert_eq!(pack(&frames(&[256, 100]), limits), [(256, 256), (100, 100)]);
    }

    #[test]
    fn messages_stay_within_segments_and_bytes() {
        let m = pack(&frames(&[100; 130]), SINGLE);
        assert_eq!(m, [(6400, 100), (6400, 100), (200, 100)]);
        let m = pack(&frames(&[1472; 60]), SINGLE);
        assert_eq!(m, [(44 * 1472, 1472), (16 * 1472, 1472)]);
        let limits = packed(100, SEGMENTS_MAX_OLD);
        assert_eq!(pack(&frames(&[1000; 70]), limits), [(65_000, 65_000), (5_000, 5_000)]);
        assert_eq!(pack(&frames(&[u16::MAX]), SINGLE), [(65_535, 65_535)]);
    }

    #[test]
    fn neighbours_in_a_slot_are_one_range() {
        let frame = |slot, offset| FrameRef { slot, len: 256, offset };
        let row = [frame(0, 0), frame(0, 256), frame(1, 512), frame(1, 256), frame(1, 512)];
        let mut ranges = Vec::new();
        next_message(&mut row.iter().copied().peekable(), SINGLE, &mut ranges).unwrap();
        let ranges: Vec<_> = ranges.iter().map(|r| (r.slot, r.offset, r.len)).collect();
        assert_eq!(ranges, [(0, 0, 512), (1, 512, 256), (1, 256, 512)]);
    }

    #[test]
    fn ranges_of_a_message_are_bounded() {
        let limits = packed(32, SEGMENTS_MAX_OLD);
        let row: Vec<_> = (0..1500).map(|i| FrameRef { slot: 0, len: 20, offset: i * 40 }).collect();
        let mut ranges = Vec::new();
        let mut frames = row.iter().copied().peekable();
        let first = next_message(&mut frames, limits, &mut ranges).unwrap();
        assert_eq!((first.ranges, first.bytes), (RANGES_MAX, RANGES_MAX * 20));
        assert_eq!(next_message(&mut frames, limits, &mut ranges).unwrap().bytes, 476 * 20);
    }
}
