use super::*;

const LOCKED: &str = "/locked";

fn at(text: &str) -> DateTime<Utc> {
    format!("2026-01-05T{text}Z").parse().unwrap()
}

fn tags(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn read(of: &[(&str, &str)], path: &str, version: i64) -> Record {
    Record::read(&tags(of), path, version, LOCKED, Utc::now()).unwrap()
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let lock = Lock {
        version: Some(8),
        found: false,
        undone: false,
        on: None,
        at: at("10:02:11"),
        alarm: Some(at("10:02:07.490")),
        of: Some("site=a b".to_owned()),
        before: Before::Path("/health/v2?deep=1&x=a+b%20c".to_owned()),
        by: "shop by=night".to_owned(),
    };
    let restore = Restore {
        version: 9,
        seen: at("11:30:02.120"),
        done: None,
        to: "/health/v2".to_owned(),
        over: None,
        by: String::new(),
        lapsed: true,
    };
    let found = Lock { found: true, ..lock.clone() };
    let waits = Lock { version: None, on: Some(7), ..lock.clone() };
    for lock in [lock.clone(), found, waits.clone(), Lock { undone: true, ..waits }] {
        let record = read(&[(OUT, &lock.tag()), (IN, &restore.tag())], LOCKED, 8);
        assert_eq!((record.lock, record.restore), (Some(lock), Some(restore.clone())));
    }
    // In the place of the lock's tag it keeps what a set-back by hand is told by.
    let alone = Restore { over: Some((8, lock.alarm)), ..restore };
    let record = read(&[(IN, &alone.tag())], LOCKED, 8);
    let replaced = record.lock.unwrap();
    assert_eq!((replaced.version, replaced.alarm), (Some(8), lock.alarm));
    assert_eq!(replaced.before, Before::Path("/health/v2".to_owned()));
    assert_eq!(record.restore, Some(alone.clone()));
    // In that of a lock that waits, which it undoes once it took place.
    let alone = Restore { over: Some((WAITS, lock.alarm)), lapsed: false, seen: Utc::now(), ..alone };
    for (version, intent) in [(8, Intent::Out), (9, Intent::In)] {
        let record = read(&[(IN, &alone.tag())], "/health/v2", version);
        assert_eq!(record.intent("/health/v2", version), intent, "{version}");
        let replaced = record.lock.unwrap();
        assert_eq!((replaced.version, replaced.on, replaced.alarm), (None, Some(8), lock.alarm));
    }
}

#[test]
fn a_tag_has_only_characters_and_lengths_that_route_53_takes() {
    let path = format!("/{}", "é?".repeat(60));
    for before in [Before::Path(path), Before::Path(format!("/{}", "a".repeat(254))), Before::Unknown] {
        let long = matches!(before, Before::Path(_));
        let by = "alarm «ü» (night)\n".repeat(30);
        let (version, of) = (Some(1), None);
        let lock = Lock {
            version,
            found: true,
            undone: false,
            on: None,
            at: at("10:00:00"),
            alarm: Some(at("10:00:00")),
            of,
            before,
            by,
        };
        let tag = lock.tag();
        assert!(tag.chars().count() <= LONGEST, "{tag}");
        assert!(tag.chars().all(|c| c.is_alphanumeric() || " _.:/=+-@".contains(c)), "{tag}");
        let read = Fields { key: OUT, text: &tag, now: Utc::now() }.lock().unwrap();
        assert_eq!(read.before == Before::TooLong, long, "{tag}");
    }
}

#[test]
fn what_set_a_lock_is_read_back_beside_the_longest_path_and_owner() {
    let (start, now) = (at("10:00:00"), Utc::now());
    for (by, of) in [
        ("by hand: fire", None),
        ("by hand: fire", Some("failover=".to_owned() + &"u".repeat(141))),
        ("found on the locked path", None),
        ("found on the locked path: primary-unhealthy", Some("k".repeat(150))),
        ("primary-unhealthy", Some("k".repeat(150))),
    ] {
        for length in 1..=254 {
            let path = format!("/{}", "a".repeat(length - 1));
            let (before, by, alarm) = (Before::Path(path.clone()), by.to_owned(), Some(start));
            let lock = Lock {
                version: Some(8),
                found: false,
                undone: false,
                on: None,
                at: start,
                alarm,
                of: of.clone(),
                before,
                by,
            };
            let tag = lock.tag();
            let read = Fields { key: OUT, text: &tag, now }.lock().unwrap();
            assert!(tag.len() <= LONGEST && read.of == of, "{tag}");
            assert_eq!(
                (is_by_hand(&read.by), is_found(&read.by)),
                (is_by_hand(&lock.by), is_found(&lock.by)),
                "{tag}"
            );
            assert!(read.before == Before::Path(path.clone()) || read.before == Before::TooLong, "{tag}");
            let short = length <= if of.is_some() { 4 } else { 150 };
            assert!(!short || read.before == Before::Path(path), "{tag}");
        }
    }
}

#[test]
fn letters_and_numbers_of_any_script_stay_in_a_tag_and_what_is_neither_does_not() {
    // Vowel signs of Hindi and Thai, a circled letter and a combining accent are alphabetic, or look so.
    for (given, written) in [
        ("同步 abgeschlossen ж ½", "同步 abgeschlossen ж ½"),
        ("सिंक हो", "स__क ह_"),
        ("กิ Ⓐ e\u{301}", "ก_ _ e_"),
        ("℘ ℮", "_ _"),
    ] {
        assert_eq!(fields::with_reason(String::new(), given).trim_start(), format!("by={written}"));
    }
}

#[test]
fn a_tag_that_no_function_writes_is_an_error() {
    for text in ["", "v=1", "v=x at=2026-01-05T10:00:00Z", "v=1 at=yesterday", "v=1 at=2999-01-05T10:00:00Z"]
    {
        let error = Record::read(&tags(&[(OUT, text)]), "/", 1, LOCKED, Utc::now()).unwrap_err();
        assert!(error.to_string().contains(OUT), "{error}");
    }
    assert!(Record::read(&tags(&[(RESTORED_AT, "soon")]), "/", 1, LOCKED, Utc::now()).is_err());
}

#[test]
fn the_former_record_is_read_and_a_restore_by_hand_counts() {
    let locked = [(LOCKED_AT, "2026-01-05T10:00:00Z"), (ALARM_CHANGED_AT, "2026-01-05T09:59:00.5Z")];
    assert_eq!(read(&locked, LOCKED, 5).intent(LOCKED, 5), Intent::Out);
    assert_eq!(read(&locked, "/", 5).intent("/", 5), Intent::Out, "undone by hand");
    let later = [&locked[..], &[(RESTORED_AT, "2026-01-05T11:00:00Z")]].concat();
    assert_eq!(read(&later, "/", 5).intent("/", 5), Intent::In);
    let earlier = [&locked[..], &[(RESTORED_AT, "2026-01-05T09:00:00Z")]].concat();
    assert_eq!(read(&earlier, "/", 5).intent("/", 5), Intent::Out);
    let newer = [(IN, "v=4 seen=2026-01-05T09:00:00Z done=2026-01-05T09:00:01Z to=/"), locked[0], locked[1]];
    assert_eq!(read(&newer, LOCKED, 5).intent(LOCKED, 5), Intent::Out, "locked by a former version since");
    assert_eq!(read(&newer, "/", 6).intent("/", 6), Intent::Out, "and undone");
    let by_hand = [(OUT, "v=5 at=2026-01-05T10:00:00Z"), (RESTORED_AT, "2026-01-05T11:00:00Z")];
    for (now, intent) in [(at("11:35:00"), Intent::In), (at("11:35:01"), Intent::Out)] {
        let read = Record::read(&tags(&by_hand), "/", 6, LOCKED, now).unwrap();
        assert_eq!(read.intent("/", 6), intent, "{now}");
    }
    let waits = read(&by_hand, LOCKED, 5);
    assert_eq!((waits.intent(LOCKED, 5), waits.by_hand), (Intent::Out, Some(at("11:00:00"))));
    for (since, stays) in [(None, true), (Some(at("10:59:59")), true), (Some(at("11:00:00")), false)] {
        let removed = removed(Some(&waits), since, None);
        assert_eq!(!removed.contains(&RESTORED_AT.to_owned()), stays, "{since:?}");
    }
}

#[test]
fn a_restore_counts_once_it_took_place() {
    let now = at("11:04:59");
    let begun = tags(&[(OUT, "v=8 at=2026-01-05T10:00:00Z"), (IN, "v=9 seen=2026-01-05T11:00:00Z to=/")]);
    for (path, version, intent) in [
        (LOCKED, 8, Intent::Out),
        ("/", 9, Intent::In),
        // Another writer made version 9, or changed the path later: no one knows that it was restored.
        (LOCKED, 9, Intent::Out),
        ("/", 10, Intent::Out),
    ] {
        let record = Record::read(&begun, path, version, LOCKED, now).unwrap();
        assert_eq!(record.intent(path, version), intent, "{path} {version}");
    }
    // Much later another writer has made its version.
    let later = Record::read(&begun, "/", 9, LOCKED, at("11:05:01")).unwrap();
    assert_eq!(later.intent("/", 9), Intent::Out);
    let done = "v=9 seen=2026-01-05T11:00:00Z done=2026-01-05T11:00:01Z to=/";
    for (lock, intent) in [("v=8", Intent::In), ("v=10", Intent::Out), ("v=0", Intent::In)] {
        let lock = format!("{lock} at=2026-01-05T10:00:00Z");
        let record = read(&[(OUT, &lock), (IN, done)], "/", 11);
        assert_eq!(record.intent("/", 11), intent, "{lock}");
    }
}

#[test]
fn a_restore_undoes_a_lock_that_waits_if_it_came_later_whatever_the_clocks_say() {
    let waits = "v=0 at=2026-01-05T10:01:00Z on=7 alarm=2026-01-05T10:00:00Z";
    for (lock, restore, intent) in [
        // By a clock that is behind the one that recorded the lock.
        (waits, "v=8 seen=2026-01-05T10:00:30Z done=2026-01-05T10:00:31Z to=/", Intent::In),
        (waits, "v=9 seen=2026-01-05T10:02:00Z done=2026-01-05T10:02:01Z to=/", Intent::In),
        // It was decided on what this restore had made.
        (waits, "v=7 seen=2026-01-05T10:02:00Z done=2026-01-05T10:02:01Z to=/", Intent::Out),
        // Its alarm is newer than what the restore saw, or may be.
        (waits, "v=8 seen=2026-01-05T09:59:30Z done=2026-01-05T10:02:01Z to=/", Intent::Out),
        (waits, "v=8 seen=2026-01-05T10:00:00.900Z done=2026-01-05T10:02:01Z to=/", Intent::Out),
        // Of an earlier version of this program: by the clocks.
        (
            "v=0 at=2026-01-05T10:01:00Z",
            "v=8 seen=2026-01-05T10:01:00Z done=2026-01-05T10:01:01Z to=/",
            Intent::In,
        ),
        (
            "v=0 at=2026-01-05T10:01:00Z",
            "v=8 seen=2026-01-05T10:00:59Z done=2026-01-05T10:01:01Z to=/",
            Intent::Out,
        ),
    ] {
        let record = read(&[(OUT, lock), (IN, restore)], "/", 9);
        assert_eq!(record.intent("/", 9), intent, "{lock} {restore}");
    }
    let error = Record::read(&tags(&[(OUT, "v=0 on=x at=2026-01-05T10:01:00Z")]), "/", 9, LOCKED, Utc::now());
    assert!(error.is_err());
}

#[test]
fn the_cause_of_a_lock_is_the_alarm_that_would_be_recorded_so_and_no_other_that_begins_so() {
    let long = "x".repeat(300);
    for alarm in ["shop-primary", "shop {primary}, unhealthy ", &long] {
        let tag = read(&[(OUT, "v=8 at=2026-01-05T10:00:00Z alarm=2026-01-05T10:00:00Z")], LOCKED, 8);
        let lock = Lock { by: alarm.to_owned(), ..tag.lock.unwrap() };
        let lock = read(&[(OUT, &lock.tag())], LOCKED, 8).lock.unwrap();
        assert!(lock.is_by(alarm), "{alarm}");
        assert!(!lock.is_by("shop-primary-unhealthy") && !lock.is_by("shop"), "{alarm}");
    }
}

#[test]
fn a_version_beyond_all_that_follow_is_read_as_any_other() {
    for (key, value) in [
        (OUT, format!("v={} at=2026-01-05T10:02:11Z before=/health by=x", i64::MAX)),
        (IN, format!("v={} seen=2026-01-05T10:02:11Z over=0 to=/health by=x", i64::MIN)),
    ] {
        for path in ["/health", LOCKED] {
            let Record { lock, restore, .. } = read(&[(key, &value)], path, 8);
            assert_eq!(lock.is_some_and(|lock| lock.is_of(8)), key == OUT, "{value}");
            assert_eq!(restore.is_some_and(|restore| restore.replaced().is_some()), key == IN, "{value}");
        }
    }
}
