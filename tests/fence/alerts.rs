//! Every recorded alert, and what the function `fence` does with it.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use crate::support::accelerator::{Accelerator, Group};
use crate::support::recorded;
use crate::support::sites::{self, DNS_NAME, LABEL, REGION, Sites};
use chrono::{SecondsFormat, TimeDelta, Utc};
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use failover::site_fence::Handler;
use serde_json::{Value, json};

/// The expected result of an event: the status, and the outcome of each of its alerts.
enum Expected {
    Answers(u64, &'static [&'static str]),
    /// The invocation fails with this message.
    Fails(&'static str),
}
use Expected::{Answers, Fails};

const MALFORMED: &str = "failed: MalformedAlert";

#[rustfmt::skip]
const TABLE: &[(&str, Expected)] = &[
    ("firing", Answers(204, &["fenced"])),
    ("base64", Answers(204, &["fenced"])),
    ("dual-stack", Answers(204, &["fenced"])),
    ("mixed", Answers(204, &["ignored: not_firing", "fenced"])),
    ("accused-by-both", Answers(204, &["fenced", "refused: reporter_is_fenced"])),
    ("missing-site", Answers(400, &[MALFORMED, "fenced"])),
    ("truncated", Answers(400, &["fenced", MALFORMED])),
    ("resolved", Answers(204, &["ignored: not_firing"])),
    ("other-alert", Answers(204, &["ignored: other_alert"])),
    ("hostile", Answers(400, &[MALFORMED; 9])),
    ("no-credentials", Answers(401, &[])),
    ("bearer", Answers(401, &[])),
    ("unreadable-credentials", Answers(401, &[])),
    ("wrong-password", Answers(403, &[])),
    ("wrong-user", Answers(403, &[])),
    ("get", Answers(405, &[])),
    ("no-body", Answers(400, &[MALFORMED])),
    ("not-json", Answers(400, &[MALFORMED])),
    ("not-a-webhook", Answers(400, &[MALFORMED])),
    ("version-3", Answers(400, &[MALFORMED])),
    ("bad-base64", Answers(400, &[MALFORMED])),
    ("not-utf8", Answers(400, &[MALFORMED])),
    ("console-test", Fails("the event is not a request to a function URL")),
    ("alb", Fails("the event is not a request to a function URL")),
];

#[tokio::test]
async fn every_recorded_alert_has_the_decision_in_the_table() {
    let sites = Sites::start().await;
    for (file, expected) in TABLE {
        for cache in ["sessions", "work"] {
            sites.a.set_online("site-b", cache, true);
        }
        let group = Group::new(REGION, sites.both());
        sites.accelerators.put(Accelerator::new(LABEL).dual_stack().listener([group]));
        let system = sites.system(&[]);
        let before = sites.accelerators.calls().len();
        let event = recorded(&format!("alertmanager/{file}.json"));
        let report = system.handle(Handler::Fence, &event, Deadline::after(Duration::from_secs(20))).await;
        let told = sites::told(&report);
        let answer = report.into_answer();
        match expected {
            Answers(status, outcomes) => {
                let answer = answer.unwrap_or_else(|error| panic!("{file}: {error}"));
                assert_eq!(
                    (answer["statusCode"].as_u64(), &told[..]),
                    (Some(*status), &outcomes.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()[..]),
                    "{file}"
                );
            }
            Fails(said) => {
                let error = answer.expect_err(file).to_string();
                assert!(error.contains(said) && error.len() < 500, "{file}: {error}");
            }
        }
        if told.iter().any(|outcome| outcome == "fenced") {
            assert_eq!(sites.in_service(), [sites.balancer_a.as_str()], "{file}");
            assert_eq!(sites.a.status("site-b"), "offline", "{file}");
        } else {
            assert_eq!(sites.accelerators.calls().len(), before, "{file}");
            assert_eq!(sites.a.status("site-b"), "online", "{file}");
        }
        assert_eq!(sites.b.status("site-a"), "online", "{file}");
    }
}

#[tokio::test]
async fn nothing_of_a_header_is_shown_before_the_credentials_are_checked() {
    let sites = Sites::start().await;
    let event = recorded("alertmanager/firing.json");
    let header = r#""authorization": "Basic YWxlcnRtYW5hZ2VyOmV4YW1wbGUtcGFzc3dvcmQ=""#;
    assert!(event.contains(header));
    let value = header.split_once(": ").unwrap().1;
    for malformed in [
        event.replace(r#""headers": {"#, &format!(r#""isBase64Encoded": {value}, "headers": {{"#)),
        event.replace(r#""http": {"#, &format!(r#""http": {value}, "https": {{"#)),
    ] {
        let deadline = Deadline::after(Duration::from_secs(5));
        let report = sites.system(&[]).handle(Handler::Fence, &malformed, deadline).await;
        let error = report.into_answer().unwrap_err().to_string();
        assert!(error.contains("is not a request to a function URL") && !error.contains("Basic"), "{error}");
    }
}

#[test]
fn the_table_leaves_no_alert_out() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/events/alertmanager");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let files: BTreeSet<_> = fs::read_dir(folder).unwrap().map(name).collect();
    assert_eq!(files, TABLE.iter().map(|(file, _)| format!("{file}.json")).collect());
}

/// A rule without `min by` has an alert for each node.
#[tokio::test]
async fn alerts_about_the_same_site_are_handled_once_and_by_the_newest() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let report =
        |minutes: i64| sites::alert_since(Utc::now() - TimeDelta::minutes(minutes), "site-a", "site-b");
    assert_eq!(sites::outcomes(&system, &report(0)).await, ["fenced"]);
    let request = json!({ "accelerator": sites::DNS_NAME, "site": "site-b" });
    assert_eq!(sites::rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");

    let alerts_of = |report: String| -> Vec<Value> {
        let body: Value = serde_json::from_str(&sites::body(&report)).unwrap();
        body["alerts"].as_array().unwrap().clone()
    };
    let (old, new) = (alerts_of(report(60)), alerts_of(report(-1)));
    for (many, outcome) in [
        ([old.clone(), old.clone()].concat(), "ignored: older_than_rejoin"),
        (vec![[old.clone(), new, old].concat(); 60].concat(), "fenced"),
    ] {
        let mut event: Value = serde_json::from_str(&report(0)).unwrap();
        let mut body: Value = serde_json::from_str(&sites::body(&report(0))).unwrap();
        body["alerts"] = many.into();
        event["body"] = body.to_string().into();
        assert_eq!(sites::outcomes(&system, &event.to_string()).await, [outcome]);
    }
}

#[tokio::test]
async fn a_watchdog_counts_only_if_its_accelerator_is_found() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let watchdog = sites::alert("site-a", "site-b").replace("SiteOffline", "SiteFenceWatchdog");
    assert_eq!(sites::outcomes(&system, &watchdog).await, ["ignored: watchdog"]);
    let mistyped = watchdog.replace("a1234567890abcdef", "a1234567890abcdee");
    let (status, body) = sites::fence(&system, &mistyped).await;
    assert_eq!((status, &body["outcomes"][0]["errorType"]), (400, &"NoSuchAccelerator".into()), "{body}");
    let unnamed = watchdog.replace(r#"\"accelerator\":"#, r#"\"other\":"#);
    let (status, body) = sites::fence(&system, &unnamed).await;
    assert_eq!((status, &body["outcomes"][0]["errorType"]), (400, &"MalformedAlert".into()), "{body}");
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn a_watchdog_tells_how_many_sites_are_out() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let watchdog = sites::alert("site-a", "site-b").replace("SiteOffline", "SiteFenceWatchdog");
    let out = async || {
        let report = system.handle(Handler::Fence, &watchdog, Deadline::after(Duration::from_secs(20))).await;
        let lines = report.metrics("site-fence", SystemTime::now());
        let mut lines = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
        let line = lines.find(|line| line["SitesOut"].is_u64())?;
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["FunctionName"]]));
        Some(line["SitesOut"].clone())
    };
    assert_eq!(out().await, Some(0.into()));
    assert_eq!(sites::outcomes(&system, &sites::alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(out().await, Some(1.into()));
    // A rejoin that has not ended.
    let later = (Utc::now() + TimeDelta::seconds(1)).to_rfc3339_opts(SecondsFormat::Secs, true);
    let tags = sites.tags().into_iter().chain([("site-fence:site-b:rejoined".to_owned(), later)]);
    let out_still = Accelerator::new(LABEL).listener([Group::new(REGION, [sites.both()[0].clone()])]);
    sites.accelerators.put(tags.fold(out_still, |ga, (key, value)| ga.tagged(&key, &value)));
    assert_eq!(out().await, Some(1.into()));
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true, "reason": "test" });
    sites::rejoin(&system, &request).await.expect("it is rejoined");
    assert_eq!(out().await, Some(0.into()));
    // One by force that has not ended: an endpoint of the site is noted still.
    let (listener, group) = ("0123vx00", "098765zyxw00");
    let left = Accelerator::new(LABEL)
        .listener([Group::new(REGION, [sites.both()[0].clone()])])
        .tagged("site-fence:site-b", "2026-11-21T03:08:09Z site-a")
        .tagged("site-fence:site-b:rejoined", "2026-11-21T04:10:00Z forced")
        .tagged("site-fence:site-b:0", &format!("{listener}/{group} 55 default {}", sites.balancer_b));
    sites.accelerators.put(left);
    assert_eq!(out().await, Some(1.into()));
    // Where no note has room, none says nothing.
    let full = Accelerator::new(LABEL).listener([Group::new(REGION, [sites.both()[0].clone()])]);
    let full = (0..49).fold(full, |full, n| full.tagged(&format!("cost-{n}"), "x"));
    sites.accelerators.put(full);
    assert_eq!(out().await, None);
}
