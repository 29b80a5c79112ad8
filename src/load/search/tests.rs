use proptest::prelude::*;

use super::*;
use crate::base::rng::Rng;
use crate::load::{Counts, fixtures};

fn plan(start: f64) -> SearchPlan {
    SearchPlan {
        slo: "p99<2ms,loss<0.1%".parse().unwrap(),
        start,
        lowest: start / 1024.0,
        highest: 1e8,
        repeats: 3,
        precision: 0.02,
        trials_max: 100,
    }
}

/// Runs a search whose trials have these outcomes. No load is sent, so the search is quick.
fn search(plan: SearchPlan, mut trial: impl FnMut(f64) -> TrialOutcome) -> Found {
    let mut search = CapacitySearch::new(plan).unwrap();
    while let Some(rate) = search.next() {
        let outcome = trial(rate);
        search.trials.push(SearchTrial {
            rate,
            outcome,
            measured: String::new(),
            report: LoadReport::default(),
        });
    }
    search.finish()
}

fn met_if(is_met: bool) -> TrialOutcome {
    if is_met { TrialOutcome::Met } else { TrialOutcome::Missed }
}

/// A system with a sharp limit.
fn sharp(limit: f64) -> impl FnMut(f64) -> TrialOutcome {
    move |rate| met_if(rate <= limit)
}

/// A system whose trials meet the SLO half of the time at its limit. `spread` is the relative width in
/// which that share changes from 12 % to 88 %.
fn noisy(limit: f64, spread: f64, seed: u64) -> impl FnMut(f64) -> TrialOutcome {
    let mut rng = Rng::new(seed);
    move |rate| {
        let chance = 1.0 / (1.0 + ((rate / limit).ln() / spread * 4.0).exp());
        met_if(rng.unit_f64() < chance)
    }
}

#[test]
fn a_sharp_limit_is_found_to_the_precision_from_any_start() {
    for start in [100.0, 12_345.0, 1_000_000.0] {
        let found = search(plan(start), sharp(12_345.0));
        let (rate, missed) = (found.rate.unwrap(), found.missed_at.unwrap());
        assert_eq!(found.end, SearchEnd::Found);
        assert!(rate <= 12_345.0 && 12_345.0 < missed && missed / rate <= 1.02, "{rate} {missed}");
        assert_eq!((found.low, found.high), (Some(rate), Some(missed)), "six of six at either side");
        assert!(found.trials.len() <= 45, "{} trials from {start}", found.trials.len());
        let last: Vec<f64> = found.trials[found.trials.len() - 6..].iter().map(|t| t.rate).collect();
        assert!(last.iter().all(|r| *r == rate || *r == missed), "{last:?}");
    }
}

#[test]
fn it_goes_up_by_doubling_and_never_beyond_the_first_rate_that_fails() {
    let found = search(plan(1_000.0), sharp(5_000.0));
    let rates: Vec<f64> = found.trials.iter().map(|trial| trial.rate).collect();
    assert_eq!(rates[..8], [1e3, 1e3, 2e3, 2e3, 4e3, 4e3, 8e3, 8e3], "two of three decide");
    assert!(rates[8..].iter().all(|rate| (4e3..8e3).contains(rate)), "{rates:?}");
}

#[test]
fn the_ends_of_what_is_allowed_are_said_to_be_bounds() {
    let limited = SearchPlan { highest: 5_000.0, ..plan(1_000.0) };
    let found = search(limited, sharp(1e6));
    assert_eq!(
        (found.end, found.rate, found.low, found.high),
        (SearchEnd::Highest, Some(5e3), Some(5e3), None)
    );
    let text = found.to_string();
    assert!(
        text.starts_with(
            "the highest rate that meets p99<2ms,loss<0.1% is at least 5,000/s (5,000.. at 95 %"
        )
    );
    assert!(text.ends_with("no higher rate was allowed"), "{text}");

    let limited = SearchPlan { lowest: 400.0, ..plan(1_000.0) };
    let found = search(limited, sharp(10.0));
    assert_eq!((found.end, found.rate, found.low, found.high), (SearchEnd::Lowest, None, None, Some(400.0)));
    assert_eq!(
        found.to_string(),
        format!("not even 400/s meets p99<2ms,loss<0.1% ({} trials)", found.trials.len())
    );
}

#[test]
fn a_generator_that_cannot_keep_up_gives_a_lower_bound() {
    let found =
        search(plan(1_000.0), |rate| if rate <= 3_000.0 { TrialOutcome::Met } else { TrialOutcome::Unfit });
    assert_eq!(found.end, SearchEnd::Generator);
    let (rate, beyond) = (found.rate.unwrap(), found.missed_at.unwrap());
    assert!((2_900.0..=3_000.0).contains(&rate) && beyond > 3_000.0, "{rate} {beyond}");
    assert_eq!((found.low, found.high), (Some(rate), None), "nothing is known of the target above");
    let text = found.to_string();
    assert!(text.contains("is at least") && text.contains("this generator could not keep up"), "{text}");
    assert_eq!(found.trials.iter().filter(|trial| trial.rate == beyond).count(), 6, "that is made sure of");
}

#[test]
fn a_generator_that_cannot_keep_up_even_at_the_first_rate_ends_it() {
    let found = search(plan(1_000.0), |_| TrialOutcome::Unfit);
    assert_eq!((found.end, found.rate, found.trials.len()), (SearchEnd::Generator, None, 6));
    assert_eq!(
        found.to_string(),
        "no rate met p99<2ms,loss<0.1% (6 trials, too few for an interval): at 1,000/s this generator could \
         not keep up; give it more CPU or threads, or start with a lower --rate"
    );
}

#[test]
fn a_machine_that_disturbs_a_quarter_of_the_trials_only_makes_it_longer() {
    let (mut off, mut trials) = (0, vec![]);
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let found = search(plan(1_000.0), |rate| match rng.below(4) {
            0 => TrialOutcome::Unfit,
            _ => met_if(rate <= 7_000.0),
        });
        off +=
            u32::from(found.end != SearchEnd::Found || !(6_800.0..=7_000.0).contains(&found.rate.unwrap()));
        trials.push(found.trials.len());
    }
    trials.sort_unstable();
    // Six unfit trials at one rate before two others look like the generator's own limit.
    assert!(off <= 6, "{off} of 200");
    assert!(trials[100] <= 55 && trials[190] <= 85, "{} and {} trials", trials[100], trials[190]);
}

#[test]
fn a_limit_of_the_target_below_that_of_the_generator_is_found() {
    let mut target = sharp(2_500.0);
    let found =
        search(plan(1_000.0), |rate| if rate <= 3_900.0 { target(rate) } else { TrialOutcome::Unfit });
    assert_eq!(found.end, SearchEnd::Found);
    assert!((2_450.0..=2_500.0).contains(&found.rate.unwrap()), "{found}");
}

#[test]
fn reports_are_judged_by_the_slo_and_first_by_whether_the_generator_kept_up() {
    let mut search = CapacitySearch::new(plan(1_000.0)).unwrap();
    for (report, outcome, measured) in [
        (fixtures::report(1e3, &[300; 100], 0), TrialOutcome::Met, "p99 300 us, loss 0 %"),
        (fixtures::report(1e3, &[90_000; 100], 0), TrialOutcome::Missed, "p99 90.05 ms, loss 0 %"),
        (fixtures::report(1e3, &[300; 999], 1), TrialOutcome::Missed, "p99 300 us, loss 0.1 %"),
        (fixtures::report(1e3, &[], 100), TrialOutcome::Missed, "p99 lost, loss 100 %"),
        (
            LoadReport {
                counts: Counts { busy: 9, sent: 9, planned: 9, ..Counts::default() },
                ..LoadReport::default()
            },
            TrialOutcome::Missed,
            "p99 not measured, loss 0 %",
        ),
        // Late, but within the SLO; without the delay it would have met the SLO too.
        (fixtures::late(fixtures::report(1e3, &[300; 100], 0)), TrialOutcome::Met, "p99 300 us, loss 0 %"),
        (fixtures::late(fixtures::report(1e3, &[3_000; 100], 0)), TrialOutcome::Unfit, "p99 3 ms, loss 0 %"),
        (
            {
                let mut report = fixtures::report(1e3, &[300; 100], 0);
                report.counts.planned = 200;
                report
            },
            TrialOutcome::Unfit,
            "p99 300 us, loss 0 %",
        ),
    ] {
        let trial = search.record(1e3, report).unwrap();
        assert_eq!((trial.outcome, trial.measured.as_str()), (outcome, measured));
    }
    assert_eq!(search.trials.len(), 8);
}

#[test]
fn one_disturbed_trial_in_ten_does_not_mislead() {
    let mut off = 0;
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let found = search(plan(1_000.0), |rate| met_if(rate <= 7_000.0 && rng.below(10) > 0));
        off += u32::from(!(6_800.0..=7_000.0).contains(&found.rate.unwrap_or(0.0)));
    }
    // With one trial per rate instead of three, it is 91.
    assert!(off <= 20, "{off} of 200");
}

#[test]
fn a_noisy_limit_is_inside_the_interval_as_often_as_that_says() {
    for (spread, error_max, width_max, trials_max) in
        [(0.02, 0.02, 0.08, 45), (0.1, 0.03, 0.2, 65), (0.4, 0.08, 0.6, 90)]
    {
        let (mut held, mut errors, mut widths, mut trials) = (0, vec![], vec![], vec![]);
        for seed in 0..300 {
            let found = search(plan(1_000.0), noisy(20_000.0, spread, seed));
            let (low, high) = (found.low.unwrap(), found.high.unwrap());
            held += u32::from((low..=high).contains(&20_000.0));
            errors.push((found.rate.unwrap() / 20_000.0).ln().abs());
            widths.push((high / low).ln());
            trials.push(found.trials.len());
        }
        errors.sort_unstable_by(f64::total_cmp);
        widths.sort_unstable_by(f64::total_cmp);
        trials.sort_unstable();
        let (error, width, long) = (errors[150], widths[150], trials[285]);
        assert!(held >= 279, "spread {spread}: {held} of 300 intervals hold the limit");
        assert!(error <= error_max, "spread {spread}: half of the errors are above {error}");
        assert!(width <= width_max, "spread {spread}: half of the intervals are wider than {width}");
        assert!(long <= trials_max, "spread {spread}: one search in twenty takes {long} trials");
    }
}

#[test]
fn it_never_takes_more_trials_than_allowed_and_says_that_it_was_stopped() {
    let found = search(SearchPlan { trials_max: 9, ..plan(1_000.0) }, sharp(5_000.0));
    assert_eq!((found.trials.len(), found.end, found.rate), (9, SearchEnd::Stopped, Some(4_000.0)));
    assert!(found.to_string().ends_with(": the search was stopped early"), "{found}");
}

#[test]
fn an_slo_that_is_easier_at_a_higher_rate_is_refused() {
    for slo in ["p99>2ms", "p99<2ms,rate>=5"] {
        let error = CapacitySearch::new(SearchPlan { slo: slo.parse().unwrap(), ..plan(1.0) }).unwrap_err();
        assert!(error.contains("use < or <= in an SLO"), "{error}");
    }
}

#[test]
fn shares_that_rise_with_the_rate_are_pooled() {
    let level = |rate: f64, met: usize, missed: usize| RateLevel { rate, met, missed, unfit: 0 };
    let search = CapacitySearch::new(plan(1.0)).unwrap();
    let rates = |levels: &[RateLevel]| {
        let (met, missed) = search.boundary(levels);
        (met.map(|level| level.rate), missed.map(|level| level.rate))
    };
    let at = |low: f64, high: f64| (Some(low), Some(high));
    assert_eq!(rates(&[level(1.0, 2, 0), level(2.0, 0, 2)]), at(1.0, 2.0));
    // 1 of 3, then 6 of 6: together 7 of 9, so the lower rate was disturbed.
    assert_eq!(
        rates(&[level(1.0, 2, 0), level(2.0, 1, 2), level(3.0, 6, 0), level(4.0, 0, 2)]),
        at(3.0, 4.0)
    );
    // 0 of 6, then 2 of 3: together 2 of 9, so the higher rate met it at random.
    assert_eq!(
        rates(&[level(1.0, 2, 0), level(2.0, 0, 6), level(3.0, 2, 1), level(4.0, 0, 2)]),
        at(1.0, 2.0)
    );
    assert_eq!(rates(&[level(1.0, 0, 2)]), (None, Some(1.0)));
    assert_eq!(rates(&[]), (None, None));
}

#[test]
fn numbers_are_grouped() {
    for (value, text) in [
        (0.5, "0.5"),
        (12.34, "12.3"),
        (100.0, "100"),
        (12_345.6, "12,346"),
        (1e6, "1,000,000"),
        (999.9, "1,000"),
    ] {
        assert_eq!(number(value), text);
    }
}

#[test]
fn it_comes_back_from_json() {
    let found = search(plan(1_000.0), sharp(1_500.0));
    let json = serde_json::to_string(&found).unwrap();
    assert!(json.contains(r#""end":"found""#) && json.contains(r#""outcome":"met""#));
    assert_eq!(serde_json::from_str::<Found>(&json).unwrap(), found);
}

proptest! {
    /// For any outcomes, the search ends, stays within its limits, and its result fits its trials.
    #[test]
    fn any_outcomes_come_to_an_end_that_fits_them(
        outcomes in proptest::collection::vec(0u8..4, 60),
        repeats in 1usize..6,
        precision in 0.001f64..0.5,
        start in 0.0f64..=1.0,
        trials_max in 1usize..80,
    ) {
        let (lowest, highest) = (50.0f64, 80_000.0f64);
        let start = (lowest * (highest / lowest).powf(start)).clamp(lowest, highest);
        let plan = SearchPlan { start, lowest, highest, repeats, precision, trials_max, ..plan(start) };
        let mut at = 0;
        let found = search(plan, |_| {
            at += 1;
            match outcomes[at % outcomes.len()] {
                0 => TrialOutcome::Unfit,
                outcome => met_if(outcome > 1),
            }
        });
        prop_assert!(found.trials.len() <= trials_max);
        for trial in &found.trials {
            prop_assert!((lowest..=highest).contains(&trial.rate));
        }
        if let (Some(rate), Some(missed)) = (found.rate, found.missed_at) {
            prop_assert!(rate < missed);
            prop_assert!(found.end != SearchEnd::Found || missed / rate <= 1.0 + precision);
        }
        if let Some(rate) = found.rate {
            prop_assert!(found.trials.iter().any(|t| t.rate == rate && t.outcome == TrialOutcome::Met)
                || found.trials.iter().any(|t| t.rate > rate && t.outcome == TrialOutcome::Met));
            prop_assert!(found.low.is_none_or(|low| low <= rate));
            prop_assert!(found.high.is_none_or(|high| rate <= high));
        }
        prop_assert!(found.to_string().contains("p99<2ms"));
    }

    #[test]
    fn the_next_rate_is_between(low in 0.01f64..1e7, ratio in 1.0001f64..1e3) {
        let middle = between(low, low * ratio);
        prop_assert!(low < middle && middle < low * ratio);
    }
}
