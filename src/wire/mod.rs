//! The frame on the wire: fixed size, header at fixed offsets, payload bytes raw, optional trailer.
//!
//! Two levels. The *view* ([`Frame`]) checks a frame once and then reads and patches its header in
//! place: all that the balancer ever does. The *messages* (`crate::wire::message`) are for whoever needs
//! meaning; their postcard encoding defines the header and a golden test holds both equal.
//!
//! Pure: no sockets, no clock. `docs/PROTOCOL.md` specifies every byte, with test vectors.

pub mod cookie;
pub mod dns;
pub mod frame;
pub mod header;
pub mod message;
pub mod proxy_protocol;
pub mod tag;
pub mod window;

pub use cookie::CookieKey;
pub use frame::{Frame, FrameFormat};
pub use header::{Header, Kind, Mode, ReplyPath, RequestOp, ServerOp, ServerState, Status};
pub use tag::{Opener, Sealer};
pub use window::{DispatchWindow, ReplayWindow};
