//! `failoverctl pause` and `resume`: planned work, on mute rules that a stand-in keeps.

use std::path::Path;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use crate::failoverctl::{CHANGED, Ended, FAILOVERCTL, command, interrupted, run};
use crate::support::cloudwatch::{Alarm, Kind};
use crate::support::lock::{LOCKED, PRIMARY};
use crate::support::mute_rules::MuteRule;
use crate::support::route53::{Check, Fault, Route53};

const PAUSE: [&str; 7] = ["pause", PRIMARY, "--for", "2h", "--reason", "upgrade, CHG-42", "--yes"];

async fn account() -> Route53 {
    let route53 = Route53::start().await;
    route53.put(PRIMARY, Check::new("HTTP", 80).reported(16));
    route53.put_alarm("primary-unhealthy", Alarm::on(PRIMARY, "OK", CHANGED));
    route53
}

fn changes(route53: &Route53) -> Vec<String> {
    let calls = route53.calls().into_iter();
    calls.filter(|call| call.starts_with("Put") || call.starts_with("Delete")).collect()
}

/// It waits for the next minute, as a rule does.
#[tokio::test]
async fn a_pause_is_shown_until_it_is_ended() {
    let route53 = account().await;
    let url = route53.url();
    let ended = run(&url, &[&PAUSE[..], &["--dry-run"]].concat()).await;
    assert!(ended.status == Some(0) && ended.out.contains("would be paused until"), "{ended:?}");
    let ended = run(&url, &["resume", PRIMARY, "--yes"]).await;
    assert!(ended.status == Some(0) && ended.out.contains("is not paused"), "{ended:?}");
    assert_eq!(changes(&route53), [""; 0]);

    let ended = run(&url, &[&PAUSE[..], &["--output", "json"]].concat()).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let answer: Value = serde_json::from_str(&ended.out).expect("JSON");
    let outcome = &answer["outcomes"][0];
    assert_eq!(outcome["outcome"], "paused", "{outcome}");
    let time = |key: &str| outcome[key].as_str().and_then(|text| text.parse::<DateTime<Utc>>().ok());
    let (from, until) = (time("from").expect("a time"), time("until").expect("a time"));
    assert!(from <= Utc::now() && until - from == TimeDelta::hours(2), "{outcome}");

    let ended = run(&url, &["status", PRIMARY]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let shown = ended.out.split_whitespace().collect::<Vec<_>>().join(" ");
    for said in [
        "paused",
        &format!("until {}", outcome["until"].as_str().expect("a time")),
        "upgrade, CHG-42 (assumed-role/Operator/jane)",
    ] {
        assert!(shown.contains(said), "{said}: {ended:?}");
    }
    // Of several the one that ends last counts.
    let sooner = MuteRule {
        alarms: vec!["primary-unhealthy".to_owned()],
        description: "a short one".to_owned(),
        from,
        until: from + TimeDelta::hours(1),
    };
    route53.put_mute_rule(&format!("failover-pause-{PRIMARY}-20261127T0900Z-0123"), sooner);
    // Nor is one of another check, or of someone else, this one's.
    let other = |name: &str| (format!("failover-pause-{name}"), from + TimeDelta::hours(9));
    for (name, until) in [other("another-20261127T0900Z-0123"), other(&format!("{PRIMARY}-nightly"))] {
        let alarms = vec!["another".to_owned()];
        route53.put_mute_rule(&name, MuteRule { alarms, description: String::new(), from, until });
    }
    assert!(run(&url, &["status", PRIMARY]).await.out.contains("CHG-42"));
    let ended = run(&url, &["doctor", PRIMARY]).await;
    assert!(
        ended.out.contains(&format!("→ when the work is done: failoverctl resume {PRIMARY}")),
        "{ended:?}"
    );

    // Another alarm is not paused: that one locks.
    route53.put_alarm("second", Alarm::on(PRIMARY, "OK", CHANGED));
    assert!(run(&url, &["status", PRIMARY]).await.out.contains("armed  "));
    route53.put_alarm("second", Alarm { actions_enabled: false, ..Alarm::on(PRIMARY, "OK", CHANGED) });

    route53.put_alarm("primary-unhealthy", Alarm::on(PRIMARY, "ALARM", CHANGED));
    let ended = run(&url, &["resume", PRIMARY, "--yes"]).await;
    assert!(ended.status == Some(0) && ended.out.contains("its alarms lock again"), "{ended:?}");
    assert!(ended.said.contains("primary-unhealthy is in ALARM: it is locked as soon as"), "{ended:?}");
    assert!(run(&url, &["status", PRIMARY]).await.out.contains("not locked  "));
    let changes = changes(&route53);
    assert!(changes.len() == 3 && changes[0].starts_with("PutAlarmMuteRule failover-pause-"), "{changes:?}");
}

#[tokio::test]
async fn what_a_pause_would_hide_or_take_with_it_is_refused() {
    let refused = async |route53: &Route53, said: &str| {
        let ended = run(&route53.url(), &PAUSE).await;
        assert!(ended.status == Some(3) && ended.said.contains("nothing was paused: "), "{ended:?}");
        assert!(ended.said.contains(said), "{said}: {ended:?}");
        assert_eq!(changes(route53), [""; 0]);
    };
    let route53 = account().await;
    route53.put(PRIMARY, Check::new("HTTP", 80).with("ResourcePath", LOCKED));
    refused(&route53, "is locked by its path alone").await;
    let route53 = account().await;
    route53.put_alarm("primary-unhealthy", Alarm::on(PRIMARY, "ALARM", CHANGED));
    route53.put(PRIMARY, Check::new("HTTP", 80).reported(0));
    refused(&route53, "though alarm primary-unhealthy is in ALARM").await;
    // On the locked path, and it does not hold.
    let route53 = account().await;
    let now = Utc::now() - TimeDelta::minutes(10);
    let lock = format!("v=2 at={} by=x", now.to_rfc3339_opts(SecondsFormat::Secs, true));
    let check = Check::new("HTTP", 80).reported(16).changed().with("ResourcePath", LOCKED);
    route53.put(PRIMARY, check.tagged("failover-lock:out", &lock));
    refused(&route53, "unprotected: it is on the locked path").await;
    let route53 = account().await;
    route53.put_alarm("all", Alarm::of(Kind::Query(Vec::new()), "OK"));
    refused(&route53, "alarm all is on a query or on metric math").await;
    let route53 = Route53::start().await;
    route53.put(PRIMARY, Check::new("HTTP", 80).reported(16));
    refused(&route53, "no alarm leads to a lock").await;

    let route53 = account().await;
    let check = Check::new("HTTP", 80).reported(0);
    route53.put(PRIMARY, check);
    refused(&route53, "checkers find").await;

    let route53 = account().await;
    for (length, said) in [("16d", "from 1m to 15d"), ("soon", "from 1m to 15d")] {
        let typed = ["pause", PRIMARY, "--for", length, "--reason", "r", "--yes"];
        let ended = run(&route53.url(), &typed).await;
        assert!(ended.status == Some(2) && ended.said.contains(said), "{ended:?}");
    }
    route53.fail("PutAlarmMuteRule", Fault::Error(403, "AccessDenied", "not authorized"));
    let ended = run(&route53.url(), &PAUSE).await;
    assert!(ended.status == Some(1) && ended.said.contains("cloudwatch:PutAlarmMuteRule"), "{ended:?}");
}

/// It waits for the next minute.
#[tokio::test]
async fn a_pause_that_cannot_be_seen_is_said_to_be_uncertain() {
    let route53 = account().await;
    route53.fail_always("GetAlarmMuteRule", Fault::Error(403, "AccessDenied", "not authorized"));
    let ended = run(&route53.url(), &PAUSE).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    let said = format!("to delete the rule: failoverctl resume {PRIMARY}");
    assert!(ended.said.contains("It is not certain whether") && ended.said.contains(&said), "{ended:?}");
}

#[tokio::test]
async fn what_is_not_paused_is_named() {
    let route53 = account().await;
    route53.put_alarm("both-sites", Alarm::of(Kind::Composite(vec!["primary-unhealthy".to_owned()]), "OK"));
    let ended = run(&route53.url(), &[&PAUSE[..], &["--dry-run"]].concat()).await;
    assert!(
        ended.said.contains("the composite alarm both-sites is over primary-unhealthy, and is not paused"),
        "{ended:?}"
    );
    // A rule of someone else stays.
    route53.put_alarm("primary-unhealthy", Alarm { muted: true, ..Alarm::on(PRIMARY, "OK", CHANGED) });
    let ended = run(&route53.url(), &["resume", PRIMARY, "--yes"]).await;
    assert!(
        ended.status == Some(3)
            && ended.said.contains("another mute rule holds its alarms back: maintenance"),
        "{ended:?}"
    );
    assert_eq!(changes(&route53), [""; 0]);
}

/// Reads until this is said, and returns all that was.
async fn read_until(output: &mut (impl AsyncRead + Unpin), this: &str) -> String {
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains(this) {
        said.push(output.read_u8().await.expect("it says so before it ends"));
    }
    String::from_utf8(said).expect("UTF-8")
}

#[tokio::test]
async fn a_pause_looks_again_after_its_question() {
    let route53 = account().await;
    let typed = format!("{FAILOVERCTL} pause {PRIMARY} --for 2h --reason CHG-42");
    let mut child = command(Path::new("script"), &route53.url(), &["-qec", &typed, "/dev/null"])
        .spawn()
        .expect("it starts");
    read_until(child.stdout.as_mut().expect("it is piped"), "[y/N]").await;
    route53.set_path(PRIMARY, LOCKED);
    child.stdin.as_mut().expect("it is piped").write_all(b"y\n").await.expect("it waits for the answer");
    let ended = Ended::of(child.wait_with_output().await.expect("it ends"));
    assert!(ended.status == Some(3) && ended.out.contains("nothing was paused: "), "{ended:?}");
    assert_eq!(changes(&route53), [""; 0]);
}

#[tokio::test]
async fn a_pause_that_is_interrupted_names_the_rule_that_stays() {
    let route53 = account().await;
    let mut child = command(Path::new(FAILOVERCTL), &route53.url(), &PAUSE).spawn().expect("it starts");
    read_until(child.stderr.as_mut().expect("it is piped"), "the pause begins at").await;
    let ended = interrupted(child).await;
    let rule = changes(&route53).remove(0);
    let rule = rule.strip_prefix("PutAlarmMuteRule ").expect("it was made");
    assert_eq!(ended.status, Some(1), "{ended:?}");
    for said in ["interrupted", rule, &format!("failoverctl resume {PRIMARY}")] {
        assert!(ended.said.contains(said), "{said}: {ended:?}");
    }
}

#[tokio::test]
async fn what_does_not_lock_after_a_pause_is_named() {
    let off = |alarm: Alarm| Alarm { actions_enabled: false, ..alarm };
    let disabled = Check::new("HTTP", 80).reported(16).with("Disabled", "true");
    for (check, alarm, said) in [
        (None, Some(off(Alarm::on(PRIMARY, "OK", CHANGED))), "actions_disabled"),
        (None, None, "no_alarm"),
        (Some(disabled), Some(Alarm::on(PRIMARY, "OK", CHANGED)), "it is disabled"),
    ] {
        let route53 = Route53::start().await;
        route53.put(PRIMARY, check.unwrap_or_else(|| Check::new("HTTP", 80).reported(16)));
        if let Some(alarm) = alarm {
            route53.put_alarm("primary-unhealthy", alarm);
        }
        let (from, alarms) = (Utc::now() - TimeDelta::minutes(5), vec!["primary-unhealthy".to_owned()]);
        let rule = MuteRule { alarms, description: "x".to_owned(), from, until: from + TimeDelta::hours(2) };
        route53.put_mute_rule(&format!("failover-pause-{PRIMARY}-20261127T0900Z-0123"), rule);
        let ended = run(&route53.url(), &["resume", PRIMARY, "--yes"]).await;
        assert!(ended.status == Some(3) && ended.out.contains("its pause has ended"), "{ended:?}");
        assert!(ended.said.contains(said) && !ended.out.contains("lock again"), "{said}: {ended:?}");
    }
    let route53 = account().await;
    let (from, alarms) = (Utc::now() - TimeDelta::minutes(5), vec!["primary-unhealthy".to_owned()]);
    let rule = MuteRule { alarms, description: "x".to_owned(), from, until: from + TimeDelta::hours(2) };
    route53.put_mute_rule(&format!("failover-pause-{PRIMARY}-20261127T0900Z-0123"), rule);
    route53.fail_always("GetHealthCheck", Fault::Error(403, "AccessDenied", "not authorized"));
    let ended = run(&route53.url(), &["resume", PRIMARY, "--yes"]).await;
    assert!(ended.status == Some(3) && !ended.out.contains("lock again"), "{ended:?}");
}
