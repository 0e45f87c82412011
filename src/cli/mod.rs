//! `failoverctl`: what an operator needs at three in the morning.
//!
//! One file a command: its arguments, its help and its code. `restore` invokes the function; `lock` and `explain` run the
//! functions' own code with the operator's credentials, as does `restore --direct`; `status`, `doctor`, `drill` and `pause` look at what is around it. `fence`
//! is about site-fence, `latch` about failover-latch, `lease` about lease-keeper.
//!
//! What only operators call is here as well, one file for each service: `dns`, `dynamodb`, `function`, `logs`, `mute`
//! (CloudWatch's mute rules), `sns`, `sqs`, `sts`. `policy`, `topic` and `pattern` judge what these show: whether a request is
//! allowed, whether a message passes.

mod answers;
mod approval;
mod approve;
mod clock;
mod completions;
mod context;
mod dns;
mod doctor;
mod drill;
mod dynamodb;
mod error;
mod explain;
mod fence;
mod findings;
mod function;
mod gates;
mod guard;
mod iam;
mod latch;
mod lease;
mod lock;
mod locks;
mod logs;
mod look;
mod man;
mod mute;
mod name;
mod pattern;
mod pause;
mod policy;
mod report;
mod restore;
pub mod screen;
mod seen;
mod session;
mod sns;
mod sqs;
mod stack;
pub mod state;
mod status;
mod sts;
mod switch_over;
mod text;
mod timeline;
mod topic;

use clap::{CommandFactory, Parser, Subcommand};

pub use self::error::{Ended, Error};
use self::session::Common;
use crate::program::VERSION;

/// See, set and restore the locks on Route 53 health checks that keep a failed site out of service. Also for latches,
/// for fenced sites, and for leases.
#[derive(Debug, Parser)]
#[command(
    name = "failoverctl",
    version = VERSION,
    after_help = "Exit status: 0 done, or nothing is wrong (a lock is not an error); 1 an error; 2 wrong usage; 3 something \
                  is wrong or could not be seen, or was refused or declined.\n\nCredentials, profiles and endpoints are those of the AWS CLI."
)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    Lock(lock::Arguments),
    Restore(restore::Arguments),
    SwitchOver(switch_over::Arguments),
    Approve(approve::Arguments),
    Pause(pause::Pause),
    Resume(pause::Resume),
    Explain(explain::Arguments),
    Drill(drill::Arguments),
    Fence(fence::Arguments),
    Latch(latch::Arguments),
    Lease(lease::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

/// Runs the command that the arguments name.
///
/// # Errors
/// The command failed.
pub async fn run(arguments: Arguments) -> Result<Ended, Error> {
    let Arguments { common, command } = arguments;
    common.start_logging();
    if common.each_profile().is_some() && !matches!(command, Command::Status(_)) {
        return Err(Error::Profiles("this command works in one account"));
    }
    let ended = match command {
        Command::Status(arguments) => status::run(&common, arguments).await,
        Command::Doctor(arguments) => doctor::run(&common, arguments).await,
        Command::Lock(arguments) => lock::run(&common, arguments).await,
        Command::Restore(arguments) => restore::run(&common, arguments).await,
        Command::SwitchOver(arguments) => switch_over::run(&common, arguments).await,
        Command::Approve(arguments) => approve::run(&common, arguments).await,
        Command::Pause(arguments) => pause::pause(&common, arguments).await,
        Command::Resume(arguments) => pause::resume(&common, arguments).await,
        Command::Explain(arguments) => explain::run(&common, arguments).await,
        Command::Drill(arguments) => drill::run(&common, arguments).await,
        Command::Fence(arguments) => fence::run(&common, arguments).await,
        Command::Latch(arguments) => latch::run(&common, arguments).await,
        Command::Lease(arguments) => lease::run(&common, arguments).await,
        Command::Completions(arguments) => completions::run(&arguments, &mut self::Arguments::command()),
        Command::Man(arguments) => man::run(&arguments, self::Arguments::command()),
    };
    ended.map_err(|error| common.with_next_step(error))
}
