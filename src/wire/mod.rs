//! The frame on the wire: fixed size, header at fixed offsets, raw payload bytes, optional trailer.
//!
//! There are two levels. The *view* ([`Frame`]) checks a frame once and then reads and patches its header in
//! place; the balancer uses only the view. The *messages* (`crate::wire::message`) are for code that needs
//! the meaning. Their postcard encoding defines the header, and a golden test compares both.
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
