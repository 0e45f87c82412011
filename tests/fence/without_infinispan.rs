//! Two sites behind an accelerator whose data is replicated in another way, or not at all.

use chrono::{TimeDelta, Utc};
use serde_json::json;

use crate::support::accelerator::{Accelerator, Endpoint, Group};
use crate::support::sites::{
    ALONE, DNS_NAME, LABEL, REGION, Sites, alert, alert_since, fence, outcomes, rejoin,
};

#[tokio::test]
async fn a_site_is_fenced_and_rejoined_by_its_endpoints_alone() {
    let sites = Sites::start().await;
    let system = sites.system(&ALONE);
    let before = sites.accelerators.endpoints(&crate::support::sites::group());
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["refused: reporter_is_fenced"]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["already_fenced"]);
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    let b = before[1].clone().health("INITIAL");
    assert_eq!(sites.accelerators.endpoints(&crate::support::sites::group()), [before[0].clone(), b]);
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "already_rejoined");
    assert_eq!((sites.a.calls(), sites.b.calls()), (vec![], vec![]), "no call to Infinispan");
}

#[tokio::test]
async fn a_report_from_before_the_rejoin_is_refused_where_a_person_sees_it_and_a_new_one_is_acted_on() {
    let sites = Sites::start().await;
    let system = sites.system(&ALONE);
    let before = Utc::now() - TimeDelta::minutes(5);
    outcomes(&system, &alert_since(before, "site-a", "site-b")).await;
    rejoin(&system, &json!({ "accelerator": DNS_NAME, "site": "site-b" })).await.unwrap();
    for (reporter, site) in [("site-a", "site-b"), ("site-b", "site-a")] {
        let old = alert_since(before, reporter, site);
        sites.accelerators.set_health(&sites.balancer_b, "HEALTHY");
        let (status, body) = fence(&system, &old).await;
        assert_eq!((status, &body["outcomes"][0]["reason"]), (503, &json!("rejoined_since")));
    }
    assert_eq!(sites.in_service().len(), 2);
    let new = alert_since(Utc::now() + TimeDelta::seconds(1), "site-a", "site-b");
    assert_eq!(outcomes(&system, &new).await, ["fenced"]);
}

#[tokio::test]
async fn a_site_that_is_rejoined_by_force_takes_out_the_one_that_is_lost() {
    let sites = Sites::start().await;
    let system = sites.system(&ALONE);
    let before = Utc::now() - TimeDelta::minutes(5);
    outcomes(&system, &alert_since(before, "site-a", "site-b")).await;
    let forced = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
    assert_eq!(rejoin(&system, &forced).await.unwrap()["outcome"], "rejoined");
    sites.accelerators.set_health(&sites.balancer_b, "HEALTHY");
    // The report of the site that is lost is older than the person's word, and the other one's is the proof.
    let old = alert_since(before, "site-a", "site-b");
    assert_eq!(outcomes(&system, &old).await, ["refused: rejoined_by_force"]);
    assert_eq!(outcomes(&system, &alert_since(before, "site-b", "site-a")).await, ["fenced"]);
    assert_eq!(sites.in_service(), [sites.balancer_b.as_str()]);
}

#[tokio::test]
async fn the_configuration_may_name_the_endpoints_of_each_site() {
    let sites = Sites::start().await;
    let [a, b, unknown] = ["eipalloc-0123456789abcdefa", "i-0123456789abcdefb", "i-0123456789abcdefc"];
    let map = json!({ "site-a": [a], "site-b": [b] }).to_string();
    let changes = [&ALONE[..], &[("ACCELERATOR_SITE_ENDPOINTS", map.as_str())]].concat();
    let system = sites.system(&changes);
    let put = |endpoints: &[&str]| {
        let endpoints = endpoints.iter().map(|id| Endpoint::new(id));
        sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, endpoints)]));
    };
    put(&[a, b]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(sites.in_service(), [a]);
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    assert_eq!(sites.in_service(), [a, b]);
    // An endpoint that neither a tag nor the map names may be the site's.
    put(&[a, unknown]);
    let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
    assert_eq!((status, &body["outcomes"][0]["reason"]), (503, &json!("site_unknown")));
    assert_eq!(sites.in_service(), [a, unknown]);
}
