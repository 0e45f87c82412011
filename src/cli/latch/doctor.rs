//! `failoverctl latch doctor`: everything that a latch consists of, compared with what it has to be.

mod buckets;
mod delegation;
mod deployed;
mod policy;
mod sentinels;
mod watchers;
mod zone;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use clap::Args;

use super::status::word;
use super::{File, Latches};
use crate::cli::error::{Ended, Error};
use crate::cli::findings::Findings;
use crate::cli::session::Common;
use crate::latch::config::Latch;
use crate::latch::dns::Transport;
use crate::latch::outcome::State;
use crate::latch::seen::{Object, Verdict};

const ARM: &str = "arm it: infra/deploy latch --arm";
const DEPLOY: &str = "deploy the latch again: infra/deploy latch --name";
/// For what `CloudFormation` does not notice.
const ANEW: &str = "docs/runbook.md#make-a-latchs-resources-anew";

/// Check everything that a latch consists of, and show each fault with its repair.
#[derive(Debug, Args)]
#[command(
    after_help = "ok: well. look: worth a look. WRONG: repair it, by what follows the arrow. unseen: could not be seen from \
    here, or is not permitted.\n\nExample:\n  failoverctl latch doctor app"
)]
pub(super) struct Arguments {
    /// The latch.
    latch: String,
    /// The DNS resolver that is asked to whom the domain is delegated, by default the first one in /etc/resolv.conf.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = delegation::address)]
    resolver: Option<SocketAddr>,
    #[command(flatten)]
    file: File,
}

/// What a doctor looks at.
struct Doctor<'a> {
    latches: &'a Latches,
    latch: &'a Latch,
    resolver: Option<SocketAddr>,
    findings: Findings,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { latch, resolver, file } = arguments;
    let latches = file.open(common).await?;
    let latch = latches.named(&latch)?;
    let mut doctor = Doctor { latches: &latches, latch, resolver, findings: Findings::default() };
    doctor.now().await;
    for (at, bucket) in latches.config.buckets.iter().enumerate() {
        doctor.bucket(at, bucket).await;
    }
    doctor.route53().await;
    let seen = if latches.by_process { BTreeMap::new() } else { doctor.deployed().await };
    let gap = doctor.watchers(&seen).await;
    doctor.race(gap, seen.values().any(|is_new| *is_new)).await;
    doctor.findings.show(&latches.session.screen).await
}

impl Doctor<'_> {
    /// What a watcher sees now.
    async fn now(&mut self) {
        let config = &self.latches.config;
        let seen = self.latches.see(self.latch).await;
        let said = format!(
            "{}: serving {}, primary {}, standby {}",
            seen.state.name(),
            word(seen.said.serving, ["primary", "standby"]),
            word(seen.said.primary, ["healthy", "unhealthy"]),
            word(seen.said.standby, ["healthy", "unhealthy"]),
        );
        let name = &self.latch.name;
        let over_tcp = self.latches.name_servers.deciding(&[self.latch], Transport::Tcp).await;
        let both = seen.said.and(over_tcp[0]);
        match seen.state {
            // The line below says why not.
            State::Armed if !both.are_clear() => {}
            State::Armed | State::Locked | State::Holding => self.findings.ok("now", said),
            State::Failed(cause) => self.findings.unknown("now", &cause),
            State::Unsettled if seen.said.is_overdue() => self.findings.wrong(
                "now",
                said,
                "if that lasts for a minute: Route 53 does not fail over, and no lock would hold; see the lines below".to_owned(),
            ),
            State::Blind | State::Unsettled => self.findings.wrong(
                "now",
                said,
                "see that this machine reaches the zone's name servers on port 53, by UDP and TCP".to_owned(),
            ),
            State::Half => {
                self.findings.wrong("now", said, format!("failoverctl latch lock {name} --reason 'complete the lock'"));
            }
            State::NotHolding => self.findings.wrong(
                "now",
                said,
                "the record does not refer to the latch, or a latch check does not see the object: see the lines below"
                    .to_owned(),
            ),
            State::StandbyUnhealthy => self.findings.wrong("now", said, "repair the standby".to_owned()),
            State::LatchSuspect => {
                self.findings.wrong("now", said, "find the latch check that is unhealthy, in the lines below".to_owned());
            }
            State::DryRun | State::WouldLock => self.findings.wrong(
                "now",
                said,
                format!("no watcher has locked: failoverctl latch lock {name} --reason 'the watchers do not'"),
            ),
        }
        let remedy = "see that this machine and each watcher reach them on port 53 by TCP";
        if both.is(Verdict::Blind) && !seen.said.is(Verdict::Blind) {
            let found =
                "the name servers answer this machine over UDP, and too few over TCP, which every lock needs";
            self.findings.wrong("now", found.to_owned(), remedy.to_owned());
        } else if both.is(Verdict::Split) && seen.said.are_clear() {
            let found =
                "the name servers contradict over TCP what they say over UDP, and every lock needs both";
            self.findings.wrong("now", found.to_owned(), format!("if that lasts for a minute: {remedy}"));
        }
        if seen.said.primary == Verdict::Blind {
            self.findings.wrong(
                "now",
                format!("no answer about {}", self.latch.primary),
                format!("{DEPLOY} {name}"),
            );
        }
        for (bucket, hold) in config.buckets.iter().zip(&seen.holds) {
            if hold.is_stale_hold() {
                // A release would open a locked latch.
                let remedy = if seen.keys.iter().any(|key| key.stored().is_some()) {
                    format!("failoverctl latch lock {name} --reason 'to remove a hold'")
                } else if seen.keys.iter().all(|key| *key == Object::Absent) {
                    format!("failoverctl latch release {name}")
                } else {
                    format!("once every bucket answers: failoverctl latch doctor {name}")
                };
                let what =
                    format!("{bucket} has the hold of a command that was broken off, which watchers ignore");
                self.findings.wrong("now", what, remedy);
            }
        }
    }
}
