//! Whom a function believes to be AWS, and when it connects.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support;
use crate::support::lambda::{Answer, Function};
use crate::support::lock::{LOCKED, PRIMARY, alarm};
use crate::support::route53::{Check, Route53};
use crate::support::tls::Tls;
use failover::failover_lock::route53::Route53 as RealRoute53;
use failover::remote::deadline::Deadline;
use failover::remote::https::Https;
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(5);

/// A Route 53 behind TLS with the check in it, and its root in a file.
async fn route53() -> (Route53, String) {
    let route53 = Route53::start_over(Tls::new()).await;
    route53.put(PRIMARY, Check::new("HTTP", 80));
    let file = format!("root-{}.pem", route53.address.port());
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(file);
    fs::write(&file, route53.root()).unwrap();
    (route53, file.to_str().unwrap().to_owned())
}

/// What becomes of an alarm with these variables; and the warnings.
async fn lock(route53: &Route53, variables: &[(&str, &str)]) -> (Answer, Vec<String>) {
    let url = route53.url();
    let function =
        Function::start("lock", &[&[("AWS_ENDPOINT_URL", url.as_str())], variables].concat()).await;
    let answer = function.invoke(alarm(), TIMEOUT).await;
    let lines = function.stop().await;
    let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let warnings = lines.filter(|line| line["level"] == "WARN").map(|line| line["message"].to_string());
    (answer, warnings.collect())
}

#[tokio::test]
async fn a_bundle_replaces_every_other_root() {
    let (route53, root) = route53().await;
    let (_, another) = self::route53().await;
    // The system's store would vouch for it.
    let variables = [("AWS_CA_BUNDLE", another.as_str()), ("SSL_CERT_FILE", &root)];
    let error = lock(&route53, &variables).await.0.unwrap_err();
    assert_eq!(error["errorType"], "AwsUnavailable");
    assert!(error["errorMessage"].as_str().unwrap().contains("invalid peer certificate"), "{error}");
    assert!(route53.calls().is_empty());

    let (answer, warnings) = lock(&route53, &[("AWS_CA_BUNDLE", &root)]).await;
    assert!(answer.is_ok() && warnings.is_empty(), "{answer:?} {warnings:?}");
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn where_amazons_roots_do_not_vouch_the_systems_store_decides() {
    let (route53, root) = route53().await;
    let (_, another) = self::route53().await;
    let error = lock(&route53, &[("SSL_CERT_FILE", &another)]).await.0.unwrap_err();
    assert!(error["errorMessage"].as_str().unwrap().contains("invalid peer certificate"), "{error}");
    assert!(route53.calls().is_empty());

    let (answer, warnings) = lock(&route53, &[("SSL_CERT_FILE", &root)]).await;
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(
        warnings,
        ["\"no root in the binary has signed AWS's certificate: also trusting the system's roots\""]
    );
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}

#[tokio::test]
async fn a_certificate_that_leads_to_the_first_roots_needs_no_other() {
    let (route53, _) = route53().await;
    let https = Https::trusting_first(route53.root().to_owned().leak().as_bytes());
    let aws = support::aws::aws_by(&https, &route53.url()).await;
    // The system's store does not know the stand-in's root.
    let id = PRIMARY.to_owned().try_into().unwrap();
    let check = RealRoute53::new(&aws).health_check(&id, Deadline::after(TIMEOUT)).await;
    assert!(check.is_ok(), "{check:?}");
}

#[tokio::test]
async fn the_connection_stands_before_the_first_event_and_serves_every_call() {
    let (route53, root) = route53().await;
    let url = route53.url();
    let function = Function::start("lock", &[("AWS_ENDPOINT_URL", &url), ("AWS_CA_BUNDLE", &root)]).await;
    function.asked().await;
    assert_eq!((route53.connections(), route53.calls().len()), (1, 0));
    function.invoke(alarm(), TIMEOUT).await.unwrap();
    assert_eq!((route53.connections(), route53.calls().len()), (1, 3));
}

#[tokio::test]
async fn an_endpoint_that_is_silent_does_not_keep_the_function_from_starting() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let function = Function::start("lock", &[("AWS_ENDPOINT_URL", &url)]).await;
    let answer = tokio::time::timeout(Duration::from_secs(30), function.invoke("{}", TIMEOUT)).await;
    assert_eq!(answer.expect("it starts").unwrap_err()["errorType"], "MalformedEvent");
}

#[tokio::test]
async fn a_service_may_have_an_endpoint_of_its_own() {
    let (route53, root) = route53().await;
    let url = route53.url();
    // The one for all is where nothing listens.
    let variables = [("AWS_ENDPOINT_URL_ROUTE_53", url.as_str()), ("AWS_CA_BUNDLE", &root)];
    let function = Function::start("lock", &variables).await;
    function.asked().await;
    assert_eq!(route53.connections(), 1);
    function.invoke(alarm(), TIMEOUT).await.unwrap();
    assert_eq!(route53.check(PRIMARY).path(), LOCKED);
}
