//! Handover of sockets from one process to another over a Unix stream socket.
//!
//! ```text
//!   Requester: requests the sockets         Holder: has the sockets, and serves
//!        Hello(purpose)       ───────────────>
//!                             <───────────────  Sockets[labels], then the descriptors
//!        (a copy ends here; a takeover continues)
//!        Continues[pools], Ready ────────────>  pauses its sockets
//!                             <───────────────  State(bytes)
//!        Running              ───────────────>
//!                             <───────────────  Yours, and never reads again
//!        reads                <───────────────  State: events and history
//!                             <───────────────  State: what it has counted up to its end
//! ```
//!
//! Until the holder has sent `Yours`, it can continue as before. Until the requester has received
//! `Yours`, it must read nothing. So two processes never read at the same time, even if one stops, dies
//! or stalls in between. A [`Holder`] that ends with an error resumes; a [`Requester`] that ends with
//! one gives up.
//!
//! A supervisor that has opened the sockets itself needs no conversation. It calls [`Holder::push`] over
//! a socket that is its child's standard input, and the child calls [`Requester::pushed`].
//!
//! Every wait and every message is bounded. Peers are processes of the same user or of root, possibly of
//! another version. The handover knows nothing of balancers: only the sender and the receiver interpret
//! the state.

mod channel;
mod error;
mod holder;
mod listener;
mod message;
mod requester;
mod sockets;

pub use channel::MESSAGE_MAX;
pub use error::Error;
pub use holder::Holder;
pub use listener::Listener;
pub use message::{HandoverMessage, HandoverPurpose, PREFACE_LEN, VERSION, check_preface, preface};
pub use requester::Requester;
pub use sockets::{InheritedSocket, Label, SocketKind, SocketSet};

#[cfg(test)]
mod tests;
