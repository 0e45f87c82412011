//! The whole way of a latch: a Route 53 in miniature whose time passes quickly, an S3 and four name servers on loopback,
//! and two watchers. The primary fails, Route 53 fails over, the latch locks, the primary recovers and stays out, and a
//! person releases it.

use std::error::Error;
use std::time::Duration;

use failover::latch::FailoverLatch;

use crate::support::miniature::dns::Transport;
use crate::support::miniature::latch::{
    APP, OBJECTS, PRIMARY, PRIMARY_SENTINEL, SERVING_SENTINEL, STANDBY_SENTINEL,
};
use crate::support::miniature::records::{Kind, SERVERS};
use crate::support::s3::WATCHER;
use crate::support::site::{BUCKETS, HOLD, KEY, Site, look};

/// From one look to the next.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The addresses of the application's records.
const SITES: [(&str, &str); 2] = [("192.0.2.1", "the primary"), ("192.0.2.2", "the standby")];

struct Story {
    site: Site,
    watchers: [FailoverLatch; 2],
}

/// Tells the story.
///
/// # Errors
/// A look failed.
pub async fn run() -> Result<(), Box<dyn Error>> {
    let site = Site::start().await;
    let watchers = [site.watcher().await, site.watcher().await];
    let story = Story { site, watchers };
    story.tell(
        "start",
        &format!("{APP} → {}; two watchers look every 5 s: {}", story.answered(), story.looks().await?),
    );

    story.site.world.lock().set_passing(PRIMARY, false);
    story.tell("failure", "the primary fails Route 53's checks");
    story.until(|story| story.says(SERVING_SENTINEL, "standby")).await?;
    story.tell("failover", &format!("Route 53 fails over by itself: {APP} → {}", story.answered()));
    story.until(|story| story.site.objects() == [true, true]).await?;
    let buckets: Vec<_> = BUCKETS.iter().map(|(region, bucket)| format!("{bucket} in {region}")).collect();
    story.tell("lock", &format!("a watcher has created {KEY} in {}", buckets.join(" and ")));
    story.pass(Duration::from_secs(30)).await?;

    story.site.world.lock().set_passing(PRIMARY, true);
    story.tell("recovery", "the primary passes its checks again, with stale data");
    story.until(|story| story.says(PRIMARY_SENTINEL, "healthy")).await?;
    story.pass(Duration::from_mins(5)).await?;
    story.tell(
        "stays out",
        &format!("five minutes later: {APP} → {}; {}", story.answered(), story.looks().await?),
    );
    story.tell(
        "us-east-1",
        &format!(
            "is not needed: the watchers made {} calls to S3 in the two Regions, asked the name servers {} times, and \
             called nothing else",
            story.site.s3.calls_by(WATCHER).len(),
            story.questions()
        ),
    );

    story.tell(
        "release",
        "the sites are synchronised. A person puts a hold into both buckets, and waits a minute",
    );
    for (_, bucket) in BUCKETS {
        story.site.s3.put(bucket, HOLD, r#"{"by":"sandbox"}"#);
    }
    story.tell("", &format!("watchers: {}", story.looks().await?));
    story.pass(Duration::from_mins(1)).await?;
    for (_, bucket) in BUCKETS {
        story.site.s3.remove(bucket, KEY);
    }
    story.tell("", "the person deletes both objects. A watcher's role cannot");
    story.until(|story| story.says(SERVING_SENTINEL, "primary")).await?;
    story.pass(Duration::from_mins(1)).await?;
    for (_, bucket) in BUCKETS {
        story.site.s3.remove(bucket, HOLD);
    }
    story.tell("in service", &format!("{APP} → {}; {}", story.answered(), story.looks().await?));
    Ok(())
}

impl Story {
    /// Lets time pass, with a look of each watcher every 5 s, until this is so.
    async fn until(&self, is_so: impl Fn(&Self) -> bool) -> Result<(), Box<dyn Error>> {
        while !is_so(self) {
            self.pass(LOOK_EVERY).await?;
        }
        Ok(())
    }

    /// Lets so much time pass, with a look of each watcher every 5 s.
    async fn pass(&self, time: Duration) -> Result<(), Box<dyn Error>> {
        let mut passed = Duration::ZERO;
        while passed < time {
            {
                let mut world = self.site.world.lock();
                for (url, (_, bucket)) in OBJECTS.iter().zip(BUCKETS) {
                    world.set_passing(url, self.site.s3.object(bucket, KEY).is_some());
                }
                world.pass(LOOK_EVERY);
            }
            self.looks().await?;
            passed += LOOK_EVERY;
        }
        Ok(())
    }

    /// Lets both watchers look, and returns what they find.
    async fn looks(&self) -> Result<String, Box<dyn Error>> {
        let mut states = Vec::new();
        for watcher in &self.watchers {
            states.push(look(watcher).await?);
        }
        states.dedup();
        Ok(states.join(", "))
    }

    /// Whether every name server answers a sentinel with this text.
    fn says(&self, sentinel: &str, text: &str) -> bool {
        let world = self.site.world.lock();
        (0..SERVERS).all(|server| world.text(server, sentinel).as_deref() == Some(text))
    }

    /// The site that the first name server answers.
    fn answered(&self) -> String {
        let answer = format!("{:?}", self.site.world.lock().answer(0, APP, Kind::A));
        let site = SITES.iter().find(|(address, _)| answer.contains(address));
        site.map_or(answer.clone(), |(address, site)| format!("{address}, {site}"))
    }

    fn questions(&self) -> usize {
        let of = |server| {
            [SERVING_SENTINEL, PRIMARY_SENTINEL, STANDBY_SENTINEL].map(|sentinel| {
                let asked = |transport| self.site.servers.queries(server, sentinel, transport);
                asked(Transport::Udp) + asked(Transport::Tcp)
            })
        };
        (0..SERVERS).flat_map(of).sum()
    }

    fn tell(&self, what: &str, text: &str) {
        let seconds = self.site.world.lock().now().as_secs();
        println!("{:2}:{:02}  {what:<11}  {text}", seconds / 60, seconds % 60);
    }
}
