//! `infra/alertmanager.yaml`, `infra/latch-pod.yaml` and `infra/lease-alerts.yaml`: when their rules fire, by `promtool`, and
//! whether their resources have the fields of the Prometheus Operator's own definitions.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use k8s_openapi::api::core::v1::Secret;
use kcr_monitoring_coreos_com::v1::podmonitors::PodMonitor;
use kcr_monitoring_coreos_com::v1::prometheusrules::PrometheusRule;
use kcr_monitoring_coreos_com::v1beta1::alertmanagerconfigs::AlertmanagerConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const FENCE: &str = "infra/alertmanager.yaml";
const LATCH: &str = "infra/latch-pod.yaml";
const LEASE: &str = "infra/lease-alerts.yaml";

fn template(file: &str) -> PathBuf {
    support::root().join(file)
}

/// The rules file that the template's comment makes, with all values replaced.
fn rules(file: &str) -> String {
    let file = template(file);
    let made = Command::new("sed").args(["-n", r"/^  groups:/,/^$/s/^  //p"]).arg(file).output();
    let rules = String::from_utf8(made.expect("sed is there").stdout).expect("the template is UTF-8");
    let rules =
        rules.replace("REPLACE_THIS_SITE", "site-a").replace("REPLACE_ACCELERATOR", "acme.example.com");
    rules.replace("REPLACE_NAMESPACE", "datagrid")
}

/// The summary of an alert among these rules.
fn summary<'a>(rules: &'a str, alert: &str) -> &'a str {
    let rest = rules.split(&format!("alert: {alert}\n")).nth(1).expect("there is such an alert");
    let line = rest.lines().find_map(|line| line.trim().strip_prefix("summary: ")).expect("it has a summary");
    line.trim_matches('"')
}

/// A test of `promtool`: these series, one value every 15 s, and the alerts that fire then.
fn test(series: &[(String, &str)], at: &str, alerts: &[(&str, Value)]) -> Value {
    let series: Vec<_> =
        series.iter().map(|(series, values)| json!({ "series": series, "values": values })).collect();
    let alerts: Vec<_> = alerts
        .iter()
        .map(|(name, fires)| json!({ "eval_time": at, "alertname": name, "exp_alerts": fires }))
        .collect();
    json!({ "interval": "15s", "input_series": series, "alert_rule_test": alerts })
}

#[test]
fn the_rules_report_an_unseen_site_and_show_that_they_are_alive() {
    let labels = |severity: &str| {
        json!({ "namespace": "datagrid", "severity": severity, "reporter": "site-a",
            "accelerator": "acme.example.com" })
    };
    let mut offline = labels("critical");
    offline["site"] = json!("site-b");
    let offline = json!([{ "exp_labels": offline,
        "exp_annotations": { "summary": "site-b is no longer seen, and will be fenced. docs/runbook.md#siteoffline" } }]);
    let alive = json!([{ "exp_labels": labels("none") }]);
    let missing = json!([{ "exp_labels": { "namespace": "datagrid", "severity": "warning" }, "exp_annotations": {
        "summary": "No node of Infinispan reports in site_view_status whether it sees the other site: this cluster cannot \
            report that site to site-fence. docs/runbook.md#siteviewmissing" } }]);

    let mut tests = Vec::new();
    // Infinispan 15 has the prefix, 16.1 has not. 0 is unseen, 1 seen, 2 unknown to the node that was asked.
    for metric in ["vendor_jgroups_site_view_status", "jgroups_site_view_status"] {
        let of = |namespace: &str, node: u8| {
            format!(r#"{metric}{{namespace="{namespace}", site="site-b", node="{node}"}}"#)
        };
        for (values, fires) in [("1x44", json!([])), ("1x34 0x10", offline.clone())] {
            // Only the primary relay node knows. Another cluster's view is none of this site's.
            let series = [(of("datagrid", 1), values), (of("datagrid", 2), "2x44"), (of("other", 1), "0x44")];
            let alerts = [
                ("SiteOffline", fires),
                ("SiteFenceWatchdog", alive.clone()),
                ("SiteViewMissing", json!([])),
            ];
            tests.push(test(&series, "10m45s", &alerts));
        }
        // The primary relay node is no longer scraped: no other node can report the site.
        let series =
            [(of("datagrid", 1), "1x20 stale"), (of("datagrid", 2), "2x100"), (of("other", 1), "1x100")];
        let silent = [
            ("SiteOffline", json!([])),
            ("SiteFenceWatchdog", json!([])),
            ("SiteViewMissing", missing.clone()),
        ];
        tests.push(test(&series, "18m", &silent));
        // Another node takes its place within minutes.
        let series = [(of("datagrid", 1), "1x20 stale"), (of("datagrid", 2), "2x30 1x70")];
        let well = [("SiteFenceWatchdog", alive.clone()), ("SiteViewMissing", json!([]))];
        tests.push(test(&series, "18m", &well));
    }
    tests.push(test(&[], "11m", &[("SiteFenceWatchdog", json!([])), ("SiteViewMissing", missing)]));
    holds(FENCE, &tests);
}

/// Lets `promtool` run these tests of a template's rules.
fn holds(file: &str, tests: &[Value]) {
    let tests = json!({ "rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": tests });

    let folder = std::env::temp_dir().join(format!("rules-{}", support::emulator::free_port()));
    fs::create_dir_all(&folder).expect("a temporary folder can be made");
    fs::write(folder.join("rules.yml"), rules(file)).expect("it can be written");
    // YAML includes JSON.
    fs::write(folder.join("tests.yml"), tests.to_string()).expect("it can be written");
    for arguments in [["check", "rules", "rules.yml"], ["test", "rules", "tests.yml"]] {
        let said = Command::new("promtool").args(arguments).current_dir(&folder).output();
        let said = said.expect("promtool is installed (Debian: apt-get install prometheus)");
        let printed = [said.stdout, said.stderr].concat();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&printed));
    }
    fs::remove_dir_all(&folder).expect("it is there");
}

#[test]
fn each_alert_of_a_watcher_fires_for_its_metric_alone() {
    let quiet = |metric: &str, latch: &str| {
        let value = if metric == "armed" { "1x40" } else { "0x40" };
        (format!(r#"failover_latch_{metric}{{latch="{latch}"}}"#), value)
    };
    let metrics = [
        ("standing", "1x40", "LatchLocked", "critical"),
        ("last_opened_timestamp_seconds", "0x36 540x3", "LatchOpened", "critical"),
        ("not_holding", "1x40", "LatchNotHolding", "critical"),
        ("half", "1x40", "LatchHalf", "warning"),
        ("blind", "1x40", "LatchBlind", "critical"),
        ("failed", "1x40", "LatchFailed", "warning"),
        ("suspect", "1x40", "LatchSuspect", "critical"),
        ("look_gap_seconds", "5x36 46 5x3", "LatchSlow", "warning"),
        ("last_missed_timestamp_seconds", "0x36 540x3", "LatchMissed", "critical"),
        ("armed", "_x40", "LatchSilent", "critical"),
    ];
    let rules = rules(LATCH);
    let said = |alert: &str, latch: &str| summary(&rules, alert).replace("{{ $labels.latch }}", latch);
    let summary = |alert: &str| said(alert, "app");
    let mut tests = Vec::new();
    for (odd, values, fires, severity) in metrics {
        let mut series: Vec<_> = metrics.map(|(metric, ..)| quiet(metric, "app")).to_vec();
        let at = metrics.iter().position(|(metric, ..)| *metric == odd).expect("it is one of them");
        series[at].1 = values;
        // Another latch is well, but for the metric without which none is known.
        if odd != "armed" {
            series.extend(metrics.map(|(metric, ..)| quiet(metric, "web")));
        }
        let alerts: Vec<_> = metrics
            .iter()
            .map(|(.., alert, _)| {
                let mut labels = json!({ "severity": severity });
                if odd != "armed" {
                    labels["latch"] = json!("app");
                }
                // Without any watcher no latch is known.
                let summary = said(alert, if odd == "armed" { "" } else { "app" });
                let fired = json!([{ "exp_labels": labels, "exp_annotations": { "summary": summary } }]);
                (*alert, if *alert == fires { fired } else { json!([]) })
            })
            .collect();
        tests.push(test(&series, "9m45s", &alerts));
    }
    // Two states in turn, for a minute each: one of them holds in 2 of 3 minutes.
    let of = |metric: &str, values| (format!(r#"failover_latch_{metric}{{latch="app"}}"#), values);
    let turns =
        [of("blind", "1x3 0x3 1x3 0x3 1x3 0x3 1x3 0x3"), of("failed", "0x3 1x3 0x3 1x3 0x3 1x3 0x3 1x3")];
    // Half a minute of both is over soon.
    let once = [of("blind", "0x10 1 1 0x40"), of("failed", "0x10 1 1 0x40")];
    for (series, time, fires) in [
        (&turns, "5m15s", Some("LatchFailed")),
        (&turns, "6m15s", Some("LatchBlind")),
        (&once, "3m15s", None),
        (&once, "5m", None),
    ] {
        let alerts = [("LatchBlind", "critical"), ("LatchFailed", "warning")].map(|(alert, severity)| {
            let fired = json!([{
                "exp_labels": { "severity": severity, "latch": "app" },
                "exp_annotations": { "summary": summary(alert) },
            }]);
            (alert, if fires == Some(alert) { fired } else { json!([]) })
        });
        tests.push(test(series, time, &alerts));
    }
    // A dry run that lasts a day.
    let dry_run = vec![(r#"failover_latch_dry_run{latch="app"}"#.to_owned(), "1x5800")];
    let fired = json!([{
        "exp_labels": { "severity": "warning", "latch": "app" },
        "exp_annotations": { "summary": summary("LatchDryRun") },
    }]);
    for (time, alerts) in [("21h50m", json!([])), ("24h2m", fired)] {
        tests.push(test(&dry_run, time, &[("LatchDryRun", alerts)]));
    }
    // Locked, and then no bucket answers: the metric is missing until the release is seen.
    let locked = vec![
        (r#"failover_latch_armed{latch="app"}"#.to_owned(), "0x800"),
        (r#"failover_latch_standing{latch="app"}"#.to_owned(), "1x20 _x400 0x300"),
        (r#"failover_latch_armed{latch="web"}"#.to_owned(), "1x800"),
        (r#"failover_latch_standing{latch="web"}"#.to_owned(), "0x20 _x700"),
    ];
    let fired = json!([{
        "exp_labels": { "severity": "critical", "latch": "app" },
        "exp_annotations": { "summary": summary("LatchLocked") },
    }]);
    for (time, alerts) in
        [("4m", fired.clone()), ("30m", fired.clone()), ("1h44m", fired), ("1h47m", json!([]))]
    {
        tests.push(test(&locked, time, &[("LatchLocked", alerts)]));
    }
    // A latch that no watcher reports any more, beside another one.
    let lost = vec![
        (r#"failover_latch_armed{latch="app"}"#.to_owned(), "1x10"),
        (r#"failover_latch_armed{latch="web"}"#.to_owned(), "1x80"),
    ];
    let fired = json!([{
        "exp_labels": { "severity": "critical", "latch": "app" },
        "exp_annotations": { "summary": summary("LatchSilent") },
    }]);
    tests.push(test(&lost, "15m", &[("LatchSilent", fired)]));
    holds(LATCH, &tests);
}

#[test]
fn each_alert_on_a_lease_fires_for_its_metric_alone() {
    let of = |metric: &str, site: &str| format!(r#"lease_keeper_{metric}{{lease="app", site="{site}"}}"#);
    let series = |odd: &str, values: &'static str| -> Vec<(String, &str)> {
        let quiet = [
            ("active", "a", "1x40"),
            ("active", "b", "0x40"),
            ("failing", "a", "0x40"),
            ("unwilling", "a", "0x40"),
            ("pinned", "a", "0x40"),
        ];
        let all = quiet.iter().map(|(metric, site, quiet)| {
            (of(metric, site), if format!("{metric}-{site}") == odd { values } else { quiet })
        });
        all.collect()
    };
    let names = ["LeaseNotHeldOnce", "LeaseStandbyMissing", "LeaseFailing", "LeasePinned"];
    let rules = rules(LEASE);
    let mut tests = Vec::new();
    for (odd, values, fires, labels) in [
        ("", "", "", json!({})),
        ("active-b", "1x40", names[0], json!({ "lease": "app", "severity": "critical" })),
        ("active-b", "_x40", names[1], json!({ "lease": "app", "severity": "warning" })),
        // If it lasts, LeaseStandbyMissing fires as well.
        ("failing-a", "0x28 1x11", names[2], json!({ "lease": "app", "site": "a", "severity": "warning" })),
        ("pinned-a", "1x40", names[3], json!({ "lease": "app", "site": "a", "severity": "warning" })),
    ] {
        let fired = |alert| json!([{ "exp_labels": labels, "exp_annotations": { "summary": summary(&rules, alert) } }]);
        let alerts: Vec<_> =
            names.iter().map(|name| (*name, if *name == fires { fired(name) } else { json!([]) })).collect();
        tests.push(test(&series(odd, values), "9m45s", &alerts));
    }
    holds(LEASE, &tests);
}

#[test]
fn a_lease_without_candidates_or_without_a_willing_standby_is_reported_beside_another_one() {
    let series = |odd: &str, values: &'static str| {
        let mut all = Vec::new();
        for lease in ["app", "web"] {
            for (metric, site, quiet) in [
                ("active", "a", "1x40"),
                ("active", "b", "0x40"),
                ("unwilling", "a", "0x40"),
                ("unwilling", "b", "0x40"),
                ("failing", "a", "0x40"),
                ("failing", "b", "0x40"),
            ] {
                let is_odd = lease == "app" && odd.contains(&format!("{metric}-{site}"));
                let name = format!(r#"lease_keeper_{metric}{{lease="{lease}", site="{site}"}}"#);
                all.push((name, if is_odd { values } else { quiet }));
            }
        }
        all
    };
    let everything = "active-a active-b unwilling-a unwilling-b failing-a failing-b";
    let rules = rules(LEASE);
    let mut tests = Vec::new();
    for (odd, values, fires) in [
        ("", "", ""),
        (everything, "0x8 stale", "LeaseNotHeldOnce LeaseStandbyMissing"),
        ("active-a unwilling-a failing-a", "0x8 stale", "LeaseNotHeldOnce LeaseStandbyMissing"),
        ("unwilling-b", "1x40", "LeaseStandbyMissing"),
        ("unwilling-a unwilling-b", "1x40", "LeaseStandbyMissing"),
        ("failing-b", "1x40", "LeaseStandbyMissing"),
        // An older lease-keeper has no such metric.
        ("unwilling-a unwilling-b", "_x40", ""),
    ] {
        let alerts: Vec<_> = [("LeaseNotHeldOnce", "critical"), ("LeaseStandbyMissing", "warning")]
            .into_iter()
            .map(|(name, severity)| {
                let labels = json!({ "lease": "app", "severity": severity });
                let annotations = json!({ "summary": summary(&rules, name) });
                let fired = json!([{ "exp_labels": labels, "exp_annotations": annotations }]);
                (name, if fires.contains(name) { fired } else { json!([]) })
            })
            .collect();
        tests.push(test(&series(odd, values), "9m45s", &alerts));
    }
    holds(LEASE, &tests);
}

/// The operator drops what its definitions do not have.
fn has_only_fields_of<T: DeserializeOwned + Serialize>(resource: &Value) {
    let read: T =
        serde_json::from_value(resource.clone()).unwrap_or_else(|error| panic!("{error}: {resource:#}"));
    assert_eq!(serde_json::to_value(read).expect("it is JSON"), *resource);
}

#[test]
fn the_custom_resources_have_the_fields_of_the_operators_definitions() {
    let webhook = fs::read_to_string(template(FENCE)).expect("it can be read");
    let (before, commented) =
        webhook.split_once("      # snsConfigs:").expect("the topic's receiver is in comments");
    let topic = format!("{before}      snsConfigs:{}", commented.replace("\n      # ", "\n      "));
    for (text, receivers) in [(webhook, 1), (topic, 2)] {
        let mut kinds = Vec::new();
        for resource in text.split("\n---\n") {
            let resource: Value = serde_saphyr::from_str(resource).expect("it is YAML");
            let kind = resource["kind"].as_str().expect("it has a kind").to_owned();
            match kind.as_str() {
                "Secret" => has_only_fields_of::<Secret>(&resource),
                "AlertmanagerConfig" => {
                    has_only_fields_of::<AlertmanagerConfig>(&resource);
                    let receiver = resource["spec"]["receivers"][0].as_object().expect("it has a receiver");
                    assert_eq!(receiver.keys().filter(|key| key.ends_with("Configs")).count(), receivers);
                }
                "PrometheusRule" => has_only_fields_of::<PrometheusRule>(&resource),
                other => panic!("{other}"),
            }
            kinds.push(kind);
        }
        assert_eq!(kinds, ["Secret", "AlertmanagerConfig", "PrometheusRule"]);
    }
}

#[test]
fn the_pods_resources_have_the_fields_of_the_operators_definitions() {
    let pod = fs::read_to_string(template(LATCH)).expect("it can be read");
    let mut kinds = Vec::new();
    for resource in pod.split("\n---\n") {
        let resource: Value = serde_saphyr::from_str(resource).expect("it is YAML");
        match resource["kind"].as_str().expect("it has a kind") {
            "PodMonitor" => has_only_fields_of::<PodMonitor>(&resource),
            "PrometheusRule" => has_only_fields_of::<PrometheusRule>(&resource),
            // `tests/infra/deploy.rs` has these.
            kind => assert!(["ServiceAccount", "Deployment", "NetworkPolicy"].contains(&kind), "{kind}"),
        }
        kinds.push(resource["kind"].clone());
    }
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    let lease = fs::read_to_string(template(LEASE)).expect("it can be read");
    has_only_fields_of::<PrometheusRule>(&serde_saphyr::from_str(&lease).expect("it is YAML"));
}
