//! The watchers of a latch, by what they have counted in CloudWatch.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_sdk_cloudwatch::types::{Dimension, Statistic};
use aws_types::SdkConfig;
use aws_types::region::Region;
use tokio::try_join;

use super::{ARM, Doctor};
use crate::cli::session::patience;
use crate::cli::text::age;
use crate::remote::aws::{Call, Failure, Kind, send};

const NAME: &str = "watchers";
/// How far back the looks are searched for.
const DAY: Duration = Duration::from_hours(24);
/// The time that one datapoint stands for.
const PERIOD: Duration = Duration::from_mins(5);
/// A watcher whose newest count is older has stopped: it counts each minute, and CloudWatch shows that within two.
const RECENT: Duration = Duration::from_mins(4);

/// What the watchers of a Region have counted within a day.
struct Counted {
    /// The longest time between two looks, the periods without any included.
    gap: Duration,
    /// The age of the end of the newest period with a count.
    newest: Duration,
    /// The age of the oldest period with one.
    oldest: Duration,
    /// Whether they lock nothing.
    is_dry_run: bool,
}

impl Doctor<'_> {
    /// Whether watchers look; returns the shortest of the Regions' longest gaps. `functions` are the Regions that have the
    /// function, and whether it is new.
    pub(super) async fn watchers(&mut self, functions: &BTreeMap<String, bool>) -> Option<Duration> {
        let mut gaps = Vec::new();
        let mut looks = false;
        for bucket in &self.latches.config.buckets {
            let region = &bucket.region;
            let aws = self.latches.session.aws.to_builder().region(Region::new(region.clone())).build();
            match counted(&aws, &self.latch.name, SystemTime::now()).await {
                Ok(Some(counted)) if counted.newest > RECENT => {
                    let ago = age(counted.newest.as_secs());
                    let found = format!("in {region}: the last look was counted {ago} ago");
                    self.stopped(region, found, functions);
                }
                Ok(Some(counted)) => {
                    looks = true;
                    let gap = counted.gap.as_secs_f64();
                    let since = age(counted.oldest.as_secs());
                    let found = format!("in {region}: at most {gap:.1} s between two looks, in {since}");
                    // A function's variables say what it does now.
                    if counted.is_dry_run && !functions.contains_key(region) {
                        let found = format!("in {region}: the watcher is in a dry run, and locks nothing");
                        self.findings.wrong(NAME, found, ARM.to_owned());
                    } else {
                        gaps.push(counted.gap);
                        self.findings.ok(NAME, found);
                    }
                }
                Ok(None) => {
                    let found = format!("no watcher in {region} has counted a look in 24 hours");
                    self.stopped(region, found, functions);
                }
                Err(failure) => self.findings.unknown(NAME, &failure),
            }
        }
        if !looks && self.latches.by_process {
            let found = "processes watch: see on /metrics of each that failover_latch_armed is 1".to_owned();
            self.findings.warn(NAME, found);
        }
        gaps.into_iter().min()
    }

    /// No watcher looks in this Region. A process counts on its `/metrics` alone.
    fn stopped(&mut self, region: &str, found: String, functions: &BTreeMap<String, bool>) {
        match functions.get(region) {
            _ if self.latches.by_process => return self.findings.warn(NAME, found),
            Some(true) => return self.findings.warn(NAME, format!("{found}, and it was deployed just now")),
            _ => {}
        }
        let remedy = format!(
            "see whether its schedule is enabled: aws scheduler get-schedule --region {region} --name {}-watch --query State; then \
             docs/runbook.md#latch-name-silent",
            self.latches.stack.as_deref().unwrap_or("latch")
        );
        self.findings.wrong(NAME, found, remedy);
    }
}

/// What the watchers of a Region have counted until now; `None` if nothing within a day.
async fn counted(aws: &SdkConfig, latch: &str, now: SystemTime) -> Result<Option<Counted>, Failure> {
    let (gaps, dry_runs) =
        try_join!(maxima(aws, latch, "LookGap", now, DAY), maxima(aws, latch, "DryRun", now, PERIOD))?;
    let is_dry_run = dry_runs.last().is_some_and(|(_, dry_run)| *dry_run > 0.0);
    let oldest = gaps.first().and_then(|(at, _)| now.duration_since(*at).ok()).unwrap_or_default();
    Ok(gap(&gaps, now).map(|(gap, newest)| Counted { gap, newest, oldest, is_dry_run }))
}

/// The longest time between two looks, and the age of the newest count, of these maxima by their periods' starts, in
/// order.
fn gap(maxima: &[(SystemTime, f64)], now: SystemTime) -> Option<(Duration, Duration)> {
    let newest = maxima.last()?.0 + PERIOD;
    let counted = maxima.iter().map(|(_, longest)| Duration::try_from_secs_f64(*longest).unwrap_or(DAY));
    let holes = maxima.windows(2).map(|pair| {
        let between = pair[1].0.duration_since(pair[0].0).unwrap_or_default();
        between.saturating_sub(PERIOD)
    });
    Some((counted.chain(holes).max()?, now.duration_since(newest).unwrap_or_default()))
}

/// The maxima of a watcher's metric, by their periods' starts.
async fn maxima(
    aws: &SdkConfig,
    latch: &str,
    metric: &str,
    now: SystemTime,
    back: Duration,
) -> Result<Vec<(SystemTime, f64)>, Failure> {
    let call = Call::new("cloudwatch:GetMetricStatistics", "the metric");
    // The newest count alone says whether a watcher was armed since.
    let period = if back > PERIOD { PERIOD } else { Duration::from_mins(1) };
    let request = aws_sdk_cloudwatch::Client::new(aws)
        .get_metric_statistics()
        .namespace("FailoverLatch")
        .metric_name(metric)
        .dimensions(Dimension::builder().name("Latch").value(latch).build())
        .start_time((now - back).into())
        .end_time(now.into())
        .period(period.as_secs().try_into().unwrap_or(i32::MAX))
        .statistics(Statistic::Maximum);
    let found = patience()
        .within(Duration::from_secs(3))
        .persist(async |time| send(call, time, request.clone().send()).await);
    let found = match found.await {
        Err(failure) if failure.kind() == Kind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    let of = |at: &aws_sdk_cloudwatch::types::Datapoint| {
        Some((SystemTime::try_from(*at.timestamp()?).ok()?, at.maximum()?))
    };
    let mut maxima: Vec<_> = found.datapoints().iter().filter_map(of).collect();
    maxima.sort_by_key(|(at, _)| *at);
    Ok(maxima)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_without_a_count_are_gaps() {
        let now = SystemTime::UNIX_EPOCH + DAY;
        let at = |minutes: u64, longest: f64| (now - Duration::from_mins(minutes), longest);
        let seconds = Duration::from_secs;
        for (maxima, found) in [
            (vec![], None),
            (vec![at(5, 5.2)], Some((Duration::from_millis(5200), Duration::ZERO))),
            (vec![at(10, 20.5), at(5, 5.0)], Some((Duration::from_millis(20500), Duration::ZERO))),
            (vec![at(60, 5.0), at(5, 5.0)], Some((seconds(3000), Duration::ZERO))),
            (vec![at(65, 5.0), at(60, 5.0)], Some((seconds(5), seconds(3300)))),
        ] {
            assert_eq!(gap(&maxima, now), found, "{maxima:?}");
        }
    }
}
