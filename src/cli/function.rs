//! Lambda in failoverctl's terms: the only place that knows its SDK.

mod settings;

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::operation::get_function_configuration::GetFunctionConfigurationOutput;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{
    EnvironmentResponse, FilterCriteria, FunctionConfiguration, FunctionResponseType, State,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

pub(super) use self::settings::{on_failure, other_versions, url};
use super::error::{Error, REFUSED};
use super::findings::Findings;
use super::pattern;
use super::policy::{self, Lets, Request};
use super::session::if_there;
use super::text::plain;
use crate::remote::arn::Arn;
use crate::remote::aws::{Call, Failure, Kind, pages, send};
use crate::remote::deadline::Deadline;

/// The alias by which everything invokes the functions that `infra/deploy` has deployed.
pub(super) const LIVE: &str = "live";
/// What a function is apart from its versions.
pub(super) const LATEST: &str = "$LATEST";

/// The properties of a function that the commands need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Function {
    pub name: String,
    /// Its ARN.
    pub arn: String,
    /// The name or ARN by which it was read, with its version or alias.
    pub by: String,
    /// The version that it runs when it is invoked by that, or `$LATEST`.
    pub version: String,
    pub handler: String,
    /// The ARN of the role that it has.
    pub role: String,
    /// The log group that it writes to.
    pub log_group: String,
    /// How many executions are reserved for it.
    pub concurrency: Option<i32>,
    pub runtime: String,
    pub variables: HashMap<String, String>,
    /// The hash of its code.
    pub code: String,
    /// When it was deployed last.
    pub deployed: Option<DateTime<Utc>>,
    /// For how many seconds it may run.
    pub timeout: Option<i32>,
    /// Why it cannot run, if it cannot.
    pub stopped: Option<Stopped>,
    /// The statements of its resource policy, which allow callers to invoke it.
    pub policy: Vec<Value>,
}

/// The service by which CloudWatch's alarms invoke functions.
pub(super) const LAMBDA_ALARMS: &str = "lambda.alarms.cloudwatch.amazonaws.com";
/// The service by which topics invoke functions.
pub(super) const SNS: &str = "sns.amazonaws.com";

/// The ARN of an alarm that invokes the function of this ARN.
pub(super) fn alarm_arn(function: &str, alarm: &str) -> String {
    let Some(Arn { partition, region, account, .. }) = Arn::parse(function) else { return alarm.to_owned() };
    format!("arn:{partition}:cloudwatch:{region}:{account}:alarm:{alarm}")
}

/// Why a function cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Its reserved concurrency is 0.
    NoConcurrency,
    /// Lambda could not set it up.
    Failed,
}

impl Stopped {
    /// Adds this fault of a function, with what makes it run again: a command that `--fix` may run if the function is ours.
    pub fn is_found(
        self,
        link: &'static str,
        function: &str,
        region: &str,
        is_ours: bool,
        findings: &mut Findings,
    ) {
        let found = format!("{function} cannot run: {self}");
        let of = format!("--region {region} --function-name {function}");
        match self {
            Self::NoConcurrency => {
                findings.repair(is_ours, link, found, format!("aws lambda delete-function-concurrency {of}"));
            }
            Self::Failed => {
                let look = format!("aws lambda get-function-configuration {of} --query StateReason");
                findings.wrong(link, found, format!("correct what this names: {look}"));
            }
        }
    }
}

impl Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoConcurrency => "its reserved concurrency is 0",
            Self::Failed => "its state is Failed",
        })
    }
}

/// The variables of a function; `None` if it does not exist.
pub(super) async fn variables(
    aws: &SdkConfig,
    function: &str,
    deadline: Deadline,
) -> Result<Option<HashMap<String, String>>, Failure> {
    let found = configuration(aws, function, deadline).await?;
    Ok(found.map(|found| found.environment.and_then(|all| all.variables).unwrap_or_default()))
}

/// A function as far as a list shows it.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub name: String,
    /// The number of its version, or `$LATEST`.
    pub version: String,
    /// The key of what was deployed; empty for a function of others.
    pub artifact: String,
    pub deployed: Option<DateTime<Utc>>,
}

/// The functions of the Region.
pub(super) async fn list(aws: &SdkConfig, deadline: Deadline) -> Result<Vec<Listed>, Failure> {
    let (client, call) = (Client::new(aws), Call::new("lambda:ListFunctions", "the functions"));
    let all: Vec<FunctionConfiguration> = pages(deadline, async |time, marker| {
        let page = send(call, time, client.list_functions().set_marker(marker).send()).await?;
        Ok((page.functions.unwrap_or_default(), page.next_marker))
    })
    .await?;
    let listed = all
        .into_iter()
        .map(|one| Listed::new(one.function_name, one.version, one.environment, one.last_modified));
    Ok(listed.collect())
}

/// The function, version or alias of this name; `None` if it does not exist.
pub(super) async fn listed(
    aws: &SdkConfig,
    name: &str,
    deadline: Deadline,
) -> Result<Option<Listed>, Failure> {
    let found = configuration(aws, name, deadline).await?;
    Ok(found.map(|one| Listed::new(one.function_name, one.version, one.environment, one.last_modified)))
}

async fn configuration(
    aws: &SdkConfig,
    function: &str,
    deadline: Deadline,
) -> Result<Option<GetFunctionConfigurationOutput>, Failure> {
    let client = Client::new(aws);
    let found = deadline
        .persist(async |time| {
            let request = client.get_function_configuration().function_name(function);
            send(Call::new("lambda:GetFunctionConfiguration", "the function"), time, request.send()).await
        })
        .await;
    if_there(found)
}

// === impl Listed ===

impl Listed {
    fn new(
        name: Option<String>,
        version: Option<String>,
        environment: Option<EnvironmentResponse>,
        deployed: Option<String>,
    ) -> Self {
        Self {
            name: name.unwrap_or_default(),
            version: version.unwrap_or_default(),
            artifact: environment.and_then(|all| all.variables?.remove("ARTIFACT")).unwrap_or_default(),
            deployed: deployed.and_then(|at| at.parse().ok()),
        }
    }
}

// === impl Function ===

impl Function {
    /// The alias `live` of the function of this name or ARN, or the function itself where it has none; `None` if it does not
    /// exist.
    pub async fn live(aws: &SdkConfig, name: &str, deadline: Deadline) -> Result<Option<Self>, Failure> {
        match Self::of(aws, &format!("{name}:{LIVE}"), deadline).await? {
            None => Self::of(aws, name, deadline).await,
            live => Ok(live),
        }
    }

    /// The function of this ARN, in the Region that `aws` is in; `None` if it does not exist.
    pub async fn of(aws: &SdkConfig, arn: &str, deadline: Deadline) -> Result<Option<Self>, Failure> {
        let client = Client::new(aws);
        let Some(found) = configuration(aws, arn, deadline).await? else { return Ok(None) };
        let policy = deadline
            .persist(async |time| {
                let request = client.get_policy().function_name(arn);
                send(Call::new("lambda:GetPolicy", "the function"), time, request.send()).await
            })
            .await;
        let policy = if_there(policy)?.and_then(|output| output.policy).unwrap_or_default();
        let concurrency = deadline
            .persist(async |time| {
                let request = client.get_function_concurrency().function_name(unqualified(arn));
                send(Call::new("lambda:GetFunctionConcurrency", "the function"), time, request.send()).await
            })
            .await?;
        let stopped = if concurrency.reserved_concurrent_executions == Some(0) {
            Some(Stopped::NoConcurrency)
        } else {
            found.state().filter(|state| **state == State::Failed).map(|_| Stopped::Failed)
        };
        if let Some(error) = found.environment().and_then(|environment| environment.error()) {
            let why = error.message().or(error.error_code()).unwrap_or("an error");
            let call = Call::new("lambda:GetFunctionConfiguration", "the function");
            return Err(Failure::unclear(call, format!("its variables cannot be read: {why}")));
        }
        Ok(Some(Self {
            stopped,
            timeout: found.timeout(),
            name: found.function_name().unwrap_or_default().to_owned(),
            arn: found.function_arn().unwrap_or_default().to_owned(),
            by: arn.to_owned(),
            version: found.version().unwrap_or(LATEST).to_owned(),
            code: found.code_sha256().unwrap_or_default().to_owned(),
            deployed: found.last_modified().and_then(|at| at.parse().ok()),
            handler: found.handler().unwrap_or_default().to_owned(),
            role: found.role().unwrap_or_default().to_owned(),
            log_group: found.logging_config().and_then(|logging| logging.log_group()).map_or_else(
                || format!("/aws/lambda/{}", found.function_name().unwrap_or_default()),
                str::to_owned,
            ),
            concurrency: concurrency.reserved_concurrent_executions,
            runtime: found.runtime().map(|runtime| runtime.as_str().to_owned()).unwrap_or_default(),
            variables: found.environment.and_then(|found| found.variables).unwrap_or_default(),
            policy: policy::statements(&policy),
        }))
    }

    /// Whether it was read by its alias `live`.
    pub fn is_live(&self) -> bool {
        name(&self.by).1 == Some(LIVE)
    }

    /// Whether its policy allows this service to invoke it for this source.
    pub fn lets(&self, service: &str, source: &str) -> Lets {
        // A function and each of its aliases have statements of their own.
        let resource = Arn::parse(&self.by).is_some().then_some(self.by.as_str());
        policy::lets(&self.policy, Request { service, action: "lambda:InvokeFunction", resource, source })
    }

    /// For how many seconds it may run, and how many the template gives it, if those are more.
    fn short_time(&self) -> Option<(i32, i32)> {
        let deployed = match self.handler.as_str() {
            "reconcile" => 50,
            "watch" => 120,
            _ => 60,
        };
        self.timeout.filter(|has| *has < deployed).map(|has| (has, deployed))
    }

    /// Whether it may run for less time than the template gives it.
    pub fn is_short(&self) -> bool {
        self.short_time().is_some()
    }

    /// Adds that fault, with the command that repairs it, which `--fix` may run if the function is ours.
    pub fn short_is_found(&self, link: &'static str, region: &str, is_ours: bool, findings: &mut Findings) {
        let Some((has, deployed)) = self.short_time() else { return };
        let name = &self.name;
        let found = format!("{name} may run for {has} s, and has {deployed} s by infra/deploy");
        let command = format!(
            "aws lambda update-function-configuration --region {region} --function-name {name} --timeout {deployed}"
        );
        if self.version == LATEST {
            return findings.repair(is_ours, link, found, command);
        }
        // A version stays as it was published.
        let remedy = format!(
            "{command}; then publish that: infra/deploy with --set Deployment=VALUE, with a VALUE of your own"
        );
        findings.wrong(link, found, remedy);
    }
}

/// The versions of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Versions {
    /// The number of the newest; `None` if there is none.
    pub newest: Option<u64>,
    /// Whether the function's code or configuration is another than that of the newest.
    pub has_changed: bool,
}

/// The versions of the function of this name.
pub(super) async fn versions(
    aws: &SdkConfig,
    function: &str,
    deadline: Deadline,
) -> Result<Versions, Failure> {
    let client = Client::new(aws);
    let all = pages(deadline, async |time, marker| {
        let request = client.list_versions_by_function().function_name(function).set_marker(marker);
        let page =
            send(Call::new("lambda:ListVersionsByFunction", "the function"), time, request.send()).await?;
        Ok((page.versions.unwrap_or_default(), page.next_marker))
    })
    .await?;
    let number = |one: &FunctionConfiguration| one.version().and_then(|version| version.parse::<u64>().ok());
    let newest = all.iter().filter(|one| number(one).is_some()).max_by_key(|one| number(one));
    let itself = all.iter().find(|one| number(one).is_none());
    let what = |one: &FunctionConfiguration| {
        let variables = one.environment().and_then(EnvironmentResponse::variables).cloned();
        (
            one.code_sha256().map(str::to_owned),
            one.handler().map(str::to_owned),
            one.timeout(),
            one.memory_size(),
            variables,
        )
    };
    Ok(Versions { newest: newest.and_then(number), has_changed: newest.map(what) != itself.map(what) })
}

/// How Lambda polls a queue for a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub id: String,
    /// The function's ARN.
    pub function: String,
    /// `Enabled`, `Disabled`, …
    pub state: String,
    /// The patterns of the messages that reach it, if not all.
    pub patterns: Vec<String>,
    /// Whether the function names the messages that failed, so that the queue delivers only those again.
    pub reports_failures: bool,
}

impl Mapping {
    /// Whether a message with this body passes; `None` if that is not known. Lambda deletes the others.
    pub fn passes(&self, body: &Value) -> Option<bool> {
        if self.patterns.is_empty() {
            return Some(true);
        }
        let message = json!({
            "messageId": null, "receiptHandle": null, "body": body, "attributes": null, "messageAttributes": null,
            "md5OfBody": null, "eventSource": "aws:sqs", "eventSourceARN": null, "awsRegion": null,
        });
        let of = |text: &String| serde_json::from_str(text).unwrap_or_default();
        pattern::any(self.patterns.iter().map(|text| pattern::passes(&of(text), &message)))
    }

    /// Whether messages reach the function.
    pub fn is_on(&self) -> bool {
        matches!(self.state.as_str(), "Enabled" | "Enabling" | "Updating" | "Creating")
    }
}

/// How Lambda polls this queue.
pub(super) async fn mappings(
    aws: &SdkConfig,
    queue: &str,
    deadline: Deadline,
) -> Result<Vec<Mapping>, Failure> {
    let client = Client::new(aws);
    pages(deadline, async |time, marker| {
        let request = client.list_event_source_mappings().event_source_arn(queue).set_marker(marker);
        let call = Call::new("lambda:ListEventSourceMappings", "the queue");
        let page = send(call, time, request.send()).await?;
        let mappings = page.event_source_mappings().iter().map(|one| Mapping {
            id: one.uuid().unwrap_or_default().to_owned(),
            function: one.function_arn().unwrap_or_default().to_owned(),
            state: one.state().unwrap_or_default().to_owned(),
            patterns: one
                .filter_criteria()
                .map(FilterCriteria::filters)
                .unwrap_or_default()
                .iter()
                .filter_map(|filter| filter.pattern().map(str::to_owned))
                .collect(),
            reports_failures: one
                .function_response_types()
                .contains(&FunctionResponseType::ReportBatchItemFailures),
        });
        Ok((mappings.collect(), page.next_marker))
    })
    .await
}

/// Invokes a function once, and waits for at most `time` until it has answered.
pub(super) async fn invoke(
    aws: &SdkConfig,
    function: &str,
    request: &Value,
    time: Duration,
) -> Result<Value, Error> {
    let request = Client::new(aws).invoke().function_name(function).payload(Blob::new(request.to_string()));
    let sent = send(Call::new("lambda:InvokeFunction", "the function"), time, request.send()).await;
    if let Err(failure) = &sent
        && failure.kind() == Kind::Unclear
    {
        let said = format!(
            "{failure}. It may run all the same, and may have done it: look before you repeat the command"
        );
        let (function, is_refusal) = (function.to_owned(), false);
        return Err(Error::Function { function, said, is_refusal, may_be_done: true });
    }
    let Some(output) = if_there(sent)? else {
        let region = aws.region().map_or("no Region", AsRef::as_ref);
        let said = format!(
            "there is no such function in {region}: give --region or --function. Nothing was changed; to restore a health check \
             without its function: --direct"
        );
        let (function, is_refusal) = (function.to_owned(), false);
        return Err(Error::Function { function, said, is_refusal, may_be_done: false });
    };
    let answer = output.payload().map(|payload| serde_json::from_slice(payload.as_ref()).unwrap_or_default());
    let answer: Value = answer.unwrap_or_default();
    match output.function_error() {
        None => Ok(answer),
        Some(kind) => {
            let said = plain(answer["errorMessage"].as_str().unwrap_or(kind));
            let is_refusal = answer["errorType"] == REFUSED;
            let may_be_done = !is_refusal;
            Err(Error::Function { function: function.to_owned(), said, is_refusal, may_be_done })
        }
    }
}

/// A function's name by its ARN, and the version or alias that the ARN ends with, if any.
pub(super) fn name(arn: &str) -> (&str, Option<&str>) {
    let resource = Arn::parse(arn).and_then(|arn| arn.resource.strip_prefix("function:")).unwrap_or(arn);
    resource.split_once(':').map_or((resource, None), |(name, qualifier)| (name, Some(qualifier)))
}

/// A function's ARN without version or alias.
pub(super) fn unqualified(arn: &str) -> &str {
    name(arn).1.and_then(|qualifier| arn.strip_suffix(qualifier)?.strip_suffix(':')).unwrap_or(arn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_a_function_with_or_without_a_qualifier() {
        let arn = "arn:aws:lambda:eu-west-1:123456789012:function:lock";
        let qualified = format!("{arn}:live");
        assert_eq!((name(arn), unqualified(arn)), (("lock", None), arn));
        assert_eq!((name(&qualified), unqualified(&qualified)), (("lock", Some("live")), arn));
    }
}
