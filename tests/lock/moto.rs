//! Lock and restore against moto: a second reading of Route 53's wire protocol, independent of the
//! one in `support/`.

use std::time::Duration;

use crate::support;
use crate::support::emulator::Emulator;
use crate::support::lambda::Function;
use crate::support::lock::LOCKED;
use crate::support::primary::Primary;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(20);

async fn tags(moto: &Emulator, check: &str) -> Vec<String> {
    let of = ["--resource-type", "healthcheck", "--resource-id", check];
    let tags = moto.aws(&[&["route53", "list-tags-for-resource"], &of[..]].concat()).await;
    let tags = tags["ResourceTagSet"]["Tags"].as_array().cloned().unwrap_or_default();
    tags.iter().filter_map(|tag| tag["Key"].as_str().map(str::to_owned)).collect()
}

async fn config(moto: &Emulator, check: &str) -> Value {
    let check = moto.aws(&["route53", "get-health-check", "--health-check-id", check]).await;
    check["HealthCheck"]["HealthCheckConfig"].clone()
}

#[tokio::test]
async fn the_wire_is_understood_by_an_independent_stand_in() {
    let moto = Emulator::moto().await;
    let primary = Primary::start("/lb-check").await;
    let sent =
        format!("Type=HTTP,IPAddress=127.0.0.1,Port={},ResourcePath=/lb-check", primary.address.port());
    let create = ["--caller-reference", "primary", "--health-check-config", &sent];
    let check = moto.aws(&[&["route53", "create-health-check"], &create[..]].concat()).await;
    let check = check["HealthCheck"]["Id"].as_str().expect("a health check has an id");
    let before = config(&moto, check).await;

    let variables = [("AWS_ENDPOINT_URL", moto.url.as_str()), ("GUARDED_HEALTH_CHECKS", check)];
    let lock = Function::start("lock", &variables).await;
    let alarm =
        support::lock::delivered(&[&support::lock::message(check, "ALARM", support::lock::CHANGED_AT)]);
    let answer = lock.invoke(alarm.clone(), TIMEOUT).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "locked");
    let answer = lock.invoke(alarm, TIMEOUT).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "already_locked");
    let locked = config(&moto, check).await;
    assert_eq!(locked["ResourcePath"], LOCKED);
    assert_eq!(tags(&moto, check).await, ["failover-lock:out"]);

    let restore = Function::start("restore", &variables).await;
    let request = json!({ "reason": "the sites are synchronised" }).to_string();
    let answer = restore.invoke(request, TIMEOUT).await.unwrap();
    assert_eq!(answer["outcomes"][0]["outcome"], "restored");
    assert_eq!(config(&moto, check).await, before, "all but the path is as it was, and the path again");

    // With moto, whose checks stay at version 1 whatever happens to them, a restore cannot be seen.
    let gone =
        support::lock::delivered(&[&support::lock::message("gone", "ALARM", support::lock::CHANGED_AT)]);
    let unguarded = Function::start("lock", &[("AWS_ENDPOINT_URL", moto.url.as_str())]).await;
    let error = unguarded.invoke(gone, TIMEOUT).await.unwrap_err();
    assert_eq!(error["errorType"], "NoSuchHealthCheck", "{error}");
}
