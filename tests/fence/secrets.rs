//! Passwords and roots in Secrets Manager, and what is done while it does not answer.

use std::time::{Duration, SystemTime};

use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use failover::site_fence::Handler;
use serde_json::json;

use crate::support::infinispan::Fault as Slow;
use crate::support::proxy::{Fault, Proxy};
use crate::support::sites::{DNS_NAME, INFINISPAN_PASSWORD, Sites, alert, fence, fence_within, rejoin};

const UNAVAILABLE: Fault = Fault::Error { status: 500, code: "InternalServiceError", message: "try again" };

#[tokio::test]
async fn passwords_that_were_read_before_are_used_while_secrets_manager_does_not_answer() {
    let sites = Sites::start().await;
    let secrets = Proxy::start(&sites.aws.url).await;
    let system = sites.system(&[("AWS_ENDPOINT_URL_SECRETS_MANAGER", &secrets.url)]);
    secrets.all(UNAVAILABLE);
    let unread = fence_within(&system, &alert("site-a", "site-b"), Duration::from_secs(2)).await;
    assert_eq!(unread.0, 503, "no password was ever read: {}", unread.1);
    secrets.all(Fault::None);
    assert_eq!(fence(&system, &alert("site-a", "site-b")).await.0, 204);
    assert_eq!(
        rejoin(&system, &json!({ "accelerator": DNS_NAME, "site": "site-b" })).await.unwrap()["outcome"],
        "rejoined"
    );
    for fault in [UNAVAILABLE, Fault::Lost] {
        secrets.all(fault);
        sites.accelerators.set_health(&sites.balancer_b, "HEALTHY");
        let (status, body) = fence(&system, &alert("site-b", "site-a")).await;
        assert_eq!(status, 204, "{body}");
    }
    assert_eq!(sites.in_service(), [sites.balancer_b.as_str()]);
    // Someone is told for as long as it is so.
    let another = sites.system(&[]);
    for (system, is_told) in [(&system, true), (&another, false)] {
        let event = alert("site-b", "site-a");
        let report = system.handle(Handler::Fence, &event, Deadline::after(Duration::from_secs(20))).await;
        let counts = |line: String| line.contains("\"StalePassword\":1") && line.contains("site-fence");
        assert_eq!(report.metrics("site-fence", SystemTime::now()).any(counts), is_told);
    }
}

#[tokio::test]
async fn a_secret_that_holds_more_than_the_password_is_named() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let json = json!({ "username": "developer", "password": INFINISPAN_PASSWORD }).to_string();
    for (text, said) in [
        (json, "holds a JSON object: store the password alone"),
        (format!("{INFINISPAN_PASSWORD}\n"), "holds a line break"),
    ] {
        sites.secret("infinispan-password", &text).await;
        let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
        let error = body["outcomes"][0]["error"].as_str().unwrap_or_default();
        assert!(status == 503 && error.contains(said), "{status} {body}");
        assert!(
            error.contains(&sites.secret_name("infinispan-password")) && !error.contains(INFINISPAN_PASSWORD),
            "{error}"
        );
    }
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn infinispans_roots_may_be_in_a_secret_and_are_read_again_when_they_no_longer_fit() {
    let sites = Sites::start().await;
    let name = sites.secret_name("roots");
    let system = sites.system(&[("INFINISPAN_CA_CERT", ""), ("INFINISPAN_CA_CERT_SECRET", &name)]);
    sites.secret("roots", "no certificate").await;
    let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
    let error = body["outcomes"][0]["error"].as_str().unwrap_or_default();
    assert!(status == 503 && error.contains("INFINISPAN_CA_CERT_SECRET: it holds no certificate"), "{body}");
    // Another server's root, as before a certificate was renewed.
    sites.secret("roots", sites.b.root()).await;
    let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
    assert_eq!((status, &body["outcomes"][0]["errorType"]), (503, &json!("InfinispanUnavailable")), "{body}");
    assert_eq!(sites.in_service().len(), 2);
    sites.secret("roots", &format!("{}{}", sites.a.root(), sites.b.root())).await;
    assert_eq!(fence(&system, &alert("site-a", "site-b")).await.0, 204);
}

#[tokio::test]
async fn an_infinispan_that_needs_seconds_for_each_answer_is_waited_for() {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    for what in ["status", "take-offline"] {
        sites.a.fail_always(what, Slow::Slow(Duration::from_millis(3_200)));
    }
    let (status, body) = fence_within(&system, &alert("site-a", "site-b"), Duration::from_secs(59)).await;
    assert_eq!(status, 204, "{body}");
    assert_eq!(sites.a.status("site-b"), "offline");
}

/// A watchdog is all that a reporter's function sees before the worst day.
#[tokio::test]
async fn a_watchdog_reads_the_password_for_a_report_that_comes_while_secrets_manager_is_down() {
    let sites = Sites::start().await;
    let secrets = Proxy::start(&sites.aws.url).await;
    let system = sites.system(&[("AWS_ENDPOINT_URL_SECRETS_MANAGER", &secrets.url)]);
    let watchdog = alert("site-a", "site-b").replace("SiteOffline", "SiteFenceWatchdog");
    assert_eq!(fence(&system, &watchdog).await.0, 204);
    secrets.all(UNAVAILABLE);
    assert_eq!(fence(&system, &alert("site-a", "site-b")).await.0, 204);
    assert_eq!(sites.a.status("site-b"), "offline");
    let sites = Sites::start().await;
    let system = sites.system(&[("INFINISPAN_USER_SECRET", "mistyped")]);
    assert_eq!(fence(&system, &watchdog).await.0, 503);
}
