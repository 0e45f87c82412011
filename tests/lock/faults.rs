//! Faults below and around the API: whatever the network or AWS does, a check ends up locked, or
//! there is an error before the deadline that names the check and the cause; never a wrong path,
//! never two effects.

use std::time::Duration;

use crate::support;
use crate::support::lock::{LOCKED, PRIMARY, alarm};
use crate::support::route53::{Check, Fault, Route53};
use crate::support::wire::{Break, Wire};
use failover::failover_lock::Handler;
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;

/// A check at version 3, whose tags `lock` reads as well.
async fn with_check() -> Route53 {
    let route53 = Route53::start().await;
    route53.put(PRIMARY, Check::new("HTTP", 80).changed());
    route53
}

/// Locks through `url`: the outcome's name, or the error.
async fn lock_through(url: &str, time: Duration) -> Result<String, String> {
    let system = support::lock::system_at(url, &[]).await;
    let report = system.handle(Handler::Lock, &alarm(), Deadline::after(time)).await;
    let answer = report.into_answer().map_err(|error| error.to_string())?;
    Ok(<&str>::from(answer.outcomes[0].outcome).to_owned())
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_again_and_the_lock_has_one_effect() {
    for broken in [Break::ResetBefore, Break::ResetAfter, Break::Half, Break::Drip, Break::Silence] {
        for line in [
            "GET /2013-04-01/healthcheck/",
            "GET /2013-04-01/tags/",
            "POST /2013-04-01/healthcheck/",
            "POST /2013-04-01/tags/",
        ] {
            let route53 = with_check().await;
            let wire = Wire::start(route53.address, line, vec![broken]).await;
            let outcome = lock_through(&format!("http://{}", wire.address), Duration::from_secs(20)).await;
            assert_eq!(outcome.as_deref(), Ok("locked"), "{broken:?} {line}");
            let check = route53.check(PRIMARY);
            assert_eq!((check.path(), check.version), (LOCKED, 4), "{broken:?} {line}");
            assert_eq!(wire.left(), 0, "nothing broke: {broken:?} {line}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_always_breaks_is_an_error_and_never_a_wrong_path() {
    for broken in [Break::ResetBefore, Break::ResetAfter, Break::Half, Break::Drip, Break::Silence] {
        let route53 = with_check().await;
        let wire = Wire::start(route53.address, "POST /2013-04-01/healthcheck/", vec![broken; 1000]).await;
        let outcome = lock_through(&format!("http://{}", wire.address), Duration::from_secs(2)).await;
        let check = route53.check(PRIMARY);
        match outcome {
            // The update arrived although its answer never did, and the check was read again.
            Ok(outcome) => assert_eq!(
                (outcome.as_str(), check.path(), check.version),
                ("locked", LOCKED, 4),
                "{broken:?}"
            ),
            Err(error) => {
                assert!(
                    error.contains(PRIMARY) && error.contains("route53:UpdateHealthCheck: "),
                    "{broken:?}: {error}"
                );
                assert!(check.version <= 4, "{broken:?}: {check:?}");
            }
        }
        assert!([LOCKED, "/lb-check"].contains(&check.path()), "{broken:?}");
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_or_a_port_that_is_closed_is_an_error_that_says_so() {
    for (url, said) in [("http://route53.invalid", "dns error"), ("http://127.0.0.1:9", "Connection refused")]
    {
        let error = lock_through(url, Duration::from_secs(2)).await.unwrap_err();
        assert!(error.contains(said) && error.contains(PRIMARY), "{error}");
    }
}

#[tokio::test]
async fn credentials_that_are_not_accepted_are_an_error_that_says_so_at_once() {
    for (status, code, message) in [
        (403, "ExpiredToken", "The security token included in the request is expired"),
        (403, "InvalidClientTokenId", "The security token included in the request is invalid"),
        (
            403,
            "SignatureDoesNotMatch",
            "Signature expired: 20261121T023615Z is now earlier than 20261121T024615Z",
        ),
        (400, "RequestExpired", "Request has expired"),
        (403, "AccessDenied", "User is not authorized to perform: route53:GetHealthCheck"),
    ] {
        let route53 = with_check().await;
        for operation in
            ["GetHealthCheck", "ListTagsForResource", "UpdateHealthCheck", "ChangeTagsForResource"]
        {
            route53.fail_always(operation, Fault::Error(status, code, message));
        }
        let error = lock_through(&route53.url(), Duration::from_secs(20)).await.unwrap_err();
        assert!(error.contains(PRIMARY) && error.contains(code) && error.contains(message), "{error}");
        assert!(route53.calls().len() <= 3, "nothing is tried again: {:?}", route53.calls());
        assert_eq!(route53.check(PRIMARY).path(), "/lb-check");
    }
}

#[tokio::test]
async fn a_lock_is_set_after_another_writer_has_competed_for_a_while() {
    let route53 = with_check().await;
    for _ in 0..4 {
        route53.fail("UpdateHealthCheck", Fault::Meddle("/lb-check"));
    }
    assert_eq!(lock_through(&route53.url(), Duration::from_secs(20)).await.as_deref(), Ok("locked"));
    assert_eq!((route53.check(PRIMARY).path(), route53.check(PRIMARY).version), (LOCKED, 8));
}

#[tokio::test]
async fn a_control_plane_that_stays_away_is_an_error_for_every_kind_of_answer() {
    for fault in [
        Fault::Error(400, "Throttling", "Rate exceeded"),
        Fault::Error(500, "InternalFailure", "We encountered an internal error"),
        Fault::Error(503, "ServiceUnavailable", "Service is unavailable"),
        Fault::Answer(429, "too many requests"),
        Fault::Answer(504, "<html><body>504 Gateway Time-out</body></html>"),
        Fault::Answer(200, "<html><body>maintenance</body></html>"),
        Fault::Answer(200, ""),
        Fault::Hang,
    ] {
        let route53 = with_check().await;
        route53.fail_always("GetHealthCheck", fault.clone());
        let error = lock_through(&route53.url(), Duration::from_secs(1)).await.unwrap_err();
        assert!(error.contains(PRIMARY) && error.contains("route53:GetHealthCheck: "), "{fault:?}: {error}");
        assert_eq!(route53.check(PRIMARY).version, 3, "{fault:?}");
    }
}
