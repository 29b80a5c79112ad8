use proptest::prelude::*;

use super::*;
use crate::load::fixtures;

fn parse(text: &str) -> Conditions {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// Whether the conditions hold for a report.
fn hold(text: &str, report: &LoadReport) -> bool {
    parse(text).hold(&ReportMetrics::of(report).unwrap())
}

#[test]
fn every_metric_has_its_figure() {
    // 1 to 1000 us.
    let mut report = fixtures::report(2_000.0, &(1..=1_000).collect::<Vec<_>>(), 0);
    (report.counts.lost, report.goodput) = (10, 1_600.0);
    (report.counts.busy, report.counts.refused, report.counts.late_sends, report.counts.sent) =
        (40, 200, 8, 1_240);
    for (text, wanted) in [
        ("p50", 500.0),
        ("p95", 950.0),
        ("p99", 990.0),
        ("p98.9", 989.0),
        ("loss", 10.0 / 1_240.0),
        ("busy", 40.0 / 1_240.0),
        ("refused", 200.0 / 1_240.0),
        ("errors", 250.0 / 1_240.0),
        ("late", 8.0 / 1_240.0),
        ("rate", 2_000.0),
        ("goodput", 1_600.0),
        ("pacing", 10.0),
    ] {
        let found = ReportMetrics::of(&report).unwrap().get(Metric::parse(text).unwrap()).unwrap();
        assert!((found / wanted - 1.0).abs() < 2e-3, "{text}: {found} instead of {wanted}");
    }
}

#[test]
fn a_lost_request_is_slower_than_any_limit() {
    // Of 1,000 the last ten were lost after their timeout of 1 s; an answer came after a wait of 3 s.
    let answered: Vec<u64> = (1..=989).chain([3_000_000]).collect();
    let report = fixtures::report(2_000.0, &answered, 10);
    for (text, wanted) in [
        ("p98.9<1ms", true),
        ("p99<3.01s,p99>2.99s", true),
        ("p99.1>3600s", true),
        ("p99.1<3600s", false),
        ("p99.1<=9999999s", false),
        ("max>3600s", true),
        ("max<=3600s", false),
        ("mean>=3600s", true),
        ("mean<3600s", false),
    ] {
        assert_eq!(hold(text, &report), wanted, "{text}");
    }
    let figures = ReportMetrics::of(&report).unwrap();
    assert_eq!(parse("p50<1s,p99.9<1s").measured(&figures), "p50 500.2 us, p99.9 lost");
    let shown = figures.shown(Metric::Percentile(99.9)).unwrap();
    assert!((shown / 1e6 - 1.0).abs() < 1e-3, "{shown}: on a chart it has a place");
    // A report of an older version does not say which latencies are those of lost requests.
    let mut old = report.clone();
    old.histograms.lost = Default::default();
    assert!(hold("p99.1>3600s", &old) && hold("p50<1ms", &old));
    // In the smallest run too.
    let one = fixtures::report(1.0, &[], 1);
    assert!(hold("p1>3600s", &one) && !hold("p99<3600s", &one));
    assert!(ReportMetrics::of(&one).unwrap().median_answered().is_none());
}

#[test]
fn a_limit_that_the_histogram_cannot_tell_from_the_value_is_neither_below_nor_above() {
    let report = fixtures::report(1.0, &[1_000_000], 0);
    for (text, wanted) in
        [("p99>1s", false), ("p99<1s", false), ("p99>=1s", true), ("p99<=1s", true), ("max>1s", false)]
    {
        assert_eq!(hold(text, &report), wanted, "{text}");
    }
    assert!(hold("p99>998ms", &report) && hold("p99<1002ms", &report));
}

#[test]
fn a_percentile_is_that_request_and_not_the_next() {
    // 999 of 1000 are at most 999 us.
    let report = fixtures::report(1.0, &(1..=999).chain([50_000]).collect::<Vec<_>>(), 0);
    assert!(hold("p99.9<1ms", &report) && hold("p99.91>1ms", &report));
}

#[test]
fn limits_are_compared_as_their_signs_say() {
    let report = fixtures::report(1000.0, &[100; 98], 2); // 2 % lost
    for (text, wanted) in [
        ("loss<2%", false),
        ("loss<=2%", true),
        ("loss>2%", false),
        ("loss>=2%", true),
        ("loss<2.1%", true),
        ("loss>1.9%", true),
        ("loss>0", true),
        ("busy>0", false),
        ("busy<=0", true),
        ("rate>=1000", true),
        ("p50<0.2ms", true),
        ("p50<99us", false),
        ("p50<0.001s", true),
        ("p50<1ms,loss<1%", false),
        ("p50<1ms,loss<3%", true),
        (" p50 < 1 ms , loss < 3 % ", true),
    ] {
        assert_eq!(hold(text, &report), wanted, "{text}");
    }
}

#[test]
fn rcodes_are_shares_of_the_requests() {
    let mut report = fixtures::report(100.0, &[100; 80], 20);
    assert!(!hold("servfail>=0", &report), "no DNS");
    let mut counts = crate::load::DnsCounts::default();
    (0..10).for_each(|n| counts.add(2, n < 3, false));
    (0..5).for_each(|_| counts.add(5, false, false));
    counts.add(0, false, true);
    report.dns = Some(counts.into());
    for text in
        ["servfail>9.9%,servfail<=10%", "rcode5<=5%,rcode5>4%", "truncated>2%", "empty<=1%", "rcode9<=0"]
    {
        assert!(hold(text, &report), "{text}");
    }
    assert_eq!(parse("rcode2>1%").to_string(), "servfail>1%");
    assert!("rcode16>1%".parse::<Conditions>().is_err());
}

#[test]
fn what_was_not_measured_holds_in_neither_way() {
    let nothing = LoadReport { rate: 1.0, ..LoadReport::default() };
    for text in ["p99<1s", "p99>=0", "max<1s", "mean>=0", "loss<=0", "loss>=0", "pacing<1s"] {
        assert!(!hold(text, &nothing), "{text}");
    }
    let figures = ReportMetrics::of(&nothing).unwrap();
    assert_eq!(parse("p99<1ms,rate>0").measured(&figures), "p99 not measured, rate 1");
}

#[test]
fn the_loss_that_conditions_allow_is_that_of_the_strictest() {
    for (text, allowed) in [
        ("p99<1s", 0.01),
        ("p50<5ms,loss<30%", 0.3),
        ("p75<5ms,errors<=30%", 0.25),
        ("max<1s", 0.0),
        ("late<5%,rate<9", 1.0),
        ("loss>20%", 1.0),
    ] {
        assert!((parse(text).loss_allowed() - allowed).abs() < 1e-9, "{text}");
    }
}

#[test]
fn measured_values_are_told_with_their_units() {
    let report = fixtures::report(20_000.0, &[1_500; 995], 5);
    let figures = ReportMetrics::of(&report).unwrap();
    let text = parse("p99<2ms,loss<1%,rate>1").measured(&figures);
    assert_eq!(text, "p99 1.5 ms, loss 0.5 %, rate 20k");
}

#[test]
fn mistakes_are_named_with_their_place_and_an_example() {
    for (text, named) in [
        ("", "character 1: the metric is missing"),
        ("p99<2ms,", "character 9: the metric is missing"),
        ("<2ms", "character 1: the metric is missing"),
        (
            "p99<2ms, lost<1%",
            "character 10: unknown metric `lost`; use p50, p99, p99.9 (any below p100), max, mean, loss,",
        ),
        ("p100<1ms", "character 1: unknown metric `p100`"),
        ("p0<1ms", "character 1: unknown metric `p0`"),
        ("p-1<1ms", "character 1: unknown metric `p-1`"),
        ("p1e1<1ms", "character 1: unknown metric `p1e1`"),
        ("p99", "character 4: `p99` needs <, <=, > or >= and a limit"),
        ("p99=2ms", "character 4: unknown operator `=`; use <, <=, > or >="),
        ("p99<>2ms", "character 4: unknown operator `<>`"),
        ("p99<", "character 5: `` is no limit"),
        ("p99<-2ms", "character 5: `-2ms` is no limit"),
        ("p99<1.ms", "character 5: `1.ms` is no limit"),
        ("p99<2 mz", "character 7: unknown unit `mz`; use us, ms, s or %"),
        ("µ<2ms,p99<2mz", "character 1: unknown metric `µ`"),
        ("p99<2", "character 6: `p99` is a time; its unit is us, ms or s"),
        ("p99<2%", "character 6: `p99` is a time"),
        ("loss<0.1", "character 9: `loss` is a share; its unit is %"),
        ("loss<5ms", "`loss` is a share"),
        ("rate<5%", "`rate` is in requests per second; write it without a unit"),
    ] {
        let error = text.parse::<Conditions>().unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{text}`, character ")), "{error}");
        assert!(error.contains(named), "{named} in {error}");
        assert!(error.ends_with("(example: p99<2ms,loss<0.1%)"), "{error}");
    }
}

#[test]
fn conditions_on_two_targets_name_both() {
    for (text, side, factor, limit) in [
        ("p50 B > 1.05 A", Side::B, 1.05, 0.0),
        ("p99 A<=B", Side::A, 1.0, 0.0),
        ("loss B > A + 0.1%", Side::B, 1.0, 0.001),
        ("p99 B>2*A+1ms", Side::B, 2.0, 1e3),
        ("p99 B > 5 ms", Side::B, 0.0, 5e3),
    ] {
        let conditions = parse(text);
        let condition = conditions.each()[0];
        assert_eq!(condition.of, Some(Comparand { side, factor }), "{text}");
        assert!((condition.limit.value() - limit).abs() < 1e-9, "{text}");
        assert!(conditions.compare() && !conditions.are_of_one());
        // It says nothing about a single run.
        assert!(!hold(text, &fixtures::report(1.0, &[1_000_000], 0)), "{text}");
    }
    assert_eq!(parse("p50 B > 1.05 A,p99 B>A + 1ms").to_string(), "p50 B>1.05 A,p99 B>A+1ms");
    for (text, named) in [
        ("p50 > 1.05 A", "needs the other target on the left, as in 'p99 B > 1.05 A'"),
        ("p50 A > 1.05 A", "needs the other target on the left"),
        ("p50 B > x A", "`x` is no factor"),
        ("p50 B > 0 A", "`0` is no factor"),
        ("p50 B > A 5ms", "`5ms` after A; write + and a limit, or nothing"),
        ("p50 B > A + 5", "`p50` is a time"),
        ("p50 C > 5ms", "unknown metric `p50 C`"),
    ] {
        let error = text.parse::<Conditions>().unwrap_err().to_string();
        assert!(error.contains(named), "{text}: {error}");
    }
}

#[test]
fn it_is_text_in_json() {
    let conditions = parse("p99.9<=2.5ms,loss<0.1%");
    let json = serde_json::to_string(&conditions).unwrap();
    assert_eq!(json, r#""p99.9<=2.5ms,loss<0.1%""#);
    assert_eq!(serde_json::from_str::<Conditions>(&json).unwrap(), conditions);
    assert!(serde_json::from_str::<Conditions>(r#""p99""#).is_err());
}

fn any_condition() -> impl Strategy<Value = Condition> {
    let percent = (1u32..1_000_000).prop_map(|n| Metric::Percentile(f64::from(n) / 10_000.0));
    let named = proptest::sample::select(NAMED.to_vec()).prop_map(|(_, metric)| metric);
    let metric = prop_oneof![percent, named];
    let operator = proptest::sample::select(OPERATORS.to_vec()).prop_map(|(_, operator)| operator);
    let side = proptest::sample::select(vec![Side::A, Side::B]);
    let factor = prop_oneof![Just(0.0), Just(1.0), 0.01f64..100.0];
    let of = proptest::option::of((side, factor).prop_map(|(side, factor)| Comparand { side, factor }));
    (metric, of, operator, 0f64..1e12, 0usize..3).prop_map(|(metric, of, operator, number, unit)| {
        let unit = match metric.numbers() {
            Numbers::Micros => [Unit::Us, Unit::Ms, Unit::S][unit],
            Numbers::Percent => Unit::Percent,
            Numbers::Plain => Unit::None,
        };
        Condition { metric, of, operator, limit: ConditionLimit { number, unit } }
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(conditions in proptest::collection::vec(any_condition(), 1..5)) {
        let conditions = Conditions(conditions);
        prop_assert_eq!(conditions.to_string().parse::<Conditions>().unwrap(), conditions);
    }

    #[test]
    fn any_text_is_read_or_refused_at_a_place_in_it(
        text in "(p[0-9.]{0,4}|loss|rate)?[<>= ]{0,3}[0-9.]{0,3} ?[msu%µ,]{0,3}\\PC{0,3}",
    ) {
        match text.parse::<Conditions>() {
            Ok(read) => prop_assert_eq!(read.to_string().parse::<Conditions>().unwrap(), read),
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.at), "{}", error),
        }
    }

    #[test]
    fn a_limit_divides_all_values(us in 1u64..1_000_000, limit in 1u64..1_000_000) {
        let report = fixtures::report(1.0, &[us], 0);
        let figures = ReportMetrics::of(&report).unwrap();
        let holds = |sign: &str| parse(&format!("max{sign}{limit}us")).hold(&figures);
        let is_near = us.abs_diff(limit) * 1_000 <= limit;
        prop_assert!(is_near || holds("<") == (us < limit));
        prop_assert!(is_near || holds(">") == (us > limit));
        prop_assert!(us != limit || !holds("<") && !holds(">"));
        prop_assert_eq!(holds("<="), !holds(">"));
        prop_assert_eq!(holds(">="), !holds("<"));
    }
}
