//! What the function `lock` does to Route 53, call by call.

use std::time::Duration;

use crate::support;
use crate::support::cloudwatch::{Alarm, Kind};
use crate::support::lock::{CHANGED_AT, LOCKED, PRIMARY, alarm, delivered, message};
use crate::support::route53::{Check, Fault, Route53};
use failover::failover_lock::Handler;
use failover::failover_lock::outcome::Verdict;
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

const SECOND: &str = "d2f991db-4143-47b0-9015-e781df145c7c";
const DENIED: Fault =
    Fault::Error(403, "AccessDenied", "User: arn:aws:sts::123456789012:assumed-role/x is not authorized");
const THROTTLED: Fault = Fault::Error(400, "Throttling", "Rate exceeded");
const GATEWAY: &str = "<html><body><h1>502 Bad Gateway</h1></body></html>";

async fn with_check(check: Check) -> Route53 {
    let route53 = Route53::start().await;
    route53.put(PRIMARY, check);
    route53
}

async fn lock(route53: &Route53, event: &str) -> Result<Value, String> {
    lock_with(route53, &[], event).await
}

async fn lock_with(route53: &Route53, variables: &[(&str, &str)], event: &str) -> Result<Value, String> {
    support::lock::run(route53, variables, Handler::Lock, event).await
}

fn updates(route53: &Route53) -> usize {
    route53.calls().iter().filter(|call| call.starts_with("UpdateHealthCheck")).count()
}

#[tokio::test]
async fn an_alarm_sets_the_locked_path_on_the_version_read_and_nothing_else() {
    let route53 = with_check(Check::new("HTTPS", 443)).await;
    let answer = lock(&route53, &alarm()).await.unwrap();
    assert_eq!(
        answer,
        json!({ "outcomes": [{
            "healthCheckId": PRIMARY,
            "outcome": "locked",
            "previousPath": "/lb-check",
            "path": LOCKED,
            "version": 2,
            "alarm": "primary-unhealthy",
        }]})
    );
    // Where the check answers slowly, its tags are read beside it.
    let calls = route53.calls();
    let calls: Vec<_> = calls.into_iter().filter(|call| !call.starts_with("ListTagsForResource")).collect();
    assert_eq!(
        calls[..2],
        [
            format!("GetHealthCheck {PRIMARY}"),
            format!("UpdateHealthCheck {PRIMARY} HealthCheckVersion=1 ResourcePath={LOCKED}"),
        ]
    );
    assert!(calls[2].starts_with("ChangeTagsForResource"), "{calls:?}");
    assert_eq!(calls.len(), 3);
}

#[tokio::test]
async fn a_check_that_was_changed_before_may_have_been_restored_and_is_asked_for_it() {
    let route53 = with_check(Check::new("HTTPS", 443).changed()).await;
    lock(&route53, &alarm()).await.unwrap();
    let calls = route53.calls();
    let mut read = [calls[0].as_str(), calls[1].as_str()];
    read.sort_unstable();
    assert_eq!(read, [format!("GetHealthCheck {PRIMARY}"), format!("ListTagsForResource {PRIMARY}")]);
    assert_eq!(calls[2], format!("UpdateHealthCheck {PRIMARY} HealthCheckVersion=3 ResourcePath={LOCKED}"));
}

#[tokio::test]
async fn tags_are_read_beside_a_check_that_answers_slowly() {
    let route53 = with_check(Check::new("HTTPS", 443).changed()).await;
    let held = route53.hold("GetHealthCheck");
    let tags = route53.hold("ListTagsForResource");
    let event = alarm();
    let locking = lock(&route53, &event);
    let reading = async {
        tokio::join!(held.reached(), tags.reached());
        held.release();
        tags.release();
    };
    let (answer, ()) = tokio::join!(locking, reading);
    assert_eq!(answer.unwrap()["outcomes"][0]["outcome"], "locked");
}

#[tokio::test]
async fn a_lock_is_noted_in_tags_that_route_53_allows() {
    let route53 = with_check(Check::new("HTTPS", 443)).await;
    let named = message(PRIMARY, "ALARM", CHANGED_AT)
        .replace("primary-unhealthy", &format!("P1 | site «ä» {}", "x".repeat(300)));
    lock(&route53, &delivered(&[&named])).await.unwrap();
    let tags = route53.check(PRIMARY).tags;
    let record = &tags["failover-lock:out"];
    assert!(record.starts_with("v=2 at=2"), "{record}");
    assert!(
        record.contains("Z alarm=2026-11-21T02:36:15.490Z before=/lb-check by=P1 _ site _ä_ xxx"),
        "{record}"
    );
    assert_eq!(tags.len(), 1, "{tags:?}");
}

#[tokio::test]
async fn a_lock_that_stands_for_the_same_alarm_costs_two_reads_and_no_write() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    lock(&route53, &alarm()).await.unwrap();
    let before = route53.calls().len();
    let answer = lock(&route53, &alarm()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "already_locked");
    let mut calls = route53.calls()[before..].to_vec();
    calls.sort_unstable();
    assert_eq!(calls, [format!("GetHealthCheck {PRIMARY}"), format!("ListTagsForResource {PRIMARY}")]);
}

#[tokio::test]
async fn a_newer_alarm_that_finds_the_lock_makes_a_new_version_so_that_a_restore_meets_a_conflict() {
    let route53 = with_check(Check::new("HTTP", 80).with("ResourcePath", LOCKED).changed()).await;
    let answer = lock(&route53, &alarm()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "already_locked");
    assert_eq!((route53.check(PRIMARY).path(), route53.check(PRIMARY).version), (LOCKED, 4));
    let later = message(PRIMARY, "ALARM", "2026-11-21T02:40:15.490+0000");
    lock(&route53, &delivered(&[&later])).await.unwrap();
    assert_eq!((route53.check(PRIMARY).path(), route53.check(PRIMARY).version), (LOCKED, 5));
}

#[tokio::test]
async fn an_ok_after_the_lock_leaves_it_standing() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    lock(&route53, &alarm()).await.unwrap();
    let later = message(PRIMARY, "OK", "2026-11-21T02:40:15.490+0000");
    let answer = lock(&route53, &delivered(&[&later])).await.unwrap();
    assert_eq!(answer["outcomes"][0]["reason"], "not_in_alarm");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn a_path_that_is_neither_of_the_two_is_locked_all_the_same() {
    let route53 = with_check(Check::new("HTTP", 80).with("ResourcePath", "/elsewhere")).await;
    let answer = lock(&route53, &alarm()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["previousPath"], "/elsewhere");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
    let route53 = with_check(Check::new("HTTP", 80).without("ResourcePath")).await;
    let answer = lock(&route53, &alarm()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["previousPath"], "/");
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_writes_nothing() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    let answer = lock_with(&route53, &[("DRY_RUN", "true")], &alarm()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "would_lock");
    assert_eq!(answer["outcomes"][0]["path"], LOCKED);
    assert_eq!(updates(&route53), 0);
    assert!(!route53.calls().iter().any(|call| call.starts_with("Change")), "{:?}", route53.calls());
}

#[tokio::test]
async fn the_paths_are_those_of_the_variables() {
    let route53 = with_check(Check::new("HTTP", 80).with("ResourcePath", "/ready")).await;
    let variables = [("HEALTHY_PATH", "/ready"), ("LOCKED_PATH", "/out?of=service&now")];
    lock_with(&route53, &variables, &alarm()).await.unwrap();
    assert_eq!(route53.check(PRIMARY).path(), "/out?of=service&now");
}

#[tokio::test]
async fn an_alarm_from_before_the_last_restore_is_harmless() {
    for (restored_at, outcome) in [
        ("2026-11-21T02:36:16Z", "ignored"),
        // Within one second nobody can tell which came first: lock.
        ("2026-11-21T02:36:15Z", "locked"),
        ("2026-11-20T23:59:59Z", "locked"),
        ("yesterday", "locked"),
        // A time to come is nobody's restore.
        ("2999-01-01T00:00:00Z", "locked"),
    ] {
        let route53 =
            with_check(Check::new("HTTP", 80).changed().tagged("failover-lock:restored-at", restored_at))
                .await;
        let answer = lock(&route53, &alarm()).await.unwrap();
        assert_eq!(answer["outcomes"][0]["outcome"], outcome, "{restored_at}");
        if outcome == "ignored" {
            assert_eq!(answer["outcomes"][0]["reason"], "older_than_restore");
            assert_eq!(updates(&route53), 0);
        }
    }
}

#[tokio::test]
async fn a_check_that_no_lock_can_hold_on_is_an_error_that_says_why() {
    for (check, said) in [
        (Check::new("TCP", 443).without("ResourcePath"), r#"type "TCP" requests no path"#),
        (Check::new("CALCULATED", 443).without("ResourcePath"), r#"type "CALCULATED" requests no path"#),
        (Check::new("HTTPS", 443).with("Inverted", "true"), "inverted"),
        (Check::new("HTTPS", 443).with("Disabled", "true"), "disabled"),
    ] {
        let route53 = with_check(check).await;
        let error = lock(&route53, &alarm()).await.unwrap_err();
        assert!(error.contains(said) && error.contains(PRIMARY), "{error}");
        assert_eq!(updates(&route53), 0, "{said}");
    }
}

#[tokio::test]
async fn a_check_that_does_not_exist_is_an_error_that_names_it() {
    let error = lock(&Route53::start().await, &alarm()).await.unwrap_err();
    assert!(error.contains(PRIMARY) && error.contains("NoSuchHealthCheck"), "{error}");
}

#[tokio::test]
async fn a_role_that_may_only_update_locks_without_a_version() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    for operation in ["GetHealthCheck", "ListTagsForResource", "ChangeTagsForResource"] {
        route53.fail_always(operation, DENIED);
    }
    let answer = lock(&route53, &alarm()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "locked");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
    assert!(route53.calls().contains(&format!("UpdateHealthCheck {PRIMARY} ResourcePath={LOCKED}")));
}

#[tokio::test]
async fn a_lock_set_without_reading_the_check_that_does_not_hold_is_an_outcome_and_not_repeated() {
    let route53 = with_check(Check::new("HTTP", 80).with("Inverted", "true")).await;
    route53.fail_always("GetHealthCheck", DENIED);
    let answer = lock(&route53, &alarm()).await.unwrap();
    let outcome = &answer["outcomes"][0];
    assert_eq!((&outcome["outcome"], &outcome["reason"]), (&"locked_in_vain".into(), &"inverted".into()));
    assert_eq!(updates(&route53), 1);
}

#[tokio::test]
async fn a_check_that_is_guarded_by_name_is_locked_although_it_cannot_be_read() {
    for fault in [Fault::Error(503, "ServiceUnavailable", "try later"), THROTTLED, Fault::Hang] {
        let route53 = with_check(Check::new("HTTP", 80)).await;
        route53.fail_always("GetHealthCheck", fault.clone());
        let system = support::lock::system(&route53, &[("GUARDED_HEALTH_CHECKS", PRIMARY)]).await;
        let answer = system.handle(Handler::Lock, &alarm(), Deadline::after(Duration::from_secs(4))).await;
        let answer = answer.into_answer().unwrap();
        assert_eq!(answer.outcomes[0].outcome, Verdict::Locked, "{fault:?}");
        assert_eq!(route53.check(PRIMARY).path(), LOCKED, "{fault:?}");
        // Of a check that is not named it is not known whether it is ours to lock in doubt.
        let route53 = with_check(Check::new("HTTP", 80)).await;
        route53.fail_always("GetHealthCheck", fault.clone());
        let system = support::lock::system(&route53, &[]).await;
        let answer = system.handle(Handler::Lock, &alarm(), Deadline::after(Duration::from_secs(2))).await;
        assert!(answer.into_answer().is_err(), "{fault:?}");
        assert_eq!(updates(&route53), 0, "{fault:?}");
    }
}

#[tokio::test]
async fn what_may_pass_is_tried_again_until_the_lock_stands() {
    for fault in [
        THROTTLED,
        Fault::Error(400, "PriorRequestNotComplete", "still busy"),
        Fault::Error(503, "ServiceUnavailable", "try later"),
        Fault::Answer(429, "slow down"),
        Fault::Answer(502, GATEWAY),
        Fault::Answer(200, GATEWAY),
        Fault::CloseBefore,
        Fault::Hang,
    ] {
        for operation in ["GetHealthCheck", "UpdateHealthCheck"] {
            let route53 = with_check(Check::new("HTTP", 80)).await;
            route53.fail(operation, fault.clone());
            let answer = lock(&route53, &alarm()).await;
            let answer = answer.unwrap_or_else(|error| panic!("{operation} {fault:?}: {error}"));
            assert_eq!(answer["outcomes"][0]["outcome"], "locked", "{operation} {fault:?}");
            assert_eq!(route53.check(PRIMARY).version, 2, "{operation} {fault:?}");
        }
    }
}

#[tokio::test]
async fn an_update_whose_answer_was_lost_has_one_effect_and_is_told_as_a_lock() {
    for fault in [
        Fault::CloseAfter,
        Fault::AnswerAfter(502, GATEWAY),
        Fault::AnswerAfter(200, "<?xml version=\"1.0\"?><Upd"),
    ] {
        let route53 = with_check(Check::new("HTTP", 80)).await;
        route53.fail("UpdateHealthCheck", fault.clone());
        let answer = lock(&route53, &alarm()).await.unwrap();
        assert_eq!(answer["outcomes"][0]["outcome"], "locked", "{fault:?}");
        assert_eq!(answer["outcomes"][0]["version"], 2, "{fault:?}");
        assert_eq!((route53.check(PRIMARY).path(), route53.check(PRIMARY).version), (LOCKED, 2), "{fault:?}");
        assert!(route53.check(PRIMARY).tags.contains_key("failover-lock:out"), "{fault:?}");
    }
}

#[tokio::test]
async fn a_change_made_meanwhile_is_read_before_the_check_is_locked() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    route53.fail("UpdateHealthCheck", Fault::Meddle("/elsewhere"));
    route53.fail("UpdateHealthCheck", Fault::Meddle("/lb-check"));
    let answer = lock(&route53, &alarm()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["version"], 4);
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn an_update_whose_answer_was_lost_is_not_taken_for_a_change_by_another_caller() {
    for (path, version) in [("/elsewhere", 4), (LOCKED, 3)] {
        let route53 = with_check(Check::new("HTTP", 80)).await;
        route53.fail("UpdateHealthCheck", Fault::CloseAfter);
        route53.fail("UpdateHealthCheck", Fault::Meddle(path));
        let answer = lock(&route53, &alarm()).await.unwrap();
        assert_eq!(answer["outcomes"][0]["outcome"], "locked", "{path}");
        let check = route53.check(PRIMARY);
        assert_eq!((check.path(), check.version), (LOCKED, version), "{path}");
        let before = if path == LOCKED { "/lb-check" } else { path };
        assert!(check.tags["failover-lock:out"].contains(&format!("before={before} ")), "{:?}", check.tags);
    }
}

#[tokio::test]
async fn an_update_that_was_lost_is_not_recorded_over_the_lock_that_made_its_version() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    route53.fail("UpdateHealthCheck", Fault::CloseBefore);
    route53.hold("UpdateHealthCheck").release();
    let held = route53.hold("UpdateHealthCheck");
    let event = alarm();
    let locking = lock(&route53, &event);
    let by_a_person = async {
        held.reached().await;
        let person = delivered(&[&message(PRIMARY, "ALARM", CHANGED_AT)
            .replace("primary-unhealthy", "by hand: the data centre is on fire")]);
        assert_eq!(lock(&route53, &person).await.unwrap()["outcomes"][0]["version"], 2);
        held.release();
    };
    let (answer, ()) = tokio::join!(locking, by_a_person);
    assert_eq!(answer.unwrap()["outcomes"][0]["outcome"], "locked");
    let check = route53.check(PRIMARY);
    assert_eq!((check.path(), check.version), (LOCKED, 2));
    let recorded = &check.tags["failover-lock:out"];
    assert!(
        recorded.contains("the data centre is on fire") && recorded.contains("before=/lb-check "),
        "{recorded}"
    );
}

#[tokio::test]
async fn of_two_that_lock_at_once_one_finds_the_lock_of_the_other() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    route53.fail("UpdateHealthCheck", Fault::Meddle(LOCKED));
    let answer = lock(&route53, &alarm()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "already_locked");
    // The other one has not recorded for which alarm it locked: this one does.
    assert_eq!((route53.check(PRIMARY).path(), route53.check(PRIMARY).version), (LOCKED, 3));
}

#[tokio::test]
async fn what_cannot_pass_is_not_tried_again_and_names_the_check_and_the_cause() {
    for (fault, said) in [
        (DENIED, "Grant the caller's role route53:UpdateHealthCheck"),
        (Fault::Answer(403, "<html>forbidden</html>"), "Grant the caller's role route53:UpdateHealthCheck"),
        (Fault::Error(403, "ExpiredToken", "The security token is expired"), "ExpiredToken"),
        (Fault::Error(400, "InvalidInput", "no such thing"), "InvalidInput (HTTP 400): no such thing"),
    ] {
        let route53 = with_check(Check::new("HTTP", 80)).await;
        route53.fail_always("UpdateHealthCheck", fault.clone());
        let error = lock(&route53, &alarm()).await.unwrap_err();
        assert!(error.contains(said) && error.contains(PRIMARY), "{error}");
        assert!(error.contains(r#"record 1: alarm "primary-unhealthy""#), "{error}");
        assert_eq!(updates(&route53), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn what_does_not_pass_in_time_is_an_error_that_names_the_check_and_the_cause() {
    for (fault, said) in [
        (THROTTLED, "UpdateHealthCheck: Throttling (HTTP 400): Rate exceeded"),
        (Fault::Hang, "UpdateHealthCheck: no answer within"),
        (Fault::CloseBefore, "UpdateHealthCheck: "),
        (Fault::Meddle("/elsewhere"), "HealthCheckVersionMismatch"),
    ] {
        let route53 = with_check(Check::new("HTTP", 80)).await;
        route53.fail_always("UpdateHealthCheck", fault.clone());
        let system = support::lock::system(&route53, &[]).await;
        let deadline = Deadline::after(Duration::from_secs(2));
        let error =
            system.handle(Handler::Lock, &alarm(), deadline).await.into_answer().unwrap_err().to_string();
        assert!(error.contains(said) && error.contains(PRIMARY), "{fault:?}: {error}");
        assert!(updates(&route53) > 1, "{fault:?}");
        assert_ne!(route53.check(PRIMARY).path(), LOCKED, "{fault:?}");
    }
}

#[tokio::test]
async fn tags_that_cannot_be_read_or_written_do_not_keep_a_lock_from_being_set() {
    for fault in [DENIED, THROTTLED, Fault::Hang, Fault::Answer(200, GATEWAY)] {
        let route53 = with_check(Check::new("HTTP", 80).changed()).await;
        route53.fail_always("ListTagsForResource", fault.clone());
        route53.fail_always("ChangeTagsForResource", fault.clone());
        let system = support::lock::system(&route53, &[]).await;
        let deadline = Deadline::after(Duration::from_secs(3));
        let answer = system.handle(Handler::Lock, &alarm(), deadline).await.into_answer();
        assert!(answer.is_ok(), "{fault:?}: {answer:?}");
        assert_eq!(route53.check(PRIMARY).path(), LOCKED, "{fault:?}");
    }
}

#[tokio::test]
async fn tags_that_cannot_be_written_do_not_use_up_the_invocations_time() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    route53.fail_always("ChangeTagsForResource", THROTTLED);
    let system = support::lock::system(&route53, &[]).await;
    let deadline = Deadline::after(Duration::from_mins(1));
    let report = system.handle(Handler::Lock, &alarm(), deadline).await;
    assert!(report.into_answer().is_ok());
    assert!(deadline.left() > Duration::from_secs(30), "{:?} left", deadline.left());
}

#[tokio::test]
async fn tags_that_never_come_leave_the_update_time_for_a_second_attempt() {
    let route53 = with_check(Check::new("HTTP", 80).changed()).await;
    route53.fail_always("ListTagsForResource", Fault::Hang);
    route53.fail("UpdateHealthCheck", Fault::Hang);
    let system = support::lock::system(&route53, &[]).await;
    let report = system.handle(Handler::Lock, &alarm(), Deadline::after(Duration::from_secs(3))).await;
    assert!(report.into_answer().is_ok());
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn an_answer_with_another_path_is_an_error() {
    let wrong = r#"<?xml version="1.0"?><UpdateHealthCheckResponse xmlns="https://route53.amazonaws.com/doc/2013-04-01/"><HealthCheck><Id>x</Id><CallerReference>x</CallerReference><HealthCheckConfig><Type>HTTP</Type><ResourcePath>/lb-check</ResourcePath></HealthCheckConfig><HealthCheckVersion>2</HealthCheckVersion></HealthCheck></UpdateHealthCheckResponse>"#;
    let route53 = with_check(Check::new("HTTP", 80)).await;
    route53.fail("UpdateHealthCheck", Fault::Answer(200, wrong));
    let error = lock(&route53, &alarm()).await.unwrap_err();
    assert!(error.contains(r#"answers with "/lb-check""#), "{error}");
}

#[tokio::test]
async fn each_record_stands_alone() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    let broken = [
        r#"{"AlarmName":"x","#,
        "[5",
        r#"{"AlarmName":"x","Trigger":{"Namespace":"AWS/Route53"}}"#,
        &message("../x", "ALARM", CHANGED_AT),
        &message(SECOND, "ALARM", CHANGED_AT),
    ];
    let good = message(PRIMARY, "ALARM", CHANGED_AT);
    let messages: Vec<&str> = broken.into_iter().chain([good.as_str()]).collect();
    let error = lock(&route53, &delivered(&messages)).await.unwrap_err();
    assert!(error.starts_with("4 of 6 records failed, the others were handled: record 1: "), "{error}");
    assert!(
        error.contains("record 3: the alarm's message cannot be read: missing field `NewStateValue`"),
        "{error}"
    );
    assert!(
        error.contains(&format!("record 5: alarm \"primary-unhealthy\": health check {SECOND}: ")),
        "{error}"
    );
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn a_record_whose_check_does_not_answer_holds_up_no_other() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    route53.put(SECOND, Check::new("HTTP", 80));
    // The first record's first call hangs; the second record's calls are answered.
    route53.fail("GetHealthCheck", Fault::Hang);
    let first = message(SECOND, "ALARM", CHANGED_AT);
    let answer = lock(&route53, &delivered(&[&first, &message(PRIMARY, "ALARM", CHANGED_AT)])).await.unwrap();
    assert_eq!(answer["outcomes"][0]["healthCheckId"], SECOND);
    let calls = route53.calls();
    let update =
        |id| calls.iter().position(|call| call.starts_with(&format!("UpdateHealthCheck {id}"))).unwrap();
    assert!(update(PRIMARY) < update(SECOND), "{calls:?}");
}

#[tokio::test]
async fn a_lock_waits_while_the_secondary_is_known_to_be_unhealthy() {
    let pair = format!("{PRIMARY}={SECOND}");
    let variables = [("SECONDARY_HEALTH_CHECKS", pair.as_str())];
    for (secondary, outcome) in [
        (Some(Check::new("HTTP", 80).reported(2)), "deferred"),
        (Some(Check::new("HTTP", 80).reported(3)), "locked"),
        // Nothing is known of it: when in doubt, lock.
        (Some(Check::new("HTTP", 80)), "locked"),
        (None, "locked"),
    ] {
        let route53 = with_check(Check::new("HTTP", 80)).await;
        if let Some(secondary) = secondary {
            route53.put(SECOND, secondary);
        }
        let answer = lock_with(&route53, &variables, &alarm()).await.unwrap();
        assert_eq!(answer["outcomes"][0]["outcome"], outcome);
        assert_eq!(updates(&route53), usize::from(outcome == "locked"));
        if outcome == "deferred" {
            assert_eq!(answer["outcomes"][0]["reason"], "secondary_unhealthy");
        }
    }
}

#[tokio::test]
async fn a_secondary_is_judged_by_route_53s_own_verdict_if_there_is_one() {
    let pair = format!("{PRIMARY}={SECOND}");
    let variables = [("SECONDARY_HEALTH_CHECKS", pair.as_str())];
    let inverted = || Check::new("HTTP", 80).with("Inverted", "true");
    let calculated = || Check::new("CALCULATED", 80).without("ResourcePath");
    for (secondary, verdict, outcome) in [
        // Its checkers fail, so that an inverted check is healthy.
        (inverted().reported(0), Some(1.0), "locked"),
        (inverted().reported(16), Some(0.0), "deferred"),
        (Check::new("HTTP", 80).with("Disabled", "true").reported(0), Some(1.0), "locked"),
        // Without a verdict it is not known what its checkers' reports mean.
        (inverted().reported(0), None, "locked"),
        (Check::new("HTTP", 80).with("Disabled", "true").reported(0), None, "locked"),
        (calculated(), Some(0.0), "deferred"),
        (calculated(), Some(1.0), "locked"),
        (calculated(), None, "locked"),
    ] {
        let route53 = with_check(Check::new("HTTP", 80)).await;
        route53.put(SECOND, secondary.clone());
        if let Some(verdict) = verdict {
            route53.put_verdict(SECOND, verdict);
        }
        let answer = lock_with(&route53, &variables, &alarm()).await.unwrap();
        assert_eq!(answer["outcomes"][0]["outcome"], outcome, "{secondary:?} {verdict:?}");
    }
}

#[tokio::test]
async fn a_secondary_that_may_not_be_read_holds_up_no_lock() {
    let pair = format!("{PRIMARY}={SECOND}");
    let route53 = with_check(Check::new("HTTP", 80)).await;
    route53.put(SECOND, Check::new("HTTP", 80).with("Disabled", "true").reported(0));
    route53.fail("GetHealthCheck", Fault::Pass);
    route53.fail("GetHealthCheck", Fault::Error(403, "AccessDenied", "not authorized"));
    let answer = lock_with(&route53, &[("SECONDARY_HEALTH_CHECKS", &pair)], &alarm()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "locked");
}

/// A composite alarm's message, with these children and their states as those that triggered it.
fn composite(children: &[(&str, &str)]) -> String {
    let child = |(name, state): &(&str, &str)| {
        let arn = format!("arn:aws:cloudwatch:us-east-1:123456789012:alarm:{name}");
        json!({ "Arn": arn, "State": { "Value": state, "Timestamp": CHANGED_AT } })
    };
    let mut message = json!({
        "AlarmName": "composite",
        "AlarmRule": "ALARM(a) OR ALARM(b)",
        "NewStateValue": "ALARM",
        "StateChangeTime": CHANGED_AT,
    });
    if !children.is_empty() {
        message["TriggeringChildren"] = children.iter().map(child).collect();
    }
    delivered(&[&message.to_string()])
}

fn built_from(names: &[&str], state: &'static str) -> Alarm {
    Alarm::of(Kind::Composite(names.iter().map(|&name| name.to_owned()).collect()), state)
}

fn on(id: &str, state: &'static str) -> Alarm {
    Alarm::on(id, state, 0.0)
}

async fn with_alarms(alarms: &[(&str, Alarm)]) -> Route53 {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    for (name, alarm) in alarms {
        route53.put_alarm(name, alarm.clone());
    }
    route53
}

#[tokio::test]
async fn a_composite_alarm_locks_the_check_behind_the_alarms_that_triggered_it() {
    let math = Alarm {
        comparison: "GreaterThanThreshold",
        ..Alarm::of(Kind::Math(vec![PRIMARY.to_owned()]), "ALARM")
    };
    let latency = Alarm { kind: Kind::Metric("TimeToFirstByte", PRIMARY.to_owned()), ..on("", "ALARM") };
    for (children, known, calls) in [
        (&[("a: b", "ALARM")][..], vec![("a: b", on(PRIMARY, "ALARM"))], 1),
        (&[("math", "ALARM")], vec![("math", math)], 1),
        (
            &[("a", "ALARM"), ("b", "ALARM")],
            vec![("a", on(PRIMARY, "ALARM")), ("b", on(PRIMARY, "ALARM"))],
            1,
        ),
        // One that the rule wants to be OK has not failed.
        (&[("a", "ALARM"), ("b", "OK")], vec![("a", on(PRIMARY, "ALARM")), ("b", on(SECOND, "OK"))], 1),
        (&[("inner", "ALARM")], vec![("inner", built_from(&["a"], "ALARM")), ("a", on(PRIMARY, "ALARM"))], 3),
        // Without a list of those that triggered it, or with one that tells of other things, those
        // in ALARM are taken; they are told in pages of two.
        (
            &[],
            vec![
                ("composite", built_from(&["x", "b", "a"], "ALARM")),
                ("a", on(PRIMARY, "ALARM")),
                ("b", on(SECOND, "OK")),
                ("x", latency.clone()),
            ],
            4,
        ),
        (
            &[("x", "ALARM")],
            vec![
                ("composite", built_from(&["a", "x"], "ALARM")),
                ("a", on(PRIMARY, "ALARM")),
                ("x", latency),
            ],
            4,
        ),
    ] {
        let route53 = with_alarms(&known).await;
        let answer = lock(&route53, &composite(children)).await.unwrap();
        let outcome = &answer["outcomes"][0];
        assert_eq!(
            (&outcome["outcome"], &outcome["alarm"]),
            (&"locked".into(), &"composite".into()),
            "{children:?}"
        );
        assert_eq!(route53.check(PRIMARY).path(), LOCKED);
        let described = route53.calls().into_iter().filter(|call| call.starts_with("DescribeAlarms")).count();
        assert_eq!(described, calls, "{children:?}: {:?}", route53.calls());
    }
}

#[tokio::test]
async fn a_composite_alarm_of_more_than_a_hundred_is_looked_up_in_parts() {
    let names: Vec<String> = (0..150).map(|number| format!("alarm-{number}")).collect();
    let listed: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "ALARM")).collect();
    let known: Vec<_> = names.iter().map(|name| (name.as_str(), on(PRIMARY, "ALARM"))).collect();
    let route53 = with_alarms(&known).await;
    assert_eq!(lock(&route53, &composite(&listed)).await.unwrap()["outcomes"][0]["outcome"], "locked");
}

#[tokio::test]
async fn a_composite_alarm_that_cannot_be_resolved_is_an_error_and_another_teams_is_ignored() {
    let other = || Alarm { kind: Kind::Metric("TimeToFirstByte", PRIMARY.to_owned()), ..on("", "ALARM") };
    let healthy = |state| Alarm { comparison: "GreaterThanThreshold", ..on(PRIMARY, state) };
    let whole = |child: &str| ("composite", built_from(&[child], "ALARM"));
    for (known, said) in [
        (vec![whole("child")], Err(r#"built from "child", which does not exist in this account"#)),
        (
            [whole("child"), ("child", built_from(&["2"], "ALARM"))]
                .into_iter()
                .chain(
                    [("2", "3"), ("3", "4"), ("4", "5"), ("5", "6")]
                        .map(|(name, child)| (name, built_from(&[child], "ALARM"))),
                )
                .collect(),
            Err("more than 5 deep"),
        ),
        (vec![whole("child"), ("child", built_from(&["child"], "ALARM"))], Ok("not_a_health_check_alarm")),
        (vec![whole("child"), ("child", on("../x", "ALARM"))], Err("names a health check that cannot exist")),
        // The message comes late, and the alarm has been OK since.
        (vec![whole("child"), ("child", on(PRIMARY, "OK"))], Err("is still in ALARM")),
        // It goes off when the check is healthy, which it is, or is not.
        (vec![whole("child"), ("child", healthy("OK"))], Err("go off when a health check is healthy")),
        (vec![whole("child"), ("child", healthy("ALARM"))], Ok("not_a_health_check_alarm")),
        (vec![whole("child"), ("child", other())], Ok("not_a_health_check_alarm")),
    ] {
        let route53 = with_alarms(&known).await;
        let children: &[_] = if matches!(said, Err(said) if said.contains("is still in ALARM")) {
            &[]
        } else {
            &[("child", "ALARM")]
        };
        let answer = lock(&route53, &composite(children)).await;
        match (answer, said) {
            (Ok(answer), Ok(reason)) => assert_eq!(answer["outcomes"][0]["reason"], reason),
            (Err(error), Err(said)) => {
                assert!(error.contains(said) && error.contains("composite"), "{error}");
            }
            (answer, _) => panic!("{known:?}: {answer:?}"),
        }
        assert_eq!(updates(&route53), 0, "{known:?}");
    }
    // What can be read is locked, and the others fail the message, so that it comes again.
    let (a, foreign) = (("a", on(PRIMARY, "ALARM")), ("foreign", on(SECOND, "ALARM")));
    let guarded = [("GUARDED_HEALTH_CHECKS", PRIMARY)];
    let of = async |known: &[(&str, Alarm)], triggers: &[&str]| {
        let route53 = with_alarms(&[known, &[("composite", built_from(triggers, "ALARM"))]].concat()).await;
        let listed: Vec<_> = triggers.iter().map(|name| (*name, "ALARM")).collect();
        let told = support::lock::run(&route53, &guarded, Handler::Lock, &composite(&listed)).await;
        (told.map(|answer| answer["outcomes"][0]["reason"].clone()), route53.check(PRIMARY).path() == LOCKED)
    };
    for (known, triggers, is_locked) in [
        (vec![a.clone()], &["gone", "a"][..], true),
        (vec![a.clone(), ("x", on("../x", "ALARM"))], &["a", "x"], true),
        (vec![a.clone(), ("round", built_from(&["round"], "ALARM"))], &["round", "a"], false),
        (vec![foreign.clone()], &["gone", "foreign"], false),
        (vec![foreign.clone(), ("x", on("../x", "ALARM"))], &["foreign", "x"], false),
    ] {
        let (told, locked) = of(&known, triggers).await;
        let is_round = triggers.contains(&"round");
        assert_eq!((told.is_err(), locked), (!is_round, is_locked || is_round), "{triggers:?}: {told:?}");
    }
    assert_eq!(of(std::slice::from_ref(&foreign), &["foreign"]).await.0.unwrap(), "not_guarded");
    // Late, and without what triggered it: ours may have been in ALARM beside another team's, which still is.
    let late = with_alarms(&[
        foreign.clone(),
        ("a", on(PRIMARY, "OK")),
        ("composite", built_from(&["a", "foreign"], "ALARM")),
    ])
    .await;
    let told = support::lock::run(&late, &guarded, Handler::Lock, &composite(&[])).await;
    assert!(told.unwrap_err().contains("is still in ALARM"));
    // Beside another team's alarm, ours says by being OK that its check is not healthy.
    let route53 = with_alarms(&[
        foreign,
        ("ours", healthy("OK")),
        ("composite", built_from(&["foreign", "ours"], "ALARM")),
    ])
    .await;
    let told =
        support::lock::run(&route53, &guarded, Handler::Lock, &composite(&[("foreign", "ALARM")])).await;
    assert!(told.unwrap_err().contains("go off when a health check is healthy"));
    // Late, and about a check of another team.
    let route53 = with_alarms(&[whole("child"), ("child", on(SECOND, "OK"))]).await;
    let guarded = [("GUARDED_HEALTH_CHECKS", PRIMARY)];
    let answer = support::lock::run(&route53, &guarded, Handler::Lock, &composite(&[])).await.unwrap();
    assert_eq!(answer["outcomes"][0]["reason"], "not_guarded");
    let route53 = with_check(Check::new("HTTP", 80)).await;
    route53.fail_always("DescribeAlarms", DENIED);
    let error = lock(&route53, &composite(&[("a", "ALARM")])).await.unwrap_err();
    assert!(error.contains("Grant the caller's role cloudwatch:DescribeAlarms"), "{error}");
}

#[tokio::test]
async fn another_teams_alarm_over_several_checks_is_ignored_where_a_tag_guards() {
    let tag = [("GUARDED_TAG", "failover=lock")];
    let query = |id| json!({ "metricStat": { "period": 60, "metric": { "namespace": "AWS/Route53", "name": "HealthCheckStatus", "dimensions": { "HealthCheckId": id } } } });
    let state = json!({ "value": "ALARM", "timestamp": CHANGED_AT });
    let configuration = json!({ "metrics": [query(PRIMARY), query(SECOND)] });
    let math =
        json!({ "alarmData": { "alarmName": "math", "state": state, "configuration": configuration } });
    let math = math.to_string();
    let tagged = |id: &str, tags: &[&str]| {
        let check = Check::new("HTTP", 80);
        if tags.contains(&id) { check.tagged("failover", "lock") } else { check }
    };
    for (tags, said) in [
        (&[][..], Ok("not_guarded")),
        (&[PRIMARY], Ok("locked")),
        (&[PRIMARY, SECOND], Err("does not say which failed")),
    ] {
        let route53 = with_check(tagged(PRIMARY, tags)).await;
        route53.put(SECOND, tagged(SECOND, tags));
        let answer = lock_with(&route53, &tag, &math).await;
        match (answer, said) {
            (Ok(answer), Ok("locked")) => assert_eq!(answer["outcomes"][0]["outcome"], "locked"),
            (Ok(answer), Ok(reason)) => assert_eq!(answer["outcomes"][0]["reason"], reason),
            (Err(error), Err(said)) => assert!(error.contains(said), "{error}"),
            (answer, _) => panic!("{tags:?}: {answer:?}"),
        }
        assert_eq!(route53.check(SECOND).path(), "/lb-check");
    }
    // Whether one of them is guarded is not known.
    let route53 = with_check(Check::new("HTTP", 80)).await;
    route53.put(SECOND, Check::new("HTTP", 80));
    route53.fail_always("ListTagsForResource", DENIED);
    let error = lock_with(&route53, &tag, &math).await.unwrap_err();
    assert!(error.contains("whether the check has the tag of GUARDED_TAG could not be read"), "{error}");
    // Nor is one that is gone.
    let route53 = with_check(Check::new("HTTP", 80)).await;
    assert_eq!(lock_with(&route53, &tag, &math).await.unwrap()["outcomes"][0]["reason"], "not_guarded");
    // A composite alarm's message that comes late.
    let route53 = with_alarms(&[
        ("composite", built_from(&["a", "b"], "ALARM")),
        ("a", on(PRIMARY, "OK")),
        ("b", on(SECOND, "OK")),
    ])
    .await;
    route53.put(SECOND, Check::new("HTTP", 80));
    let answer = lock_with(&route53, &tag, &composite(&[])).await.unwrap();
    assert_eq!(answer["outcomes"][0]["reason"], "not_guarded");
    route53.tag(SECOND, "failover", Some("lock"));
    let error = lock_with(&route53, &tag, &composite(&[])).await.unwrap_err();
    assert!(error.contains("is still in ALARM"), "{error}");
}

#[tokio::test]
async fn an_alarm_on_a_query_without_a_contributor_does_not_say_which_check_failed() {
    let query = r#"SELECT MIN(HealthCheckStatus) FROM SCHEMA("AWS/Route53", HealthCheckId)"#;
    let sns = json!({ "AlarmName": "q", "NewStateValue": "ALARM", "StateChangeTime": CHANGED_AT,
        "Trigger": { "Metrics": [{ "Id": "q", "Expression": query, "ReturnData": true }] } });
    let configuration = json!({ "metrics": [{ "id": "q", "expression": query, "returnData": true }] });
    let state = json!({ "value": "ALARM", "timestamp": CHANGED_AT });
    let direct = json!({ "alarmData": { "alarmName": "q", "state": state, "configuration": configuration } });
    for event in [delivered(&[&sns.to_string()]), direct.to_string()] {
        let route53 = Route53::start().await;
        let error = lock(&route53, &event).await.unwrap_err();
        assert!(error.contains("does not say which health check failed"), "{error}");
        assert_eq!(route53.calls(), [""; 0]);
    }
}

#[tokio::test]
async fn an_alarm_that_goes_off_when_the_check_recovers_does_not_lock_it() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    let recovered = message(PRIMARY, "ALARM", CHANGED_AT)
        .replace("\"MetricName\"", "\"ComparisonOperator\":\"GreaterThanOrEqualToThreshold\",\"MetricName\"");
    let answer = lock(&route53, &delivered(&[&recovered])).await.unwrap();
    assert_eq!(answer["outcomes"][0]["reason"], "recovery_alarm");
    assert_eq!(route53.calls(), [""; 0]);
}

#[tokio::test]
async fn a_message_that_was_kept_without_its_envelope_locks_when_it_is_handed_in() {
    let kept = message(PRIMARY, "ALARM", CHANGED_AT);
    let notification = json!({ "Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:123456789012:x", "Message": kept });
    for event in [kept.clone(), notification.to_string()] {
        let route53 = with_check(Check::new("HTTP", 80)).await;
        assert_eq!(lock(&route53, &event).await.unwrap()["outcomes"][0]["outcome"], "locked");
    }
}

/// A front end whose first connection is kept open and answers that it is out of order; others reach Route 53.
async fn front_of(route53: &Route53) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, behind) = (format!("http://{}", listener.local_addr().unwrap()), route53.address);
    tokio::spawn(async move {
        let mut is_first = true;
        while let Ok((mut client, _)) = listener.accept().await {
            let is_broken = std::mem::take(&mut is_first);
            tokio::spawn(async move {
                if !is_broken {
                    let mut server = TcpStream::connect(behind).await?;
                    return copy_bidirectional(&mut client, &mut server).await.map(|_| ());
                }
                let mut request = [0; 16 * 1024];
                while client.read(&mut request).await? > 0 {
                    client
                        .write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
                        .await?;
                }
                Ok(())
            });
        }
    });
    url
}

#[tokio::test]
async fn a_connection_whose_server_is_out_of_order_is_given_up() {
    let route53 = with_check(Check::new("HTTP", 80)).await;
    let system = support::lock::system_at(&front_of(&route53).await, &[]).await;
    let answer = support::lock::invoke(&system, Handler::Lock, &alarm()).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "locked");
}
