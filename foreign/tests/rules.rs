//! The rules of `infra/alertmanager.yaml` in Prometheus: what they say of Infinispan's metric, by `promtool`.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::fs;
use std::process::Command;

/// The rules file that the template's comment makes, with all values replaced.
fn rules() -> String {
    let file = support::root().join("infra/alertmanager.yaml");
    let made = Command::new("sed")
        .args(["-n", r"/^  groups:/,/^$/s/^  //p"])
        .arg(file)
        .output()
        .expect("sed is there");
    let rules = String::from_utf8(made.stdout).expect("the template is UTF-8");
    let rules =
        rules.replace("REPLACE_THIS_SITE", "site-a").replace("REPLACE_ACCELERATOR", "acme.example.com");
    rules.replace("REPLACE_NAMESPACE", "datagrid")
}

#[test]
fn the_rules_report_an_unseen_site_and_show_that_they_are_alive() {
    let folder = std::env::temp_dir().join(format!("rules-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder can be made");
    fs::write(folder.join("rules.yml"), rules()).expect("it can be written");
    // Infinispan 15 has the prefix, 16.1 has not. 0 is unseen, 1 seen, 2 unknown to the node that was asked.
    let mut tests = String::from("rule_files: [rules.yml]\nevaluation_interval: 15s\ntests:\n");
    for metric in ["vendor_jgroups_site_view_status", "jgroups_site_view_status"] {
        let labels = "alertname: SiteOffline, reporter: site-a, site: site-b, accelerator: acme.example.com";
        let series = |namespace: &str, node: &str, values: &str| {
            format!(
                "{metric}{{namespace=\"{namespace}\", site=\"site-b\", node=\"{node}\"}}', values: '{values}'"
            )
        };
        for (values, fires) in
            [("1 1 1 1 1 1 1 1 1 1 1 1", false), ("1 0 0 0 0 0 0 0 0 0 0 0", true), ("2x12", false)]
        {
            let expected = if fires {
                format!(
                    "[{{exp_labels: {{{labels}, severity: critical, namespace: datagrid}}, exp_annotations: {{summary: 'site-b is no longer seen, and will be fenced.'}}}}]"
                )
            } else {
                "[]".to_owned()
            };
            tests += &format!(
                "- interval: 15s\n  input_series:\n  - {{series: '{}}}\n  - {{series: '{}}}\n  alert_rule_test:\n  - {{eval_time: 2m30s, alertname: SiteOffline, exp_alerts: {expected}}}\n  - {{eval_time: 2m30s, alertname: SiteFenceWatchdog, exp_alerts: [{{exp_labels: {{alertname: SiteFenceWatchdog, namespace: datagrid, severity: none, reporter: site-a, accelerator: acme.example.com}}}}]}}\n",
                series("datagrid", "1", values),
                // Another cluster's view is none of this site's.
                series("other", "1", "0x12"),
            );
        }
    }
    tests += "- interval: 15s\n  input_series: []\n  alert_rule_test:\n  - {eval_time: 11m, alertname: SiteFenceWatchdog, exp_alerts: []}\n";
    tests += "  - {eval_time: 11m, alertname: SiteViewMissing, exp_alerts: [{exp_labels: {alertname: SiteViewMissing, namespace: datagrid, severity: warning}, exp_annotations: {summary: \"Infinispan's metric site_view_status is missing: this cluster cannot report the other site to site-fence.\"}}]}\n";
    fs::write(folder.join("tests.yml"), &tests).expect("it can be written");
    for arguments in [["check", "rules", "rules.yml"], ["test", "rules", "tests.yml"]] {
        let said = Command::new("promtool")
            .args(arguments)
            .current_dir(&folder)
            .output()
            .expect("promtool is installed (Debian: apt-get install prometheus)");
        let printed =
            format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        assert!(said.status.success(), "{printed}\n{tests}");
    }
    fs::remove_dir_all(&folder).expect("it is there");
}
