//! What the schedule finds, sets and reports.

use crate::support;
use crate::support::cloudwatch::{Alarm, Flaw, Kind};
use crate::support::lock::{CHANGED_AT, LOCKED, PRIMARY, delivered, message};
use crate::support::route53::{Check, Fault, Route53};
use failover::failover_lock::Handler;
use serde_json::Value;
use std::time::Duration;

const SECOND: &str = "d2f991db-4143-47b0-9015-e781df145c7c";
/// 2026-11-21T02:36:15.490Z, when the documented alarm changed.
const CHANGED: f64 = 1_795_228_575.49;
const GUARDED: (&str, &str) = ("GUARDED_HEALTH_CHECKS", PRIMARY);

async fn with(check: Check, alarms: &[Alarm]) -> Route53 {
    let route53 = Route53::start().await;
    route53.put(PRIMARY, check);
    for (number, alarm) in alarms.iter().enumerate() {
        route53.put_alarm(&format!("alarm-{number}"), alarm.clone());
    }
    route53
}

async fn reconcile(route53: &Route53) -> Value {
    reconcile_with(route53, &[GUARDED]).await.unwrap()
}

async fn reconcile_with(route53: &Route53, variables: &[(&str, &str)]) -> Result<Value, String> {
    let answer = support::lock::run(route53, variables, Handler::Reconcile, "{}").await;
    answer.map(|answer| answer["outcomes"][0].clone())
}

fn writes(route53: &Route53) -> Vec<String> {
    let calls = route53.calls().into_iter();
    calls.filter(|call| call.starts_with("Update") || call.starts_with("Change")).collect()
}

fn check() -> Check {
    Check::new("HTTP", 80)
}

fn firing() -> Alarm {
    Alarm::on(PRIMARY, "ALARM", CHANGED)
}

#[tokio::test]
async fn a_lost_notification_is_made_up_for() {
    let route53 = with(check(), &[firing()]).await;
    let outcome = reconcile(&route53).await;
    assert_eq!((&outcome["outcome"], &outcome["alarm"]), (&"locked".into(), &"alarm-0".into()));
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
    assert!(route53.check(PRIMARY).tags["failover-lock:out"].contains("alarm=2026-11-21T02:36:15.490Z"));
    // And the notification that was only late finds the lock.
    let system = support::lock::system(&route53, &[GUARDED]).await;
    let late = delivered(&[&message(PRIMARY, "ALARM", CHANGED_AT)]);
    let answer = support::lock::invoke(&system, Handler::Lock, &late).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "already_locked");
}

#[tokio::test]
async fn what_is_armed_or_locked_is_left_as_it_is() {
    {
        let route53 = with(check(), &[Alarm::on(PRIMARY, "OK", CHANGED)]).await;
        let system = support::lock::system(&route53, &[GUARDED]).await;
        for (tick, calls) in [("what is recorded is read once", 5), ("an ordinary tick reads the check", 4)] {
            let before = route53.calls().len();
            let answer = support::lock::invoke(&system, Handler::Reconcile, "{}").await.unwrap();
            assert_eq!(answer["outcomes"][0]["outcome"], "armed");
            assert_eq!(route53.calls().len() - before, calls, "{tick}: {:?}", route53.calls());
        }
    }
    let recorded = check()
        .changed()
        .with("ResourcePath", LOCKED)
        .tagged("failover-lock:out", "v=3 at=2026-11-21T02:36:16Z alarm=2026-11-21T02:36:15.490Z");
    let route53 = with(recorded, &[firing()]).await;
    assert_eq!(reconcile(&route53).await["outcome"], "already_locked");
    assert_eq!(writes(&route53), [""; 0]);
}

#[tokio::test]
async fn a_lock_that_was_undone_by_hand_is_reported_and_not_set_again() {
    let route53 = with(check(), &[firing()]).await;
    reconcile(&route53).await;
    route53.set_path(PRIMARY, "/lb-check");
    let before = writes(&route53);
    let outcome = reconcile(&route53).await;
    assert_eq!((&outcome["outcome"], &outcome["reason"]), (&"unprotected".into(), &"undone_by_hand".into()));
    assert_eq!(writes(&route53), before);
    // A new failure is a new reason.
    route53.put_alarm("alarm-0", Alarm::on(PRIMARY, "ALARM", CHANGED + 600.0));
    assert_eq!(reconcile(&route53).await["outcome"], "locked");
}

#[tokio::test]
async fn an_alarm_that_found_the_check_locked_does_not_undo_a_later_decision_of_a_person() {
    let percentage = Alarm {
        kind: Kind::Metric("HealthCheckPercentageHealthy", PRIMARY.to_owned()),
        ..Alarm::on("", "ALARM", CHANGED + 30.0)
    };
    let route53 = with(check(), &[firing()]).await;
    reconcile(&route53).await;
    route53.put_alarm("alarm-1", percentage);
    assert_eq!(reconcile(&route53).await["outcome"], "already_locked");
    route53.set_path(PRIMARY, "/lb-check");
    assert_eq!(reconcile(&route53).await["reason"], "undone_by_hand");
}

#[tokio::test]
async fn what_nothing_would_lock_is_reported() {
    let restored = || check().tagged("failover-lock:restored-at", "2026-11-21T03:00:00Z");
    for (check, alarms, reason) in [
        (check(), vec![], "no_alarm"),
        (check(), vec![Alarm::on(SECOND, "ALARM", CHANGED)], "no_alarm"),
        (check(), vec![Alarm { actions_enabled: false, ..firing() }], "actions_disabled"),
        // An alarm that goes off when the check is healthy again.
        (check(), vec![Alarm { comparison: "GreaterThanOrEqualToThreshold", ..firing() }], "no_alarm"),
        (check().with("ResourcePath", "/elsewhere"), vec![firing()], "foreign_path"),
        (restored(), vec![firing()], "older_than_restore"),
        (check(), vec![Alarm::on(PRIMARY, "INSUFFICIENT_DATA", CHANGED)], "no_data"),
        (check(), vec![Alarm { threshold: 0.0, ..Alarm::on(PRIMARY, "OK", CHANGED) }], "never_goes_off"),
        (check(), vec![flawed(Flaw::Dimension, "OK")], "never_goes_off"),
        (check(), vec![flawed(Flaw::Dimension, "INSUFFICIENT_DATA")], "never_goes_off"),
        (check(), vec![flawed(Flaw::Unit("Seconds"), "OK")], "never_goes_off"),
        (check(), vec![flawed(Flaw::EvaluationState("EVALUATION_ERROR"), "OK")], "never_goes_off"),
        (check(), vec![flawed_math(Flaw::Dimension)], "never_goes_off"),
        (check(), vec![flawed_math(Flaw::Unit("Seconds"))], "never_goes_off"),
        (check().with("ResourcePath", "/elsewhere"), vec![Alarm::on(PRIMARY, "OK", CHANGED)], "foreign_path"),
        (check(), vec![Alarm { muted: true, ..firing() }], "actions_muted"),
        (check(), vec![Alarm { muted: true, ..Alarm::on(PRIMARY, "OK", CHANGED) }], "actions_muted"),
    ] {
        let route53 = with(check, &alarms).await;
        let outcome = reconcile(&route53).await;
        assert_eq!((&outcome["outcome"], &outcome["reason"]), (&"unprotected".into(), &reason.into()));
        assert_eq!(outcome["healthCheckId"], PRIMARY);
        assert_eq!(writes(&route53), [""; 0], "{reason}");
    }
}

fn flawed(flaw: Flaw, state: &'static str) -> Alarm {
    Alarm { flaw: Some(flaw), ..Alarm::on(PRIMARY, state, CHANGED) }
}

fn flawed_math(flaw: Flaw) -> Alarm {
    Alarm { kind: Kind::Math(vec![PRIMARY.to_owned()]), ..flawed(flaw, "OK") }
}

#[tokio::test]
async fn an_alarm_that_can_go_off_or_has_gone_off_counts_whatever_speaks_against_it() {
    // What the metric's unit is, Route 53's documentation does not say of every one; and CloudWatch's own trouble passes.
    for flaw in [
        Flaw::Unit("None"),
        Flaw::Unit("Percent"),
        Flaw::Unit("Count"),
        Flaw::EvaluationState("EVALUATION_FAILURE"),
        Flaw::EvaluationState("PARTIAL_DATA"),
    ] {
        let route53 = with(check(), &[flawed(flaw, "OK")]).await;
        assert_eq!(reconcile(&route53).await["outcome"], "armed", "{flaw:?}");
    }
    for flaw in [Flaw::Dimension, Flaw::Unit("Seconds"), Flaw::EvaluationState("EVALUATION_ERROR")] {
        let route53 = with(check(), &[flawed(flaw, "OK"), Alarm::on(PRIMARY, "OK", CHANGED)]).await;
        assert_eq!(reconcile(&route53).await["outcome"], "armed", "{flaw:?}");
        let route53 = with(check(), &[flawed(flaw, "ALARM")]).await;
        assert_eq!(reconcile(&route53).await["outcome"], "locked", "{flaw:?}");
    }
}

#[tokio::test]
async fn one_alarm_that_no_rule_mutes_keeps_a_check_armed() {
    let muted = Alarm { muted: true, ..Alarm::on(PRIMARY, "OK", CHANGED) };
    let route53 = with(check(), &[muted.clone(), Alarm::on(PRIMARY, "OK", CHANGED)]).await;
    assert_eq!(reconcile(&route53).await["outcome"], "armed");
    // Nor does one that AWS refuses to show. Without an answer it is not known.
    let route53 = with(check(), std::slice::from_ref(&muted)).await;
    route53.fail_always("GetAlarmMuteRule", Fault::Error(403, "AccessDenied", "not authorized"));
    assert_eq!(reconcile(&route53).await["outcome"], "armed");
    for operation in ["GetAlarmMuteRule", "ListAlarmMuteRules"] {
        let route53 = with(check(), std::slice::from_ref(&muted)).await;
        route53.fail_always(operation, Fault::Answer(503, "<html>503 Service Unavailable</html>"));
        let error = reconcile_with(&route53, &[GUARDED]).await.unwrap_err();
        assert!(error.contains(operation), "{error}");
    }
    // One that has no data any more leads to no lock either.
    let silent = |seconds: i64| {
        let now = chrono::Utc::now().timestamp() - seconds;
        #[expect(clippy::cast_precision_loss, reason = "seconds of our days")]
        Alarm::on(PRIMARY, "INSUFFICIENT_DATA", now as f64)
    };
    for (seconds, outcome) in [(3600, "unprotected"), (60, "armed")] {
        let route53 = with(check(), &[muted.clone(), silent(seconds)]).await;
        assert_eq!(reconcile(&route53).await["outcome"], outcome, "{seconds}");
    }
}

#[tokio::test]
async fn a_deferred_lock_is_set_as_soon_as_the_secondary_carries_the_traffic() {
    let route53 = with(check(), &[firing()]).await;
    route53.put(SECOND, check().reported(0));
    let pair = format!("{PRIMARY}={SECOND}");
    let variables = [GUARDED, ("SECONDARY_HEALTH_CHECKS", pair.as_str())];
    let outcome = reconcile_with(&route53, &variables).await.unwrap();
    assert_eq!(
        (&outcome["outcome"], &outcome["reason"]),
        (&"deferred".into(), &"secondary_unhealthy".into())
    );
    route53.put(SECOND, check().reported(16));
    assert_eq!(reconcile_with(&route53, &variables).await.unwrap()["outcome"], "locked");
}

#[tokio::test]
async fn a_lock_that_waits_over_one_that_was_undone_knows_of_that_and_is_set_later() {
    let undone = "v=8 at=2026-01-05T10:02:11Z alarm=2026-01-05T10:02:07.490Z before=/lb-check by=shop";
    let route53 = with(check().changed().tagged("failover-lock:out", undone), &[firing()]).await;
    route53.put(SECOND, check().reported(0));
    let pair = format!("{PRIMARY}={SECOND}");
    let variables = [GUARDED, ("SECONDARY_HEALTH_CHECKS", pair.as_str())];
    let outcome = reconcile_with(&route53, &variables).await.unwrap();
    assert_eq!(outcome["outcome"], "deferred");
    let record = route53.check(PRIMARY).tags["failover-lock:out"].clone();
    assert!(record.starts_with("v=0 undone=1 at="), "{record}");
    route53.put_alarm("alarm-0", Alarm::on(PRIMARY, "OK", CHANGED));
    assert_eq!(reconcile_with(&route53, &variables).await.unwrap()["outcome"], "deferred");
    route53.put(SECOND, check().reported(16));
    assert_eq!(reconcile_with(&route53, &variables).await.unwrap()["outcome"], "locked");
    let record = route53.check(PRIMARY).tags["failover-lock:out"].clone();
    assert!(!record.contains("undone"), "{record}");
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let variables = [GUARDED, ("DRY_RUN", "true")];
    let route53 = with(check(), &[firing()]).await;
    assert_eq!(reconcile_with(&route53, &variables).await.unwrap()["outcome"], "would_lock");
    route53.set_path(PRIMARY, LOCKED);
    assert_eq!(reconcile_with(&route53, &variables).await.unwrap()["outcome"], "already_locked");
    assert_eq!(writes(&route53), [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error_that_names_the_check() {
    let denied = Fault::Error(403, "AccessDenied", "not authorized");
    for (operation, said) in [
        ("GetHealthCheck", "Grant the caller's role route53:GetHealthCheck"),
        ("DescribeAlarmsForMetric", "Grant the caller's role cloudwatch:DescribeAlarmsForMetric"),
        // Without the tags a restore would be undone every minute: here doubt does not lock.
        ("ListTagsForResource", "Grant the caller's role route53:ListTagsForResource"),
    ] {
        let route53 = with(check().changed(), &[firing()]).await;
        route53.fail_always(operation, denied.clone());
        let error = reconcile_with(&route53, &[GUARDED]).await.unwrap_err();
        assert!(error.contains(said) && error.contains(PRIMARY), "{error}");
        assert_eq!(writes(&route53), [""; 0], "{operation}");
    }
}

#[tokio::test]
async fn a_check_on_which_no_lock_holds_is_unprotected_also_when_it_is_locked() {
    for (name, value, reason) in [("Inverted", "true", "inverted"), ("Disabled", "true", "disabled")] {
        for path in ["/lb-check", LOCKED] {
            let route53 = with(check().with("ResourcePath", path).with(name, value), &[firing()]).await;
            let outcome = reconcile(&route53).await;
            assert_eq!((&outcome["outcome"], &outcome["reason"]), (&"unprotected".into(), &reason.into()));
            assert_eq!(writes(&route53), [""; 0], "{name} {path}");
        }
    }
}

#[tokio::test]
async fn a_check_that_a_dry_run_would_not_lock_is_not_armed() {
    let route53 = with(check(), &[Alarm { state: "OK", ..firing() }]).await;
    let outcome = reconcile_with(&route53, &[GUARDED, ("DRY_RUN", "true")]).await.unwrap();
    assert_eq!((&outcome["outcome"], &outcome["reason"]), (&"unprotected".into(), &"dry_run".into()));
}

#[tokio::test]
async fn one_check_that_cannot_be_read_loses_none_of_the_others() {
    let route53 = with(check(), &[firing()]).await;
    let both = format!("{SECOND},{PRIMARY}");
    let error = reconcile_with(&route53, &[("GUARDED_HEALTH_CHECKS", &both)]).await.unwrap_err();
    assert!(error.contains("1 of 2") && error.contains(SECOND), "{error}");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn one_check_that_does_not_answer_keeps_the_others_from_no_lock() {
    let route53 = with(check(), &[firing()]).await;
    route53.put(SECOND, check());
    let other = format!("GetHealthCheck {SECOND}");
    route53.fail_always(other.clone().leak(), Fault::Hang);
    let guarded = [("GUARDED_HEALTH_CHECKS", &*format!("{PRIMARY},{SECOND}"))];
    reconcile_with(&route53, &guarded).await.unwrap_err();
    let calls = route53.calls();
    let locked = calls.iter().position(|call| call.starts_with("UpdateHealthCheck")).expect("it is locked");
    assert!(calls[locked..].contains(&other), "{calls:?}");
}

#[tokio::test]
async fn of_several_alarms_the_newest_decides() {
    let restored = check().tagged("failover-lock:restored-at", "2026-11-21T03:00:00Z");
    let route53 = with(restored, &[firing(), Alarm::on(PRIMARY, "ALARM", CHANGED + 3600.0)]).await;
    let outcome = reconcile(&route53).await;
    assert_eq!((&outcome["outcome"], &outcome["alarm"]), (&"locked".into(), &"alarm-1".into()));
}

#[tokio::test]
async fn an_alarm_without_actions_counts_as_one_that_eventbridge_passes_on() {
    let route53 = with(check(), &[Alarm { actions: &[], ..firing() }]).await;
    assert_eq!(reconcile(&route53).await["outcome"], "locked");
}

#[tokio::test]
async fn only_alarms_that_lead_to_lock_count() {
    let pager = Alarm { actions: &["arn:aws:sns:us-east-1:123456789012:pager"], ..firing() };
    let variables = [
        GUARDED,
        (
            "ALARM_ACTIONS",
            "arn:aws:lambda:us-east-1:123456789012:function:x, arn:aws:sns:us-east-1:123456789012:alarms",
        ),
    ];
    let route53 = with(check(), &[pager.clone(), Alarm::on(PRIMARY, "OK", CHANGED)]).await;
    assert_eq!(reconcile_with(&route53, &variables).await.unwrap()["outcome"], "armed");
    let route53 = with(check(), std::slice::from_ref(&pager)).await;
    assert_eq!(reconcile_with(&route53, &variables).await.unwrap()["reason"], "actions_disabled");
    let route53 = with(check(), &[firing()]).await;
    assert_eq!(reconcile_with(&route53, &variables).await.unwrap()["outcome"], "locked");
}

#[tokio::test]
async fn the_newest_alarm_stays_on_record_and_no_future_time_is_recorded() {
    let route53 = with(check(), &[firing()]).await;
    let system = support::lock::system(&route53, &[GUARDED]).await;
    let recorded = || {
        let tag = route53.check(PRIMARY).tags["failover-lock:out"].clone();
        tag.split(' ').find_map(|field| field.strip_prefix("alarm=")).unwrap().to_owned()
    };
    for (changed_at, alarm) in [
        (CHANGED_AT, "2026-11-21T02:36:15.490Z"),
        ("2026-11-21T02:36:40.000+0000", "2026-11-21T02:36:40.000Z"),
        ("2026-11-21T02:30:00.000+0000", "2026-11-21T02:36:40.000Z"),
    ] {
        let event = delivered(&[&message(PRIMARY, "ALARM", changed_at)]);
        support::lock::invoke(&system, Handler::Lock, &event).await.unwrap();
        assert_eq!(recorded(), alarm, "{changed_at}");
    }
    // Locked again for an alarm that is older than what is recorded.
    route53.set_path(PRIMARY, "/lb-check");
    let event = delivered(&[&message(PRIMARY, "ALARM", CHANGED_AT)]);
    support::lock::invoke(&system, Handler::Lock, &event).await.unwrap();
    assert_eq!(recorded(), "2026-11-21T02:36:40.000Z");
    let event = delivered(&[&message(PRIMARY, "ALARM", "2999-01-01T00:00:00.000+0000")]);
    support::lock::invoke(&system, Handler::Lock, &event).await.unwrap();
    assert!(!recorded().starts_with("2999"), "{}", recorded());
}

#[tokio::test]
async fn a_tag_that_holds_no_time_that_has_passed_is_an_error_that_names_it() {
    for (tag, value) in [
        ("failover-lock:restored-at", "2999-01-01T00:00:00Z"),
        ("failover-lock:alarm-changed-at", "2999-01-01T00:00:00Z"),
        ("failover-lock:alarm-changed-at", "noon"),
    ] {
        let route53 = with(check().tagged(tag, value), &[firing()]).await;
        let error = reconcile_with(&route53, &[GUARDED]).await.unwrap_err();
        assert!(error.contains(tag) && error.contains(value), "{error}");
        assert_eq!(route53.check(PRIMARY).path(), "/lb-check");
    }
}

#[tokio::test]
async fn a_change_made_meanwhile_is_read_before_the_check_is_locked() {
    let route53 = with(check(), &[firing()]).await;
    route53.fail("UpdateHealthCheck", Fault::Meddle("/lb-check"));
    let outcome = reconcile(&route53).await;
    assert_eq!((&outcome["outcome"], &outcome["version"]), (&"locked".into(), &3.into()));
    let route53 = with(check(), &[firing()]).await;
    route53.fail("UpdateHealthCheck", Fault::Meddle("/elsewhere"));
    assert_eq!(reconcile(&route53).await["reason"], "foreign_path");
}

#[tokio::test]
async fn an_alarm_on_a_query_over_every_check_guards_each_and_locks_the_one_that_failed() {
    let query = |failed: &[&str], state| Alarm {
        changed_at: CHANGED,
        ..Alarm::of(Kind::Query(failed.iter().map(|&id| id.to_owned()).collect()), state)
    };
    let route53 = with(check(), &[query(&[], "OK")]).await;
    assert_eq!(reconcile(&route53).await["outcome"], "armed");
    route53.put_alarm("alarm-0", query(&[SECOND], "ALARM"));
    assert_eq!(reconcile(&route53).await["outcome"], "armed");
    route53.put_alarm("alarm-0", query(&[SECOND, PRIMARY], "ALARM"));
    assert_eq!(reconcile(&route53).await["outcome"], "locked");
    // One that is restricted to another check guards only that.
    let other = Alarm { changed_at: CHANGED, ..Alarm::of(Kind::Where(SECOND.to_owned()), "OK") };
    let route53 = with(check(), &[other]).await;
    assert_eq!(reconcile(&route53).await["reason"], "no_alarm");
    let own = Alarm { changed_at: CHANGED, ..Alarm::of(Kind::Where(PRIMARY.to_owned()), "OK") };
    let route53 = with(check(), &[own]).await;
    assert_eq!(reconcile(&route53).await["outcome"], "armed");
    // For which checks one is in ALARM cannot be read: that hides no other alarm.
    let route53 = with(check().tagged("guarded", "yes"), &[query(&[SECOND], "ALARM"), firing()]).await;
    route53.fail_always("DescribeAlarmContributors", Fault::Error(403, "AccessDenied", "not authorized"));
    assert_eq!(reconcile_with(&route53, &[("GUARDED_TAG", "guarded")]).await.unwrap()["outcome"], "locked");
    // Where no other alarm leads to a lock, it is not known whether the check is protected, or has failed.
    let denied = || Fault::Error(403, "AccessDenied", "not authorized");
    let elsewhere = Alarm { actions: &["arn:aws:sns:us-east-1:123456789012:pagers"], ..firing() };
    let ours = ("ALARM_ACTIONS", "arn:aws:sns:us-east-1:123456789012:failover-alarms");
    for (operation, alarms) in [
        ("DescribeAlarmContributors", vec![query(&[SECOND], "ALARM")]),
        ("DescribeAlarmContributors", vec![query(&[SECOND], "ALARM"), elsewhere]),
        ("DescribeAlarms", vec![]),
    ] {
        let route53 = with(check(), &alarms).await;
        route53.fail_always(operation, denied());
        let error = reconcile_with(&route53, &[ours]).await.unwrap_err();
        assert!(error.contains(operation), "{error}");
    }
    // Nor does an alarm that is OK say that it is armed.
    let quiet = Alarm::on(PRIMARY, "OK", CHANGED);
    let route53 = with(check().tagged("guarded", "yes"), &[query(&[SECOND], "ALARM"), quiet]).await;
    route53.fail_always("DescribeAlarmContributors", denied());
    let error = reconcile_with(&route53, &[("GUARDED_TAG", "guarded")]).await.unwrap_err();
    assert!(error.contains("DescribeAlarmContributors"), "{error}");
    // Of a limit that is used up no one is to blame: the next tick tries again.
    let route53 = with(check(), &[query(&[SECOND], "ALARM")]).await;
    route53.fail_always("DescribeAlarmContributors", Fault::Error(400, "Throttling", "Rate exceeded"));
    assert_eq!(reconcile(&route53).await["reason"], "throttled");
    // It hides nothing that was seen.
    let route53 = with(check().with("ResourcePath", "/elsewhere"), &[query(&[SECOND], "ALARM")]).await;
    route53.fail_always("DescribeAlarmContributors", denied());
    assert_eq!(reconcile(&route53).await["reason"], "foreign_path");
    // One that is restricted to other checks says nothing about this one.
    let other = Alarm { changed_at: CHANGED, ..Alarm::of(Kind::Where(SECOND.to_owned()), "ALARM") };
    let route53 = with(check(), &[other]).await;
    route53.fail_always("DescribeAlarmContributors", denied());
    assert_eq!(reconcile(&route53).await["reason"], "no_alarm");
    // Metric math over one check is this check's.
    let math = Alarm { changed_at: CHANGED, ..Alarm::of(Kind::Math(vec![PRIMARY.to_owned()]), "ALARM") };
    let route53 = with(check(), &[math]).await;
    assert_eq!(reconcile(&route53).await["outcome"], "locked");
}

#[tokio::test]
async fn many_checks_are_read_by_the_page_and_one_that_does_not_answer_costs_the_others_nothing() {
    let route53 = Route53::start().await;
    let ids: Vec<String> = (0..250).map(|number| format!("check-{number:03}")).collect();
    for (number, id) in ids.iter().enumerate() {
        route53.put(id, if number % 2 == 0 { check().changed() } else { check() });
        let on_it = Kind::Metric("HealthCheckStatus", id.clone());
        route53.put_alarm(id, Alarm { kind: on_it, ..Alarm::on("", "OK", CHANGED) });
    }
    let guarded = [("GUARDED_HEALTH_CHECKS", ids.join(",").leak() as &str)];
    let system = support::lock::system(&route53, &guarded).await;
    let tick = async || {
        let before = route53.calls().len();
        // Of all the time that it has, the one that does not answer takes most.
        let time = Duration::from_secs(45);
        let answer = support::lock::invoke_within(&system, Handler::Reconcile, "{}", time).await;
        (answer, route53.calls()[before..].to_vec())
    };
    let (answer, calls) = tick().await;
    assert!(answer.unwrap()["outcomes"].as_array().unwrap().iter().all(|one| one["outcome"] == "armed"));
    let of = |calls: &[String], what: &str| calls.iter().filter(|call| call.starts_with(what)).count();
    assert_eq!((of(&calls, "ListHealthChecks"), of(&calls, "ListTagsForResources")), (3, 25));
    assert_eq!((of(&calls, "DescribeAlarms all"), calls.len()), (3, 32));
    let (_, calls) = tick().await;
    assert_eq!(
        (of(&calls, "ListHealthChecks"), calls.len()),
        (3, 7),
        "what has not changed is not read again"
    );

    for id in &ids {
        let on_it = Kind::Metric("HealthCheckStatus", id.clone());
        route53.put_alarm(id, Alarm { kind: on_it, ..Alarm::on("", "ALARM", CHANGED) });
    }
    route53.fail("UpdateHealthCheck", Fault::Hang);
    let (answer, _) = tick().await;
    assert_eq!(answer.unwrap()["outcomes"].as_array().unwrap().len(), 250);
    assert!(ids.iter().all(|id| route53.check(id).path() == LOCKED));
}

#[tokio::test]
async fn checks_may_be_guarded_by_a_tag() {
    let route53 = with(check().tagged("failover-lock:guarded", "eu"), &[firing()]).await;
    route53.put(SECOND, check().tagged("failover-lock:guarded", "us"));
    route53.put_alarm("second", Alarm::on(SECOND, "ALARM", CHANGED));
    let guarded = [("GUARDED_TAG", "failover-lock:guarded=eu")];
    let answer = support::lock::run(&route53, &guarded, Handler::Reconcile, "{}").await.unwrap();
    assert_eq!(answer["outcomes"].as_array().unwrap().len(), 1);
    assert_eq!((route53.check(PRIMARY).path(), route53.check(SECOND).path()), (LOCKED, "/lb-check"));
    let event = delivered(&[&message(SECOND, "ALARM", CHANGED_AT)]);
    let answer = support::lock::run(&route53, &guarded, Handler::Lock, &event).await.unwrap();
    assert_eq!(answer["outcomes"][0]["reason"], "not_guarded");
    let request = serde_json::json!({ "healthCheckId": SECOND, "force": true }).to_string();
    let error = support::lock::run(&route53, &guarded, Handler::Restore, &request).await.unwrap_err();
    assert!(error.contains("not in this function's GUARDED_HEALTH_CHECKS"), "{error}");
}

#[tokio::test]
async fn a_locked_check_with_the_tag_that_is_deleted_is_reported() {
    let route53 = with(check().tagged("guarded", "yes"), &[firing()]).await;
    let system = support::lock::system(&route53, &[("GUARDED_TAG", "guarded")]).await;
    let tick = async || support::lock::invoke(&system, Handler::Reconcile, "{}").await;
    assert_eq!(tick().await.unwrap()["outcomes"][0]["outcome"], "locked");
    assert_eq!(tick().await.unwrap()["outcomes"][0]["outcome"], "already_locked");
    // As Terraform replaces it: the site is back.
    route53.delete(PRIMARY);
    route53.put(SECOND, check().tagged("guarded", "yes"));
    let error = tick().await.unwrap_err().to_string();
    assert!(error.contains("NoSuchHealthCheck") && error.contains(PRIMARY), "{error}");
    // One in service may go.
    route53.put(PRIMARY, check().changed().tagged("guarded", "yes"));
    route53.put_alarm("primary-unhealthy", Alarm::on(PRIMARY, "OK", CHANGED));
    let system = support::lock::system(&route53, &[("GUARDED_TAG", "guarded")]).await;
    let tick = async || support::lock::invoke(&system, Handler::Reconcile, "{}").await;
    assert_eq!(tick().await.unwrap()["outcomes"].as_array().unwrap().len(), 2);
    route53.delete(PRIMARY);
    assert_eq!(tick().await.unwrap()["outcomes"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_check_with_the_tag_that_cannot_be_locked_is_reported() {
    let route53 = Route53::start().await;
    route53.put(SECOND, Check::new("TCP", 80).without("ResourcePath").tagged("guarded", "yes"));
    let guarded = [("GUARDED_TAG", "guarded")];
    let outcome = reconcile_with(&route53, &guarded).await.unwrap();
    assert_eq!((&outcome["outcome"], &outcome["reason"]), (&"unprotected".into(), &"no_path".into()));
    // One without the tag is none of its business.
    route53.put(PRIMARY, Check::new("CALCULATED", 80).without("ResourcePath"));
    let answer = support::lock::run(&route53, &guarded, Handler::Reconcile, "{}").await.unwrap();
    assert_eq!(answer["outcomes"].as_array().unwrap().len(), 1, "{answer}");
}
