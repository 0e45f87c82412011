//! A failover and the way back, on loopback.
//!
//! ```text
//! cargo run --example sandbox
//! cargo run --example sandbox -- --path [FILE]
//! ```
//! Without an argument, failover-latch: see `latch.rs`. With `--path`, failover-lock: an embedded Route 53 and an embedded
//! primary, from the alarm to the lock, to a primary that recovers and stays out, to the restore. `FILE` is a Lambda
//! event, an alarm's message as SNS delivers it, or what `aws cloudwatch describe-alarms` prints; without one, the alarm
//! documented for Keycloak is used. The function's variables (`GUARDED_HEALTH_CHECKS` and the others) are read from the
//! environment, as the function reads them.

use std::env;
use std::error::Error;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};
use failover::failover_lock::alarm::AlarmTransition;
use failover::failover_lock::config::Config;
use failover::failover_lock::event::{self, Message};
use failover::failover_lock::health_check::{Endpoint, HealthCheckId, ResourcePath};
use failover::failover_lock::outcome::Outcome;
use failover::failover_lock::probe;
use failover::failover_lock::{FailoverLock, Handler};
use failover::lambda::Report as _;
use failover::program::variables;
use failover::remote::deadline::Deadline;
use serde_json::{Value, json};

mod latch;

mod support;

use support::primary::Primary;
use support::{aws, cloudwatch, route53 as stand_in};

const DOCUMENTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../events/sns/keycloak-alarm.json");
/// The id of the health check in the sandbox's Route 53 if the event names none.
const UNNAMED: &str = "the-event-names-none";
const USAGE: &str = "Usage: cargo run --example sandbox [-- --path [FILE]]\n\
    FILE is a Lambda event, an alarm's message, or what `aws cloudwatch describe-alarms` prints. The function's variables \
    also apply.\n\
    Exit status: 0; 1 an error; 3 an alarm of FILE does not lock";
/// An alarm of the file does not lock.
const NO_LOCK: u8 = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NO_LOCK),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether every alarm of the file locks.
async fn run() -> Result<bool, Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let file = match arguments.next().as_deref() {
        None => return latch::run().await.map(|()| true),
        Some("-h" | "--help") => {
            println!("{USAGE}");
            return Ok(true);
        }
        Some("--path") => arguments.next().unwrap_or_else(|| DOCUMENTED.to_owned()),
        Some(file) => file.to_owned(),
    };
    let text = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}. {USAGE}"))?;
    let name = file.rsplit('/').next().unwrap_or(&file);
    let Some(described) = described(&text) else { return show(name, &text).await };
    let mut all_lock = !described.is_empty();
    for (alarm, message) in described {
        all_lock &= show(&alarm, &message).await?;
    }
    Ok(all_lock)
}

/// What `aws cloudwatch describe-alarms` prints: the name of each metric alarm, and the message that it would send when it
/// goes to ALARM. `None` if the text is something else.
fn described(text: &str) -> Option<Vec<(String, String)>> {
    let printed: Value = serde_json::from_str(text).ok()?;
    let alarms = printed.get("MetricAlarms")?.as_array()?;
    let changed_at = DateTime::<Utc>::from(SystemTime::now() - Duration::from_mins(1));
    let message = |alarm: &Value| {
        let name = alarm["AlarmName"].as_str().unwrap_or("alarm").to_owned();
        let message = json!({
            "AlarmName": name, "AlarmArn": alarm["AlarmArn"], "NewStateValue": "ALARM", "OldStateValue": "OK",
            "StateChangeTime": changed_at.to_rfc3339(), "Trigger": alarm,
        });
        (name, message.to_string())
    };
    Some(alarms.iter().map(message).collect())
}

/// Shows the failover and the way back for an event. Returns whether it locks.
async fn show(name: &str, event: &str) -> Result<bool, Box<dyn Error>> {
    let site = Site::start(event).await?;

    site.tell(
        "start",
        &format!("health check {} asks the primary for {}", site.id, site.config.healthy_path),
    );
    site.show("").await;
    site.primary.set_up(false);
    site.tell("failure", "the primary answers 503, Route 53 sends traffic to the backup");
    site.show("").await;
    site.tell("alarm", &format!("{name} → lock"));
    site.invoke(Handler::Lock, event).await;
    site.show("").await;
    if !site.is_locked() {
        let dry = if site.config.dry_run { ": DRY_RUN is set" } else { "" };
        site.tell("result", &format!("this event does NOT lock{dry}"));
        return Ok(false);
    }

    let request = json!({ "healthCheckId": site.id, "reason": "sandbox" }).to_string();
    site.tell("too early", &format!("the request {request} → restore"));
    site.invoke(Handler::Restore, &request).await;

    site.primary.set_up(true);
    site.tell("recovery", "the primary answers 200 again, with stale data");
    site.show("stays out").await;

    site.tell("restore", "the sites are synchronised, the same request → restore");
    site.invoke(Handler::Restore, &request).await;
    site.show("in service").await;

    site.tell("late", &format!("{name} is delivered once more → lock"));
    site.invoke(Handler::Lock, event).await;
    site.show("").await;
    site.tell("result", &format!("this event locks {}", site.id));
    Ok(true)
}

/// One site, its health check, and the functions that guard it.
struct Site {
    id: HealthCheckId,
    config: Config,
    primary: Primary,
    route53: stand_in::Route53,
    system: FailoverLock,
    started: Instant,
}

impl Site {
    /// A primary that is up, with every health check that the event names.
    async fn start(event: &str) -> Result<Self, Box<dyn Error>> {
        let transitions = alarms(event);
        let ids: Vec<_> = transitions.iter().flat_map(|alarm| alarm.health_checks.clone()).collect();
        let config = Config::read(&variables::environment)?;
        // A composite alarm names no check: the first guarded one is used.
        let guarded = ids.iter().find(|id| config.guards(id)).or(ids.first());
        let guarded = guarded.or(config.guarded.iter().flatten().next()).cloned();
        let id = guarded.map_or_else(|| UNNAMED.to_owned().try_into(), Ok)?;
        let primary = Primary::start(config.healthy_path.as_str()).await;
        let route53 = stand_in::Route53::start().await;
        for id in ids.iter().chain([&id]) {
            let check = stand_in::Check::new("HTTP", primary.address.port());
            route53.put(id.as_str(), check.with("ResourcePath", config.healthy_path.as_str()));
        }
        for triggering in transitions
            .iter()
            .flat_map(|alarm| &alarm.composite)
            .flat_map(|composite| &composite.triggered_by)
        {
            route53.put_alarm(&triggering.name, cloudwatch::Alarm::on(id.as_str(), "ALARM", 0.0));
        }
        let system = FailoverLock::new(config.clone(), &aws::aws_at(&route53.url()).await);
        Ok(Self { id, config, primary, route53, system, started: Instant::now() })
    }

    fn is_locked(&self) -> bool {
        self.route53.check(self.id.as_str()).path() == self.config.locked_path.as_str()
    }

    /// Invokes a function as Lambda does, and prints its answer.
    async fn invoke(&self, handler: Handler, event: &str) {
        let report = self.system.handle(handler, event, Deadline::after(Duration::from_secs(30))).await;
        match report.into_answer() {
            Ok(answer) => answer.outcomes.iter().for_each(|outcome| self.tell("", &told(outcome))),
            Err(error) => self.tell("", &format!("{}: {error}", error.error_type())),
        }
    }

    /// Prints the check as it is, and what Route 53's checkers find.
    async fn show(&self, what: &str) {
        let check = self.route53.check(self.id.as_str());
        let endpoint = Endpoint {
            path: check.path().to_owned(),
            https: false,
            ip_address: Some(self.primary.address.ip().to_string()),
            domain_name: None,
            port: self.primary.address.port(),
            sni: false,
            search_string: None,
        };
        let seen = match ResourcePath::try_from(check.path().to_owned()) {
            Ok(path) => match probe::ask(&self.id, &endpoint, &path).await {
                Ok(status) => format!("healthy ({path} answers {})", status.as_u16()),
                Err(unhealthy) => format!("unhealthy ({unhealthy})"),
            },
            Err(error) => error.to_string(),
        };
        self.tell(what, &format!("the check, at version {}, finds the primary {seen}", check.version));
    }

    fn tell(&self, what: &str, text: &str) {
        println!("{:6.3} s  {what:<11}  {text}", self.started.elapsed().as_secs_f64());
    }
}

/// The short form of an outcome that `lock` and `restore` answer in JSON.
fn told(outcome: &Outcome) -> String {
    let verdict = <&str>::from(outcome.outcome);
    let reason = outcome.reason.map_or_else(String::new, |reason| format!(": {}", <&str>::from(reason)));
    let paths = match (&outcome.previous_path, &outcome.path) {
        (Some(from), Some(to)) if from != to => format!(", {from} → {to}"),
        _ => String::new(),
    };
    format!("answer: {verdict}{reason}{paths}")
}

/// The alarms in an event.
fn alarms(event: &str) -> Vec<AlarmTransition> {
    let records = event::records(event).unwrap_or_default().into_iter();
    records
        .filter_map(|record| match record.message {
            Ok(Message::Alarm(transition)) => Some(transition),
            Ok(Message::Foreign(_)) | Err(_) => None,
        })
        .collect()
}
