//! The sites behind the accelerator: what a report of one about another would meet now.

use super::DEPLOY;
use crate::cli::clock;
use crate::cli::fence::status::{statuses, unserved};
use crate::cli::findings::Findings;
use crate::cli::screen::Mood;
use crate::cli::session::patience;
use crate::cli::text::plain;
use crate::site_fence::accelerator::{Accelerator, MOST_TAGS, counted};
use crate::site_fence::config::Config;
use crate::site_fence::decide::{self, Decision, Seen};
use crate::site_fence::notes::{Note, Notes, Rejoined};
use crate::site_fence::site::Site;
use crate::site_fence::view::{Sight, View};
use crate::site_fence::webhook::Accusation;

/// Checks the sites behind the accelerator. Returns their names.
pub(super) async fn look(
    view: &View,
    accelerator: &Accelerator,
    config: Option<&Config>,
    findings: &mut Findings,
) -> Vec<String> {
    let sight = match view.look(accelerator, patience()).await {
        Ok(sight) => sight,
        Err(failure) => {
            findings.unknown("accelerator", &failure);
            return Vec::new();
        }
    };
    for listener in unserved(&sight.groups) {
        findings.wrong(
            "accelerator",
            format!("{listener} has no healthy endpoint whose weight and traffic dial are above 0"),
            "repair the endpoints, or rejoin a site: docs/runbook.md#rejoin-a-site".to_owned(),
        );
    }
    let found = statuses(&sight, accelerator);
    let in_service =
        found.iter().filter(|status| status.site.is_some() && !status.endpoints.is_empty()).count();
    for status in &found {
        let site = status.site.as_deref().map_or_else(|| "endpoints".to_owned(), plain);
        let said = format!("{site}: {}", status.words());
        let remedy = match status.mood() {
            _ if status.noted && !status.endpoints.is_empty() => {
                Some("docs/runbook.md#rejoin-a-site, once the sites are synchronised".to_owned())
            }
            Mood::Wrong => {
                Some("repair its endpoints, or the health checks of their load balancers".to_owned())
            }
            _ => None,
        };
        // That of endpoints of no known site is no fault of reading.
        let mood = if status.mood() == Mood::Unknown { Mood::Warn } else { status.mood() };
        findings.add("site", mood, said, remedy);
    }
    if in_service < 2 && found.iter().all(|status| !status.noted) {
        findings.wrong(
            "site",
            format!("{in_service} sites are known to be in service: a report about the only one is refused"),
            "tag the load balancers with site, or name them in AcceleratorSiteEndpoints: docs/fence.md#deploy".to_owned(),
        );
    }
    let mut known: Vec<Site> = Vec::new();
    let serving = found.iter().filter(|status| !status.endpoints.is_empty());
    for name in serving.filter_map(|status| status.site.as_deref()) {
        if let Ok(site) = name.parse() {
            known.push(site);
        } else {
            let said = format!("{} is no site's name: every report about it is refused", plain(name));
            findings.wrong("site", said, "correct the tag site of its load balancers".to_owned());
        }
    }
    room(&sight, &known, findings);
    if let Some(clusters) = config.and_then(|config| config.infinispan.as_ref()) {
        for site in known.iter().filter(|site| !clusters.endpoints.contains_key(*site)) {
            let said =
                format!("INFINISPAN_SITE_ENDPOINTS has no {site}: every report of it fails, and its rejoin");
            findings.wrong("site", said, DEPLOY.to_owned());
        }
    }
    reports(accelerator, &sight, &known, findings);
    found.into_iter().filter_map(|status| status.site).collect()
}

/// Finds the reports that would be refused now, of each site about each other one.
fn reports(accelerator: &Accelerator, sight: &Sight, sites: &[Site], findings: &mut Findings) {
    // Where a site is out, or was, some are refused for that, which its own line says.
    let seen = Seen { groups: &sight.groups, notes: &Notes::default() };
    for reporter in sites {
        for site in sites.iter().filter(|site| *site != reporter) {
            let accusation = Accusation {
                site: site.clone(),
                reporter: reporter.clone(),
                accelerator: accelerator.dns_name.clone(),
                began: Some(clock::now()),
                is_late: false,
            };
            if let Decision::Refuse(reason) = decide::fence(&accusation, &seen) {
                let said =
                    format!("a report of {reporter} about {site} would be refused: {}", <&str>::from(reason));
                let remedy =
                    "each site needs a healthy endpoint in each listener: docs/fence.md#prerequisites"
                        .to_owned();
                findings.wrong("site", said, remedy);
            }
        }
    }
}

/// Finds an accelerator whose tags have no room for the notes of a site that is taken out.
fn room(sight: &Sight, sites: &[Site], findings: &mut Findings) {
    let needed = |site: &Site| {
        let endpoints = sight.groups.iter().flat_map(|group| group.of(site)).count();
        // Beside them, who has taken it out, and its rejoin. They may be noted already.
        let noted =
            Note::keys(site, &sight.tags).len() + usize::from(sight.tags.contains_key(&Rejoined::key(site)));
        (endpoints + 2).saturating_sub(noted)
    };
    let needed = sites.iter().map(needed).max().unwrap_or_default();
    let tags = counted(&sight.tags);
    let left = MOST_TAGS.saturating_sub(tags);
    if left < needed {
        let said = format!(
            "the accelerator has {tags} of {MOST_TAGS} tags, and the notes of a site that is taken out need {needed}: rejoin would not \
             know its endpoints, and no alarm would stand while it is out"
        );
        findings.wrong("accelerator", said, "remove tags of your own from it".to_owned());
    }
}
