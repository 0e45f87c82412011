//! The templates' alarms, against the metrics that the functions emit and the pages that their descriptions name.

use std::collections::BTreeSet;
use std::fs;

use crate::support::root;

/// A system whose template has alarms.
struct System {
    template: &'static str,
    /// The namespace and the dimension of its metrics, and the file that names the metrics.
    namespace: &'static str,
    dimension: &'static str,
    outcome: &'static str,
    /// The prefix of its alarms' names, with the default name of the stack.
    prefix: &'static str,
    /// The metrics that ask nothing of a person.
    without_alarm: &'static [&'static str],
}

const SYSTEMS: [System; 3] = [
    System {
        template: "infra/failover-lock.yaml",
        namespace: "FailoverLock",
        dimension: "HealthCheckId",
        outcome: "src/failover_lock/outcome.rs",
        prefix: "failover-",
        without_alarm: &["Ignored"],
    },
    System {
        template: "infra/latch-region.yaml",
        namespace: "FailoverLatch",
        dimension: "Latch",
        outcome: "src/latch/outcome.rs",
        prefix: "latch-",
        without_alarm: &["Locked", "Holding"],
    },
    System {
        template: "infra/site-fence.yaml",
        namespace: "SiteFence",
        dimension: "FunctionName",
        outcome: "src/site_fence/outcome.rs",
        prefix: "site-",
        // A failure is also an answer, or an event in a queue, which is what is watched.
        without_alarm: &["AlreadyFenced", "Failed", "Rejoined"],
    },
];
/// CloudWatch takes no longer description.
const LONGEST_DESCRIPTION: usize = 1024;

/// An alarm of a template.
struct Alarm {
    /// What other resources call it, and its name after the stack's.
    id: String,
    suffix: String,
    /// The name, in a stack of the default name.
    name: String,
    description: String,
    /// Its metrics in the system's namespace.
    metrics: Vec<String>,
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

// === impl System ===

impl System {
    /// The alarms of the template.
    fn alarms(&self) -> Vec<Alarm> {
        let template = read(self.template);
        let mut alarms = Vec::new();
        let mut resource = String::new();
        // A resource begins with its name, two spaces deep.
        for line in template.lines().chain(["  End:"]) {
            if line.starts_with("  ") && !line.starts_with("   ") && line.ends_with(':') {
                alarms.extend(self.alarm(&resource));
                resource.clear();
            }
            resource.extend([line, "\n"]);
        }
        alarms
    }

    fn alarm(&self, resource: &str) -> Option<Alarm> {
        resource.contains("Type: AWS::CloudWatch::Alarm\n").then(|| {
            let after =
                |key: &'static str| resource.lines().filter_map(move |line| line.trim().split_once(key));
            let (_, name) =
                after("AlarmName: !Sub \"${AWS::StackName}-").next().expect("an alarm has a name");
            let description = resource.split_once("AlarmDescription:").expect("an alarm is described").1;
            let metrics = after("MetricName: ").map(|(_, metric)| metric.to_owned());
            let ours = resource.contains(&format!("Namespace: {}\n", self.namespace));
            Alarm {
                id: resource.lines().next().unwrap_or_default().trim().trim_end_matches(':').to_owned(),
                suffix: name.trim_end_matches('"').to_owned(),
                name: format!("{}{}", self.prefix, placeholders(name.trim_end_matches('"'))),
                description: description.split('"').nth(1).expect("it is quoted").to_owned(),
                metrics: metrics.filter(|_| ours).collect(),
            }
        })
    }

    /// The metrics that its source names.
    fn emitted(&self) -> BTreeSet<String> {
        let source = read(self.outcome);
        let texts = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        let texts =
            texts.flat_map(|line| line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
        let is_name =
            |text: &String| text.starts_with(char::is_uppercase) && text.chars().all(char::is_alphanumeric);
        let others = [self.namespace, self.dimension, "Seconds", "AllFailed", "Reporter"];
        texts.filter(is_name).filter(|text| !others.contains(&text.as_str())).collect()
    }
}

/// An alarm's name as the runbook has it.
fn placeholders(name: &str) -> String {
    name.replace("${Latch}", "NAME").replace("${WatchdogSiteA}", "SITE").replace("${WatchdogSiteB}", "SITE")
}

#[test]
fn every_alarm_on_an_outcome_has_a_metric_that_the_functions_emit_and_the_other_way_round() {
    for system in SYSTEMS {
        let alarms = system.alarms();
        assert!(alarms.len() > 7, "{} has {} alarms", system.template, alarms.len());
        let watched: BTreeSet<_> = alarms.iter().flat_map(|alarm| alarm.metrics.clone()).collect();
        let without = |name: &String| system.without_alarm.contains(&name.as_str());
        let expected: BTreeSet<_> = system.emitted().into_iter().filter(|name| !without(name)).collect();
        assert_eq!(watched, expected, "{}", system.template);
    }
}

#[test]
fn every_alarm_says_what_it_means_what_to_do_first_and_which_part_of_the_runbook_follows() {
    let runbook = read("docs/runbook.md");
    let reference = read("docs/reference.md");
    for Alarm { name, description, .. } in SYSTEMS.iter().flat_map(System::alarms) {
        let anchor = anchor(&name);
        assert!(runbook.lines().any(|line| line == format!("## {name}")), "docs/runbook.md has no ## {name}");
        assert!(runbook.contains(&format!("| [`{name}`](#{anchor}) |")), "the index lacks {name}");
        assert!(reference.contains(&format!("| `{name}` |")), "docs/reference.md lacks {name}");
        assert!(description.contains(". First: "), "{name}: {description}");
        assert!(description.ends_with(&format!(" Then: ${{RunbookUrl}}#{anchor}")), "{name}: {description}");
        // A command is copied as it stands.
        let (_, first) = description.split_once("First: ").expect("it has a first step");
        for end in ["}. ", "}, ", "text. ", "text, "] {
            assert!(!first.contains(end), "{name}: {end:?} follows a command: {first}");
        }
        assert!(description.len() < LONGEST_DESCRIPTION - 200, "{name} is described at too great a length");
    }
}

#[test]
fn every_alarm_is_on_its_stacks_dashboard() {
    for system in SYSTEMS {
        let template = read(system.template);
        let Some((_, dashboard)) = template.split_once("\n  Dashboard:\n") else {
            assert_eq!(system.prefix, "latch-", "its alarms are in two Regions, and have no dashboard");
            continue;
        };
        let dashboard = dashboard.split("\nOutputs:").next().unwrap();
        for Alarm { id, suffix, .. } in system.alarms() {
            let shown = [format!("${{{id}}}"), format!("!Ref {id},"), format!("-{suffix}\"")];
            assert!(shown.iter().any(|shown| dashboard.contains(shown)), "{}: {id}", system.template);
        }
    }
}

/// The anchor of a heading.
pub fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
    kept.map(|char| if char == ' ' { '-' } else { char }).collect()
}

#[test]
fn every_alert_of_prometheus_leads_to_its_part_of_the_runbook() {
    let runbook = read("docs/runbook.md");
    let anchors: BTreeSet<_> = runbook.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
    let mut count = 0;
    for file in ["infra/alertmanager.yaml", "infra/latch-pod.yaml", "infra/lease-alerts.yaml"] {
        let text = read(file);
        for alert in text.split("- alert: ").skip(1) {
            let name = alert.lines().next().unwrap_or_default();
            // It always fires.
            if name == "SiteFenceWatchdog" {
                continue;
            }
            let summary =
                alert.lines().find_map(|line| line.trim().strip_prefix("summary: ")).unwrap_or_default();
            let (_, part) =
                summary.split_once("docs/runbook.md#").unwrap_or_else(|| panic!("{file}: {name}: {summary}"));
            assert!(anchors.contains(part.trim_end_matches('"')), "{file}: {name}: {part}");
            let latch = part.starts_with("latch-name");
            assert!(latch || runbook.contains(&format!("`{name}`")), "docs/runbook.md's index lacks {name}");
            count += 1;
        }
    }
    assert_eq!(count, 17);
}

/// What a stack has of what is charged by the month, in US cents: a dashboard 300, a key 100, an alarm 10.
/// <https://aws.amazon.com/cloudwatch/pricing/>, <https://aws.amazon.com/kms/pricing/>
fn monthly(template: &str, is_made: impl Fn(Option<&str>) -> bool) -> usize {
    let text = read(template);
    let resources = text.split("\nResources:\n").nth(1).expect("it has resources").split("\n\n");
    let price = |resource: &str| {
        let value = |key: &str| resource.lines().find_map(|line| line.strip_prefix(key));
        let cents = match value("    Type: ") {
            Some("AWS::CloudWatch::Dashboard") => 300,
            Some("AWS::KMS::Key") => 100,
            Some("AWS::CloudWatch::Alarm") => 10,
            _ => 0,
        };
        cents * usize::from(is_made(value("    Condition: ")))
    };
    resources.map(price).sum()
}

#[test]
fn the_documented_costs_are_those_of_the_templates() {
    let dollars = |cents: usize| format!("{}.{:02}", cents / 100, cents % 100);
    let (lock, readme, fence) = (read("docs/lock.md"), read("README.md"), read("docs/fence.md"));
    // Of runs, logs and the artifact. The free tiers have 3 dashboards and 10 alarms.
    let (runs, free) = (5, 400);
    let one = monthly("infra/failover-lock.yaml", |_| true) + runs;
    // An alarm for each check is in none of the stacks.
    let tagged =
        monthly("infra/failover-lock.yaml", |condition| condition != Some("NewAlarm")) + runs + 20 * 10;
    for (costs, rest) in [(one, dollars(one - free)), (tagged, dollars(tagged - free))] {
        assert!(readme.contains(&format!("| {} | {rest} |", dollars(costs))), "{costs} {rest}");
        assert!(lock.contains(&format!(" {}", dollars(costs))), "{costs}");
    }
    assert!(readme.contains(&format!("| 20 | 20 | {} | {} |", 20 * one / 100, (20 * one - 1000) / 100)));
    assert!(lock.contains(&format!("the first stack costs USD {}", dollars(one - free))));
    // Two secrets at 40.
    let fenced = monthly("infra/site-fence.yaml", |condition| {
        matches!(condition, None | Some("NeedsKey" | "HasDashboard"))
    }) + 2 * 40;
    let topic = monthly("infra/site-fence.yaml", |condition| condition == Some("HasTopic"));
    // Three metrics at 30: one for each reporter, and the number of sites that are out.
    let watchdogs = monthly("infra/site-fence.yaml", |condition| {
        matches!(condition, Some("HasWatchdog" | "HasWatchdogA" | "HasWatchdogB"))
    }) + 3 * 30;
    for said in [
        format!("About USD {} a month", dollars(fenced)),
        format!("A topic adds four alarms, {}.", dollars(topic)),
        format!("The [watchdogs](#notice-a-silent-site) add {}.", dollars(watchdogs)),
        format!("The watchdogs cost USD {} a month", dollars(watchdogs)),
    ] {
        assert!(fence.contains(&said), "{said}");
    }
}
