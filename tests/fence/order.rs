//! Any order of reports, repeats, faults, deaths, splits, take-outs and rejoins, against the stand-ins: at least one site is in
//! service, never the stale one alone unless a person forced it; and once faults stop, the reports of a live reporter
//! about a dead site get through, or a person is told.
//!
//! A site is stale from the moment at which the other one serves alone until a person rejoins it while the sites see each
//! other. Not here: a site whose fence could not be noted and that is put back without a rejoin, because nothing shows
//! that it was out.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::accelerator::{Accelerator, Endpoint, Fault, Group};
use crate::support::infinispan::{self, Infinispan};
use crate::support::sites::{
    self, DNS_NAME, LABEL, REGION, Sites, alert, outcomes, outcomes_within, rejoin, rejoin_within, take_out,
};
use crate::support::wire::{Break, Wire};
use chrono::TimeDelta;
use failover::remote::deadline::Deadline;
use failover::site_fence::{Handler, SiteFence};
use serde_json::json;

/// The time of an invocation while there are faults, and afterwards.
const TIME: Duration = Duration::from_secs(2);
const CALM: Duration = Duration::from_secs(20);
const BOTH: [usize; 2] = [0, 1];
const NAMES: [&str; 2] = ["site-a", "site-b"];

struct World {
    sites: Sites,
    /// The ways to Elastic Load Balancing, to Secrets Manager and, with a table, to `DynamoDB`, and what breaks their connections.
    ways: Vec<Wire>,
    with_table: bool,
    /// An execution in each of two Regions.
    two: [SiteFence; 2],
    /// An endpoint of no site.
    other: String,
    random: fastrand::Rng,
    /// The time of an invocation.
    time: Duration,
    is_split: bool,
    dead: [bool; 2],
    stale: [bool; 2],
    forced: [bool; 2],
    /// Whether a removal may have been done, by its lost answer, and no rejoin has ended since.
    perhaps: [bool; 2],
    /// The alert that fires at each site.
    firing: [Option<String>; 2],
    /// Every notification so far.
    sent: Vec<String>,
    told: Vec<String>,
}

// === impl World ===

impl World {
    async fn start(seed: u64, with_table: bool) -> Self {
        let sites = Sites::start().await;
        sites.table().await;
        let other = "eipalloc-0123456789abcdef0".to_owned();
        let group = Group::new(REGION, [&sites.both()[..], &[Endpoint::new(&other)]].concat());
        sites.accelerators.put(Accelerator::new(LABEL).listener([group]));
        let address: SocketAddr = sites.aws.url.trim_start_matches("http://").parse().expect("an address");
        let services = [
            "AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2",
            "AWS_ENDPOINT_URL_SECRETS_MANAGER",
            "AWS_ENDPOINT_URL_DYNAMODB",
        ];
        let (mut ways, mut changes) = (Vec::new(), Vec::new());
        for service in services.into_iter().take(if with_table { 3 } else { 2 }) {
            let way = Wire::start(address, "POST / ", Vec::new()).await;
            changes.push((service, format!("http://{}", way.address)));
            ways.push(way);
        }
        changes.extend(with_table.then(|| ("FENCE_TABLE", sites.table_name())));
        let changes: Vec<_> = changes.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let two = BOTH.map(|_| sites.system(&changes));
        Self {
            ways,
            with_table,
            two,
            other,
            random: fastrand::Rng::with_seed(seed),
            time: TIME,
            is_split: false,
            dead: [false; 2],
            stale: [false; 2],
            forced: [false; 2],
            perhaps: [false; 2],
            firing: [None, None],
            sent: Vec::new(),
            told: Vec::new(),
            sites,
        }
    }

    fn infinispan(&self, site: usize) -> &Infinispan {
        [&self.sites.a, &self.sites.b][site]
    }

    fn balancer(&self, site: usize) -> &str {
        [&self.sites.balancer_a, &self.sites.balancer_b][site]
    }

    fn serves(&self, site: usize) -> bool {
        self.sites.in_service().iter().any(|id| id == self.balancer(site))
    }

    /// Shows the stand-ins what lives and who sees whom. What changes begins and ends alerts.
    fn settle(&mut self) {
        for site in BOTH {
            let sees = !self.is_split && !self.dead[1 - site];
            self.infinispan(site).cut_off(!sees);
            self.infinispan(site).recover();
            if self.dead[site] {
                self.infinispan(site).fail_always("status", infinispan::Fault::CloseBefore);
                self.infinispan(site).fail_always("view", infinispan::Fault::CloseBefore);
            }
            let health = if self.dead[site] { "UNHEALTHY" } else { "HEALTHY" };
            self.sites.accelerators.set_health(self.balancer(site), health);
            if self.dead[site] {
                self.firing[site] = None;
            } else if !sees && self.firing[site].is_none() {
                self.firing[site] = Some(alert(NAMES[site], NAMES[1 - site]));
            } else if sees && self.random.bool() {
                // Prometheus sees only at its next evaluation that the alert is over.
                self.firing[site] = None;
            }
        }
    }

    /// Faults of the next calls.
    fn break_some(&mut self) {
        let ga = &self.sites.accelerators;
        for operation in
            ["RemoveEndpoints", "TagResource", "AddEndpoints", "UntagResource", "ListEndpointGroups"]
        {
            match self.random.u8(0..42) {
                12 => ga.fail(operation, Fault::Hang),
                0..3 => ga.fail(operation, Fault::CloseBefore),
                3..6 => ga.fail(operation, Fault::CloseAfter),
                6..9 => ga.fail(operation, Fault::Error("AccessDeniedException", "not authorized")),
                _ => {}
            }
        }
        let site = self.random.usize(0..2);
        match self.random.u8(0..12) {
            10 => self.infinispan(site).fail("take-offline", infinispan::Fault::Hang),
            11 => self.infinispan(site).fail("status", infinispan::Fault::Slow(Duration::from_millis(700))),
            0 => self.infinispan(site).fail("take-offline", infinispan::Fault::Status(500, "no")),
            1 => self.infinispan(site).fail("bring-online", infinispan::Fault::Status(403, "no")),
            2 => self.infinispan(site).fail("status", infinispan::Fault::CloseBefore),
            3 => self.infinispan(site).fail("view", infinispan::Fault::Status(200, "{}")),
            _ => {}
        }
        for way in &self.ways {
            match self.random.u8(0..16) {
                0 | 1 => way.then(Break::ResetBefore),
                2 | 3 => way.then(Break::ResetAfter),
                4 | 5 => (0..20).for_each(|_| way.then(Break::ResetBefore)),
                6 => (0..3).for_each(|_| way.then(Break::Silence)),
                _ => {}
            }
        }
    }

    fn recover(&mut self) {
        self.sites.accelerators.recover();
        for site in BOTH {
            self.infinispan(site).recover();
        }
        self.ways.iter().for_each(Wire::recover);
    }

    /// Delivers the alert that fires at a site, or nothing.
    async fn report(&mut self, site: usize) -> Vec<String> {
        let Some(event) = self.firing[site].clone() else { return Vec::new() };
        self.sent.push(event.clone());
        let told = outcomes_within(&self.two[site], &event, self.time).await;
        self.told.push(format!("{} reports: {told:?}", NAMES[site]));
        told
    }

    async fn rejoin(&mut self, site: usize, force: bool) {
        let connected = !self.is_split && self.dead == [false; 2];
        let request = json!({ "accelerator": DNS_NAME, "site": NAMES[site], "force": force });
        let was_out = !self.serves(site);
        let answer = rejoin_within(&self.two[0], &request, self.time).await;
        let is_back = answer.as_ref().is_ok_and(|answer| answer["outcome"] != "refused");
        self.told.push(format!("rejoin {} {force}: {answer:?}", NAMES[site]));
        // Its answer may be lost although the site is back.
        if self.serves(site) && (was_out || is_back) {
            self.forced[site] |= force;
            self.stale[site] &= !connected;
        }
        self.perhaps[site] &= !is_back;
    }

    async fn step(&mut self) {
        match self.random.u8(0..10) {
            0 | 1 => self.is_split = true,
            2 => self.is_split = false,
            3 if self.dead == [false; 2] => {
                let site = self.random.usize(0..2);
                self.dead[site] = true;
            }
            4 | 5 => self.dead = [false; 2],
            _ => {}
        }
        self.told.push(format!("split {}, dead {:?}", self.is_split, self.dead));
        self.settle();
        self.break_some();
        let site = self.random.usize(0..2);
        match self.random.u8(0..12) {
            0..5 => drop(self.report(site).await),
            5 | 6 if self.with_table => {
                let events = self.firing.clone().map(Option::unwrap_or_default);
                if events.iter().all(|event| !event.is_empty()) {
                    let both = tokio::join!(
                        outcomes_within(&self.two[0], &events[0], self.time),
                        outcomes_within(&self.two[1], &events[1], self.time)
                    );
                    self.told.push(format!("both report: {both:?}"));
                }
            }
            7 if !self.sent.is_empty() => {
                let event = self.sent[self.random.usize(0..self.sent.len())].clone();
                let told = outcomes_within(&self.two[site], &event, self.time).await;
                self.told.push(format!("delivered again: {told:?}"));
            }
            8 => {
                // Infrastructure as code puts back what it finds missing.
                let is_noted =
                    self.sites.tags().iter().any(|(key, _)| *key == format!("site-fence:{}", NAMES[site]));
                if !self.serves(site) && is_noted {
                    self.sites.accelerators.add(&sites::group(), self.sites.both()[site].clone());
                    self.told.push(format!("{} is put back", NAMES[site]));
                }
            }
            9 if self.random.u8(0..4) == 0 => self.rejoin(site, true).await,
            10 if self.random.bool() => {
                let request = json!({ "takeOut": NAMES[site], "accelerator": DNS_NAME }).to_string();
                let report = self.two[0].handle(Handler::Fence, &request, Deadline::after(self.time)).await;
                self.told.push(format!("take out {}: {:?}", NAMES[site], sites::told(&report)));
            }
            _ => self.rejoin(site, false).await,
        }
        if self.told.last().is_some_and(|told| told.contains("failed")) {
            self.perhaps = [true; 2];
        }
    }

    fn check(&mut self, at: &str) {
        let serves = BOTH.map(|site| self.serves(site));
        for site in BOTH {
            if !serves[site] && serves[1 - site] {
                (self.stale[site], self.forced[site]) = (true, false);
            }
        }
        let told = || self.told.join("\n");
        assert!(serves != [false; 2], "{at}: no site is left after\n{}", told());
        for site in BOTH {
            let alone = serves[site] && !serves[1 - site];
            assert!(
                !(alone && self.stale[site] && !self.forced[site]),
                "{at}: {} serves alone and is stale after\n{}",
                NAMES[site],
                told()
            );
        }
        assert!(self.sites.in_service().contains(&self.other), "{at}:\n{}", told());
    }

    /// Faults end, and a site dies. Within three minutes, in which Alertmanager delivers the report three times at least, it
    /// gets through, or a person is told.
    async fn lives(&mut self, at: &str) {
        self.recover();
        self.time = CALM;
        self.told.push("faults end".to_owned());
        (self.is_split, self.dead) = (false, [false; 2]);
        self.settle();
        let dead = self.random.usize(0..2);
        let reporter = 1 - dead;
        self.dead[dead] = true;
        // The alert of an earlier split may go on to fire.
        self.settle();
        let mut last = Vec::new();
        for _ in 0..3 {
            last = self.report(reporter).await;
            self.check(at);
            if !self.serves(dead) {
                break;
            }
            self.sites.age_entries(TimeDelta::seconds(90)).await;
        }
        let answers: BTreeSet<_> = last.iter().map(String::as_str).collect();
        let told = [
            "refused: survivor_unhealthy",
            "refused: reporter_was_fenced",
            "refused: rejoined_by_force",
            "refused: reporter_missing",
        ];
        let is_told = told.iter().any(|told| answers.contains(told));
        assert!(!self.serves(dead) || is_told, "{at}: {last:?} after\n{}", self.told.join("\n"));
        // A person who forced the dead site into service is told that it is not taken out again.
        let is_chosen = self.forced[dead] && answers.contains("refused: rejoined_by_force");
        // One that may be out is no reporter until it is rejoined: the record in the table says so.
        let is_doubted = self.perhaps[reporter] && answers.contains("refused: reporter_was_fenced");
        if !self.stale[reporter] && !is_chosen && !is_doubted {
            assert!(
                !self.serves(dead),
                "{at}: a live site that is not stale: {last:?}\n{}",
                self.told.join("\n")
            );
        }
        // The dead site is repaired: once the sites see each other, a person can rejoin both.
        self.dead = [false; 2];
        self.recover();
        self.settle();
        for site in BOTH {
            self.sites.age_entries(TimeDelta::seconds(90)).await;
            self.sites.accelerators.age_notes(TimeDelta::seconds(90));
            self.rejoin(site, false).await;
            if !self.serves(site) {
                // What could not be noted is added by hand first.
                self.sites.accelerators.add(&sites::group(), self.sites.both()[site].clone());
                self.rejoin(site, false).await;
            }
        }
        let told = self.told.join("\n");
        assert!(BOTH.iter().all(|site| self.serves(*site)), "{at}: a site cannot be rejoined after\n{told}");
        assert_eq!(self.stale, [false; 2], "{at}: {told}");
        self.check(at);
        self.time = TIME;
    }
}

/// Returns what was told.
async fn holds(seed: u64, with_table: bool) -> String {
    let mut world = World::start(seed, with_table).await;
    for round in 0..4 {
        for step in 0..16 {
            Box::pin(world.step()).await;
            world.check(&format!("seed {seed}, round {round}, step {step}"));
        }
        Box::pin(world.lives(&format!("seed {seed}, round {round}"))).await;
    }
    world.told.join("\n")
}

#[tokio::test]
async fn in_any_order_of_events_a_site_stays_that_is_not_stale_and_its_reports_get_through() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2);
    let mut told = String::new();
    for seed in 0..seeds {
        told += &Box::pin(holds(seed, true)).await;
    }
    for seen in ["[\"fenced", "String(\"rejoined"] {
        assert!(told.contains(seen), "{seen} never happened in\n{told}");
    }
}

#[tokio::test]
async fn in_one_region_the_same_holds_without_a_table() {
    Box::pin(holds(100, false)).await;
}

/// Global Accelerator may answer for a while as it was before.
#[tokio::test]
async fn a_site_that_was_just_taken_out_takes_out_no_other_although_it_is_still_shown() {
    for by_a_person in [false, true] {
        let sites = Sites::start().await;
        sites.table().await;
        let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
        let shown =
            || sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, sites.both())]));
        let report =
            async || outcomes_within(&system, &alert("site-b", "site-a"), Duration::from_secs(3)).await;
        if by_a_person {
            assert_eq!(take_out(&system, "site-b").await, "taken_out");
        } else {
            assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
        }
        shown();
        sites.age_entries(TimeDelta::seconds(50)).await;
        for _ in 0..2 {
            assert_eq!(report().await, ["failed: OtherReport"], "{by_a_person}");
        }
        assert_eq!(take_out(&system, "site-a").await, "failed: OtherReport");
        // Also where the answer to a claim is lost, or nothing can be read under it.
        sites.accelerators.fail("ListEndpointGroups", Fault::meddle(|_| {}));
        sites
            .accelerators
            .fail("ListEndpointGroups", Fault::Error("AccessDeniedException", "not authorized"));
        assert_eq!(report().await, ["failed: AccessDenied"]);
        assert_eq!(report().await, ["failed: OtherReport"]);
        assert_eq!(sites.in_service().len(), 2);
        sites.age_entries(TimeDelta::seconds(11)).await;
        assert_eq!(report().await, ["fenced"], "after a minute it is believed");
    }
    // Also where the answer to the removal was lost, and the reporter's execution did not see the site leave.
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    sites.accelerators.fail("RemoveEndpoints", Fault::CloseAfter);
    // It looks before its claim and after it.
    for _ in 0..2 {
        sites.accelerators.fail("ListEndpointGroups", Fault::meddle(|_| {}));
    }
    sites.accelerators.fail_always("ListEndpointGroups", Fault::CloseBefore);
    outcomes_within(&system, &alert("site-a", "site-b"), Duration::from_secs(3)).await;
    sites.accelerators.recover();
    sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, sites.both())]));
    let own = outcomes_within(&system, &alert("site-b", "site-a"), Duration::from_secs(3)).await;
    assert_eq!(own, ["failed: OtherReport"]);
    // And its rejoin does not say that it is back.
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    sites.a.set_online("site-b", "sessions", false);
    assert!(rejoin(&system, &request).await.unwrap_err().contains("site-b"));
    // After a rejoin by force the site reports the lost one at once.
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    let forced = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
    assert_eq!(rejoin(&system, &forced).await.unwrap()["outcome"], "rejoined");
    sites.accelerators.set_health(&sites.balancer_b, "HEALTHY");
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["fenced"]);
}
