//! What the primary's health check asks for, and what the primary answers.

use crate::cli::clock;
use crate::cli::findings::Findings;
use crate::cli::guard::Guard;
use crate::cli::name::Tags;
use crate::cli::text::quoted;
use crate::failover_lock::decide::{self, Release};
use crate::failover_lock::health_check::{Endpoint, HealthCheck, HealthCheckId, ResourcePath};
use crate::failover_lock::probe::{self, Unhealthy};
use crate::failover_lock::record::Record;

/// The path of a check in service: the one that its record names, or else the configuration's. And whether it is locked.
pub(super) fn path_in_service(
    guard: &Guard,
    check: &HealthCheck,
    tags: Option<&Tags>,
) -> (ResourcePath, bool) {
    let (path, locked_path) = (check.path().unwrap_or_default(), guard.config.locked_path.as_str());
    let configured = || guard.config.healthy_path.clone();
    let Some(tags) = tags else { return (configured(), path == locked_path) };
    let (record, _) = Record::read_without_invalid(tags, path, check.version, locked_path, clock::now());
    let in_service = match decide::restore(check, &record, None, &guard.config) {
        Ok(Release::Restore(before)) => ResourcePath::try_from(before).ok(),
        Ok(Release::AlreadyRestored) => ResourcePath::try_from(path.to_owned()).ok(),
        Err(_) => None,
    };
    (in_service.unwrap_or_else(configured), record.is_locked(path, check.version, locked_path))
}

/// Checks the health check itself.
pub(super) fn health_check(
    guard: &Guard,
    check: &HealthCheck,
    (in_service, is_locked): (&ResourcePath, bool),
    findings: &mut Findings,
) {
    let HealthCheck { id, .. } = check;
    let update = format!("aws route53 update-health-check --health-check-id {id}");
    let path = match decide::can_hold(check) {
        Ok(path) => path,
        Err(cannot) => {
            let remedy = match cannot {
                decide::CannotHold::NoPath(_) => "replace it with an HTTP or HTTPS check".to_owned(),
                decide::CannotHold::Inverted => format!("{update} --no-inverted"),
                decide::CannotHold::Disabled => format!("{update} --no-disabled"),
            };
            return findings.wrong("health check", format!("no lock can hold on it: {cannot}"), remedy);
        }
    };
    findings.ok("health check", format!("{} asks for {path}", check.check_type));
    if path != in_service.as_str() && !is_locked {
        findings.wrong(
            "health check",
            format!("{path} is neither the healthy nor the locked path"),
            format!(
                "add --healthy-path {} if it is the path of a primary in service, or: {update} --resource-path {}",
                quoted(path),
                guard.config.healthy_path
            ),
        );
    }
}

/// Checks the primary's answers at the two paths.
pub(super) async fn paths(
    guard: &Guard,
    id: &HealthCheckId,
    endpoint: &Endpoint,
    healthy: &ResourcePath,
    findings: &mut Findings,
) {
    let locked = &guard.config.locked_path;
    match probe::ask(id, endpoint, healthy).await {
        Ok(status) => findings.ok("healthy path", format!("{healthy} answers {}", status.as_u16())),
        Err(unhealthy @ (Unhealthy::Status { .. } | Unhealthy::TextMissing { .. })) => findings.wrong(
            "healthy path",
            unhealthy.to_string(),
            "repair the primary; until then a restore is refused".to_owned(),
        ),
        // Route 53's checkers may reach a primary that this machine does not.
        Err(unreached) => findings
            .unknown("healthy path", &format!("{unreached}, from here; Route 53's checkers may reach it")),
    }
    match probe::ask(id, endpoint, locked).await {
        Ok(status) => findings.wrong(
            "locked path",
            format!("{locked} answers {}, so that a lock locks nothing", status.as_u16()),
            "have the primary answer 404 there, or lock with another path: infra/deploy --stack NAME --locked-path /PATH"
                .to_owned(),
        ),
        Err(Unhealthy::Status { status, .. }) => {
            findings.ok("locked path", format!("{locked} answers {}", status.as_u16()));
        }
        Err(Unhealthy::TextMissing { .. }) => {
            findings.ok("locked path", format!("{locked} lacks the text that the check searches for"));
        }
        Err(unhealthy) => findings.unknown("locked path", &unhealthy),
    }
}
