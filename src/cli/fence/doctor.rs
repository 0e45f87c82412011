//! `failoverctl fence doctor`: the whole way from a report to the accelerator, with the repair of each fault.

mod needs;
mod sites;
mod ways;

use std::collections::BTreeMap;

use aws_config::{Region, SdkConfig};
use clap::Args;

use self::needs::{needs, of_accelerator};
use super::region_of;
use crate::cli::dynamodb;
use crate::cli::error::{Ended, Error};
use crate::cli::findings::Findings;
use crate::cli::function::Function;
use crate::cli::session::{Session, patience};
use crate::cli::stack::{Parameters, Stack, Template};
use crate::cli::text::plain;
use crate::program::variables::InvalidConfig;
use crate::site_fence::accelerator::Accelerator;
use crate::site_fence::config::Config;
use crate::site_fence::view::View;

const DEPLOY: &str = "deploy infra/site-fence.yaml again: docs/fence.md#deploy; if that changes nothing, remove the stack first";
const TEMPLATE: Template = Template {
    text: include_str!("../../../infra/site-fence.yaml"),
    section: "site",
    expected: &["fenced", "out", "paused"],
    redeploy: |_| DEPLOY.to_owned(),
    anew: |stack| format!("remove {stack} and deploy it again: docs/fence.md#remove"),
    notify: "NotificationTopicArn of infra/site-fence.yaml",
};

/// What no link is about.
const NOT_LOOKED_AT: &str = "Prometheus, Alertmanager and Infinispan of the sites, the passwords, the functions' networks, keys, the policy of the queue for what is not delivered, the accelerator's own state, the metrics of the \
                             queue's and the watchdogs' alarms: docs/fence.md#verify-the-installation tries the way";

/// The variables that both functions have from the stack.
const VARIABLES: [&str; 11] = [
    "ACCELERATOR_SITE_ENDPOINTS",
    "ARTIFACT",
    "DRY_RUN",
    "FENCE_TABLE",
    "INFINISPAN_CA_CERT",
    "INFINISPAN_CA_CERT_SECRET",
    "INFINISPAN_INSECURE_TLS",
    "INFINISPAN_SITE_ENDPOINTS",
    "INFINISPAN_USER",
    "INFINISPAN_USER_SECRET",
    "SECRETS_REGION",
];

/// Check the whole way from a report to the accelerator, and show each fault with its repair.
#[derive(Debug, Args)]
#[command(
    after_help = "ok: well. look: worth a look. WRONG: repair it, by what follows the arrow. unseen: could not \
    be seen from here, or is not permitted.\n\nExample:\n  failoverctl fence doctor a1234567890abcdef.awsglobalaccelerator.com"
)]
pub(super) struct Arguments {
    /// The accelerator's DNS name or ARN.
    accelerator: String,
    /// The function that fences, by its name or ARN.
    #[arg(long, value_name = "NAME", default_value = "site-fence")]
    function: String,
}

pub(super) async fn run(
    session: &Session,
    region: Option<Region>,
    arguments: Arguments,
) -> Result<Ended, Error> {
    let Arguments { accelerator: name, function } = arguments;
    let aws = region_of(session, region, &function);
    let mut findings = Findings::default();
    let fence = match Function::of(&aws, &function, patience()).await {
        Ok(Some(fence)) => Some(fence),
        Ok(None) => {
            let region = aws.region().map(Region::as_ref).unwrap_or_default();
            findings.wrong(
                "function",
                format!("{} does not exist in {region}", plain(&function)),
                "name it with --function, and its Region with --region; or deploy it: docs/fence.md#deploy"
                    .to_owned(),
            );
            None
        }
        Err(failure) => {
            findings.unknown("function", &failure);
            None
        }
    };
    let config = fence.as_ref().map(|fence| configured(fence, &aws));
    let sites = config.as_ref().and_then(|config| config.as_ref().ok()).map(|config| config.sites.clone());
    let view = View::new(&session.aws, sites.unwrap_or_default());
    let Some(accelerator) = view.accelerators.named(&name, patience()).await? else {
        return Err(Error::NoAccelerator(Some(name)));
    };
    let known = config.as_ref().and_then(|config| config.as_ref().ok());
    let sites = sites::look(&view, &accelerator, known, &mut findings).await;
    if let (Some(fence), Some(config)) = (&fence, &config) {
        let Some(stack) = fence.name.strip_suffix("-fence") else {
            let said =
                format!("{} was not deployed by infra/site-fence.yaml: it was not looked at", fence.name);
            findings.warn("deployed", said);
            return findings.show(&session.screen).await;
        };
        let (arn, region) = (fence.arn.as_str(), aws.region().map(Region::as_ref).unwrap_or_default());
        let stack = Stack {
            template: &TEMPLATE,
            name: stack,
            prefix: stack,
            arn,
            region,
            aws: aws.clone(),
            findings: &mut findings,
        };
        let mut doctor = Doctor { stack, accelerator: &accelerator, fence, sites };
        Box::pin(doctor.walk(config.as_ref().map_err(ToString::to_string))).await;
    }
    findings.beyond(NOT_LOOKED_AT);
    findings.show(&session.screen).await
}

/// The function's configuration, as it reads it.
fn configured(fence: &Function, aws: &SdkConfig) -> Result<Config, InvalidConfig> {
    let region = aws.region().map(ToString::to_string);
    Config::read(&|name| match name {
        "AWS_REGION" => region.clone(),
        name => fence.variables.get(name).cloned(),
    })
}

/// What a doctor looks at.
struct Doctor<'a> {
    stack: Stack<'a>,
    accelerator: &'a Accelerator,
    fence: &'a Function,
    /// The names of the sites that were seen.
    sites: Vec<String>,
}

impl Doctor<'_> {
    async fn walk(&mut self, config: Result<&Config, String>) {
        let config = match config {
            Ok(config) => Some(config),
            Err(invalid) => {
                let said = format!("{}: its variables do not let it start: {invalid}", self.fence.name);
                self.stack.findings.wrong("function", said, DEPLOY.to_owned());
                None
            }
        };
        self.function(config).await;
        if let Some(config) = config {
            self.ways(config).await;
            self.table(config).await;
        }
        self.rejoin(config).await;
        self.alarms(config).await;
    }

    async fn function(&mut self, config: Option<&Config>) {
        const NAME: &str = "function";
        let Self { stack, fence, .. } = self;
        let name = &fence.name;
        let mut is_well = config.is_some();
        if fence.handler != "fence" {
            is_well = false;
            let said = format!("{name} has the handler {}, and not fence", fence.handler);
            stack.findings.wrong(NAME, said, DEPLOY.to_owned());
        }
        let has_table = fence.variables.contains_key("FENCE_TABLE");
        // Without a table it is this that lets one report be handled at a time.
        let (reserved, is_enough) = match (has_table, fence.concurrency) {
            (false, reserved) => (1, reserved == Some(1)),
            (true, reserved) => (10, reserved != Some(0)),
        };
        if is_enough && let Some(stopped) = fence.stopped {
            is_well = false;
            stopped.is_found(NAME, name, stack.region, false, stack.findings);
        } else if !is_enough {
            is_well = false;
            let has = fence.concurrency.map_or_else(|| "no".to_owned(), |reserved| reserved.to_string());
            let why =
                if has_table { "it cannot run" } else { "without a table two reports take out both sites" };
            stack.findings.wrong(
                NAME,
                format!("{name} has {has} reserved executions, and {reserved} by its template: {why}"),
                format!(
                    "aws lambda put-function-concurrency --region {} --function-name {name} --reserved-concurrent-executions {reserved}",
                    stack.region
                ),
            );
        }
        is_well &= !fence.is_short();
        fence.short_is_found(NAME, stack.region, false, stack.findings);
        if config.is_some_and(|config| config.dry_run) {
            is_well = false;
            let said = format!("{name}: DRY_RUN is true: it decides and changes nothing");
            stack.findings.wrong(
                NAME,
                said,
                "deploy the stack again with DryRun=false: docs/fence.md#deploy".to_owned(),
            );
        }
        if is_well {
            stack.findings.ok(NAME, format!("{name} is there, and can run"));
        }
        let more = needs(config, fence, stack);
        stack.runs(fence, &of_accelerator(&self.accelerator.arn), &more).await;
    }

    /// The table in which executions wait for each other.
    async fn table(&mut self, config: &Config) {
        const NAME: &str = "table";
        let findings = &mut *self.stack.findings;
        let Some(table) = &config.table else {
            let said = "there is none: one report is handled at a time, and stacks in other Regions do not know of it";
            return findings.warn(NAME, said.to_owned());
        };
        let region = Region::new(table.region.clone());
        let aws = self.stack.aws.to_builder().region(region).build();
        match dynamodb::fault(&aws, &table.name, "accelerator", patience()).await {
            Ok(None) => findings.ok(NAME, format!("{} is there", plain(&table.name))),
            Ok(Some(fault)) => {
                let said = format!("{} in {} {fault}: every report fails", plain(&table.name), table.region);
                let remedy = self.stack.anew();
                self.stack.findings.wrong(NAME, said, remedy);
            }
            Err(failure) => findings.unknown(NAME, &failure),
        }
    }

    /// The function that rejoins a site.
    async fn rejoin(&mut self, config: Option<&Config>) {
        const NAME: &str = "rejoin";
        let Self { stack, fence, .. } = self;
        let name = format!("{}-rejoin", stack.name);
        let rejoin = match Function::of(&stack.aws, &name, patience()).await {
            Ok(Some(rejoin)) => rejoin,
            Ok(None) => {
                return stack.findings.wrong(NAME, format!("{name} does not exist"), stack.anew());
            }
            Err(failure) => return stack.findings.unknown(NAME, &failure),
        };
        let mut is_well = rejoin.stopped.is_none() && !rejoin.is_short();
        if let Some(stopped) = rejoin.stopped {
            stopped.is_found(NAME, &name, stack.region, false, stack.findings);
        }
        rejoin.short_is_found(NAME, stack.region, false, stack.findings);
        if rejoin.code != fence.code || rejoin.handler != NAME {
            is_well = false;
            let said =
                format!("{name} runs other code than {}, or with the handler {}", fence.name, rejoin.handler);
            stack.findings.wrong(NAME, said, DEPLOY.to_owned());
        }
        let of = |function: &Function, variable: &str| {
            function.variables.get(variable).cloned().unwrap_or_default()
        };
        let differ: Vec<_> =
            VARIABLES.into_iter().filter(|variable| of(&rejoin, variable) != of(fence, variable)).collect();
        if !differ.is_empty() {
            is_well = false;
            let said = format!("{name} has another value than {} of {}", fence.name, differ.join(", "));
            stack.findings.wrong(NAME, said, DEPLOY.to_owned());
        }
        if is_well {
            stack.findings.ok(NAME, format!("{name} is there, and can run"));
        }
        let more = needs(config, &rejoin, stack);
        stack.runs(&rejoin, &of_accelerator(&self.accelerator.arn), &more).await;
    }

    async fn alarms(&mut self, config: Option<&Config>) {
        let stack = &mut self.stack;
        // One stack of several watches the site whose cluster sends there.
        let watched = self.fence.variables.get("WATCHDOG_SITES").map(String::as_str);
        if watched.is_none() {
            let said = "which sites the stack watches is not known: an earlier version has deployed it";
            stack.findings.warn("alarms", said.to_owned());
        }
        let is_known = watched.is_some();
        let watched = watched.unwrap_or_default();
        let sites: BTreeMap<_, _> = ["WatchdogSiteA", "WatchdogSiteB"]
            .into_iter()
            .zip(watched.split(',').map(str::to_owned))
            .filter(|(_, site)| !site.is_empty())
            .collect();
        let unwatched = |site: &&String| sites.values().all(|watched| watched != *site);
        let unwatched: Vec<_> = self.sites.iter().filter(unwatched).map(String::as_str).collect();
        if is_known && !unwatched.is_empty() {
            let said = format!(
                "this stack does not notice that the reports of {} do not arrive, unless another one does: \
                 docs/fence.md#notice-a-silent-site",
                unwatched.join(", ")
            );
            stack.findings.warn("alarms", said);
        }
        let dns_name = &self.accelerator.dns_name;
        let text = |name: &str| match name {
            "AcceleratorDnsName" => Some(dns_name.clone()),
            name => sites.get(name).cloned(),
        };
        let has_topic = config.is_some_and(|config| config.topic.is_some());
        let is_made = |_: &str, condition: Option<&str>| match condition {
            None => true,
            Some("HasTopic") => has_topic,
            Some("HasWatchdog") => !sites.is_empty(),
            Some("HasWatchdogA") => sites.contains_key("WatchdogSiteA"),
            Some("HasWatchdogB") => sites.contains_key("WatchdogSiteB"),
            Some(_) => false,
        };
        // Of a queue, a topic, or a function and a site.
        let dimension = |_: &str| Err(());
        let defined = stack.defined(&Parameters { text: &text, dimension: &dimension, is_made: &is_made });
        let found = stack.alarms(&defined).await;
        // Which version has deployed it is not known.
        stack.people(found, &defined, false).await;
    }
}
