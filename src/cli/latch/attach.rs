//! `failoverctl latch attach` and `detach`: which check the application's PRIMARY record refers to.

use aws_sdk_route53::types::ResourceRecordSet;
use clap::Args;
use hickory_proto::rr::Name;
use serde::Serialize;
use tokio::select;
use tokio::time::sleep;

use super::s3::{Hands, LATE};
use super::zone::{self, Checks, Incomplete, Zone};
use super::{File, Latches};
use crate::cli::error::{Ended, Error};
use crate::cli::screen::say;
use crate::cli::session::{Common, Interrupts};
use crate::latch::config::Latch;
use crate::latch::dns::{Question, Transport};
use crate::latch::release::Held;
use crate::latch::seen::{HOLD, Object, Record, Verdict};
use crate::remote::aws::{Failure, Kind};
use crate::remote::deadline::MayPass as _;

/// Why a locked latch is not detached.
const WITHOUT: &str = ", and without it the primary would serve";

/// Attach a latch: the application's PRIMARY record and the sentinel `_serving` refer to it, in one change.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  failoverctl latch attach app\n\nThe code that manages the record has to name the same check: \
    otherwise its next run detaches the latch."
)]
pub(super) struct Attach {
    #[command(flatten)]
    arguments: Arguments,
}

/// Detach a latch: the PRIMARY record and `_serving` refer to the primary's own check again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  failoverctl latch detach app")]
pub(super) struct Detach {
    #[command(flatten)]
    arguments: Arguments,
}

#[derive(Debug, Args)]
struct Arguments {
    /// The latch.
    latch: String,
    /// Show what would be changed, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    file: File,
}

/// What became of the records.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    latch: String,
    outcome: &'static str,
    record: String,
    /// The check that the records had before.
    before: String,
    /// The check that they have now.
    check: String,
}

pub(super) async fn attach(common: &Common, attach: Attach) -> Result<Ended, Error> {
    let Arguments { latch, dry_run, yes, file } = attach.arguments;
    let latches = file.open(common).await?;
    let latch = latches.named(&latch)?;
    may_attach(&latches, latch).await?;
    let (zone, checks) = found(&latches, latch).await?;
    let of_name = zone.records(&zone.name).await?;
    if let Some(record) = zone::without_secondary(&of_name).next() {
        let kind = record.r#type();
        let why = format!(
            "the PRIMARY record of {} of type {kind} has no SECONDARY one: Route 53 answers it although it is unhealthy",
            zone.name
        );
        return Err(refused(latch, &why));
    }
    if let Some(record) = zone::unconditional(&of_name).next() {
        let kind = record.r#type();
        let why = format!(
            "{} has a record of type {kind} that does not fail over: it is answered whatever the latch says. Make it a PRIMARY \
             record beside a SECONDARY one, or delete it",
            zone.name
        );
        return Err(refused(latch, &why));
    }
    let of_sentinel = zone.records(&zone.sentinel).await?;
    let (own, sentinel) = (zone::standbys(&of_name), zone::standbys(&of_sentinel));
    if own != sentinel {
        let why = format!(
            "the SECONDARY records of {} and {} do not have the same check: deploy the latch with the mode that the records have",
            zone.name, zone.sentinel
        );
        return Err(refused(latch, &why));
    }
    for record in zone::leaving_standby(&of_name) {
        let why = format!(
            "the SECONDARY record of {} of type {} evaluates its target's health: while that is unhealthy, Route 53 answers the \
             primary, locked or not",
            zone.name,
            record.r#type()
        );
        // In the mode yielding this is so in any case.
        if record.health_check_id().is_none() {
            return Err(refused(latch, &format!("{why}. Set its EvaluateTargetHealth to false")));
        }
        say(&format!("warning: {why}"));
    }
    let records = Records::of(&zone, latch).await?;
    for record in records.primaries.iter().filter(|record| zone::evaluates_target(record)) {
        say(&format!(
            "warning: {} {} evaluates its target's health: it can fail over without the latch",
            record.name(),
            record.r#type()
        ));
    }
    let (before, after) = (records.check.clone(), checks.latched.clone());
    if before == after && records.sentinel == after {
        return outcome(&latches, latch, "already_attached", &zone, &after, &after).await;
    }
    if !checks.is_primary(&before) && before != after {
        return Err(refused(
            latch,
            &format!(
                "the PRIMARY record of {} has the check {before}, and the latch requires {}: deploy the latch with the \
                 record's own check, infra/deploy latch --name {} --primary {before}",
                zone.name,
                checks.primary.join(", "),
                latch.name
            ),
        ));
    }
    if dry_run {
        return outcome(&latches, latch, "would_attach", &zone, &before, &after).await;
    }
    let question =
        format!("Refer {} and {} to the check {after} instead of {before}?", zone.name, zone.sentinel);
    if latches.session.screen.ask(&question, yes).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let change = async |_: &Hands<'_>| {
        may_attach(&latches, latch).await?;
        records.are_still(&zone, latch).await?;
        let read = records.all();
        refer(zone.refer(&read, &zone::referring(&read, &after)).await, latch)
    };
    Box::pin(under_hold(&latches, latch, "an attachment", change)).await?;
    say(&format!(
        "the check before was {before}; failoverctl latch detach {} refers to it again",
        latch.name
    ));
    outcome(&latches, latch, "attached", &zone, &before, &after).await
}

/// Makes a change under a hold, so that no watcher locks while the records change, once what was written before it has
/// landed. Until then an interrupt ends it.
async fn under_hold(
    latches: &Latches,
    latch: &Latch,
    purpose: &'static str,
    change: impl AsyncFnOnce(&Hands<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let (hands, mut interrupts) = (Hands::new(latches, purpose), Interrupts::new()?);
    let (holds, _) = hands.holds(latch).await;
    let held = hands.hold(latch, &replaced(latch, &holds)?).await;
    held.map_err(|cause| refused(latch, &format!("a hold could not be put: {cause}")))?;
    say(&format!("waiting {} s, until no write from before can land", LATE.as_secs()));
    let changed = select! {
        biased;
        () = interrupts.recv() => Err(Error::Interrupted),
        () = sleep(LATE) => change(&hands).await,
    };
    hands.remove_holds(latch).await;
    changed
}

/// What a change of the records came to.
fn refer(changed: Result<(), Failure>, latch: &Latch) -> Result<(), Error> {
    changed.map_err(|failure| {
        let name = &latch.name;
        let is_turned_away = matches!(failure.kind(), Kind::Refused | Kind::Denied | Kind::NotFound);
        if is_turned_away && !failure.may_be_done() {
            return refused(latch, &failure.to_string());
        }
        Error::Release(format!(
            "{name}: it is not certain whether the records were changed: {failure}. Repeat the command: it reads them again"
        ))
    })
}

/// Whether attaching a latch moves no traffic: every bucket shows that there is no object, the primary serves, and the
/// new check is healthy, as far as its temporary sentinel shows it.
async fn may_attach(latches: &Latches, latch: &Latch) -> Result<(), Error> {
    let seen = latches.see(latch).await;
    open(latch, &seen.keys, "")?;
    if seen.said.serving != Verdict::Agreed(Record::Primary) {
        return Err(refused(
            latch,
            "the name servers do not say that the primary serves: wait until it does",
        ));
    }
    let sentinel = latch.serving.to_ascii().replacen("_serving.", "_latched.", 1);
    let Ok(name) = Name::from_ascii(&sentinel) else { return Ok(()) };
    let answers = latches.name_servers.ask(&[Question::healthy(&name)], Transport::Udp).await.remove(0);
    if answers.is_empty() {
        let why = format!(
            "no name server answers {sentinel}, which says whether the new check is healthy: repeat infra/deploy latch --name {}",
            latch.name
        );
        return Err(refused(latch, &why));
    }
    if Verdict::of(answers) == Verdict::Agreed(Record::Primary) {
        return Ok(());
    }
    let why = format!(
        "{sentinel} does not say on every name server that the new check is healthy: wait until it does"
    );
    Err(refused(latch, &why))
}

/// The tags of the holds to replace: those that broken-off releases have left behind.
fn replaced(latch: &Latch, holds: &[Held]) -> Result<Vec<Option<String>>, Error> {
    let replaced = |hold: &Held| match hold {
        Held::Absent => Ok(None),
        Held::Own(stored) => Ok(Some(stored.etag.clone())),
        Held::Other(stored, _) if stored.age > HOLD => Ok(Some(stored.etag.clone())),
        Held::Other(_, holder) => {
            Err(refused(latch, &format!("it is held by {holder}: wait until that ends, 10 minutes at most")))
        }
        Held::Unreadable(cause) => Err(refused(latch, cause)),
    };
    holds.iter().map(replaced).collect()
}

/// Whether every bucket shows that there is no object.
fn open(latch: &Latch, keys: &[Object], consequence: &str) -> Result<(), Error> {
    for key in keys {
        match key {
            Object::Absent => {}
            Object::Present(_) => {
                let name = &latch.name;
                let why = format!(
                    "it is locked{consequence}; release it first with failoverctl latch release {name}"
                );
                return Err(refused(latch, &why));
            }
            Object::Invisible(cause) | Object::Silent(cause) => {
                return Err(refused(latch, &format!("it is not known whether it is locked: {cause}")));
            }
        }
    }
    Ok(())
}

pub(super) async fn detach(common: &Common, detach: Detach) -> Result<Ended, Error> {
    let Arguments { latch, dry_run, yes, file } = detach.arguments;
    let latches = file.open(common).await?;
    let latch = latches.named(&latch)?;
    let (zone, checks) = found(&latches, latch).await?;
    let records = Records::of(&zone, latch).await?;
    let of_primary = latch.primary.to_ascii();
    let own = zone::check_of(&zone::primaries(&zone.records(&of_primary).await?)).map(str::to_owned);
    let own = own.filter(|own| checks.is_primary(own)).ok_or_else(|| {
        refused(
            latch,
            &format!(
                "{of_primary} does not refer to the primary's own check: run infra/deploy latch --name {}",
                latch.name
            ),
        )
    })?;
    let before = records.check.clone();
    if before == own && records.sentinel == own {
        return outcome(&latches, latch, "already_detached", &zone, &own, &own).await;
    }
    if before != checks.latched && before != own {
        return Err(refused(
            latch,
            &format!(
                "the PRIMARY record of {} has the check {before}, which is none of the latch's",
                zone.name
            ),
        ));
    }
    let seen = latches.see(latch).await;
    open(latch, &seen.keys, WITHOUT)?;
    if !matches!(seen.said.serving, Verdict::Agreed(_)) {
        return Err(refused(
            latch,
            "the name servers do not say clearly which site serves: wait until they do",
        ));
    }
    if seen.said.serving != Verdict::Agreed(Record::Primary) {
        say(
            "warning: the name servers do not say that the primary serves: it will, as soon as its own check is healthy",
        );
    }
    if dry_run {
        return outcome(&latches, latch, "would_detach", &zone, &before, &own).await;
    }
    let question = format!(
        "Refer {} and {} to the primary's own check {own}? Nothing keeps a failed primary out then.",
        zone.name, zone.sentinel
    );
    if latches.session.screen.ask(&question, yes).await? == Ended::NotWell {
        return Ok(Ended::NotWell);
    }
    let served = seen.said.serving == Verdict::Agreed(Record::Primary);
    let change = async |hands: &Hands<'_>| {
        let seen = latches.see(latch).await;
        open(latch, &seen.keys, WITHOUT)?;
        // Watchers do not lock under this command's own hold.
        if served && seen.said.serving != Verdict::Agreed(Record::Primary) {
            let why = "the name servers do not say any more that the primary serves: wait until the watchers have locked it, or until \
                       it does";
            return Err(refused(latch, why));
        }
        records.are_still(&zone, latch).await?;
        let (read, after) = (records.all(), zone::referring(&records.all(), &own));
        let referred = refer(zone.refer(&read, &after).await, latch);
        // A person who locks meanwhile creates the objects first, and takes the hold over.
        let (keys, holds) = (latches.keys(latch).await, hands.holds(latch).await.0);
        let is_locked = keys.iter().any(|key| key.stored().is_some());
        let name = &latch.name;
        if !is_locked && !holds.iter().any(|hold| matches!(hold, Held::Other(..))) {
            let unseen = keys.iter().any(|key| *key != Object::Absent)
                || holds.iter().any(|hold| matches!(hold, Held::Unreadable(_)));
            if unseen && referred.is_ok() {
                return Err(Error::Release(format!(
                    "{name}: the records refer to the primary's own check, and it is not certain that no one has locked it \
                     meanwhile: a bucket could not be read. See failoverctl latch status {name}; if it is locked, let the \
                     PRIMARY records of {} and {} refer to the check {before} again",
                    zone.name, zone.sentinel
                )));
            }
            return referred;
        }
        Err(Error::Release(match zone.refer(&after, &read).await {
            Ok(()) => format!(
                "{name}: someone has locked it meanwhile, and the records are as before again: see failoverctl latch \
                 status {name}"
            ),
            Err(failure) => format!(
                "{name}: someone has locked it meanwhile, and it is not certain that the lock holds: the records could not \
                 be changed back: {failure}. Let the PRIMARY records of {} and {} refer to the check {before}",
                zone.name, zone.sentinel
            ),
        }))
    };
    Box::pin(under_hold(&latches, latch, "a detachment", change)).await?;
    outcome(&latches, latch, "detached", &zone, &before, &own).await
}

/// The PRIMARY records of the application and of `_serving`.
struct Records {
    primaries: Vec<ResourceRecordSet>,
    sentinels: Vec<ResourceRecordSet>,
    check: String,
    sentinel: String,
}

impl Records {
    async fn of(zone: &Zone, latch: &Latch) -> Result<Self, Error> {
        let mut primaries = zone::primaries(&zone.records(&zone.name).await?);
        primaries.retain(zone::is_address);
        let sentinels = zone::primaries(&zone.records(&zone.sentinel).await?);
        let of = |records: &[_], name: &str| match zone::check_of(records) {
            Some(check) => Ok(check.to_owned()),
            None if records.is_empty() => Err(refused(latch, &format!("{name} has no PRIMARY record"))),
            None => Err(refused(
                latch,
                &format!("the PRIMARY records of {name} do not all have the same health check"),
            )),
        };
        let (check, sentinel) = (of(&primaries, &zone.name)?, of(&sentinels, &zone.sentinel)?);
        Ok(Self { primaries, sentinels, check, sentinel })
    }

    /// Refuses if someone has changed them, or added one of another type, which Route 53 would leave as it is.
    async fn are_still(&self, zone: &Zone, latch: &Latch) -> Result<(), Error> {
        if Self::of(zone, latch).await?.all() == self.all() {
            return Ok(());
        }
        Err(refused(
            latch,
            "someone has changed the records meanwhile: repeat the command, which reads them again",
        ))
    }

    fn all(&self) -> Vec<ResourceRecordSet> {
        self.primaries.iter().chain(&self.sentinels).cloned().collect()
    }
}

async fn found(latches: &Latches, latch: &Latch) -> Result<(Zone, Checks), Error> {
    let incomplete = |incomplete: Incomplete| match incomplete {
        Incomplete::Aws(failure) => Error::Aws(failure),
        other => refused(latch, &other.to_string()),
    };
    let aws = latches.control_plane();
    let zone = Zone::of(&aws, latch, &latches.config.name_servers).await.map_err(incomplete)?;
    let checks = Checks::of(&aws, &latches.config.buckets, latch).await.map_err(incomplete)?;
    Ok((zone, checks))
}

async fn outcome(
    latches: &Latches,
    latch: &Latch,
    outcome: &'static str,
    zone: &Zone,
    before: &str,
    check: &str,
) -> Result<Ended, Error> {
    let found = Change {
        latch: latch.name.clone(),
        outcome,
        record: zone.name.clone(),
        before: before.to_owned(),
        check: check.to_owned(),
    };
    let words = outcome.replace('_', " ");
    let text = || format!("{words}: {} refers to {check}, before: {before}\n", zone.name);
    latches.session.screen.show("outcomes", &[found], text).await?;
    Ok(Ended::Well)
}

fn refused(latch: &Latch, why: &str) -> Error {
    Error::Release(format!("{}: nothing was changed: {why}", latch.name))
}
