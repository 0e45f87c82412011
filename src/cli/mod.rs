//! `failoverctl`: what a person needs at three in the morning.
//!
//! `lock`, `restore` and `explain` run the functions' own code with the operator's credentials; `status`,
//! `doctor` and `drill` look at what stands around it. `fence` is site-fence's side.

mod change;
mod doctor;
mod drill;
mod explain;
mod fence;
mod function;

mod logs;
pub mod screen;
mod sns;
pub mod state;
mod status;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use thiserror::Error;
use tokio::time::timeout;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use self::screen::Screen;
use crate::failover_lock::FailoverLock;
use crate::failover_lock::alarm::Malformed;
use crate::failover_lock::cloudwatch::CloudWatch;
use crate::failover_lock::config::Config;
use crate::failover_lock::decide::CannotHold;
use crate::failover_lock::error::InvocationError;
use crate::failover_lock::health_check::HealthCheckId;
use crate::failover_lock::route53::Route53;
use crate::program::text::Quoted;
use crate::program::variables;
use crate::program::variables::InvalidConfig;
use crate::remote::aws::{Failure, Kind, chain};
use crate::remote::deadline::Deadline;
use crate::remote::https::{self, InvalidBundle};
use crate::remote::sdk;
use crate::site_fence::site::Site;

/// How long a command may try to get one thing done.
const PATIENCE: Duration = Duration::from_secs(15);

/// See, set and lift the locks on Route 53 health checks that keep a failed site out of service.
#[derive(Debug, Parser)]
#[command(
    name = "failoverctl",
    version,
    after_help = "Exit status: 0 done, or nothing is wrong (a lock is nothing wrong); 1 an error; 2 wrong usage; 3 something \
                  is wrong or could not be seen, or was refused or declined.\n\nCredentials, profiles and endpoints are those of the AWS CLI."
)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// The AWS CLI's profile to use.
    #[arg(long, global = true, value_name = "NAME")]
    profile: Option<String>,
    /// Where Route 53's metrics and alarms are; us-east-1, but in other partitions than `aws`. For `fence rejoin`,
    /// where its function is.
    #[arg(long, global = true, value_name = "REGION")]
    region: Option<String>,
    /// Where AWS is, for instance an emulator.
    #[arg(long, global = true, value_name = "URL")]
    endpoint_url: Option<String>,
    /// How to print what was found.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    output: Output,
    /// The path of a health check in service.
    #[arg(long, global = true, value_name = "PATH", env = "HEALTHY_PATH", default_value = "/lb-check")]
    healthy_path: String,
    /// The path of a locked health check.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "LOCKED_PATH",
        default_value = "/lb-check-failed-over"
    )]
    locked_path: String,
    /// The topics and functions by which an alarm reaches `lock`, comma-separated ARNs; any, if left out.
    #[arg(long, global = true, value_name = "ARNS", env = "ALARM_ACTIONS")]
    alarm_actions: Option<String>,
    /// Say what is tried again and why.
    #[arg(long, short, global = true)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the health checks that can be locked, and whether they are.
    #[command(after_help = "Examples:\n  failoverctl status\n  failoverctl status --watch \
        233e180f-f023-45a3-954e-415303f21eab\n  failoverctl status --output json | jq '.[] | select(.state != \"armed\")'")]
    Status {
        /// The health checks; every one of the account that has a path, if none is named.
        ids: Vec<HealthCheckId>,
        /// Show them again every 10 seconds, until interrupted.
        #[arg(long)]
        watch: bool,
    },
    /// Walk the whole chain from the primary to its lock, and say what is wrong and what mends it.
    #[command(
        after_help = "ok: well. look: worth a look. WRONG: mend it, by what follows the arrow. unseen: could not \
        be seen from here, or is not permitted.\n\nExample:\n  failoverctl doctor 233e180f-f023-45a3-954e-415303f21eab"
    )]
    Doctor {
        /// The primary's health check.
        id: HealthCheckId,
    },
    /// Lock a health check: its site goes out of service and stays out.
    #[command(
        after_help = "Example:\n  failoverctl lock 233e180f-f023-45a3-954e-415303f21eab --reason 'data centre on fire'"
    )]
    Lock {
        /// The primary's health check.
        id: HealthCheckId,
        /// Why, for those who find the lock.
        #[arg(long)]
        reason: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Switch a locked health check back, once the sites are synchronised.
    #[command(
        after_help = "Example:\n  failoverctl restore 233e180f-f023-45a3-954e-415303f21eab --reason 'synchronised, INC-1234' --wait"
    )]
    Restore {
        /// The primary's health check.
        id: HealthCheckId,
        /// Switch back without asking the primary whether it is healthy.
        #[arg(long)]
        force: bool,
        /// Why, for the log that --verbose shows.
        #[arg(long)]
        reason: Option<String>,
        /// Wait until the primary is armed again: healthy by Route 53's checkers, and its alarm OK.
        #[arg(long)]
        wait: bool,
        /// How many seconds to wait.
        #[arg(long, value_name = "SECONDS", default_value_t = 900, requires = "wait")]
        timeout: u64,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Say what `lock` would do with an event, and why; nothing is changed.
    #[command(after_help = "Examples:\n  failoverctl explain events/sns/keycloak-alarm.json\n  \
        failoverctl explain --offline - < message.json")]
    Explain {
        /// A Lambda event or an alarm's message; `-` for standard input.
        event: PathBuf,
        /// Read the event alone, and nothing from AWS.
        #[arg(long)]
        offline: bool,
        /// The guarded health checks, comma-separated; every one, if left out.
        #[arg(long, value_name = "IDS", env = "GUARDED_HEALTH_CHECKS")]
        guarded: Option<String>,
        /// `primary=secondary` pairs, comma-separated.
        #[arg(long, value_name = "PAIRS", env = "SECONDARY_HEALTH_CHECKS")]
        secondaries: Option<String>,
    },
    /// A game day: set the alarm off, follow it to the lock, and switch back.
    #[command(after_help = "Example:\n  failoverctl drill 233e180f-f023-45a3-954e-415303f21eab")]
    Drill {
        /// A health check of your own that no record refers to.
        id: HealthCheckId,
        /// Even though records refer to it: traffic moves.
        #[arg(long)]
        in_service: bool,
        /// Let the check fail by a path that is not there instead of setting its alarm's state.
        #[arg(long)]
        by_metric: bool,
        /// How many seconds each leg may take.
        #[arg(long, value_name = "SECONDS", default_value_t = 600)]
        timeout: u64,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// See the sites behind AWS Global Accelerator, and bring one back that site-fence has taken out.
    Fence {
        #[command(subcommand)]
        command: Fence,
    },
    /// Print a shell's completions.
    #[command(after_help = "Example:\n  failoverctl completions bash > /etc/bash_completion.d/failoverctl")]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
enum Fence {
    /// Show the sites behind an accelerator, and which of them were taken out.
    #[command(after_help = "Example:\n  failoverctl fence status a1234567890abcdef.awsglobalaccelerator.com")]
    Status {
        /// The accelerator's DNS name or ARN; every one of the account, if left out.
        accelerator: Option<String>,
    },
    /// Bring a site back, once the sites are synchronised: into Infinispan's replication, then into the accelerator.
    #[command(after_help = "Example:\n  failoverctl fence rejoin site-b --accelerator \
        a1234567890abcdef.awsglobalaccelerator.com --region eu-west-1 --reason 'synchronised, INC-1234'")]
    Rejoin {
        /// The site.
        site: Site,
        /// The accelerator's DNS name or ARN.
        #[arg(long, value_name = "NAME")]
        accelerator: String,
        /// The function that does it; by its name it is looked for in --region, or else the environment's Region.
        #[arg(long, value_name = "NAME", default_value = "site-rejoin")]
        function: String,
        /// Bring it into the accelerator although Infinispan of the other site does not answer, or refuses.
        #[arg(long)]
        force: bool,
        /// Why, for the function's log.
        #[arg(long)]
        reason: Option<String>,
        /// Say what would be done, change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// How a command ended that was not an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Done, or all is well.
    Well,
    /// Something is not well, or was refused or declined.
    NotWell,
}

/// Why a command could not be done.
#[derive(Debug, Error)]
pub enum Error {
    /// An option cannot be used.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The roots to trust cannot be read.
    #[error(transparent)]
    Bundle(#[from] InvalidBundle),
    /// AWS did not do it.
    #[error("{0}")]
    Aws(#[from] Failure),
    /// The health check cannot be locked.
    #[error("health check {0}: {1}")]
    CannotHold(HealthCheckId, CannotHold),
    /// What the function's code says.
    #[error("{0}")]
    Invocation(InvocationError),
    /// The event cannot be read.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", Quoted(.file))]
    File {
        /// Which.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// Standard output or the terminal is gone.
    #[error("the terminal: {0}")]
    Terminal(#[from] io::Error),
    /// There are no credentials, or none that can be used.
    #[error(
        "there are no credentials to use: {0}. Log in (aws sso login), or name a profile that has some with --profile"
    )]
    NoCredentials(String),
    /// Stopped by a signal.
    #[error("interrupted")]
    Interrupted,
    /// A question, and nobody to answer it.
    #[error("there is no terminal to ask on, and nothing was changed: add --yes")]
    NobodyToAsk,
    /// It did not happen in time.
    #[error("{0}")]
    TooLate(String),
    /// There is no such accelerator.
    #[error("this account has no accelerator{}", .0.as_ref().map(|name| format!(" of the DNS name or ARN {}", Quoted(name))).unwrap_or_default())]
    NoAccelerator(Option<String>),
    /// A function that was invoked has failed.
    #[error("{function}: {said}")]
    Function {
        /// Which.
        function: String,
        /// What it says.
        said: String,
    },
    /// A drill that must not be done.
    #[error("{0}")]
    NoDrill(String),
}

/// The account that is looked at, and how to talk about it.
struct Session {
    aws: SdkConfig,
    config: Config,
    route53: Route53,
    cloudwatch: CloudWatch,
    screen: Screen,
}

/// Does what was asked for.
///
/// # Errors
/// It could not be done.
pub async fn run(arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { common, command } = arguments;
    // What `lock` does in doubt is always told; everything else that is logged is in the answer, too.
    let told = Targets::new().with_target("failover::failover_lock::lock", LevelFilter::WARN);
    let told = if common.verbose { Targets::new().with_default(LevelFilter::INFO) } else { told };
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).without_time().compact();
    // A second call in one process keeps the first one's subscriber.
    let _ = tracing_subscriber::registry().with(lines.with_filter(told)).try_init();

    match command {
        Command::Status { ids, watch } => status::status(&common.session().await?, &ids, watch).await,
        Command::Doctor { id } => doctor::doctor(&common.session().await?, &id).await,
        Command::Lock { id, reason, yes } => change::lock(&common.session().await?, &id, &reason, yes).await,
        Command::Restore { id, force, reason, wait, timeout, yes } => {
            let wait = wait.then(|| Duration::from_secs(timeout));
            change::restore(&common.session().await?, &id, force, reason.as_deref(), wait, yes).await
        }
        Command::Explain { event, offline, guarded, secondaries } => {
            let config = Config { dry_run: true, ..common.config(guarded.as_ref(), secondaries.as_ref())? };
            if offline {
                return explain::offline(&event, &config, common.screen());
            }
            explain::explain(&common.session_with(config).await?, &event).await
        }
        Command::Drill { id, in_service, by_metric, timeout, yes } => {
            let drill = drill::Drill { in_service, by_metric, leg: Duration::from_secs(timeout), yes };
            drill::drill(&common.session().await?, &id, &drill).await
        }
        Command::Fence { command: Fence::Status { accelerator } } => {
            fence::status(&common.session().await?, accelerator.as_deref()).await
        }
        Command::Fence {
            command: Fence::Rejoin { site, accelerator, function, force, reason, dry_run, yes },
        } => {
            let own = || ["AWS_REGION", "AWS_DEFAULT_REGION"].into_iter().find_map(variables::environment);
            let region = common.region.clone().or_else(own).map(Region::new);
            let asked = fence::Rejoin { site, accelerator, function, force, reason, dry_run, yes };
            fence::rejoin(&common.session().await?, region, asked).await
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "failoverctl", &mut script);
            io::stdout().write_all(&script)?;
            Ok(Ended::Well)
        }
    }
}

// === impl Common ===

impl Common {
    fn screen(&self) -> Screen {
        Screen { json: self.output == Output::Json }
    }

    fn config(
        &self,
        guarded: Option<&String>,
        secondaries: Option<&String>,
    ) -> Result<Config, InvalidConfig> {
        Config::read(&|name| match name {
            "HEALTHY_PATH" => Some(self.healthy_path.clone()),
            "LOCKED_PATH" => Some(self.locked_path.clone()),
            "ALARM_ACTIONS" => self.alarm_actions.clone(),
            "GUARDED_HEALTH_CHECKS" => guarded.cloned(),
            "SECONDARY_HEALTH_CHECKS" => secondaries.cloned(),
            _ => None,
        })
    }

    async fn session(&self) -> Result<Session, Error> {
        self.session_with(self.config(None, None)?).await
    }

    async fn session_with(&self, config: Config) -> Result<Session, Error> {
        let http_client = https::client(&variables::environment)?;
        let mut loader = sdk::aws_config(http_client.clone());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(url) = &self.endpoint_url {
            loader = loader.endpoint_url(url);
        }
        if let Some(profile) = &self.profile {
            // A profile that is named goes before keys in the environment, as with the AWS CLI.
            let http = ProviderConfig::without_region().with_http_client(http_client);
            let provider =
                ProfileFileCredentialsProvider::builder().configure(&http).profile_name(profile).build();
            loader = loader.profile_name(profile).credentials_provider(provider);
        }
        let aws = loader.load().await;
        // Each call would be tried for long, and then say less.
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
        let (route53, cloudwatch) = (Route53::new(&aws), CloudWatch::new(&aws));
        Ok(Session { aws, config, route53, cloudwatch, screen: self.screen() })
    }
}

// === impl Error ===

impl Error {
    /// The exit status: a refusal is no error of the command.
    #[must_use]
    pub fn ended(&self) -> ExitCode {
        match self {
            Self::Invocation(error) if error.error_type() == "RestoreRefused" => Ended::NotWell.into(),
            Self::CannotHold(..) | Self::NoDrill(_) | Self::NobodyToAsk => Ended::NotWell.into(),
            _ => ExitCode::FAILURE,
        }
    }
}

// === impl Session ===

impl Session {
    /// AWS in the Region of this ARN.
    fn aws_of(&self, arn: &str) -> SdkConfig {
        match part(arn, REGION) {
            "" => self.aws.clone(),
            region => self.aws.to_builder().region(Region::new(region.to_owned())).build(),
        }
    }

    /// The functions' own code.
    fn system(&self) -> FailoverLock {
        FailoverLock::new(self.config.clone(), &self.aws)
    }
}

/// Where the parts of an ARN stand, `arn:PARTITION:service:REGION:ACCOUNT:function:NAME:QUALIFIER`.
const PARTITION: usize = 1;
const REGION: usize = 3;
const ACCOUNT: usize = 4;
const NAME: usize = 6;
const QUALIFIER: usize = 7;

/// A part of an ARN; empty where it has none.
fn part(arn: &str, place: usize) -> &str {
    arn.split(':').nth(place).unwrap_or_default()
}

/// What a call has found; `None` where what it names does not exist.
fn if_there<T>(result: Result<T, Failure>) -> Result<Option<T>, Failure> {
    match result {
        Err(failure) if failure.kind() == Kind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// The deadline of one thing to be done.
fn patience() -> Deadline {
    Deadline::after(PATIENCE)
}

// === impl Ended ===

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Well => Self::SUCCESS,
            Ended::NotWell => Self::from(3),
        }
    }
}
