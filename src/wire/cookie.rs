//! Cookies and nonces: values that only this process can have made.
//!
//! A *cookie* proves that the balancer itself dispatched the request that a reply claims to answer. A
//! *nonce* proves that the process that echoes it can receive at its address. It is computed, not
//! stored, so that forged registrations fill no table.

use std::hash::Hasher;
use std::net::SocketAddr;
use std::time::Duration;

use siphasher::sip::SipHasher24;
use zerocopy::IntoBytes;

use super::frame::pack_addr;
use super::header::Header;
use crate::base::time::Instant;

/// A random key per process. SipHash-2-4: Aumasson and Bernstein, "SipHash: a fast short-input PRF",
/// 2012.
#[derive(Clone)]
pub struct CookieKey(SipHasher24);

/// A nonce is valid in its own time span and the next.
const NONCE_SPAN_NANOS: u64 = 2_000_000_000;

/// The longest life of a nonce.
pub const NONCE_LIFE: Duration = Duration::from_nanos(2 * NONCE_SPAN_NANOS);

impl CookieKey {
    /// A key from 16 random bytes.
    pub fn new(key: [u8; 16]) -> Self {
        CookieKey(SipHasher24::new_with_key(&key))
    }

    /// The cookie of a header; it covers client, sequence, route and dispatch.
    pub fn cookie(&self, header: &Header) -> u64 {
        self.0.hash(&header.as_bytes()[Header::COOKIE_COVERS])
    }

    /// A nonce for a peer at `from` with this `instance`; never zero.
    pub fn nonce(&self, now: Instant, from: SocketAddr, instance: u64) -> u64 {
        self.nonce_of_span(now.as_nanos() / NONCE_SPAN_NANOS, from, instance)
    }

    /// Whether this peer was given this nonce at most two to four seconds ago.
    pub fn nonce_is_valid(&self, now: Instant, from: SocketAddr, instance: u64, nonce: u64) -> bool {
        let span = now.as_nanos() / NONCE_SPAN_NANOS;
        [span, span.saturating_sub(1)]
            .into_iter()
            .any(|span| self.nonce_of_span(span, from, instance) == nonce)
    }

    fn nonce_of_span(&self, span: u64, from: SocketAddr, instance: u64) -> u64 {
        let (ip, port) = pack_addr(from);
        let mut hasher = self.0;
        hasher.write(&ip);
        hasher.write_u16(port);
        hasher.write_u64(instance);
        hasher.write_u64(span);
        // Cookies cover 56 bytes and nonces 34, so no cookie equals a nonce.
        hasher.finish().max(1)
    }
}

impl std::fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::Kind;

    #[test]
    fn a_cookie_covers_client_route_and_dispatch() {
        let key = CookieKey::new([1; 16]);
        let mut header = Header::new(Kind::ClientRequest, 256);
        let whole = key.cookie(&header);
        for at in 0..size_of::<Header>() {
            header.as_mut_bytes()[at] ^= 1;
            assert_eq!(key.cookie(&header) != whole, Header::COOKIE_COVERS.contains(&at), "byte {at}");
            header.as_mut_bytes()[at] ^= 1;
        }
        assert_ne!(CookieKey::new([2; 16]).cookie(&header), whole);
    }

    #[test]
    fn a_nonce_belongs_to_one_address_and_instance_and_ages() {
        let key = CookieKey::new([1; 16]);
        let from = "127.0.0.1:50000".parse().unwrap();
        let other = "127.0.0.1:50001".parse().unwrap();
        let now = Instant::from_nanos(10 * NONCE_SPAN_NANOS);
        let nonce = key.nonce(now, from, 9);
        assert!(key.nonce_is_valid(now, from, 9, nonce));
        assert!(key.nonce_is_valid(now + Duration::from_secs(3), from, 9, nonce));
        assert!(!key.nonce_is_valid(now + Duration::from_secs(5), from, 9, nonce));
        assert!(!key.nonce_is_valid(now, other, 9, nonce));
        assert!(!key.nonce_is_valid(now, from, 8, nonce));
        assert!(!key.nonce_is_valid(now, from, 9, 0));
    }

    #[test]
    fn the_key_is_not_printed() {
        assert_eq!(format!("{:?}", CookieKey::new([0x41; 16])), "CookieKey(..)");
    }
}
