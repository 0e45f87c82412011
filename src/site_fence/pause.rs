//! Pauses the reports about a site, or about all sites, when a person requests it for planned work, and ends that.

use chrono::Utc;

use super::SiteFence;
use super::decide::Reason;
use super::error::Error;
use super::outcome::{About, Failed, Outcome, Verdict};
use super::pauses::{Pause, Pauses};
use super::request;
use super::site::is_in_service;
use crate::remote::deadline::Deadline;

/// Handles one request.
pub(super) async fn pause(
    system: &SiteFence,
    request: request::Pause,
    deadline: Deadline,
) -> Result<Outcome, Failed> {
    let about =
        About { site: request.site.clone(), reporter: None, accelerator: Some(request.accelerator.clone()) };
    match planned(system, &request, deadline).await {
        Ok(outcome) => Ok(Outcome { about, ..outcome }),
        Err(error) => Err(Failed { about, error }),
    }
}

async fn planned(system: &SiteFence, request: &request::Pause, deadline: Deadline) -> Result<Outcome, Error> {
    let request::Pause { pause_minutes, site, accelerator: name, reason, dry_run } = request;
    let length = request.length()?;
    let accelerators = &system.view.accelerators;
    let accelerator = accelerators.named(name, deadline).await?;
    let accelerator = accelerator.ok_or_else(|| Error::NoSuchAccelerator(name.clone()))?;
    let sight = system.view.look(&accelerator, deadline).await?;
    let (site, dry_run) = (site.as_ref(), *dry_run || system.config.dry_run);
    let key = Pauses::key(site);
    if *pause_minutes == 0 {
        if dry_run {
            let stands = Pauses::read(&sight.tags, Utc::now()).exactly(site).is_some();
            return Ok(outcome(if stands { Verdict::WouldResume } else { Verdict::NotPaused }));
        }
        // Also one that is over, or cannot be read.
        let verdict = if sight.tags.contains_key(&key) {
            accelerators.untag(&accelerator, vec![key], deadline).await?;
            Verdict::Resumed
        } else {
            Verdict::NotPaused
        };
        let left = Pauses::read(&accelerators.tags(&accelerator, deadline).await?, Utc::now());
        let detail = left.in_words().map(|left| format!("still paused: {left}"));
        return Ok(Outcome { detail, pauses: Some(left.count()), ..outcome(verdict) });
    }
    // A misspelt one would be paused in vain.
    if site.is_some_and(|site| !is_in_service(site, &sight.groups) && sight.notes.of(site).is_none()) {
        return Ok(outcome(Verdict::Refused).because(Reason::SiteUnknown));
    }
    let until = Utc::now() + length;
    let pause = Pause { until, reason: reason.clone().unwrap_or_default() };
    let detail = Some(pause.to_string());
    if dry_run {
        return Ok(Outcome { detail, ..outcome(Verdict::WouldPause) });
    }
    accelerators.tag(&accelerator, [(key, pause.value())], deadline).await?;
    Ok(Outcome { detail, pauses: Some(1), ..outcome(Verdict::Paused) })
}

fn outcome(verdict: Verdict) -> Outcome {
    Outcome::new(About::default(), verdict)
}
