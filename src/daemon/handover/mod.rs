//! How one process hands its sockets over to another, over a Unix stream socket.
//!
//! ```text
//!   Wish: who wants them                      Offer: who has them, and serves
//!        Hello(purpose)       ───────────────>
//!                             <───────────────  Sockets[labels], then the descriptors
//!        (a copy ends here; a takeover goes on)
//!        Ready                ───────────────>  pauses its sockets
//!                             <───────────────  State(bytes)
//!        Running              ───────────────>
//!                             <───────────────  Yours, and never reads again
//!        reads
//! ```
//!
//! Until it has sent `Yours`, the one that has the sockets can go on as if nothing had happened; until it has received
//! `Yours`, the one that wants them must read nothing. So at no time do two of them read, whoever stops, dies or stalls
//! in between: an [`Holder`] that ends with an error resumes, a [`Requester`] that ends with one gives up.
//!
//! A supervisor that has opened the sockets itself skips the talk: [`Holder::push`] over a socket that its child has as
//! its standard input, [`Requester::pushed`] there.
//!
//! Every wait is bounded, every message too. Peers are processes of the same user, or of root; they are not trusted to
//! be of the same version. Knows nothing of balancers: what the state says is the business of who gives it.

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
pub use message::{Purpose, VERSION};
pub use requester::Requester;
pub use sockets::{Label, SocketKind, SocketSet};

#[cfg(test)]
mod tests;
