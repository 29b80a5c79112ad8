//! The balancer's own answers to DNS queries, and how often a source gets one to a malformed query.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::forward::Forwarder;
use super::request::DatagramRequest;
use crate::base::batch::{FrameRef, Tx};
use crate::base::time::Instant;
use crate::pool::access::source_of;
use crate::wire::dns::{OWN_ANSWER_MAX, OwnAnswer, SERVFAIL};

/// Sends an own answer to a query. It leaves from the query's place in the turn's memory if it fits there,
/// else as a copy. A full turn drops it.
pub(super) fn answer(
    core: &mut Forwarder,
    request: &mut DatagramRequest<'_>,
    answer: OwnAnswer,
    tx: &mut Tx,
) {
    let mut bytes = [0; OWN_ANSWER_MAX];
    let len = answer.write(request.bytes, &mut bytes);
    let Some(destination) = core.destination_of(&request.client, tx).filter(|_| len > 0) else { return };
    let is_sent = match request.at {
        Some(at) if len <= request.bytes.len() => {
            request.bytes[..len].copy_from_slice(&bytes[..len]);
            tx.push(destination, FrameRef { len: len as u16, ..at })
        }
        _ => {
            let staged = tx.stage(destination, len);
            staged.map(|staged| staged.copy_from_slice(&bytes[..len])).is_some()
        }
    };
    if is_sent && answer.rcode() == SERVFAIL {
        core.stats.servfail.add(1);
    }
}

/// Sources whose last format error is known: two sources can share an entry.
const SOURCES: usize = 1_024;
/// The shortest time between two format errors to one source.
const PAUSE: Duration = Duration::from_millis(10);
/// The ports of services that answer anything, such as chargen: no resolver asks from there, apart from port
/// 53.
const SERVICE_PORTS: u16 = 1_024;
const DNS_PORT: u16 = 53;

/// The times of the last format errors. Without a pause, a service that answers each of them with nonsense
/// would never stop.
pub(super) struct FormatErrors(Box<[Instant]>);

impl FormatErrors {
    pub fn new() -> Self {
        FormatErrors(vec![Instant::ZERO; SOURCES].into())
    }

    /// Whether this source gets a format error now; if so it is counted.
    pub fn allows(&mut self, source: SocketAddr, now: Instant) -> bool {
        let hash = match source_of(source.ip()) {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        };
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let last = &mut self.0[mixed as usize % SOURCES];
        let is_service = source.port() < SERVICE_PORTS && source.port() != DNS_PORT;
        if is_service || now.since(*last) < PAUSE && *last != Instant::ZERO {
            return false;
        }
        *last = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_a_format_error_now_and_then_and_a_service_none() {
        let (mut errors, mut now) = (FormatErrors::new(), Instant::from_nanos(5_000_000_000));
        let [one, same, other, service, server] =
            ["192.0.2.1:5353", "192.0.2.1:9999", "192.0.2.2:5353", "192.0.2.3:19", "192.0.2.4:53"]
                .map(|addr| addr.parse().unwrap());
        assert!(errors.allows(one, now) && !errors.allows(one, now) && !errors.allows(same, now));
        assert!(errors.allows(other, now) && !errors.allows(service, now) && errors.allows(server, now));
        now += PAUSE - Duration::from_nanos(1);
        assert!(!errors.allows(same, now));
        now += Duration::from_nanos(1);
        assert!(errors.allows(same, now));
        let [v6, neighbour] = ["[2001:db8::1]:5353", "[2001:db8::2]:5353"].map(|addr| addr.parse().unwrap());
        assert!(errors.allows(v6, now) && !errors.allows(neighbour, now), "a /64 is one source");
    }
}
