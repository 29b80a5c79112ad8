//! What an operator asks of a running balancer, in words that roles, the admin interface and the command line share.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The largest weight.
pub const WEIGHT_MAX: u16 = 100;

/// What shall become of one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// No new requests at once; what it has is finished.
    Drain,
    /// Takes traffic (again), as soon as it has proved that it lives.
    Enable,
    /// No requests, whatever it says of itself.
    Disable,
    /// Its share relative to others, 1 to [`WEIGHT_MAX`].
    Weight(u16),
}

/// Why an order was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No server has this id.
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

/// Whether an operator lets a server work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminMode {
    /// It does.
    #[default]
    On,
    /// It finishes what it has.
    Drained,
    /// It gets nothing.
    Off,
}

/// What an operator has said of one server so far. It holds until the process ends, whatever the server does meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminState {
    /// Whether it may work.
    pub switch: AdminMode,
    /// Its share relative to others, in place of what the server or the configuration says.
    pub weight: Option<u16>,
}

impl AdminState {
    /// Notes an order.
    pub fn note(&mut self, order: Order) {
        match order {
            Order::Drain => self.switch = AdminMode::Drained,
            Order::Enable => self.switch = AdminMode::On,
            Order::Disable => self.switch = AdminMode::Off,
            Order::Weight(weight) => self.weight = Some(weight),
        }
    }
}

impl Order {
    /// Its word in addresses, on the command line and in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Order::Drain => "drain",
            Order::Enable => "enable",
            Order::Disable => "disable",
            Order::Weight(_) => "weight",
        }
    }

    /// Refuses what no server could carry out.
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
