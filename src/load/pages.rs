//! Finished measurements as HTML pages: a run, a search, a comparison. Pure.

use hdrhistogram::Histogram;

use super::compare::{Comparison, ComparisonTurn, Difference, Side};
use super::condition::{Metric, ReportMetrics};
use super::histogram::{self, EncodedHistogram, SpectrumPoint};
use super::search::{Found, SearchTrial, TrialOutcome, number, per_second};
use super::{LoadReport, RunVerdict, Second, SetUp};
use crate::report::chart::{At, Axis, Lines, Numbers, Rule, Series, Style};
use crate::report::page::{Page, Section};

/// Colours of what several charts of a page show.
mod colour {
    pub const P50: usize = 0;
    pub const P99: usize = 1;
    pub const P999: usize = 3;
    pub const MAX: usize = 7;
    pub const SENT: usize = 0;
    pub const ANSWERED: usize = 2;
    pub const LOST: usize = 1;
    pub const BUSY: usize = 4;
    pub const REFUSED: usize = 5;
    pub const LATE: usize = 7;
    pub const MET: usize = 2;
    pub const MISSED: usize = 1;
    pub const INVALID: usize = 7;
}

/// The machine and the command of a measurement.
#[derive(Clone, Debug, Default)]
pub struct MachineInfo {
    /// Command line.
    pub command: String,
    /// Release of the kernel.
    pub kernel: String,
    /// CPUs available to the generator.
    pub cpus: usize,
}

/// Page of a run, with or without steps. `judged`: results of conditions. The error is that the report
/// is damaged.
pub fn of_run(report: &LoadReport, judged: &[String], machine: &MachineInfo) -> Result<Page, String> {
    let mut page = Page::new(&format!("Load on {}", report.setup.target), &about(&report.setup));
    let latency = latency_chart("Latency by percentile", &[("from schedule", &report.spectrum)]);
    let uncorrected = spectrum(&report.histograms.latency_uncorrected)?;
    let latency = with_series(latency, line("from sending", &uncorrected));
    let pacing =
        latency_chart("Send lag by percentile", &[("after schedule", &spectrum(&report.histograms.pacing)?)]);
    page = page.section("Result", |section| {
        if let Some(line) = report.interruption() {
            section.result(&line);
        }
        if let Some(line) = &report.aborted {
            section.result(line);
        }
        section.result(&headline(report));
        for remark in &report.remarks {
            section.text(remark);
        }
        for line in judged {
            section.result(line);
        }
        if !report.interrupted && report.verdict() != RunVerdict::Valid {
            section.result(&report.verdict().to_string());
        }
        section.facts(facts(report));
        if let Some(dns) = &report.dns {
            section.text(&format!("Responses {dns}."));
        }
        section.chart(&latency);
        section.text(
            "From schedule: from the moment at which a request should have left, so a stall shows in every \
             request scheduled during \
             it. From sending: from the actual send. Lost requests count with their wait plus the timeout; \
             in conditions they are slower than any limit.",
        );
        percentile_table(report, section);
    });
    if !report.steps.is_empty() {
        page = page.section("Steps", |section| steps(&report.steps, section));
    }
    if report.series.len() > 1 {
        page = page.section("Over time", |section| {
            for chart in over_time(report) {
                section.chart(&chart);
            }
        });
    }
    page = page.section("The generator", |section| {
        section.text(&format!(
            "Time from the scheduled moment to the send of each request; {} of {} left more than {} late.",
            report.counts.late_sends,
            report.counts.sent,
            report.setup.tolerance.late_max_text()
        ));
        section.chart(&pacing);
    });
    Ok(set_up(page, &report.setup, machine))
}

/// Page of a search for the highest rate that meets an SLO.
pub fn of_search(found: &Found, machine: &MachineInfo) -> Result<Page, String> {
    let setup = found.trials.first().map(|trial| trial.report.setup.clone()).unwrap_or_default();
    let setup = SetUp { rate: String::new(), ..setup }; // each trial has its own rate
    let mut charts = vec![];
    for condition in found.plan.slo.each() {
        let limit = Rule { label: condition.to_string(), at: At::Y(condition.limit.value()) };
        charts.push(trials_chart(found, condition.metric, limit)?);
    }
    // The trials at the found rate that met the SLO, merged: the others would show what the result is not.
    let at_found: Vec<&SearchTrial> =
        found.trials.iter().filter(|trial| Some(trial.rate) == found.rate).collect();
    let met: Vec<&LoadReport> = at_found
        .iter()
        .filter(|trial| trial.outcome == TrialOutcome::Met)
        .map(|trial| &trial.report)
        .collect();
    let curve = summed(met.iter().copied())?;
    let page =
        Page::new(&format!("Capacity of {}", setup.target), &about(&setup)).section("Result", |section| {
            section.result(&found.to_string());
            for chart in &charts {
                section.chart(chart);
            }
            if let Some(rate) = found.rate {
                let name = format!("at {}", per_second(rate));
                section.chart(&latency_chart(
                    "Latency at the found rate",
                    &[(&name, &histogram::spectrum(&curve))],
                ));
                section.text(&format!(
                    "The curve is that of the {} trials at this rate that met the SLO, of {}.",
                    met.len(),
                    at_found.len()
                ));
            }
        });
    let page = page.section("Trials", |section| {
        section.text(
            "The search doubled or halved the rate until one met the SLO and a higher one did not. Then it \
             halved that interval. The majority of a rate's trials decides. The interval uses further trials \
             around the limit: it contains the limit in 95 % of all searches, if a higher rate is never \
             easier (sign test).",
        );
        let rows = found.trials.iter().enumerate().map(|(index, trial)| {
            vec![
                (index + 1).to_string(),
                per_second(trial.rate),
                outcome(trial).to_owned(),
                per_second(trial.report.goodput),
                trial.measured.clone(),
            ]
        });
        section.table(&["trial", "rate", "", "goodput", "measured"], rows);
    });
    Ok(set_up(page, &setup, machine))
}

/// Page of a comparison of two targets.
pub fn of_comparison(compared: &Comparison, machine: &MachineInfo) -> Result<Page, String> {
    let turns = |side: Side| compared.turns.iter().filter(move |turn| turn.side == side);
    let of = |side: Side| turns(side).map(|turn| &turn.report);
    let kept = |side: Side| turns(side).filter(|turn| !turn.left_out).map(|turn| &turn.report);
    let setup = of(Side::A).next().map(|report| report.setup.clone()).unwrap_or_default();
    let b = of(Side::B).next().map(|report| report.setup.target.clone()).unwrap_or_default();
    let spectra = [summed(kept(Side::A))?, summed(kept(Side::B))?].map(|sum| histogram::spectrum(&sum));
    let latency = latency_chart(
        "Latency by percentile, all pairs that count",
        &[("A", &spectra[0]), ("B", &spectra[1])],
    );
    let ratios = ratio_chart(compared)?;
    let page = Page::new(&format!("B ({b}) relative to A ({})", setup.target), &about(&setup));
    let page = page.section("Result", |section| {
        for figure in &compared.figures {
            section.result(&figure.to_string());
        }
        for judged in &compared.judged {
            section.result(&judged.to_string());
        }
        let row = |figure: &Difference| {
            vec![
                figure.metric.clone(),
                figure.write(figure.a),
                figure.write(figure.b),
                figure.write_interval(),
            ]
        };
        section.table(&["", "A", "B", "B relative to A"], compared.figures.iter().map(row));
        section.chart(&latency);
        section.chart(&ratios);
        section.text(&format!(
            "Turns alternate, A B B A, so that a drift of the machine affects both alike. Each of the {} \
             pairs gives a ratio. Shown are the median and the interval that contains the true median with \
             the given confidence. {} pairs were left out and replaced.",
            compared.pairs, compared.pairs_unfit
        ));
    });
    let rows = pair_rows(compared);
    let page = page.section("Pairs", |section| {
        section.table(&["pair", "first", "A: p50", "p99", "lost", "B: p50", "p99", "lost", "counts"], rows);
    });
    Ok(set_up(page, &setup, machine))
}

fn about(setup: &SetUp) -> String {
    let load = match (setup.rate.as_str(), setup.window) {
        ("", Some(window)) => format!("{window} requests in flight"),
        ("", None) => setup.arrivals.clone(),
        (rate, _) => format!("{rate} requests/s, {}", setup.arrivals),
    };
    format!("{load}; {} clients, {} protocol; loadgen {}", setup.clients, setup.protocol, setup.version)
}

fn headline(report: &LoadReport) -> String {
    let share = |part: u64| Numbers::Percent.write(part as f64 / report.counts.sent.max(1) as f64);
    let of_time = |us: u64| Numbers::Micros.write(us as f64);
    format!(
        "{} sent in {} s, {} lost: half within {}, 99 % within {}, 99.9 % within {}",
        number(report.counts.sent as f64),
        number(report.duration_s),
        share(report.counts.lost),
        of_time(report.latency_us.p50),
        of_time(report.latency_us.p99),
        of_time(report.latency_us.p999),
    )
}

fn facts(report: &LoadReport) -> Vec<(&'static str, String)> {
    let wanted = report.rate_wanted.map_or(String::new(), |wanted| format!(" of {}", per_second(wanted)));
    let counted = |n: u64| number(n as f64);
    vec![
        ("sent", format!("{}{wanted}", per_second(report.rate))),
        ("goodput", per_second(report.goodput)),
        ("answered", counted(report.counts.answered)),
        ("lost", counted(report.counts.lost)),
        ("busy", counted(report.counts.busy)),
        ("refused", counted(report.counts.refused)),
        ("left late", counted(report.counts.late_sends)),
    ]
}

fn percentile_table(report: &LoadReport, section: &mut Section) {
    let rows = report.latency_us.rows().into_iter().zip(report.latency_uncorrected_us.rows());
    let write = |us: u64| Numbers::Micros.write(us as f64);
    let rows = rows.zip(report.pacing_us.rows()).map(|(((name, plan), (_, sending)), (_, pacing))| {
        vec![name.to_owned(), write(plan), write(sending), write(pacing)]
    });
    section.table(&["", "from schedule", "from sending", "send lag"], rows);
}

fn steps(steps: &[LoadReport], section: &mut Section) {
    let of = |name: &str, colour: usize, figure: fn(&LoadReport) -> u64| Series {
        name: name.to_owned(),
        colour: Some(colour),
        points: steps
            .iter()
            .map(|step| (step.rate_wanted.unwrap_or(step.rate), figure(step) as f64))
            .collect(),
        style: Style::Marked,
        ..Series::default()
    };
    section.chart(&Lines {
        title: "Latency by rate".to_owned(),
        x: Axis::linear("requests per second").from(0.0),
        y: Axis::log("latency").numbers(Numbers::Micros),
        series: vec![
            of("p50", colour::P50, |step| step.latency_us.p50),
            of("p99", colour::P99, |step| step.latency_us.p99),
            of("p99.9", colour::P999, |step| step.latency_us.p999),
        ],
        rules: vec![],
    });
    let rows = steps.iter().map(|step| {
        let time = |us: u64| Numbers::Micros.write(us as f64);
        let count = |n: u64| number(n as f64);
        let kept = if step.verdict() == RunVerdict::Valid { "yes" } else { "no" };
        vec![
            step.rate_wanted.map_or(String::new(), per_second),
            per_second(step.rate),
            per_second(step.goodput),
            count(step.counts.answered),
            count(step.counts.busy + step.counts.refused),
            count(step.counts.lost),
            time(step.latency_us.p50),
            time(step.latency_us.p99),
            time(step.latency_us.p999),
            kept.to_owned(),
        ]
    });
    let head = [
        "target rate",
        "sent",
        "goodput",
        "answered",
        "busy, refused",
        "lost",
        "p50",
        "p99",
        "p99.9",
        "schedule kept",
    ];
    section.table(&head, rows);
}

/// Charts of latency, rate and errors by second.
fn over_time(report: &LoadReport) -> [Lines; 3] {
    let x = || Axis::linear("seconds").from(0.0).to(report.duration_s.max(1.0));
    let of = |name: &str, colour: usize, style: Style, figure: &dyn Fn(&Second) -> f64| Series {
        name: name.to_owned(),
        colour: Some(colour),
        points: report.series.iter().map(|second| (second.at_s as f64, figure(second))).collect(),
        style,
        ..Series::default()
    };
    // The last second may be incomplete.
    let length = |second: &Second| (report.duration_s - second.at_s as f64).clamp(0.001, 1.0);
    let per_second = |count: fn(&Second) -> u64| move |second: &Second| count(second) as f64 / length(second);
    // A second without a latency has no answered request.
    let time = |us: u64| if us == 0 { f64::NAN } else { us as f64 };
    let latency = Lines {
        title: "Latency by scheduled second".to_owned(),
        x: x(),
        y: Axis::log("latency").numbers(Numbers::Micros),
        series: vec![
            of("p50", colour::P50, Style::Line, &|second| time(second.latency_us_p50)),
            of("p99", colour::P99, Style::Line, &|second| time(second.latency_us_p99)),
            of("max", colour::MAX, Style::Line, &|second| time(second.latency_us_max)),
        ],
        rules: vec![],
    };
    let rate = Lines {
        title: "Requests per second".to_owned(),
        x: x(),
        y: Axis::linear("per second").from(0.0),
        series: vec![
            of("sent", colour::SENT, Style::Line, &per_second(|second| second.counts.sent)),
            of("answered", colour::ANSWERED, Style::Line, &per_second(|second| second.counts.answered)),
        ],
        rules: vec![],
    };
    let errors = Lines {
        title: "Errors and late sends, per second".to_owned(),
        x: x(),
        y: Axis::linear("per second").from(0.0),
        series: vec![
            of("lost", colour::LOST, Style::Steps, &per_second(|second| second.counts.lost)),
            of("busy", colour::BUSY, Style::Steps, &per_second(|second| second.counts.busy)),
            of("refused", colour::REFUSED, Style::Steps, &per_second(|second| second.counts.refused)),
            of("left late", colour::LATE, Style::Steps, &per_second(|second| second.counts.late_sends)),
        ],
        rules: vec![],
    };
    [latency, rate, errors]
}

fn latency_chart(title: &str, spectra: &[(&str, &[SpectrumPoint])]) -> Lines {
    Lines {
        title: title.to_owned(),
        x: Axis::percentile("share of requests").from(0.0),
        y: Axis::log("within").numbers(Numbers::Micros),
        series: spectra.iter().map(|(name, points)| line(name, points)).collect(),
        rules: vec![],
    }
}

fn with_series(chart: Lines, series: Series) -> Lines {
    Lines { series: chart.series.into_iter().chain([series]).collect(), ..chart }
}

fn line(name: &str, spectrum: &[SpectrumPoint]) -> Series {
    let points = spectrum.iter().map(|point| (point.quantile, point.us)).collect();
    Series { name: name.to_owned(), points, ..Series::default() }
}

fn spectrum(encoded: &EncodedHistogram) -> Result<Vec<SpectrumPoint>, String> {
    Ok(histogram::spectrum(&encoded.decode()?))
}

/// The merged latencies of several runs.
fn summed<'a>(reports: impl Iterator<Item = &'a LoadReport>) -> Result<Histogram<u64>, String> {
    let mut sum = EncodedHistogram::default().decode()?;
    for report in reports {
        histogram::add(&mut sum, &report.histograms.latency.decode()?);
    }
    Ok(sum)
}

fn outcome(trial: &SearchTrial) -> &'static str {
    match trial.outcome {
        TrialOutcome::Met => "met",
        TrialOutcome::Missed => "missed",
        TrialOutcome::Unfit => "generator too slow",
    }
}

/// Chart of one SLO metric in all trials, with its limit and the found rate.
fn trials_chart(found: &Found, metric: Metric, limit: Rule) -> Result<Lines, String> {
    let mut series = vec![];
    for (name, colour, wanted) in [
        ("met", colour::MET, TrialOutcome::Met),
        ("missed", colour::MISSED, TrialOutcome::Missed),
        ("generator too slow", colour::INVALID, TrialOutcome::Unfit),
    ] {
        let mut points = vec![];
        for trial in found.trials.iter().filter(|trial| trial.outcome == wanted) {
            let value = ReportMetrics::of(&trial.report)?.shown(metric);
            points.push((trial.rate, value.unwrap_or(f64::NAN)));
        }
        if !points.is_empty() {
            let marks = Series { name: name.to_owned(), points, style: Style::Marks, ..Series::default() };
            series.push(marks.coloured(colour));
        }
    }
    let y = match metric.numbers() {
        Numbers::Micros => Axis::log(&metric.to_string()),
        _ => Axis::linear(&metric.to_string()).from(0.0),
    };
    let found = found.rate.map(|rate| Rule { label: per_second(rate), at: At::X(rate) });
    Ok(Lines {
        title: format!("{metric} of each trial"),
        x: Axis::log("requests per second"),
        y: y.numbers(metric.numbers()),
        series,
        rules: [limit].into_iter().chain(found).collect(),
    })
}

/// A row for each pair, those that were left out too.
fn pair_rows(compared: &Comparison) -> Vec<Vec<String>> {
    let row = |(index, pair): (usize, &[ComparisonTurn])| {
        let mut row = vec![(index + 1).to_string()];
        row.push(if pair[0].side == Side::A { "A" } else { "B" }.to_owned());
        for side in [Side::A, Side::B] {
            for turn in pair.iter().filter(|turn| turn.side == side) {
                let LoadReport { latency_us, counts, .. } = &turn.report;
                row.extend([latency_us.p50, latency_us.p99].map(|us| Numbers::Micros.write(us as f64)));
                row.push(number(counts.lost as f64));
            }
        }
        let why = pair.iter().map(|turn| turn.report.verdict()).find(|verdict| *verdict != RunVerdict::Valid);
        row.push(why.map_or("yes".to_owned(), |verdict| format!("left out: {verdict}")));
        row
    };
    compared.turns.chunks_exact(2).enumerate().map(row).collect()
}

/// Chart of the ratios of B to A by pair.
fn ratio_chart(compared: &Comparison) -> Result<Lines, String> {
    let mut series = vec![];
    let mut left_out = vec![];
    for (percent, colour) in [(50.0, colour::P50), (99.0, colour::P99), (99.9, colour::P999)] {
        let metric = Metric::Percentile(percent);
        let mut points = vec![];
        for (index, pair) in compared.turns.chunks_exact(2).enumerate() {
            let value = |side: Side| {
                let turn =
                    pair.iter().find(|turn| turn.side == side).map(|turn| ReportMetrics::of(&turn.report));
                Ok::<_, String>(
                    turn.transpose()?.and_then(|figures| figures.shown(metric)).unwrap_or(f64::NAN),
                )
            };
            let point = ((index + 1) as f64, value(Side::B)? / value(Side::A)?);
            if pair[0].left_out { left_out.push(point) } else { points.push(point) }
        }
        let line = Series { name: metric.to_string(), points, style: Style::Marked, ..Series::default() };
        series.push(line.coloured(colour));
    }
    if !left_out.is_empty() {
        let name = "left out".to_owned();
        let marks = Series { name, points: left_out, style: Style::Marks, ..Series::default() };
        series.push(marks.coloured(colour::INVALID));
    }
    Ok(Lines {
        title: "B / A by pair".to_owned(),
        x: Axis::linear("pair").from(0.0),
        y: Axis::linear("ratio"),
        series,
        rules: vec![Rule { label: "no difference".to_owned(), at: At::Y(1.0) }],
    })
}

fn set_up(page: Page, setup: &SetUp, machine: &MachineInfo) -> Page {
    let seconds = |s: f64| format!("{} s", number(s));
    let facts = [
        ("loadgen", setup.version.clone()),
        ("target", setup.target.clone()),
        ("protocol", setup.protocol.clone()),
        ("arrivals", setup.arrivals.clone()),
        ("rate", setup.rate.clone()),
        ("window", setup.window.map_or(String::new(), |window| window.to_string())),
        ("clients", setup.clients.to_string()),
        ("from", setup.bind.clone()),
        ("threads", setup.threads.to_string()),
        ("payload", format!("{} bytes", setup.payload)),
        ("timeout", seconds(setup.timeout_s)),
        ("warm-up", seconds(setup.warmup_s)),
        ("I/O", setup.io.clone()),
        ("seed", setup.seed.to_string()),
        ("begun", humantime::format_rfc3339_seconds(time_of(setup.started_at_s)).to_string()),
        ("kernel", machine.kernel.clone()),
        ("CPUs", machine.cpus.to_string()),
    ];
    page.section("Set-up", |section| {
        section.code(&machine.command);
        section.facts(facts.into_iter().filter(|(_, value)| !value.is_empty()));
    })
}

fn time_of(seconds: f64) -> std::time::SystemTime {
    let since = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default();
    // The latest year that the format of the date can show.
    std::time::UNIX_EPOCH + since.min(std::time::Duration::from_secs(253_402_300_799))
}

#[cfg(test)]
mod tests;
