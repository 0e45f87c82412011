//! The result of an invocation: its answer, its log lines and its metrics.

use std::time::SystemTime;

use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use tracing::{error, info, warn};

use super::decide::Reason;
use super::error::{Error, InvocationError};
use super::site::Site;
use super::webhook::{self, Malformed};
use crate::lambda;
use crate::lambda::metrics::{self, Metric};

/// The result of an invocation: an outcome or a failure for each alert or request.
#[derive(Debug)]
pub struct Report {
    results: Vec<Result<Outcome, Failed>>,
    to: Asker,
    has_stale_password: bool,
}

/// The receiver of the answer.
#[derive(Debug)]
enum Asker {
    /// Alertmanager, over HTTP.
    Alertmanager,
    /// Lambda, which has a message of the topic: it tries again after an error, and keeps what failed at last.
    Topic,
    /// A client over HTTP whose request was turned away, with this status and for this cause.
    TurnedAway(StatusCode, String),
    /// A caller that invoked the function directly.
    Invoker,
}

/// The subject of an alert, or of a request, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// The site that is, or is to be, taken out or rejoined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<Site>,
    /// The site that reported it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reporter: Option<Site>,
    /// The accelerator's DNS name, as it was received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<String>,
}

/// The outcome of one alert or request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Its subject.
    #[serde(flatten)]
    pub about: About,
    /// What was done.
    pub outcome: Verdict,
    /// Why no change was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Details for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether something was changed before it was refused.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub changed: bool,
    /// How many pauses there are now, where that was seen.
    #[serde(skip)]
    pub pauses: Option<u32>,
    /// How many sites are noted as out, where that was seen.
    #[serde(skip)]
    pub out: Option<u32>,
}

/// One alert or request that failed.
#[derive(Debug)]
pub struct Failed {
    /// Its subject.
    pub about: About,
    /// The cause.
    pub error: Error,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Verdict {
    /// The site is out of the accelerator and out of replication now.
    Fenced,
    /// The site would be fenced, were this not a dry run.
    WouldFence,
    /// The site was already fenced.
    AlreadyFenced,
    /// The site stays as it is, for the reason given.
    Refused,
    /// The alert requests no action.
    Ignored,
    /// The site is back in the accelerator and in replication.
    Rejoined,
    /// The site would be rejoined, were this not a dry run.
    WouldRejoin,
    /// The site was already back.
    AlreadyRejoined,
    /// The site is out of the accelerator now, as a person requested.
    TakenOut,
    /// The site would be taken out, were this not a dry run.
    WouldTakeOut,
    /// The site was already out.
    AlreadyOut,
    /// Reports take the site out no more, until the pause ends.
    Paused,
    /// They would not, were this not a dry run.
    WouldPause,
    /// The pause has ended.
    Resumed,
    /// The pause would end, were this not a dry run.
    WouldResume,
    /// There was no pause.
    NotPaused,
}

// === impl Report ===

impl Report {
    /// The result of a direct invocation, or of an event that is not from a function URL.
    pub(super) fn to_invoker(result: Result<Outcome, Failed>) -> Self {
        Self::log(vec![result], Asker::Invoker)
    }

    /// The results of a webhook's alerts.
    pub(super) fn to_alertmanager(results: Vec<Result<Outcome, Failed>>) -> Self {
        Self::log(results, Asker::Alertmanager)
    }

    /// The results of the alerts in messages of the topic.
    pub(super) fn to_topic(results: Vec<Result<Outcome, Failed>>) -> Self {
        Self::log(results, Asker::Topic)
    }

    /// The result of a request that is turned away. It is logged; Lambda counts the answer by its status.
    pub(super) fn turned_away(status: StatusCode, cause: &impl std::fmt::Display) -> Self {
        warn!(status = status.as_u16(), cause = %cause, "turned away");
        Self {
            results: Vec::new(),
            to: Asker::TurnedAway(status, cause.to_string()),
            has_stale_password: false,
        }
    }

    /// The result when the credentials could not be checked. The answer contains no details.
    pub(super) fn undecided(error: Error) -> Self {
        let cause =
            "the credentials cannot be checked now: the password could not be read; see the function's log"
                .to_owned();
        let failed = Failed { about: About::default(), error };
        Self::log(vec![Err(failed)], Asker::TurnedAway(StatusCode::SERVICE_UNAVAILABLE, cause))
    }

    fn log(results: Vec<Result<Outcome, Failed>>, to: Asker) -> Self {
        for result in &results {
            match result {
                Ok(outcome) => outcome.log(),
                Err(failed) => failed.log(),
            }
        }
        Self { results, to, has_stale_password: false }
    }

    /// The same, with whether a password was used as it was read before.
    pub(super) fn with_stale_password(self, has_stale_password: bool) -> Self {
        Self { has_stale_password, ..self }
    }

    /// The result of each alert or request.
    pub fn results(&self) -> &[Result<Outcome, Failed>] {
        &self.results
    }
}

impl lambda::Report for Report {
    type Answer = Value;
    type Error = InvocationError;

    /// The result of an invocation whose payload is not JSON, for this cause.
    fn not_json(cause: String) -> Self {
        Self::to_invoker(Err(Failed { about: About::default(), error: Malformed::NotJson(cause).into() }))
    }

    /// The function's answer: over HTTP the status that the least finished alert needs, with the outcomes if it is
    /// the status of an error.
    ///
    /// # Errors
    /// A person's request failed, an alert of a topic is not finished, or the event is not for this function.
    fn into_answer(self) -> Result<Value, InvocationError> {
        match self.to {
            Asker::TurnedAway(status, cause) => {
                Ok(json!(webhook::answer(status, Some(&json!({ "message": cause })))))
            }
            Asker::Alertmanager => {
                let status = self.results.iter().map(status).max().unwrap_or(StatusCode::NO_CONTENT);
                let outcomes = || self.results.iter().map(outcome).collect::<Vec<_>>();
                let body = (status != StatusCode::NO_CONTENT).then(|| json!({ "outcomes": outcomes() }));
                Ok(json!(webhook::answer(status, body.as_ref())))
            }
            Asker::Topic => {
                let unfinished =
                    self.results.iter().filter(|result| status(result) != StatusCode::NO_CONTENT);
                let unfinished: Vec<_> = unfinished.map(|result| outcome(result).to_string()).collect();
                if unfinished.is_empty() {
                    return Ok(json!({ "outcomes": self.results.iter().map(outcome).collect::<Vec<_>>() }));
                }
                Err(InvocationError(Error::Unfinished(unfinished.join(", "))))
            }
            Asker::Invoker => {
                let outcomes: Result<Vec<_>, _> = self.results.into_iter().collect();
                let outcomes = outcomes.map_err(|failed| InvocationError(failed.error))?;
                Ok(json!({ "outcomes": outcomes }))
            }
        }
    }

    /// A line in the embedded metric format for each alert that counts in the namespace `SiteFence`, and for a password that
    /// could not be read again; by function, so that the alarms of one accelerator's stack do not count the alerts of another.
    fn metrics(&self, function: &str, now: SystemTime) -> impl Iterator<Item = String> {
        let stale = self.has_stale_password.then(|| {
            let by: &[&[_]] = &[&[], &[("FunctionName", function)]];
            metrics::line("SiteFence", by, &[Metric::count("StalePassword", 1)], now)
        });
        // What a person asks for and is refused is the person's to see: no alert was lost, and no site was fenced.
        let by_person = matches!(self.to, Asker::Invoker);
        let results = self.results.iter().flat_map(move |result| {
            let names = match result {
                Ok(Outcome { outcome: Verdict::Refused, .. }) if by_person => [None, None],
                Ok(outcome) => [outcome.outcome.metric(), outcome.reason.and_then(metric_of)],
                Err(Failed { error: Error::Replicating(_) | Error::Removed(_), .. }) => {
                    [Some("Failed"), Some("Fenced")]
                }
                Err(_) => [Some("Failed"), None],
            };
            let counts = names.into_iter().flatten().map(|name| Metric::count(name, 1));
            let pauses = result.as_ref().ok().and_then(|outcome| outcome.pauses);
            let counts: Vec<_> = counts.chain(pauses.map(|count| Metric::count("Paused", count))).collect();
            let of_function = ("FunctionName", function);
            let by: &[&[_]] = match result {
                // Each site's reports have a path of their own.
                Ok(Outcome {
                    reason: Some(Reason::Watchdog),
                    about: About { reporter: Some(site), .. },
                    ..
                }) => &[&[of_function, ("Reporter", site.as_str())]],
                _ => &[&[], &[of_function]],
            };
            let line = |by, counts: &[Metric]| {
                (!counts.is_empty()).then(|| metrics::line("SiteFence", by, counts, now))
            };
            let out = result.as_ref().ok().and_then(|outcome| outcome.out);
            let out: Vec<_> = out.map(|count| Metric::count("SitesOut", count)).into_iter().collect();
            [line(by, &counts), line(&[&[of_function]], &out)].into_iter().flatten()
        });
        results.chain(stale)
    }
}

fn status(result: &Result<Outcome, Failed>) -> StatusCode {
    match result {
        Ok(Outcome { outcome: Verdict::Refused, reason: Some(reason), .. }) if reason.may_pass() => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Ok(_) => StatusCode::NO_CONTENT,
        Err(failed) => failed.error.status(),
    }
}

fn outcome(result: &Result<Outcome, Failed>) -> Value {
    match result {
        Ok(outcome) => json!(outcome),
        Err(Failed { about, error }) => {
            let mut outcome = json!(about);
            outcome["outcome"] = json!("failed");
            outcome["errorType"] = json!(error.error_type());
            outcome["error"] = json!(error.to_string());
            outcome
        }
    }
}

/// The metric that counts a reason in addition to that of its outcome: what an alarm has to see by itself.
fn metric_of(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::SurvivorUnhealthy => Some("SurvivorUnhealthy"),
        Reason::Watchdog => Some("Watchdog"),
        _ => None,
    }
}

// === impl Outcome ===

impl Outcome {
    pub(super) fn new(about: About, outcome: Verdict) -> Self {
        Self { about, outcome, reason: None, detail: None, changed: false, pauses: None, out: None }
    }

    pub(super) fn because(self, reason: Reason) -> Self {
        Self { reason: Some(reason), ..self }
    }

    fn log(&self) {
        let About { site, reporter, accelerator } = &self.about;
        info!(
            site = site.as_ref().map(Site::as_str),
            reporter = reporter.as_ref().map(Site::as_str),
            accelerator,
            outcome = <&str>::from(self.outcome),
            reason = self.reason.map(<&str>::from),
            detail = self.detail,
            "done"
        );
    }
}

// === impl Failed ===

impl Failed {
    fn log(&self) {
        let About { site, reporter, accelerator } = &self.about;
        error!(
            site = site.as_ref().map(Site::as_str),
            reporter = reporter.as_ref().map(Site::as_str),
            accelerator,
            outcome = "failed",
            errorType = self.error.error_type(),
            error = %self.error,
            "done"
        );
    }
}

// === impl Verdict ===

impl Verdict {
    fn metric(self) -> Option<&'static str> {
        match self {
            Self::Fenced => Some("Fenced"),
            Self::AlreadyFenced => Some("AlreadyFenced"),
            // A dry run that was left on also leaves a site in service.
            Self::Refused | Self::WouldFence => Some("Refused"),
            Self::Rejoined => Some("Rejoined"),
            Self::Ignored
            | Self::WouldRejoin
            | Self::AlreadyRejoined
            | Self::TakenOut
            | Self::WouldTakeOut
            | Self::AlreadyOut
            | Self::Paused
            | Self::WouldPause
            | Self::Resumed
            | Self::WouldResume
            | Self::NotPaused => None,
        }
    }
}

impl From<Verdict> for &'static str {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Fenced => "fenced",
            Verdict::WouldFence => "would_fence",
            Verdict::AlreadyFenced => "already_fenced",
            Verdict::Refused => "refused",
            Verdict::Ignored => "ignored",
            Verdict::Rejoined => "rejoined",
            Verdict::WouldRejoin => "would_rejoin",
            Verdict::AlreadyRejoined => "already_rejoined",
            Verdict::TakenOut => "taken_out",
            Verdict::WouldTakeOut => "would_take_out",
            Verdict::AlreadyOut => "already_out",
            Verdict::Paused => "paused",
            Verdict::WouldPause => "would_pause",
            Verdict::Resumed => "resumed",
            Verdict::WouldResume => "would_resume",
            Verdict::NotPaused => "not_paused",
        }
    }
}
