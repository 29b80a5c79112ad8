//! Limit of file descriptors.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of open file descriptors to `count`, at most to the hard limit (getrlimit(2)).
/// `settings` names the configuration keys that an operator can lower instead.
pub fn allow_files(count: u64, settings: &str) -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    if limit.maximum.is_some_and(|maximum| maximum < count) {
        let maximum = limit.maximum.unwrap_or_default();
        return Err(io::Error::other(format!(
            "cannot open {count} file descriptors: this process may have {maximum}; raise the limit \
             (ulimit -Hn, or \
            LimitNOFILE of a unit), or lower {settings}"
        )));
    }
    limit.current = Some(count);
    Ok(setrlimit(Resource::Nofile, limit)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_hard_limit_is_refused_with_the_remedy() {
        allow_files(1, "").unwrap();
        if getrlimit(Resource::Nofile).maximum.is_some() {
            let error = allow_files(u64::MAX - 1, "pools[].ports").unwrap_err().to_string();
            assert!(error.contains("pools[].ports"), "{error}");
        }
    }
}
