//! The limit of `max_outstanding: auto`, kept by the primary of a pool.

use crate::base::time::Instant;
use crate::pool::concurrency::{Finished, Search};
use crate::pool::select::{Slot, Tree};
use crate::pool::waiting::Limit;

/// The search for the limit, where it is to be found.
#[derive(Debug, Default)]
pub(super) struct Auto(Option<Search>);

impl Auto {
    /// A search, if this asks for one.
    pub fn of(now: Instant, limit: Option<Limit>) -> Self {
        let mut auto = Auto::default();
        auto.set(now, limit);
        auto
    }

    /// Begins a search if this asks for one and there is none, and ends it if not.
    pub fn set(&mut self, now: Instant, limit: Option<Limit>) {
        match limit {
            Some(Limit::Auto) => drop(self.0.get_or_insert_with(|| Search::new(now))),
            Some(Limit::Fixed(_)) | None => self.0 = None,
        }
    }

    /// The limit that holds, if this finds it.
    pub fn limit(&self) -> Option<u32> {
        self.0.as_ref().map(Search::limit)
    }

    /// Looks at the pool, and sets the limit if it has changed. At every tick.
    pub fn look<'a>(
        &mut self,
        now: Instant,
        tree: &Tree,
        finished: impl Iterator<Item = &'a Finished>,
        is_short: bool,
    ) {
        let Some(search) = &mut self.0 else { return };
        let served = (0..tree.slot_count()).map(Slot::new).filter(|&slot| tree.takes_traffic(slot));
        if let Some(limit) = search.sample(now, served.map(|slot| tree.own_len(slot)), finished, is_short) {
            tree.set_cap(limit);
        }
    }
}
