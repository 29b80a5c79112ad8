//! The comparison as charts and as an HTML page.

use lbd::lab::{Compared, EXACT, InCase, Interval, Overload, Survival};
use lbd::report::chart::{At, Axis, Lines, Numbers, Rule, Series, Style};
use lbd::report::page::Page;

use super::args::{Shown, SimArgs};
use super::plan::{Along, StudyPlan};
use super::{table, words};

impl Shown {
    const ALL: [Shown; 6] =
        [Shown::P99, Shown::P999, Shown::P50, Shown::Longest, Shown::Regret, Shown::Error];

    fn label(self) -> &'static str {
        match self {
            Shown::P50 => "p50, relative to one queue",
            Shown::P99 => "p99, relative to one queue",
            Shown::P999 => "p99.9, relative to one queue",
            Shown::Longest => "longest queue",
            Shown::Regret => "regret, requests",
            Shown::Error => "error, requests",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Shown::P50 => "Median response time",
            Shown::P99 => "99th percentile of the response time",
            Shown::P999 => "99.9th percentile of the response time",
            Shown::Longest => "Longest queue of any server",
            Shown::Regret => "Mean regret of a selection",
            Shown::Error => "Mean error of the queue estimate",
        }
    }

    /// The metric's value with its interval.
    fn of(self, row: &Compared) -> (f64, Option<(f64, f64)>) {
        let ratio = |n: usize| (row.ratios[n].median, row.intervals.ratios[n]);
        let (value, interval) = match self {
            Shown::P50 => ratio(0),
            Shown::P99 => ratio(1),
            Shown::P999 => ratio(2),
            Shown::Longest => (row.figures.queue_max.into(), None),
            Shown::Regret => (row.figures.regret, row.intervals.regret),
            Shown::Error => (row.figures.error, row.intervals.error),
        };
        (value, interval.map(|Interval { low, high }| (low, high)))
    }

    /// Regret and estimate error need an estimate that may be wrong; the exact policy has none.
    fn is_of(self, row: &Compared) -> bool {
        row.name != EXACT || !matches!(self, Shown::Regret | Shown::Error)
    }
}

/// A chart of one metric for all policies along the axis.
pub fn chart(shown: Shown, along: &Along, cases: &[InCase]) -> Lines {
    let rows = |case: &InCase, n: usize| case.compared[n].clone();
    let names = cases.first().map_or(&[][..], |case| &case.compared).iter().enumerate();
    let line = |(n, row): (usize, &Compared)| {
        let at = along.values.iter().map(|(x, _)| *x).zip(cases);
        let at: Vec<_> = at.map(|(x, case)| (x, shown.of(&rows(case, n)))).collect();
        let band = at.iter().filter_map(|(x, (_, ends))| ends.map(|(least, most)| (*x, least, most)));
        Series {
            name: row.name.clone(),
            points: at.iter().map(|(x, (y, _))| (*x, *y)).collect(),
            band: band.collect(),
            style: Style::Marked,
            colour: Some(n),
        }
    };
    let values = || {
        cases.iter().flat_map(|case| &case.compared).filter(|row| shown.is_of(row)).map(|row| shown.of(row).0)
    };
    let (least, most) = values().fold((f64::MAX, 0.0_f64), |(least, most), y| (least.min(y), most.max(y)));
    let is_wide = most > 8.0 * least.max(0.01) && least > 0.0;
    let y = if is_wide { Axis::log(shown.label()) } else { Axis::linear(shown.label()) };
    let is_ratio = matches!(shown, Shown::P50 | Shown::P99 | Shown::P999);
    Lines {
        title: shown.title().to_owned(),
        x: along.axis.clone(),
        y: if is_ratio {
            y.from(1.0)
        } else if is_wide {
            y
        } else {
            y.from(0.0)
        },
        series: names.filter(|(_, row)| shown.is_of(row)).map(line).collect(),
        rules: vec![],
    }
}

/// The HTML page.
pub fn page(args: &SimArgs, plan: &StudyPlan, cases: &[InCase]) -> String {
    let about = "Real balancer and server code in virtual time, with the same requests for all policies.";
    let mut page = Page::new("Policies compared", about).section("What was simulated", |section| {
        section.facts(words::of_plan(plan));
        section.text(
            "Response times count from the arrival at a balancer. The reference is one queue for all \
             servers on the same \
             requests, without a network: first come, first served, by the fastest free server. \"exact\" \
             selects the \
             shortest queue with exact knowledge, without a network.",
        );
    });
    if cases.len() > 1 {
        page = page.section(&format!("By {}", plan.along.name), |section| {
            Shown::ALL.iter().for_each(|&shown| section.chart(&chart(shown, &plan.along, cases)));
        });
    }
    for (case, (_, value)) in cases.iter().zip(&plan.along.values) {
        page = page.section(&format!("{} {value}", plan.along.name), |section| {
            section.text(&table::heading(case));
            let (head, rows) = table::cells(case);
            section.table(&head, rows);
            section.text(table::LEGEND);
        });
    }
    page.section("Repeat this run", |section| section.code(&args.command)).to_html()
}

/// Chart of responses over time for all policies.
pub fn overload_chart(overload: &Overload, survivals: &[Survival]) -> Lines {
    let slice = Overload::SLICE.as_secs_f64();
    let line = |survival: &Survival| {
        let points = survival.goodput.iter().enumerate();
        Series {
            name: survival.name.clone(),
            points: points.map(|(n, y)| (n as f64 * slice * 1e6, *y)).collect(),
            style: Style::Steps,
            ..Series::default()
        }
    };
    let at = |after: std::time::Duration, label: &str| Rule {
        label: label.to_owned(),
        at: At::X((Overload::BEFORE + after).as_secs_f64() * 1e6),
    };
    Lines {
        title: format!(
            "Responses over time, with an overload of {} times the total capacity",
            overload.factor
        ),
        x: Axis::linear("time").numbers(Numbers::Micros),
        y: Axis::linear("share of the total capacity").from(0.0).to(1.2),
        series: survivals.iter().map(line).collect(),
        rules: vec![at(std::time::Duration::ZERO, "overload"), at(overload.lasts, "end of overload")],
    }
}

/// The HTML page of an overload.
pub fn overload_page(
    args: &SimArgs,
    plan: &StudyPlan,
    overload: &Overload,
    survivals: &[Survival],
) -> String {
    Page::new("Overload", "Real balancer, server and client code, with retries, in virtual time.")
        .section("What was simulated", |section| section.facts(words::of_plan(plan)))
        .section("Responses", |section| {
            section.chart(&overload_chart(overload, survivals));
            let (head, rows) = table::survival_cells(survivals);
            section.table(&head, rows);
        })
        .section("Repeat this run", |section| section.code(&args.command))
        .to_html()
}
