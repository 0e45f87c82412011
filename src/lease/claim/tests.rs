use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn both(time: Duration) -> Moment {
    Moment { adjusted: time, raw: time }
}

/// Of a write at the second 1.
fn stamp() -> Stamp {
    static NUMBER: AtomicU64 = AtomicU64::new(100);
    Stamp { time: 1, number: NUMBER.fetch_add(1, Ordering::Relaxed) }
}

fn candidate(name: &str) -> Candidate {
    Candidate { name: name.to_owned(), writer: format!("{name}/1") }
}

/// A record as site-a writes it, with a term of a minute.
fn of_site_a() -> Record {
    let writer = Some("site-a/1".to_owned());
    Record {
        owner: "site-a".to_owned(),
        updated_time: 1,
        writer,
        beat: 7,
        epoch: 3,
        released: false,
        term: seconds(60),
        handover: None,
    }
}

/// The same after a person, or Admiral's checker, has written the whole item.
pub(super) fn written_whole(owner: &str) -> Record {
    let owner = owner.to_owned();
    Record {
        owner,
        updated_time: 2,
        writer: None,
        beat: 0,
        epoch: 0,
        released: false,
        term: Duration::ZERO,
        handover: None,
    }
}

/// A contender with a term of three seconds, which knows of terms up to this.
fn contender(longest: u64) -> Claim {
    let terms = Terms::new(seconds(3), seconds(1), Duration::ZERO).unwrap();
    Claim::new(candidate("site-b"), terms, seconds(longest))
}

#[test]
fn a_holder_is_passive_two_twentieths_before_its_term_ends_and_its_work_has_ended_one_before() {
    let terms = Terms::of(seconds(15), 3).unwrap();
    let holding = terms.holding(1, both(seconds(100)));
    let after = |moment: Moment| moment.raw.checked_sub(seconds(100)).unwrap().as_millis();
    assert_eq!([holding.until, holding.ends, holding.expires].map(after), [40_500, 42_750, 45_000]);
    assert_eq!(terms.grace().as_millis(), 2_250);
    assert!(Terms::of(seconds(15), 1).is_err());
    assert!(Terms::new(seconds(3), seconds(2), seconds(1)).is_err(), "nothing is left");
}

#[test]
fn a_holder_believes_the_clock_that_has_advanced_further_and_a_contender_the_other() {
    let moment = both(seconds(10));
    for (adjusted, raw, may, has) in
        [(9, 9, false, false), (10, 9, true, false), (9, 10, true, false), (10, 10, true, true)]
    {
        let now = Moment { adjusted: seconds(adjusted), raw: seconds(raw) };
        assert_eq!((moment.may_have_come(now), moment.has_come(now)), (may, has), "{now:?}");
    }
    let now = Moment { adjusted: seconds(9), raw: seconds(7) };
    assert_eq!((moment.soonest(now), moment.latest(now)), (seconds(1), seconds(3)));
}

#[test]
fn a_holder_is_active_until_either_clock_shows_the_end_of_its_time() {
    let holding = Terms::new(seconds(60), seconds(3), seconds(3)).unwrap().holding(1, both(seconds(0)));
    for (adjusted, raw, active) in [(53, 53, true), (54, 53, false), (53, 54, false), (54, 54, false)] {
        let now = Moment { adjusted: seconds(adjusted), raw: seconds(raw) };
        assert_eq!(holding.is_active(now), active, "{now:?}");
    }
}

#[test]
fn a_contender_takes_the_lease_only_after_both_clocks_show_that_the_term_is_over() {
    let mut claim = contender(3);
    assert_eq!(claim.saw(Some(of_site_a()), both(seconds(1)), stamp()), None);
    for (adjusted, raw, taken) in [(61, 60, false), (60, 61, false), (61, 61, true)] {
        let now = Moment { adjusted: seconds(adjusted), raw: seconds(raw) };
        let owner = claim.saw(Some(of_site_a()), now, stamp()).map(|write| write.record.owner);
        assert_eq!(owner, taken.then(|| "site-b".to_owned()), "{now:?}");
    }
}

#[test]
fn a_contender_waits_for_the_longest_term_that_may_be_in_force() {
    // What it sees, second by second; the last one has been there since then.
    for (longest, seen, wait) in [
        // The holder's own term counts, also if it is shorter than what others may have.
        (60, vec![Some(of_site_a())], 60),
        (120, vec![Some(of_site_a())], 60),
        (120, vec![Some(Record { term: seconds(2), ..of_site_a() })], 3),
        // The work of the holder continues when its record is overwritten or deleted.
        (3, vec![Some(of_site_a()), Some(written_whole("other"))], 60),
        (3, vec![Some(of_site_a()), Some(written_whole(""))], 60),
        (
            3,
            vec![
                Some(of_site_a()),
                Some(Record { owner: NOBODY_MAY.to_owned(), ..of_site_a() }),
                Some(written_whole("")),
            ],
            60,
        ),
        (3, vec![Some(of_site_a()), Some(Record { epoch: 2, beat: 1, term: seconds(2), ..of_site_a() })], 60),
        // A process that has just started knows only what is configured.
        (90, vec![Some(written_whole("other"))], 90),
        (3, vec![Some(written_whole("other"))], 3),
        // Someone has shortened the term in its record, of which it does not know; and let it grow.
        (60, vec![Some(of_site_a()), Some(Record { term: seconds(3), ..of_site_a() })], 60),
        (60, vec![Some(of_site_a()), Some(Record { beat: 9, term: seconds(3), ..of_site_a() })], 60),
        (60, vec![Some(of_site_a()), Some(Record { term: seconds(70), ..of_site_a() })], 70),
        // A candidate that takes over has waited for the holder before.
        (
            3,
            vec![
                Some(of_site_a()),
                Some(Record {
                    epoch: 4,
                    writer: Some("site-c/1".to_owned()),
                    term: seconds(5),
                    ..of_site_a()
                }),
            ],
            5,
        ),
    ] {
        let mut claim = contender(longest);
        let mut now = 0;
        for record in &seen {
            now += 1;
            claim.saw(record.clone(), both(seconds(now)), stamp());
        }
        assert_eq!(claim.standing(), Standing::Others(both(seconds(now + wait))), "{longest} {seen:?}");
    }
}

#[test]
fn a_record_that_is_missing_is_written_without_an_owner_and_watched_for_the_longest_term() {
    let mut claim = contender(90);
    let write = claim.saw(None, both(seconds(1)), stamp()).unwrap();
    assert_eq!((write.record.owner.as_str(), write.record.term), ("", seconds(90)));
    claim.wrote(both(seconds(2)), None);
    assert_eq!(claim.saw(Some(write.record.clone()), both(seconds(91)), stamp()), None);
    let taken = claim.saw(Some(write.record), both(seconds(92)), stamp()).unwrap();
    assert_eq!(taken.record.owner, "site-b");
}

#[test]
fn a_record_that_only_a_copy_of_this_process_can_have_written_is_anothers() {
    let released = Record { owner: String::new(), released: true, ..of_site_a() };
    let mut claim = contender(3);
    let taken = claim.saw(Some(released), both(seconds(1)), stamp()).unwrap().record;
    claim.wrote(both(seconds(1)), None);
    // Two renewals without an answer, of which the first one comes late.
    let Step::Write(first) = claim.next(both(seconds(2)), stamp()) else { panic!("it is renewed") };
    assert!(claim.saw(Some(taken), both(seconds(2)), stamp()).is_some());
    let next = claim.saw(Some(first.record.clone()), both(seconds(2)), stamp());
    assert!(next.is_some() && claim.holding().is_some(), "it is its own");
    for number in [7, 8] {
        let of_copy = Record { beat: number, ..first.record.clone() };
        assert_eq!(claim.saw(Some(of_copy), both(seconds(number)), stamp()), None);
        assert_eq!(claim.holding(), None);
        assert_eq!(claim.standing(), Standing::Others(both(seconds(number + 3))));
    }
    // It follows its copy, as any other candidate.
    let released = Record {
        owner: String::new(),
        released: true,
        handover: Some(ANY.to_owned()),
        beat: 9,
        ..first.record
    };
    assert!(claim.saw(Some(released), both(seconds(9)), stamp()).is_some());
}

#[test]
fn a_holder_knows_its_record_however_many_writes_have_no_answer() {
    let released = Record { owner: String::new(), released: true, ..of_site_a() };
    let mut claim = contender(3);
    let taken = claim.saw(Some(released), both(seconds(1)), stamp()).unwrap().record;
    claim.wrote(both(seconds(1)), None);
    let mut last = None;
    for _ in 0..2 * KNOWN {
        last = claim.saw(Some(taken.clone()), both(seconds(2)), stamp());
        assert!(last.is_some() && claim.holding().is_some(), "it is its own");
    }
    // The last of them comes after all.
    assert_eq!(claim.saw(last.map(|write| write.record), both(seconds(2)), stamp()), None);
    assert!(claim.holding().is_some() && claim.standing() == Standing::Mine);
}

#[test]
fn a_candidate_that_retires_renews_and_takes_nothing() {
    let mut claim = contender(3);
    let released = Record { owner: String::new(), released: true, ..of_site_a() };
    let write = claim.saw(Some(released.clone()), both(seconds(1)), stamp()).unwrap();
    claim.wrote(both(seconds(1)), None);
    assert!(claim.holding().is_some());
    claim.want(Will::Retire);
    assert!(claim.holding().is_some(), "its work has not ended");
    let Step::Write(renewed) = claim.next(both(seconds(2)), stamp()) else { panic!("it is renewed") };
    assert_eq!(renewed.expected.as_ref(), Some(&write.record));
    claim.wrote(both(seconds(2)), None);
    claim.want(Will::Release);
    assert_eq!((claim.holding(), claim.next(both(seconds(3)), stamp())), (None, Step::Look));
    let release = claim.saw(Some(renewed.record), both(seconds(3)), stamp()).unwrap();
    assert!(release.record.released && release.record.owner.is_empty());
    claim.wrote(both(seconds(3)), None);
    assert_eq!(claim.saw(Some(released), both(seconds(99)), stamp()), None, "it takes nothing");
}

#[test]
fn a_holder_that_is_asked_hands_over_and_others_go_first() {
    let released = |handover: &str| Record {
        owner: String::new(),
        released: true,
        handover: Some(handover.to_owned()),
        ..of_site_a()
    };
    // Whom it is for, and whether site-b takes it at once.
    for (handover, at_once) in [("", true), (ANY, true), ("site-b", true), ("site-c", false)] {
        let mut claim = contender(3);
        assert_eq!(
            claim.saw(Some(released(handover)), both(seconds(1)), stamp()).is_some(),
            at_once,
            "{handover}"
        );
        if !at_once {
            assert_eq!(
                claim.standing(),
                Standing::Others(both(seconds(61))),
                "a term later, if no one has come"
            );
        }
    }
    // The one that released it waits as well.
    let of_this = || {
        let claim = Claim::new(candidate("site-a"), Terms::of(seconds(20), 3).unwrap(), seconds(60));
        Claim { own: vec![of_site_a().beat], ..claim }
    };
    let mut claim = of_this();
    assert_eq!(claim.saw(Some(released(ANY)), both(seconds(1)), stamp()), None);
    // Also if the person has taken the request back meanwhile; not if no one had asked.
    let free = Record { handover: None, ..released("") };
    for asked in [true, false] {
        let mut claim = of_this();
        if asked {
            claim.give_way();
        }
        assert_eq!(claim.saw(Some(free.clone()), both(seconds(1)), stamp()).is_none(), asked);
        assert!(
            !asked || claim.saw(Some(free.clone()), both(seconds(61)), stamp()).is_some(),
            "a term later"
        );
    }

    // That a person asks costs no one the lease by itself.
    let mut holder = contender(3);
    let free = Record { handover: None, ..released("") };
    holder.saw(Some(free), both(seconds(1)), stamp()).unwrap();
    holder.wrote(both(seconds(1)), None);
    assert!(!holder.is_asked());
    let Step::Write(renewed) = holder.next(both(seconds(2)), stamp()) else { panic!("it is renewed") };
    holder.wrote(both(seconds(2)), Some("site-c".to_owned()));
    assert!(holder.is_asked() && holder.holding().is_some());
    let asked = Record { handover: Some("site-c".to_owned()), ..renewed.record };
    assert_eq!(
        holder.saw(Some(asked), both(seconds(3)), stamp()).map(|write| write.record.owner),
        Some("site-b".to_owned())
    );
}

#[test]
fn a_candidate_that_takes_over_from_admirals_checker_hands_over_at_once_only_after_its_first_renewal() {
    for renewals in [0, 1] {
        let mut claim = contender(3);
        let of_checker = written_whole("other");
        claim.saw(Some(of_checker.clone()), both(seconds(1)), stamp());
        let mut now = 4;
        let mut own = claim.saw(Some(of_checker), both(seconds(now)), stamp()).unwrap().record;
        claim.wrote(both(seconds(now)), None);
        for _ in 0..renewals {
            now += 1;
            let Step::Write(renewed) = claim.next(both(seconds(now)), stamp()) else {
                panic!("it is renewed")
            };
            claim.wrote(both(seconds(now)), None);
            own = renewed.record;
        }
        assert_eq!(claim.holding().is_some(), renewals > 0);
        claim.want(Will::Release);
        let left = claim.saw(Some(own), both(seconds(now)), stamp()).unwrap().record;
        assert_eq!((left.owner.as_str(), left.released), ("", renewals > 0), "{renewals}");
        // Another candidate.
        let mut next = Claim::new(candidate("site-c"), Terms::of(seconds(1), 3).unwrap(), seconds(3));
        assert_eq!(next.saw(Some(left.clone()), both(seconds(9)), stamp()).is_some(), renewals > 0);
        assert!(next.saw(Some(left), both(seconds(12)), stamp()).is_some(), "a term later");
    }
}
