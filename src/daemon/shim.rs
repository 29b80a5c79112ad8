use crate::role::{balancer, relay};
use crate::time::Instant;
impl balancer::Balancer {
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
    pub fn reconfigure(&mut self, _: Instant, _: relay::Settings) {}
}
