//! What the contestants are invoked for, and the AWS that each finds: stand-ins on loopback behind TLS, with a chain of
//! certificates such as AWS's.

use std::time::Duration;

use serde_json::json;
use tokio::sync::OnceCell;

use crate::support::lambda::Answer;
use crate::support::lock::{CHANGED_AT, LOCKED, PRIMARY, delivered, message};
use crate::support::recorded;
use crate::support::route53::{Check, Route53};
use crate::support::s3::{OWNER, WATCHER};
use crate::support::site::Site;
use crate::support::sites::{ALONE, Sites, alert};
use crate::support::tls::Tls;

/// The most calls that a lock makes.
const CALLS: usize = 4;

/// The variables of a function.
pub type Variables = Vec<(&'static str, String)>;

/// What a contestant is invoked for.
#[derive(Clone, Copy)]
pub enum Work {
    /// An alarm locks a health check.
    Lock {
        /// Whether the health check was changed before.
        changed: bool,
        /// How long Route 53 waits before each answer, if it does.
        answer: Option<Duration>,
    },
    /// The same alarm, and nothing is done.
    Nothing,
    /// A site's report at the function's URL takes the other site out. As the template deploys it by default: the claim is
    /// in a table, load balancers are found by their tags, and there is no Infinispan.
    Fence,
    /// A tick with time for one look: the latch is armed. The names of the name servers are not looked up.
    Look,
}

/// The stand-ins, those of a work from the first time that it is done.
pub struct Stage {
    tls: Tls,
    route53: Route53,
    sites: OnceCell<(Sites, Variables)>,
    pair: OnceCell<(Site, Variables)>,
}

// === impl Work ===

impl Work {
    /// The function's timeout.
    pub fn timeout(self) -> Duration {
        match self {
            Self::Lock { .. } | Self::Nothing | Self::Fence => Duration::from_mins(2),
            Self::Look => Duration::from_secs(9),
        }
    }
}

// === impl Stage ===

impl Stage {
    pub async fn new() -> Self {
        let tls = Tls::like_aws();
        let route53 = Route53::start_over(tls.clone()).await;
        Self { tls, route53, sites: OnceCell::new(), pair: OnceCell::new() }
    }

    /// The root that vouches for all of it, as PEM.
    pub fn root(&self) -> &str {
        &self.tls.root
    }

    pub async fn variables(&self, work: Work) -> Variables {
        match work {
            Work::Lock { .. } | Work::Nothing => vec![
                ("_HANDLER", "lock".to_owned()),
                ("AWS_ENDPOINT_URL", self.route53.url()),
                // Of the documented function: Route 53 in its own Region signs for us-east-1 by itself.
                ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
            ],
            Work::Fence => self.sites().await.1.clone(),
            Work::Look => self.pair().await.1.clone(),
        }
    }

    /// Prepares the contestant's event of this number. The first one for a lock is the guide's own alarm.
    pub async fn event(&self, work: Work, number: u32) -> String {
        match work {
            Work::Lock { .. } | Work::Nothing => {
                let check = Check::new("HTTPS", 443);
                let (changed, answer) = match work {
                    Work::Lock { changed, answer } => (changed, answer),
                    _ => (false, None),
                };
                self.route53.put(&id(number), if changed { check.changed() } else { check });
                self.route53.pace(answer.map(|answer| [answer; CALLS]).into_iter().flatten());
                match number {
                    0 => recorded("sns/keycloak-alarm.json"),
                    number => delivered(&[&message(&id(number), "ALARM", CHANGED_AT)]),
                }
            }
            Work::Fence => {
                let (sites, _) = self.sites().await;
                sites.both_in_service();
                sites.forget().await;
                alert("site-a", "site-b")
            }
            Work::Look => "{}".to_owned(),
        }
    }

    /// Whether the work of this number is done, by the contestant's answer and by what it has changed.
    pub async fn is_done(&self, work: Work, number: u32, answer: &Answer) -> bool {
        let Ok(answer) = answer else { return false };
        match work {
            Work::Lock { .. } => self.route53.check(&id(number)).path() == LOCKED,
            Work::Nothing => self.route53.check(&id(number)).path() != LOCKED,
            Work::Fence => {
                let (sites, _) = self.sites().await;
                answer["statusCode"] == 204 && sites.in_service() == [sites.balancer_a.as_str()]
            }
            Work::Look => *answer == json!({ "latches": { "app": "armed" } }),
        }
    }

    async fn sites(&self) -> &(Sites, Variables) {
        let start = async || {
            let sites = Sites::start().await;
            sites.table().await;
            let mut variables = sites.variables();
            variables.retain(|name, _| !ALONE.iter().any(|(without, _)| without == name));
            variables.extend([("_HANDLER", "fence".to_owned()), ("FENCE_TABLE", sites.table_name())]);
            // Each service has a host of its own, as AWS's: a TLS session with one is not resumed with another.
            for (service, url, host) in [
                ("AWS_ENDPOINT_URL_GLOBAL_ACCELERATOR", &sites.accelerators.url(), "127.0.0.1"),
                ("AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2", &sites.aws.url, "127.0.0.2"),
                ("AWS_ENDPOINT_URL_SECRETS_MANAGER", &sites.aws.url, "127.0.0.3"),
                ("AWS_ENDPOINT_URL_DYNAMODB", &sites.aws.url, "127.0.0.4"),
            ] {
                variables.insert(service, self.tls.before(url, host).await);
            }
            (sites, variables.into_iter().collect())
        };
        self.sites.get_or_init(start).await
    }

    async fn pair(&self) -> &(Site, Variables) {
        let start = async || {
            let site = Site::start().await;
            // By an address, so that the bucket is in the path: a function opens two connections, as it does to two buckets' hosts.
            let s3 = self.tls.before(&site.s3.url(), "127.0.0.1").await;
            let mut variables = site.variables();
            variables.extend([
                ("_HANDLER", "watch".to_owned()),
                ("AWS_ENDPOINT_URL_S3", s3),
                ("AWS_ACCESS_KEY_ID", WATCHER.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", WATCHER.to_owned()),
                ("BUCKET_OWNER", OWNER.to_owned()),
            ]);
            (site, variables)
        };
        self.pair.get_or_init(start).await
    }
}

/// The id of the health check of the alarm with this number.
fn id(number: u32) -> String {
    match number {
        0 => PRIMARY.to_owned(),
        number => format!("00000000-0000-0000-0000-{number:012}"),
    }
}
