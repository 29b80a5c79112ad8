//! Values that are replaced while workers run. Each worker copies the newest value at most once per
//! turn, so the data path reads plain memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// A value and its successors.
#[derive(Debug)]
pub struct Live<T> {
    /// Number of replacements; written while the lock is held.
    version: AtomicU64,
    newest: Mutex<Arc<T>>,
}

/// The version that a reader has seen last; initially the first one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen(u64);

impl<T> Live<T> {
    /// Publishes the first value.
    pub fn new(value: T) -> Self {
        Live { version: AtomicU64::new(0), newest: Mutex::new(Arc::new(value)) }
    }

    /// The newest value.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.newest.lock().expect("no panic while it is held"))
    }

    /// Replaces the value by the result of `change`; an error keeps the value.
    pub fn replace<E>(&self, change: impl FnOnce(&T) -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut newest = self.newest.lock().expect("no panic while it is held");
        *newest = Arc::new(change(&newest)?);
        self.version.fetch_add(1, Ordering::Release);
        Ok(Arc::clone(&newest))
    }

    /// The newest value, if it is newer than the one that was seen.
    pub fn newer(&self, seen: &mut Seen) -> Option<Arc<T>> {
        if self.version.load(Ordering::Acquire) == seen.0 {
            return None;
        }
        let newest = self.newest.lock().expect("no panic while it is held");
        seen.0 = self.version.load(Ordering::Acquire);
        Some(Arc::clone(&newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_successor_is_seen_once_by_everybody_and_a_failure_changes_nothing() {
        let live = Live::new(1);
        let (mut one, mut other) = (Seen::default(), Seen::default());
        assert_eq!(live.newer(&mut one), None);
        for n in 2..5 {
            assert_eq!(live.replace(|old| Ok::<_, ()>(old + 1)), Ok(Arc::new(n)));
            assert_eq!((live.newer(&mut one), live.newer(&mut one)), (Some(Arc::new(n)), None));
        }
        assert_eq!(live.replace(|_| Err("no")), Err("no"));
        assert_eq!((live.newer(&mut one), live.newer(&mut other)), (None, Some(Arc::new(4))));
        assert_eq!(*live.get(), 4);
    }
}
