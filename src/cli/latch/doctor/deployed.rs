//! What `infra/latch-region.yaml` deploys in each Region: the function that watches, its role and its log, and the alarms.

use std::collections::{BTreeMap, BTreeSet};

use aws_types::SdkConfig;
use aws_types::region::Region;
use chrono::TimeDelta;

use super::{ANEW, ARM, DEPLOY, Doctor};
use crate::cli::clock;
use crate::cli::function::Function;
use crate::cli::session::patience;
use crate::cli::stack::{Parameters, Stack, Template, is_of_this_version};
use crate::cli::text::plain;
use crate::latch::config::{Config, HOLDS};
use crate::remote::arn::Arn;

const NAME: &str = "function";
const TEMPLATE: Template = Template {
    text: include_str!("../../../../infra/latch-region.yaml"),
    section: "latch-name",
    expected: &["locked"],
    redeploy: |_| DEPLOY_AGAIN.to_owned(),
    anew: |_| ANEW.to_owned(),
    notify: "infra/deploy latch --notify",
};
const DEPLOY_AGAIN: &str = "deploy it again: infra/deploy latch";
/// The executions that overlap.
const EXECUTIONS: i32 = 3;
/// For how long a new function has counted nothing yet: a function's metrics lag by minutes.
const NEW: TimeDelta = TimeDelta::minutes(10);

impl Doctor<'_> {
    /// Checks what was deployed in each Region. Returns the Regions that have the function, and whether it is too new to have
    /// counted anything.
    pub(super) async fn deployed(&mut self) -> BTreeMap<String, bool> {
        let (mut seen, mut first) = (BTreeMap::new(), None);
        for bucket in &self.latches.config.buckets {
            let region = &bucket.region;
            let aws = self.latches.session.aws.to_builder().region(Region::new(region.clone())).build();
            let Some(function) = self.function(&aws, region).await else { continue };
            let is_new = function.deployed.is_some_and(|deployed| clock::now() - deployed < NEW);
            seen.insert(region.clone(), is_new);
            let (code, of) = first.get_or_insert_with(|| (function.code.clone(), region.clone()));
            if *code != function.code {
                let said = format!("{} in {region} runs other code than in {of}", function.name);
                self.findings.wrong(NAME, said, DEPLOY_AGAIN.to_owned());
            }
            Box::pin(self.stack(&function, aws, region)).await;
        }
        seen
    }

    /// The function that watches in this Region, if it is there.
    async fn function(&mut self, aws: &SdkConfig, region: &str) -> Option<Function> {
        let stack = self.latches.stack.as_deref();
        let name = format!("{}-watch", stack.unwrap_or("latch"));
        match Function::of(aws, &name, patience()).await {
            Ok(Some(function)) => return Some(function),
            Ok(None) if stack.is_none() => {
                let said = format!(
                    "the file does not name its stack, and {name} is not in {region}; infra/deploy latch writes it anew"
                );
                self.findings.unknown(NAME, &said);
            }
            Ok(None) => {
                let said = format!("{name} does not exist in {region}: nothing watches there");
                self.findings.wrong(NAME, said, ANEW.to_owned());
            }
            Err(failure) => self.findings.unknown(NAME, &failure),
        }
        None
    }

    async fn stack(&mut self, function: &Function, aws: SdkConfig, region: &str) {
        let Some(Arn { partition, .. }) = Arn::parse(&function.arn) else { return };
        let name = function.name.strip_suffix("-watch").unwrap_or(&function.name);
        let prefix = format!("{name}-{}", self.latch.name);
        self.runs(function, region);
        let findings = &mut self.findings;
        let mut stack =
            Stack { template: &TEMPLATE, name, prefix: &prefix, arn: &function.arn, region, aws, findings };
        let (key, hold) = (self.latch.key(), format!("{HOLDS}{}", self.latch.name));
        let needs = self.latches.config.buckets.iter().flat_map(|bucket| {
            let bucket = format!("arn:{partition}:s3:::{}", bucket.name);
            [
                ("s3:GetObject", format!("{bucket}/{key}")),
                ("s3:PutObject", format!("{bucket}/{key}")),
                ("s3:GetObject", format!("{bucket}/{hold}")),
                ("s3:GetObject", format!("{bucket}/control")),
                ("s3:ListBucket", bucket),
            ]
        });
        stack.runs(function, &|_| None, &needs.collect::<Vec<_>>()).await;
        let text = |text: &str| match text {
            "Latch" => Some(self.latch.name.clone()),
            "Watch" => Some(function.name.clone()),
            "WatchLog" => Some(function.log_group.clone()),
            _ => None,
        };
        let dimension = |_: &str| Ok(Some(("Latch", self.latch.name.clone())));
        let defined =
            stack.defined(&Parameters { text: &text, dimension: &dimension, is_made: &|_, _| true });
        let found = stack.alarms(&defined).await;
        stack.people(found, &defined, is_of_this_version(function, "failover-latch")).await;
    }

    /// Checks whether a function can watch this latch, by its configuration.
    fn runs(&mut self, function: &Function, region: &str) {
        let of = format!("{} in {region}", function.name);
        let mut faults = Vec::new();
        if function.handler != "watch" {
            faults
                .push((format!("{of} has the handler {}, and not watch", function.handler), ANEW.to_owned()));
        }
        for name in function.variables.keys().filter(|name| name.starts_with("AWS_ENDPOINT_URL")) {
            faults.push((format!("{of} has {}: it does not call AWS itself", plain(name)), ANEW.to_owned()));
        }
        match Config::read(&|name| function.variables.get(name).cloned()) {
            Ok(config) => faults.extend(self.differences(&config, &of)),
            Err(invalid) => {
                let said = format!("{of}: its variables do not let it start: {invalid}");
                faults.push((said, ANEW.to_owned()));
            }
        }
        if function.stopped.is_none()
            && let Some(reserved) = function.concurrency.filter(|reserved| *reserved < EXECUTIONS)
        {
            let said = format!(
                "{of} has {reserved} reserved executions, and {EXECUTIONS} at least by its template: ticks overlap, and a tick that \
                 finds none leaves a gap"
            );
            let command = format!(
                "aws lambda put-function-concurrency --region {region} --function-name {} --reserved-concurrent-executions {EXECUTIONS}",
                function.name
            );
            faults.push((said, command));
        }
        let is_well = faults.is_empty() && function.stopped.is_none() && !function.is_short();
        for (said, remedy) in faults {
            self.findings.wrong(NAME, said, remedy);
        }
        if let Some(stopped) = function.stopped {
            stopped.is_found(NAME, &function.name, region, false, &mut self.findings);
        }
        function.short_is_found(NAME, region, false, &mut self.findings);
        if is_well {
            self.findings.ok(NAME, format!("{of} is there, can run, and watches {}", self.latch.name));
        }
    }

    /// What a watcher has other than the file.
    fn differences(&self, config: &Config, of: &str) -> Vec<(String, String)> {
        let own = &self.latches.config;
        let name = &self.latch.name;
        let older = || format!("if the file is the older one: {DEPLOY} {name}; else {ANEW}");
        let mut found = Vec::new();
        if config.bucket_owner != own.bucket_owner {
            let owner = |config: &Config| config.bucket_owner.clone().unwrap_or_else(|| "none".to_owned());
            let said = format!(
                "{of} expects the buckets of the account {}, and not of {}",
                owner(config),
                owner(own)
            );
            found.push((said, older()));
        }
        if config.dry_run {
            found.push((format!("{of} is in a dry run, and locks nothing"), ARM.to_owned()));
        }
        if !config.latches.contains(self.latch) {
            let of_name = config.latches.iter().find(|latch| latch.name == *name);
            let said = of_name.map_or_else(
                || format!("{of} does not watch {name}"),
                |other| format!("{of} watches {}, and not {}", plain(&other.to_string()), self.latch),
            );
            found.push((said, older()));
        }
        let sorted = |config: &Config| {
            let buckets = config.buckets.iter().map(ToString::to_string);
            buckets.collect::<BTreeSet<_>>()
        };
        if sorted(config) != sorted(own) {
            found.push((format!("{of} has other buckets than the file"), older()));
        } else if config.buckets != own.buckets {
            let said = format!(
                "{of} has the buckets in another order than the file: both Regions count a lock, or none"
            );
            found.push((said, older()));
        }
        let names = |config: &Config| {
            config
                .name_servers
                .iter()
                .map(|server| server.name.clone().unwrap_or_else(|| server.address.ip().to_string()))
                .collect::<BTreeSet<_>>()
        };
        if names(config) != names(own) {
            found.push((format!("{of} asks other name servers than the file has"), older()));
        }
        found
    }
}
