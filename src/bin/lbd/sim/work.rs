//! Parses what a trace is made of: `--service` and `--arrivals`.

use std::path::Path;

use lbd::lab::{Gaps, Listed, Work};
use lbd::load::{Arrivals, Trace};

/// The longest service time of a file, in seconds.
const SERVICE_MAX: f64 = 60.0;

/// Parses `exp:5ms`, or `file:FILE` with one time in seconds per line.
pub fn service(text: &str) -> Result<Work, String> {
    let Some(file) = text.strip_prefix("file:") else {
        return text.parse().map_err(|error| format!("{error}, or file:FILE"));
    };
    let content = std::fs::read_to_string(file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let nanos = times(&content).map_err(|why| format!("{file}: {why}"))?;
    Ok(Work::Listed(Listed { name: file.to_owned(), nanos: nanos.into() }))
}

fn times(text: &str) -> Result<Vec<u64>, String> {
    let mut nanos = vec![];
    for (line, number) in text.lines().zip(1..) {
        let word = line.split('#').next().unwrap_or_default().trim();
        if word.is_empty() {
            continue;
        }
        let seconds = word.parse().ok().filter(|seconds| (1e-9..=SERVICE_MAX).contains(seconds));
        let seconds: f64 = seconds.ok_or_else(|| {
            format!(
                "line {number}: `{word}` must be a service time in seconds, above 0 and up to {SERVICE_MAX}"
            )
        })?;
        nanos.push((seconds * 1e9).round() as u64);
    }
    if nanos.is_empty() {
        Err("no service time found; write one per line, in seconds".to_owned())
    } else {
        Ok(nanos)
    }
}

/// Parses the spacing of requests, in the words of `loadgen --arrivals`.
pub fn gaps(text: &str) -> Result<Gaps, String> {
    Ok(match text.parse()? {
        Arrivals::Poisson => Gaps::Exponential,
        Arrivals::Constant => Gaps::Equal,
        Arrivals::Burst(count) => Gaps::Bursts(count),
        Arrivals::Trace(file) => Gaps::Listed(listed(&file)?),
    })
}

/// The gaps of a trace; the first one follows the last request.
fn listed(file: &Path) -> Result<Listed, String> {
    let trace = Trace::load(file)?;
    let at: Vec<u64> = (0..).map_while(|index| trace.at(index)).collect();
    let mut nanos: Vec<u64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    if nanos.iter().all(|gap| *gap == 0) {
        return Err(format!("{}: a trace needs requests at two moments", file.display()));
    }
    // After the last request, the trace begins again after a mean gap.
    let mean = nanos.iter().sum::<u64>() / nanos.len() as u64;
    nanos.insert(0, mean);
    Ok(Listed { name: file.display().to_string(), nanos: nanos.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("numbers");
        std::fs::write(&file, text).unwrap();
        let name = file.display().to_string();
        (dir, name)
    }

    #[test]
    fn service_times_come_from_a_shape_or_a_file() {
        assert_eq!(service("exp:5ms").unwrap().to_string(), "exp:5ms");
        let (_dir, file) = written("# seconds\n0.001\n\n0.003 # slow\n");
        let work = service(&format!("file:{file}")).unwrap();
        assert_eq!(work.mean(), std::time::Duration::from_millis(2));
        for (text, named) in
            [("", "no service time"), ("fast", "line 1: `fast`"), ("1\n0", "line 2: `0`"), ("61", "line 1")]
        {
            let (_dir, file) = written(text);
            let error = service(&format!("file:{file}")).unwrap_err();
            assert!(error.contains(named) && error.contains(&file), "{error}");
        }
        assert!(service("file:no/such/file").unwrap_err().contains("cannot read no/such/file"));
        assert!(service("slow").unwrap_err().contains("exp:5ms"));
    }

    #[test]
    fn gaps_are_those_of_loadgen() {
        for text in ["poisson", "constant", "burst:7"] {
            assert_eq!(gaps(text).unwrap().to_string(), text);
        }
        let (_dir, file) = written("1\n1.5\n4.5\n");
        let Gaps::Listed(list) = gaps(&format!("trace:{file}")).unwrap() else { panic!("a list") };
        assert_eq!(*list.nanos, [1_750_000_000, 500_000_000, 3_000_000_000]);
        let (_dir, file) = written("1\n1\n");
        assert!(gaps(&format!("trace:{file}")).unwrap_err().contains("two moments"));
        assert!(gaps("burst:0").unwrap_err().contains("burst"));
    }
}
