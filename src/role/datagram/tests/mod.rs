//! Datagram pools turn by turn: which datagrams reach which receiver, which are dropped, and the counts.

use std::net::SocketAddr;

use super::*;
use crate::base::drop_reason::DropReason;

pub(super) mod bench;
mod check_places;
mod check_trust;
mod delays;
mod dns;
mod flapping;
mod flows;
mod front;
mod fuzz;
mod handover;
mod health;
mod leaving;
mod loops;
mod members;
mod model;
mod orders;
mod reconfigure;
mod requests;
mod slow_start;
mod streams;
mod waiting;
mod workers;
