//! The header: 112 bytes at fixed offsets, little-endian, the same for all four messages.
//!
//! | bytes   | content | written by |
//! |---------|---------|------------|
//! | 0..32   | what it is and whose: magic to sequence | client, server (status) |
//! | 32..80  | the route: client address, worker, epochs, slot, dispatch, cookie | balancer |
//! | 80..112 | the report: cumulative counters and queue of a server | server |

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first two bytes of every frame: "lb" read as a little-endian number.
pub const MAGIC: u16 = u16::from_le_bytes(*b"lb");
/// The version of the frame that is sent.
pub const VERSION: u8 = 1;
/// The oldest version that is still understood. Version N accepts N and N - 1; there is no version 0.
pub const VERSION_MIN: u8 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 112;
/// Bytes of the trailer that authenticates a frame: epoch, counter, tag.
pub const TRAILER_LEN: usize = 32;
/// The smallest frame.
pub const FRAME_SIZE_MIN: usize = 128;
/// The smallest frame with a trailer.
pub const FRAME_SIZE_MIN_TAGGED: usize = 160;
/// The largest frame: below the path MTU of practically every network.
pub const FRAME_SIZE_MAX: usize = 1200;
/// UDP payload that fits an Ethernet frame over IPv4.
pub const DATAGRAM_MAX: usize = 1472;

const _: () = assert!(size_of::<Header>() == HEADER_LEN);
const _: () = assert!(HEADER_LEN + 16 == FRAME_SIZE_MIN);
const _: () = assert!(FRAME_SIZE_MIN + TRAILER_LEN == FRAME_SIZE_MIN_TAGGED);
const _: () = assert!(FRAME_SIZE_MAX <= DATAGRAM_MAX);

/// The header of every frame, to be read and patched in place.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: U16,
    /// [`VERSION`].
    pub version: u8,
    /// A [`Kind`].
    pub kind: u8,
    /// Bytes of the whole frame, so that a mismatch is never read as frames.
    pub frame_size: U16,
    /// Bytes of the payload in use.
    pub payload_len: U16,
    /// A [`Status`].
    pub status: u8,
    /// A [`Mode`].
    pub mode: u8,
    /// 1 for the first attempt, counted up by each retry.
    pub attempt: u8,
    /// A [`RequestOp`], [`ServerOp`], or in a dispatched ClientRequest a [`ReplyPath`], by kind; else 0.
    pub op: u8,
    /// In requests the time left until the deadline, in refusals the time to wait before a retry, in microseconds. 0 = none.
    pub deadline_us: U32,
    /// Random number of the sender's process (client, or server instance).
    pub client_id: U64,
    /// The request's number at its client, from 1.
    pub sequence: U64,
    /// The client's address, IPv4 mapped into IPv6.
    pub client_ip: [u8; 16],
    /// The client's port.
    pub client_port: U16,
    /// Which of the balancer's front addresses was asked.
    pub listener: u8,
    /// Which of the balancer's workers sent it.
    pub worker: u8,
    /// Random number of the balancer's process.
    pub balancer_epoch: U32,
    /// Random number of the server's registration.
    pub server_epoch: U32,
    /// The server's slot at the balancer.
    pub slot: U16,
    /// `sequence` minus the client's first incomplete sequence, saturating (written by the client).
    pub incomplete: U16,
    /// Number of the dispatch from this worker to this slot.
    pub dispatch_seq: U32,
    /// When it was dispatched, in microseconds of the balancer's clock.
    pub dispatch_us: U32,
    /// Proof that the balancer dispatched it; a nonce in registration and control.
    pub cookie: U64,
    /// Number of the report.
    pub report: U32,
    /// Highest dispatch sequence seen from this worker.
    pub seq: U32,
    /// Valid requests read from this worker.
    pub received: U32,
    /// Requests of this worker finished, whatever their status.
    pub done: U32,
    /// Requests at the server, waiting and in service.
    pub queue: U32,
    /// Those of `queue` that are not from this registration.
    pub foreign: U32,
    /// Mean service time, in microseconds.
    pub service_us: U32,
    /// A [`ServerState`].
    pub server_state: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl Header {
    /// The bytes that the cookie covers: client id to dispatch time.
    pub const COOKIE_COVERS: std::ops::Range<usize> = 16..72;
    /// The bytes that nobody outside may see: route and report.
    pub const INTERNAL: std::ops::Range<usize> = 32..112;

    /// A header of this kind for frames of `frame_size` bytes; everything else zero.
    pub fn new(kind: Kind, frame_size: usize) -> Self {
        let mut header = Header::new_zeroed();
        header.magic.set(MAGIC);
        header.version = VERSION;
        header.kind = kind as u8;
        header.frame_size.set(frame_size as u16);
        header
    }

    /// Zeroes route and report, before a frame leaves for a client.
    pub fn clear_internal(&mut self) {
        self.as_mut_bytes()[Self::INTERNAL].fill(0);
    }
}

use zerocopy::FromZeros;

macro_rules! wire_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $value,)* }

        impl $name {
            /// The value with this number on the wire, if there is one.
            pub const fn from_wire(byte: u8) -> Option<Self> {
                match byte { $($value => Some($name::$variant),)* _ => None }
            }
        }
    };
}

wire_enum! {
    /// Which of the four messages a frame is.
    Kind {
        /// From a client, by way of the balancer, to a server.
        ClientRequest = 1,
        /// The answer to a client.
        ClientResponse = 2,
        /// Between balancer and controller, and from the balancer to a server.
        ControllerRequest = 3,
        /// From a server to the balancer: a reply, a report or a registration.
        ServerResponse = 4,
    }
}

wire_enum! {
    /// The outcome that a response carries.
    Status {
        /// Served.
        Ok = 0,
        /// Refused unserved: try again after `deadline_us`.
        Busy = 1,
        /// The deadline passed before it was served.
        Expired = 2,
        /// The addressee does not know what it is asked about.
        Unknown = 3,
        /// Served, with an error; or a request that cannot be served here.
        Error = 4,
    }
}

wire_enum! {
    /// What a client promises about repeating a request.
    Mode {
        /// At least once: may be repeated anywhere (the default).
        Idempotent = 0,
        /// Sent once, never repeated.
        OneShot = 1,
        /// At most once. Answered with an error until it is built.
        AtMostOnce = 2,
    }
}

wire_enum! {
    /// The way of the answer to a ClientRequest, as the balancer dispatches it.
    ReplyPath {
        /// By way of the balancer, which hides and checks the servers.
        Balancer = 0,
        /// From the server to the client: half the datagrams at the balancer, which learns of completions by counters.
        Direct = 1,
    }
}

wire_enum! {
    /// What a ControllerRequest asks.
    RequestOp {
        /// Balancer to server: this is how many requests I sent you; report.
        Sync = 1,
        /// To whoever asked: prove that you are reachable there by echoing this nonce.
        Challenge = 2,
        /// Balancer to controller: let there be at least `target` servers.
        Grow = 3,
        /// Balancer to controller: stop the server whose id is `target`.
        Shrink = 4,
        /// Controller to balancer: this request was received; `status` says what became of it.
        Ack = 5,
    }
}

wire_enum! {
    /// What a ServerResponse is.
    ServerOp {
        /// The reply to a request.
        Reply = 0,
        /// Counters, queue and state, without a request.
        Report = 1,
        /// A server wants to join, or echoes the nonce.
        Register = 2,
    }
}

wire_enum! {
    /// What a server says of itself.
    ServerState {
        /// Takes requests.
        Ready = 0,
        /// Finishes what it has, wants no more.
        Draining = 1,
        /// Has finished and is about to exit.
        Stopped = 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    #[test]
    fn offsets_are_those_of_the_specification() {
        let table = [
            (offset_of!(Header, magic), 0),
            (offset_of!(Header, version), 2),
            (offset_of!(Header, kind), 3),
            (offset_of!(Header, frame_size), 4),
            (offset_of!(Header, payload_len), 6),
            (offset_of!(Header, status), 8),
            (offset_of!(Header, mode), 9),
            (offset_of!(Header, attempt), 10),
            (offset_of!(Header, op), 11),
            (offset_of!(Header, deadline_us), 12),
            (offset_of!(Header, client_id), 16),
            (offset_of!(Header, sequence), 24),
            (offset_of!(Header, client_ip), 32),
            (offset_of!(Header, client_port), 48),
            (offset_of!(Header, listener), 50),
            (offset_of!(Header, worker), 51),
            (offset_of!(Header, balancer_epoch), 52),
            (offset_of!(Header, server_epoch), 56),
            (offset_of!(Header, slot), 60),
            (offset_of!(Header, incomplete), 62),
            (offset_of!(Header, dispatch_seq), 64),
            (offset_of!(Header, dispatch_us), 68),
            (offset_of!(Header, cookie), 72),
            (offset_of!(Header, report), 80),
            (offset_of!(Header, seq), 84),
            (offset_of!(Header, received), 88),
            (offset_of!(Header, done), 92),
            (offset_of!(Header, queue), 96),
            (offset_of!(Header, foreign), 100),
            (offset_of!(Header, service_us), 104),
            (offset_of!(Header, server_state), 108),
            (offset_of!(Header, reserved), 109),
        ];
        for (is, should) in table {
            assert_eq!(is, should);
        }
    }

    #[test]
    fn clearing_leaves_only_what_a_client_may_see() {
        let mut header = Header::read_from_bytes(&[0xff; HEADER_LEN]).unwrap();
        header.clear_internal();
        assert_eq!(header.as_bytes()[..32], [0xff; 32]);
        assert_eq!(header.as_bytes()[32..], [0; 80]);
    }

    #[test]
    fn unknown_numbers_have_no_meaning() {
        assert_eq!(Kind::from_wire(0), None);
        assert_eq!(Kind::from_wire(4), Some(Kind::ServerResponse));
        assert_eq!(Status::from_wire(5), None);
        assert_eq!(Mode::from_wire(3), None);
        assert_eq!(ReplyPath::from_wire(2), None);
        assert_eq!(RequestOp::from_wire(0), None);
        assert_eq!(ServerOp::from_wire(3), None);
        assert_eq!(ServerState::from_wire(3), None);
    }
}
