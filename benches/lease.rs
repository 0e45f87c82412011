//! The cost of a lease, and the time until it changes hands: two `lease-keeper` processes around a table.
//!
//! ```text
//! cargo bench --features lease --bench lease
//! LEASE_KEEPER_BINARY=$PWD/target/package/lease-keeper-x86_64/bootstrap cargo bench --features lease --bench lease
//! ```
//! Takes about two minutes. Prints the calls of a holder and of a contender, a renewal's latency against an emulated
//! table, takeovers and handovers, and the memory of the process: of the binary that `cargo bench` builds, or of the
//! one that the variable names.

use std::fs;
use std::time::{Duration, Instant};

#[path = "../tests/support/mod.rs"]
mod support;

use support::emulator::Emulator;
use support::keeper::{Keeper, Observer, create_table};

/// How often a lease changes hands.
const CHANGES: usize = 5;
/// How many renewals are measured.
const RENEWALS: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let mut holder = Keeper::start(&emulator, "site-a").await;
    let mut observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    let mut contender = Keeper::start(&emulator, "site-b").await;
    observer.add(&contender);
    contender.states("it is site-a's").await;

    let calls = |keeper: &Keeper| {
        let calls = ["GetItem", "UpdateItem"].map(|operation| keeper.proxy.calls(operation));
        (calls[0], calls[1])
    };
    let (looked, renewed) = (calls(&contender), calls(&holder));
    holder.proxy.arrived("UpdateItem", renewed.1 + RENEWALS).await;
    let (looks, renewals) = (calls(&contender), calls(&holder));
    println!("in {RENEWALS} periods");
    println!(
        "  the holder's reads and writes         {}, {}",
        renewals.0 - renewed.0,
        renewals.1 - renewed.1
    );
    println!("  the contender's reads and writes      {}, {}", looks.0 - looked.0, looks.1 - looked.1);
    let metrics = holder.get("/metrics").await.1;
    let number = |name: &str| {
        let name = format!("lease_keeper_call_seconds_{name}{{lease=\"mylease\",call=\"write\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name)).expect("it is counted");
        line.parse::<f64>().expect("it is a number")
    };
    println!("a renewal against the emulated table    {:.1} ms", number("sum") / number("count") * 1e3);
    let id = holder.id().expect("it runs");
    let status =
        fs::read_to_string(format!("/proc/{id}/status")).expect("Linux has a status of each process");
    for (name, field) in [("memory at its highest", "VmHWM:"), ("memory of its own", "RssAnon:")] {
        let used = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
        println!("{name:<39} {}", used.trim());
    }

    for (name, signal) in
        [("takeover from one that was killed", "KILL"), ("handover by one that was terminated", "TERM")]
    {
        let mut times = Vec::new();
        for _ in 0..CHANGES {
            let started = Instant::now();
            holder.signal(signal).await;
            observer.active(&contender).await;
            times.push(started.elapsed());
            // It comes back as the contender.
            let successor = Keeper::start(&emulator, "site").await;
            observer.add(&successor);
            successor.states("it is site").await;
            (holder, contender) = (contender, successor);
        }
        times.sort();
        let seconds = |time: Duration| time.as_secs_f64();
        println!(
            "{name:<39} {:.2} s, {:.2} to {:.2}, of {CHANGES}",
            seconds(times[CHANGES / 2]),
            seconds(times[0]),
            seconds(times[CHANGES - 1])
        );
    }
    observer.vouch();
}
