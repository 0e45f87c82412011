//! Health checks: their settings, and the settings that Route 53 refuses.

use std::net::IpAddr;
use std::time::Duration;

/// The settings of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub monitors: Monitors,
    pub inverted: bool,
    pub disabled: bool,
}

/// What a health check monitors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Monitors {
    Endpoint(Endpoint),
    /// An alarm, whose state the test sets.
    Metric,
    /// Other health checks. At least `threshold` of them must be healthy.
    Calculated {
        children: Vec<String>,
        threshold: usize,
    },
}

/// An endpoint, and how it is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The URL that a checker requests; also the endpoint's name in a world.
    pub url: String,
    /// Where the checkers connect; the URL's host if there is none.
    pub address: Option<IpAddr>,
    /// From a response to the next request: 10 or 30 seconds.
    pub interval: Duration,
    /// How many consecutive results change a checker's opinion, in either direction: 1 to 10.
    pub threshold: u32,
}

// === impl Check ===

impl Check {
    /// A check of this URL every 30 seconds with a threshold of 3: Route 53's defaults.
    pub fn endpoint(url: &str) -> Self {
        let endpoint =
            Endpoint { url: url.to_owned(), address: None, interval: Duration::from_secs(30), threshold: 3 };
        Self::new(Monitors::Endpoint(endpoint))
    }

    /// A check of an alarm. The alarm is OK until the test changes it.
    pub fn metric() -> Self {
        Self::new(Monitors::Metric)
    }

    /// A check that is healthy while at least `threshold` of the children are.
    pub fn calculated<T: Into<String>>(children: impl IntoIterator<Item = T>, threshold: usize) -> Self {
        let children = children.into_iter().map(Into::into).collect();
        Self::new(Monitors::Calculated { children, threshold })
    }

    fn new(monitors: Monitors) -> Self {
        Self { monitors, inverted: false, disabled: false }
    }

    /// Probes the endpoint at this interval, in seconds, with this threshold.
    pub fn probed(mut self, interval: u64, threshold: u32) -> Self {
        let Monitors::Endpoint(endpoint) = &mut self.monitors else { panic!("only an endpoint is probed") };
        (endpoint.interval, endpoint.threshold) = (Duration::from_secs(interval), threshold);
        self
    }

    pub fn inverted(mut self) -> Self {
        self.inverted = true;
        self
    }

    pub fn disabled(mut self) -> Self {
        self.disabled = true;
        self
    }

    /// The settings that Route 53 refuses, whatever other checks exist.
    pub(super) fn validate(&self) -> Result<(), &'static str> {
        match &self.monitors {
            Monitors::Endpoint(endpoint) => {
                if ![10, 30].map(Duration::from_secs).contains(&endpoint.interval) {
                    return Err("RequestInterval must be 10 or 30");
                }
                if !(1..=10).contains(&endpoint.threshold) {
                    return Err("FailureThreshold must be 1 to 10");
                }
            }
            Monitors::Metric => {}
            Monitors::Calculated { children, threshold } => {
                if children.len() > 255 {
                    return Err("a calculated health check has 255 children at most");
                }
                if *threshold > 256 {
                    return Err("HealthThreshold must be 0 to 256");
                }
            }
        }
        Ok(())
    }
}
