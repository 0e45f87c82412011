use super::*;

#[test]
fn more_than_18_percent_of_the_checkers_make_a_check_healthy() {
    for (passing, reporting, healthy) in
        [(0, 16, false), (2, 16, false), (3, 16, true), (18, 100, false), (19, 100, true)]
    {
        assert_eq!(is_healthy(passing, reporting), healthy, "{passing} of {reporting}");
    }
}

#[test]
fn only_a_lock_waits_for_the_secondary_and_only_one_that_is_known_to_be_unhealthy() {
    let lock = || Decision::Lock { version: Some(1) };
    assert_eq!(interlock(lock(), Some(false)), Decision::Defer(Reason::SecondaryUnhealthy));
    assert_eq!(interlock(lock(), Some(true)), lock());
    assert_eq!(interlock(lock(), None), lock());
    assert_eq!(interlock(Decision::AlreadyLocked, Some(false)), Decision::AlreadyLocked);
}
