//! Reports at a function URL that strangers have found: how many are answered while 100 anonymous requests a second
//! arrive, by Lambda's [rules][1] for a function URL with a reserved concurrency of N: N executions at once, and 10 × N
//! requests a second. What is beyond either is answered 429, and the function does not see it.
//!
//! ```text
//! cargo bench --all-features --bench fence
//! ```
//! It takes a minute, and builds what `tests/fence` needs.
//!
//! [1]: https://docs.aws.amazon.com/lambda/latest/dg/urls-configuration.html#urls-throttling

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{MissedTickBehavior, interval, sleep};

#[path = "../tests/support/mod.rs"]
mod support;

use support::lambda::Function;
use support::recorded;
use support::sites::{Sites, alert};

/// The reserved concurrency without a table, with one until lately, and with one.
const CONCURRENCIES: [usize; 3] = [1, 10, 25];
const STRANGERS_A_SECOND: u64 = 100;
const REPORTS: usize = 40;
const BETWEEN_REPORTS: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_mins(1);

/// A function's URL: its execution environments, and its count of the present second.
struct Url {
    concurrency: usize,
    variables: Vec<(&'static str, String)>,
    idle: Mutex<Vec<Function>>,
    started: Mutex<usize>,
    second: Mutex<(Instant, usize)>,
    busy: Mutex<Vec<Duration>>,
}

// === impl Url ===

impl Url {
    fn new(concurrency: usize, variables: &HashMap<&'static str, String>) -> Arc<Self> {
        let variables = variables.iter().map(|(name, value)| (*name, value.clone())).collect();
        Arc::new(Self {
            concurrency,
            variables,
            idle: Mutex::default(),
            started: Mutex::default(),
            second: Mutex::new((Instant::now(), 0)),
            busy: Mutex::default(),
        })
    }

    /// The status of the answer.
    async fn request(&self, event: String) -> u64 {
        if !self.is_admitted() {
            return 429;
        }
        let idle = lock(&self.idle).pop();
        let environment = match idle {
            Some(environment) => environment,
            None if self.may_start() => {
                let variables: Vec<_> =
                    self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
                Function::start_program("site-fence", "fence", &variables).await
            }
            None => return 429,
        };
        let began = Instant::now();
        let answer = environment.invoke(event, TIMEOUT).await;
        lock(&self.busy).push(began.elapsed());
        lock(&self.idle).push(environment);
        answer.ok().and_then(|answer: Value| answer["statusCode"].as_u64()).unwrap_or(502)
    }

    fn is_admitted(&self) -> bool {
        let mut second = lock(&self.second);
        if second.0.elapsed() >= Duration::from_secs(1) {
            *second = (Instant::now(), 0);
        }
        second.1 += 1;
        second.1 <= 10 * self.concurrency
    }

    fn may_start(&self) -> bool {
        let mut started = lock(&self.started);
        *started += 1;
        *started <= self.concurrency
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no task panics while it holds this")
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!(
        "| reserved concurrency | reports answered at the first try | 429 | a stranger's request, median / longest |"
    );
    println!("|---|---|---|---|");
    for concurrency in CONCURRENCIES {
        let sites = Sites::start().await;
        sites.table().await;
        let mut variables = sites.variables();
        variables.insert("FENCE_TABLE", sites.table_name());
        let url = Url::new(concurrency, &variables);
        let strangers = tokio::spawn(strangers(Arc::clone(&url)));
        let mut answers = Vec::new();
        for _ in 0..REPORTS {
            let url = Arc::clone(&url);
            answers.push(tokio::spawn(async move { url.request(alert("site-a", "site-b")).await }));
            sleep(BETWEEN_REPORTS).await;
        }
        let mut refused = 0;
        for answer in answers {
            refused += usize::from(answer.await.expect("no request panics") == 429);
        }
        strangers.abort();
        let mut busy = lock(&url.busy).clone();
        busy.sort_unstable();
        let (median, longest) = (busy[busy.len() / 2], busy[busy.len() - 1]);
        println!(
            "| {concurrency} | {} of {REPORTS} | {refused} | {:.1} / {:.0} ms |",
            REPORTS - refused,
            median.as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3
        );
    }
}

/// Requests without credentials, and with a wrong password.
async fn strangers(url: Arc<Url>) {
    let events =
        ["no-credentials", "wrong-password"].map(|name| recorded(&format!("alertmanager/{name}.json")));
    let mut ticks =
        interval(Duration::from_secs(1) / u32::try_from(STRANGERS_A_SECOND).expect("it is small"));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for event in events.iter().cycle() {
        ticks.tick().await;
        let (url, event) = (Arc::clone(&url), event.clone());
        tokio::spawn(async move { url.request(event).await });
    }
}
