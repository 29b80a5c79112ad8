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

impl balancer::Balancer {
    pub fn export(&self, _: Instant) -> balancer::Part {
        balancer::Part
    }
    pub fn workers_from(
        settings: balancer::Settings,
        _: Vec<balancer::Part>,
        now: Instant,
    ) -> Result<Vec<Self>, String> {
        Ok(Self::workers(settings, now))
    }
}
