use super::*;

fn named(axis: &Axis, values: &[f64]) -> (f64, f64, Vec<String>) {
    let fitted = axis.fit(values.iter().copied());
    let labels = fitted.ticks.into_iter().map(|tick| tick.label).filter(|label| !label.is_empty());
    (fitted.low, fitted.high, labels.collect())
}

fn words(text: &str) -> Vec<String> {
    text.split(", ").map(str::to_owned).collect()
}

#[test]
fn an_even_axis_has_round_marks_around_the_values() {
    let axis = Axis::linear("x");
    assert_eq!(named(&axis, &[0.0, 9.3]), (0.0, 10.0, words("0, 2, 4, 6, 8, 10")));
    assert_eq!(named(&axis, &[0.5, 0.95]), (0.5, 1.0, words("0.5, 0.6, 0.7, 0.8, 0.9, 1")));
    assert_eq!(named(&axis, &[-3.0, 41.0]).0, -10.0);
    assert_eq!(
        named(&axis.clone().from(0.0), &[70e3, 90e3]),
        (0.0, 100e3, words("0, 20k, 40k, 60k, 80k, 100k"))
    );
    let kept = axis.clone().from(0.0).to(12.0);
    assert_eq!(named(&kept, &[3.0]), (0.0, 12.0, words("0, 5, 10")), "a given end is kept");
    assert_eq!(named(&kept, &[3.0, 14.0]).1, 15.0, "if the values do not go beyond it");
    assert_eq!(named(&axis, &[5.0]), (5.0, 6.0, words("5, 6")), "one value is a range too");
    assert_eq!(named(&axis, &[f64::NAN]), (0.0, 1.0, words("0, 0.2, 0.4, 0.6, 0.8, 1")), "and so is none");
}

#[test]
fn a_logarithmic_axis_names_decades_and_in_a_short_range_what_is_between() {
    let axis = Axis::log("x").numbers(Numbers::Micros);
    let long = named(&axis, &[3.0, 40e6, 0.0, -1.0]);
    assert_eq!(long, (2.0, 50e6, words("10 us, 100 us, 1 ms, 10 ms, 100 ms, 1 s, 10 s")));
    assert_eq!(named(&axis, &[300.0, 4e3]), (200.0, 5e3, words("200 us, 500 us, 1 ms, 2 ms, 5 ms")));
    let one = named(&axis, &[1000.0]);
    assert!(one.0 <= 1000.0 && one.1 > 1000.0 && one.2.len() >= 2, "{one:?}");
}

#[test]
fn a_percentile_axis_gives_each_nine_the_same_room() {
    let axis = Axis::percentile("x");
    assert_eq!(named(&axis, &[0.0, 0.9995]).2, words("0 %, 50 %, 75 %, 90 %, 99 %, 99.9 %"));
    let fitted = axis.fit([0.0, 0.9999].into_iter());
    let place = |value| fitted.place(value).unwrap();
    assert!((place(0.99) - place(0.9) - 0.25).abs() < 1e-9 && (place(0.999) - 0.75).abs() < 1e-9);
    assert_eq!(fitted.place(1.0), None);
}

#[test]
fn numbers_are_short_and_have_their_unit() {
    let cases = [
        (Numbers::Plain, 0.0, "0"),
        (Numbers::Plain, 0.930_001, "0.93"),
        (Numbers::Plain, 1_500.0, "1500"),
        (Numbers::Plain, 1_234_600.0, "1.235M"),
        (Numbers::Plain, -20_000.0, "-20k"),
        (Numbers::Micros, 999.0, "999 us"),
        (Numbers::Micros, 1_500.0, "1.5 ms"),
        (Numbers::Micros, 2e6, "2 s"),
        (Numbers::Percent, 0.001, "0.1 %"),
        (Numbers::Percent, 0.999_99, "99.999 %"),
        (Numbers::Micros, 1_000_341.0, "1 s"),
    ];
    for (numbers, value, text) in cases {
        assert_eq!(numbers.write(value), text);
    }
}

/// A chart with every element.
fn full() -> Lines {
    let marked = Series {
        name: "<A> & \"B\"".to_owned(),
        points: vec![(1.0, 10.0), (10.0, 100.0), (f64::NAN, 3.0)],
        band: vec![(1.0, 5.0, 20.0), (10.0, 50.0, 200.0)],
        style: Style::Marked,
        colour: Some(5),
    };
    let stepped = Series {
        name: "steps".to_owned(),
        points: vec![(2.0, 20.0), (5.0, 0.0)],
        style: Style::Steps,
        ..Series::default()
    };
    Lines {
        title: "a < b".to_owned(),
        x: Axis::log("rate"),
        y: Axis::log("latency").numbers(Numbers::Micros),
        series: vec![marked, stepped],
        rules: vec![
            Rule { label: "limit".to_owned(), at: At::Y(1000.0) },
            Rule { label: "found".to_owned(), at: At::X(100.0) },
        ],
    }
}

#[test]
fn a_chart_shows_everything_and_no_text_becomes_an_element() {
    let svg = lines(&full());
    assert!(svg.starts_with("<svg class=\"chart\"") && svg.ends_with("</svg>"));
    for part in [
        "aria-label=\"a &lt; b\"",
        ">&lt;A&gt; &amp; &quot;B&quot;</text>",
        "<title>&lt;A&gt; &amp; &quot;B&quot;: 10, 100 us</title>",
        ">limit</text>",
        ">found</text>",
        "class=\"band\"",
        ">1 ms</text>",
        "<g class=\"s s1\">",
        "<g class=\"s s5\">",
        "<g class=\"key s s5\">",
    ] {
        assert!(svg.contains(part), "{part} in {svg}");
    }
    assert_eq!(svg.matches("class=\"mark\"").count(), 3, "two points, and one in the legend");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    assert!(!svg.contains("<style") && file(&full()).contains("prefers-color-scheme"));
}

#[test]
fn the_limits_of_the_data_are_the_frame() {
    // x from 1 to 100 (the rule), y from 5 us to 1 ms: the first point is on the left edge.
    let svg = lines(&full());
    assert!(svg.contains("<circle class=\"mark\" cx=\"70.0\""), "{svg}");
    assert!(svg.contains("<circle class=\"mark\" cx=\"386.0\""), "half of the way: {svg}");
}

#[test]
fn an_empty_chart_is_a_chart() {
    let empty = Lines {
        title: String::new(),
        x: Axis::linear("x"),
        y: Axis::log("y"),
        series: vec![],
        rules: vec![],
    };
    assert!(lines(&empty).contains("class=\"frame\""));
}

#[test]
fn a_long_legend_takes_more_rows_and_stays_inside() {
    let series = (0..9).map(|n| Series { name: format!("a rather long name {n}"), ..Series::default() });
    let svg = lines(&Lines { series: series.collect(), ..full() });
    let names = svg.split("<text class=\"name\" ").skip(1);
    let places: Vec<(f64, f64)> = names
        .map(|text| {
            let number =
                |key: &str| text.split(key).nth(1).unwrap().split('"').next().unwrap().parse().unwrap();
            (number("x=\""), number("y=\""))
        })
        .collect();
    assert_eq!(places.len(), 9);
    assert!(places.iter().all(|(x, _)| (70.0..560.0).contains(x)), "{places:?}");
    assert!(places[8].1 > places[0].1);
}

proptest::proptest! {
    #[test]
    fn all_values_lie_on_their_axis(
        values in proptest::collection::vec(proptest::num::f64::NORMAL, 1..20),
        scale in proptest::sample::select(vec![Scale::Linear, Scale::Log, Scale::Percentile]),
    ) {
        // Values of measurements: huge and tiny, but within the range of a sum of two.
        let values: Vec<f64> = values.into_iter().map(|v| v % 1e12).filter(|v| v.abs() > 1e-12).collect();
        let fitted = Axis { scale, ..Axis::default() }.fit(values.iter().copied());
        proptest::prop_assert!(fitted.low < fitted.high);
        proptest::prop_assert!(fitted.ticks.len() <= 400);
        for value in values {
            if let Some(place) = fitted.place(value) {
                proptest::prop_assert!((-1e-6..=1.0 + 1e-6).contains(&place), "{value} at {place}");
            }
        }
    }

    #[test]
    fn no_text_escapes(text in "\\PC*|[<>&\"'\u{0}-\u{20}]*") {
        let safe = escape(&text);
        proptest::prop_assert!(!safe.contains(['<', '>', '"', '\'', '\u{0}', '\u{8}']), "{safe}");
    }
}
