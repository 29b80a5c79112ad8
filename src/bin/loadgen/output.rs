//! Where a report goes: files, standard output, the terminal.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lbd::load::{Report, write_csv, write_interval_log};
use lbd::terminal::{print, tell};

use crate::args::Args;

/// A place to write to.
enum Sink<'a> {
    Stdout,
    File(&'a Path, File),
}

impl<'a> Sink<'a> {
    fn open(path: Option<&'a Path>) -> Result<Option<Self>> {
        match path {
            None => Ok(None),
            Some(path) if path == Path::new("-") => Ok(Some(Sink::Stdout)),
            Some(path) => {
                let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
                Ok(Some(Sink::File(path, file)))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Sink::Stdout => drop(print(format_args!("{}", String::from_utf8_lossy(bytes)))?),
            Sink::File(path, file) => {
                file.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// The places that were asked for.
pub struct Outputs<'a> {
    json: Option<Sink<'a>>,
    csv: Option<Sink<'a>>,
    hdr: Option<Sink<'a>>,
    quiet: bool,
}

impl<'a> Outputs<'a> {
    /// Opens them: before the load, so that a path that cannot be written costs no run.
    pub fn open(args: &'a Args) -> Result<Self> {
        let outputs = Outputs {
            json: Sink::open(args.json.as_deref())?,
            csv: Sink::open(args.csv.as_deref())?,
            hdr: Sink::open(args.hdr.as_deref())?,
            quiet: args.quiet,
        };
        ensure!(outputs.to_stdout() <= 1, "only one of --json, --csv and --hdr can be `-`");
        Ok(outputs)
    }

    fn to_stdout(&self) -> usize {
        [&self.json, &self.csv, &self.hdr]
            .into_iter()
            .filter(|sink| matches!(sink, Some(Sink::Stdout)))
            .count()
    }

    /// Writes the report to each of them, and the table where there is room for it.
    pub fn write(mut self, report: &Report) -> Result<()> {
        let to_stdout = self.to_stdout() > 0;
        if let Some(sink) = &mut self.json {
            sink.write(format!("{}\n", serde_json::to_string_pretty(report)?).as_bytes())?;
        }
        if let Some(sink) = &mut self.csv {
            sink.write(write_csv(&report.series).as_bytes())?;
        }
        if let Some(sink) = &mut self.hdr {
            let mut log = vec![];
            write_interval_log(report, &mut log)?;
            sink.write(&log)?;
        }
        match (self.quiet, to_stdout) {
            (true, _) => {}
            (false, true) => tell(format_args!("{report}")),
            (false, false) => drop(print(format_args!("{report}"))?),
        }
        Ok(())
    }
}
