//! The account that a command looks at: credentials, Region, and how to print.

use std::env;
use std::ffi::OsString;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aws_config::meta::region::ProvideRegion as _;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;
use clap::{Args, ValueEnum};
use hyper::Uri;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::context::{Context, SHORTLY};
use super::error::Error;
use super::screen::{Screen, say};
use crate::program::logging::AWS_CONFIG;
use crate::program::variables;
use crate::remote::arn::Arn;
use crate::remote::aws::{Failure, Kind, chain};
use crate::remote::deadline::Deadline;
use crate::remote::{https, sdk};

/// How long a command may try to get one thing done.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many calls of a kind are made at once: Route 53 allows an account some 5 a second.
pub(super) const AT_ONCE: usize = 4;

/// The longest time for which a command can be asked to wait, in seconds.
pub(super) const YEAR: u64 = 366 * 86_400;

/// The options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Common {
    /// The AWS CLI's profile to use. `status` accepts several, each after another --profile.
    #[arg(long = "profile", global = true, value_name = "NAME")]
    profiles: Vec<String>,
    /// The Region of Route 53's metrics and alarms: us-east-1, except in other partitions than `aws`. For
    /// `fence out`, `rejoin`, `pause` and `resume`, the Region of the function; for `lease`, of the table.
    #[arg(long, global = true, value_name = "REGION", value_parser = region)]
    pub region: Option<String>,
    /// The URL of AWS's APIs, for example of an emulator.
    #[arg(long, global = true, value_name = "URL", value_parser = url)]
    endpoint_url: Option<String>,
    /// The format of what is printed.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    output: Output,
    /// Print what is tried again, and why.
    #[arg(long, short, global = true)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// AWS as the operator reaches it, and how to print.
pub(super) struct Session {
    pub aws: SdkConfig,
    pub screen: Screen,
}

/// The signals by which a person, a terminal or a machine ends a command: SIGINT, SIGTERM and SIGHUP.
pub(super) struct Interrupts {
    signals: [Signal; 3],
    /// What else interrupts.
    also: Arc<Notify>,
    /// Whether one has come that was held off.
    has_come: bool,
}

// === impl Interrupts ===

impl Interrupts {
    /// From now on, these signals no longer end the process.
    pub fn new() -> io::Result<Self> {
        let [interrupt, terminate, hangup] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        Ok(Self { signals: [interrupt?, terminate?, hangup?], also: Arc::default(), has_come: false })
    }

    /// What interrupts as well, once it is notified.
    pub fn also(&self) -> Arc<Notify> {
        Arc::clone(&self.also)
    }

    /// Does work that is not broken off once it `has_begun` to change something: then its end is awaited, and an interrupt
    /// counts afterwards.
    ///
    /// # Errors
    /// Interrupted before that.
    pub async fn hold_off<T>(
        &mut self,
        work: impl Future<Output = T>,
        has_begun: impl Fn() -> bool,
    ) -> Result<T, Error> {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = self.recv() => {}
        }
        if !has_begun() {
            return Err(Error::Interrupted);
        }
        self.has_come = true;
        say("the change has begun: its answer is awaited");
        Ok(work.await)
    }

    /// Waits for one of them.
    pub async fn recv(&mut self) {
        if self.has_come {
            return;
        }
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            () = self.also.notified() => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

// === impl Common ===

impl Common {
    /// The Region of this command's resource, if `--region` or the environment names one.
    pub fn own_region(&self) -> Option<Region> {
        let of_environment = || {
            let names = ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter();
            names.filter_map(variables::environment).find(|region| !region.is_empty())
        };
        self.region.clone().or_else(of_environment).map(Region::new)
    }

    /// Lets a program that this one starts reach the same account.
    pub fn hand_on(&self, program: &mut Command) {
        if let Some(profile) = self.profile() {
            // As here, it precedes keys in the environment.
            for key in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
                program.env_remove(key);
            }
            program.env("AWS_PROFILE", profile);
        }
        if let Some(url) = &self.endpoint_url {
            program.env("AWS_ENDPOINT_URL", url);
        }
        if let Some(region) = &self.region {
            program.env("AWS_REGION", region);
        }
    }

    /// The screen of a command that calls no AWS.
    pub fn screen(&self) -> Screen {
        Screen::new(self.is_json(), None)
    }

    fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    /// The profile that `--profile` names.
    fn profile(&self) -> Option<&String> {
        self.profiles.first()
    }

    /// Each profile with the options for it alone, if `--profile` names several.
    pub fn each_profile(&self) -> Option<Vec<(String, Self)>> {
        let alone = |profile: &String| Self { profiles: vec![profile.clone()], ..self.clone() };
        let each = self.profiles.iter().map(|profile| (profile.clone(), alone(profile)));
        (self.profiles.len() > 1).then(|| each.collect())
    }

    /// The profile that the credentials are from, if one was named. Keys in the environment precede the variable.
    fn named_profile(&self) -> Option<String> {
        let of_environment = || {
            let set = |name| variables::given(&variables::environment, name);
            set("AWS_PROFILE").filter(|_| set("AWS_ACCESS_KEY_ID").is_none())
        };
        self.profile().cloned().or_else(of_environment)
    }

    /// Starts the log on standard error. A doubt of `lock` is always printed; everything else that is logged
    /// is also in the answer.
    pub fn start_logging(&self) {
        let shown = Targets::new().with_target("failover::failover_lock", LevelFilter::WARN);
        let shown = if self.verbose { Targets::new().with_default(LevelFilter::INFO) } else { shown };
        let shown = shown.with_target(AWS_CONFIG, LevelFilter::ERROR);
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).without_time().compact();
        // A second call in one process keeps the first one's subscriber.
        let _ = tracing_subscriber::registry().with(lines.with_filter(shown)).try_init();
    }

    /// Opens a session.
    ///
    /// # Errors
    /// There are no credentials, or the roots to trust cannot be read.
    pub async fn session(&self) -> Result<Session, Error> {
        self.session_in(self.region.clone().map(Region::new)).await
    }

    /// Opens a session in this Region, to which its calls for credentials go as well; by default in that of the profile.
    ///
    /// # Errors
    /// There are no credentials, or the roots to trust cannot be read.
    pub async fn session_in(&self, region: Option<Region>) -> Result<Session, Error> {
        let http_client = https::client(&variables::environment)?;
        let mut loader = sdk::aws_config(http_client.clone());
        if let Some(region) = &region {
            loader = loader.region(region.clone());
        }
        if let Some(url) = &self.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let Some(profile) = self.profile() {
            // As with the AWS CLI, a profile that is named precedes keys in the environment.
            let region = self.region_for_credentials(profile, region).await;
            let http =
                ProviderConfig::without_region().with_http_client(http_client).with_region(Some(region));
            let provider =
                ProfileFileCredentialsProvider::builder().configure(&http).profile_name(profile).build();
            loader = loader.profile_name(profile).credentials_provider(provider);
        }
        sdk::no_endpoint_is_empty(env::vars_os())?;
        let aws = sdk::load(loader).await?;
        // The SDK ignores an invalid one, or fails with it later, with a dump of its request.
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let variables = env::vars_os().map(|(name, url)| (text(name), text(url)));
        let urls = variables.filter(|(name, url)| name.starts_with("AWS_ENDPOINT_URL") && !url.is_empty());
        let configured = aws.endpoint_url().map(str::to_owned);
        for given in configured.into_iter().chain(urls.map(|(_, url)| url)) {
            url(&given).map_err(|why| Error::Endpoint { url: given, why })?;
        }
        if let Some(url) = &self.endpoint_url {
            is_reachable(url).await?;
        }
        // Fail here if there are no credentials: otherwise every call retries until it times out, with a
        // vaguer error.
        if let Some(provider) = aws.credentials_provider() {
            match timeout(PATIENCE, provider.provide_credentials()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let of = self.profile().map(|name| format!("profile {name}: ")).unwrap_or_default();
                    let why = of + chain(&error).trim_end_matches('.');
                    return Err(Error::NoCredentials { why, profile: self.named_profile() });
                }
                Err(_) => {
                    let why = "there was no answer".to_owned();
                    return Err(Error::NoCredentials { why, profile: self.named_profile() });
                }
            }
        }
        let context = Context::read(&aws, self.named_profile());
        Ok(Session { screen: Screen::new(self.is_json(), Some(context)), aws })
    }

    /// The Region in which a profile's role is assumed. The SDK has none of its own for a profile that is named.
    async fn region_for_credentials(&self, profile: &str, given: Option<Region>) -> Region {
        if let Some(region) = given.or_else(|| self.own_region()) {
            return region;
        }
        let of_profile = ProfileFileRegionProvider::builder().profile_name(profile).build().region().await;
        of_profile.unwrap_or_else(|| Region::from_static("us-east-1"))
    }

    /// An error, with the next step if AWS does not accept the credentials.
    pub fn with_next_step(&self, error: Error) -> Error {
        let is_check = |failure: &Failure| {
            failure.kind() == Kind::NotFound && failure.to_string().contains("HealthCheck")
        };
        let error = match error {
            Error::Aws(failure) if is_check(&failure) => Error::OtherAccount(failure),
            error => error,
        };
        if error.blames_credentials() {
            Error::LogIn { error: Box::new(error), profile: self.named_profile() }
        } else {
            error
        }
    }
}

// === impl Session ===

impl Session {
    /// AWS in the Region of this ARN; in the session's own if `arn` names none.
    pub fn aws_of(&self, arn: &str) -> SdkConfig {
        match Arn::parse(arn).map(|arn| arn.region).filter(|region| !region.is_empty()) {
            None => self.aws.clone(),
            Some(region) => self.aws.to_builder().region(Region::new(region.to_owned())).build(),
        }
    }
}

/// Fails if no connection to this URL can be opened: otherwise every call would be tried for as long as it may take.
///
/// # Errors
/// Names the URL.
pub(super) async fn is_reachable(given: &str) -> Result<(), Error> {
    let failed = |why: String| Error::Endpoint { url: given.to_owned(), why };
    let uri: Uri = given.parse().map_err(|_| failed(NO_URL.to_owned()))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    match timeout(SHORTLY, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("no connection within {} s", SHORTLY.as_secs()))),
    }
}

const NO_URL: &str = "it is not an http or https URL, for example http://localhost:4566";

fn url(text: &str) -> Result<String, String> {
    let uri = text.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
    match uri.as_ref().and_then(Uri::scheme_str) {
        Some("http" | "https") => Ok(text.to_owned()),
        _ => Err(NO_URL.to_owned()),
    }
}

/// Reads a Region's name: `us-east-1`, `us-iso-east-1`.
pub(super) fn region(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split('-').collect();
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match parts.split_last() {
        Some((number, words)) if words.len() >= 2 && words.iter().all(is_word) && is_number(number) => {
            Ok(text.to_owned())
        }
        _ => Err("it is not the name of a Region, for example us-east-1".to_owned()),
    }
}

/// The result of a call; `None` if what the call names does not exist.
pub(super) fn if_there<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Err(failure) if failure.kind() == Kind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// The deadline of one thing to be done.
pub(super) fn patience() -> Deadline {
    Deadline::after(PATIENCE)
}

/// The same, where the rest is shown without a call that gets no answer.
pub(super) fn shortly() -> Deadline {
    patience().with_calls_of(SHORTLY)
}
