//! `failoverctl status`: names, ages, a narrow table, and what it shows where a service of AWS does not answer.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::failoverctl::{CHANGED, Ended, FAILOVERCTL, command, interrupted, run};
use crate::support::cloudwatch::{Alarm, Kind};
use crate::support::lock::{LOCKED, PRIMARY};
use crate::support::route53::{Check, Fault, Route53};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::timeout;

const STANDBY: &str = "d2f991db-4143-47b0-9015-e781df145c7c";
const OTHER: &str = "6dc5e927-6632-468a-b2ff-32e2947321c9";
const LOCK: &str =
    "v=2 at=2026-11-21T02:36:20Z alarm=2026-11-21T02:36:15.490Z before=/lb-check by=primary-unhealthy";
const DENIED: Fault = Fault::Error(403, "AccessDenied", "User: x is not authorized to perform: y");
const HTML: &str = "<html>503 Service Unavailable</html>";

/// An account with a primary that is locked, and its alarm.
async fn locked() -> Route53 {
    let route53 = Route53::start().await;
    let mut check = Check::new("HTTP", 80).with("ResourcePath", LOCKED).reported(0);
    check.version = 2;
    route53.put(PRIMARY, check.tagged("Name", "shop primary").tagged("failover-lock:out", LOCK));
    route53.put_alarm("primary-unhealthy", Alarm::on(PRIMARY, "ALARM", CHANGED));
    route53
}

/// An account with a primary that is armed.
async fn armed() -> Route53 {
    let route53 = Route53::start().await;
    route53.put(PRIMARY, Check::new("HTTP", 80).reported(16).tagged("Name", "primary"));
    route53.put_alarm("primary-unhealthy", Alarm::on(PRIMARY, "OK", CHANGED));
    route53
}

async fn json_of(route53: &Route53, typed: &[&str]) -> (Option<i32>, Value) {
    let ended = run(&route53.url(), &[&["status", "--output", "json"], typed].concat()).await;
    let json = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"));
    (ended.status, json)
}

/// Runs it, and asserts that it has waited for no call longer than 3 s, and for no two in turn.
async fn quickly(route53: &Route53, typed: &[&str]) -> Ended {
    let start = Instant::now();
    let ended = run(&route53.url(), typed).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}: {ended:?}", start.elapsed());
    ended
}

#[tokio::test]
async fn what_one_service_does_not_answer_hides_nothing_that_the_others_do() {
    let by_record = [" ago by alarm primary-unhealthy", "shop primary"];
    let by_path = ["by its path: when and why could not be read", "its tags are unknown [1]"];
    let by_tags = [". Its tags say: locked ", " ago by alarm primary-unhealthy"];
    let (alarms, tags) = (["DescribeAlarms", "DescribeAlarmsForMetric"], ["ListTagsForResource"; 2]);
    let all_tags = ["ListTagsForResources"; 2];
    let url = "http://127.0.0.1:80/lb-check-failed-over";
    for fault in [Fault::Hang, Fault::Answer(503, HTML)] {
        for (down, named, status, state, seen, unseen) in [
            (
                alarms,
                true,
                3,
                "locked",
                [&by_record[..], &["  0/16", "unknown [1]", url]].concat(),
                "cloudwatch:",
            ),
            (
                alarms,
                false,
                3,
                "locked",
                [&by_record[..], &["  0/16", "unknown [1]", url]].concat(),
                "cloudwatch:",
            ),
            (
                tags,
                true,
                3,
                "locked",
                [&by_path[..], &["  0/16", "  ALARM", url]].concat(),
                "route53:ListTags",
            ),
            (
                all_tags,
                false,
                3,
                "locked",
                [&by_path[..], &["  0/16", "  ALARM", url]].concat(),
                "route53:ListTags",
            ),
            (
                ["GetHealthCheckStatus"; 2],
                true,
                0,
                "locked",
                [&by_record[..], &["unknown [1]", "  ALARM", url]].concat(),
                "route53:GetHealthCheckStatus",
            ),
            (
                ["GetHealthCheckStatus"; 2],
                false,
                0,
                "locked",
                [&by_record[..], &["unknown [1]", "  ALARM", url]].concat(),
                "route53:GetHealthCheckStatus",
            ),
            (
                ["GetHealthCheck"; 2],
                true,
                3,
                "unknown",
                [&by_tags[..], &["shop primary", "  0/16", "  ALARM"]].concat(),
                "route53:GetHealthCheck:",
            ),
            (
                ["GetCallerIdentity"; 2],
                false,
                0,
                "locked",
                [&by_record[..], &["account unknown, us-east-1; sts:", "  0/16", "  ALARM", url]].concat(),
                "sts:GetCallerIdentity",
            ),
        ] {
            let route53 = locked().await;
            for operation in down {
                route53.fail_always(operation, fault.clone());
            }
            let ended = quickly(&route53, if named { &["status", PRIMARY] } else { &["status"] }).await;
            let what = format!("{down:?} {fault:?} {ended:?}");
            assert_eq!(ended.status, Some(status), "{what}");
            assert!(ended.out.lines().any(|line| line.starts_with(state)), "{what}");
            // Wherever a line was broken.
            let words = ended.out.split_whitespace().collect::<Vec<_>>().join(" ");
            for said in seen.iter().map(|said| said.trim_start()).chain([unseen]) {
                assert!(words.contains(said), "{said}: {what}");
            }
        }
    }
}

#[tokio::test]
async fn doctor_shows_the_state_without_the_alarms_or_the_tags() {
    for (down, unseen, said) in [
        ("DescribeAlarmsForMetric", "unseen  alarm         cloudwatch:", " ago by alarm primary-unhealthy\n"),
        ("ListTagsForResource", "unseen  history       route53:", "locked by its path: when and why"),
    ] {
        let route53 = locked().await;
        route53.fail_always(down, Fault::Answer(503, HTML));
        let ended = run(&route53.url(), &["doctor", PRIMARY]).await;
        assert_eq!(ended.status, Some(3), "{ended:?}");
        assert!(ended.out.contains(unseen) && ended.out.contains(said), "{ended:?}");
        let is_blamed = ended.out.contains("no metric alarm watches its health");
        assert!(!is_blamed && ended.out.starts_with("account 123456789012, "), "{ended:?}");
    }
}

#[tokio::test]
async fn the_state_of_a_check_in_service_is_unknown_without_its_alarms_or_tags() {
    for (down, said) in [
        ("DescribeAlarmsForMetric", "/lb-check; whether an alarm would lock it could not be read"),
        ("ListTagsForResource", "/lb-check; whether it was locked or restored could not be read"),
    ] {
        let route53 = armed().await;
        route53.fail_always(down, Fault::Answer(503, HTML));
        if down == "DescribeAlarmsForMetric" {
            // The list of all has it as well.
            assert_eq!(quickly(&route53, &["status", PRIMARY]).await.status, Some(0));
            route53.fail_always("DescribeAlarms", Fault::Answer(503, HTML));
        }
        let ended = quickly(&route53, &["status", PRIMARY]).await;
        assert_eq!(ended.status, Some(3), "{ended:?}");
        assert!(ended.out.contains("unknown  ") && ended.out.contains(said), "{ended:?}");
    }
    let route53 = armed().await;
    // Where no plain alarm leads to the lock, those on metric math and queries decide.
    route53.put_alarm("primary-unhealthy", Alarm::of(Kind::Query(Vec::new()), "OK"));
    assert_eq!(run(&route53.url(), &["status", PRIMARY]).await.status, Some(0));
    route53.fail_always("DescribeAlarms", Fault::Answer(503, HTML));
    let ended = quickly(&route53, &["status", PRIMARY]).await;
    assert!(ended.status == Some(3) && !ended.out.contains("none"), "{ended:?}");
}

#[tokio::test]
async fn alarms_that_may_not_be_listed_are_unknown_and_not_none() {
    for typed in [&["status"][..], &["status", PRIMARY]] {
        let route53 = armed().await;
        route53.fail_always("DescribeAlarms", DENIED);
        let ended = run(&route53.url(), typed).await;
        assert_eq!(ended.status, Some(0), "a plain alarm leads to the lock: {ended:?}");
        assert!(ended.out.contains("its alarms on metric math and queries are unknown [1]"), "{ended:?}");
        // None that was seen leads to the lock.
        for seen in [None, Some(Alarm { actions_enabled: false, ..Alarm::on(PRIMARY, "OK", CHANGED) })] {
            let route53 = Route53::start().await;
            route53.put(PRIMARY, Check::new("HTTP", 80).reported(16));
            if let Some(alarm) = seen.clone() {
                route53.put_alarm("off", alarm);
            }
            route53.fail_always("DescribeAlarms", DENIED);
            let ended = run(&route53.url(), typed).await;
            let said = "whether an alarm would lock it could not be read";
            assert!(ended.status == Some(3) && ended.out.contains(said), "{seen:?} {ended:?}");
        }
        // One on a query is in ALARM, and for which checks may not be read.
        let route53 = armed().await;
        route53.put_alarm("query", Alarm::of(Kind::Query(vec![PRIMARY.to_owned()]), "ALARM"));
        route53.fail_always("DescribeAlarmContributors", DENIED);
        let ended = run(&route53.url(), typed).await;
        let said = "whether an alarm on a query is in ALARM for it is unknown [1]";
        assert!(ended.status == Some(3) && ended.out.contains(said), "{ended:?}");
    }
}

#[tokio::test]
async fn a_mute_rule_keeps_a_check_from_being_armed_and_leaves_a_locked_one_locked() {
    for typed in [&["status"][..], &["status", PRIMARY]] {
        for state in ["OK", "ALARM"] {
            let route53 = armed().await;
            route53
                .put_alarm("primary-unhealthy", Alarm { muted: true, ..Alarm::on(PRIMARY, state, CHANGED) });
            let ended = run(&route53.url(), typed).await;
            let said = "a mute rule holds its alarm's actions back";
            assert!(ended.status == Some(3) && ended.out.contains(said), "{state}: {ended:?}");
            // A second alarm that is heard does not make up for a failure of which the first one has told.
            route53.put_alarm("second", Alarm::on(PRIMARY, "OK", CHANGED));
            let armed = run(&route53.url(), typed).await.status == Some(0);
            assert_eq!(armed, state == "OK", "{state}");
        }
        let route53 = locked().await;
        route53.put_alarm("primary-unhealthy", Alarm { muted: true, ..Alarm::on(PRIMARY, "ALARM", CHANGED) });
        let ended = run(&route53.url(), typed).await;
        assert!(ended.status == Some(0) && ended.out.contains("locked  "), "{ended:?}");

        // An emulator that does not know the call has none.
        let route53 = armed().await;
        route53.fail_always("ListAlarmMuteRules", Fault::Error(400, "UnknownOperationException", "no"));
        let ended = run(&route53.url(), typed).await;
        assert!(ended.status == Some(0) && !ended.out.contains("mute rule"), "{ended:?}");
        let route53 = armed().await;
        route53.fail_always("ListAlarmMuteRules", Fault::Hang);
        let ended = quickly(&route53, typed).await;
        // Also not armed: a rule may hold its alarms back.
        let said = "whether a mute rule holds its alarms back is unknown [1]";
        assert!(
            ended.status == Some(3) && ended.out.contains("unknown  ") && ended.out.contains(said),
            "{ended:?}"
        );
    }
    let route53 = armed().await;
    route53.put_alarm("primary-unhealthy", Alarm { muted: true, ..Alarm::on(PRIMARY, "OK", CHANGED) });
    let ended = run(&route53.url(), &["doctor", PRIMARY]).await;
    assert!(ended.out.contains("unprotected: a mute rule holds its alarm's actions back"), "{ended:?}");
    assert!(ended.out.contains("→ when the work is done, end the rule: "), "{ended:?}");
}

#[tokio::test]
async fn a_lock_that_waits_for_the_secondary_is_shown_as_that() {
    for (version, on, state) in
        [(1, " on=1", "deferred"), (7, " on=7", "deferred"), (1, "", "deferred"), (1, " on=7", "armed")]
    {
        let route53 = armed().await;
        let mut check = route53.check(PRIMARY);
        check.version = version;
        let waits =
            format!("v=0 at=2026-11-21T02:36:20Z{on} alarm=2026-11-21T02:36:15Z by=primary-unhealthy");
        route53.put(PRIMARY, check.tagged("failover-lock:out", &waits));
        for typed in [&[][..], &[PRIMARY]] {
            let (status, json) = json_of(&route53, typed).await;
            let check = &json["healthChecks"][0];
            assert_eq!(check["state"], state, "{version} {on}: {check}");
            assert_eq!(status, Some(if state == "armed" { 0 } else { 3 }));
        }
        if state == "deferred" {
            let shown = run(&route53.url(), &["status", PRIMARY]).await.out;
            let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
            let said = "a lock by alarm primary-unhealthy waits since 2026-11-21T02:36:20Z until the secondary is healthy";
            assert!(shown.contains(said) && !shown.contains("is in ALARM"), "{shown}");
            let doctor = run(&route53.url(), &["doctor", PRIMARY]).await.out;
            assert!(doctor.contains("a lock waits for the secondary: v=0 "), "{doctor}");
        }
    }
}

#[tokio::test]
async fn a_change_between_the_reads_of_check_and_tags_is_not_shown_as_a_fault() {
    for (typed, tags) in
        [(&["status"][..], "ListTagsForResources"), (&["status", PRIMARY], "ListTagsForResource")]
    {
        let route53 = armed().await;
        let check = route53.check(PRIMARY).reported(0);
        route53.put(PRIMARY, check);
        route53.put_alarm("primary-unhealthy", Alarm::on(PRIMARY, "ALARM", CHANGED));
        let held = route53.hold(tags);
        let locks = async {
            held.reached().await;
            route53.set_path(PRIMARY, LOCKED);
            route53.tag(PRIMARY, "failover-lock:out", Some(LOCK));
            held.release();
        };
        let url = route53.url();
        let (ended, ()) = tokio::join!(run(&url, typed), locks);
        assert_eq!(ended.status, Some(0), "{ended:?} {:?}", route53.calls());
        assert!(
            ended.out.contains("locked  ") && ended.out.contains(" ago by alarm primary-unhealthy"),
            "{ended:?}"
        );

        let held = route53.hold(tags);
        let restores = async {
            held.reached().await;
            let check = route53.check(PRIMARY).reported(16);
            route53.put(PRIMARY, check);
            route53.set_path(PRIMARY, "/lb-check");
            let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
            let done = format!("v=3 seen={now} done={now} to=/lb-check by=synchronised");
            route53.tag(PRIMARY, "failover-lock:in", Some(&done));
            route53.put_alarm("primary-unhealthy", Alarm::on(PRIMARY, "OK", CHANGED));
            held.release();
        };
        let (ended, ()) = tokio::join!(run(&url, typed), restores);
        assert!(!ended.out.contains("locked  ") && !ended.out.contains("without a restore"), "{ended:?}");
    }
}

#[tokio::test]
async fn a_check_on_the_locked_path_that_is_found_healthy_is_not_shown_as_locked() {
    let route53 = armed().await;
    route53.set_path(PRIMARY, LOCKED);
    for typed in [&["status"][..], &["status", PRIMARY]] {
        let ended = run(&route53.url(), typed).await;
        // Since when is not on record: seconds after a lock by hand its checkers do not show it yet.
        let said = "it is on the locked path, it is not known since when";
        assert!(ended.status == Some(3) && ended.out.contains(said), "{ended:?}");
        assert!(ended.out.contains("unknown ") && !ended.out.contains("locked  "), "{ended:?}");
    }
}

#[tokio::test]
async fn a_check_that_is_gone_hides_nothing_of_the_others_and_hidden_characters_are_shown() {
    let route53 = armed().await;
    route53.put(STANDBY, Check::new("HTTP", 80).reported(16).tagged("Name", "\u{202e}ybdnats\u{200b}"));
    route53.put_alarm("standby", Alarm::on(STANDBY, "OK", CHANGED));
    route53.fail_always("ListTagsForResources", Fault::Error(404, "NoSuchHealthCheck", "gone"));
    let ended = run(&route53.url(), &["status"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(
        ended.out.contains("armed  primary") && ended.out.contains("armed  \u{fffd}ybdnats\u{fffd}"),
        "{ended:?}"
    );
    assert_eq!(run(&route53.url(), &["status", "primary"]).await.status, Some(0));
}

#[tokio::test]
async fn a_person_locks_by_a_clock_that_is_behind_the_one_of_the_last_lock() {
    let route53 = armed().await;
    let mut check = route53.check(PRIMARY);
    check.version = 3;
    let soon = (Utc::now() + TimeDelta::seconds(40)).to_rfc3339_opts(SecondsFormat::Millis, true);
    let undone = format!("v=2 at=2026-11-21T02:36:20Z alarm={soon} before=/lb-check by=primary-unhealthy");
    route53.put(PRIMARY, check.tagged("failover-lock:out", &undone));
    let ended = run(&route53.url(), &["lock", PRIMARY, "--reason", "stale data", "--yes"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn many_checks_do_not_wait_in_turn_for_a_service_that_does_not_answer() {
    let route53 = Route53::start().await;
    for number in 0..40 {
        let id = format!("{number:08}-f023-45a3-954e-415303f21eab");
        route53.put(&id, Check::new("HTTP", 80).reported(16));
        route53.put_alarm(&format!("alarm-{number}"), Alarm::on(&id, "OK", CHANGED));
    }
    for operation in ["GetHealthCheckStatus", "ListTagsForResources"] {
        route53.fail_always(operation, Fault::Hang);
    }
    let ended = quickly(&route53, &["status"]).await;
    assert_eq!((ended.status, ended.out.matches("  OK").count()), (Some(3), 40), "{ended:?}");
    let notes = ended.out.lines().filter(|line| line.starts_with('[')).count();
    assert_eq!(notes, 2, "{ended:?}");
}

#[tokio::test]
async fn the_table_fits_80_columns_and_starts_with_the_state() {
    let route53 = locked().await;
    let long = "a-very-long-name.".repeat(10);
    route53
        .put(STANDBY, Check::new("HTTP", 80).tagged("Name", &long).with("FullyQualifiedDomainName", &long));
    route53.put(OTHER, Check::new("HTTPS", 443).with("Inverted", "true"));
    route53.put_alarm(&"alarm".repeat(40), Alarm::on(OTHER, "INSUFFICIENT_DATA", CHANGED));
    for operation in ["DescribeAlarms", "GetHealthCheckStatus"] {
        for down in [false, true] {
            if down {
                route53.fail_always(operation, Fault::Answer(503, HTML));
            }
            let ended = run(&route53.url(), &["status"]).await;
            let context = "account 123456789012, us-east-1, as assumed-role/Operator/jane\nSTATE ";
            assert!(ended.out.starts_with(context), "{ended:?}");
            for line in ended.out.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
            for state in ["locked  ", "cannot be locked  "] {
                assert!(ended.out.lines().any(|line| line.starts_with(state)), "{state}: {ended:?}");
            }
            assert!(ended.out.contains(OTHER) && ended.out.contains(STANDBY), "{ended:?}");
        }
    }
}

#[tokio::test]
async fn a_name_is_accepted_wherever_an_id_is_and_an_ambiguous_one_lists_the_ids() {
    let route53 = locked().await;
    let url = route53.url();
    let shown = run(&url, &["status", "shop primary"]).await;
    assert!(shown.status == Some(0) && shown.out.contains("shop primary  "), "{shown:?}");
    let again = run(&url, &["lock", "shop primary", "--reason", "test", "--yes"]).await;
    assert_eq!(again.out, format!("{PRIMARY}: is locked already ({LOCKED})\n"), "{again:?}");
    let ended = run(&url, &["restore", "shop primary", "--direct", "--force", "--yes"]).await;
    assert_eq!(ended.out, format!("{PRIMARY}: restored ({LOCKED} → /lb-check)\n"), "{ended:?}");
    assert_eq!(route53.check(PRIMARY).path(), "/lb-check");

    // A caller who may read the tags of one check at a time.
    route53.fail_always("ListTagsForResources", Fault::Error(403, "AccessDenied", "not authorized"));
    let shown = run(&url, &["status"]).await;
    assert!(shown.out.contains("shop primary  ") && !shown.out.contains("[1]"), "{shown:?}");
    route53.put(STANDBY, Check::new("HTTP", 80).tagged("Name", "shop primary"));
    for command in ["status", "doctor", "drill", "restore"] {
        let ended = run(&url, &[command, "shop primary"]).await;
        assert_eq!(ended.status, Some(1), "{ended:?}");
        let said = format!(
            "2 health checks have the tag Name \"shop primary\". Name one by its id: {PRIMARY}, {STANDBY}"
        );
        assert!(ended.said.contains(&said), "{ended:?}");
    }
    let ended = run(&url, &["restore", "standby", "--yes"]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    let down = locked().await;
    down.fail_always("ListTagsForResources", Fault::Hang);
    let unread = quickly(&down, &["status", "shop primary"]).await;
    assert!(
        unread.status == Some(1) && unread.said.contains("Name the health check by its id"),
        "{unread:?}"
    );
    let said = "no health check of account 123456789012, us-east-1 has the id or the tag Name \"standby\"";
    assert!(ended.said.contains(said), "{ended:?}");
}

#[tokio::test]
async fn a_question_shows_the_account_and_the_name() {
    let route53 = armed().await;
    let typed = format!("{FAILOVERCTL} lock primary --reason test");
    let mut terminal = command(Path::new("script"), &route53.url(), &["-qec", &typed, "/dev/null"]);
    let ended = Ended::of(terminal.stdin(Stdio::null()).output().await.expect("it starts"));
    let question = format!("Lock primary ({PRIMARY}), http://127.0.0.1:80/lb-check?");
    for said in ["account 123456789012, us-east-1, as assumed-role/Operator/jane", &question] {
        assert!(ended.out.contains(said), "{said}: {ended:?}");
    }
    assert_eq!(route53.check(PRIMARY).path(), "/lb-check");
}

#[tokio::test]
async fn json_has_a_version_the_context_and_absolute_times() {
    let (status, json) = json_of(&locked().await, &["shop primary"]).await;
    assert_eq!((status, &json["version"]), (Some(0), &json!(1)), "{json}");
    let context = json!({
        "account": "123456789012",
        "caller": "arn:aws:sts::123456789012:assumed-role/Operator/jane",
        "region": "us-east-1",
        "profile": null,
    });
    assert_eq!(json["context"], context);
    assert!(DateTime::parse_from_rfc3339(json["at"].as_str().unwrap()).is_ok(), "{json}");
    assert_eq!(
        json["healthChecks"],
        json!([{
            "healthCheckId": PRIMARY,
            "name": "shop primary",
            "watches": "http://127.0.0.1:80",
            "path": LOCKED,
            "state": "locked",
            "since": "2026-11-21T02:36:20Z",
            "by": "primary-unhealthy",
            "alarm": { "name": "primary-unhealthy", "state": "ALARM", "since": "2026-11-21T02:36:15.490Z" },
            "checkers": { "healthy": 0, "total": 16 },
            "guarded": true,
            "unknown": [],
        }])
    );
    let route53 = locked().await;
    for operation in ["DescribeAlarmsForMetric", "DescribeAlarms"] {
        route53.fail_always(operation, DENIED);
    }
    let (status, json) = json_of(&route53, &[PRIMARY]).await;
    let check = &json["healthChecks"][0];
    assert_eq!((status, &check["state"], &check["alarm"]), (Some(3), &json!("locked"), &Value::Null));
    assert_eq!(check["unknown"][0]["what"], "alarms");
    let why = check["unknown"][0]["why"].as_str().unwrap();
    assert!(why.contains("Grant the caller's role cloudwatch:DescribeAlarmsForMetric"), "{why}");
}

#[tokio::test]
async fn a_check_that_is_not_guarded_is_no_fault_unless_it_is_named() {
    let route53 = armed().await;
    route53.put(OTHER, Check::new("HTTP", 80).with("ResourcePath", "/their-check"));
    route53.put(STANDBY, Check::new("HTTP", 80).with("Inverted", "true"));
    let (status, json) = json_of(&route53, &[]).await;
    assert_eq!(status, Some(0), "{json}");
    let of = |id: &str| {
        json["healthChecks"].as_array().unwrap().iter().find(|one| one["healthCheckId"] == id).unwrap()
    };
    assert_eq!((&of(OTHER)["state"], &of(OTHER)["guarded"]), (&json!("foreign_path"), &json!(false)));
    assert_eq!(run(&route53.url(), &["status", OTHER]).await.status, Some(3));
    // One that was restored, and has lost its alarm.
    route53.tag(OTHER, "failover-lock:restored-at", Some("2026-11-21T02:36:20Z"));
    assert_eq!(run(&route53.url(), &["status"]).await.status, Some(3));
}

#[tokio::test]
async fn an_account_without_health_checks_is_named_and_not_well() {
    let route53 = Route53::start().await;
    let ended = run(&route53.url(), &["status"]).await;
    assert_eq!(ended.status, Some(3), "{ended:?}");
    let said = "There is no health check with a path in account 123456789012, us-east-1.";
    assert!(ended.out.contains(said), "{ended:?}");
}

#[tokio::test]
async fn watching_shows_the_time_and_marks_what_has_changed() {
    let route53 = armed().await;
    let url = route53.url();
    let mut child = command(Path::new(FAILOVERCTL), &url, &["status", "--watch"]).spawn().expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let mut shows = async |this: &str| {
        let shown = timeout(Duration::from_secs(30), async {
            while !lines.next_line().await.expect("UTF-8").expect("it goes on").contains(this) {}
        });
        shown.await.unwrap_or_else(|_| panic!("it does not show {this:?}"));
    };
    shows("Z, again every 10 s. Ctrl-C ends it").await;
    shows("armed  ").await;
    let check = route53.check(PRIMARY);
    route53.put(PRIMARY, check.reported(0));
    route53.set_path(PRIMARY, LOCKED);
    shows("locked *  ").await;
    shows("* changed since the look before").await;
    assert_eq!(interrupted(child).await.status, Some(0));
}
