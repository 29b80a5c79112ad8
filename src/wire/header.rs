//! The header: 112 bytes at fixed offsets, little-endian, the same for all four messages.
//!
//! | bytes   | content | written by |
//! |---------|---------|------------|
//! | 0..32   | identity: magic to sequence | client, server (status) |
//! | 32..80  | the route: client address, worker, epochs, slot, dispatch, cookie | balancer |
//! | 80..112 | the report: cumulative counters and queue of a server | server |

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first two bytes of every frame: "lb" read as a little-endian number.
pub const MAGIC: u16 = u16::from_le_bytes(*b"lb");
/// The frame version that is sent.
pub const VERSION: u8 = 1;
/// The oldest version that is accepted. Version N accepts N and N - 1; there is no version 0.
pub const VERSION_MIN: u8 = 1;
/// Size of the header, in bytes.
pub const HEADER_LEN: usize = 112;
/// Size of the trailer that authenticates a frame, in bytes: epoch, counter, tag.
pub const TRAILER_LEN: usize = 32;
/// Minimum size of a frame, in bytes.
pub const FRAME_SIZE_MIN: usize = 128;
/// Minimum size of a frame with a trailer, in bytes.
pub const FRAME_SIZE_MIN_TAGGED: usize = 160;
/// Maximum size of a frame, in bytes: below the path MTU of practically every network.
pub const FRAME_SIZE_MAX: usize = 1200;
/// Maximum UDP payload of an Ethernet frame over IPv4, in bytes.
pub const DATAGRAM_MAX: usize = 1472;
/// Maximum UDP payload that every IPv6 path takes, in bytes: 1,280 (RFC 8200, section 5) minus the headers of
/// IPv6 and UDP. IPv6 routers do not cut packets.
pub const DATAGRAM_MAX_V6: usize = 1232;

const _: () = assert!(size_of::<Header>() == HEADER_LEN);
const _: () = assert!(HEADER_LEN + 16 == FRAME_SIZE_MIN);
const _: () = assert!(FRAME_SIZE_MIN + TRAILER_LEN == FRAME_SIZE_MIN_TAGGED);
const _: () = assert!(FRAME_SIZE_MAX <= DATAGRAM_MAX && FRAME_SIZE_MAX <= DATAGRAM_MAX_V6);

/// The header of every frame, for reading and patching in place.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: U16,
    /// [`VERSION`].
    pub version: u8,
    /// A [`Kind`].
    pub kind: u8,
    /// Size of the frame in bytes, so that data of another size is never read as frames.
    pub frame_size: U16,
    /// Bytes of the payload in use.
    pub payload_len: U16,
    /// A [`Status`].
    pub status: u8,
    /// A [`Mode`].
    pub mode: u8,
    /// 1 for the first attempt, incremented by each retry.
    pub attempt: u8,
    /// A [`RequestOp`], [`ServerOp`], or in a dispatched ClientRequest a [`ReplyPath`], by kind; otherwise 0.
    pub op: u8,
    /// In requests the time left until the deadline, in refusals the time to wait before a retry, in
    /// microseconds; 0: none.
    pub deadline_us: U32,
    /// Random number of the sender's process (client, or server instance).
    pub client_id: U64,
    /// The request's number at its client, from 1.
    pub sequence: U64,
    /// The client's address, IPv4 mapped into IPv6.
    pub client_ip: [u8; 16],
    /// The client's port.
    pub client_port: U16,
    /// Index of the balancer's client-side address that received the request.
    pub listener: u8,
    /// Index of the balancer's worker that sent the request.
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
    /// Time of the dispatch, in microseconds of the balancer's clock.
    pub dispatch_us: U32,
    /// Proof that the balancer dispatched the request; in registration and control a nonce.
    pub cookie: U64,
    /// Number of the report.
    pub report: U32,
    /// Highest dispatch sequence received from this worker.
    pub seq: U32,
    /// Valid requests received from this worker.
    pub received: U32,
    /// Requests of this worker finished, with any status.
    pub done: U32,
    /// Requests at the server, queued and in service.
    pub queue: U32,
    /// Requests of `queue` that belong to other registrations.
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
    /// The bytes that must not leave the system: route and report.
    pub const INTERNAL: std::ops::Range<usize> = 32..112;

    /// A header of this kind for frames of `frame_size` bytes; all other fields are zero.
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
            /// The value with this number on the wire; `None` if there is none.
            pub const fn from_wire(byte: u8) -> Option<Self> {
                match byte { $($value => Some($name::$variant),)* _ => None }
            }
        }
    };
}

wire_enum! {
    /// Kind of a message.
    Kind {
        /// From a client through the balancer to a server.
        ClientRequest = 1,
        /// The reply to a client.
        ClientResponse = 2,
        /// Between balancer and controller, and from the balancer to a server.
        ControllerRequest = 3,
        /// From a server to the balancer: a reply, a report or a registration.
        ServerResponse = 4,
    }
}

wire_enum! {
    /// Status of a response.
    Status {
        /// Served.
        Ok = 0,
        /// Refused: the client may retry after `deadline_us`.
        Busy = 1,
        /// The deadline passed before the request was served.
        Expired = 2,
        /// The receiver does not know the subject of the request.
        Unknown = 3,
        /// Served with an error, or a request that cannot be served here.
        Error = 4,
    }
}

wire_enum! {
    /// Whether a request may be repeated.
    Mode {
        /// At least once: any server may get the request again (the default).
        Idempotent = 0,
        /// Sent once, never repeated.
        OneShot = 1,
        /// At most once. Not supported yet: answered with an error.
        AtMostOnce = 2,
    }
}

wire_enum! {
    /// Path of the reply to a ClientRequest; the balancer sets it at dispatch.
    ReplyPath {
        /// Through the balancer, which hides and checks the servers.
        Balancer = 0,
        /// From the server to the client. The balancer handles half the datagrams, and counters tell it
        /// about completions.
        Direct = 1,
    }
}

wire_enum! {
    /// Operation of a ControllerRequest.
    RequestOp {
        /// Balancer to server: the number of requests sent so far; the server answers with a report.
        Sync = 1,
        /// To an unproven sender: it must echo this nonce to prove its address.
        Challenge = 2,
        /// Balancer to controller: run at least `target` servers.
        Grow = 3,
        /// Balancer to controller: stop the server with the id `target`.
        Shrink = 4,
        /// Controller to balancer: the request was received; `status` is its result.
        Ack = 5,
    }
}

wire_enum! {
    /// Operation of a ServerResponse.
    ServerOp {
        /// The reply to a request.
        Reply = 0,
        /// Counters, queue and state, without a request.
        Report = 1,
        /// A server asks to join, or echoes the nonce.
        Register = 2,
    }
}

wire_enum! {
    /// State that a server reports about itself.
    ServerState {
        /// The server takes requests.
        Ready = 0,
        /// The server finishes its requests and takes no more.
        Draining = 1,
        /// The server has finished and is about to exit.
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
