//! A Region fails and 500 health checks alarm at once, while Route 53 allows the account 10 calls a
//! second after a burst of 50. Four environments work through the alarms, as four concurrent
//! executions of the function would, each with a client of its own.
//!
//! ```text
//! cargo bench --bench mass_failover
//! ```
//! Takes about four minutes, because of the limit. Prints the cost of a lock, and the time beside the time that
//! the limit alone takes.

use std::time::{Duration, Instant};

use failover::failover_lock::Handler;
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use futures_util::future::join_all;

#[path = "../tests/support/mod.rs"]
mod support;

use support::lock::{CHANGED_AT, LOCKED, delivered, message, system};
use support::route53::{Check, Route53};

const CHECKS: u32 = 500;
const ENVIRONMENTS: u32 = 4;
const CALLS_A_SECOND: f64 = 10.0;
const BURST: f64 = 50.0;
const TIMEOUT: Duration = Duration::from_mins(1);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let route53 = Route53::start().await;
    for number in 0..CHECKS {
        route53.put(&id(number), Check::new("HTTPS", 443));
    }
    route53.limit(CALLS_A_SECOND, BURST);
    let started = Instant::now();
    let environments = (0..ENVIRONMENTS).map(|environment| work(&route53, environment));
    let answered: Vec<Duration> = join_all(environments).await.concat();
    let whole = started.elapsed();

    let calls = route53.calls();
    let throttled = calls.iter().filter(|call| call.starts_with("throttled")).count();
    let admitted = calls.len() - throttled;
    let updates = calls.iter().filter(|call| call.starts_with("Update")).count();
    let locked = (0..CHECKS).filter(|number| route53.check(&id(*number)).path() == LOCKED).count();
    let effects: i64 = (0..CHECKS).map(|number| route53.check(&id(number)).version - 1).sum();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand calls")]
    let limit = (admitted as f64 - BURST) / CALLS_A_SECOND;
    let longest = answered.iter().max().copied().unwrap_or_default();
    println!("health checks                      {CHECKS}");
    println!("locked                             {locked}");
    println!("effects on them                    {effects}");
    println!("updates sent and admitted          {updates}");
    println!(
        "calls admitted for each lock       {:.2}",
        f64::from(u32::try_from(admitted).unwrap_or(0)) / f64::from(CHECKS)
    );
    println!(
        "calls throttled for each lock      {:.2}",
        f64::from(u32::try_from(throttled).unwrap_or(0)) / f64::from(CHECKS)
    );
    println!("time                               {:.1} s", whole.as_secs_f64());
    println!("time that the limit alone takes    {limit:.1} s");
    println!("longest invocation                 {:.1} s of {} s", longest.as_secs_f64(), TIMEOUT.as_secs());
    assert_eq!((locked, effects), (CHECKS as usize, i64::from(CHECKS)), "every check is locked, once");
}

/// One environment: it takes every fourth alarm, one after the other.
async fn work(route53: &Route53, environment: u32) -> Vec<Duration> {
    let system = system(route53, &[]).await;
    let mut answered = Vec::new();
    for number in (0..CHECKS).filter(|number| number % ENVIRONMENTS == environment) {
        let alarm = delivered(&[&message(&id(number), "ALARM", CHANGED_AT)]);
        let started = Instant::now();
        let report = system.handle(Handler::Lock, &alarm, Deadline::after(TIMEOUT)).await;
        if let Err(error) = report.into_answer() {
            panic!("an alarm was lost: {error}");
        }
        answered.push(started.elapsed());
    }
    answered
}

fn id(number: u32) -> String {
    format!("00000000-0000-0000-0000-{number:012}")
}
