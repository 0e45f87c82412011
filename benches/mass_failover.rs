//! A Region fails and 500 health checks alarm at once, while Route 53 allows the account 10 calls a second after a
//! burst of 50. As deployed for many checks, four concurrent executions of `lock` work through the alarms, each
//! with a client of its own; `reconcile` runs beside them every minute; and a person restores one more check in
//! the middle. Then an hour of peace: what `reconcile` calls a minute for 500 armed and for 500 locked checks.
//!
//! ```text
//! cargo bench --bench mass_failover
//! ```
//! Takes as long as the limit makes it: some three minutes.

use std::time::{Duration, Instant};

use failover::failover_lock::{FailoverLock, Handler};
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use futures_util::future::join_all;
use serde_json::json;

#[path = "../tests/support/mod.rs"]
mod support;

use support::cloudwatch::{Alarm, Kind};
use support::lock::{LOCKED, delivered, message, system};
use support::primary::Primary;
use support::route53::{Check, Route53};

const CHECKS: u32 = 500;
const TAG: &str = "failover";
/// The check and its tags are read, the path is set, and the lock recorded.
const CALLS_OF_A_LOCK: f64 = 4.0;
/// The template's `LockConcurrency`, as `infra/deploy --guarded-tag` sets it.
const EXECUTIONS: u32 = 4;
const CALLS_A_SECOND: f64 = 10.0;
const BURST: f64 = 50.0;
/// The functions' timeouts in the template.
const LOCK: Duration = Duration::from_mins(1);
const RECONCILE: Duration = Duration::from_secs(50);
const TICK: Duration = Duration::from_mins(1);
const RESTORED_AFTER: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let changed_at = chrono::Utc::now();
    let route53 = Route53::start().await;
    for number in 0..CHECKS {
        route53.put(&id(number), check(number));
        route53.put_alarm(&id(number), alarm(number, "ALARM", changed_at.timestamp()));
    }
    let primary = Primary::start("/lb-check").await;
    let one_more = Check::new("HTTP", primary.address.port()).with("ResourcePath", LOCKED).changed();
    route53.put(&id(CHECKS), one_more.tagged(TAG, "lock"));
    let guarded = [("GUARDED_TAG", TAG)];

    route53.limit(CALLS_A_SECOND, BURST);
    let started = Instant::now();
    let changed_at = changed_at.to_rfc3339();
    let lock = join_all((0..EXECUTIONS).map(|execution| work(&route53, &guarded, execution, &changed_at)));
    let ((answered, whole), (), restored) = tokio::join!(
        async { (lock.await, started.elapsed()) },
        async {
            let reconcile = system(&route53, &guarded).await;
            while locked(&route53) < CHECKS as usize {
                let end = Instant::now() + TICK;
                tick(&reconcile).await;
                if locked(&route53) < CHECKS as usize {
                    tokio::time::sleep_until(end.into()).await;
                }
            }
        },
        async {
            tokio::time::sleep(RESTORED_AFTER).await;
            let started = Instant::now();
            let request = json!({ "healthCheckId": id(CHECKS), "reason": "synchronised" }).to_string();
            let restore = system(&route53, &guarded).await;
            let report = restore.handle(Handler::Restore, &request, Deadline::after(LOCK)).await;
            report.into_answer().expect("a person's restore is served");
            started.elapsed()
        }
    );
    let longest = answered.concat().into_iter().max().unwrap_or_default();
    let calls = of_route53(&route53);
    let throttled = calls.iter().filter(|call| call.starts_with("throttled")).count();
    let admitted = calls.len() - throttled;
    let limit = (CALLS_OF_A_LOCK * f64::from(CHECKS) - BURST) / CALLS_A_SECOND;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand calls")]
    let each = |calls: usize| calls as f64 / f64::from(CHECKS);
    println!("health checks                      {CHECKS}");
    println!("locked                             {}", locked(&route53));
    println!("calls admitted for each lock       {:.2}", each(admitted));
    println!("calls throttled for each lock      {:.2}", each(throttled));
    println!("time                               {:.1} s", whole.as_secs_f64());
    println!("time of four calls for each lock   {limit:.1} s");
    println!("longest invocation of lock         {:.1} s of {} s", longest.as_secs_f64(), LOCK.as_secs());
    println!("a person's restore meanwhile       {:.1} s", restored.as_secs_f64());
    assert_eq!(locked(&route53), CHECKS as usize, "every check is locked");
    assert!(whole.as_secs_f64() <= 1.3 * limit, "within 1.3 of the limit's own time");
    assert!(restored <= Duration::from_secs(10), "a person's restore is served at once");

    for (state, path, most) in [("OK", "/lb-check", 12.0), ("ALARM", LOCKED, 24.0)] {
        let route53 = Route53::start().await;
        for number in 0..CHECKS {
            let check = check(number).with("ResourcePath", path);
            let check = if path == LOCKED && !number.is_multiple_of(2) { check.changed() } else { check };
            let tag =
                format!("v=3 of={TAG} at=2026-11-21T02:36:16Z alarm={changed_at}").replace("+00:00", "Z");
            let tagged = if path == LOCKED { check.tagged("failover-lock:out", &tag) } else { check };
            route53.put(&id(number), tagged);
            route53.put_alarm(&id(number), alarm(number, state, 0));
        }
        let reconcile = system(&route53, &guarded).await;
        for _ in 0..60 {
            tick(&reconcile).await;
            // The hour passes at once.
            tokio::time::pause();
            tokio::time::advance(TICK).await;
            tokio::time::resume();
        }
        let calls = of_route53(&route53).len();
        #[expect(clippy::cast_precision_loss, reason = "a few thousand calls")]
        let a_minute = calls as f64 / 60.0;
        let what = if path == LOCKED { "locked" } else { "armed" };
        println!("{CHECKS} {what}, calls a minute          {a_minute:.1}");
        assert!(a_minute <= most, "at most {most} calls a minute");
    }
}

/// A check with the tag. Every second one is as it was created.
fn check(number: u32) -> Check {
    let check = Check::new("HTTPS", 443).tagged(TAG, "lock");
    if number.is_multiple_of(2) { check.changed() } else { check }
}

fn alarm(number: u32, state: &'static str, changed_at: i64) -> Alarm {
    let kind = Kind::Metric("HealthCheckStatus", id(number));
    #[expect(clippy::cast_precision_loss, reason = "a double holds the seconds of our days")]
    let changed_at = changed_at as f64;
    Alarm { kind, ..Alarm::on("", state, changed_at) }
}

/// Without the calls to CloudWatch, which has a limit of its own.
fn of_route53(route53: &Route53) -> Vec<String> {
    let of_cloudwatch =
        |call: &String| ["Describe", "GetMetric", "ListAlarm"].iter().any(|begin| call.starts_with(begin));
    route53.calls().into_iter().filter(|call| !of_cloudwatch(call)).collect()
}

fn locked(route53: &Route53) -> usize {
    (0..CHECKS).filter(|number| route53.check(&id(*number)).path() == LOCKED).count()
}

/// What a tick that meets the limit cannot read or lock, the next one does.
async fn tick(reconcile: &FailoverLock) {
    let report = reconcile.handle(Handler::Reconcile, "{}", Deadline::after(RECONCILE)).await;
    let failed = report.into_results().into_iter().filter(Result::is_err).count();
    assert_eq!(failed, 0, "a tick that meets the limit gives way");
}

/// One execution of `lock`: it takes every fourth alarm, one after the other.
async fn work(
    route53: &Route53,
    guarded: &[(&str, &str)],
    execution: u32,
    changed_at: &str,
) -> Vec<Duration> {
    let system = system(route53, guarded).await;
    let mut answered = Vec::new();
    for number in (0..CHECKS).filter(|number| number % EXECUTIONS == execution) {
        let alarm = delivered(&[&message(&id(number), "ALARM", changed_at)]);
        let started = Instant::now();
        let report = system.handle(Handler::Lock, &alarm, Deadline::after(LOCK)).await;
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
