//! `infra/alertmanager.yaml`: what its rules say of Infinispan's metric, by `promtool`, and whether its resources have the
//! fields of the Prometheus Operator's own definitions.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use k8s_openapi::api::core::v1::Secret;
use kcr_monitoring_coreos_com::v1::prometheusrules::PrometheusRule;
use kcr_monitoring_coreos_com::v1beta1::alertmanagerconfigs::AlertmanagerConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn template() -> PathBuf {
    support::root().join("infra/alertmanager.yaml")
}

/// The rules file that the template's comment makes, with all values replaced.
fn rules() -> String {
    let file = template();
    let made = Command::new("sed").args(["-n", r"/^  groups:/,/^$/s/^  //p"]).arg(file).output();
    let rules = String::from_utf8(made.expect("sed is there").stdout).expect("the template is UTF-8");
    let rules =
        rules.replace("REPLACE_THIS_SITE", "site-a").replace("REPLACE_ACCELERATOR", "acme.example.com");
    rules.replace("REPLACE_NAMESPACE", "datagrid")
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
        "exp_annotations": { "summary": "site-b is no longer seen, and will be fenced." } }]);
    let alive = json!([{ "exp_labels": labels("none") }]);
    let missing = json!([{ "exp_labels": { "namespace": "datagrid", "severity": "warning" }, "exp_annotations": {
        "summary": "Infinispan's metric site_view_status is missing: this cluster cannot report the other site to \
            site-fence." } }]);

    let mut tests = Vec::new();
    // Infinispan 15 has the prefix, 16.1 has not. 0 is unseen, 1 seen, 2 unknown to the node that was asked.
    for metric in ["vendor_jgroups_site_view_status", "jgroups_site_view_status"] {
        for (values, fires) in [("1x12", json!([])), ("1 0x11", offline.clone()), ("2x12", json!([]))] {
            let of =
                |namespace: &str| format!(r#"{metric}{{namespace="{namespace}", site="site-b", node="1"}}"#);
            // Another cluster's view is none of this site's.
            let series = [(of("datagrid"), values), (of("other"), "0x12")];
            tests.push(test(
                &series,
                "2m30s",
                &[("SiteOffline", fires), ("SiteFenceWatchdog", alive.clone())],
            ));
        }
    }
    tests.push(test(&[], "11m", &[("SiteFenceWatchdog", json!([])), ("SiteViewMissing", missing)]));
    let tests = json!({ "rule_files": ["rules.yml"], "evaluation_interval": "15s", "tests": tests });

    let folder = std::env::temp_dir().join(format!("rules-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder can be made");
    fs::write(folder.join("rules.yml"), rules()).expect("it can be written");
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

/// The operator drops what its definitions do not have.
fn has_only_fields_of<T: DeserializeOwned + Serialize>(resource: &Value) {
    let read: T =
        serde_json::from_value(resource.clone()).unwrap_or_else(|error| panic!("{error}: {resource:#}"));
    assert_eq!(serde_json::to_value(read).expect("it is JSON"), *resource);
}

#[test]
fn the_custom_resources_have_the_fields_of_the_operators_definitions() {
    let webhook = fs::read_to_string(template()).expect("it can be read");
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
