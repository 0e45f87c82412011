//! `failoverctl switch-over`: locks a primary on purpose, and follows its traffic to the other site.

use std::net::SocketAddr;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, value_parser};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::time::{Instant, interval_at, sleep};

use super::answers::{self, Asked, Values};
use super::dns::{self, Follows, Record, Role, Secondary};
use super::error::{Ended, Error};
use super::gates::{Ask, Gates};
use super::guard::{Guard, Options};
use super::lock;
use super::name::{self, Named};
use super::report::{self, Operation};
use super::screen::say;
use super::seen::counted;
use super::session::{Common, Interrupts, YEAR, shortly};
use super::state::why;
use super::text::plain;
use super::timeline::{Source, Timeline};
use crate::failover_lock::decide::Health;
use crate::failover_lock::health_check::HealthCheckId;
use crate::failover_lock::outcome::Verdict;
use crate::remote::deadline::Deadline;

/// How often the checkers and the name servers are asked.
const LOOK: Duration = Duration::from_secs(2);

/// How often it is seen whether the other sites are healthy still.
const OTHERS: Duration = Duration::from_secs(20);

/// How long the records of all zones may take to be read: Route 53 allows an account five calls a second.
const ALL_ZONES: Duration = Duration::from_mins(2);

/// Take a primary out of service on purpose: see that the other site is healthy, lock, and follow the traffic there.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  failoverctl switch-over primary --reason 'upgrade, CHG-42' --report .\n  failoverctl switch-over primary \
    --reason 'upgrade, CHG-42' --dry-run\n  failoverctl switch-over primary --reason 'upgrade, CHG-42' --require-command \
    './replication-lag-below 5s'\n\nBack again: failoverctl restore"
)]
pub(super) struct Arguments {
    /// The primary's health check, by its id or its tag Name.
    #[arg(value_name = "CHECK")]
    check: Named,
    /// The reason, for those who find the lock.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    #[command(flatten)]
    gates: Gates,
    /// Ask this DNS server for the records, in place of their zones' own name servers.
    #[arg(long, value_name = "ADDRESS:PORT")]
    dns_server: Option<SocketAddr>,
    /// How many seconds the traffic may take to move.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u64).range(..=YEAR))]
    timeout: u64,
    /// Look at everything and show what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    report: report::Options,
    #[command(flatten)]
    options: Options,
}

/// A record whose answers are followed.
struct Followed {
    asked: Asked,
    name: String,
    /// The other site's values, if they are known.
    standby: Values,
    /// Every value that was answered before.
    before: Values,
    /// What was seen last.
    last: Vec<Result<Values, String>>,
}

/// What a switch-over is about.
struct Subject {
    id: HealthCheckId,
    title: String,
    is_locked: bool,
    records: Vec<Followed>,
    /// The records beside those failover pairs that depend on it.
    others: Vec<String>,
    /// The failover pairs whose primary it is.
    primaries: Vec<Record>,
    /// The failover records whose answers are not followed.
    unseen: Vec<String>,
    /// What Route 53's checkers find.
    health: Health,
}

pub(super) async fn run(common: &Common, arguments: Arguments) -> Result<Ended, Error> {
    let guard = &arguments.options.guard(common).await?;
    let id = arguments.check.find(guard).await?;
    arguments.report.prepare()?;
    let mut timeline = Timeline::default();
    let (_, tags) = lock::read(guard, &id).await?;
    let title = name::title(&id, tags.as_ref());
    let ended = steps(common, guard, &id, &arguments, &mut timeline).await;
    let operation = Operation {
        command: "switch-over",
        subject: &title,
        is_dry_run: arguments.dry_run,
        timeline: &timeline,
    };
    arguments.report.show(&guard.session.screen, operation, ended).await
}

async fn steps(
    common: &Common,
    guard: &Guard,
    id: &HealthCheckId,
    arguments: &Arguments,
    timeline: &mut Timeline,
) -> Result<Ended, Error> {
    let mut subject = ready(guard, id, arguments.dns_server, timeline).await?;
    // An interrupt while it is locked counts once that is known.
    let mut interrupts = None;
    if subject.is_locked {
        // A switch-over that was interrupted goes on.
        timeline.now(Source::Lock, format!("{} is locked already", subject.title));
    } else {
        let question = format!(
            "Switch {} over? Its site goes out of service until a person restores it.{}",
            subject.title,
            subject.also()
        );
        let Arguments { reason, yes, dry_run, gates, .. } = arguments;
        let what = format!("switch-over {id}{}: {reason}", arguments.options.paths());
        let asked = Ask { question: &question, yes: *yes, dry_run: *dry_run, what };
        let Some(passed) = gates.ask(common, &guard.session, &asked, timeline).await? else {
            return Ok(Ended::NotWell);
        };
        if arguments.dry_run {
            timeline.now(Source::Lock, format!("{} would be locked", subject.title));
            return Ok(Ended::Well);
        }
        // The question may have been open for hours, and the commands may have taken some.
        if !arguments.yes || !arguments.gates.is_empty() {
            subject = ready(guard, id, arguments.dns_server, timeline).await?;
        }
        if subject.is_locked {
            // What an alarm has locked meanwhile keeps its record.
            let what = format!("{} was locked meanwhile, and not by this command", subject.title);
            timeline.now(Source::Lock, what);
        } else {
            let reason = passed.reason(Some(reason)).unwrap_or_default();
            interrupts = Some(locks(guard, &subject, &reason, timeline).await?);
        }
    }
    if arguments.dry_run {
        return Ok(Ended::Well);
    }
    let mut interrupts = interrupts.map_or_else(Interrupts::new, Ok)?;
    let followed = tokio::select! {
        biased;
        () = interrupts.recv() => Err(Error::Interrupted),
        followed = follow(guard, &mut subject, arguments.timeout, timeline) => followed,
    };
    // Someone may have set it back meanwhile; one answer may be from before the lock.
    let mut seen = guard.route53.health_check(id, shortly()).await;
    if seen.as_ref().is_ok_and(|check| !guard.config.is_locked(check)) {
        sleep(LOOK).await;
        seen = guard.route53.health_check(id, shortly()).await;
    }
    match seen {
        Ok(check) if guard.config.is_locked(&check) => {
            timeline.now(Source::Lock, format!("{} is locked", subject.title));
        }
        Ok(check) => {
            let path = plain(check.path().unwrap_or_default());
            return Err(Error::TooLate(format!(
                "{title} is not locked any more: someone has set its path to {path}. See failoverctl status {id}",
                title = subject.title
            )));
        }
        Err(failure) => {
            let title = &subject.title;
            return Err(Error::TooLate(format!(
                "whether {title} is still locked cannot be read: {failure}. See failoverctl status {id}"
            )));
        }
    }
    if followed.is_err() {
        say("to follow its traffic again, repeat the command");
    }
    followed?;
    if subject.unseen.is_empty() {
        return Ok(Ended::Well);
    }
    let unseen = subject.unseen.join(", ");
    timeline.now(Source::Dns, format!("where the traffic of {unseen} goes was not seen: ask its resolvers"));
    Ok(Ended::NotWell)
}

/// Locks it.
///
/// # Errors
/// It was not locked, or no lock holds on it.
async fn locks(
    guard: &Guard,
    subject: &Subject,
    reason: &str,
    timeline: &mut Timeline,
) -> Result<Interrupts, Error> {
    let locked = lock::by_hand(guard, &subject.id, reason).await;
    timeline.changed = guard.has_changed();
    let (outcome, interrupts) = locked?;
    let (title, cause) = (&subject.title, outcome.reason.map_or("for no known reason", why));
    match outcome.outcome {
        Verdict::Locked => {
            timeline.now(Source::Lock, format!("{title} is locked: {}", plain(reason)));
            Ok(interrupts)
        }
        Verdict::AlreadyLocked => {
            timeline.now(Source::Lock, format!("{title} was locked already"));
            Ok(interrupts)
        }
        Verdict::LockedInVain => {
            Err(Error::TooLate(format!("the path of {title} was set, and no lock holds on it: {cause}")))
        }
        _ => Err(Error::NoSwitchOver(format!("{title} was not locked: {cause}"))),
    }
}

/// Sees that traffic has another site to go to.
///
/// # Errors
/// It has none, or that could not be seen.
async fn ready(
    guard: &Guard,
    id: &HealthCheckId,
    server: Option<SocketAddr>,
    timeline: &mut Timeline,
) -> Result<Subject, Error> {
    let refuse = |why: String| {
        Err(Error::NoSwitchOver(format!("{why}. To lock it all the same: failoverctl lock {id} --reason …")))
    };
    let (check, tags) = lock::lockable(guard, id).await?;
    let title = name::title(id, tags.as_ref());
    let records =
        dns::records(&guard.session.aws, id, guard.config.locked_path.as_str(), Deadline::after(ALL_ZONES))
            .await?;
    let (primaries, records): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|record| matches!(record.role, Role::Primary(_)));
    if primaries.is_empty() {
        return refuse(format!("no failover record of this account depends on {id}"));
    }
    let mut others = Vec::new();
    for record in records {
        let role =
            if record.role == Role::Secondary { "its secondary record" } else { "a record without failover" };
        let what = format!("{} depends on {id} as well, by {role}", plain(&record.name));
        timeline.now(Source::Dns, what.clone());
        others.push(what);
    }
    let is_locked = guard.config.is_locked(&check);
    let (mut followed, mut unseen) = (Vec::new(), Vec::new());
    for record in &primaries {
        match other_site(guard, record).await {
            Ok(seen) => timeline.now(Source::Checkers, seen),
            // What is done already is followed all the same.
            Err(cause) if is_locked => timeline.now(Source::Checkers, cause),
            Err(cause) => return refuse(cause),
        }
        match Followed::begin(guard, record, server).await {
            Ok(record) => {
                timeline.now(Source::Dns, record.said());
                followed.push(record);
            }
            Err(cause) => {
                timeline.now(Source::Dns, format!("{} is not followed: {cause}", record.name));
                unseen.push(plain(&record.name));
            }
        }
    }
    let health = match guard.route53.checkers(id, shortly()).await {
        Ok(checkers) => {
            timeline.now(Source::Checkers, counted(checkers));
            checkers.verdict()
        }
        Err(failure) => {
            timeline.now(Source::Checkers, format!("the checkers' reports cannot be read: {failure}"));
            Health::Unknown
        }
    };
    // What is answered now is the primary's only while that is in service.
    let (followed, unknown): (Vec<_>, Vec<_>) = followed
        .into_iter()
        .partition(|record| !record.standby.is_empty() || (health == Health::Healthy && !is_locked));
    for record in unknown {
        let what = format!("{} is not followed: it may answer the other site already", record.name);
        timeline.now(Source::Dns, what);
        unseen.push(plain(&record.name));
    }
    if followed.is_empty() && health == Health::Unknown {
        return refuse("neither the checkers nor the records can be followed".to_owned());
    }
    Ok(Subject { id: id.clone(), title, is_locked, primaries, records: followed, others, unseen, health })
}

/// Sees that the other site of a failover pair is healthy, and says by what.
///
/// # Errors
/// Why traffic would not go there.
async fn other_site(guard: &Guard, record: &Record) -> Result<String, String> {
    let name = &record.name;
    if let Follows::NotAlone(why) | Follows::Never(why) = &record.follows {
        return Err(format!("{name} may stay although it is locked: {why}"));
    }
    let check = record.standby.as_ref().and_then(|standby| standby.check.as_deref());
    match (record.role, check) {
        (Role::Primary(Secondary::Missing), _) => Err(format!("{name} has no secondary")),
        (Role::Primary(Secondary::Same), _) => {
            Err(format!("{name}: its secondary has the same health check, or one that follows it"))
        }
        (_, Some(check)) => {
            let id = HealthCheckId::try_from(check.to_owned()).map_err(|error| error.to_string())?;
            let found = guard.route53.health_check(&id, shortly()).await.map_err(|failure| {
                format!("{name}: whether its secondary {id} is locked cannot be read: {failure}")
            })?;
            // Its checkers, and the metric, see that later; so do those of checks that it is calculated from.
            let is_below = record.standby.as_ref().is_some_and(|standby| standby.is_locked);
            if is_below || guard.config.is_locked(&found) {
                return Err(format!(
                    "{name}: its secondary {id} is locked: with both locked, no site is in service"
                ));
            }
            // Of an inverted one, and of a disabled one, the checkers' results are not the verdict.
            let checkers = if found.inverted || found.disabled {
                Err("its checkers' results are not Route 53's verdict".to_owned())
            } else {
                guard.route53.checkers(&id, shortly()).await.map_err(|failure| failure.to_string())
            };
            let (is_healthy, seen) = match checkers {
                Ok(checkers) => (checkers.verdict() == Health::Healthy, counted(checkers)),
                // A calculated one has no checkers.
                Err(why) => match guard.cloudwatch.verdict(&id, shortly()).await {
                    Ok(Some(is_healthy)) => (is_healthy, "by Route 53's metric".to_owned()),
                    Ok(None) => {
                        return Err(format!(
                            "{name}: whether its secondary {id} is healthy cannot be read: {why}; its metric is empty"
                        ));
                    }
                    Err(failure) => {
                        return Err(format!(
                            "{name}: whether its secondary {id} is healthy cannot be read: {why}; {failure}"
                        ));
                    }
                },
            };
            if !is_healthy {
                return Err(format!("{name}: its secondary {id} is not healthy ({seen})"));
            }
            if record.standby.as_ref().is_some_and(|standby| standby.by_alias) {
                return Ok(format!(
                    "{name}: the check {id} of its secondary is healthy ({seen}); Route 53 judges its alias' target as well, which \
                     is not seen here"
                ));
            }
            Ok(format!("{name}: its secondary {id} is healthy ({seen})"))
        }
        (Role::Primary(Secondary::Checked), None) => {
            Ok(format!("{name}: Route 53 judges its secondary by the alias' target, which is not seen here"))
        }
        (_, None) => Ok(format!("{name}: its secondary has no health check")),
    }
}

/// Follows the checkers and the records until both have left the primary.
async fn follow(
    guard: &Guard,
    subject: &mut Subject,
    timeout: u64,
    timeline: &mut Timeline,
) -> Result<(), Error> {
    let end = Instant::now() + Duration::from_secs(timeout);
    let mut undone = 0;
    let mut others = interval_at(Instant::now() + OTHERS, OTHERS);
    let mut unhealthy = Vec::new();
    loop {
        if let Ok(check) = guard.route53.health_check(&subject.id, shortly()).await {
            let is_locked = guard.config.is_locked(&check);
            // One answer may be from before the lock.
            undone = if is_locked { 0 } else { undone + 1 };
        }
        if undone > 1 {
            return Err(Error::TooLate(format!("someone has undone the lock of {}", subject.title)));
        }
        if let Ok(checkers) = guard.route53.checkers(&subject.id, shortly()).await
            && checkers.verdict() != subject.health
        {
            subject.health = checkers.verdict();
            timeline.now(Source::Checkers, counted(checkers));
        }
        for record in &mut subject.records {
            let answers = record.asked.ask().await;
            if answers != record.last {
                record.last = answers;
                timeline.now(Source::Dns, record.said());
            }
        }
        let has_left = undone == 0
            && subject.health != Health::Healthy
            && subject.records.iter().all(Followed::has_moved);
        if has_left {
            return Ok(());
        }
        let is_late = Instant::now() >= end;
        if is_late || others.tick().now_or_never().is_some() {
            let seen = join_all(subject.primaries.iter().map(|pair| other_site(guard, pair))).await;
            let now: Vec<_> = seen.into_iter().filter_map(Result::err).collect();
            for why in now.iter().filter(|why| !unhealthy.contains(*why)) {
                timeline.now(Source::Checkers, why.clone());
            }
            unhealthy = now;
        }
        if is_late {
            return Err(Error::TooLate(format!(
                "the traffic of {title} was not seen to move within {timeout} s. For the cause, run: failoverctl doctor {id}",
                title = subject.title,
                id = subject.id
            )));
        }
        sleep(LOOK).await;
    }
}

// === impl Subject ===

impl Subject {
    /// What else goes out of service, as further sentences of the question.
    fn also(&self) -> String {
        if self.others.is_empty() { String::new() } else { format!(" {}.", self.others.join(". ")) }
    }
}

// === impl Followed ===

impl Followed {
    async fn begin(guard: &Guard, record: &Record, server: Option<SocketAddr>) -> Result<Self, String> {
        let asked = Asked::of(&guard.session.aws, record, server).await?;
        let last = asked.ask().await;
        if let Some(why) = last.iter().find_map(|answer| answer.as_ref().err())
            && last.iter().all(Result::is_err)
        {
            return Err(format!("no name server answers it ({why})"));
        }
        let standby = record.standby.iter().flat_map(|standby| &standby.values);
        let standby = standby.map(|value| answers::value(asked.kind(), value)).collect::<Option<_>>();
        let standby = standby.unwrap_or_default();
        let before = last.iter().flatten().flatten().cloned().collect();
        Ok(Self { asked, name: record.name.clone(), standby, before, last })
    }

    /// Whether every name server answers the other site.
    fn has_moved(&self) -> bool {
        self.last.iter().all(|answer| {
            answer.as_ref().is_ok_and(|values| {
                !values.is_empty()
                    && if self.standby.is_empty() {
                        values.is_disjoint(&self.before)
                    } else {
                        *values == self.standby
                    }
            })
        })
    }

    /// The answers in words: each with the number of the name servers that give it.
    fn said(&self) -> String {
        let mut said: Vec<(String, usize)> = Vec::new();
        for answer in &self.last {
            let words = match answer {
                Err(why) => why.clone(),
                Ok(values) if values.is_empty() => "no record".to_owned(),
                Ok(values) => values.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
            };
            match said.iter_mut().find(|(known, _)| *known == words) {
                Some((_, count)) => *count += 1,
                None => said.push((words, 1)),
            }
        }
        let all = self.last.len();
        let said: Vec<_> = said.iter().map(|(words, count)| format!("{words} ({count}/{all})")).collect();
        format!("{}: {}", self.name, said.join("; "))
    }
}
