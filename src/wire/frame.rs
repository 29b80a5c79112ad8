//! The frame view: one check, then access to the fields in place.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::{Deref, DerefMut};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::header::*;
use crate::base::drop_reason::DropReason;

/// Format of all frames of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFormat {
    /// Size of a frame, in bytes.
    pub size: usize,
    /// Whether the last [`TRAILER_LEN`] bytes authenticate the frame.
    pub tagged: bool,
}

impl FrameFormat {
    /// A format without a trailer; `size` is 128 to 1,200 bytes.
    pub fn plain(size: usize) -> Self {
        assert!((FRAME_SIZE_MIN..=FRAME_SIZE_MAX).contains(&size), "frame size {size}");
        FrameFormat { size, tagged: false }
    }

    /// A format of the same size whose last 32 bytes are the trailer; `size` is 160 to 1,200 bytes.
    pub fn tagged(size: usize) -> Self {
        assert!((FRAME_SIZE_MIN_TAGGED..=FRAME_SIZE_MAX).contains(&size), "frame size {size}");
        FrameFormat { size, tagged: true }
    }

    /// Maximum payload of a frame, in bytes.
    pub fn payload_max(&self) -> usize {
        self.size - HEADER_LEN - if self.tagged { TRAILER_LEN } else { 0 }
    }

    /// Frames per datagram that fits into an Ethernet frame over IPv4; at least 1.
    pub fn frames_per_datagram(&self) -> usize {
        DATAGRAM_MAX / self.size
    }

    /// Frames per datagram that passes to this address: into an Ethernet frame over IPv4, on every path over
    /// IPv6. At least 1.
    pub fn frames_per_datagram_to(&self, ip: IpAddr) -> usize {
        if ip.is_ipv6() { DATAGRAM_MAX_V6 / self.size } else { self.frames_per_datagram() }
    }

    /// Whether `len` bytes are a whole number of frames, at least one.
    pub fn divides(&self, len: usize) -> bool {
        len > 0 && len.is_multiple_of(self.size)
    }
}

/// The parts of a frame, in place.
#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Parts {
    /// The header.
    pub header: Header,
    /// The bytes after the header: payload, padding, trailer.
    rest: [u8],
}

/// A frame whose length, magic, version, kind, size and payload length were checked.
#[derive(Debug)]
pub struct Frame<'a> {
    parts: &'a mut Parts,
}

impl Deref for Frame<'_> {
    type Target = Parts;

    #[inline]
    fn deref(&self) -> &Parts {
        self.parts
    }
}

impl DerefMut for Frame<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Parts {
        self.parts
    }
}

impl<'a> Frame<'a> {
    /// Checks a frame, cheapest test first, and returns its view. `bytes` is exactly one frame.
    pub fn check(bytes: &'a mut [u8], format: &FrameFormat) -> Result<Self, DropReason> {
        if bytes.len() != format.size {
            return Err(wrong_length(bytes, format));
        }
        let parts = Parts::mut_from_bytes(bytes).map_err(|_| DropReason::Length)?;
        let header = &parts.header;
        if header.magic.get() != MAGIC {
            return Err(DropReason::Magic);
        }
        if !(VERSION_MIN..=VERSION).contains(&header.version) {
            return Err(DropReason::Version);
        }
        if Kind::from_wire(header.kind).is_none() {
            return Err(DropReason::Kind);
        }
        if usize::from(header.frame_size.get()) != format.size {
            return Err(DropReason::FrameSize);
        }
        if usize::from(header.payload_len.get()) > format.payload_max() {
            return Err(DropReason::PayloadLength);
        }
        Ok(Frame { parts })
    }

    /// Writes a new frame over `bytes`, which must be one frame long.
    pub fn write(bytes: &'a mut [u8], header: &Header, payload: &[u8]) -> Self {
        let parts = Parts::mut_from_bytes(bytes).expect("a frame is longer than its header");
        parts.header = *header;
        parts.header.payload_len.set(payload.len() as u16);
        parts.rest[..payload.len()].copy_from_slice(payload);
        parts.rest[payload.len()..].fill(0);
        Frame { parts }
    }

    /// Kind of the message.
    pub fn kind(&self) -> Kind {
        Kind::from_wire(self.header.kind).expect("the kind was checked")
    }

    /// The payload in use.
    pub fn payload(&self) -> &[u8] {
        &self.rest[..usize::from(self.header.payload_len.get())]
    }

    /// The whole frame.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.parts.as_bytes()
    }

    /// The whole frame, for writing: what was checked may no longer hold.
    #[inline]
    pub fn into_bytes(self) -> &'a mut [u8] {
        self.parts.as_mut_bytes()
    }

    /// Zeroes the last `len` bytes of the frame.
    pub fn clear_tail(&mut self, len: usize) {
        let from = self.parts.rest.len() - len;
        self.parts.rest[from..].fill(0);
    }

    /// Replaces the payload, and zeroes the rest of the old one. `payload` must fit into the frame.
    pub fn set_payload(&mut self, payload: &[u8]) {
        let Parts { header, rest } = &mut *self.parts;
        let old = usize::from(header.payload_len.get());
        rest[..payload.len()].copy_from_slice(payload);
        if old > payload.len() {
            rest[payload.len()..old].fill(0);
        }
        header.payload_len.set(payload.len() as u16);
    }
}

/// The frame size that the header of these bytes states; `None` if they do not begin with a header of a
/// version that is read.
pub fn stated_size(bytes: &[u8]) -> Option<u16> {
    let (header, _) = Header::ref_from_prefix(bytes).ok()?;
    let is_read = header.magic.get() == MAGIC && (VERSION_MIN..=VERSION).contains(&header.version);
    is_read.then(|| header.frame_size.get())
}

/// Why bytes that are no whole number of frames are dropped: they are frames of another size, or none.
#[cold]
pub fn wrong_length(bytes: &[u8], format: &FrameFormat) -> DropReason {
    match stated_size(bytes) {
        Some(size) if usize::from(size) != format.size => DropReason::FrameSize,
        _ => DropReason::Length,
    }
}

/// An address in the header's form: IPv4 is mapped into IPv6.
pub fn pack_addr(addr: SocketAddr) -> ([u8; 16], u16) {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    (ip.octets(), addr.port())
}

/// The inverse of [`pack_addr`]; a mapped IPv4 address becomes IPv4 again.
pub fn unpack_addr(ip: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        let mut header = Header::new(Kind::ClientRequest, size);
        header.client_id.set(7);
        Frame::write(&mut bytes, &header, b"hello");
        bytes
    }

    #[test]
    fn a_written_frame_is_read_back() {
        let mut bytes = valid(128);
        let frame = Frame::check(&mut bytes, &FrameFormat::plain(128)).unwrap();
        assert_eq!(frame.kind(), Kind::ClientRequest);
        assert_eq!(frame.payload(), b"hello");
        assert_eq!(frame.header.client_id.get(), 7);
    }

    #[test]
    fn every_broken_field_has_its_reason() {
        let format = FrameFormat::plain(256);
        let broken = |at: usize, value: u8| {
            let mut bytes = valid(256);
            bytes[at] = value;
            Frame::check(&mut bytes, &format).map(|_| ()).unwrap_err()
        };
        assert_eq!(broken(0, 0), DropReason::Magic);
        assert_eq!(broken(2, VERSION + 1), DropReason::Version);
        assert_eq!(broken(2, VERSION_MIN - 1), DropReason::Version);
        assert_eq!(broken(3, 9), DropReason::Kind);
        assert_eq!(broken(4, 128), DropReason::FrameSize);
        assert_eq!(broken(7, 1), DropReason::PayloadLength);
        let mut bytes = valid(256);
        assert_eq!(Frame::check(&mut bytes[..255], &format).unwrap_err(), DropReason::Length);
        assert_eq!(Frame::check(&mut [], &format).unwrap_err(), DropReason::Length);
        for size in [128, 512] {
            let other = Frame::check(&mut valid(size), &format).unwrap_err();
            assert_eq!((other, stated_size(&valid(size))), (DropReason::FrameSize, Some(size as u16)));
        }
    }

    #[test]
    fn a_shorter_payload_leaves_nothing_of_the_longer_one() {
        let mut bytes = valid(128);
        let mut frame = Frame::check(&mut bytes, &FrameFormat::plain(128)).unwrap();
        frame.set_payload(b"ab");
        assert_eq!(frame.payload(), b"ab");
        assert_eq!(bytes[HEADER_LEN..], {
            let mut rest = [0; 16];
            rest[..2].copy_from_slice(b"ab");
            rest
        });
    }

    #[test]
    fn addresses_survive_the_header() {
        for text in ["127.0.0.1:54001", "[::1]:9", "[2001:db8::7]:65535"] {
            let addr: SocketAddr = text.parse().unwrap();
            let (ip, port) = pack_addr(addr);
            assert_eq!(unpack_addr(ip, port), addr);
        }
    }

    #[test]
    fn a_trailer_takes_its_bytes_from_the_payload() {
        assert_eq!(FrameFormat::plain(256).payload_max(), 144);
        assert_eq!(FrameFormat::tagged(256).payload_max(), 112);
        assert_eq!(FrameFormat::tagged(160).payload_max(), 16);
        assert_eq!(FrameFormat::plain(256).frames_per_datagram(), 5);
        let to = |ip: &str, size| FrameFormat::plain(size).frames_per_datagram_to(ip.parse().unwrap());
        assert_eq!((to("192.0.2.1", 256), to("2001:db8::1", 256), to("::1", 1_200)), (5, 4, 1));
    }
}
