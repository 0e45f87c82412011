//! The template's alarms, against the metrics that the functions emit and the pages that their descriptions name.

use std::collections::BTreeSet;
use std::fs;

use crate::support::root;

/// A metric that asks nothing of a person.
const WITHOUT_ALARM: [&str; 1] = ["Ignored"];
/// CloudWatch takes no longer description.
const LONGEST_DESCRIPTION: usize = 1024;

/// An alarm of a template.
struct Alarm {
    /// The name, without the stack's.
    name: String,
    description: String,
    /// Its metrics in the namespace `FailoverLock`.
    metrics: Vec<String>,
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The alarms of the template.
fn alarms() -> Vec<Alarm> {
    let template = read("infra/failover-lock.yaml");
    let mut alarms = Vec::new();
    let mut resource = String::new();
    // A resource begins with its name, two spaces deep.
    for line in template.lines().chain(["  End:"]) {
        if line.starts_with("  ") && !line.starts_with("   ") && line.ends_with(':') {
            alarms.extend(Alarm::read(&resource));
            resource.clear();
        }
        resource.extend([line, "\n"]);
    }
    alarms
}

/// The metrics that `outcome.rs` names.
fn emitted() -> BTreeSet<String> {
    let source = read("src/failover_lock/outcome.rs");
    let texts = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let texts =
        texts.flat_map(|line| line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    let is_name =
        |text: &String| text.starts_with(char::is_uppercase) && text.chars().all(char::is_alphanumeric);
    texts.filter(is_name).filter(|text| !["FailoverLock", "HealthCheckId"].contains(&text.as_str())).collect()
}

// === impl Alarm ===

impl Alarm {
    fn read(resource: &str) -> Option<Self> {
        resource.contains("Type: AWS::CloudWatch::Alarm\n").then(|| {
            let after =
                |key: &'static str| resource.lines().filter_map(move |line| line.trim().split_once(key));
            let (_, name) =
                after("AlarmName: !Sub \"${AWS::StackName}-").next().expect("an alarm has a name");
            let description = resource.split_once("AlarmDescription:").expect("an alarm is described").1;
            let metrics = after("MetricName: ").map(|(_, metric)| metric.to_owned());
            let ours = resource.contains("Namespace: FailoverLock\n");
            Self {
                name: name.trim_end_matches('"').to_owned(),
                description: description.split('"').nth(1).expect("it is quoted").to_owned(),
                metrics: metrics.filter(|_| ours).collect(),
            }
        })
    }
}

#[test]
fn every_alarm_on_an_outcome_has_a_metric_that_the_functions_emit_and_the_other_way_round() {
    let alarms = alarms();
    assert!(alarms.len() > 10, "the template has {} alarms", alarms.len());
    let watched: BTreeSet<_> = alarms.iter().flat_map(|alarm| alarm.metrics.clone()).collect();
    let expected = emitted().into_iter().filter(|name| !WITHOUT_ALARM.contains(&name.as_str()));
    assert_eq!(watched, expected.collect());
}

#[test]
fn every_alarm_says_what_it_means_what_to_do_first_and_which_part_of_the_runbook_follows() {
    let runbook = read("docs/runbook.md");
    let reference = read("docs/reference.md");
    for Alarm { name, description, .. } in alarms() {
        let name = format!("failover-{name}");
        assert!(runbook.lines().any(|line| line == format!("## {name}")), "docs/runbook.md has no ## {name}");
        assert!(runbook.contains(&format!("| [`{name}`](#{name}) |")), "the index lacks {name}");
        assert!(reference.contains(&format!("| `{name}` |")), "docs/reference.md lacks {name}");
        assert!(description.contains(". First: "), "{name}: {description}");
        assert!(description.ends_with(&format!(" Then: docs/runbook.md#{name}")), "{name}: {description}");
        assert!(description.len() < LONGEST_DESCRIPTION - 200, "{name} is described at too great a length");
    }
}
