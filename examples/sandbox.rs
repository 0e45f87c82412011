//! The whole way of a lock, on an embedded Route 53 and an embedded primary, on loopback:
//! alarm, lock, a primary that recovers and stays out, and the switch-back.
//!
//! ```text
//! cargo run --example sandbox [EVENT.json]
//! ```
//! `EVENT.json` is a Lambda event, or an alarm's message as SNS delivers it; without one, the
//! alarm documented for Keycloak is used.

use std::env;
use std::error::Error;
use std::fs;
use std::time::{Duration, Instant};

use aws_sdk_route53::config::{Credentials, SharedCredentialsProvider};
use failover_lock::deadline::Deadline;
use failover_lock::failover_lock::alarm;
use failover_lock::failover_lock::config::Config;
use failover_lock::failover_lock::health_check::{Endpoint, HealthCheckId, ResourcePath};
use failover_lock::failover_lock::probe;
use failover_lock::failover_lock::{FailoverLock, Handler};
use failover_lock::startup;
use serde_json::json;

#[path = "../tests/support/cloudwatch.rs"]
#[expect(dead_code, reason = "the tests use the whole of it")]
mod cloudwatch;
#[path = "../tests/support/primary.rs"]
mod primary;
#[path = "../tests/support/route53.rs"]
#[expect(dead_code, reason = "the tests use the whole of it")]
mod stand_in;

use primary::Primary;

const DOCUMENTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/events/sns/keycloak-alarm.json");
/// Stands in the sandbox's Route 53 when the event names no health check.
const UNNAMED: &str = "00000000-0000-0000-0000-000000000000";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = env::args().nth(1).unwrap_or_else(|| DOCUMENTED.to_owned());
    let event = fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let name = file.rsplit('/').next().unwrap_or(&file);
    let site = Site::start(&event).await?;

    site.tell("start", &format!("health check {} asks the primary for /lb-check", site.id));
    site.show("").await;
    site.primary.set_up(false);
    site.tell("failure", "the primary answers 503, Route 53 sends traffic to the backup");
    site.show("").await;
    site.tell("alarm", &format!("{name} → lock"));
    site.invoke(Handler::Lock, &event).await;
    site.show("").await;
    if site.route53.check(site.id.as_str()).version == 1 {
        return Ok(());
    }

    let request = json!({ "healthCheckId": site.id, "reason": "sandbox" }).to_string();
    site.tell("too early", &format!("somebody sends {request} → restore"));
    site.invoke(Handler::Restore, &request).await;

    site.primary.set_up(true);
    site.tell("recovery", "the primary answers 200 on /lb-check again, with stale data");
    site.show("stays out").await;

    site.tell("switch-back", "the sites are synchronised, the same request → restore");
    site.invoke(Handler::Restore, &request).await;
    site.show("in service").await;

    site.tell("late", &format!("{name} is delivered once more → lock"));
    site.invoke(Handler::Lock, &event).await;
    site.show("").await;
    Ok(())
}

/// One site, its health check, and the functions that guard it.
struct Site {
    id: HealthCheckId,
    primary: Primary,
    route53: stand_in::Route53,
    system: FailoverLock,
    started: Instant,
}

impl Site {
    /// A primary that is up, with every health check that the event names.
    async fn start(event: &str) -> Result<Self, Box<dyn Error>> {
        let transitions = alarm::transitions(event).unwrap_or_default();
        let ids: Vec<_> = transitions.into_iter().flatten().flat_map(|alarm| alarm.health_checks).collect();
        let id = ids.first().cloned().map_or_else(|| UNNAMED.to_owned().try_into(), Ok)?;

        let primary = Primary::start().await;
        let route53 = stand_in::Route53::start().await;
        for id in ids.iter().chain([&id]) {
            route53.put(id.as_str(), stand_in::Check::new("HTTP", primary.address.port()));
        }
        let credentials = Credentials::new("sandbox", "sandbox", None, None, "sandbox");
        let aws = startup::aws_config()
            .endpoint_url(route53.url())
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .load()
            .await;
        let system = FailoverLock::new(Config::read(&|_| None)?, &aws);
        Ok(Self { id, primary, route53, system, started: Instant::now() })
    }

    /// Calls a function as Lambda would, and tells what it answers.
    async fn invoke(&self, handler: Handler, event: &str) {
        let report = self.system.handle(handler, event, Deadline::after(Duration::from_secs(30))).await;
        self.tell(
            "",
            &match report.into_answer() {
                Ok(answer) => serde_json::to_string(&answer).unwrap_or_else(|error| error.to_string()),
                Err(error) => format!("error: {error}"),
            },
        );
    }

    /// Tells the check as it stands, and what Route 53's checkers make of it.
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
