//! Every recorded event, and what the function `lock` does with it.

use std::collections::BTreeSet;
use std::fs;

use crate::support;
use crate::support::cloudwatch::Alarm;
use crate::support::lock::PRIMARY;
use crate::support::route53;
use failover::failover_lock::Handler;

/// The second check of the events that name two, and the one of the captured event.
const OTHER: &str = "d2f991db-4143-47b0-9015-e781df145c7c";
type File = &'static str;
type Variables = &'static [(&'static str, &'static str)];

const GUARDED: Variables = &[("GUARDED_HEALTH_CHECKS", PRIMARY)];

/// What is expected of an event.
enum Expected {
    /// The check is locked.
    Locks(&'static str),
    /// Nothing is done, for this reason, and no call is made.
    Ignores(&'static str),
    /// The invocation fails and says this; the checks named here are locked nevertheless.
    Fails(&'static [&'static str], &'static [&'static str]),
}
use Expected::{Fails, Ignores, Locks};

#[rustfmt::skip]
const TABLE: &[(File, Variables, Expected)] = &[
    ("sns/keycloak-alarm.json", &[], Locks(PRIMARY)),
    ("sns/keycloak-alarm.json", GUARDED, Locks(PRIMARY)),
    ("sns/keycloak-alarm.json", &[("GUARDED_HEALTH_CHECKS", OTHER)], Ignores("not_guarded")),
    ("sns/keycloak-ok.json", &[], Ignores("not_in_alarm")),
    ("sns/insufficient-data.json", &[], Ignores("not_in_alarm")),
    ("sns/other-service-alarm.json", &[], Ignores("not_a_health_check_alarm")),
    ("sns/latency-alarm.json", &[], Ignores("not_a_health_check_alarm")),
    ("sns/percentage-healthy-alarm.json", &[], Locks(PRIMARY)),
    ("sns/metric-math-one-check.json", &[], Locks(PRIMARY)),
    ("sns/metric-math-two-checks.json", GUARDED, Locks(PRIMARY)),
    ("sns/metric-math-two-checks.json", &[], Fails(&["record 1", PRIMARY, OTHER, "GUARDED_HEALTH_CHECKS"], &[])),
    ("sns/composite-alarm.json", &[], Locks(PRIMARY)),
    ("sns/ministack-alarm.json", &[], Locks(OTHER)),
    ("sns/not-an-alarm.json", &[], Ignores("not_a_health_check_alarm")),
    ("sns/two-records-one-broken.json", &[], Fails(&["1 of 2 records failed", "record 1", "EOF while parsing"], &[PRIMARY])),
    ("sns/hostile-ids.json", &[], Fails(&["10 of 10 records failed", "names a health check that cannot exist", r#""../hostedzone/Z0123456789""#], &[])),
    ("cloudwatch/alarm-action.json", &[], Locks(PRIMARY)),
    ("cloudwatch/alarm-action-ok.json", &[], Ignores("not_in_alarm")),
    ("cloudwatch/composite-alarm-action.json", &[], Locks(PRIMARY)),
    ("eventbridge/alarm-state-change.json", &[], Locks(PRIMARY)),
    ("eventbridge/alarm-state-change-ok.json", &[], Ignores("not_in_alarm")),
    ("eventbridge/alarm-configuration-change.json", &[], Ignores("not_a_health_check_alarm")),
    ("eventbridge/scheduled.json", &[], Ignores("not_a_health_check_alarm")),
    ("eventbridge/muted.json", &[], Ignores("actions_muted")),
    ("eventbridge/contributor.json", &[], Locks(PRIMARY)),
    ("cloudwatch/contributor-action.json", &[], Locks(PRIMARY)),
    ("sns/contributor.json", &[], Locks(PRIMARY)),
    ("sns/anomaly-recovery.json", &[], Ignores("recovery_alarm")),
    ("sns/resolver-query.json", &[], Ignores("not_a_health_check_alarm")),
    ("sqs/sns-alarm.json", &[], Locks(PRIMARY)),
];

#[tokio::test]
async fn every_recorded_event_is_decided_as_the_table_says() {
    for (file, variables, expected) in TABLE {
        let route53 = route53::Route53::start().await;
        for id in [PRIMARY, OTHER] {
            route53.put(id, route53::Check::new("HTTPS", 443));
        }
        // The documented alarm has its health check's id as its name.
        route53.put_alarm(PRIMARY, Alarm::on(PRIMARY, "ALARM", 0.0));
        let system = support::lock::system(&route53, variables).await;
        let answer = support::lock::invoke(&system, Handler::Lock, &support::recorded(file)).await;

        let locked: &[&str] = match expected {
            Locks(id) => {
                let answer = answer.unwrap_or_else(|error| panic!("{file}: {error}"));
                let [outcome] = answer["outcomes"].as_array().unwrap().as_slice() else {
                    panic!("{file}: {answer}")
                };
                assert_eq!(
                    (&outcome["outcome"], &outcome["healthCheckId"]),
                    (&"locked".into(), &(*id).into()),
                    "{file}"
                );
                &[id]
            }
            Ignores(reason) => {
                let answer = answer.unwrap_or_else(|error| panic!("{file}: {error}"));
                let outcome = &answer["outcomes"][0];
                assert_eq!(
                    (&outcome["outcome"], &outcome["reason"]),
                    (&"ignored".into(), &(*reason).into()),
                    "{file}"
                );
                assert_eq!(route53.calls(), [""; 0], "{file}");
                &[]
            }
            Fails(said, locked) => {
                let error = answer.expect_err(file).to_string();
                for text in *said {
                    assert!(error.contains(text), "{file}: {error}");
                }
                if locked.is_empty() {
                    assert_eq!(route53.calls(), [""; 0], "{file}");
                }
                locked
            }
        };
        for id in [PRIMARY, OTHER] {
            let path = if locked.contains(&id) { support::lock::LOCKED } else { "/lb-check" };
            assert_eq!(route53.check(id).path(), path, "{file}: {id}");
        }
    }
}

#[test]
fn the_table_leaves_no_event_out() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/events");
    let mut files = BTreeSet::new();
    for source in ["sns", "sqs", "cloudwatch", "eventbridge"] {
        for entry in fs::read_dir(format!("{folder}/{source}")).unwrap() {
            files.insert(format!("{source}/{}", entry.unwrap().file_name().into_string().unwrap()));
        }
    }
    let table: BTreeSet<_> = TABLE.iter().map(|(file, ..)| (*file).to_owned()).collect();
    assert_eq!(files, table);
}

#[test]
fn the_sns_events_have_the_shape_that_lambda_delivers() {
    for (file, ..) in TABLE.iter().filter(|(file, ..)| file.starts_with("sns/")) {
        let event: aws_lambda_events::sns::SnsEvent =
            serde_json::from_str(&support::recorded(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(event.records.iter().all(|record| record.event_source == "aws:sns"), "{file}");
    }
}
