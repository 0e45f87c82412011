//! A latch's pair of sites: a Route 53 in miniature with its name servers, an S3, and the watcher between them.

use std::time::Duration;

use aws_config::SdkConfig;
use failover::lambda::Report as _;
use failover::latch::FailoverLatch;
use failover::latch::config::Config;
use failover::latch::outcome::{Answer, InvocationError};
use failover::remote::deadline::Deadline;
use failover::remote::https::Https;

use super::aws::{aws_at, credentials};
use super::miniature::Shared;
use super::miniature::dns::NameServers;
use super::miniature::latch::{Latch, Mode, OBJECTS, PRIMARY, Probing, STANDBY};
use super::miniature::world::World;
use super::s3::{S3, WATCHER};

/// The buckets, and their Regions.
pub const BUCKETS: [(&str, &str); 2] = [("eu-central-1", "acme-latch-a"), ("eu-west-1", "acme-latch-b")];
pub const A: &str = BUCKETS[0].1;
pub const B: &str = BUCKETS[1].1;
/// The keys of the latch `app`.
pub const KEY: &str = "latches/app";
pub const HOLD: &str = "holds/app";
const LATCHES: &str =
    "app:serving=_serving.app.example.com,primary=_primary.app.example.com,standby=_standby.app.example.com";

/// The pair `app`.
pub struct Site {
    pub world: Shared,
    pub servers: NameServers,
    pub s3: S3,
    pub checks: Latch,
}

impl Site {
    /// Both sites are healthy, and the primary is answered.
    pub async fn start() -> Self {
        let mut world = World::new(1);
        let probing = Probing { interval: 10, threshold: 1 };
        let checks = Latch::attach(&mut world, probing, probing, Mode::Absolute);
        world.pass(Duration::from_mins(1));
        let world = Shared::new(world);
        let servers = NameServers::start(&world).await;
        let s3 = S3::start(&BUCKETS).await;
        s3.set_retains(B, true);
        Self { world, servers, s3, checks }
    }

    /// The primary has failed, and Route 53 has failed over.
    pub async fn failed_over() -> Self {
        let site = Self::start().await;
        site.fails_over();
        site
    }

    /// The primary fails, and Route 53 fails over.
    pub fn fails_over(&self) {
        self.primary(false);
    }

    /// The primary passes its probes, or fails them, until every name server shows it.
    pub fn primary(&self, passing: bool) {
        self.passing(PRIMARY, passing);
    }

    /// The same of the standby.
    pub fn standby(&self, passing: bool) {
        self.passing(STANDBY, passing);
    }

    /// Route 53's checkers look at the objects as they are, until every name server shows it.
    pub fn checkers_look(&self) {
        for (url, (_, bucket)) in OBJECTS.iter().zip(BUCKETS) {
            self.passing(url, self.s3.object(bucket, KEY).is_some());
        }
    }

    fn passing(&self, url: &str, passing: bool) {
        let mut world = self.world.lock();
        world.set_passing(url, passing);
        world.pass(Duration::from_mins(1));
    }

    /// The variables of a watcher, and of an operator's file.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let buckets: Vec<_> = BUCKETS.iter().map(|(region, bucket)| format!("{region}={bucket}")).collect();
        vec![
            ("LATCHES", LATCHES.to_owned()),
            ("LATCH_BUCKETS", buckets.join(",")),
            ("NAME_SERVERS", self.servers.variable()),
        ]
    }

    /// A watcher of the pair.
    pub async fn watcher(&self) -> FailoverLatch {
        self.watcher_with(&[]).await
    }

    /// A watcher with further variables.
    pub async fn watcher_with(&self, further: &[(&'static str, &str)]) -> FailoverLatch {
        let mut variables = self.variables();
        variables.retain(|(name, _)| further.iter().all(|(other, _)| other != name));
        variables.extend(further.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        let config = Config::read(&lookup).expect("the variables are valid");
        let https = Https::new(&|_| None).expect("no bundle is named");
        FailoverLatch::new(config, "watcher-1".to_owned(), &self.aws(WATCHER).await, https)
    }

    /// AWS for the owner of this access key.
    pub async fn aws(&self, key: &str) -> SdkConfig {
        let aws = aws_at(&self.s3.url()).await;
        aws.to_builder().credentials_provider(credentials(key)).build()
    }

    /// Whether there is an object in each bucket.
    pub fn objects(&self) -> [bool; 2] {
        [A, B].map(|bucket| self.s3.object(bucket, KEY).is_some())
    }
}

/// Lets a watcher look once. Returns the state of `app`, or the cause of its failure.
pub async fn look(watcher: &FailoverLatch) -> Result<String, String> {
    answer(watcher, "{}")
        .await
        .map(|answer| answer.latches["app"].name().to_owned())
        .map_err(|error| error.to_string())
}

/// Lets a watcher handle an event in which there is time for one look.
pub async fn answer(watcher: &FailoverLatch, event: &str) -> Result<Answer, InvocationError> {
    watcher.handle(event, Deadline::after(ONE_LOOK)).await.into_answer()
}

/// There is time for one look of at most 10 s.
const ONE_LOOK: Duration = Duration::from_secs(9);
