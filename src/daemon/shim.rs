use crate::operator::{Order, Refused};
use crate::role::{balancer, relay};
use crate::time::Instant;
impl balancer::Balancer {
    pub fn is_idle(&self) -> bool {
        (0..self.tree().slot_count()).all(|s| self.tree().len(crate::select::Slot::new(s)) == 0)
    }
    pub fn can_serve(&self) -> bool {
        (0..self.tree().slot_count()).any(|s| self.tree().is_choosable(crate::select::Slot::new(s)))
    }
    pub fn order(&mut self, _: Instant, _: u32, _: Order) -> Result<(), Refused> {
        Err(Refused::UnknownServer)
    }
    pub fn reconfigure(&mut self, _: Instant, _: &balancer::Settings) -> bool {
        false
    }
}
impl balancer::Settings {
    pub fn fixed_difference(&self, _: &Self) -> Option<&'static str> {
        None
    }
}
impl relay::Settings {
    pub fn fixed_difference(&self, other: &Self) -> Option<&'static str> {
        (self != other).then_some("x")
    }
}
impl relay::Relay {
    pub fn is_idle(&self) -> bool {
        self.stats().in_flight.get() == 0
    }
    pub fn retire(&mut self) {}
    pub fn order(&mut self, _: Instant, _: u32, _: Order) -> Result<(), Refused> {
        Err(Refused::UnknownServer)
    }
    pub fn reconfigure(&mut self, _: Instant, _: relay::Settings) {}
}
impl relay::Shared {
    pub fn can_serve(&self) -> bool {
        true
    }
}
