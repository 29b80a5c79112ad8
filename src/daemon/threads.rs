//! Loops that run side by side, each on a thread of its own: whoever fails ends them all.

use std::io;

use super::signals::Stop;

/// A loop that runs until it is asked to stop.
pub struct Job<'a> {
    /// The thread's name.
    pub name: String,
    /// The loop.
    pub work: Box<dyn FnOnce() -> io::Result<()> + Send + 'a>,
}

/// Runs until all have ended: asked to stop, or because one has failed. The first runs on this thread.
pub fn run(jobs: Vec<Job<'_>>, stop: &Stop) -> io::Result<()> {
    let guarded = |work: Box<dyn FnOnce() -> io::Result<()> + Send + '_>| {
        let result = work();
        if result.is_err() {
            stop.ask();
        }
        result
    };
    std::thread::scope(|scope| {
        let mut jobs = jobs.into_iter();
        let first = jobs.next();
        let mut others = vec![];
        for Job { name, work } in jobs {
            let thread = std::thread::Builder::new().name(name);
            match thread.spawn_scoped(scope, move || guarded(work)) {
                Ok(other) => others.push(other),
                Err(error) => {
                    stop.ask(); // else those that run already would be waited for
                    return Err(error);
                }
            }
        }
        let mut result = first.map_or(Ok(()), |job| guarded(job.work));
        for other in others {
            let ended = other.join().expect("a panic ends the process");
            result = result.and(ended);
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_fails_ends_the_others_and_its_error_is_told() {
        let stop = Stop::new(vec![]);
        let wait = || {
            while !stop.is_asked() {
                std::thread::yield_now();
            }
            Ok(())
        };
        let job = |name: &str, work: Box<dyn FnOnce() -> io::Result<()> + Send>| Job {
            name: name.to_owned(),
            work,
        };
        let failing = Box::new(|| Err(io::Error::other("no more")));
        let jobs = vec![
            Job { name: "first".to_owned(), work: Box::new(wait) },
            job("failing", failing),
            Job { name: "last".to_owned(), work: Box::new(wait) },
        ];
        assert_eq!(run(jobs, &stop).unwrap_err().to_string(), "no more");
    }
}
