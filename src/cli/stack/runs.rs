//! What a function needs to run and to tell what it did: its role's permissions, its log group, and where Lambda sends what it did
//! not handle.

use futures_util::future::join_all;

use super::Stack;
use super::alarms::TEMPLATE;
use crate::cli::function::{self, Function, LIVE};
use crate::cli::session::patience;
use crate::cli::text::quoted;
use crate::cli::{iam, logs};
use crate::failover_lock::health_check::HealthCheckId;
use crate::remote::arn::Arn;

/// The permissions that the template gives the role of a function whatever the parameters are: the statement, and its actions.
fn permissions(handler: &str) -> Vec<(&'static str, Vec<&'static str>)> {
    let is_role = |resource: &&str| {
        let name = resource.trim_start().split(':').next().and_then(|name| name.strip_suffix("Role"));
        name.is_some_and(|name| name.eq_ignore_ascii_case(handler)) && resource.contains("AWS::IAM::Role")
    };
    let mut found = Vec::new();
    let mut statement = None;
    for line in TEMPLATE.split("\n\n").find(is_role).unwrap_or_default().lines() {
        // What depends on a parameter is deeper.
        if let Some(item) = line.strip_prefix("              - ") {
            statement = item.strip_prefix("Sid: ");
        } else if let (Some(sid), Some(actions)) = (statement, line.strip_prefix("                Action: "))
        {
            found.push((sid, actions.trim_matches(['[', ']']).split(", ").collect()));
        }
    }
    found
}

impl Stack<'_> {
    /// Finds what these functions may not do, or cannot tell.
    pub(super) async fn runs(&mut self, functions: &[Function], id: &HealthCheckId, notified: Option<&str>) {
        for function in functions {
            self.role(function, id, notified).await;
            self.log(function).await;
        }
    }

    async fn role(&mut self, function: &Function, id: &HealthCheckId, notified: Option<&str>) {
        const NAME: &str = "role";
        let Function { name, role, handler, .. } = function;
        let Some(Arn { partition, region, account, .. }) = Arn::parse(self.arn) else { return };
        let resource = |statement: &str| match statement {
            "HealthCheck" => Some(format!("arn:{partition}:route53:::healthcheck/{id}")),
            "Alarms" => Some("*".to_owned()),
            "MuteRules" => Some(format!("arn:{partition}:cloudwatch:{region}:{account}:alarm-mute-rule:any")),
            "Log" => Some(format!(
                "arn:{partition}:logs:{region}:{account}:log-group:/aws/lambda/{name}:log-stream:any"
            )),
            "FailureDestination" => notified.map(str::to_owned),
            _ => None,
        };
        let needed = permissions(handler);
        let needed = needed.iter().filter_map(|(sid, actions)| Some((actions, resource(sid)?)));
        let judged = needed.map(async |(actions, resource)| {
            iam::denied(&self.aws, role, actions, &resource, patience()).await
        });
        let mut denied = Vec::new();
        for judged in join_all(judged).await {
            match judged {
                Ok(Some(found)) => denied.extend(found),
                Ok(None) => {
                    let said = format!("the role of {name}, {role}, does not exist: it cannot run");
                    return self.findings.wrong(NAME, said, self.anew());
                }
                Err(failure) => return self.findings.unknown(NAME, &failure),
            }
        }
        if denied.is_empty() {
            self.findings.ok(NAME, format!("that of {name} allows what it needs"));
        } else {
            let said = format!("that of {name}, {role}, does not allow {}", denied.join(", "));
            self.findings.wrong(NAME, said, self.anew());
        }
    }

    /// Metrics are lines of the log: without it, no alarm on what a function did goes off.
    async fn log(&mut self, Function { name, .. }: &Function) {
        const NAME: &str = "log";
        let group = format!("/aws/lambda/{name}");
        match logs::exists(&self.aws, &group, patience()).await {
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

    /// Checks where Lambda sends an alarm that `lock` has not handled after all its tries, if it is not one of `topics`.
    pub(super) async fn failures(&mut self, lock: &Function, topic: Option<&str>) {
        const NAME: &str = "failures";
        /// As the template has them: two more tries, within six hours.
        const RETRIES: i32 = 2;
        const SECONDS: i32 = 6 * 60 * 60;
        let qualifier = if lock.is_live() { LIVE } else { function::LATEST };
        let of = format!("{}:{qualifier}", lock.name);
        let found = match function::on_failure(&self.aws, &lock.name, qualifier, patience()).await {
            Ok(found) => found.unwrap_or_default(),
            Err(failure) => return self.findings.unknown(NAME, &failure),
        };
        // Lambda's own defaults are the template's.
        let tries =
            found.retries.unwrap_or(RETRIES) >= RETRIES && found.seconds.unwrap_or(SECONDS) >= SECONDS;
        let said = match &found.destination {
            None => format!("{of} sends an alarm that it has not handled nowhere: no one is told its error"),
            Some(_) if !tries => format!("{of} is not tried twice more, for six hours, as by infra/deploy"),
            Some(destination) => {
                return self
                    .findings
                    .ok(NAME, format!("{of} sends an alarm that it has not handled to {destination}"));
            }
        };
        let Some(topic) = found.destination.as_deref().or(topic) else {
            return self.findings.wrong(NAME, said, self.anew());
        };
        let destination = quoted(&format!("{{\"OnFailure\":{{\"Destination\":\"{topic}\"}}}}"));
        self.findings.fixable(
            NAME,
            said,
            format!(
                "aws lambda put-function-event-invoke-config --region {} --function-name {} --qualifier {} --maximum-retry-attempts \
                 {RETRIES} --maximum-event-age-in-seconds {SECONDS} --destination-config {destination}",
                self.region,
                lock.name,
                quoted(qualifier)
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::permissions;

    #[test]
    fn the_permissions_of_each_function_are_those_that_its_role_always_has() {
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
