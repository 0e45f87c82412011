//! What an alarm shows, what a restore crosses, and what is told of it.

use std::time::{Duration, SystemTime};

use failover::failover_lock::{FailoverLock, Handler};
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use serde_json::{Value, json};

use crate::record::{HEALTHY, World, is, message_of};
use crate::support::cloudwatch::{Alarm, Kind};
use crate::support::lock::{CHANGED_AT, LOCKED, PRIMARY, delivered, message};
use crate::support::route53::{Check, Fault};

const DENIED: Fault = Fault::Error(403, "AccessDenied", "not authorized");
const THROTTLED: Fault = Fault::Error(400, "Throttling", "Rate exceeded");

/// What a tick answers, and what it counts.
async fn ticks_of(system: &FailoverLock) -> (Value, String) {
    let report = system.handle(Handler::Reconcile, "{}", Deadline::after(Duration::from_secs(20))).await;
    let metrics = report.metrics("failover-reconcile", SystemTime::now()).collect();
    (json!(report.into_answer().expect("it succeeds"))["outcomes"][0].clone(), metrics)
}

async fn eventually(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a tick counts, whatever it answers.
async fn counted(world: &World) -> String {
    let system = world.system().await;
    let report = system.handle(Handler::Reconcile, "{}", Deadline::after(Duration::from_secs(20))).await;
    report.metrics("failover-reconcile", SystemTime::now()).collect()
}

#[tokio::test]
async fn a_query_that_goes_off_on_a_recovery_locks_nothing_whatever_delivers_it() {
    let query =
        r#"SELECT MIN(HealthCheckStatus) FROM SCHEMA("AWS/Route53", HealthCheckId) GROUP BY HealthCheckId"#;
    let state = json!({ "value": "ALARM", "timestamp": "2026-11-21T02:36:15.490+0000" });
    let configuration = json!({ "metrics": [{ "id": "q", "expression": query, "returnData": true }] });
    let contributor = json!({ "id": "c", "attributes": { "HealthCheckId": PRIMARY } });
    let event = json!({ "alarmData": { "alarmName": "q", "state": state, "configuration": configuration,
        "alarmContributor": contributor } });
    for (comparison, locks) in [("GreaterThanThreshold", false), ("LessThanThreshold", true)] {
        let world = World::new().await;
        let alarm = Alarm { comparison, ..Alarm::of(Kind::Query(vec![PRIMARY.to_owned()]), "ALARM") };
        world.route53.put_alarm("q", alarm);
        let outcome = world.call(Handler::Lock, &event.to_string()).await.unwrap();
        assert_eq!(outcome["outcome"] == "locked", locks, "{comparison}: {outcome}");
        assert_eq!(world.path() == LOCKED, locks);
    }
}

#[tokio::test]
async fn the_locks_own_echo_does_not_lock_a_check_that_cannot_be_read() {
    for (status, code) in [(403, "AccessDenied"), (503, "ServiceUnavailable")] {
        for (began, locks) in [(90, false), (10, true)] {
            let world = World::new().await;
            world.fails_and_is_locked().await;
            world.restore().await.unwrap();
            world.passes(40);
            world.route53.fail_always("GetHealthCheck", Fault::Error(status, code, "none"));
            let system = world.system().await;
            let event = delivered(&[&message_of(&world, began)]);
            let report = system.handle(Handler::Lock, &event, Deadline::after(Duration::from_secs(2))).await;
            let outcome = json!(report.into_answer().unwrap())["outcomes"][0].clone();
            assert_eq!(outcome["outcome"] == "locked", locks, "{code}, {began}: {outcome}");
            assert_eq!(world.path() == LOCKED, locks);
        }
    }
}

#[tokio::test]
async fn an_old_alarm_does_not_lock_what_was_restored_while_the_check_was_slow_to_answer() {
    let world = World::new().await;
    let system = world.system().await;
    // It has a version of its own already, and nothing is on record.
    world.route53.set_path(PRIMARY, HEALTHY);
    let held = world.route53.hold("GetHealthCheck");
    let event = delivered(&[&world.message(900)]);
    let handled = system.handle(Handler::Lock, &event, Deadline::after(Duration::from_mins(1)));
    let tags_are_read = || world.route53.calls().iter().any(|call| call.starts_with("ListTagsForResource"));
    let restored = async {
        held.reached().await;
        eventually(tags_are_read).await;
        assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
        tokio::time::sleep(Duration::from_millis(300)).await;
        held.release();
    };
    let (report, ()) = tokio::join!(handled, restored);
    is(&json!(report.into_answer().unwrap())["outcomes"][0], "ignored", "older_than_restore");
    assert_eq!(world.path(), HEALTHY);
}

#[tokio::test]
async fn the_tags_of_a_check_that_only_its_tag_guards_are_read_as_long_as_there_is_time() {
    let mut world = World::new().await;
    world.variables = vec![("GUARDED_TAG", "failover")];
    world.route53.tag(PRIMARY, "failover", Some("x"));
    world.route53.fail_always("ListTagsForResource", THROTTLED);
    let system = world.system().await;
    let event = delivered(&[&world.message(0)]);
    let handled = system.handle(Handler::Lock, &event, Deadline::after(Duration::from_mins(1)));
    let passes = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        world.route53.fail_never("ListTagsForResource");
    };
    let (report, ()) = tokio::join!(handled, passes);
    assert_eq!(json!(report.into_answer().unwrap())["outcomes"][0]["outcome"], "locked");
}

#[tokio::test]
async fn a_tick_whose_list_is_throttled_gives_way_and_reads_nothing_one_by_one() {
    let mut world = World::new().await;
    world.variables = vec![("GUARDED_TAG", "failover")];
    world.route53.fail_always("ListHealthChecks", THROTTLED);
    is(&world.ticks().await, "deferred", "throttled");
    let ids: Vec<_> = (0..20).map(|number| format!("check-{number}")).collect();
    world.variables = vec![("GUARDED_HEALTH_CHECKS", ids.join(",").leak())];
    is(&world.ticks().await, "deferred", "throttled");
    assert!(!world.route53.calls().iter().any(|call| call.starts_with("GetHealthCheck")));
}

#[tokio::test]
async fn an_alarm_whose_actions_came_on_late_locks_on_route_53s_verdict_alone() {
    let world = World::new().await;
    let changed = world.seconds_of_alarm();
    world.passes(60);
    let alarm =
        Alarm { configured_at: Some(world.seconds_of_alarm()), ..Alarm::on(PRIMARY, "ALARM", changed) };
    world.put(alarm);
    world.route53.fail_always("GetHealthCheckStatus", THROTTLED);
    is(&world.ticks().await, "unprotected", "enabled_in_alarm");
    world.route53.fail_never("GetHealthCheckStatus");
    let check = world.route53.check(PRIMARY);
    world.route53.put(PRIMARY, check.reported(0));
    assert_eq!(world.ticks().await["outcome"], "locked");
}

#[tokio::test]
async fn a_restore_that_another_persons_lock_crosses_is_refused_whoever_recorded_it_and_whatever_the_clock() {
    for by_function in [true, false] {
        let world = World::new().await;
        world.fails_and_is_locked().await;
        world.alarm("OK");
        let crossing = async || {
            world.route53.set_path(PRIMARY, LOCKED);
            if by_function {
                // A tick finds what a person has done with the AWS CLI, and records it.
                assert_eq!(world.ticks().await["outcome"], "already_locked");
            } else {
                // failoverctl records it, on a machine whose clock is behind.
                let at = chrono::DateTime::from_timestamp(world.now() - 4, 0).unwrap().to_rfc3339();
                let at = at.replace("+00:00", "Z");
                let version = world.route53.check(PRIMARY).version;
                let tag = format!("v={version} at={at} alarm={at} before=/lb-check by=by hand: STOP");
                world.route53.tag(PRIMARY, "failover-lock:out", Some(&tag));
            }
        };
        let refused = world.restore_crossed_by(crossing).await.unwrap_err();
        assert!(refused.contains("was changed since it was looked at"), "{refused}");
        assert_eq!(world.path(), LOCKED, "{by_function}");
    }
}

#[tokio::test]
async fn an_undone_lock_and_one_that_does_not_hold_count_beside_what_else_is_unprotected() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    assert!(!counted(&world).await.contains("Undone"));
    world.alarm("OK");
    world.passes(600);
    assert!(counted(&world).await.contains("\"Undone\":1"), "it does not hold");
    world.route53.set_path(PRIMARY, HEALTHY);
    let undone = counted(&world).await;
    assert!(undone.contains("\"Undone\":1") && undone.contains("\"Unprotected\":1"), "{undone}");
}

#[tokio::test]
async fn a_dry_run_counts_the_failure_that_it_does_not_lock() {
    let mut world = World::new().await;
    world.variables.push(("DRY_RUN", "true"));
    world.alarm("ALARM");
    assert_eq!(world.notified(0).await["outcome"], "would_lock");
    assert!(counted(&world).await.contains("\"Unprotected\":1"));
}

#[tokio::test]
async fn a_lock_that_lasts_for_a_day_is_counted_in_two_ticks_also_without_a_record() {
    for full in [false, true] {
        let world = World::new().await;
        if full {
            world.has_tags_of_others(10);
        }
        world.fails_and_is_locked().await;
        let mut told = Vec::new();
        for minute in 1..1445 {
            world.passes(60);
            if minute < 1435 {
                continue;
            }
            let counted = counted(&world).await;
            if counted.contains("\"LockedForDays\":1") {
                told.push(minute);
            }
        }
        assert_eq!(told, [1439, 1440], "{full}");
    }
}

#[tokio::test]
async fn a_restore_that_found_an_undone_lock_hours_later_is_told() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.route53.set_path(PRIMARY, HEALTHY);
    world.alarm("OK");
    world.passes(3 * 3600);
    assert_eq!(world.restore().await.unwrap()["outcome"], "already_restored");
    assert!(counted(&world).await.contains("\"Restored\":1"));
}

#[tokio::test]
async fn a_lock_that_cannot_be_recorded_and_does_not_hold_is_reported_after_some_minutes() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.route53.tag(PRIMARY, "failover-lock:out", None);
    world.route53.fail_always("ChangeTagsForResource", DENIED);
    world.alarm("OK");
    // Of one process, which remembers when it has seen it first.
    let system = world.system().await;
    for (passed, outcome) in [(3600, "already_locked"), (240, "already_locked"), (60, "unprotected")] {
        world.passes(passed);
        assert_eq!(ticks_of(&system).await.0["outcome"], outcome, "{passed}");
    }
}

#[tokio::test]
async fn what_shares_the_topic_and_is_no_alarm_fails_nothing() {
    let world = World::new().await;
    let odd = |metric: &str| {
        format!(
            r#"{{"AlarmName":"cpu","NewStateValue":"ALARM","StateChangeTime":"2026-11-21T02:36:15.490+0000",
                "Trigger":{{"Namespace":"AWS/{metric}","MetricName":"x","Dimensions":[],"Period":"PT60S"}}}}"#
        )
    };
    for other in [
        "{deploy} of shop is done",
        r#"{"name"} has logged in"#,
        r#"{"healthCheckId": "x"}"#,
        r#"{"force": true}"#,
        "[1]",
        "5",
        r#"{"Message": {"a": 1}}"#,
        r#"{"Message": 5}"#,
        r#"{"detail-type": "Order placed", "source": "shop"}"#,
        r#"{"Trigger": "nightly"}"#,
        r#"{"AlarmName": "fire", "building": 7}"#,
        r#"{"alarmData": {"x": 1}}"#,
        &odd("EC2"),
        r#"{"requestPayload": {"Trigger": {"Namespace": "AWS/Route53", "MetricName": "HealthCheckStatus"}}}"#,
    ] {
        is(
            &world.call(Handler::Lock, &delivered(&[other])).await.unwrap(),
            "ignored",
            "not_a_health_check_alarm",
        );
    }
    // What breaks off, or is on Route 53 or a composite alarm, may have been one.
    for broken in [
        r#"{"AlarmName":"x","New"#,
        r#"{"Type":"Notification","Message":"{\"AlarmName\":\"x\",\"New"#,
        r#"{"Type":"Notification","Message":"{\"AlarmName\":\"x\",\"New"}"#,
        r#"{"Message":{"AlarmName":"x","NewStateValue":"ALARM","Trigger":{"Namespace":"AWS/Route53"}}}"#,
        r#"{"version":"0","source":"aws.cl"#,
        &json!({ "Records": [{ "Sns": { "Message": message(PRIMARY, "ALARM", CHANGED_AT) } }] }).to_string(),
        r#"{"alarmName":"x","configuration":{"namespace":"AWS/Route53","name":"HealthCheckStatus"}}"#,
        &odd("Route53"),
        r#"{"AlarmName":"x","NewStateValue":"ALARM","AlarmRule":"ALARM(y)"}"#,
    ] {
        world.call(Handler::Lock, &delivered(&[broken])).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_restore_that_a_newer_alarm_crosses_is_refused_also_where_a_tick_was_first_to_see_it() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    let crossing = async || {
        world.passes(5);
        world.alarm("ALARM");
        assert_eq!(world.ticks().await["outcome"], "already_locked");
        assert_eq!(world.notified(0).await["outcome"], "already_locked");
    };
    let refused = world.restore_crossed_by(crossing).await.unwrap_err();
    assert!(refused.contains("not restored: "), "{refused}");
    assert_eq!(world.path(), LOCKED);
}

#[tokio::test]
async fn an_alarm_that_cannot_be_recorded_makes_no_new_version_in_each_tick() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.route53.fail_always("ChangeTagsForResource", DENIED);
    world.alarm("ALARM");
    let (system, before) = (world.system().await, world.route53.check(PRIMARY).version);
    for _ in 0..3 {
        world.passes(60);
        assert_eq!(ticks_of(&system).await.0["outcome"], "already_locked");
    }
    assert_eq!(world.route53.check(PRIMARY).version, before + 1);
}

#[tokio::test]
async fn a_late_alarm_after_a_persons_lock_lets_no_restore_from_before_pass() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    let crossing = async || {
        world.route53.set_path(PRIMARY, LOCKED);
        // Of an alarm from before the restore, which the record does not know.
        assert_eq!(world.notified(30).await["outcome"], "already_locked");
    };
    let refused = world.restore_crossed_by(crossing).await.unwrap_err();
    assert!(refused.contains("was changed since it was looked at"), "{refused}");
    assert_eq!(world.path(), LOCKED);
}

#[tokio::test]
async fn a_tick_that_could_give_no_new_version_for_an_alarm_lets_the_next_one_do_so() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.alarm("ALARM");
    let (system, before) = (world.system().await, world.route53.check(PRIMARY).version);
    world.route53.fail("UpdateHealthCheck", THROTTLED);
    for version in [before, before + 1, before + 1] {
        assert_eq!(ticks_of(&system).await.0["outcome"], "already_locked");
        let check = world.route53.check(PRIMARY);
        assert_eq!(check.version, version);
        assert!(check.tags["failover-lock:out"].starts_with(&format!("v={version} ")), "{:?}", check.tags);
    }
}

#[tokio::test]
async fn a_dry_run_says_of_a_lock_that_would_wait_that_nothing_will_be_locked() {
    let mut world = World::new().await;
    world.route53.put("secondary", Check::new("HTTP", 80).reported(0));
    let pair = format!("{PRIMARY}=secondary").leak() as &str;
    world.variables.extend([("DRY_RUN", "true"), ("SECONDARY_HEALTH_CHECKS", pair)]);
    world.alarm("ALARM");
    is(&world.notified(0).await, "deferred", "secondary_unhealthy");
    let counted = counted(&world).await;
    assert!(counted.contains("Unprotected") && !counted.contains("Deferred"), "{counted}");
}

#[tokio::test]
async fn a_locked_check_that_someone_disables_counts_as_undone() {
    let world = World::new().await;
    world.fails_and_is_locked().await;
    let check = world.route53.check(PRIMARY);
    world.route53.put(PRIMARY, check.with("Disabled", "true"));
    assert!(counted(&world).await.contains("\"Undone\":1"));
}

/// A person's lock that a function finds, and records as the one that it has set before.
#[tokio::test]
async fn a_restore_that_a_persons_lock_crosses_is_refused_also_where_it_is_recorded_for_an_alarm() {
    const UNAVAILABLE: Fault = Fault::Error(500, "InternalError", "try again");
    let is_refused = |world: &World, restored: Result<Value, String>| {
        let refused = restored.unwrap_err();
        assert!(refused.contains("was changed since it was looked at"), "{refused}");
        assert_eq!(world.path(), LOCKED);
    };

    // Between two tries of `lock`, for a second alarm from before the restore.
    let world = World::new().await;
    world.fails_and_is_locked().await;
    let crossing = async || {
        world.route53.fail("UpdateHealthCheck", UNAVAILABLE);
        world.route53.fail("UpdateHealthCheck", Fault::Meddle(LOCKED));
        assert_eq!(world.notified(30).await["outcome"], "already_locked");
    };
    is_refused(&world, world.restore_crossed_by(crossing).await);

    // Between two ticks, the first of which could not record the version that it has made.
    let world = World::new().await;
    world.fails_and_is_locked().await;
    world.alarm("ALARM");
    world.passes(5);
    let system = world.system().await;
    world.route53.fail("ChangeTagsForResource", THROTTLED);
    ticks_of(&system).await;
    let crossing = async || {
        world.route53.set_path(PRIMARY, LOCKED);
        assert_eq!(ticks_of(&system).await.0["outcome"], "already_locked");
    };
    is_refused(&world, world.restore_crossed_by(crossing).await);

    // Between a lock and its record.
    let world = World::new().await;
    world.alarm("ALARM");
    let recording = world.route53.hold("ChangeTagsForResource");
    let restoring = async {
        recording.reached().await;
        world.passes(5);
        let crossing = async || {
            world.route53.set_path(PRIMARY, LOCKED);
            recording.release();
            eventually(|| world.route53.check(PRIMARY).tags.contains_key("failover-lock:out")).await;
            assert_eq!(world.ticks().await["outcome"], "already_locked");
        };
        is_refused(&world, world.restore_crossed_by(crossing).await);
    };
    tokio::join!(Box::pin(world.notified(0)), Box::pin(restoring));
}

/// No one else waits for CloudWatch's limit.
#[tokio::test]
async fn a_check_of_which_cloudwatch_tells_nothing_keeps_no_other_from_its_lock() {
    let mut world = World::new().await;
    world.alarm("ALARM");
    world.variables = vec![("GUARDED_HEALTH_CHECKS", format!("another-check,{PRIMARY}").leak())];
    let route53 = &world.route53;
    route53.put("another-check", Check::new("HTTP", 80));
    route53.fail_always("DescribeAlarmsForMetric another-check", THROTTLED);
    let held = route53.hold(format!("DescribeAlarmsForMetric {PRIMARY}").leak());
    let system = world.system().await;
    let asked = || route53.calls().iter().filter(|call| call.starts_with("DescribeAlarmsForMetric")).count();
    tokio::join!(ticks_of(&system), async {
        held.reached().await;
        // As often as it may be tried in a tick.
        eventually(|| asked() >= 3).await;
        held.release();
    });
    assert_eq!(world.path(), LOCKED);
}

#[tokio::test]
async fn an_undone_lock_counts_whatever_else_is_found_of_its_check() {
    let undone = async || {
        let world = World::new().await;
        world.fails_and_is_locked().await;
        world.route53.set_path(PRIMARY, HEALTHY);
        world.alarm("OK");
        world
    };
    let counts = async |world: &World, beside: &str| {
        let counted = counted(world).await;
        assert!(counted.contains("\"Undone\":1") && counted.contains(beside), "{beside}: {counted}");
    };
    let mut world = undone().await;
    world.route53.put("secondary", Check::new("HTTP", 80).reported(0));
    let pair = format!("{PRIMARY}=secondary").leak() as &str;
    world.variables.push(("SECONDARY_HEALTH_CHECKS", pair));
    world.alarm("ALARM");
    is(&world.notified(0).await, "deferred", "secondary_unhealthy");
    counts(&world, "Deferred").await;
    for attribute in ["Disabled", "Inverted"] {
        let world = undone().await;
        let check = world.route53.check(PRIMARY);
        world.route53.put(PRIMARY, check.with(attribute, "true"));
        counts(&world, "Unprotected").await;
    }
    // It fails anew, and no lock can be set.
    let mut world = undone().await;
    world.passes(60);
    world.alarm("ALARM");
    world.variables.push(("DRY_RUN", "true"));
    counts(&world, "Unprotected").await;
    // What was to be done about it cannot be done.
    world.variables.clear();
    for (operation, fault, beside) in [
        ("UpdateHealthCheck", THROTTLED, "Throttled"),
        ("UpdateHealthCheck", DENIED, "Failed"),
        ("ListAlarmMuteRules", THROTTLED, "Throttled"),
    ] {
        world.route53.fail_always(operation, fault);
        counts(&world, beside).await;
        world.route53.fail_never(operation);
    }
    world.route53.put("secondary", Check::new("HTTP", 80).reported(0));
    let pair = format!("{PRIMARY}=secondary").leak() as &str;
    world.variables.push(("SECONDARY_HEALTH_CHECKS", pair));
    counts(&world, "Deferred").await;
    // Until it is locked again.
    world.route53.put("secondary", Check::new("HTTP", 80).reported(16));
    let counted = counted(&world).await;
    assert!(counted.contains("Locked") && !counted.contains("Undone"), "{counted}");
}
