//! An operator's orders about one server, as roles, the admin interface and the command line share them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The largest weight.
pub const WEIGHT_MAX: u16 = 100;

/// An order about one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Send it no new requests; it finishes those in flight.
    Drain,
    /// Send it requests again, as soon as it has shown that it lives.
    Enable,
    /// Send it no requests until it is enabled, regardless of its health.
    Disable,
    /// Its share relative to other servers, 1 to [`WEIGHT_MAX`].
    Weight(u16),
}

/// Why an order was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No server has or had this id.
    UnknownServer,
    /// The weight is not within 1 and [`WEIGHT_MAX`].
    Weight,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::UnknownServer => f.write_str("no server has this id"),
            Refused::Weight => write!(f, "a weight is a whole number from 1 to {WEIGHT_MAX}"),
        }
    }
}

impl std::error::Error for Refused {}

/// What an operator allows a server to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminMode {
    /// It takes requests.
    #[default]
    On,
    /// It finishes the requests in flight.
    Drained,
    /// It gets no requests.
    Off,
}

/// The sum of an operator's orders about one server. It holds until the process ends, also while the server
/// is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminState {
    /// What the operator allows.
    pub mode: AdminMode,
    /// The server's share, instead of the one that the server or the configuration gives. `None`: no such
    /// order.
    pub weight: Option<u16>,
}

impl AdminState {
    /// The server's weight: the ordered one, or this one; 1 to [`WEIGHT_MAX`].
    pub fn weight(&self, otherwise: u16) -> u16 {
        self.weight.unwrap_or(otherwise).clamp(1, WEIGHT_MAX)
    }

    /// Adds an order.
    pub fn note(&mut self, order: Order) {
        match order {
            Order::Drain => self.mode = AdminMode::Drained,
            Order::Enable => self.mode = AdminMode::On,
            Order::Disable => self.mode = AdminMode::Off,
            Order::Weight(weight) => self.weight = Some(weight),
        }
    }
}

impl Order {
    /// The order's word in URLs, on the command line and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Order::Drain => "drain",
            Order::Enable => "enable",
            Order::Disable => "disable",
            Order::Weight(_) => "weight",
        }
    }

    /// Refuses an order that no server could carry out.
    pub fn check(self) -> Result<Order, Refused> {
        match self {
            Order::Weight(weight) if !(1..=WEIGHT_MAX).contains(&weight) => Err(Refused::Weight),
            order => Ok(order),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_that_no_server_can_have_is_refused() {
        for (weight, fits) in [(0, false), (1, true), (WEIGHT_MAX, true), (WEIGHT_MAX + 1, false)] {
            assert_eq!(Order::Weight(weight).check().is_ok(), fits, "{weight}");
        }
        assert_eq!(Order::Drain.check(), Ok(Order::Drain));
    }
}
