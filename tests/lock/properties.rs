//! What holds whatever arrives, and in whatever order.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::support;
use crate::support::cloudwatch::Alarm;
use crate::support::lock::{LOCKED, PRIMARY, delivered, message};
use crate::support::route53::{Check, Route53};
use chrono::{DateTime, Utc};
use failover::failover_lock::clock::Clock;
use failover::failover_lock::event::{self, Message};
use failover::failover_lock::health_check::HealthCheckId;
use failover::failover_lock::{FailoverLock, Handler};
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
}

const FILES: &[&str] = &[
    "sns/keycloak-alarm.json",
    "sns/metric-math-two-checks.json",
    "sns/composite-alarm.json",
    "cloudwatch/alarm-action.json",
    "eventbridge/alarm-state-change.json",
];

/// Texts that come close to what is read: recorded events with a piece replaced.
fn nearly_an_event() -> impl Strategy<Value = String> {
    let piece = prop_oneof![".{0,12}", Just("null".to_owned()), Just("[]".to_owned()), Just("\"".to_owned())];
    (prop::sample::select(FILES), any::<prop::sample::Index>(), 0..40_usize, piece).prop_map(
        |(file, at, length, piece)| {
            let event: Vec<char> = support::recorded(file).chars().collect();
            let at = at.index(event.len());
            let end = event.len().min(at + length);
            event[..at].iter().copied().chain(piece.chars()).chain(event[end..].iter().copied()).collect()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), event in nearly_an_event()) {
        for text in [String::from_utf8_lossy(&bytes).as_ref(), &event] {
            for record in event::records(text).into_iter().flatten() {
                let Ok(Message::Alarm(transition)) = record.message else { continue };
                for id in transition.health_checks {
                    prop_assert!(HealthCheckId::try_from(id.as_str().to_owned()).is_ok());
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_event_causes_a_call_for_an_id_that_is_none(id in ".{0,70}", event in nearly_an_event()) {
        runtime().block_on(async {
            let route53 = Route53::start().await;
            let system = support::lock::system(&route53, &[]).await;
            for event in [delivered(&[&message(&id, "ALARM", support::lock::CHANGED_AT)]), event] {
                let _ = support::lock::invoke(&system, Handler::Lock, &event).await;
            }
            for call in route53.calls().iter().filter(|call| !call.starts_with("DescribeAlarms")) {
                let id = call.split(' ').nth(1).unwrap_or_default();
                prop_assert!(HealthCheckId::try_from(id.to_owned()).is_ok(), "{call}");
            }
            Ok(())
        })?;
    }
}

/// What can happen around a guarded check.
#[derive(Clone, Debug)]
enum Step {
    /// One of the two alarms goes off; its notification may be delivered later, or never.
    Fires(usize),
    /// It goes back to OK.
    Recovers(usize),
    /// A notification is delivered, for the first time or again, in any order.
    Delivered(prop::sample::Index),
    /// A person restores.
    Restored,
    /// A person sets the path back by hand.
    UndoneByHand,
    /// The schedule ticks.
    Reconciled,
    /// A notification, a person and the schedule meet; their calls come in this pace.
    Together(prop::sample::Index, Vec<u8>),
    /// An alarm goes off and is delivered while a person's restore is under way, beside a tick.
    Crossed(usize, Vec<u8>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..2_usize).prop_map(Step::Fires),
        2 => (0..2_usize).prop_map(Step::Recovers),
        4 => any::<prop::sample::Index>().prop_map(Step::Delivered),
        2 => Just(Step::Restored),
        1 => Just(Step::UndoneByHand),
        3 => Just(Step::Reconciled),
        2 => (any::<prop::sample::Index>(), prop::collection::vec(0..4_u8, 20)).prop_map(|(at, pace)| Step::Together(at, pace)),
        2 => (0..2_usize, prop::collection::vec(0..4_u8, 20)).prop_map(|(which, pace)| Step::Crossed(which, pace)),
    ];
    prop::collection::vec(step, 1..14)
}

/// The world as someone who sees everything would describe it; nothing here reads a tag. Time is counted in
/// steps of ten seconds, which the system's clock shows.
struct World {
    route53: Route53,
    system: FailoverLock,
    now: Arc<AtomicI64>,
    /// Since when each alarm is in ALARM.
    in_alarm_since: [Option<i64>; 2],
    /// Every notification so far: when the alarm changed, and to what.
    notifications: Vec<(i64, &'static str)>,
    /// When the last restore began that succeeded.
    restored_at: Option<i64>,
    /// The newest alarm that the present lock answered; `None` if there is no lock since the last restore.
    answered: Option<i64>,
    /// Whether the lock was undone by hand.
    undone: bool,
}

const START: i64 = 1_795_228_570;

fn time(step: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(START + 10 * step, 0).expect("a time of our days")
}

impl World {
    async fn new() -> Self {
        let route53 = Route53::start().await;
        route53.put(PRIMARY, Check::new("HTTP", 80));
        let now = Arc::new(AtomicI64::new(0));
        let shown = now.clone();
        let system = support::lock::system(&route53, &[("GUARDED_HEALTH_CHECKS", PRIMARY)]).await;
        let system = system.with_clock(Clock::new(move || time(shown.load(Ordering::Relaxed))));
        let mut world = Self {
            route53,
            system,
            now,
            in_alarm_since: [None; 2],
            notifications: Vec::new(),
            restored_at: None,
            answered: None,
            undone: false,
        };
        world.alarm(0, "OK");
        world.alarm(1, "OK");
        world
    }

    fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    fn alarm(&mut self, which: usize, state: &'static str) {
        self.changes(which, state);
        self.notifications.push((self.now(), state));
    }

    /// An alarm changes now in CloudWatch.
    fn changes(&self, which: usize, state: &'static str) {
        #[expect(clippy::cast_precision_loss, reason = "a double holds the seconds of our days")]
        let changed_at = time(self.now()).timestamp() as f64;
        self.route53.put_alarm(&format!("alarm-{which}"), Alarm::on(PRIMARY, state, changed_at));
    }

    fn is_locked(&self) -> bool {
        self.route53.check(PRIMARY).path() == LOCKED
    }

    async fn call(&self, handler: Handler, event: &str) -> Result<Value, String> {
        let report = self.system.handle(handler, event, Deadline::after(Duration::from_secs(20))).await;
        let answer = report.into_answer().map_err(|error| error.to_string())?;
        Ok(json!(answer)["outcomes"][0].clone())
    }

    fn notification(&self, at: prop::sample::Index) -> (i64, &'static str, String) {
        let (step, state) = self.notifications[at.index(self.notifications.len())];
        (step, state, delivered(&[&message(PRIMARY, state, &time(step).to_rfc3339())]))
    }

    fn is_newer_than_restore(&self, step: i64) -> bool {
        self.restored_at.is_none_or(|restored_at| step >= restored_at)
    }

    /// A lock stands now that answers this alarm.
    fn locked_for(&mut self, step: i64) {
        self.answered = self.answered.max(Some(step));
        self.undone = false;
    }

    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        self.now.fetch_add(1, Ordering::Relaxed);
        let request = json!({ "healthCheckId": PRIMARY, "force": true }).to_string();
        let was_locked = self.is_locked();
        let may_unlock =
            matches!(step, Step::Restored | Step::UndoneByHand | Step::Together(..) | Step::Crossed(..));
        match step {
            Step::Fires(which) if self.in_alarm_since[which].is_none() => {
                self.in_alarm_since[which] = Some(self.now());
                self.alarm(which, "ALARM");
            }
            Step::Recovers(which) if self.in_alarm_since[which].is_some() => {
                self.in_alarm_since[which] = None;
                self.alarm(which, "OK");
            }
            Step::Fires(_) | Step::Recovers(_) => {}
            Step::Delivered(at) => {
                let (changed, state, event) = self.notification(at);
                prop_assert!(self.call(Handler::Lock, &event).await.is_ok());
                if self.undone && self.answered >= Some(changed) {
                    prop_assert!(!self.is_locked(), "what a person undid is left");
                } else if state == "ALARM" && self.is_newer_than_restore(changed) {
                    prop_assert!(self.is_locked(), "delivered");
                    self.locked_for(changed);
                } else {
                    prop_assert_eq!(self.is_locked(), was_locked, "left alone");
                }
            }
            Step::Restored => {
                prop_assert!(self.call(Handler::Restore, &request).await.is_ok());
                (self.restored_at, self.answered, self.undone) = (Some(self.now()), None, false);
                prop_assert!(!self.is_locked(), "restored");
            }
            Step::UndoneByHand => {
                if was_locked {
                    self.route53.set_path(PRIMARY, "/lb-check");
                    self.undone = true;
                }
            }
            Step::Reconciled => self.reconciled().await?,
            Step::Together(at, pace) => {
                self.route53.pace(pace.into_iter().map(|pace| Duration::from_millis(pace.into())));
                let (changed, state, event) = self.notification(at);
                let (locked, restored, reconciled) = tokio::join!(
                    self.call(Handler::Lock, &event),
                    self.call(Handler::Restore, &request),
                    self.call(Handler::Reconcile, "{}"),
                );
                self.route53.pace([]);
                // One that meets a change is refused: a person looks again, and repeats it.
                let restored = match restored {
                    Err(error) if error.contains("it was changed since it was looked at") => {
                        self.call(Handler::Restore, &request).await
                    }
                    restored => restored,
                };
                prop_assert!(locked.is_ok() && restored.is_ok() && reconciled.is_ok(), "{restored:?}");
                let (had_restored, had_answered) = (self.restored_at.is_some(), self.answered.is_some());
                (self.restored_at, self.answered, self.undone) = (Some(self.now()), None, false);
                // Which of two came first in one second, no one can tell.
                let same = state == "ALARM" && changed == self.now();
                let newest = self.in_alarm_since.into_iter().flatten().max();
                let is_older = newest < Some(self.now()) && !same;
                // Before anything was recorded, a lock that has read the tags does not see the restore.
                let had_record = had_restored || was_locked || had_answered;
                if is_older && had_record {
                    prop_assert!(!self.is_locked(), "an alarm from before a restore locks across it");
                }
                if same && self.is_locked() {
                    self.locked_for(changed);
                }
                self.reconciled().await?;
            }
            Step::Crossed(which, _) if self.in_alarm_since[which].is_some() => {}
            Step::Crossed(which, pace) => Box::pin(self.crossed(which, pace, &request)).await?,
        }
        prop_assert!(may_unlock || !was_locked || self.is_locked(), "only a person unlocks");
        Ok(())
    }

    async fn crossed(&mut self, which: usize, pace: Vec<u8>, request: &str) -> Result<(), TestCaseError> {
        self.route53.pace(pace.into_iter().map(|pace| Duration::from_millis(pace.into())));
        let asked = self.now();
        // The restore begins first: then the alarm changes.
        let (restored, locked, reconciled) = tokio::join!(
            self.call(Handler::Restore, request),
            async {
                self.now.fetch_add(1, Ordering::Relaxed);
                self.changes(which, "ALARM");
                let changed_at = time(asked + 1).to_rfc3339();
                self.call(Handler::Lock, &delivered(&[&message(PRIMARY, "ALARM", &changed_at)])).await
            },
            self.call(Handler::Reconcile, "{}"),
        );
        self.route53.pace([]);
        self.notifications.push((asked + 1, "ALARM"));
        self.in_alarm_since[which] = Some(asked + 1);
        prop_assert!(locked.is_ok() && reconciled.is_ok(), "{locked:?} {reconciled:?}");
        match restored {
            Ok(_) => (self.restored_at, self.answered, self.undone) = (Some(asked), None, false),
            // It has met the lock for the newer alarm.
            Err(refused) => prop_assert!(
                refused.contains("it was changed since") || refused.contains("after this request began"),
                "{refused}"
            ),
        }
        if self.is_locked() {
            self.locked_for(asked + 1);
        }
        self.reconciled().await?;
        prop_assert!(self.is_locked(), "the alarm is newer than the restore");
        Ok(())
    }

    /// After a tick the check is out if its newest alarm is newer than the newest restore, else in; and a lock that
    /// was undone by hand is reported.
    async fn reconciled(&mut self) -> Result<(), TestCaseError> {
        let was_locked = self.is_locked();
        let outcome = self.call(Handler::Reconcile, "{}").await;
        prop_assert!(outcome.is_ok(), "{outcome:?}");
        let outcome = outcome.unwrap_or_default();
        let newest = self.in_alarm_since.into_iter().flatten().max();
        let newest = newest.filter(|since| self.is_newer_than_restore(*since));
        match newest {
            _ if was_locked => prop_assert_eq!(&outcome["outcome"], "already_locked"),
            Some(since) if !self.undone || self.answered < Some(since) => {
                prop_assert_eq!(&outcome["outcome"], "locked");
            }
            _ if self.undone => prop_assert_eq!(&outcome["reason"], "undone_by_hand"),
            _ => prop_assert!(outcome["outcome"] != "locked" && outcome["reason"] != "undone_by_hand"),
        }
        prop_assert_eq!(self.is_locked(), was_locked || outcome["outcome"] == "locked");
        if let Some(since) = newest.filter(|_| self.is_locked()) {
            self.locked_for(since);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_alarm_newer_than_the_last_restore_locks_and_only_a_person_unlocks(steps in steps()) {
        runtime().block_on(async {
            let mut world = World::new().await;
            for step in steps {
                Box::pin(world.take(step)).await?;
            }
            Ok::<_, TestCaseError>(())
        })?;
    }
}
