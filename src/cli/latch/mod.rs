//! `failoverctl latch`: the latches, from the file of their names that the deployment writes. `status`, `lock` and
//! `release` call S3 and the zone's name servers alone.

mod attach;
mod doctor;
mod drill;
mod lock;
mod release;
mod s3;
mod status;
mod zone;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aws_config::{Region, SdkConfig};
use clap::{Args, Subcommand};
use futures_util::future::join_all;

use super::error::{Ended, Error};
use super::session::{Common, Session};
use crate::latch::config::{Config, KEYS, Latch};
use crate::latch::dns::NameServers;
use crate::latch::s3::S3;
use crate::latch::seen::Object;
use crate::latch::view::{self, Seen};
use crate::program::variables;
use crate::remote::https::Https;
use crate::remote::sdk;

/// Show the latches, lock one by hand, release one; attach one to its record and detach it.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Arguments),
    Lock(lock::Arguments),
    Release(release::Arguments),
    Doctor(doctor::Arguments),
    Drill(drill::Arguments),
    Attach(attach::Attach),
    Detach(attach::Detach),
}

/// The file that names the latches, the buckets and the name servers.
#[derive(Debug, Args)]
struct File {
    /// The file that the deployment has written: the watcher's variables, NAME=VALUE in each line.
    #[arg(long, value_name = "FILE", env = "FAILOVER_LATCH_CONFIG", default_value = "failover-latch.env")]
    config: PathBuf,
}

/// What a command about latches needs.
struct Latches {
    session: Session,
    config: Config,
    /// Whether processes watch, and no functions.
    by_process: bool,
    /// The stack of each Region, if the file names it.
    stack: Option<String>,
    s3: S3,
    name_servers: NameServers,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    match arguments.command {
        Command::Status(arguments) => status::run(common, arguments).await,
        Command::Lock(arguments) => lock::run(common, arguments).await,
        Command::Release(arguments) => release::run(common, arguments).await,
        Command::Drill(arguments) => drill::run(common, arguments).await,
        Command::Doctor(arguments) => doctor::run(common, arguments).await,
        Command::Attach(arguments) => attach::attach(common, arguments).await,
        Command::Detach(arguments) => attach::detach(common, arguments).await,
    }
}

// === impl File ===

impl File {
    /// Reads the file and opens a session in a bucket's Region, so that no call goes to us-east-1.
    async fn open(&self, common: &Common) -> Result<Latches, Error> {
        let Read { config, by_process, stack } = read(&self.config)?;
        let region = common.own_region().unwrap_or_else(|| Region::new(config.buckets[0].region.clone()));
        let session = common.session_in(Some(region)).await?;
        let https = Https::new(&variables::environment)?;
        let s3 = S3::new(&session.aws, https, &config.buckets, config.bucket_owner.clone());
        let name_servers = NameServers::new(&config.name_servers);
        // The file may be years old.
        name_servers.look_up_now().await;
        Ok(Latches { session, config, by_process, stack, s3, name_servers })
    }
}

/// What the file says.
struct Read {
    config: Config,
    by_process: bool,
    stack: Option<String>,
}

fn read(file: &Path) -> Result<Read, Error> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).map_err(|source| Error::LatchFile { file: name.clone(), source })?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: BTreeMap<_, _> = lines.filter_map(|line| line.split_once('=')).collect();
    let lookup = |name: &str| lines.get(name).map(|value| value.trim().to_owned());
    let config = Config::read(&lookup).map_err(|problems| Error::LatchConfig { file: name, problems })?;
    let by_process = lookup("WATCH_BY").as_deref() == Some("process");
    Ok(Read { config, by_process, stack: lookup("LATCH_STACK") })
}

// === impl Latches ===

impl Latches {
    /// AWS in the Region of Route 53's control plane.
    fn control_plane(&self) -> SdkConfig {
        let own = self.session.aws.region().map(ToString::to_string);
        self.session.aws.to_builder().region(sdk::region(own)).build()
    }

    /// Sees a latch now.
    async fn see(&self, latch: &Latch) -> Seen {
        view::see(&self.config, &self.s3, &self.name_servers, &[latch]).await.remove(0)
    }

    /// Reads a latch's object in each bucket.
    async fn keys(&self, latch: &Latch) -> Vec<Object> {
        let names = [latch.name.as_str()];
        let buckets = 0..self.config.buckets.len();
        let read = join_all(buckets.map(|bucket| self.s3.read(bucket, KEYS, &names))).await;
        read.into_iter().flat_map(|shown| shown.objects).collect()
    }

    /// The latch of this name.
    fn named(&self, name: &str) -> Result<&Latch, Error> {
        let found = self.config.latches.iter().find(|latch| latch.name == name);
        found.ok_or_else(|| {
            let names: Vec<_> = self.config.latches.iter().map(|latch| latch.name.as_str()).collect();
            Error::NoLatch { name: name.to_owned(), names: names.join(", ") }
        })
    }
}
