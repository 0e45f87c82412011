//! Sites in two Regions: load balancers of two Regions cannot be in one endpoint group, so each site has its own.

use crate::support::accelerator::{Accelerator, Endpoint, Group};
use crate::support::sites::{DNS_NAME, LABEL, REGION, Sites, alert, fence, outcomes, rejoin};
use serde_json::json;

const OTHER_REGION: &str = "eu-west-1";

#[tokio::test]
async fn a_site_with_a_group_of_its_own_is_fenced_and_does_not_come_back_by_a_failover() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let far = sites.balancer_in(OTHER_REGION, "site-b").await;
    let groups = || {
        let b = Endpoint::new(&far).weight(7).client_ip(true);
        [Group::new(REGION, [sites.both()[0].clone()]), Group::new(OTHER_REGION, [b])]
    };
    let accelerator = Accelerator::new(LABEL).listener(groups()).listener(groups());
    let ga = &sites.accelerators;
    ga.put(accelerator.clone());
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    let arns = accelerator.group_arns();
    for group in [&arns[1], &arns[3]] {
        assert_eq!(ga.endpoints(group), [], "{group}");
    }
    // The site that is left is found unhealthy: Global Accelerator fails over, and finds nothing of the other one.
    ga.set_health(&sites.balancer_a, "UNHEALTHY");
    for listener in &accelerator.listeners {
        assert_eq!(ga.arrives(&listener.arn), [""; 0]);
    }
    ga.set_health(&sites.balancer_a, "HEALTHY");
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    for group in [&arns[1], &arns[3]] {
        let b = Endpoint::new(&far).weight(7).client_ip(true).health("INITIAL");
        assert_eq!(ga.endpoints(group), [b], "{group}");
    }
}

#[tokio::test]
async fn a_group_is_emptied_only_while_the_reporter_serves_in_another_group_of_the_listener() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let far = sites.balancer_in(OTHER_REGION, "site-b").await;
    let ga = &sites.accelerators;
    let a = sites.both()[0].clone();
    let b = || Group::new(OTHER_REGION, [Endpoint::new(&far)]);
    let alone = Accelerator::new(LABEL).listener([Group::new(REGION, [a.clone()]), b()]).listener([b()]);
    for (accelerator, reason) in [
        (alone, "last_endpoint"),
        (
            Accelerator::new(LABEL).listener([Group::new(REGION, [a.clone()]).dial(0.0), b()]),
            "reporter_missing",
        ),
        (
            Accelerator::new(LABEL).listener([Group::new(REGION, [a.clone().weight(0)]), b()]),
            "reporter_missing",
        ),
        (
            Accelerator::new(LABEL).listener([Group::new(REGION, [a.clone().health("UNHEALTHY")]), b()]),
            "reporter_unhealthy",
        ),
    ] {
        ga.put(accelerator.clone());
        let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
        assert_eq!((status, body["outcomes"][0]["reason"].as_str()), (503, Some(reason)));
        assert_eq!(ga.endpoints(&accelerator.group_arns()[1]).len(), 1, "{reason}");
    }
}
