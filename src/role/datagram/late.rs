//! DNS queries that have timed out. So a response that comes too late is still known as one.

use super::queries::Place;
use crate::base::time::Instant;

/// Queries that are kept. Of two whose ids are equal modulo this number the newer one is kept.
const KEPT: usize = 1_024;

/// The last queries of one worker that have timed out; `T` is what is kept of a query.
pub(super) struct LateQueries<T> {
    entries: Box<[Option<LateQuery<T>>]>,
}

struct LateQuery<T> {
    place: Place,
    until: Instant,
    query: T,
}

impl<T> LateQueries<T> {
    pub fn new() -> Self {
        LateQueries { entries: (0..KEPT).map(|_| None).collect() }
    }

    /// Keeps a query until this time.
    pub fn keep(&mut self, until: Instant, place: Place, query: T) {
        self.entries[index(place)] = Some(LateQuery { place, until, query });
    }

    /// Takes the query with this port and id, if `is_answered` says that the response is its.
    pub fn take(&mut self, now: Instant, place: Place, is_answered: impl FnOnce(&T) -> bool) -> Option<T> {
        let entry = &mut self.entries[index(place)];
        let is_kept =
            |late: &mut LateQuery<T>| late.place == place && late.until > now && is_answered(&late.query);
        entry.take_if(is_kept).map(|late| late.query)
    }
}

fn index(place: Place) -> usize {
    usize::from(place.id) % KEPT
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_query_is_taken_once_at_its_place_in_its_time() {
        let (mut late, now) = (LateQueries::new(), Instant::from_nanos(7));
        let until = now + Duration::from_secs(1);
        let place = Place { port: 3, id: 5_000 };
        late.keep(until, place, 'a');
        assert_eq!(late.take(now, Place { port: 4, ..place }, |_| true), None, "another port");
        assert_eq!(late.take(now, Place { id: 5_000 + 1_024, ..place }, |_| true), None, "another id");
        assert_eq!(late.take(now, place, |_| false), None, "another response");
        assert_eq!((late.take(now, place, |_| true), late.take(now, place, |_| true)), (Some('a'), None));
        late.keep(until, place, 'b');
        assert_eq!(late.take(until, place, |_| true), None, "too late");
        late.keep(until, place, 'c');
        late.keep(until, Place { port: 1, id: 5_000 - 1_024 }, 'd');
        assert_eq!(late.take(now, place, |_| true), None, "replaced");
    }
}
