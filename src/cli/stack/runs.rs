//! What a function needs to run and to tell what it did: its role's permissions, its log group, and where Lambda sends what it did
//! not handle.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::Stack;
use crate::cli::function::{self, Function, LIVE};
use crate::cli::iam::{self, Denied};
use crate::cli::logs;
use crate::cli::policy::{self, Lets, Request};
use crate::cli::session::patience;
use crate::cli::text::quoted;
use crate::remote::arn::Arn;

/// Lambda's defaults: how often it tries again, and for how many seconds, see [the guide](https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-configuring.html).
const RETRIES: i32 = 2;
const SECONDS: i32 = 6 * 60 * 60;

/// What Lambda does with an event of another service that a function has not handled, as the template has it.
pub(in crate::cli) struct Tries {
    /// How often it tries again.
    pub again: i32,
    /// For how many seconds.
    pub seconds: i32,
    /// The event.
    pub what: &'static str,
}

/// The permissions that a template gives the role of a function whatever the parameters are: the statement, and its actions.
fn permissions(template: &'static str, handler: &str) -> Vec<(&'static str, Vec<&'static str>)> {
    let is_role = |resource: &&str| {
        let name = resource.trim_start().split(':').next().and_then(|name| name.strip_suffix("Role"));
        name.is_some_and(|name| name.eq_ignore_ascii_case(handler)) && resource.contains("AWS::IAM::Role")
    };
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut statement = None;
    let mut in_list = false;
    for line in template.split("\n\n").find(is_role).unwrap_or_default().lines() {
        let action = line.strip_prefix("                  - ").filter(|_| in_list);
        if let (Some(action), Some((_, actions))) = (action, found.last_mut()) {
            actions.push(action);
            continue;
        }
        in_list = false;
        // What depends on a parameter is deeper.
        if let Some(item) = line.strip_prefix("              - ") {
            statement = item.strip_prefix("Sid: ");
        } else if let (Some(sid), Some(actions)) = (statement, line.strip_prefix("                Action:")) {
            in_list = actions.is_empty();
            let actions = actions.trim_matches([' ', '[', ']']).split(", ");
            found.push((sid, actions.filter(|action| !action.is_empty()).collect()));
        }
    }
    found
}

impl Stack<'_> {
    /// Finds what a function may not do, or cannot tell. `resource` is that of a statement of its role; `None` if that is not known.
    /// `more` are actions, each with its resource, that it needs beside.
    pub async fn runs(
        &mut self,
        function: &Function,
        resource: &dyn Fn(&str) -> Option<String>,
        more: &[(&'static str, String)],
    ) {
        self.role(function, resource, more).await;
        self.log(function).await;
    }

    async fn role(
        &mut self,
        function: &Function,
        resource: &dyn Fn(&str) -> Option<String>,
        more: &[(&'static str, String)],
    ) {
        const NAME: &str = "role";
        let Function { name, role, handler, .. } = function;
        let Some(Arn { partition, region, account, .. }) = Arn::parse(self.arn) else { return };
        let resource = |statement: &str| match statement {
            "Log" => {
                let group = &function.log_group;
                Some(format!("arn:{partition}:logs:{region}:{account}:log-group:{group}:log-stream:any"))
            }
            statement => resource(statement),
        };
        let needed = permissions(self.template.text, handler);
        let needed = needed.into_iter().filter_map(|(sid, actions)| Some((actions, resource(sid)?)));
        let more = more.iter().map(|(action, resource)| (vec![*action], resource.clone()));
        // Each service is called where it is.
        let mut asked: BTreeMap<(String, &str), Vec<&str>> = BTreeMap::new();
        for (actions, resource) in needed.chain(more) {
            for action in actions {
                let service = action.split(':').next().unwrap_or_default();
                asked.entry((resource.clone(), service)).or_default().push(action);
            }
        }
        let judged = asked.iter().map(async |((resource, service), actions)| {
            let called_in = match *service {
                "route53" => "us-east-1",
                "globalaccelerator" => "us-west-2",
                _ => region,
            };
            iam::denied(&self.aws, role, (actions, resource, called_in), patience()).await
        });
        let (mut denied, mut unknown, mut is_seen) = (Vec::new(), Vec::new(), true);
        for judged in join_all(judged).await {
            match judged {
                Ok(Some(found)) => {
                    for Denied { action, unknown: keys } in found {
                        if keys.is_empty() {
                            denied.push(action);
                        } else {
                            unknown.push(format!("{action} (by {})", keys.join(", ")));
                        }
                    }
                }
                Ok(None) => {
                    let said = format!("the role of {name}, {role}, does not exist: it cannot run");
                    return self.findings.wrong(NAME, said, self.anew());
                }
                // What the others say is not hidden by that.
                Err(failure) => {
                    is_seen = false;
                    self.findings.unknown(NAME, &failure);
                }
            }
        }
        if !unknown.is_empty() {
            let said = format!("whether that of {name} allows {} depends on conditions", unknown.join(", "));
            self.findings.unknown(NAME, &said);
        }
        match iam::trust(&self.aws, role, patience()).await {
            Ok(statements) => {
                let assumes = Request {
                    service: "lambda.amazonaws.com",
                    action: "sts:AssumeRole",
                    resource: None,
                    source: &function.arn,
                };
                match policy::lets(&statements.unwrap_or_default(), assumes) {
                    Lets::Yes => {}
                    Lets::No | Lets::Denied(_) => {
                        let said =
                            format!("that of {name}, {role}, does not let Lambda assume it: it cannot run");
                        return self.findings.wrong(NAME, said, self.anew());
                    }
                    Lets::Perhaps => {
                        let said = format!("whether Lambda may assume that of {name} depends on conditions");
                        self.findings.unknown(NAME, &said);
                    }
                }
            }
            Err(failure) => self.findings.unknown(NAME, &failure),
        }
        if !denied.is_empty() {
            let said = format!("that of {name}, {role}, does not allow {}", denied.join(", "));
            self.findings.wrong(NAME, said, self.anew());
        } else if unknown.is_empty() && is_seen {
            self.findings.ok(NAME, format!("that of {name} allows what it needs"));
        }
    }

    /// Metrics are lines of the log: without it, no alarm on what a function did goes off.
    async fn log(&mut self, Function { name, log_group: group, .. }: &Function) {
        const NAME: &str = "log";
        match logs::exists(&self.aws, group, patience()).await {
            Ok(true) => {}
            Ok(false) => self.findings.fixable(
                NAME,
                format!("{group} does not exist: what {name} does is in no log and no metric, and no alarm tells it"),
                format!(
                    "aws logs create-log-group --region {region} --log-group-name {group} && aws logs put-retention-policy --region \
                     {region} --log-group-name {group} --retention-in-days 365",
                    region = self.region
                ),
            ),
            Err(failure) => self.findings.unknown(NAME, &failure),
        }
    }

    /// Checks where Lambda sends an event of another service that a function has not handled after all its tries: it has to be
    /// `to`, if that is known.
    pub async fn failures(&mut self, function: &Function, tries: &Tries, to: Option<&str>) {
        const NAME: &str = "failures";
        let Tries { again, seconds, what } = *tries;
        let qualifier = if function.is_live() { LIVE } else { function::LATEST };
        let of = format!("{}:{qualifier}", function.name);
        let found = match function::on_failure(&self.aws, &function.name, qualifier, patience()).await {
            Ok(found) => found.unwrap_or_default(),
            Err(failure) => return self.findings.unknown(NAME, &failure),
        };
        let is_as_deployed =
            found.retries.unwrap_or(RETRIES) >= again && found.seconds.unwrap_or(SECONDS) >= seconds;
        let said = match &found.destination {
            None => format!("{of} sends {what} that it has not handled nowhere: no one is told its error"),
            Some(_) if !is_as_deployed => {
                format!("{of} is not tried {again} times more within {seconds} s, as by its template")
            }
            Some(destination) if to.is_none_or(|to| to == destination) => {
                let said = format!("{of} sends {what} that it has not handled to {destination}");
                return self.findings.ok(NAME, said);
            }
            Some(destination) => format!(
                "{of} sends {what} that it has not handled to {destination}, and not to {}",
                to.unwrap_or_default()
            ),
        };
        let Some(to) = to else {
            return self.findings.wrong(NAME, said, self.anew());
        };
        let destination = quoted(&format!("{{\"OnFailure\":{{\"Destination\":\"{to}\"}}}}"));
        self.findings.fixable(
            NAME,
            said,
            format!(
                "aws lambda put-function-event-invoke-config --region {} --function-name {} --qualifier {} --maximum-retry-attempts \
                 {again} --maximum-event-age-in-seconds {seconds} --destination-config {destination}",
                self.region,
                function.name,
                quoted(qualifier)
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::permissions as of_template;

    #[test]
    fn the_permissions_of_each_function_are_those_that_its_role_always_has() {
        let permissions = |handler| of_template(include_str!("../../../infra/failover-lock.yaml"), handler);
        let sids = |handler| permissions(handler).into_iter().map(|(sid, _)| sid).collect::<Vec<_>>();
        assert_eq!(sids("lock"), ["HealthCheck", "Alarms", "Log", "FailureDestination"]);
        assert_eq!(sids("restore"), ["HealthCheck", "Log"]);
        assert_eq!(sids("reconcile"), ["HealthCheck", "Alarms", "MuteRules", "Log"]);
        for handler in ["lock", "restore", "reconcile"] {
            let (_, actions) = permissions(handler).remove(0);
            assert!(actions.contains(&"route53:UpdateHealthCheck"), "{handler}: {actions:?}");
        }
    }
}
