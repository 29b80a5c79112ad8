//! Datagram pools, fed by hand: what reaches whom, what reaches nobody, and what is counted.

use super::*;
use crate::base::drop_reason::DropReason;

pub(super) mod bench;
mod delays;
mod dns;
mod flapping;
mod flows;
mod front;
mod fuzz;
mod handover;
mod health;
mod members;
mod model;
mod orders;
mod reconfigure;
mod requests;
mod slow_start;
mod waiting;
mod workers;
