//! Least privilege, both ways: the roles of the template as it is deployed, against the calls that
//! the handlers make.

use std::collections::BTreeSet;

use crate::support;
use crate::support::cloudwatch::{Alarm, Kind};
use crate::support::emulator::Emulator;
use crate::support::lock::{CHANGED_AT, LOCKED, PRIMARY, delivered, message};
use crate::support::recorded;
use crate::support::route53::{Check, Fault, Route53};
use failover::failover_lock::Handler;
use serde_json::{Value, json};

const SECONDARY: &str = "d2f991db-4143-47b0-9015-e781df145c7c";
const OTHER: &str = "3c8f7c1e-54b0-4c1f-9a57-6a2a6f0e5d11";
const TAG: &str = "failover";
const HANDLERS: [(&str, Handler); 3] =
    [("Lock", Handler::Lock), ("Restore", Handler::Restore), ("Reconcile", Handler::Reconcile)];

type Permissions = BTreeSet<(String, String)>;

/// The permissions of this function's role: actions, each on its resource.
async fn allowed(aws: &Emulator, function: &str) -> Permissions {
    let policy = policy(aws, function).await;
    let statements = policy["Statement"].as_array().expect("a policy has statements").iter();
    let mut allowed = Permissions::new();
    for statement in statements {
        assert_eq!(statement["Effect"], "Allow");
        let actions = match &statement["Action"] {
            Value::Array(actions) => actions.clone(),
            action => vec![action.clone()],
        };
        let resource = statement["Resource"].as_str().expect("one resource a statement").to_owned();
        for action in actions {
            allowed.insert((action.as_str().expect("an action is a text").to_owned(), resource.clone()));
        }
    }
    allowed
}

/// The calls of Lambda itself with the role: logs, and for `lock` the failure destination.
async fn done_by_lambda(aws: &Emulator, function: &str) -> Permissions {
    let log = format!(
        "arn:aws:logs:us-east-1:000000000000:log-group:/aws/lambda/failover-{}:*",
        function.to_lowercase()
    );
    let mut done = vec![("logs:CreateLogStream", log.clone()), ("logs:PutLogEvents", log)];
    if function == "Lock" {
        let topic = "arn:aws:sns:us-east-1:000000000000:failover-notifications".to_owned();
        let key = format!("arn:aws:kms:us-east-1:000000000000:key/{}", physical_id(aws, "Key").await);
        done.extend([("sns:Publish", topic), ("kms:Decrypt", key.clone()), ("kms:GenerateDataKey", key)]);
    }
    done.into_iter().map(|(action, resource)| (action.to_owned(), resource)).collect()
}

/// The one policy of this function's role, and nothing else may be attached to it.
async fn policy(aws: &Emulator, function: &str) -> Value {
    let role = role(aws, function).await;
    let attached = aws.aws(&["iam", "list-attached-role-policies", "--role-name", &role]).await;
    assert_eq!(attached["AttachedPolicies"], json!([]));
    let names = aws.aws(&["iam", "list-role-policies", "--role-name", &role]).await;
    let [name] = &names["PolicyNames"].as_array().expect("a list")[..] else { panic!("{names}") };
    let get = ["iam", "get-role-policy", "--role-name", &role, "--policy-name", name.as_str().unwrap_or("")];
    aws.aws(&get).await["PolicyDocument"].clone()
}

async fn role(aws: &Emulator, function: &str) -> String {
    physical_id(aws, &format!("{function}Role")).await
}

async fn physical_id(aws: &Emulator, resource: &str) -> String {
    let describe = ["cloudformation", "describe-stack-resource", "--stack-name", "failover"];
    let detail = aws.aws(&[&describe[..], &["--logical-resource-id", resource]].concat()).await;
    detail["StackResourceDetail"]["PhysicalResourceId"].as_str().expect("a resource has an id").to_owned()
}

/// How a stack names what it guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guards {
    One,
    OneWithSecondary,
    Tagged,
}

// === impl Guards ===

impl Guards {
    fn variables(self) -> Vec<(&'static str, String)> {
        let secondary = ("SECONDARY_HEALTH_CHECKS", format!("{PRIMARY}={SECONDARY}"));
        match self {
            Self::One => vec![("GUARDED_HEALTH_CHECKS", PRIMARY.to_owned())],
            Self::OneWithSecondary => vec![("GUARDED_HEALTH_CHECKS", PRIMARY.to_owned()), secondary],
            Self::Tagged => vec![("GUARDED_TAG", TAG.to_owned()), secondary],
        }
    }
}

/// A health check in service whose alarm has just gone off, and two that were restored just before that and after it, so
/// that Route 53's checkers are asked: by `lock`, and by `reconcile`.
fn worlds(handler: Handler) -> Vec<Check> {
    let path = if handler == Handler::Restore { LOCKED } else { "/lb-check" };
    let check = || Check::new("HTTP", 80).with("ResourcePath", path).changed().tagged(TAG, "");
    let before = "v=3 seen=2026-11-21T02:34:30Z done=2026-11-21T02:34:31Z to=/lb-check";
    let after = "v=3 seen=2026-11-21T03:00:00Z done=2026-11-21T03:00:01Z to=/lb-check";
    vec![check(), check().tagged("failover-lock:in", before), check().tagged("failover-lock:in", after)]
}

/// What this handler asks AWS for, in all that can happen to it.
async fn asked(handler: Handler, guards: Guards) -> Permissions {
    let mut asked = Permissions::new();
    let variables = guards.variables();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let events: Vec<_> = match handler {
        Handler::Lock => {
            let folders = ["sns", "sqs", "cloudwatch", "eventbridge"].into_iter();
            let files = folders.flat_map(|folder| {
                let files =
                    std::fs::read_dir(format!("events/{folder}")).expect("the recorded events are there");
                files.map(move |file| format!("{folder}/{}", file.unwrap().file_name().to_string_lossy()))
            });
            files.map(|file| recorded(&file)).collect()
        }
        Handler::Restore => vec![json!({ "healthCheckId": PRIMARY, "force": true }).to_string()],
        Handler::Reconcile => vec![recorded("eventbridge/scheduled.json")],
    };
    for event in events {
        for check in worlds(handler) {
            // In the second pass what is read by the page cannot be read, in the third one an alarm on a query is all.
            for (pages, plain) in [(true, true), (false, true), (true, false)] {
                let route53 = Route53::start().await;
                route53.put(PRIMARY, check.clone());
                // Someone else changes it meanwhile: it is read again.
                route53.fail("UpdateHealthCheck", Fault::Meddle("/lb-check"));
                route53.put(SECONDARY, Check::new("HTTP", 80));
                if guards == Guards::Tagged {
                    route53.put(OTHER, Check::new("HTTP", 80).tagged(TAG, "").changed());
                }
                let alarm = if plain {
                    Alarm::on(PRIMARY, "ALARM", 1_795_228_575.49)
                } else {
                    Alarm::of(Kind::Query(vec![PRIMARY.to_owned()]), "ALARM")
                };
                route53.put_alarm("primary-unhealthy", alarm);
                route53.put_alarm(
                    "composite",
                    Alarm::of(Kind::Composite(vec!["primary-unhealthy".to_owned()]), "ALARM"),
                );
                if !pages {
                    for operation in ["DescribeAlarms", "ListTagsForResources"] {
                        route53.fail_always(operation, Fault::Error(400, "AccessDenied", "no"));
                    }
                }
                // What is refused has also made its calls.
                let _ = support::lock::run(&route53, &variables, handler, &event).await;
                // In service, with its alarm muted.
                route53.put(PRIMARY, check.clone());
                let quiet = Alarm::on(PRIMARY, "OK", 1_795_228_575.49);
                route53.put_alarm("primary-unhealthy", Alarm { muted: true, ..quiet });
                let _ = support::lock::run(&route53, &variables, handler, &event).await;
                if pages && plain {
                    // The other one fails as well, as far as its checkers say.
                    route53.put(PRIMARY, check.clone());
                    route53.put(SECONDARY, Check::new("HTTP", 80).reported(0));
                    route53.put_alarm("primary-unhealthy", Alarm::on(PRIMARY, "ALARM", 1_795_228_575.49));
                    let _ = support::lock::run(&route53, &variables, handler, &event).await;
                }
                asked.extend(route53.calls().iter().map(|call| permission(call, guards)));
            }
        }
    }
    asked
}

/// The action of this call, on the resource that a policy names.
fn permission(call: &str, guards: Guards) -> (String, String) {
    let mut words = call.split(' ');
    let (operation, of) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match operation {
        "DescribeAlarms"
        | "DescribeAlarmContributors"
        | "DescribeAlarmsForMetric"
        | "GetMetricStatistics"
        | "ListAlarmMuteRules" => (format!("cloudwatch:{operation}"), "*".to_owned()),
        "GetAlarmMuteRule" => {
            let rule = "arn:aws:cloudwatch:us-east-1:000000000000:alarm-mute-rule:*";
            (format!("cloudwatch:{operation}"), rule.to_owned())
        }
        "ListHealthChecks" | "ListTagsForResources" => (format!("route53:{operation}"), "*".to_owned()),
        _ => {
            let of = if guards == Guards::Tagged { "*" } else { of };
            (format!("route53:{operation}"), format!("arn:aws:route53:::healthcheck/{of}"))
        }
    }
}

#[tokio::test]
async fn each_role_may_do_what_its_handler_does_no_more_and_no_fewer() {
    for guards in [Guards::One, Guards::OneWithSecondary, Guards::Tagged] {
        let aws = Emulator::own_ministack().await;
        let [primary, other] = [aws.health_check(1).await, aws.health_check(2).await];
        let options = match guards {
            Guards::One => format!("--health-check {primary}"),
            Guards::OneWithSecondary => format!("--health-check {primary} --secondary {other}"),
            Guards::Tagged => format!("--guarded-tag {TAG} --set SecondaryHealthChecks={primary}={other}"),
        };
        let (_, said) = aws.deploy(&format!("{options} --email sre@example.com")).await;
        assert!(said.contains("GUARDED"), "{said}");
        for (function, handler) in HANDLERS {
            let asked = asked(handler, guards).await.into_iter();
            let asked = asked.map(|(action, resource)| {
                (action, resource.replace(PRIMARY, &primary).replace(SECONDARY, &other))
            });
            let asked: Permissions = asked.chain(done_by_lambda(&aws, function).await).collect();
            assert_eq!(allowed(&aws, function).await, asked, "{function}, {guards:?}");
        }
    }
}

#[tokio::test]
async fn people_alone_may_invoke_restore() {
    let aws = Emulator::own_ministack().await;
    let check = aws.health_check(1).await;
    aws.deploy(&format!("--health-check {check} --email sre@example.com")).await;
    let mut invoked_by = Vec::new();
    let names = ["failover-lock", "failover-restore", "failover-reconcile"];
    let live = ["failover-lock:live", "failover-restore:live", "failover-reconcile:live"];
    for function in names.into_iter().chain(live) {
        let policy = match aws.try_aws(&["lambda", "get-policy", "--function-name", function]).await {
            Ok(policy) => policy["Policy"].as_str().expect("a policy is a text").to_owned(),
            Err(error) if error.contains("ResourceNotFoundException") => "{}".to_owned(),
            Err(error) => panic!("{error}"),
        };
        let policy: Value = serde_json::from_str(&policy).expect("a policy is JSON");
        // The emulator also returns those of its aliases for a function.
        let is_own = |statement: &&Value| {
            statement["Resource"].as_str().is_some_and(|arn| arn.ends_with(&format!(":function:{function}")))
        };
        for statement in policy["Statement"].as_array().unwrap_or(&Vec::new()).iter().filter(is_own) {
            let source = &statement["Condition"]["ArnLike"]["AWS:SourceArn"];
            invoked_by.push((function, statement["Principal"]["Service"].clone(), source.clone()));
        }
    }
    let topic = json!("arn:aws:sns:us-east-1:000000000000:failover-alarms");
    let schedule = json!("arn:aws:events:us-east-1:000000000000:rule/failover-reconcile");
    assert_eq!(
        invoked_by,
        [
            ("failover-lock:live", json!("sns.amazonaws.com"), topic),
            ("failover-reconcile:live", json!("events.amazonaws.com"), schedule)
        ]
    );
}

#[tokio::test]
async fn the_roles_suffice_when_permissions_are_enforced() {
    let aws = Emulator::own_ministack_enforcing_permissions().await;
    let check = aws.health_check(1).await;
    aws.deploy(&format!("--health-check {check} --email sre@example.com --set AlarmActionsEnabled=true"))
        .await;
    for (function, _) in HANDLERS {
        // The emulator takes every request about a health check for one about `*`.
        let policy = policy(&aws, function).await.to_string();
        let name = format!("arn:aws:route53:::healthcheck/{check}");
        put_policy(&aws, function, &policy.replace(&name, "*")).await;
    }
    let alarm = delivered(&[&message(&check, "ALARM", CHANGED_AT)]);
    let request = json!({ "healthCheckId": check, "force": true }).to_string();
    let locked = invoke(&aws, "lock", &alarm).await;
    assert!(locked.contains("\"locked\""), "{locked}");
    let restored = invoke(&aws, "restore", &request).await;
    assert!(restored.contains("\"restored\""), "{restored}");
    let reconciled = invoke(&aws, "reconcile", "{}").await;
    assert!(reconciled.contains("\"outcomes\""), "{reconciled}");
    for function in ["lock", "restore", "reconcile"] {
        let group = format!("/aws/lambda/failover-{function}");
        let log = aws.aws(&["logs", "filter-log-events", "--log-group-name", &group]).await.to_string();
        assert!(log.contains("\\\"done\\\"") && !log.contains("WARN"), "{function}: {log}");
    }

    // The permissions are enforced: without one of its actions, `lock` names the missing one.
    let without = policy(&aws, "Lock").await.to_string().replace("route53:UpdateHealthCheck", "route53:None");
    put_policy(&aws, "Lock", &without).await;
    let later = delivered(&[&message(&check, "ALARM", "2027-01-01T00:00:00.000+0000")]);
    let denied = invoke(&aws, "lock", &later).await;
    assert!(denied.contains("Grant the caller's role route53:UpdateHealthCheck"), "{denied}");
}

async fn put_policy(aws: &Emulator, function: &str, policy: &str) {
    let role = role(aws, function).await;
    let name = function.to_lowercase();
    let put = ["iam", "put-role-policy", "--role-name", &role, "--policy-name", &name];
    aws.aws(&[&put[..], &["--policy-document", policy]].concat()).await;
}

async fn invoke(aws: &Emulator, function: &str, payload: &str) -> String {
    let name = format!("failover-{function}:live");
    let invoke = ["lambda", "invoke", "--function-name", &name, "--payload", payload, "/dev/stdout"];
    aws.aws(&invoke).await.as_str().expect("the CLI prints two JSON texts").to_owned()
}
