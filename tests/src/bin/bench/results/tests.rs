use super::*;

fn entry(kind: Kind, row: &str, round: u64, value: f64) -> Entry {
    let sample = Sample {
        cpu_us: Some(2.0),
        foreign: Some(0.01),
        ..Sample::of(round, value)
    };
    let row = row.to_owned();
    (kind, Found { row, sample })
}

#[test]
fn the_median_is_in_the_middle() {
    let odd = Span::of([3.0, 1.0, 2.0]).expect("three numbers have a middle");
    let even = Span::of([4.0, 1.0, 2.0, 3.0]).expect("four numbers have a middle");

    assert_eq!((odd.median, odd.low, odd.high), (2.0, 1.0, 3.0));
    assert_eq!(even.median, 2.5);
    assert_eq!(Span::of([]), None);
}

#[test]
fn ratios_are_of_single_rounds() {
    // Somebody else's load halves everything in the second round, and more in the third.
    let entries = [
        entry(Kind::Mayfly, "read-d32-eventfd", 0, 300.0),
        entry(Kind::QsdThreads, "read-d32-eventfd", 0, 100.0),
        entry(Kind::Mayfly, "read-d32-eventfd", 1, 150.0),
        entry(Kind::QsdThreads, "read-d32-eventfd", 1, 50.0),
        entry(Kind::Mayfly, "read-d32-eventfd", 2, 30.0),
        entry(Kind::QsdThreads, "read-d32-eventfd", 2, 10.0),
    ];

    let all = outcomes(&entries);

    let ratio = all[0].ratio.expect("both were measured");
    assert_eq!((ratio.low, ratio.median, ratio.high), (3.0, 3.0, 3.0));
}

#[test]
fn we_are_compared_with_the_best_peer() {
    let entries = [
        entry(Kind::Mayfly, "read-d32-eventfd", 0, 300.0),
        entry(Kind::QsdThreads, "read-d32-eventfd", 0, 100.0),
        entry(Kind::QsdUring, "read-d32-eventfd", 0, 200.0),
    ];

    let all = outcomes(&entries);

    assert_eq!(all[0].best_peer.as_deref(), Some("qsd-io_uring"));
    let verdicts: Vec<_> = all[0].verdicts.iter().map(|verdict| verdict.met).collect();
    assert_eq!(
        verdicts,
        [false, false],
        "1.5 times is not twice, 2 µs is more than 1.6: {all:?}"
    );
}

#[test]
fn less_is_better_of_what_is_no_rate() {
    let entries = [
        entry(Kind::Mayfly, "spawn", 0, 6.0),
        entry(Kind::QsdThreads, "spawn", 0, 20.0),
        entry(Kind::QsdUring, "spawn", 0, 10.0),
    ];

    let all = outcomes(&entries);

    assert_eq!(all[0].best_peer.as_deref(), Some("qsd-io_uring"));
    assert!(all[0].verdicts[0].met, "6 ms are less than 7: {all:?}");
}

#[test]
fn encryption_costs_what_is_missing_to_the_rate_without() {
    let entries = [
        entry(Kind::Mayfly, "rewrite-d32-eventfd", 0, 75.0),
        entry(Kind::MayflyPlain, "rewrite-d32-eventfd", 0, 100.0),
        entry(Kind::Mayfly, "read-d32-eventfd", 0, 75.0),
        entry(Kind::MayflyPlain, "read-d32-eventfd", 0, 100.0),
    ];

    let all = outcomes(&entries);

    let cost: Vec<_> = all
        .iter()
        .map(|outcome| outcome.encryption.map(|cost| cost.median))
        .collect();
    assert_eq!(cost, [None, Some(0.25)], "the base is not encrypted");
}

#[test]
fn growth_is_compared_with_the_small_case() {
    let entries = [
        entry(Kind::Mayfly, "grow-1-read", 0, 100.0),
        entry(Kind::Mayfly, "grow-4-read", 0, 89.0),
        entry(Kind::Mayfly, "grow-huge-read", 0, 91.0),
    ];

    let met: Vec<_> = outcomes(&entries)
        .iter()
        .flat_map(|outcome| outcome.verdicts.iter().map(|verdict| verdict.met).collect::<Vec<_>>())
        .collect();

    assert_eq!(met, [false, true]);
}
