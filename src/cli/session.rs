//! The account that a command looks at: credentials, Region, and how to print.

use std::io;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;
use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::error::Error;
use super::screen::Screen;
use crate::program::variables;
use crate::remote::arn::Arn;
use crate::remote::aws::{Failure, Kind, chain};
use crate::remote::deadline::Deadline;
use crate::remote::{https, sdk};

/// How long a command may try to get one thing done.
const PATIENCE: Duration = Duration::from_secs(15);

/// The options of every command.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The AWS CLI's profile to use.
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,
    /// The Region of Route 53's metrics and alarms: us-east-1, except in other partitions than `aws`. For
    /// `fence rejoin`, the Region of its function; for `lease`, of its table.
    #[arg(long, global = true, value_name = "REGION")]
    pub region: Option<String>,
    /// The URL of AWS's APIs, for example of an emulator.
    #[arg(long, global = true, value_name = "URL")]
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
pub(super) struct Interrupts([Signal; 3]);

// === impl Interrupts ===

impl Interrupts {
    /// From now on, these signals no longer end the process.
    pub fn new() -> io::Result<Self> {
        let [interrupt, terminate, hangup] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    /// Waits for one of them.
    pub async fn recv(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
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

    pub fn screen(&self) -> Screen {
        Screen { json: self.output == Output::Json }
    }

    /// Starts the log on standard error. A doubt of `lock` is always printed; everything else that is logged
    /// is also in the answer.
    pub fn start_logging(&self) {
        let shown = Targets::new().with_target("failover::failover_lock", LevelFilter::WARN);
        let shown = if self.verbose { Targets::new().with_default(LevelFilter::INFO) } else { shown };
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).without_time().compact();
        // A second call in one process keeps the first one's subscriber.
        let _ = tracing_subscriber::registry().with(lines.with_filter(shown)).try_init();
    }

    /// Opens a session.
    ///
    /// # Errors
    /// There are no credentials, or the roots to trust cannot be read.
    pub async fn session(&self) -> Result<Session, Error> {
        self.open(self.region.clone().map(Region::new)).await
    }

    /// Opens a session whose calls for credentials go to this Region.
    ///
    /// # Errors
    /// There are no credentials, or the roots to trust cannot be read.
    pub async fn session_in(&self, region: Region) -> Result<Session, Error> {
        self.open(Some(region)).await
    }

    async fn open(&self, region: Option<Region>) -> Result<Session, Error> {
        let http_client = https::client(&variables::environment)?;
        let mut loader = sdk::aws_config(http_client.clone());
        if let Some(region) = &region {
            loader = loader.region(region.clone());
        }
        if let Some(url) = &self.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let Some(profile) = &self.profile {
            // As with the AWS CLI, a profile that is named precedes keys in the environment.
            let http = ProviderConfig::without_region().with_http_client(http_client).with_region(region);
            let provider =
                ProfileFileCredentialsProvider::builder().configure(&http).profile_name(profile).build();
            loader = loader.profile_name(profile).credentials_provider(provider);
        }
        let aws = loader.load().await;
        // Fail here if there are no credentials: otherwise every call retries until it times out, with a
        // vaguer error.
        if let Some(provider) = aws.credentials_provider() {
            match timeout(PATIENCE, provider.provide_credentials()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let of =
                        self.profile.as_ref().map(|name| format!("profile {name}: ")).unwrap_or_default();
                    return Err(Error::NoCredentials(of + chain(&error).trim_end_matches('.')));
                }
                Err(_) => return Err(Error::NoCredentials("there was no answer".to_owned())),
            }
        }
        Ok(Session { aws, screen: self.screen() })
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
