//! The reasons of decisions, as they are reported.

use serde::Serialize;

use super::alarm::HoldsBack;

/// Why an alarm does not lock, or not yet; why a check is unprotected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Reason {
    /// The alarm changed to OK or to `INSUFFICIENT_DATA`.
    NotInAlarm,
    /// The message is not about a health check's health.
    NotAHealthCheckAlarm,
    /// The alarm watches checks that are not this function's.
    NotGuarded,
    /// A person has restored the check since, or the alarm shows the lock from before.
    OlderThanRestore,
    /// A mute rule holds the alarm's actions back.
    ActionsMuted,
    /// A suppressor alarm holds the alarm's actions back.
    ActionsSuppressed,
    /// The alarm goes off when a check is healthy.
    RecoveryAlarm,
    /// The secondary is not healthy either, so Route 53 answers with the primary.
    SecondaryUnhealthy,
    /// Route 53's limit is used up, and other callers go first: the next tick tries again.
    Throttled,
    /// The check was locked, and someone has set its path back without a restore.
    UndoneByHand,
    /// The check is on the locked path, and its alarms say that it is healthy.
    LockDoesNotHold,
    /// Its alarms have their actions off, or none of them leads to `lock`.
    ActionsDisabled,
    /// Its alarm's actions were turned on while it was in ALARM already.
    EnabledInAlarm,
    /// No metric alarm watches its health.
    NoAlarm,
    /// Its alarms have thresholds that the health of a check never crosses, or never see it.
    NeverGoesOff,
    /// Its alarms have no data.
    NoData,
    /// Its path is not one of a check in service.
    ForeignPath,
    /// The function decides and changes nothing.
    DryRun,
    /// Its type requests no path.
    NoPath,
    /// It is inverted.
    Inverted,
    /// It is disabled.
    Disabled,
    /// It is restored, and that could not be recorded as done.
    NotRecorded,
}

// === impl Reason ===

impl From<HoldsBack> for Reason {
    fn from(holds_back: HoldsBack) -> Self {
        match holds_back {
            HoldsBack::Muted => Self::ActionsMuted,
            HoldsBack::Suppressed => Self::ActionsSuppressed,
            HoldsBack::Recovery => Self::RecoveryAlarm,
        }
    }
}

impl From<Reason> for &'static str {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NotInAlarm => "not_in_alarm",
            Reason::NotAHealthCheckAlarm => "not_a_health_check_alarm",
            Reason::NotGuarded => "not_guarded",
            Reason::OlderThanRestore => "older_than_restore",
            Reason::ActionsMuted => "actions_muted",
            Reason::ActionsSuppressed => "actions_suppressed",
            Reason::RecoveryAlarm => "recovery_alarm",
            Reason::SecondaryUnhealthy => "secondary_unhealthy",
            Reason::Throttled => "throttled",
            Reason::UndoneByHand => "undone_by_hand",
            Reason::LockDoesNotHold => "lock_does_not_hold",
            Reason::ActionsDisabled => "actions_disabled",
            Reason::EnabledInAlarm => "enabled_in_alarm",
            Reason::NoAlarm => "no_alarm",
            Reason::NeverGoesOff => "never_goes_off",
            Reason::NoData => "no_data",
            Reason::ForeignPath => "foreign_path",
            Reason::DryRun => "dry_run",
            Reason::NoPath => "no_path",
            Reason::Inverted => "inverted",
            Reason::Disabled => "disabled",
            Reason::NotRecorded => "not_recorded",
        }
    }
}
