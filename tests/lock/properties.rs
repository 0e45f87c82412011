//! What holds whatever arrives, and in whatever order.

use std::time::Duration;

use crate::support;
use crate::support::cloudwatch::Alarm;
use crate::support::lock::{LOCKED, PRIMARY, delivered, message};
use crate::support::route53::{Check, Route53};
use chrono::{DateTime, SecondsFormat};
use failover::failover_lock::alarm;
use failover::failover_lock::health_check::HealthCheckId;
use failover::failover_lock::{FailoverLock, Handler};
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use proptest::prelude::*;
use serde_json::json;
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
            for transition in alarm::transitions(text).into_iter().flatten().flatten() {
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
    /// A person switches back.
    Restored,
    /// A person sets the path back by hand.
    UndoneByHand,
    /// The schedule ticks.
    Reconciled,
    /// A notification, a person and the schedule meet; their calls come in this pace.
    Together(prop::sample::Index, Vec<u8>),
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
    ];
    prop::collection::vec(step, 1..14)
}

/// The world as a person who sees everything would tell it. Time is counted in steps, ten seconds each.
struct World {
    route53: Route53,
    system: FailoverLock,
    now: i64,
    /// Since when each alarm is in ALARM.
    in_alarm_since: [Option<i64>; 2],
    /// Every notification so far: when the alarm changed, and to what.
    notifications: Vec<(i64, &'static str)>,
    restored_at: Option<i64>,
    /// When somebody last undid a lock by hand.
    undone_at: Option<i64>,
}

const START: i64 = 1_795_228_570;

impl World {
    async fn new() -> Self {
        let route53 = Route53::start().await;
        route53.put(PRIMARY, Check::new("HTTP", 80));
        let system = support::lock::system(&route53, &[("GUARDED_HEALTH_CHECKS", PRIMARY)]).await;
        let mut world = Self {
            route53,
            system,
            now: 0,
            in_alarm_since: [None; 2],
            notifications: Vec::new(),
            restored_at: None,
            undone_at: None,
        };
        world.alarm(0, "OK");
        world.alarm(1, "OK");
        world
    }

    fn time(step: i64) -> String {
        DateTime::from_timestamp(START + 10 * step, 0).expect("a time of our days").to_rfc3339()
    }

    fn tag(step: i64) -> String {
        let time = DateTime::from_timestamp(START + 10 * step, 0).expect("a time of our days");
        time.to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    fn alarm(&mut self, which: usize, state: &'static str) {
        #[expect(clippy::cast_precision_loss, reason = "a double holds the seconds of our days")]
        let changed_at = (START + 10 * self.now) as f64;
        self.route53.put_alarm(&format!("alarm-{which}"), Alarm::on(PRIMARY, state, changed_at));
        self.notifications.push((self.now, state));
    }

    fn is_locked(&self) -> bool {
        self.route53.check(PRIMARY).path() == LOCKED
    }

    async fn call(&self, handler: Handler, event: &str) -> Result<(), String> {
        let report = self.system.handle(handler, event, Deadline::after(Duration::from_secs(20))).await;
        report.into_answer().map(|_| ()).map_err(|error| error.to_string())
    }

    fn notification(&self, at: prop::sample::Index) -> (i64, &'static str, String) {
        let (step, state) = self.notifications[at.index(self.notifications.len())];
        (step, state, delivered(&[&message(PRIMARY, state, &Self::time(step))]))
    }

    fn is_newer_than_restore(&self, step: i64) -> bool {
        self.restored_at.is_none_or(|restored_at| step >= restored_at)
    }

    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        self.now += 1;
        let request = json!({ "healthCheckId": PRIMARY, "force": true }).to_string();
        let was_locked = self.is_locked();
        let may_unlock = matches!(step, Step::Restored | Step::UndoneByHand | Step::Together(..));
        match step {
            Step::Fires(which) if self.in_alarm_since[which].is_none() => {
                self.in_alarm_since[which] = Some(self.now);
                self.alarm(which, "ALARM");
            }
            Step::Recovers(which) if self.in_alarm_since[which].is_some() => {
                self.in_alarm_since[which] = None;
                self.alarm(which, "OK");
            }
            Step::Fires(_) | Step::Recovers(_) => {}
            Step::Delivered(at) => {
                let (changed, state, event) = self.notification(at);
                prop_assert_eq!(self.call(Handler::Lock, &event).await, Ok(()));
                if state == "ALARM" && self.is_newer_than_restore(changed) {
                    prop_assert!(self.is_locked(), "delivered");
                } else {
                    prop_assert_eq!(self.is_locked(), was_locked, "left alone");
                }
            }
            Step::Restored => {
                self.route53.set_clock(&Self::time(self.now));
                prop_assert_eq!(self.call(Handler::Restore, &request).await, Ok(()));
                if was_locked {
                    self.restored_at = Some(self.now);
                }
                prop_assert!(!self.is_locked(), "restored");
            }
            Step::UndoneByHand => {
                if was_locked {
                    self.route53.set_path(PRIMARY, "/lb-check");
                    self.undone_at = Some(self.now);
                }
            }
            Step::Reconciled => self.reconciled(was_locked).await?,
            Step::Together(at, pace) => {
                self.route53.set_clock(&Self::time(self.now));
                self.route53.pace(pace.into_iter().map(|pace| Duration::from_millis(pace.into())));
                let (_, _, event) = self.notification(at);
                let (locked, restored, reconciled) = tokio::join!(
                    self.call(Handler::Lock, &event),
                    self.call(Handler::Restore, &request),
                    self.call(Handler::Reconcile, "{}"),
                );
                prop_assert_eq!((locked, restored, reconciled), (Ok(()), Ok(()), Ok(())));
                self.route53.pace([]);
                if self.route53.check(PRIMARY).tags.get("failover-lock:restored-at")
                    == Some(&Self::time(self.now))
                {
                    self.restored_at = Some(self.now);
                }
                // Whoever came first, the next tick finds the check as it has to be.
                let was_locked = self.is_locked();
                self.reconciled(was_locked).await?;
            }
        }
        prop_assert!(may_unlock || !was_locked || self.is_locked(), "only a person unlocks");
        Ok(())
    }

    async fn reconciled(&self, was_locked: bool) -> Result<(), TestCaseError> {
        // A lock that somebody undid by hand for this very alarm stays undone.
        let noted = self.route53.check(PRIMARY).tags.get("failover-lock:alarm-changed-at").cloned();
        let is_noted = |since: i64| noted.as_ref().is_some_and(|noted| *noted >= Self::tag(since));
        prop_assert_eq!(self.call(Handler::Reconcile, "{}").await, Ok(()));
        let newest = self.in_alarm_since.into_iter().flatten().max();
        if let Some(since) = newest.filter(|since| self.is_newer_than_restore(*since)) {
            prop_assert_eq!(self.is_locked(), was_locked || !is_noted(since), "reconciled");
            prop_assert!(
                self.is_locked() || self.undone_at.is_some_and(|undone_at| undone_at > since),
                "lost"
            );
        } else {
            prop_assert_eq!(self.is_locked(), was_locked, "left alone");
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
