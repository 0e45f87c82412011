//! `failoverctl restore`: invokes the function `restore`, or runs its own code with the operator's credentials.

use std::time::Duration;

use clap::{Args, value_parser};
use serde_json::{Value, json};

use super::error::{Ended, Error};
use super::function;
use super::gates::{Ask, Gates};
use super::guard::{Guard, Options};
use super::lock;
use super::locks;
use super::name::{self, Named};
use super::report;
use super::screen::say;
use super::seen;
use super::session::{Common, Interrupts, YEAR};
use super::state::why;
use super::status;
use super::text::plain;
use super::timeline::{Source, Timeline};
use crate::failover_lock::Handler;
use crate::failover_lock::health_check::{HealthCheck, HealthCheckId};
use crate::failover_lock::reason::Reason;

/// Restore a locked health check, once the sites are synchronised.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  failoverctl restore primary --reason 'synchronised, INC-1234' --wait\n  failoverctl restore \
    233e180f-f023-45a3-954e-415303f21eab --dry-run"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
pub(super) struct Arguments {
    /// The primary's health check, by its id or its tag Name.
    #[arg(value_name = "CHECK")]
    check: Named,
    /// Restore without asking the primary whether it is healthy.
    #[arg(long)]
    force: bool,
    /// The path to set; the one from before, if it is left out.
    #[arg(long, value_name = "PATH", value_parser = path)]
    path: Option<String>,
    /// The reason; it is recorded on the health check.
    #[arg(long)]
    reason: Option<String>,
    /// Ask the primary and show what would be done, change nothing.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until the check is armed again, its alarm OK, and Route 53's checkers find it healthy, where they can be read.
    #[arg(long)]
    wait: bool,
    /// How many seconds to wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, requires = "wait", value_parser = value_parser!(u64).range(..=YEAR))]
    timeout: u64,
    /// Restore with your own credentials, for when the function is out of order.
    #[arg(long, conflicts_with = "function")]
    direct: bool,
    /// The function `restore`; by default that of the stack whose `lock` its alarms reach.
    #[arg(long, value_name = "NAME")]
    function: Option<String>,
    #[command(flatten)]
    gates: Gates,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    report: report::Options,
    #[command(flatten)]
    options: Options,
}

/// Reads a path, as Route 53 takes it.
fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err("a path begins with /, for example /lb-check".to_owned())
    }
}

/// The function's own timeout, and the time of its start.
const INVOCATION: Duration = Duration::from_secs(70);

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let guard = arguments.options.guard(common).await?;
    let id = arguments.check.find(&guard).await?;
    let (check, tags) = lock::read(&guard, &id).await?;
    let title = name::title(&id, tags.as_ref());
    let steps = async |timeline: &mut _, shown: &mut _| {
        steps(common, &guard, &check, &title, &arguments, timeline, shown).await
    };
    arguments.report.of(&guard.session.screen, ("restore", &title, arguments.dry_run), steps).await
}

async fn steps(
    common: &Common,
    guard: &Guard,
    check: &HealthCheck,
    title: &str,
    arguments: &Arguments,
    timeline: &mut Timeline,
    shown: &mut Result<(), Error>,
) -> Result<Ended, Error> {
    let Arguments { force, path, reason, dry_run, wait, timeout, direct, function, gates, yes, .. } =
        arguments;
    let id = &check.id;
    let function = if *direct { None } else { which(guard, id, function.clone()).await? };
    if function.is_none() && !direct {
        say(&format!(
            "no alarm of {id} reaches a stack that guards it: it is restored with your own credentials"
        ));
    }
    // What changes while the question is open was not decided about.
    let version = check.version;
    let asks = check.endpoint.as_ref().map(seen::watches).unwrap_or_default();
    let question = format!("Are the sites synchronised? Restoring {title} brings traffic to {asks} again.");
    let screen = &guard.session.screen;
    let option = |is_set: bool, option: &str| if is_set { format!(" {option}") } else { String::new() };
    let what = format!(
        "restore {id} at its version {version}{}{}{}{}{}: {}",
        path.as_ref().map(|path| format!(" --path {path}")).unwrap_or_default(),
        option(*force, "--force"),
        option(function.is_none(), "--direct"),
        if function.is_none() { arguments.options.paths() } else { String::new() },
        function.as_ref().map(|function| format!(" --function {function}")).unwrap_or_default(),
        reason.as_deref().unwrap_or("no reason")
    );
    let asked = Ask { question: &question, yes: *yes, dry_run: *dry_run, what };
    let Some(passed) = gates.ask(common, &guard.session, &asked, timeline).await? else {
        return Ok(Ended::NotWell);
    };
    // The function does not learn who invokes it.
    let context = screen.context().await;
    let caller = context.as_ref().and_then(|context| context.caller());
    let reason = match (caller, passed.reason(reason.as_deref())) {
        (Some(caller), Some(reason)) => Some(format!("{caller}: {reason}")),
        (caller, reason) => reason.or(caller.map(str::to_owned)),
    };
    // An interrupt ends the wait alone: what was done is shown, and the report says it.
    let mut interrupts = Interrupts::new()?;
    let is_recorded = |outcome: &Value| outcome["reason"] != <&str>::from(Reason::NotRecorded);
    let is_dry = |outcome: &Value| !dry_run && outcome["outcome"] == "would_restore";
    let request = json!({ "healthCheckId": id, "force": force, "path": path, "reason": reason, "dryRun": dry_run, "version": version });
    let recorded;
    if let Some(function) = function {
        let aws = guard.session.aws_of(&function);
        // The function may begin at once.
        let invocation = function::invoke(&aws, &function, &request, INVOCATION);
        let answer = interrupts.hold_off(invocation, || true).await?;
        // An answer may be lost after it was restored.
        timeline.changed =
            !dry_run && !matches!(answer, Err(Error::Aws(_) | Error::Function { may_be_done: false, .. }));
        let answer = answer.map_err(|error| match error {
            Error::Aws(failure) => Error::OutOfOrder(failure),
            other => other,
        })?;
        let outcomes = &answer["outcomes"];
        if !outcomes[0]["outcome"].is_string() || outcomes[0]["healthCheckId"] != id.as_str() {
            let said = format!(
                "it has answered, and not as failover-lock's restore does: whether {id} is restored was not seen"
            );
            let (function, is_refusal) = (function.clone(), false);
            return Err(Error::Function { function, said, is_refusal, may_be_done: true });
        }
        let words = words(id, &outcomes[0]);
        recorded = is_recorded(&outcomes[0]);
        timeline.add(Source::Function, format!("{}: {}", function::name(&function).0, words.trim_end()));
        *shown = screen.show("outcomes", outcomes, || words).await;
        if is_dry(&outcomes[0]) {
            timeline.changed = false;
            let name = function::name(&function).0;
            return Err(Error::Gate(format!(
                "{name} is in a dry run: infra/deploy --stack {} --set DryRun=false; or restore with your own credentials: --direct",
                name.strip_suffix("-restore").unwrap_or("NAME")
            )));
        }
    } else {
        let request = request.to_string();
        let restored = guard.handle(Some(&mut interrupts), Handler::Restore, &request).await;
        timeline.changed = guard.has_changed();
        let outcome = json!([restored?]);
        let words = words(id, &outcome[0]);
        recorded = is_recorded(&outcome[0]);
        timeline.add(Source::Lock, words.trim_end().to_owned());
        *shown = screen.show("outcomes", &outcome, || words).await;
    }
    if *wait {
        tokio::select! {
            biased;
            () = interrupts.recv() => return Err(Error::Interrupted),
            armed = status::until_armed(guard, id, Duration::from_secs(*timeout), timeline) => armed?,
        }
    }
    Ok(if recorded { Ended::Well } else { Ended::NotWell })
}

/// The function to invoke: the one that was named, or that of the one stack that guards the check; `None` if none does.
async fn which(guard: &Guard, id: &HealthCheckId, named: Option<String>) -> Result<Option<String>, Error> {
    if named.is_some() {
        return Ok(named);
    }
    let found = locks::restorers(guard, id).await;
    let found = match found {
        // An emulator that does not know the call has none.
        Err(unknown) if unknown.is_unknown_call() => return Ok(None),
        Err(failure) if !failure.blames_credentials() => {
            let why = format!("the function that restores {id} was not found: {failure}");
            return Err(Error::NoFunction(why));
        }
        found => found?,
    };
    let several = found.iter().map(|arn| function::name(arn).0).collect::<Vec<_>>().join(", ");
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (function, None) => Ok(function),
        (_, Some(_)) => Err(Error::NoFunction(format!("several stacks guard {id}: {several}"))),
    }
}

/// A function's outcome in a line of words, as that of its code.
fn words(id: &HealthCheckId, outcome: &Value) -> String {
    let word = |key: &str| outcome[key].as_str().map(plain);
    let done = match outcome["outcome"].as_str().unwrap_or_default() {
        "already_restored" => "is restored already".to_owned(),
        "would_restore" if outcome["path"] == outcome["previousPath"] => {
            "is in service already, and would be on record as restored".to_owned()
        }
        "would_restore" => "would be restored".to_owned(),
        other => plain(other),
    };
    let path = match (word("previousPath"), word("path")) {
        (Some(before), Some(now)) if before != now => format!(" ({before} → {now})"),
        (_, Some(now)) => format!(" ({now})"),
        _ => String::new(),
    };
    let reason = match outcome["reason"].as_str() {
        Some(reason) if reason == <&str>::from(Reason::NotRecorded) => {
            format!(": {}", why(Reason::NotRecorded))
        }
        reason => reason.map(|reason| format!(": {}", plain(reason))).unwrap_or_default(),
    };
    format!("{id}: {done}{path}{reason}\n")
}
