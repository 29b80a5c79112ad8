//! Open TCP connections by source.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::pool::access::source_of;

/// Counts connections of each source that has any.
#[derive(Debug, Default)]
pub(super) struct Sources(HashMap<IpAddr, u32>);

impl Sources {
    /// Counts one connection more, unless its source has `max` already.
    pub fn admit(&mut self, ip: IpAddr, max: usize) -> bool {
        let count = self.0.entry(source_of(ip)).or_default();
        let is_admitted = (*count as usize) < max;
        *count += u32::from(is_admitted);
        is_admitted
    }

    /// Counts one connection less.
    pub fn leave(&mut self, ip: IpAddr) {
        let source = source_of(ip);
        if let Some(count) = self.0.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_limit_and_one_that_left_takes_no_memory() {
        let mut sources = Sources::default();
        let admit = |sources: &mut Sources, ip: &str| sources.admit(ip.parse().unwrap(), 2);
        assert!(admit(&mut sources, "192.0.2.1") && admit(&mut sources, "::ffff:192.0.2.1"));
        assert!(!admit(&mut sources, "192.0.2.1") && admit(&mut sources, "192.0.2.2"));
        assert!(admit(&mut sources, "2001:db8::1") && admit(&mut sources, "2001:db8::ffff:0:0:2"));
        assert!(!admit(&mut sources, "2001:db8::3") && admit(&mut sources, "2001:db8:0:1::1"));
        sources.leave("192.0.2.1".parse().unwrap());
        assert!(admit(&mut sources, "192.0.2.1"));
        for ip in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::9", "2001:db8::9", "2001:db8:0:1::"] {
            sources.leave(ip.parse().unwrap());
        }
        assert!(sources.0.is_empty());
    }
}
