//! The rule that runs `reconcile` every minute.

use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::operation::describe_rule::DescribeRuleOutput;
use aws_sdk_eventbridge::types::{RuleState, Target};

use super::way;
use crate::cli::function::{Function, LIVE, unqualified};
use crate::cli::guard::Guard;
use crate::cli::policy::Lets;
use crate::cli::session::{if_there, patience};
use crate::cli::stack::Stack;
use crate::cli::text::{plain, quoted};
use crate::remote::arn::Arn;
use crate::remote::aws::{Call, Failure, pages, send};

const NAME: &str = "reconcile";
/// The service by which rules invoke functions.
const EVENTS: &str = "events.amazonaws.com";
const EACH_MINUTE: &str = "rate(1 minute)";

impl Stack<'_> {
    /// Whether the schedule runs this function every minute.
    pub(super) async fn schedule(&mut self, guard: &Guard, function: &Function) -> bool {
        let (name, region) = (&function.name, self.region);
        let rule = match self.rule(name).await {
            Ok(Some(rule)) => rule,
            Ok(None) => {
                let said = format!("{name} has no schedule: the rule {name} does not exist");
                self.findings.wrong(NAME, said, self.anew());
                return false;
            }
            Err(failure) => {
                self.findings.unknown(NAME, &failure);
                return false;
            }
        };
        if rule.state().is_some_and(|state| *state != RuleState::Enabled) {
            let said =
                "its schedule is off: a lost alarm is not found, and an undone lock not reported".to_owned();
            self.runs_again(guard, said, format!("aws events enable-rule --region {region} --name {name}"))
                .await;
            return false;
        }
        let schedule = rule.schedule_expression().unwrap_or("none");
        if schedule != EACH_MINUTE {
            let said = format!("its schedule is {}, and not {EACH_MINUTE}", plain(schedule));
            let command = format!(
                "aws events put-rule --region {region} --name {name} --schedule-expression '{EACH_MINUTE}' --description 'Runs {name} every minute.'"
            );
            self.runs_again(guard, said, command).await;
            return false;
        }
        let arn = format!(
            "{}{name}",
            unqualified(self.arn).strip_suffix(&format!("{}-lock", self.name)).unwrap_or_default()
        );
        let live = format!("{arn}:{LIVE}");
        let targets = match self.targets(name).await {
            Ok(targets) => targets,
            Err(failure) => {
                self.findings.unknown(NAME, &failure);
                return false;
            }
        };
        let arn = if function.is_live() { live } else { arn };
        if !targets.iter().any(|target| target.arn() == arn) {
            let (said, id) =
                match targets.iter().find(|target| unqualified(target.arn()) == unqualified(&arn)) {
                    Some(other) => {
                        (format!("its schedule invokes {}, and not {arn}", plain(other.arn())), other.id())
                    }
                    None => (
                        format!("its schedule does not invoke {name}: that is no target of the rule"),
                        "reconcile",
                    ),
                };
            let command = format!(
                "aws events put-targets --region {region} --rule {name} --targets Id={},Arn={arn}",
                quoted(id)
            );
            self.runs_again(guard, said, command).await;
            return false;
        }
        // Each has a policy of its own.
        let target = match Function::of(&self.aws, &arn, patience()).await {
            Ok(Some(target)) => target,
            Ok(None) => {
                let said = format!("its schedule invokes {arn}, which does not exist");
                self.findings.wrong(NAME, said, self.anew());
                return false;
            }
            Err(failure) => {
                self.findings.unknown(NAME, &failure);
                return false;
            }
        };
        let Some(Arn { partition, account, .. }) = Arn::parse(self.arn) else { return true };
        let rule = format!("arn:{partition}:events:{region}:{account}:rule/{name}");
        let moves_nothing = target.lets(EVENTS, &rule) == Lets::Yes || self.owes_nothing(guard).await;
        way::lets(&target, &arn, (EVENTS, &rule), (NAME, moves_nothing), self.findings)
    }

    /// Adds what keeps `reconcile` from running, with the command that lets it run: `--fix` may run that if no lock is owed.
    async fn runs_again(&mut self, guard: &Guard, said: String, command: String) {
        if self.owes_nothing(guard).await {
            return self.findings.fixable(NAME, said, command);
        }
        let remedy = format!(
            "see failoverctl status: what is not locked there is locked within a minute; then: {command}"
        );
        self.findings.wrong(NAME, said, remedy);
    }

    /// The rule of this name; `None` if there is none.
    async fn rule(&self, name: &str) -> Result<Option<DescribeRuleOutput>, Failure> {
        let client = Client::new(&self.aws);
        let found = patience().persist(async |time| {
            let request = client.describe_rule().name(name);
            send(Call::new("events:DescribeRule", "the rule"), time, request.send()).await
        });
        if_there(found.await)
    }

    /// The targets of the rule of this name.
    async fn targets(&self, name: &str) -> Result<Vec<Target>, Failure> {
        let client = Client::new(&self.aws);
        pages(patience(), async |time, token| {
            let request = client.list_targets_by_rule().rule(name).set_next_token(token);
            let page = send(Call::new("events:ListTargetsByRule", "the rule"), time, request.send()).await?;
            Ok((page.targets.unwrap_or_default(), page.next_token))
        })
        .await
    }
}
