//! The race of a latch: how often Route 53 falls back before the lock holds, and how long a lock takes, in 10,000
//! outages for each setting; in virtual time, with the decisions of the watcher itself. Then 500 pairs that fail at once,
//! at the wire: the time until every object is in both buckets, and what the watcher uses.
//!
//! ```text
//! cargo bench --bench latch
//! ```
//! `-- race` and `-- pairs` run one part. It takes some two minutes.

use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use failover::lambda::Report as _;
use failover::latch::FailoverLatch;
use failover::latch::config::Config;
use failover::latch::decide::{Next, Plan, confirmed, first};
use failover::latch::seen::{Object, Record as Answered, Verdict, Verdicts};
use failover::remote::deadline::Deadline;
use failover::remote::https::Https;
use fastrand::Rng;

#[path = "../tests/support/mod.rs"]
mod support;

use support::aws::{aws_at, credentials};
use support::miniature::Shared;
use support::miniature::dns::NameServers;
use support::miniature::latch::{
    OBJECTS, Outage, PRIMARY_SENTINEL, Probing, SERVING_SENTINEL, STANDBY_SENTINEL, Ticks,
};
use support::miniature::records::{Record, SERVERS};
use support::miniature::world::World;
use support::s3::{S3, WATCHER};
use support::site::BUCKETS;

const OUTAGES: u64 = 10_000;
const PAIRS: usize = 500;
/// From a look's start to the object in the bucket.
const WRITE: Duration = Duration::from_secs(1);
/// The outage begins then, and the simulation ends ten minutes later.
const START: Duration = Duration::from_mins(2);

fn main() {
    let part = std::env::args().nth(1).filter(|part| !part.starts_with("--"));
    if part.as_deref() != Some("pairs") {
        race();
    }
    if part.as_deref() != Some("race") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime starts").block_on(measure(PAIRS));
    }
}

fn race() {
    println!(
        "| primary's check | latch check | a look every | outage | fell back first | never locked | failover → lock holds, p50 / p99 |"
    );
    println!("|---|---|---|---|---|---|---|");
    let probing = |interval, threshold| Probing { interval, threshold };
    for (primary, latch, every, kind) in [
        (probing(30, 3), probing(30, 1), 5, "once"),
        (probing(30, 3), probing(30, 1), 15, "once"),
        (probing(10, 3), probing(30, 1), 15, "once"),
        (probing(30, 1), probing(30, 1), 15, "once"),
        (probing(30, 1), probing(30, 1), 60, "once"),
        (probing(30, 1), probing(10, 1), 5, "once"),
        (probing(30, 3), probing(10, 1), 5, "once"),
        (probing(10, 3), probing(10, 1), 5, "once"),
        (probing(30, 1), probing(10, 1), 15, "flapping"),
        (probing(30, 3), probing(10, 1), 5, "flapping"),
    ] {
        let started = Instant::now();
        let (mut failovers, mut fell_back, mut never) = (0_u32, 0_u32, 0_u32);
        let mut times = Vec::new();
        for seed in 0..OUTAGES {
            let outcome = outage(seed, primary, latch, every, kind);
            let Some(failed_over) = outcome.failed_over else { continue };
            failovers += 1;
            fell_back += u32::from(outcome.fell_back > Duration::ZERO);
            match outcome.latched {
                Some(latched) => times.push(latched.saturating_sub(failed_over)),
                None => never += 1,
            }
        }
        times.sort_unstable();
        let percent = |count: u32| 100.0 * f64::from(count) / f64::from(failovers.max(1));
        let at =
            |per_cent: usize| times.get(times.len() * per_cent / 100).map_or(f64::NAN, Duration::as_secs_f64);
        println!(
            "| {} s × {} | {} s × {} | {every} s | {kind} | {:.2} % of {failovers} | {:.2} % | {:.0} / {:.0} s |",
            primary.interval,
            primary.threshold,
            latch.interval,
            latch.threshold,
            percent(fell_back),
            percent(never),
            at(50),
            at(99),
        );
        eprintln!("{:.1} s", started.elapsed().as_secs_f64());
    }
}

fn outage(
    seed: u64,
    primary: Probing,
    latch: Probing,
    every: u64,
    kind: &str,
) -> support::miniature::latch::Outcome {
    let mut rng = Rng::with_seed(seed);
    let outage = Outage {
        primary,
        latch,
        failing: failing(&mut rng, kind),
        until: START + Duration::from_mins(10),
        ticks: Ticks { look_every: Duration::from_secs(every), ..Ticks::default() },
    };
    let mut is_locked = false;
    outage.simulate(seed, |world, look| {
        let absent = [Object::Absent, Object::Absent];
        if !is_locked && is_due(world, &absent) {
            is_locked = true;
            for object in OBJECTS {
                world.set_passing_from(object, look.now + WRITE, true);
            }
        }
    })
}

/// The outage of 30 to 300 s; or six of 10 to 60 s, so far apart.
fn failing(rng: &mut Rng, kind: &str) -> Vec<Range<Duration>> {
    let between =
        |rng: &mut Rng, from: u64, to: u64| Duration::from_millis(rng.u64(from * 1_000..to * 1_000));
    if kind == "once" {
        return vec![START..START + between(rng, 30, 300)];
    }
    let mut start = START;
    (0..6)
        .map(|_| {
            let end = start + between(rng, 10, 60);
            let failing = start..end;
            start = end + between(rng, 10, 60);
            failing
        })
        .collect()
}

/// Whether the watcher's own decisions lead to a write.
fn is_due(world: &World, absent: &[Object]) -> bool {
    let verdict = |sentinel| {
        let texts = (0..SERVERS).filter_map(|server| world.text(server, sentinel));
        Verdict::of(texts.map(|text| match text.as_str() {
            "primary" | "healthy" => Answered::Primary,
            _ => Answered::Secondary,
        }))
    };
    let said = Verdicts {
        serving: verdict(SERVING_SENTINEL),
        primary: verdict(PRIMARY_SENTINEL),
        standby: verdict(STANDBY_SENTINEL),
    };
    first(absent, absent, said, Duration::ZERO) == Next::Confirm
        && matches!(confirmed(absent, absent, said, Duration::ZERO), Plan::Put(_))
}

/// Lets so many pairs fail over, looks once, and prints how long it took until every object was in both buckets.
async fn measure(pairs: usize) {
    let mut world = World::new(1);
    let zone = |number: usize, role: &str| format!("_{role}.app-{number}.example.com");
    for number in 0..pairs {
        world.put([
            Record::txt(&zone(number, "serving"), "standby"),
            Record::txt(&zone(number, "primary"), "unhealthy"),
            Record::txt(&zone(number, "standby"), "healthy"),
        ]);
    }
    world.pass(Duration::from_mins(1));
    let servers = NameServers::start(&Shared::new(world)).await;
    let s3 = S3::start(&BUCKETS).await;
    let latch = |number: usize| {
        let at = |role| zone(number, role);
        format!("app-{number}:serving={},primary={},standby={}", at("serving"), at("primary"), at("standby"))
    };
    let latches = (0..pairs).map(latch).collect::<Vec<_>>().join(";");
    let buckets = BUCKETS.map(|(region, bucket)| format!("{region}={bucket}")).join(",");
    let servers = servers.variable();
    let lookup = |name: &str| match name {
        "LATCHES" => Some(latches.clone()),
        "LATCH_BUCKETS" => Some(buckets.clone()),
        "NAME_SERVERS" => Some(servers.clone()),
        _ => None,
    };
    let config = Config::read(&lookup).expect("the variables are valid");
    let aws = aws_at(&s3.url()).await.to_builder().credentials_provider(credentials(WATCHER)).build();
    let https = Https::new(&|_| None).expect("no bundle is named");
    let watcher = FailoverLatch::new(config, "watcher".to_owned(), &aws, https);
    for what in ["500 pairs fail over", "500 pairs are locked"] {
        let (before, started, cpu) = (s3.calls().len(), Instant::now(), cpu());
        let answer = watcher.handle("{}", Deadline::after(Duration::from_secs(9))).await.into_answer();
        let took = started.elapsed();
        let answer = answer.expect("the look does not fail");
        let locked = answer.latches.values().filter(|state| state.name() == "locked").count();
        let objects = BUCKETS.map(|(_, bucket)| s3.keys(bucket).len());
        println!(
            "{what}: {locked} of {pairs} locked, {objects:?} objects, {:.2} s, {} calls to S3, {:.2} s of CPU with the stand-ins",
            took.as_secs_f64(),
            s3.calls().len() - before,
            self::cpu().saturating_sub(cpu).as_secs_f64(),
        );
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("memory of the watcher with the stand-ins: {}", peak.trim_start_matches("VmHWM:").trim());
}

/// This process's time on the processor.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or_default();
    // The user's and the system's, in hundredths of a second.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}
