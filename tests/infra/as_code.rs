//! `infra/terraform` and `infra/cdk` against the template that they deploy. That they deploy it, `foreign/tests/as_code.rs`
//! shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use crate::support::root;

const TEMPLATE: &str = "infra/failover-lock.yaml";
const MODULE: &str = "infra/terraform";
const CONSTRUCT: &str = "infra/cdk/lib/failover-lock.ts";
/// The parameters that follow from the artifact and from the others.
const CODE: [&str; 3] = ["CodeBucket", "CodeKey", DEPLOYMENT];
const DEPLOYMENT: &str = "Deployment";

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The entries of a top-level section of the template, each with its properties that stand on one line.
fn section(name: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let template = read(TEMPLATE);
    let start = format!("\n{name}:\n");
    let section = template.split(&start).nth(1).expect("the template has the section");
    let mut entries: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut entry = String::new();
    for line in section.lines().take_while(|line| line.is_empty() || line.starts_with(' ')) {
        if let Some(name) = line.strip_prefix("  ").filter(|line| !line.starts_with([' ', '#'])) {
            name.trim_end_matches(':').clone_into(&mut entry);
            entries.insert(entry.clone(), BTreeMap::new());
        } else if let Some((key, value)) = line.trim().split_once(": ")
            && let Some(entry) = entries.get_mut(&entry)
        {
            entry.insert(key.to_owned(), value.trim_matches('"').to_owned());
        }
    }
    entries
}

/// A parameter's name as Terraform writes names.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    for char in name.chars() {
        if char.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(char.to_lowercase());
    }
    snake
}

/// A parameter's name as TypeScript writes names.
fn camel(name: &str) -> String {
    name[..1].to_lowercase() + &name[1..]
}

/// A text of the template in which parameters have other names.
fn renamed(text: &str, rename: impl Fn(&str) -> String) -> String {
    let parameters = section("Parameters");
    let words = text.split_inclusive(|char: char| !char.is_ascii_alphanumeric());
    let rename = |word: &str| {
        let name = word.trim_end_matches(|char: char| !char.is_ascii_alphanumeric());
        if parameters.contains_key(name) { rename(name) + &word[name.len()..] } else { word.to_owned() }
    };
    words.map(rename).collect()
}

/// A variable or an output of the module, as `terraform fmt` lays it out.
#[derive(Debug)]
struct Block {
    name: String,
    description: String,
    kind: Option<String>,
    default: Option<String>,
}

fn blocks(kind: &str, file: &str) -> Vec<Block> {
    let text = read(&format!("{MODULE}/{file}"));
    let start = format!("{kind} \"");
    let mut blocks = Vec::new();
    for block in text.split("\n}\n") {
        let Some(block) = block.trim_start().strip_prefix(&start) else { continue };
        let argument = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(&format!("  {name} ")));
            line.map(|line| line.trim_start_matches([' ', '=']).to_owned())
        };
        blocks.push(Block {
            name: block.split('"').next().unwrap_or_default().to_owned(),
            description: argument("description").expect("it has a description").trim_matches('"').to_owned(),
            // One of several lines is described in words.
            kind: argument("type").map(|kind| kind.replace("({", ")")),
            default: argument("default"),
        });
    }
    blocks
}

/// The tables of the module's page, made from its files.
fn tables() -> String {
    let parameters: BTreeMap<_, _> =
        section("Parameters").into_iter().map(|(name, parameter)| (snake(&name), parameter)).collect();
    let mut tables = "## Inputs\n\n| name | type | default | meaning |\n|---|---|---|---|\n".to_owned();
    for Block { name, description, kind, default } in blocks("variable", "variables.tf") {
        let given = parameters.get(&name).and_then(|parameter| parameter.get("Default"));
        let given = given.map(String::as_str).filter(|default| !default.is_empty());
        let default = match (default.as_deref(), given) {
            (None, _) => "required".to_owned(),
            (Some("null"), None) => "none".to_owned(),
            (Some("null"), Some(default)) => format!("`{default}`"),
            (Some(default), _) => format!("`{}`", default.trim_matches('"')),
        };
        let kind = kind.expect("a variable has a type");
        writeln!(tables, "| `{name}` | `{kind}` | {default} | {description} |").expect("a text takes it");
    }
    tables += "\n## Outputs\n\n| name | meaning |\n|---|---|\n";
    for Block { name, description, .. } in blocks("output", "outputs.tf") {
        writeln!(tables, "| `{name}` | {description} |").expect("a text takes it");
    }
    tables
}

#[test]
fn the_module_passes_each_parameter_of_the_template_and_no_other() {
    let main = read(&format!("{MODULE}/main.tf"));
    let map = main.split("\n  given = {\n").nth(1).and_then(|rest| rest.split("\n  }\n").next());
    let passed = map.expect("main.tf has a map of parameters").lines();
    let passed =
        passed.filter_map(|line| line.strip_prefix("    ")?.split_once(" = ").map(|(name, _)| name.trim()));
    let mut passed: BTreeSet<_> = passed.filter(|name| name.starts_with(char::is_uppercase)).collect();
    if main.contains("\n  parameters   = merge(local.passed, { Deployment = local.deployment })\n") {
        passed.insert(DEPLOYMENT);
    }
    let parameters = section("Parameters");
    assert_eq!(passed, parameters.keys().map(String::as_str).collect());

    let variables = blocks("variable", "variables.tf");
    for (name, parameter) in parameters.iter().filter(|(name, _)| !CODE.contains(&name.as_str())) {
        let variable = variables.iter().find(|variable| variable.name == snake(name));
        let variable = variable.unwrap_or_else(|| panic!("variables.tf has no {}", snake(name)));
        assert!(main.contains(&format!("var.{}", variable.name)), "main.tf does not read {}", variable.name);
        // With a type of its own, a value is described otherwise.
        if let Some(description) = parameter.get("Description")
            && variable.kind.as_deref() != Some("map(string)")
        {
            assert_eq!(variable.description, renamed(description, snake), "{name}");
        }
    }
}

#[test]
fn the_module_has_each_output_of_the_template() {
    let outputs = read(&format!("{MODULE}/outputs.tf"));
    for output in section("Outputs").into_keys() {
        assert!(outputs.contains(&format!("output \"{}\" {{", snake(&output))), "outputs.tf has no {output}");
        assert!(outputs.contains(&format!("\"{output}\"")), "outputs.tf does not read {output}");
    }
}

#[test]
fn the_modules_page_has_its_inputs_and_outputs() {
    let page = read(&format!("{MODULE}/README.md"));
    let tables = tables();
    assert!(page.ends_with(&tables), "the end of {MODULE}/README.md should be:\n{tables}");
}

#[test]
fn an_alarm_of_the_module_is_that_of_the_template() {
    let main = read(&format!("{MODULE}/main.tf"));
    let alarm =
        main.split("resource \"aws_cloudwatch_metric_alarm\"").nth(1).expect("the module makes alarms");
    let resources = section("Resources");
    let parameters = section("Parameters");
    for name in ["Namespace", "Statistic", "ComparisonOperator", "TreatMissingData"] {
        let line = alarm.lines().find(|line| line.trim_start().starts_with(&format!("{} ", snake(name))));
        let expected = format!("\"{}\"", resources["Alarm"][name]);
        assert!(line.is_some_and(|line| line.ends_with(&expected)), "{name}: {line:?}, and not {expected}");
    }
    let described = &resources["Alarm"]["AlarmDescription"];
    let described = described.strip_prefix("!Sub \"").unwrap_or(described);
    let described = described.replace("${HealthCheckId}", "${each.value.health_check_id}");
    let described = described
        .replace("${AWS::StackName}", "${var.name}")
        .replace("${RunbookUrl}", "${coalesce(var.runbook_url, \"docs/runbook.md\")}");
    assert!(alarm.contains(&described), "{described}");
    // A health check's settings have the template's defaults.
    let variables = read(&format!("{MODULE}/variables.tf"));
    for name in
        ["AlarmActionsEnabled", "AlarmMetric", "AlarmThreshold", "AlarmPeriod", "AlarmEvaluationPeriods"]
    {
        let line = variables.lines().find(|line| line.starts_with(&format!("    {} ", snake(name))));
        let default = line.and_then(|line| line.split_once(", "));
        let default = default.map(|(_, default)| default.trim_end_matches(')').trim_matches('"'));
        assert_eq!(default, Some(parameters[name]["Default"].as_str()), "{name}");
    }
}

#[test]
fn the_construct_has_each_parameter_of_the_template() {
    let construct = read(CONSTRUCT);
    let interface = construct.split("export interface FailoverLockParameters {\n").nth(1);
    let interface = interface.and_then(|rest| rest.split("\n}\n").next()).expect("it has the interface");
    let properties: BTreeSet<_> = interface
        .lines()
        .filter_map(|line| {
            line.trim().strip_prefix("readonly ")?.split_once("?: ").map(|(name, _)| name.to_owned())
        })
        .collect();
    let parameters = section("Parameters");
    let named = parameters.keys().filter(|name| !CODE.contains(&name.as_str()));
    assert_eq!(properties, named.map(|name| camel(name)).collect());
    // The comments are the template's.
    let said = interface.replace("/**", " ").replace("*/", " ").replace("\n   * ", " ");
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for (name, parameter) in parameters {
        let first = parameter.get("Description").and_then(|text| text.split(". ").next()).unwrap_or_default();
        let first = renamed(first.trim_end_matches('.'), camel);
        let own = CODE.contains(&name.as_str()) || name == "SecondaryHealthChecks";
        assert!(own || said.contains(&first), "{CONSTRUCT}: {name} is {first:?}");
    }
}
