//! What is recorded on a check, compared with what is: whatever happens between two looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use crate::support;
use crate::support::cloudwatch::{Alarm, Kind};
use crate::support::lock::{LOCKED, PRIMARY, delivered, message};
use crate::support::primary::Primary;
use crate::support::route53::{Check, Fault, Route53};
use crate::support::script::Held;
use chrono::{DateTime, Utc};
use failover::failover_lock::clock::Clock;
use failover::failover_lock::{FailoverLock, Handler};
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// A check, its alarm and the functions, by a clock that the test moves.
pub(crate) struct World {
    pub route53: Route53,
    _primary: Primary,
    seconds: Arc<AtomicI64>,
    pub variables: Vec<(&'static str, &'static str)>,
}

const START: i64 = 1_795_228_570;
pub(crate) const HEALTHY: &str = "/lb-check";
const SECOND: &str = "d2f991db-4143-47b0-9015-e781df145c7c";

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(HEALTHY).await
    }

    pub(crate) async fn on(path: &'static str) -> Self {
        let (route53, primary) = (Route53::start().await, Primary::start(path).await);
        route53
            .put(PRIMARY, Check::new("HTTP", primary.address.port()).with("ResourcePath", path).reported(16));
        let seconds = Arc::new(AtomicI64::new(START));
        let world =
            Self { route53, _primary: primary, seconds, variables: vec![("GUARDED_HEALTH_CHECKS", PRIMARY)] };
        world.alarm("OK");
        world
    }

    pub(crate) fn now(&self) -> i64 {
        self.seconds.load(Ordering::Relaxed)
    }

    pub(crate) fn passes(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    /// The alarm changes its state now.
    pub(crate) fn alarm(&self, state: &'static str) {
        self.put(Alarm::on(PRIMARY, state, self.seconds_of_alarm()));
    }

    #[expect(clippy::cast_precision_loss, reason = "a double holds the seconds of our days")]
    pub(crate) fn seconds_of_alarm(&self) -> f64 {
        self.now() as f64
    }

    pub(crate) fn put(&self, alarm: Alarm) {
        self.route53.put_alarm("primary-unhealthy", alarm);
    }

    /// Another execution environment: it remembers nothing.
    pub(crate) async fn system(&self) -> FailoverLock {
        let shown = self.seconds.clone();
        let now = move || -> DateTime<Utc> {
            DateTime::from_timestamp(shown.load(Ordering::Relaxed), 0).expect("a time of our days")
        };
        support::lock::system(&self.route53, &self.variables).await.with_clock(Clock::new(now))
    }

    pub(crate) async fn call(&self, handler: Handler, event: &str) -> Result<Value, String> {
        let system = self.system().await;
        let report = system.handle(handler, event, Deadline::after(Duration::from_secs(20))).await;
        let answer = report.into_answer().map_err(|error| error.to_string())?;
        Ok(json!(answer)["outcomes"][0].clone())
    }

    /// The notification of an alarm that changed so many seconds ago.
    pub(crate) async fn notified(&self, ago: i64) -> Value {
        self.call(Handler::Lock, &delivered(&[&self.message(ago)])).await.unwrap()
    }

    pub(crate) fn message(&self, ago: i64) -> String {
        let changed_at = DateTime::from_timestamp(self.now() - ago, 0).expect("a time of our days");
        message(PRIMARY, "ALARM", &changed_at.to_rfc3339())
    }

    pub(crate) async fn ticks(&self) -> Value {
        self.call(Handler::Reconcile, "{}").await.unwrap()
    }

    pub(crate) async fn restore(&self) -> Result<Value, String> {
        let request = json!({ "healthCheckId": PRIMARY, "reason": "synchronised" });
        self.call(Handler::Restore, &request.to_string()).await
    }

    /// A restore, and what happens when it is about to set the path.
    pub(crate) async fn restore_crossed_by(&self, crossing: impl AsyncFnOnce()) -> Result<Value, String> {
        let held = self.route53.hold("UpdateHealthCheck");
        let crossing = async {
            held.reached().await;
            crossing().await;
            held.release();
        };
        tokio::join!(Box::pin(self.restore()), Box::pin(crossing)).0
    }

    /// Lets so many calls of the operation pass, and holds the next one back.
    pub(crate) fn hold_after(&self, operation: &'static str, passed: usize) -> Held {
        for _ in 0..passed {
            self.route53.hold(operation).release();
        }
        self.route53.hold(operation)
    }

    /// So many tags are on the check that are not failover-lock's.
    pub(crate) fn has_tags_of_others(&self, count: usize) {
        for number in 0..count {
            self.route53.tag(PRIMARY, &format!("team:{number}"), Some("x"));
        }
    }

    /// A person writes the tag of a restore by hand. Returns its time.
    pub(crate) fn writes_that_it_is_restored(&self) -> String {
        let now = DateTime::from_timestamp(self.now(), 0).expect("a time of our days").to_rfc3339();
        self.route53.tag(PRIMARY, "failover-lock:restored-at", Some(&now));
        now
    }

    /// The primary fails, its alarm goes off and locks; a minute passes.
    pub(crate) async fn fails_and_is_locked(&self) {
        self.alarm("ALARM");
        assert_eq!(self.notified(0).await["outcome"], "locked");
        self.passes(60);
    }

    pub(crate) fn path(&self) -> String {
        self.route53.check(PRIMARY).path().to_owned()
    }
}

#[track_caller]
pub(crate) fn is(outcome: &Value, verdict: &str, reason: &str) {
    assert_eq!((&outcome["outcome"], &outcome["reason"]), (&verdict.into(), &reason.into()), "{outcome}");
}

#[tokio::test]
async fn a_lock_that_was_undone_is_reported_until_it_is_restored_whatever_its_alarm_says() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.route53.set_path(PRIMARY, HEALTHY);
    for state in ["ALARM", "OK", "INSUFFICIENT_DATA"] {
        if state != "ALARM" {
            world.alarm(state);
        }
        for _ in 0..3 {
            is(&world.ticks().await, "unprotected", "undone_by_hand");
            world.passes(3600);
        }
    }
    assert_eq!(world.path(), HEALTHY, "what a person did is left");
    world.alarm("OK");
    assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
    assert_eq!(world.ticks().await["outcome"], "armed");
}

#[tokio::test]
async fn a_lock_that_was_undone_is_set_again_if_that_is_asked_for() {
    let mut world = World::new().await;
    world.variables.push(("RELOCK_UNDONE", "true"));
    world.fails_and_is_locked().await;
    world.alarm("OK");
    world.route53.set_path(PRIMARY, HEALTHY);
    assert_eq!(world.ticks().await["outcome"], "locked");
    assert_eq!(world.ticks().await["outcome"], "already_locked");
}

#[tokio::test]
async fn an_attribute_that_is_changed_while_the_check_is_locked_undoes_nothing() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    let since =
        || world.route53.check(PRIMARY).tags["failover-lock:out"].split_once(" at=").unwrap().1.to_owned();
    let before = since();
    world.route53.set_path(PRIMARY, LOCKED);
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    assert_eq!(since(), before);
    assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
}

#[tokio::test]
async fn a_lock_that_does_not_hold_is_reported_after_some_minutes() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.alarm("OK");
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    world.passes(300);
    is(&world.ticks().await, "unprotected", "lock_does_not_hold");
    // An alarm whose actions are off shows it as well.
    world.put(Alarm { actions_enabled: false, ..Alarm::on(PRIMARY, "OK", world.seconds_of_alarm()) });
    is(&world.ticks().await, "unprotected", "lock_does_not_hold");
    // An alarm may be late: the checkers decide.
    let check = world.route53.check(PRIMARY);
    world.route53.put(PRIMARY, check.reported(0));
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    let check = world.route53.check(PRIMARY);
    world.route53.put(PRIMARY, check.reported(16));
    world.alarm("ALARM");
    assert_eq!(world.ticks().await["outcome"], "already_locked");
}

#[tokio::test]
async fn another_alarm_that_is_not_ok_does_not_hide_a_lock_that_does_not_hold() {
    for other in [
        Alarm {
            comparison: "LessThanThreshold",
            threshold: 100.0,
            ..Alarm::of(Kind::Metric("HealthCheckPercentageHealthy", PRIMARY.into()), "ALARM")
        },
        Alarm { threshold: 0.0, ..Alarm::on(PRIMARY, "INSUFFICIENT_DATA", 0.0) },
        Alarm { actions_enabled: false, ..Alarm::on(PRIMARY, "ALARM", 0.0) },
    ] {
        let world = World::new().await;
        world.route53.put_alarm("pager", other.clone());
        world.fails_and_is_locked().await;
        world.alarm("OK");
        // An alarm that the record does not know is recorded first.
        let _ = world.ticks().await;
        world.passes(300);
        is(&world.ticks().await, "unprotected", "lock_does_not_hold");
        // Only Route 53's own verdict says so.
        world
            .route53
            .fail_always("GetHealthCheckStatus", Fault::Error(403, "AccessDenied", "not authorized"));
        assert_eq!(world.ticks().await["outcome"], "already_locked", "{other:?}");
    }
}

#[tokio::test]
async fn a_lock_by_hand_over_one_that_was_undone_or_waits_is_a_new_one() {
    for waits in [false, true] {
        let world = if waits { waiting(0).await } else { World::new().await };
        if !waits {
            world.fails_and_is_locked().await;
            world.route53.set_path(PRIMARY, HEALTHY);
        }
        world.passes(3 * 86_400);
        world.alarm("OK");
        world.route53.set_path(PRIMARY, LOCKED);
        let locked_at = world.now();
        world.passes(60);
        for _ in 0..5 {
            assert_eq!(world.ticks().await["outcome"], "already_locked", "{waits}");
            world.passes(59);
        }
        let record = world.route53.check(PRIMARY).tags["failover-lock:out"].clone();
        let at = DateTime::from_timestamp(locked_at + 60, 0).unwrap().format("at=%Y-%m-%dT%H:%M:%SZ");
        assert!(record.contains(&at.to_string()), "{record}");
        assert!(record.ends_with("by=found on the locked path"), "{record}");
        world.passes(60);
        is(&world.ticks().await, "unprotected", "lock_does_not_hold");
    }
}

#[tokio::test]
async fn a_lock_that_a_tick_finds_is_not_said_to_be_an_alarms() {
    let world = World::new().await;
    world.alarm("ALARM");
    world.route53.set_path(PRIMARY, LOCKED);
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    let record = world.route53.check(PRIMARY).tags["failover-lock:out"].clone();
    assert!(record.ends_with(" by=found on the locked path: primary-unhealthy"), "{record}");
    // Its alarm is answered all the same: the path that is set back is no new failure.
    world.route53.set_path(PRIMARY, HEALTHY);
    is(&world.ticks().await, "unprotected", "undone_by_hand");
}

#[tokio::test]
async fn a_dry_run_which_records_nothing_reports_all_the_same_a_lock_that_does_not_hold() {
    let mut world = World::new().await;
    world.fails_and_is_locked().await;
    world.route53.set_path(PRIMARY, HEALTHY);
    world.alarm("OK");
    world.route53.set_path(PRIMARY, LOCKED);
    world.variables.push(("DRY_RUN", "true"));
    world.passes(300);
    for _ in 0..2 {
        is(&world.ticks().await, "unprotected", "lock_does_not_hold");
    }
}

#[tokio::test]
async fn a_persons_reason_stays_on_record_through_changes_that_no_tick_saw() {
    let world = World::new().await;
    let by_hand = world.message(0).replace("primary-unhealthy", "by hand: INC-1");
    assert_eq!(world.call(Handler::Lock, &delivered(&[&by_hand])).await.unwrap()["outcome"], "locked");
    for _ in 0..2 {
        world.route53.set_path(PRIMARY, LOCKED);
    }
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    assert!(world.route53.check(PRIMARY).tags["failover-lock:out"].ends_with(" by=by hand: INC-1"));
}

#[tokio::test]
async fn a_lock_that_a_person_sets_beside_the_functions_is_that_of_the_stack_which_finds_it() {
    let mut world = World::new().await;
    world.route53.tag(PRIMARY, "failover", Some("us"));
    // As failoverctl sets it, which knows no GUARDED_TAG.
    world.variables = vec![];
    let by_hand = world.message(0).replace("primary-unhealthy", "by hand: INC-1");
    assert_eq!(world.call(Handler::Lock, &delivered(&[&by_hand])).await.unwrap()["outcome"], "locked");
    world.variables = vec![("GUARDED_TAG", "failover=us")];
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    let written = world.route53.calls().len();
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    let calls = world.route53.calls();
    assert!(!calls[written..].iter().any(|call| call.starts_with("Change")), "{calls:?}");
    world.route53.tag(PRIMARY, "failover", None);
    world.route53.set_path(PRIMARY, HEALTHY);
    is(&world.ticks().await, "unprotected", "undone_by_hand");
    // A tag that has no room in the record is not written again and again.
    let long = format!("failover={}", "u".repeat(240));
    world.variables = vec![("GUARDED_TAG", long.leak())];
    world.route53.tag(PRIMARY, "failover", Some(&"u".repeat(240)));
    world.route53.set_path(PRIMARY, LOCKED);
    let _ = world.ticks().await;
    let written = world.route53.calls().len();
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    let calls = world.route53.calls();
    assert!(!calls[written..].iter().any(|call| call.starts_with("Change")), "{calls:?}");
}

#[tokio::test]
async fn of_two_checks_that_are_each_others_secondary_one_stays_in_service() {
    let pairs = format!("{PRIMARY}={SECOND},{SECOND}={PRIMARY}");
    let both = format!("{PRIMARY},{SECOND}");
    let mut world = World::new().await;
    world.variables = vec![("GUARDED_HEALTH_CHECKS", both.leak()), ("SECONDARY_HEALTH_CHECKS", pairs.leak())];
    world.route53.put(SECOND, Check::new("HTTP", 80).reported(0));
    let second = |state| Alarm::on(SECOND, state, world.seconds_of_alarm());
    let primary = world.route53.check(PRIMARY);
    world.route53.put(PRIMARY, primary.clone().reported(0));
    world.alarm("ALARM");
    world.route53.put_alarm("second-unhealthy", second("ALARM"));
    is(&world.notified(0).await, "deferred", "secondary_unhealthy");
    let deferred = world.ticks().await;
    is(&deferred, "deferred", "secondary_unhealthy");
    world.passes(60);
    // Both are healthy again.
    for (id, check) in [(PRIMARY, world.route53.check(PRIMARY)), (SECOND, world.route53.check(SECOND))] {
        world.route53.put(id, check.reported(16));
    }
    for _ in 0..3 {
        let _ = world.ticks().await;
        world.passes(60);
        let paths = [PRIMARY, SECOND].map(|id| world.route53.check(id).path().to_owned());
        assert_eq!(paths.iter().filter(|path| *path == LOCKED).count(), 1, "{paths:?}");
    }
    // Nor does an alarm lock the other one, while Route 53's verdict does not know the lock yet.
    let other = if world.path() == LOCKED { SECOND } else { PRIMARY };
    world.route53.put_verdict(if other == SECOND { PRIMARY } else { SECOND }, 1.0);
    let message = message(other, "ALARM", &DateTime::from_timestamp(world.now(), 0).unwrap().to_rfc3339());
    is(&world.call(Handler::Lock, &delivered(&[&message])).await.unwrap(), "deferred", "secondary_unhealthy");
}

#[tokio::test]
async fn a_secondary_whose_own_lock_does_not_hold_carries_the_traffic() {
    let pairs = format!("{PRIMARY}={SECOND}");
    let both = format!("{PRIMARY},{SECOND}");
    let mut world = World::new().await;
    world.variables = vec![("GUARDED_HEALTH_CHECKS", both.leak()), ("SECONDARY_HEALTH_CHECKS", pairs.leak())];
    let at = DateTime::from_timestamp(world.now() - 3600, 0).unwrap().format("%Y-%m-%dT%H:%M:%SZ");
    let second = Check::new("HTTP", 80).reported(16).with("ResourcePath", LOCKED);
    world.route53.put(SECOND, second.tagged("failover-lock:out", &format!("v=1 at={at} by=x")));
    world.route53.put_verdict(SECOND, 1.0);
    world.alarm("ALARM");
    assert_eq!(world.notified(0).await["outcome"], "locked");
}

#[tokio::test]
async fn what_a_tick_records_it_does_not_record_again() {
    let world = World::new().await;
    world.route53.put_alarm("second", Alarm::on(PRIMARY, "OK", 0.0));
    world.fails_and_is_locked().await;
    // One environment, which remembers.
    let system = world.system().await;
    let tick = async || {
        let report = system.handle(Handler::Reconcile, "{}", Deadline::after(Duration::from_secs(20))).await;
        json!(report.into_answer().unwrap())["outcomes"][0].clone()
    };
    assert_eq!(tick().await["outcome"], "already_locked");
    world.passes(300);
    world.alarm("OK");
    is(&tick().await, "unprotected", "lock_does_not_hold");
    // A newer alarm whose notification is lost.
    world.passes(60);
    world.alarm("ALARM");
    assert_eq!(tick().await["outcome"], "already_locked");
    let written = writes(&world).len();
    for _ in 0..3 {
        world.passes(60);
        is(&tick().await, "unprotected", "lock_does_not_hold");
    }
    assert_eq!(writes(&world).len(), written);
}

#[tokio::test]
async fn the_record_of_a_lock_that_does_not_hold_follows_each_change_of_another_attribute() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.alarm("OK");
    world.passes(300);
    let record = || {
        world.route53.check(PRIMARY).tags["failover-lock:out"]
            .split_once(" at=")
            .map(|(version, rest)| (version.to_owned(), rest.to_owned()))
    };
    let (_, before) = record().unwrap();
    for version in 3..8 {
        world.route53.set_path(PRIMARY, LOCKED);
        for _ in 0..2 {
            is(&world.ticks().await, "unprotected", "lock_does_not_hold");
            world.passes(60);
        }
        assert_eq!(record().unwrap(), (format!("v={version} found=1"), before.clone()));
    }
}

#[tokio::test]
async fn a_dry_run_reports_a_lock_that_does_not_hold_beside_an_alarm_that_it_cannot_record() {
    let mut world = World::new().await;
    world.route53.put_alarm("second", Alarm::on(PRIMARY, "OK", 0.0));
    world.fails_and_is_locked().await;
    world.passes(300);
    world.alarm("ALARM");
    world.variables.push(("DRY_RUN", "true"));
    for _ in 0..2 {
        is(&world.ticks().await, "unprotected", "lock_does_not_hold");
    }
}

fn writes(world: &World) -> Vec<String> {
    world
        .route53
        .calls()
        .into_iter()
        .filter(|call| call.starts_with("Change") || call.starts_with("Update"))
        .collect()
}

#[tokio::test]
async fn a_restore_by_hand_with_a_clock_that_is_ahead_does_not_outlive_the_next_lock() {
    for with_failoverctl in [false, true] {
        let world = World::new().await;
        world.fails_and_is_locked().await;
        world.alarm("OK");
        let ahead = DateTime::from_timestamp(world.now() + 20, 0).unwrap().to_rfc3339();
        world.route53.tag(PRIMARY, "failover-lock:restored-at", Some(&ahead));
        world.route53.set_path(PRIMARY, HEALTHY);
        world.passes(10);
        if with_failoverctl {
            // failoverctl gives it a time after the restore.
            let by_hand = world.message(-11).replace("primary-unhealthy", "by hand: INC-9");
            assert_eq!(
                world.call(Handler::Lock, &delivered(&[&by_hand])).await.unwrap()["outcome"],
                "locked"
            );
        } else {
            world.route53.set_path(PRIMARY, LOCKED);
        }
        world.passes(30);
        assert_eq!(world.ticks().await["outcome"], "already_locked");
        assert!(
            !world.route53.check(PRIMARY).tags.contains_key("failover-lock:restored-at"),
            "{with_failoverctl}"
        );
        world.passes(300);
        world.route53.set_path(PRIMARY, HEALTHY);
        is(&world.ticks().await, "unprotected", "undone_by_hand");
    }
}

#[tokio::test]
async fn the_owner_of_a_lock_never_takes_the_place_of_the_path_from_before() {
    for length in 100..200 {
        let path: &'static str = format!("/{}", "p".repeat(length - 1)).leak();
        let mut world = World::on(path).await;
        world.route53.tag(PRIMARY, "failover", Some("lock"));
        world.variables = vec![];
        let by_hand = world.message(0).replace("primary-unhealthy", "by hand: INC-1");
        assert_eq!(world.call(Handler::Lock, &delivered(&[&by_hand])).await.unwrap()["outcome"], "locked");
        let before = world.route53.check(PRIMARY).tags["failover-lock:out"].contains(path);
        world.variables = vec![("GUARDED_TAG", "failover=lock")];
        assert_eq!(world.ticks().await["outcome"], "already_locked");
        assert_eq!(world.route53.check(PRIMARY).tags["failover-lock:out"].contains(path), before, "{length}");
    }
}

#[tokio::test]
async fn the_page_of_a_drill_is_not_the_path_to_restore() {
    let world = World::new().await;
    world.route53.set_path(PRIMARY, "/failoverctl-drill-no-such-page");
    world.fails_and_is_locked().await;
    world.alarm("OK");
    assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
    assert_eq!(world.path(), HEALTHY);
}

#[tokio::test]
async fn a_path_of_any_length_is_locked_and_restored() {
    // Around the lengths from which it does not fit beside the rest of the record.
    for length in [100, 140, 150, 155, 160, 165, 170, 175, 180, 185, 190, 195, 200, 205, 255] {
        for length in length..(length + 5).min(256) {
            let path: &'static str = format!("/{}", "p".repeat(length - 1)).leak();
            let world = World::on(path).await;
            world.fails_and_is_locked().await;
            assert!(world.route53.check(PRIMARY).tags.contains_key("failover-lock:out"), "{length}");
            world.alarm("OK");
            let request = json!({ "healthCheckId": PRIMARY, "reason": "synchronised", "path": path });
            let outcome = world.call(Handler::Restore, &request.to_string()).await.unwrap();
            assert_eq!((&outcome["outcome"], world.path().as_str()), (&json!("restored"), path), "{length}");
            assert!(world.route53.check(PRIMARY).tags["failover-lock:in"].contains(" done="), "{length}");
            assert_eq!(world.ticks().await["outcome"], "armed", "{length}");
        }
    }
}

#[tokio::test]
async fn a_lock_of_a_person_whose_answer_was_lost_is_on_record_as_that_persons() {
    let world = World::new().await;
    world.route53.fail("UpdateHealthCheck", Fault::CloseAfter);
    let by_hand = world.message(0).replace("primary-unhealthy", "by hand: INC-1");
    assert_eq!(world.call(Handler::Lock, &delivered(&[&by_hand])).await.unwrap()["outcome"], "locked");
    let record = &world.route53.check(PRIMARY).tags["failover-lock:out"];
    assert!(record.ends_with(" by=by hand: INC-1"), "{record}");
}

#[tokio::test]
async fn a_restore_that_could_not_be_recorded_as_done_says_so_and_is_repeated() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.route53.fail("ChangeTagsForResource", Fault::Pass);
    world.route53.fail("ChangeTagsForResource", Fault::Error(403, "AccessDenied", "not authorized"));
    is(&world.restore().await.unwrap(), "restored", "not_recorded");
    assert_eq!(world.path(), HEALTHY);
    assert_eq!(world.restore().await.unwrap()["reason"], Value::Null);
    world.alarm("OK");
    world.passes(3600);
    assert_eq!(world.ticks().await["outcome"], "armed");
}

#[tokio::test]
async fn a_path_that_does_not_fit_into_the_record_is_in_service_once_it_was_restored() {
    let long = format!("/{}", "p".repeat(240));
    let world = World::on(long.clone().leak()).await;
    let request = json!({ "healthCheckId": PRIMARY, "reason": "it is right", "path": long });
    let outcome = world.call(Handler::Restore, &request.to_string()).await.unwrap();
    assert_eq!(outcome["outcome"], "already_restored");
    assert_eq!(world.ticks().await["outcome"], "armed");
    world.route53.set_path(PRIMARY, "/another");
    is(&world.ticks().await, "unprotected", "foreign_path");
    // It stays on record through a change of another attribute, and a restore of which no end is on record is one.
    let mut world = World::on(long.clone().leak()).await;
    world.variables.push(("RELOCK_UNDONE", "true"));
    world.fails_and_is_locked().await;
    world.alarm("OK");
    world.route53.fail("ChangeTagsForResource", Fault::Pass);
    world.route53.fail("ChangeTagsForResource", Fault::Error(403, "AccessDenied", "not authorized"));
    let outcome = world.call(Handler::Restore, &request.to_string()).await.unwrap();
    assert_eq!(outcome["outcome"], "restored");
    assert!(!world.route53.check(PRIMARY).tags["failover-lock:in"].contains(" done="));
    for _ in 0..2 {
        assert_eq!(world.ticks().await["outcome"], "armed");
        assert_eq!(world.path(), long);
    }
    world.route53.set_path(PRIMARY, &long);
    assert_eq!(world.ticks().await["outcome"], "armed");
}

#[tokio::test]
async fn who_locked_and_why_stays_on_record_when_the_lock_sets_the_alarm_off() {
    let world = World::new().await;
    let by_hand = world.message(0).replace("primary-unhealthy", "by hand: INC-1");
    assert_eq!(world.call(Handler::Lock, &delivered(&[&by_hand])).await.unwrap()["outcome"], "locked");
    world.passes(120);
    world.alarm("ALARM");
    assert_eq!(world.notified(0).await["outcome"], "already_locked");
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    let out = world.route53.check(PRIMARY).tags["failover-lock:out"].clone();
    assert!(out.ends_with("by=by hand: INC-1"), "{out}");
}

#[tokio::test]
async fn a_check_that_a_tick_locks_has_room_for_its_record() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.restore().await.unwrap();
    world.alarm("OK");
    world.route53.tag(PRIMARY, "failover-lock:out", None);
    world.has_tags_of_others(9);
    world.passes(600);
    // Its notification is lost.
    world.alarm("ALARM");
    assert_eq!(world.ticks().await["outcome"], "locked");
    world.route53.set_path(PRIMARY, HEALTHY);
    world.alarm("OK");
    is(&world.ticks().await, "unprotected", "undone_by_hand");
}

#[tokio::test]
async fn a_check_that_another_stack_locked_is_not_this_ones_and_its_own_stays_its_own() {
    let mut world = World::new().await;
    world.variables = vec![("GUARDED_TAG", "failover=us")];
    world.route53.set_path(PRIMARY, HEALTHY);
    world.route53.tag(PRIMARY, "failover", Some("us"));
    world.fails_and_is_locked().await;

    world.variables = vec![("GUARDED_TAG", "failover=eu"), ("LOCKED_PATH", "/b"), ("RELOCK_UNDONE", "true")];
    assert!(world.call(Handler::Reconcile, "{}").await.unwrap_err().contains("no health check"));
    assert!(world.restore().await.unwrap_err().contains("GUARDED_TAG"));
    assert_eq!(world.path(), LOCKED);

    // Without its tag it stays guarded, until it is restored, and is not locked again.
    world.variables = vec![("GUARDED_TAG", "failover=us")];
    world.route53.tag(PRIMARY, "failover", None);
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    world.route53.set_path(PRIMARY, HEALTHY);
    world.variables.push(("RELOCK_UNDONE", "true"));
    is(&world.ticks().await, "unprotected", "undone_by_hand");
    world.route53.set_path(PRIMARY, LOCKED);
    assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
    assert!(world.restore().await.unwrap_err().contains("GUARDED_TAG"));

    // Nor is one whose lock waits, and was never set.
    let pair = format!("{PRIMARY}={SECOND}");
    world.variables = vec![("GUARDED_TAG", "failover=us"), ("SECONDARY_HEALTH_CHECKS", pair.leak())];
    world.route53.tag(PRIMARY, "failover", Some("us"));
    world.route53.put(SECOND, Check::new("HTTP", 80).reported(0));
    world.passes(600);
    world.alarm("ALARM");
    is(&world.notified(0).await, "deferred", "secondary_unhealthy");
    world.route53.tag(PRIMARY, "failover", None);
    world.route53.put(SECOND, Check::new("HTTP", 80).reported(16));
    assert!(world.call(Handler::Reconcile, "{}").await.unwrap_err().contains("no health check"));
    assert_eq!(world.path(), HEALTHY);
}

#[tokio::test]
async fn a_path_that_is_neither_is_recorded_as_the_one_in_service_if_the_request_names_it() {
    let world = World::on("/health/v2").await;
    is(&world.ticks().await, "unprotected", "foreign_path");
    let error = world.restore().await.unwrap_err();
    assert!(error.contains("name it in the request (\"path\""), "{error}");
    let named = json!({ "healthCheckId": PRIMARY, "path": "/health/v2" }).to_string();
    assert_eq!(world.call(Handler::Restore, &named).await.unwrap()["outcome"], "already_restored");
    assert_eq!(world.ticks().await["outcome"], "armed");
}

#[tokio::test]
async fn a_mute_rule_that_cannot_be_read_once_does_not_let_a_tick_lock() {
    const THROTTLED: Fault = Fault::Error(400, "Throttling", "Rate exceeded");
    const HTML: Fault = Fault::Answer(503, "<html>503</html>");
    let muted = async || {
        let world = World::new().await;
        world.put(Alarm { muted: true, ..Alarm::on(PRIMARY, "ALARM", world.seconds_of_alarm()) });
        world
    };
    for fault in [THROTTLED, HTML, Fault::CloseBefore] {
        let world = muted().await;
        world.route53.fail("ListAlarmMuteRules", fault);
        is(&world.ticks().await, "unprotected", "actions_muted");
        assert_eq!(world.path(), HEALTHY);
    }
    // For as long as no one knows, the tick fails, and the next one tries again.
    let world = muted().await;
    world.route53.fail_always("ListAlarmMuteRules", HTML);
    let error = world.call(Handler::Reconcile, "{}").await.unwrap_err();
    assert!(error.contains("ListAlarmMuteRules"), "{error}");
    assert_eq!(world.path(), HEALTHY);
    // A function that may not read them locks.
    let world = World::new().await;
    world.alarm("ALARM");
    world.route53.fail_always("ListAlarmMuteRules", Fault::Error(403, "AccessDenied", "not authorized"));
    assert_eq!(world.ticks().await["outcome"], "locked");
}

#[tokio::test]
async fn a_tag_that_cannot_be_read_hides_no_other() {
    let world = World::on("/health/v2").await;
    world.fails_and_is_locked().await;
    world.route53.tag(PRIMARY, "failover-lock:restored-at", Some("2026-11-26 16:30:00"));
    // A newer alarm keeps the path from before on record.
    world.passes(60);
    world.alarm("ALARM");
    assert_eq!(world.notified(0).await["outcome"], "already_locked");
    world.passes(60);
    world.alarm("OK");
    assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
    assert_eq!(world.path(), "/health/v2");
    let tags = world.route53.check(PRIMARY).tags;
    assert!(!tags.contains_key("failover-lock:restored-at"), "{tags:?}");
}

#[tokio::test]
async fn a_persons_reason_takes_the_place_of_an_alarm_on_record() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    let by_hand = world.message(0).replace("primary-unhealthy", "by hand: INC-9");
    assert_eq!(
        world.call(Handler::Lock, &delivered(&[&by_hand])).await.unwrap()["outcome"],
        "already_locked"
    );
    let out = world.route53.check(PRIMARY).tags["failover-lock:out"].clone();
    assert!(out.ends_with("by=by hand: INC-9") && out.contains("before=/lb-check "), "{out}");
    // The first person's stays.
    world.passes(60);
    let again = world.message(0).replace("primary-unhealthy", "by hand: INC-10");
    assert_eq!(world.call(Handler::Lock, &delivered(&[&again])).await.unwrap()["outcome"], "already_locked");
    let out = world.route53.check(PRIMARY).tags["failover-lock:out"].clone();
    assert!(out.ends_with("by=by hand: INC-9"), "{out}");
}

/// A lock that waits for the secondary, for an alarm that changed so many seconds ago and is OK again.
async fn waiting(ago: i64) -> World {
    let mut world = World::new().await;
    world.variables.push(("SECONDARY_HEALTH_CHECKS", format!("{PRIMARY}={SECOND}").leak()));
    world.route53.put(SECOND, Check::new("HTTP", 80).reported(0));
    world.alarm("ALARM");
    is(&world.notified(ago).await, "deferred", "secondary_unhealthy");
    world.alarm("OK");
    world
}

#[tokio::test]
async fn a_restore_in_the_second_of_the_alarm_does_not_say_that_it_undid_a_lock_that_waits() {
    let world = waiting(0).await;
    let error = world.restore().await.unwrap_err();
    assert!(error.contains("after this request began"), "{error}");
    world.passes(1);
    assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
    world.route53.put(SECOND, Check::new("HTTP", 80).reported(16));
    assert_eq!(world.ticks().await["outcome"], "armed");
}

#[tokio::test]
async fn a_request_does_not_move_a_check_in_service_whose_lock_waits() {
    let world = waiting(30).await;
    let named = json!({ "healthCheckId": PRIMARY, "path": "/other" }).to_string();
    let error = world.call(Handler::Restore, &named).await.unwrap_err();
    assert!(error.contains("it is not locked, and its path is"), "{error}");
    assert_eq!(world.path(), HEALTHY);
}

#[tokio::test]
async fn a_restore_undoes_a_lock_that_waits_also_by_a_clock_that_is_behind() {
    let world = waiting(30).await;
    world.passes(-20);
    assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
    world.passes(40);
    world.route53.put(SECOND, Check::new("HTTP", 80).reported(16));
    assert_eq!(world.ticks().await["outcome"], "armed");
    assert_eq!(world.path(), HEALTHY);
}

#[tokio::test]
async fn a_restore_says_that_it_undid_a_lock_that_waits_only_if_it_did() {
    // A tick finds the secondary healthy while the restore is at this call, the first or the second of its kind.
    let calls = [("ChangeTagsForResource", 0), ("UpdateHealthCheck", 0), ("ChangeTagsForResource", 1)];
    for (foreign_tags, (at, nth)) in [0, 9].into_iter().flat_map(|tags| calls.map(|call| (tags, call))) {
        let case = format!("{at} {nth}, {foreign_tags} tags of others");
        let world = waiting(30).await;
        world.has_tags_of_others(foreign_tags);
        world.passes(60);
        let held = world.hold_after(at, nth);
        let crossing = async {
            held.reached().await;
            world.route53.put(SECOND, Check::new("HTTP", 80).reported(16));
            let outcome = world.ticks().await;
            held.release();
            outcome
        };
        let (restored, ticked) = tokio::join!(world.restore(), crossing);
        // Either the lock came first and was restored, or it was undone before it was set.
        let expected = if ticked["outcome"] == "locked" { "restored" } else { "already_restored" };
        let restored = match restored {
            // With room for one tag, what the tick has recorded may be gone: then the person looks again.
            Err(error) if foreign_tags > 0 => {
                assert!(error.contains("look at it again"), "{case}: {error}");
                assert_eq!(world.path(), LOCKED, "{case}: {ticked}");
                world.passes(1);
                world.restore().await.unwrap()
            }
            restored => restored.unwrap(),
        };
        assert_eq!(world.path(), HEALTHY, "{case}: {restored} {ticked}");
        assert_eq!(restored["outcome"], expected, "{case}: {ticked}");
        assert_eq!(world.ticks().await["outcome"], "armed", "{case}");
    }
}

#[tokio::test]
async fn a_lock_that_waits_outlives_a_restore_that_failed_also_with_room_for_one_tag() {
    for foreign_tags in [0, 9] {
        let world = waiting(30).await;
        world.has_tags_of_others(foreign_tags);
        world.passes(60);
        let denied = Fault::Error(403, "AccessDenied", "not authorized");
        world.route53.fail("UpdateHealthCheck", denied.clone());
        // Nor can it be taken off the record.
        let held = world.hold_after("ChangeTagsForResource", 1);
        let failing = async {
            held.reached().await;
            world.route53.fail_always("ChangeTagsForResource", denied);
            held.release();
        };
        let (restored, ()) = tokio::join!(world.restore(), failing);
        restored.unwrap_err();
        world.route53.fail_never("ChangeTagsForResource");
        world.route53.put(SECOND, Check::new("HTTP", 80).reported(16));
        assert_eq!(world.ticks().await["outcome"], "locked", "{foreign_tags}");
        world.passes(60);
        assert_eq!(world.restore().await.unwrap()["path"], HEALTHY, "{foreign_tags}");
    }
}

#[tokio::test]
async fn a_lock_that_waits_is_set_also_where_its_secondary_is_named_no_more() {
    for was_changed in [false, true] {
        let mut world = waiting(30).await;
        if was_changed {
            let world = &world;
            world.route53.set_path(PRIMARY, HEALTHY);
        }
        is(&world.ticks().await, "deferred", "secondary_unhealthy");
        world.variables.pop();
        assert_eq!(world.ticks().await["outcome"], "locked", "{was_changed}");
        assert_eq!(world.path(), LOCKED);
    }
}

#[tokio::test]
async fn the_tags_of_another_check_on_one_that_was_never_changed_count_for_nothing() {
    let at = "2026-01-05T10:00:00Z";
    for tag in [
        ("failover-lock:out", format!("v=8 at={at} alarm={at} before=/lb-check by=a")),
        ("failover-lock:out", format!("v=0 at={at} on=7 alarm={at} before=/lb-check by=a")),
        ("failover-lock:in", format!("v=9 seen={at} done={at} to=/lb-check by=a")),
    ] {
        let world = World::new().await;
        world.route53.tag(PRIMARY, tag.0, Some(&tag.1));
        assert_eq!(world.ticks().await["outcome"], "armed", "{tag:?}");
        assert_eq!(world.path(), HEALTHY, "{tag:?}");
    }
}

#[tokio::test]
async fn an_alarm_from_before_does_not_lock_what_was_restored_while_the_check_could_not_be_read() {
    // Where it may not be read, the update is tried for long; else, reading the check is.
    for denied in [true, false] {
        let world = World::new().await;
        world.fails_and_is_locked().await;
        world.passes(600);
        let restored = || {
            let at = |ago| DateTime::from_timestamp(world.now() - ago, 0).unwrap().to_rfc3339();
            let tag = format!("v=3 seen={} done={} to=/lb-check by=x", at(2), at(1)).replace("+00:00", "Z");
            world.route53.set_path(PRIMARY, HEALTHY);
            world.route53.tag(PRIMARY, "failover-lock:in", Some(&tag));
        };
        let unread = if denied { (403, "AccessDenied") } else { (503, "ServiceUnavailable") };
        world.route53.fail_always("GetHealthCheck", Fault::Error(unread.0, unread.1, "none"));
        let held = world.route53.hold(if denied { "UpdateHealthCheck" } else { "ListTagsForResource" });
        let crossing = async {
            held.reached().await;
            if denied {
                world.route53.fail("UpdateHealthCheck", Fault::Error(503, "ServiceUnavailable", "busy"));
                restored();
                held.release();
            } else {
                held.release();
                tokio::time::sleep(Duration::from_millis(300)).await;
                restored();
            }
        };
        let system = world.system().await;
        let event = delivered(&[&world.message(660)]);
        let handled = system.handle(Handler::Lock, &event, Deadline::after(Duration::from_secs(4)));
        let (report, ()) = tokio::join!(handled, crossing);
        let outcome = json!(report.into_answer().unwrap())["outcomes"][0].clone();
        is(&outcome, "ignored", "older_than_restore");
        assert_eq!(world.path(), HEALTHY, "{denied}");
        // Without a restore, it is locked although nothing can be read of it.
        assert_eq!(world.notified(0).await["outcome"], "locked", "{denied}");
    }
}

#[tokio::test]
async fn an_alarm_that_crosses_a_restore_is_not_swallowed() {
    for (at, foreign_tags) in
        [("ChangeTagsForResource", 0), ("UpdateHealthCheck", 0), ("UpdateHealthCheck", 9)]
    {
        let world = World::new().await;
        world.has_tags_of_others(foreign_tags);
        world.fails_and_is_locked().await;
        world.alarm("OK");
        world.passes(60);
        // The restore has read the check, and its next call is still on its way.
        let held = world.route53.hold(at);
        let restoring = world.restore();
        let crossing = async {
            held.reached().await;
            world.passes(1);
            world.alarm("ALARM");
            assert_eq!(world.notified(0).await["outcome"], "already_locked");
            held.release();
        };
        let (restored, ()) = tokio::join!(restoring, crossing);
        let error = restored.unwrap_err();
        assert!(error.contains("after this request began") && error.contains("primary-unhealthy"), "{error}");
        assert_eq!(world.path(), LOCKED, "{at}");
        assert_eq!(world.ticks().await["outcome"], "already_locked", "{at}");
        assert_eq!(world.path(), LOCKED, "{at}");
        // Repeated by a person who has looked again, it succeeds.
        world.passes(1);
        assert_eq!(world.restore().await.unwrap()["outcome"], "restored", "{at}");
    }
}

#[tokio::test]
async fn a_restore_that_meets_another_one_leaves_its_record() {
    for (call, passed, foreign_tags) in [
        ("UpdateHealthCheck", 0, 0),
        ("UpdateHealthCheck", 0, 9),
        ("ChangeTagsForResource", 0, 0),
        ("ChangeTagsForResource", 0, 9),
        ("ListTagsForResource", 1, 0),
        ("ListTagsForResource", 1, 9),
    ] {
        let world = World::new().await;
        world.has_tags_of_others(foreign_tags);
        world.fails_and_is_locked().await;
        world.alarm("OK");
        let held = world.hold_after(call, passed);
        let crossing = async {
            held.reached().await;
            let first = world.restore().await.unwrap();
            held.release();
            first
        };
        let (second, first) = tokio::join!(world.restore(), crossing);
        assert_eq!(first["outcome"], "restored");
        // What the first one recorded tells the second one.
        assert_eq!(second.unwrap()["outcome"], "already_restored", "{call} {foreign_tags}");
        assert_eq!(world.path(), HEALTHY);
        assert_eq!(world.ticks().await["outcome"], "armed", "{call} {foreign_tags}");
    }
}

#[tokio::test]
async fn an_alarm_from_before_that_crosses_a_restore_leaves_the_check_restored() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    let crossing = async || {
        // A second alarm, a little newer than the one that locked, and delivered late.
        assert_eq!(world.notified(30).await["outcome"], "already_locked");
    };
    assert_eq!(world.restore_crossed_by(crossing).await.unwrap()["outcome"], "restored");
    is(&world.notified(30).await, "ignored", "older_than_restore");
    assert_eq!(world.path(), HEALTHY);
}

#[tokio::test]
async fn the_locks_own_echo_does_not_lock_again_and_a_new_failure_does() {
    // Seconds from the restore to the breaching datapoint, and to the alarm's change.
    for (datapoint, period, changed, healthy, locks) in [
        (-60, 60, 60, true, false),
        (-1, 60, 120, false, false),
        // Until the checkers have turned (3 × 30 s), only they can tell.
        (30, 60, 120, true, false),
        (30, 60, 120, false, true),
        (120, 60, 180, true, true),
        // The datapoint is much older than the change: it may be that the failure lasts.
        (-60, 60, 900, true, false),
        (-60, 60, 900, false, true),
        // With a long period the change comes long after its datapoint began.
        (-60, 300, 330, true, false),
        (-60, 300, 900, true, false),
        (-60, 300, 900, false, true),
    ] {
        for by_message in [true, false] {
            let world = World::new().await;
            world.route53.set_path(PRIMARY, LOCKED);
            let locked_at = DateTime::from_timestamp(world.now(), 0).unwrap().to_rfc3339();
            world.route53.tag(PRIMARY, "failover-lock:out", Some(&format!("v=2 at={locked_at}")));
            world.passes(60);
            world.restore().await.unwrap();
            let restored_at = world.now();
            world.passes(changed);
            let mut check = world.route53.check(PRIMARY).reported(if healthy { 16 } else { 0 });
            check.version = world.route53.check(PRIMARY).version;
            world.route53.put(PRIMARY, check);
            let at = DateTime::from_timestamp(restored_at + datapoint, 0).unwrap();
            let outcome = if by_message {
                let reason = format!(
                    "Threshold Crossed: 1 out of the last 1 datapoints [0.0 ({})] was less than the threshold (1.0) (minimum 1 datapoint for OK -> ALARM transition).",
                    at.format("%d/%m/%y %H:%M:%S")
                );
                let message = world
                    .message(0)
                    .replace("\"AlarmName\"", &format!("\"NewStateReason\":{},\"AlarmName\"", json!(reason)))
                    .replace("\"Namespace\"", &format!("\"Period\":{period},\"Namespace\""));
                world.call(Handler::Lock, &delivered(&[&message])).await.unwrap()
            } else {
                #[expect(clippy::cast_precision_loss, reason = "a double holds the seconds of our days")]
                let breaching = Some(at.timestamp() as f64);
                let alarm = Alarm::on(PRIMARY, "ALARM", world.seconds_of_alarm());
                world.put(Alarm { breaching, period, ..alarm });
                world.ticks().await
            };
            let case = format!("{datapoint} {period} {changed} {healthy} {by_message}: {outcome}");
            // A tick takes the alarm for the lock's own a little longer: it comes again in a minute.
            if by_message || datapoint != 30 || healthy {
                assert_eq!(outcome["outcome"] == "locked", locks, "{case}");
            }
            assert_eq!(world.path() == LOCKED, outcome["outcome"] == "locked", "{case}");
        }
    }
}

#[tokio::test]
async fn a_primary_that_fails_anew_before_its_alarm_was_ok_is_locked_on_route_53s_verdict() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.restore().await.unwrap();
    is(&world.ticks().await, "unprotected", "older_than_restore");
    world.passes(240);
    is(&world.ticks().await, "unprotected", "older_than_restore");
    let check = world.route53.check(PRIMARY);
    world.route53.put(PRIMARY, check.reported(0));
    assert_eq!(world.ticks().await["outcome"], "locked");
}

#[tokio::test]
async fn the_path_from_before_is_restored() {
    let world = World::on("/health/v2?deep=1").await;
    world.fails_and_is_locked().await;
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    let restored = world.restore().await.unwrap();
    assert_eq!((&restored["outcome"], &restored["path"]), (&"restored".into(), &"/health/v2?deep=1".into()));
    world.alarm("OK");
    assert_eq!(world.ticks().await["outcome"], "armed", "it is no foreign path any more");
}

#[tokio::test]
async fn only_the_path_from_before_is_restored_unless_the_request_names_another() {
    let world = World::new().await;
    world.route53.set_path(PRIMARY, "/deep");
    world.fails_and_is_locked().await;
    // The primary answers at /lb-check; that it is not healthy, its own check would say.
    assert!(world.restore().await.unwrap_err().contains("/deep answers 404"));
    assert_eq!(world.path(), LOCKED);
    let named = |path: &str| json!({ "healthCheckId": PRIMARY, "path": path }).to_string();
    assert!(
        world.call(Handler::Restore, &named("lb-check")).await.unwrap_err().contains("does not start with /")
    );
    assert_eq!(world.call(Handler::Restore, &named(HEALTHY)).await.unwrap()["path"], HEALTHY);

    let world = World::new().await;
    let long: &str = format!("/{}", "x".repeat(250)).leak();
    world.route53.set_path(PRIMARY, long);
    world.fails_and_is_locked().await;
    assert!(world.restore().await.unwrap_err().contains("too long for the tag"));
    assert_eq!(world.call(Handler::Restore, &named(HEALTHY)).await.unwrap()["path"], HEALTHY);
}

#[tokio::test]
async fn what_is_not_permitted_to_be_read_is_not_guessed() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.route53.fail_always("ListTagsForResource", Fault::Error(403, "AccessDenied", "no"));
    assert!(
        world.restore().await.unwrap_err().contains("Grant the caller's role route53:ListTagsForResource")
    );
    assert_eq!(world.path(), LOCKED);
    let named = json!({ "healthCheckId": PRIMARY, "path": HEALTHY }).to_string();
    assert_eq!(world.call(Handler::Restore, &named).await.unwrap()["outcome"], "restored");
}

#[tokio::test]
async fn a_check_with_room_for_one_tag_is_locked_restored_and_reported() {
    let world = World::new().await;
    world.route53.set_path(PRIMARY, HEALTHY);
    world.has_tags_of_others(9);
    for _ in 0..2 {
        world.fails_and_is_locked().await;
        assert_eq!(world.ticks().await["outcome"], "already_locked");
        assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
        is(&world.notified(60).await, "ignored", "older_than_restore");
        world.alarm("OK");
        assert_eq!(world.ticks().await["outcome"], "armed");
        world.passes(600);
    }
    world.route53.tag(PRIMARY, "failover-lock:in", None);
    world.route53.tag(PRIMARY, "team:9", Some("x"));
    world.fails_and_is_locked().await;
    // Without a record the next tick would lock again: force does not help.
    let forced = json!({ "healthCheckId": PRIMARY, "force": true }).to_string();
    let error = world.call(Handler::Restore, &forced).await.unwrap_err();
    assert!(error.contains("at most 10 tags") && error.contains("remove a tag"), "{error}");
    assert_eq!(world.path(), LOCKED);
    world.route53.tag(PRIMARY, "team:9", None);
    assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
}

#[tokio::test]
async fn a_lock_for_which_there_is_no_room_is_recorded_as_soon_as_there_is() {
    let world = World::new().await;
    world.has_tags_of_others(10);
    world.fails_and_is_locked().await;
    let (system, written) = (world.system().await, writes(&world).len());
    let tick = async || {
        let report = system.handle(Handler::Reconcile, "{}", Deadline::after(Duration::from_secs(20))).await;
        json!(report.into_answer().unwrap())["outcomes"][0]["outcome"].clone()
    };
    for _ in 0..2 {
        assert_eq!(tick().await, "already_locked");
        assert_eq!(writes(&world).len(), written);
        world.passes(60);
    }
    world.route53.tag(PRIMARY, "team:9", None);
    assert_eq!(tick().await, "already_locked");
    assert!(world.route53.check(PRIMARY).tags["failover-lock:out"].starts_with("v=3 "));
}

#[tokio::test]
async fn a_lock_is_recorded_although_the_tags_cannot_be_read_where_no_other_record_is_lost() {
    // The check is read, or was never changed before.
    for unread in [&["ListTagsForResource"][..], &["ListTagsForResource", "GetHealthCheck"]] {
        let world = World::on("/health/v2").await;
        if unread.len() == 1 {
            world.route53.set_path(PRIMARY, "/health/v2");
        }
        for read in unread {
            world.route53.fail_always(read, Fault::Error(503, "ServiceUnavailable", "later"));
        }
        let (system, event) = (world.system().await, delivered(&[&world.message(0)]));
        let report = system.handle(Handler::Lock, &event, Deadline::after(Duration::from_secs(6))).await;
        assert_eq!(json!(report.into_answer().unwrap())["outcomes"][0]["outcome"], "locked");
        let record = &world.route53.check(PRIMARY).tags["failover-lock:out"];
        assert_eq!(record.contains("before=/health/v2 "), unread.len() == 1, "{record}");
        assert!(record.starts_with(if unread.len() == 1 { "v=3 " } else { "v=2 " }), "{record}");
    }
}

#[tokio::test]
async fn a_tick_leaves_the_record_of_a_restore_that_is_under_way() {
    let world = World::new().await;
    world.has_tags_of_others(9);
    world.route53.set_path(PRIMARY, LOCKED);
    let held = world.route53.hold("UpdateHealthCheck");
    world.route53.fail_always("UpdateHealthCheck", Fault::Error(503, "ServiceUnavailable", "later"));
    let meanwhile = async {
        held.reached().await;
        held.release();
        let tick = world.ticks().await;
        world.route53.fail_never("UpdateHealthCheck");
        tick
    };
    let (restored, tick) = tokio::join!(world.restore(), meanwhile);
    assert_eq!(
        (&tick["outcome"], &restored.unwrap()["outcome"]),
        (&"already_locked".into(), &"restored".into())
    );
    world.passes(120);
    assert_eq!(world.ticks().await["outcome"], "armed", "{:?}", world.route53.check(PRIMARY).tags);
}

#[tokio::test]
async fn a_restore_while_the_record_of_a_lock_by_hand_is_waited_for_stays_on_record() {
    for (foreign_tags, notified) in [(0, false), (9, false), (0, true), (9, true)] {
        let mut world = World::new().await;
        world.variables.push(("RELOCK_UNDONE", "true"));
        world.has_tags_of_others(foreign_tags);
        world.route53.set_path(PRIMARY, LOCKED);
        // The first reading of those that wait.
        let held = world.hold_after("ListTagsForResource", 1);
        let locking = async { if notified { world.notified(5).await } else { world.ticks().await } };
        let meanwhile = async {
            held.reached().await;
            world.passes(1);
            let restored = world.restore().await;
            held.release();
            restored
        };
        let (locked, restored) = tokio::join!(locking, meanwhile);
        let outcomes = (&locked["outcome"], &restored.unwrap()["outcome"]);
        assert_eq!(outcomes, (&"already_locked".into(), &"restored".into()));
        world.passes(120);
        let tags = world.route53.check(PRIMARY).tags;
        assert_eq!(world.ticks().await["outcome"], "armed", "{foreign_tags} {notified} {tags:?}");
        assert_eq!(world.path(), HEALTHY);
    }
}

#[tokio::test]
async fn a_lock_that_nothing_could_be_read_for_keeps_the_path_from_before_on_record() {
    let world = World::on("/health/v2").await;
    world.fails_and_is_locked().await;
    for read in ["GetHealthCheck", "ListTagsForResource"] {
        world.route53.fail_always(read, Fault::Error(503, "ServiceUnavailable", "later"));
    }
    let system = world.system().await;
    let (event, held) = (delivered(&[&world.message(0)]), world.route53.hold("UpdateHealthCheck"));
    let recovering = async {
        held.reached().await;
        world.route53.fail_never("GetHealthCheck");
        world.route53.fail_never("ListTagsForResource");
        held.release();
    };
    let locking = system.handle(Handler::Lock, &event, Deadline::after(Duration::from_secs(4)));
    let (report, ()) = tokio::join!(locking, recovering);
    assert_eq!(json!(report.into_answer().unwrap())["outcomes"][0]["outcome"], "locked");
    let record = &world.route53.check(PRIMARY).tags["failover-lock:out"];
    assert!(record.starts_with("v=3 ") && record.contains("before=/health/v2 "), "{record}");
}

#[tokio::test]
async fn a_restore_that_failed_is_no_release_when_another_caller_sets_the_path_later() {
    let denied = Fault::Error(403, "AccessDenied", "not authorized");
    for (foreign_tags, in_service) in [(0, false), (9, false), (0, true), (9, true)] {
        for ended in [false, true] {
            let world = World::new().await;
            world.has_tags_of_others(foreign_tags);
            world.route53.set_path(PRIMARY, HEALTHY);
            world.fails_and_is_locked().await;
            world.alarm("OK");
            if in_service {
                // Someone has undone the lock, and a person calls that a restore.
                world.route53.set_path(PRIMARY, HEALTHY);
            }
            world.route53.fail_always("UpdateHealthCheck", denied.clone());
            if ended {
                // It could not even take its record back.
                world.route53.fail("ChangeTagsForResource", Fault::Pass);
                world.route53.fail_always("ChangeTagsForResource", denied.clone());
            }
            assert!(world.restore().await.unwrap_err().contains("AccessDenied"));
            world.route53.fail_never("UpdateHealthCheck");
            world.route53.fail_never("ChangeTagsForResource");
            if ended {
                world.passes(301);
            }
            world.route53.set_path(PRIMARY, HEALTHY);
            is(&world.ticks().await, "unprotected", "undone_by_hand");
        }
    }
}

#[tokio::test]
async fn an_alarm_from_before_a_restore_of_a_check_in_service_does_not_lock_at_any_of_its_calls() {
    for (call, passed) in [("UpdateHealthCheck", 0), ("ChangeTagsForResource", 1)] {
        let world = World::new().await;
        world.fails_and_is_locked().await;
        assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
        world.alarm("OK");
        world.passes(600);
        world.alarm("ALARM");
        world.passes(10);
        let held = world.hold_after(call, passed);
        let meanwhile = async {
            held.reached().await;
            let notified = world.notified(10).await;
            held.release();
            notified
        };
        let (restored, notified) = tokio::join!(world.restore(), meanwhile);
        is(&notified, "ignored", "older_than_restore");
        assert_eq!(restored.unwrap()["outcome"], "already_restored", "{call}");
        assert_eq!(world.path(), HEALTHY, "{call}");
    }
}

#[tokio::test]
async fn a_restore_of_a_check_with_room_for_one_tag_is_not_undone_by_a_tick_at_any_of_its_calls() {
    for (call, held) in [("UpdateHealthCheck", 0), ("ChangeTagsForResource", 0), ("ChangeTagsForResource", 1)]
    {
        let mut world = World::new().await;
        world.variables.push(("RELOCK_UNDONE", "true"));
        world.has_tags_of_others(9);
        world.fails_and_is_locked().await;
        let held = world.hold_after(call, held);
        let meanwhile = async {
            held.reached().await;
            let tick = world.ticks().await;
            held.release();
            tick
        };
        let (restored, tick) = tokio::join!(world.restore(), meanwhile);
        assert_eq!(restored.unwrap()["outcome"], "restored", "{call}: {tick}");
        assert_eq!(world.path(), HEALTHY, "{call}: {tick}");
        world.passes(120);
        world.alarm("OK");
        assert_eq!(world.ticks().await["outcome"], "armed");
    }
}

#[tokio::test]
async fn a_restore_with_room_for_one_tag_that_was_tried_twice_is_no_release_either() {
    let world = World::new().await;
    world.has_tags_of_others(9);
    world.fails_and_is_locked().await;
    world.alarm("OK");
    // Someone changes another attribute in between; a second request ends before the path, and neither takes its record back.
    world.route53.fail("UpdateHealthCheck", Fault::Meddle(LOCKED));
    let denied = Fault::Error(403, "AccessDenied", "not authorized");
    world.route53.fail("UpdateHealthCheck", denied.clone());
    for _ in 0..2 {
        world.route53.fail("ChangeTagsForResource", Fault::Pass);
        world.route53.fail("ChangeTagsForResource", denied.clone());
    }
    assert!(world.restore().await.unwrap_err().contains("look at it again"));
    assert!(world.restore().await.unwrap_err().contains("AccessDenied"));
    world.passes(301);
    world.route53.set_path(PRIMARY, HEALTHY);
    is(&world.ticks().await, "unprotected", "undone_by_hand");
}

#[tokio::test]
async fn a_restore_that_died_is_no_release_from_an_alarm_that_it_has_not_seen() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.alarm("OK");
    let denied = Fault::Error(403, "AccessDenied", "not authorized");
    world.route53.fail_always("UpdateHealthCheck", denied.clone());
    world.route53.fail("ChangeTagsForResource", Fault::Pass);
    world.route53.fail_always("ChangeTagsForResource", denied);
    world.restore().await.unwrap_err();
    world.route53.fail_never("UpdateHealthCheck");
    world.route53.fail_never("ChangeTagsForResource");
    world.passes(10);
    // The notification of a new failure is lost, a tick records it, and Terraform makes the version of the restore.
    world.alarm("ALARM");
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    world.route53.set_path(PRIMARY, HEALTHY);
    for state in ["ALARM", "OK"] {
        world.alarm(state);
        is(&world.ticks().await, "unprotected", "undone_by_hand");
    }
}

#[tokio::test]
async fn a_lock_stays_one_when_the_functions_get_another_locked_path() {
    let mut world = World::new().await;
    world.fails_and_is_locked().await;
    world.variables.push(("LOCKED_PATH", "/locked/v2"));
    world.variables.push(("RELOCK_UNDONE", "true"));
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    assert_eq!(world.path(), LOCKED);
    // The next alarm moves it, and the path from before stays on record.
    world.alarm("ALARM");
    assert_eq!(world.notified(0).await["outcome"], "already_locked");
    assert_eq!(world.path(), "/locked/v2");
    let restored = world.restore().await.unwrap();
    assert_eq!((&restored["outcome"], &restored["path"]), (&"restored".into(), &HEALTHY.into()));

    let mut world = World::new().await;
    world.fails_and_is_locked().await;
    world.variables.push(("LOCKED_PATH", "/locked/v2"));
    assert_eq!(world.restore().await.unwrap()["path"], HEALTHY);
    // Changed again before the next alarm, its former path is not known, and the request names the one in service.
    let mut world = World::new().await;
    world.fails_and_is_locked().await;
    world.variables.push(("LOCKED_PATH", "/locked/v2"));
    world.route53.set_path(PRIMARY, LOCKED);
    is(&world.ticks().await, "unprotected", "undone_by_hand");
    let error = world.restore().await.unwrap_err();
    assert!(error.contains("name the path in service instead"), "{error}");
    let named = json!({ "healthCheckId": PRIMARY, "path": HEALTHY }).to_string();
    let restored = world.call(Handler::Restore, &named).await.unwrap();
    assert_eq!((&restored["outcome"], &restored["path"]), (&"restored".into(), &HEALTHY.into()));

    let mut world = World::new().await;
    world.variables.push(("LOCKED_PATH", "/locked/v2"));
    // A change by someone else is one, whatever was locked before.
    world.passes(600);
    world.alarm("OK");
    world.fails_and_is_locked().await;
    world.alarm("OK");
    world.route53.set_path(PRIMARY, LOCKED);
    is(&world.ticks().await, "unprotected", "undone_by_hand");
}

#[tokio::test]
async fn an_alarm_on_a_query_over_minutes_does_not_lock_for_the_locks_own_echo() {
    let world = World::new().await;
    let query = |state, breaching| Alarm {
        changed_at: world.seconds_of_alarm(),
        breaching,
        period: 300,
        ..Alarm::of(Kind::Query(vec![PRIMARY.to_owned()]), state)
    };
    let began = world.seconds_of_alarm() - 300.0;
    world.fails_and_is_locked().await;
    world.passes(600);
    world.put(query("OK", None));
    assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
    // The period began while the check was locked, and CloudWatch evaluates it minutes later.
    let within_the_lock = began + 900.0;
    world.passes(400);
    world.put(query("ALARM", Some(within_the_lock)));
    is(&world.ticks().await, "unprotected", "older_than_restore");
    let time = |seconds: i64| DateTime::from_timestamp(seconds, 0).expect("a time of our days");
    let datapoint = time(world.now() - 460).format("%d/%m/%y %H:%M:%S").to_string();
    let message = json!({
        "AlarmName": "query",
        "NewStateValue": "ALARM",
        "NewStateReason": format!("Threshold Crossed: 1 datapoint [0.0 ({datapoint})] was less than 1.0."),
        "StateChangeTime": time(world.now()).to_rfc3339(),
        "AlarmContributorAttributes": { "HealthCheckId": PRIMARY },
        "Trigger": { "Metrics": [{
            "Id": "q", "Period": 300,
            "Expression": r#"SELECT MIN(HealthCheckStatus) FROM "AWS/Route53" GROUP BY HealthCheckId"#,
        }] },
    });
    let answer = world.call(Handler::Lock, &delivered(&[&message.to_string()])).await.unwrap();
    is(&answer, "ignored", "older_than_restore");
    // A datapoint from after the restore is a new failure.
    world.passes(600);
    world.put(query("ALARM", Some(world.seconds_of_alarm() - 300.0)));
    assert_eq!(world.ticks().await["outcome"], "locked");
}

#[tokio::test]
async fn a_composite_alarm_does_not_lock_for_a_child_that_shows_the_lock() {
    let ignored = ("ignored", "older_than_restore");
    for (reports, waits, now, told, expected) in [
        (16, 10, "ALARM", None, ignored),
        (0, 10, "ALARM", None, ignored),
        (16, 300, "ALARM", None, ignored),
        // The checkers find it unhealthy, minutes after the restore: it has failed anew.
        (0, 300, "ALARM", None, ("locked", "")),
        // It is OK when the message arrives: since when it was in ALARM, the message may say.
        (16, 10, "OK", Some("before"), ignored),
        (16, 300, "OK", Some("before"), ignored),
        (16, 300, "OK", None, ignored),
        (0, 300, "OK", Some("before"), ("locked", "")),
        (16, 300, "OK", Some("after"), ("locked", "")),
    ] {
        let world = World::new().await;
        world.fails_and_is_locked().await;
        let check = world.route53.check(PRIMARY);
        world.route53.put(PRIMARY, check.reported(reports));
        assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
        world.passes(waits);
        let time =
            |seconds: i64| DateTime::from_timestamp(seconds, 0).expect("a time of our days").to_rfc3339();
        let changed_at = time(world.now());
        if now == "OK" {
            world.alarm(now);
        }
        let mut child = json!({ "Arn": "arn:aws:cloudwatch:us-east-1:123456789012:alarm:primary-unhealthy" });
        if let Some(since) = told {
            let since = if since == "before" { START } else { world.now() };
            child["State"] = json!({ "Value": "ALARM", "Timestamp": time(since) });
        }
        let message = json!({
            "AlarmName": "composite",
            "AlarmRule": "ALARM(primary-unhealthy) AND ALARM(business-hours)",
            "NewStateValue": "ALARM",
            "StateChangeTime": changed_at,
            "TriggeringChildren": [child],
        });
        let answer = world.call(Handler::Lock, &delivered(&[&message.to_string()])).await.unwrap();
        let reason = answer["reason"].as_str().unwrap_or_default();
        let seen = (answer["outcome"].as_str().unwrap(), reason);
        assert_eq!(seen, expected, "{reports} {waits} {now} {told:?}");
    }
}

#[tokio::test]
async fn a_restore_whose_end_is_not_on_record_is_completed_by_the_next_tick() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.alarm("OK");
    world.route53.fail("ChangeTagsForResource", Fault::Pass);
    world.route53.fail_always("ChangeTagsForResource", Fault::Error(403, "AccessDenied", "not authorized"));
    assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
    world.route53.fail_never("ChangeTagsForResource");
    assert_eq!(world.ticks().await["outcome"], "armed");
    world.passes(3600);
    assert_eq!(world.ticks().await["outcome"], "armed");
}

#[tokio::test]
async fn two_executions_that_lock_at_once_keep_the_path_from_before() {
    let world = World::on("/health/v2").await;
    world.alarm("ALARM");
    let (held, recorded) = (world.route53.hold("ChangeTagsForResource"), Notify::new());
    let first = async {
        let outcome = world.notified(0).await;
        recorded.notify_one();
        outcome
    };
    let second = async {
        held.reached().await;
        world.passes(1);
        // The second one has read the check and its tags, and updates, when the first one records.
        let updating = world.route53.hold("UpdateHealthCheck");
        let crossing = async {
            updating.reached().await;
            held.release();
            recorded.notified().await;
            updating.release();
        };
        tokio::join!(world.notified(0), crossing).0
    };
    let (first, second) = tokio::join!(first, second);
    assert_eq!((&first["outcome"], &second["outcome"]), (&"locked".into(), &"already_locked".into()));
    assert_eq!(world.restore().await.unwrap()["path"], "/health/v2");
}

#[tokio::test]
async fn a_record_from_the_future_is_not_overruled_by_a_clock_that_is_behind() {
    let world = World::on("/health/v2").await;
    world.fails_and_is_locked().await;
    world.passes(-300);
    let error = world.restore().await.unwrap_err();
    assert!(error.contains("If the clock here is behind"), "{error}");
    assert_eq!(world.path(), LOCKED);
    let named = json!({ "healthCheckId": PRIMARY, "force": true, "path": "/health/v2" }).to_string();
    assert_eq!(world.call(Handler::Restore, &named).await.unwrap()["outcome"], "restored");
}

#[tokio::test]
async fn an_alarm_that_was_answered_does_not_lock_what_a_person_undid() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.route53.set_path(PRIMARY, HEALTHY);
    is(&world.notified(60).await, "ignored", "undone_by_hand");
    is(&world.ticks().await, "unprotected", "undone_by_hand");
    assert_eq!(world.notified(0).await["outcome"], "locked", "a newer one is a new failure");
}

#[tokio::test]
async fn a_muted_alarm_does_not_hide_one_whose_notification_was_lost() {
    let world = World::new().await;
    world.alarm("ALARM");
    world.passes(20);
    let percentage = Kind::Metric("HealthCheckPercentageHealthy", PRIMARY.to_owned());
    let muted =
        Alarm { muted: true, kind: percentage, ..Alarm::on(PRIMARY, "ALARM", world.seconds_of_alarm()) };
    world.route53.put_alarm("percentage", muted);
    let outcome = world.ticks().await;
    assert_eq!((&outcome["outcome"], &outcome["alarm"]), (&"locked".into(), &"primary-unhealthy".into()));
}

#[tokio::test]
async fn a_lock_that_comes_between_a_ticks_reads_is_not_taken_for_one_that_was_undone() {
    let world = World::new().await;
    world.route53.set_path(PRIMARY, HEALTHY);
    let held = world.route53.hold("ListTagsForResource");
    let ticking = world.ticks();
    let crossing = async {
        held.reached().await;
        world.alarm("ALARM");
        assert_eq!(world.notified(0).await["outcome"], "locked");
        held.release();
    };
    let (outcome, ()) = tokio::join!(ticking, crossing);
    assert_eq!(outcome["outcome"], "already_locked");
}

#[tokio::test]
async fn a_release_of_a_check_that_was_undone_by_hand_is_on_record() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.route53.set_path(PRIMARY, HEALTHY);
    assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
    is(&world.notified(60).await, "ignored", "older_than_restore");
    assert_eq!(world.path(), HEALTHY);
}

#[tokio::test]
async fn a_check_that_was_locked_by_hand_is_recorded_so_that_its_undoing_is_reported() {
    let world = World::new().await;
    world.route53.set_path(PRIMARY, LOCKED);
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    world.route53.set_path(PRIMARY, HEALTHY);
    is(&world.ticks().await, "unprotected", "undone_by_hand");
}

#[tokio::test]
async fn an_alarm_whose_actions_were_turned_on_late_locks_only_on_route_53s_verdict() {
    let world = World::new().await;
    let enabled = |world: &World| Alarm {
        configured_at: Some(world.seconds_of_alarm() + 600.0),
        ..Alarm::on(PRIMARY, "ALARM", world.seconds_of_alarm())
    };
    world.put(enabled(&world));
    world.passes(660);
    is(&world.ticks().await, "unprotected", "enabled_in_alarm");
    let check = world.route53.check(PRIMARY);
    world.route53.put(PRIMARY, check.reported(0));
    assert_eq!(world.ticks().await["outcome"], "locked");
}

#[tokio::test]
async fn a_lock_whose_alarm_is_none_of_the_checks_any_more_is_not_set_again_while_all_of_them_are_muted() {
    let mut world = World::new().await;
    world.variables.push(("RELOCK_UNDONE", "true"));
    let composite = world.message(0).replace("primary-unhealthy", "site-down");
    world.alarm("ALARM");
    let answer = world.call(Handler::Lock, &delivered(&[&composite])).await.unwrap();
    assert_eq!(answer["outcome"], "locked");
    world.passes(60);
    world.alarm("OK");
    world.route53.set_path(PRIMARY, HEALTHY);
    let percentage = |muted| Alarm {
        muted,
        kind: Kind::Metric("HealthCheckPercentageHealthy", PRIMARY.to_owned()),
        ..Alarm::on(PRIMARY, "OK", world.seconds_of_alarm())
    };
    world.put(Alarm { muted: true, ..Alarm::on(PRIMARY, "OK", world.seconds_of_alarm()) });
    world.route53.put_alarm("percentage", percentage(true));
    is(&world.ticks().await, "unprotected", "actions_muted");
    world.route53.put_alarm("percentage", percentage(false));
    assert_eq!(world.ticks().await["outcome"], "locked");
}

#[tokio::test]
async fn a_deferred_lock_is_not_forgotten_when_its_alarm_is_ok_first() {
    let world = waiting(0).await;
    world.passes(60);
    is(&world.ticks().await, "deferred", "secondary_unhealthy");
    world.route53.put(SECOND, Check::new("HTTP", 80).reported(16));
    world.put(Alarm { muted: true, ..Alarm::on(PRIMARY, "OK", world.seconds_of_alarm()) });
    is(&world.ticks().await, "unprotected", "actions_muted");
    world.alarm("OK");
    assert_eq!(world.ticks().await["outcome"], "locked");

    // A lock that could not be recorded would be forgotten: the alarm comes again.
    let world = World { variables: world.variables, ..World::new().await };
    world.route53.put(SECOND, Check::new("HTTP", 80).reported(0));
    world.alarm("ALARM");
    world.route53.fail_always("ChangeTagsForResource", Fault::Error(400, "InvalidInput", "too many tags"));
    let error = world.call(Handler::Lock, &delivered(&[&world.message(0)])).await.unwrap_err();
    assert!(error.contains("could not be recorded") && error.contains("too many tags"), "{error}");

    // A person may decide otherwise.
    let world = World { variables: world.variables, ..World::new().await };
    world.route53.put(SECOND, Check::new("HTTP", 80).reported(0));
    world.alarm("ALARM");
    world.notified(0).await;
    world.passes(60);
    world.alarm("OK");
    assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
    world.route53.put(SECOND, Check::new("HTTP", 80).reported(16));
    assert_eq!(world.ticks().await["outcome"], "armed");
}

#[tokio::test]
async fn the_former_record_is_understood_and_makes_room() {
    const FORMER: [&str; 3] =
        ["failover-lock:locked-at", "failover-lock:alarm-changed-at", "failover-lock:alarm"];
    let world = World::new().await;
    let time = |ago: i64| DateTime::from_timestamp(world.now() - ago, 0).unwrap().to_rfc3339();
    world.route53.set_path(PRIMARY, LOCKED);
    for (key, value) in FORMER.into_iter().zip([time(600), time(610), "primary".to_owned()]) {
        world.route53.tag(PRIMARY, key, Some(&value));
    }
    world.has_tags_of_others(6);
    is(&world.ticks().await, "unprotected", "lock_does_not_hold");
    world.alarm("ALARM");
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    world.route53.set_path(PRIMARY, HEALTHY);
    world.alarm("OK");
    is(&world.ticks().await, "unprotected", "undone_by_hand");
    assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
    let tags = world.route53.check(PRIMARY).tags;
    let ours: Vec<_> = tags.keys().filter(|key| key.starts_with("failover-lock:")).collect();
    assert_eq!(ours, ["failover-lock:in", "failover-lock:out"], "{tags:?}");
    assert_eq!(world.ticks().await["outcome"], "armed");
}

#[tokio::test]
async fn a_restore_that_a_person_wrote_by_hand_counts() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.writes_that_it_is_restored();
    // It has no effect yet, and what ticks and late notifications record leaves it there.
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    assert_eq!(world.notified(30).await["outcome"], "already_locked");
    world.route53.set_path(PRIMARY, HEALTHY);
    is(&world.notified(60).await, "ignored", "older_than_restore");
    world.alarm("OK");
    assert_eq!(world.ticks().await["outcome"], "armed");
}

#[tokio::test]
async fn a_restore_by_hand_counts_also_if_no_function_saw_the_lock_before_it() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
    world.alarm("OK");
    assert_eq!(world.ticks().await["outcome"], "armed");
    // Weeks later the functions do not run, and a person locks and restores without them.
    world.passes(14 * 24 * 3600);
    world.alarm("ALARM");
    world.route53.set_path(PRIMARY, LOCKED);
    world.passes(3600);
    world.writes_that_it_is_restored();
    world.route53.set_path(PRIMARY, HEALTHY);
    is(&world.notified(3600).await, "ignored", "older_than_restore");
    world.passes(60);
    is(&world.ticks().await, "unprotected", "older_than_restore");
    let tags = world.route53.check(PRIMARY).tags;
    assert!(!tags.contains_key("failover-lock:restored-at"), "{tags:?}");
    world.alarm("OK");
    assert_eq!(world.ticks().await["outcome"], "armed");
    world.passes(3600);
    is(&world.notified(7000).await, "ignored", "older_than_restore");
}

#[tokio::test]
async fn a_restore_by_hand_of_a_lock_by_hand_over_one_that_was_undone_counts() {
    for relocks in ["false", "true"] {
        let mut world = World::new().await;
        world.fails_and_is_locked().await;
        world.route53.set_path(PRIMARY, HEALTHY);
        world.alarm("OK");
        if relocks == "false" {
            is(&world.ticks().await, "unprotected", "undone_by_hand");
        }
        world.variables.push(("RELOCK_UNDONE", relocks));
        world.route53.set_path(PRIMARY, LOCKED);
        for _ in 0..2 {
            world.passes(60);
            assert_eq!(world.ticks().await["outcome"], "already_locked");
        }
        world.writes_that_it_is_restored();
        world.passes(60);
        assert_eq!(world.ticks().await["outcome"], "already_locked");
        world.route53.set_path(PRIMARY, HEALTHY);
        assert_eq!(world.ticks().await["outcome"], "armed", "{relocks}");
    }
}

#[tokio::test]
async fn a_restore_by_hand_is_used_up_once_and_undoes_no_later_lock_by_hand() {
    // Of a lock that a function recorded, and set back and set again before the next tick.
    for was_restored in [false, true] {
        let world = World::new().await;
        if was_restored {
            world.fails_and_is_locked().await;
            assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
            world.alarm("OK");
            world.passes(24 * 3600);
        }
        world.fails_and_is_locked().await;
        world.writes_that_it_is_restored();
        world.route53.set_path(PRIMARY, HEALTHY);
        world.passes(20);
        world.route53.set_path(PRIMARY, LOCKED);
        world.passes(40);
        assert_eq!(world.ticks().await["outcome"], "already_locked");
        world.alarm("OK");
        world.passes(300);
        world.route53.set_path(PRIMARY, HEALTHY);
        is(&world.ticks().await, "unprotected", "undone_by_hand");
    }

    // Of one that no function recorded: the next tick takes the tag for what it was.
    let world = World::new().await;
    world.route53.set_path(PRIMARY, LOCKED);
    world.passes(60);
    world.writes_that_it_is_restored();
    world.route53.set_path(PRIMARY, HEALTHY);
    world.passes(60);
    assert_eq!(world.ticks().await["outcome"], "armed");
    let tags = world.route53.check(PRIMARY).tags;
    assert!(
        tags.contains_key("failover-lock:in") && !tags.contains_key("failover-lock:restored-at"),
        "{tags:?}"
    );
    world.passes(600);
    world.route53.set_path(PRIMARY, LOCKED);
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    let out = world.route53.check(PRIMARY).tags["failover-lock:out"].clone();
    let now = DateTime::from_timestamp(world.now(), 0).unwrap().to_rfc3339().replace("+00:00", "Z");
    assert!(out.contains(&format!(" at={now} ")), "{out}");
    world.route53.set_path(PRIMARY, HEALTHY);
    is(&world.ticks().await, "unprotected", "undone_by_hand");
}

#[tokio::test]
async fn a_restore_by_hand_is_told_when_its_path_is_set_and_recorded_as_done() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    let now = world.writes_that_it_is_restored();
    world.passes(29 * 60);
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    world.route53.set_path(PRIMARY, HEALTHY);
    world.alarm("OK");
    world.passes(60);
    let system = world.system().await;
    let report = system.handle(Handler::Reconcile, "{}", Deadline::after(Duration::from_secs(20))).await;
    let metrics: Vec<_> = report.metrics("failover-reconcile", SystemTime::now()).collect();
    assert!(metrics.iter().any(|line| line.contains("\"Restored\":1")), "{metrics:?}");
    let tags = world.route53.check(PRIMARY).tags;
    // As done when the tag was written: what failed since then is no echo of the lock.
    let begun = now.replace("+00:00", ".000Z");
    assert!(tags["failover-lock:in"].contains(&format!(" seen={begun} done={begun} ")), "{tags:?}");
    assert!(!tags.contains_key("failover-lock:restored-at"), "{tags:?}");
    // Whatever happens later, it was restored.
    world.passes(24 * 60 * 60);
    assert_eq!(world.ticks().await["outcome"], "armed");
}

#[tokio::test]
async fn a_restore_by_hand_that_was_not_finished_does_not_hide_that_someone_else_sets_the_path_back() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.writes_that_it_is_restored();
    world.route53.fail_always("ChangeTagsForResource", Fault::Error(500, "InternalFailure", "no"));
    world.passes(30 * 60 + 1);
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    world.route53.fail_never("ChangeTagsForResource");
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    assert!(!world.route53.check(PRIMARY).tags.contains_key("failover-lock:restored-at"));
    world.alarm("OK");
    world.route53.set_path(PRIMARY, HEALTHY);
    is(&world.ticks().await, "unprotected", "undone_by_hand");
}

#[tokio::test]
async fn an_old_tag_of_a_restore_by_hand_counts_for_nothing_although_no_tick_removed_it() {
    for path_after in [3 * 60 * 60, 35 * 60 + 1, 34 * 60] {
        let world = World::new().await;
        world.fails_and_is_locked().await;
        world.writes_that_it_is_restored();
        world.passes(path_after);
        world.alarm("OK");
        world.route53.set_path(PRIMARY, HEALTHY);
        if path_after > 35 * 60 {
            is(&world.ticks().await, "unprotected", "undone_by_hand");
        } else {
            assert_eq!(world.ticks().await["outcome"], "armed");
        }
    }
}

#[tokio::test]
async fn a_restore_by_hand_of_a_lock_that_waits_counts_with_the_path_and_not_with_the_tag() {
    let world = waiting(0).await;
    world.passes(60);
    world.writes_that_it_is_restored();
    is(&world.ticks().await, "deferred", "secondary_unhealthy");
    let tags = world.route53.check(PRIMARY).tags;
    assert!(
        tags.contains_key("failover-lock:restored-at") && !tags.contains_key("failover-lock:in"),
        "{tags:?}"
    );
    world.route53.set_path(PRIMARY, HEALTHY);
    world.route53.put(SECOND, Check::new("HTTP", 80).reported(16));
    assert_eq!(world.ticks().await["outcome"], "armed");
    assert!(world.route53.check(PRIMARY).tags.contains_key("failover-lock:in"));
}

#[tokio::test]
async fn a_lock_that_a_tick_finds_between_the_tag_and_the_path_of_a_restore_by_hand_is_restored() {
    let world = World::new().await;
    world.route53.set_path(PRIMARY, LOCKED);
    world.writes_that_it_is_restored();
    world.passes(30);
    world.alarm("ALARM");
    world.passes(30);
    world.alarm("OK");
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    assert!(world.route53.check(PRIMARY).tags.contains_key("failover-lock:out"));
    world.passes(60);
    world.route53.set_path(PRIMARY, HEALTHY);
    assert_eq!(world.ticks().await["outcome"], "armed");
}

#[tokio::test]
async fn a_function_that_ends_between_any_two_calls_leaves_a_state_that_the_next_tick_puts_right() {
    // The lock stands, and its record is lost: it is recorded, and its undoing reported.
    let world = World::new().await;
    world.route53.fail_always("ChangeTagsForResource", Fault::Error(400, "InvalidInput", "no"));
    world.fails_and_is_locked().await;
    world.route53.fail_never("ChangeTagsForResource");
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    world.alarm("OK");
    world.route53.set_path(PRIMARY, HEALTHY);
    is(&world.ticks().await, "unprotected", "undone_by_hand");

    // The restore is begun, and the path not set: the check stays out.
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.route53.fail_always("UpdateHealthCheck", Fault::Error(400, "InvalidInput", "no"));
    world.restore().await.unwrap_err();
    world.route53.fail_never("UpdateHealthCheck");
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    // Terraform sets the path, which is no restore.
    world.route53.set_path(PRIMARY, "/elsewhere");
    world.route53.set_path(PRIMARY, HEALTHY);
    world.alarm("OK");
    is(&world.ticks().await, "unprotected", "undone_by_hand");
}

#[tokio::test]
async fn a_queue_gets_back_what_could_not_be_handled_and_nothing_else() {
    let world = World::new().await;
    let record = |id: &str, message: &str| {
        let body = json!({ "Type": "Notification", "Message": message }).to_string();
        json!({ "messageId": id, "eventSource": "aws:sqs", "body": body })
    };
    let gone = message("gone", "ALARM", "2026-11-21T02:36:15.490+0000");
    let event =
        json!({ "Records": [record("a", "hello"), record("b", &gone), record("c", &world.message(0))] });
    let system = support::lock::system(&world.route53, &[]).await;
    let answer = support::lock::invoke(&system, Handler::Lock, &event.to_string()).await.unwrap();
    assert_eq!(answer["batchItemFailures"], json!([{ "itemIdentifier": "b" }]));
    let outcomes: Vec<_> = answer["outcomes"].as_array().unwrap().iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, ["ignored", "locked"]);
    assert_eq!(world.path(), LOCKED);
    // Where every message failed, a queue that is not set up for such answers must not lose them.
    let event = json!({ "Records": [record("b", &gone)] });
    support::lock::invoke(&system, Handler::Lock, &event.to_string()).await.unwrap_err();
}

/// The message of an alarm that changes now for a datapoint that began so many seconds ago.
pub(crate) fn message_of(world: &World, began: i64) -> String {
    let datapoint = DateTime::from_timestamp(world.now() - began, 0).expect("a time of our days");
    let reason = format!(
        "Threshold Crossed: 1 datapoint [0.0 ({})] was less than the threshold (1.0).",
        datapoint.format("%d/%m/%y %H:%M:%S")
    );
    world.message(0).replace("\"AlarmName\"", &format!("\"NewStateReason\":{},\"AlarmName\"", json!(reason)))
}

#[tokio::test]
async fn what_fails_after_a_restore_that_found_the_check_in_service_is_no_echo() {
    for undone in [false, true] {
        for began in [60, 20] {
            let world = World::new().await;
            if undone {
                world.fails_and_is_locked().await;
                world.route53.set_path(PRIMARY, HEALTHY);
                world.passes(3600);
                world.alarm("OK");
            }
            assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
            world.passes(30);
            world.alarm("ALARM");
            // The checkers find it healthy again by then.
            let alarm = delivered(&[&message_of(&world, began)]);
            let locked = world.call(Handler::Lock, &alarm).await.unwrap();
            assert_eq!(locked["outcome"], "locked", "{undone}, {began}: {locked}");
        }
    }
}

#[tokio::test]
async fn a_lock_that_was_set_back_by_hand_minutes_ago_may_still_echo() {
    let world = World::new().await;
    let by_hand = world.message(0).replace("primary-unhealthy", "by hand: INC-1");
    assert_eq!(world.call(Handler::Lock, &delivered(&[&by_hand])).await.unwrap()["outcome"], "locked");
    world.passes(20);
    world.route53.set_path(PRIMARY, HEALTHY);
    assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
    world.passes(40);
    let echo = delivered(&[&message_of(&world, 60)]);
    is(&world.call(Handler::Lock, &echo).await.unwrap(), "ignored", "older_than_restore");
}

#[tokio::test]
async fn a_restore_that_is_repeated_still_knows_when_the_path_was_set() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    assert_eq!(world.restore().await.unwrap()["outcome"], "restored");
    world.passes(10);
    assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
    world.passes(30);
    // The lock's own datapoint.
    let echo = delivered(&[&message_of(&world, 60)]);
    is(&world.call(Handler::Lock, &echo).await.unwrap(), "ignored", "older_than_restore");
}

#[tokio::test]
async fn a_restore_that_was_recorded_by_half_still_knows_the_locks_own_echo() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    // The record of its begin, then the one of its end.
    world.route53.hold("ChangeTagsForResource").release();
    let denied = Fault::Error(403, "AccessDenied", "not authorized");
    let end = world.route53.hold("ChangeTagsForResource");
    let restored = async {
        end.reached().await;
        world.route53.fail_always("ChangeTagsForResource", denied);
        end.release();
    };
    let (outcome, ()) = tokio::join!(world.restore(), restored);
    assert_eq!(outcome.unwrap()["outcome"], "restored");
    assert!(!world.route53.check(PRIMARY).tags["failover-lock:in"].contains("done="));
    world.route53.fail_never("ChangeTagsForResource");
    world.passes(10);
    assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
    world.passes(20);
    let echo = delivered(&[&message_of(&world, 60)]);
    is(&world.call(Handler::Lock, &echo).await.unwrap(), "ignored", "older_than_restore");
}

#[tokio::test]
async fn a_tag_from_the_future_is_left_where_it_is_not_this_ones_to_change() {
    let ahead = |world: &World| {
        DateTime::from_timestamp(world.now() + 3600, 0).expect("a time of our days").to_rfc3339()
    };
    for (key, variables) in [
        ("failover-lock:restored-at", &[("DRY_RUN", "true")][..]),
        ("failover-lock:restored-at", &[("GUARDED_TAG", "another")]),
        ("failover-lock:alarm-changed-at", &[]),
    ] {
        let mut world = World::new().await;
        world.fails_and_is_locked().await;
        let text = ahead(&world);
        world.route53.tag(PRIMARY, key, Some(&text));
        if variables.iter().any(|(name, _)| *name == "GUARDED_TAG") {
            world.variables.clear();
        }
        world.variables.extend(variables);
        let _ = world.call(Handler::Reconcile, "{}").await;
        assert_eq!(world.route53.check(PRIMARY).tags[key], text, "{key} {variables:?}");
    }
}

#[tokio::test]
async fn a_check_that_was_set_back_by_hand_has_time_until_its_checkers_turn() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.route53.set_path(PRIMARY, HEALTHY);
    let check = world.route53.check(PRIMARY);
    world.route53.put(PRIMARY, check.reported(0));
    assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
    world.passes(100);
    is(&world.ticks().await, "unprotected", "older_than_restore");
    world.passes(100);
    assert_eq!(world.ticks().await["outcome"], "locked", "it has failed anew");
}

#[tokio::test]
async fn a_restore_by_hand_that_was_in_the_future_never_counts() {
    for tagged in [false, true] {
        let mut world = World::new().await;
        if tagged {
            world.variables = vec![("GUARDED_TAG", "failover")];
            world.route53.tag(PRIMARY, "failover", Some("x"));
        }
        world.variables.push(("RELOCK_UNDONE", "true"));
        world.fails_and_is_locked().await;
        world.alarm("OK");
        let ahead = DateTime::from_timestamp(world.now() + 3600, 0).expect("a time of our days").to_rfc3339();
        world.route53.tag(PRIMARY, "failover-lock:restored-at", Some(&ahead));
        let error = world.call(Handler::Reconcile, "{}").await.unwrap_err();
        assert!(error.contains("failover-lock:restored-at") && error.contains("future"), "{error}");
        world.passes(3700);
        let error = world.call(Handler::Reconcile, "{}").await.unwrap_err();
        assert!(error.contains("in the future when it was read: "), "{error}");
        // It is undone, and a person has not restored it.
        world.route53.set_path(PRIMARY, HEALTHY);
        world.alarm("ALARM");
        assert_eq!(world.notified(0).await["outcome"], "locked");
    }
}

#[tokio::test]
async fn a_lock_that_has_no_room_for_its_record_and_does_not_hold_is_reported() {
    let world = World::new().await;
    world.has_tags_of_others(10);
    world.fails_and_is_locked().await;
    world.alarm("OK");
    assert_eq!(world.ticks().await["outcome"], "already_locked");
    world.passes(300);
    is(&world.ticks().await, "unprotected", "lock_does_not_hold");
    let check = world.route53.check(PRIMARY);
    world.route53.put(PRIMARY, check.reported(0));
    assert_eq!(world.ticks().await["outcome"], "already_locked");
}

#[tokio::test]
async fn an_alarm_without_data_is_no_evidence_that_a_lock_holds() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.alarm("INSUFFICIENT_DATA");
    world.passes(300);
    is(&world.ticks().await, "unprotected", "lock_does_not_hold");
    world.route53.fail_always("GetHealthCheckStatus", Fault::Error(403, "AccessDenied", "not authorized"));
    assert_eq!(world.ticks().await["outcome"], "already_locked");
}
