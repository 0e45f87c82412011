//! A person rejoins a site.

use std::time::Duration;

use crate::support::accelerator::{Accelerator, Endpoint, Fault, Group};
use crate::support::infinispan;
use crate::support::recorded;
use crate::support::sites::{self, DNS_NAME, LABEL, REGION, Sites, alert, outcomes, rejoin, rejoin_within};
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use failover::site_fence::{Handler, SiteFence};
use serde_json::json;

#[tokio::test]
async fn the_site_is_back_as_it_was_and_its_notes_are_gone() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b", "reason": "synchronised" });
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "already_rejoined");
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    let dry = json!({ "accelerator": DNS_NAME, "site": "site-b", "dryRun": true });
    let would = rejoin(&system, &dry).await.unwrap();
    assert_eq!(would["outcome"], "would_rejoin");
    let adds = format!(
        "{} would be added with the weight 55 to {}",
        sites.balancer_b,
        crate::support::sites::group()
    );
    assert_eq!(would["detail"], adds);
    assert_eq!(sites.in_service().len(), 1);
    let outcome = rejoin(&system, &request).await.unwrap();
    assert_eq!(outcome, json!({ "site": "site-b", "accelerator": DNS_NAME, "outcome": "rejoined" }));
    assert_eq!(sites.a.status("site-b"), "online");
    let tags = sites.tags();
    assert_eq!((tags.len(), tags[0].0.as_str()), (1, "site-fence:site-b:rejoined"), "{tags:?}");
    let group = sites::group();
    // Global Accelerator checks an added endpoint anew.
    let [a, b] = sites.both();
    assert_eq!(sites.accelerators.endpoints(&group), [a, b.health("INITIAL")]);
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "already_rejoined");
}

#[tokio::test]
async fn traffic_does_not_return_before_replication_is_back() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    outcomes(&system, &alert("site-a", "site-b")).await;
    sites.a.fail_always("bring-online", infinispan::Fault::Status(403, "no"));
    let arn = Accelerator::new(LABEL).arn;
    let request = json!({ "accelerator": arn, "site": "site-b" });
    let error = rejoin(&system, &request).await.unwrap_err();
    assert!(error.contains("HTTP 403 Forbidden. INFINISPAN_USER is not allowed to do that"), "{error}");
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    sites.a.recover();
    let ga = &sites.accelerators;
    ga.fail("AddEndpoints", Fault::CloseAfter);
    ga.fail("UntagResource", Fault::Error("InternalServiceErrorException", "try again"));
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    // The last rejoin stays noted.
    assert_eq!((sites.in_service().len(), sites.tags().len()), (2, 1));
}

#[tokio::test]
async fn nothing_of_an_event_that_is_no_request_is_shown() {
    let sites = Sites::start().await;
    let event = alert("site-a", "site-b");
    let secret = "Basic ";
    assert!(event.contains(secret), "the event has credentials");
    // Encoded twice, it is a text.
    for event in [json!(event), json!({ "accelerator": DNS_NAME, "site": event })] {
        let error = rejoin(&sites.system(&[]), &event).await.unwrap_err();
        assert!(error.contains("the request cannot be read: ") && !error.contains(secret), "{error}");
    }
}

#[tokio::test]
async fn only_the_requested_rejoin_is_done() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    outcomes(&system, &alert("site-a", "site-b")).await;
    let webhook = serde_json::from_str(&recorded("alertmanager/resolved.json")).unwrap();
    for (request, said) in [
        (webhook, "the request cannot be read: unknown field"),
        (json!({}), "missing field `accelerator`"),
        (json!({ "accelerator": DNS_NAME }), "missing field `site`"),
        (json!({ "accelerator": DNS_NAME, "site": "../x" }), r#""../x" is not a site's name"#),
        (json!({ "accelerator": DNS_NAME, "site": "site-b", "froce": true }), "unknown field `froce`"),
        (json!({ "accelerator": "other.example.com", "site": "site-b" }), "no accelerator of this account"),
    ] {
        let error = rejoin(&system, &request).await.unwrap_err();
        assert!(error.contains(said), "{error}");
    }
    let unknown = json!({ "accelerator": DNS_NAME, "site": "site-z" });
    let outcome = rejoin(&system, &unknown).await.unwrap();
    assert_eq!((&outcome["outcome"], &outcome["reason"]), (&json!("refused"), &json!("nothing_noted")));
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
}

#[tokio::test]
async fn a_request_about_the_site_that_stayed_leaves_the_fenced_one_alone() {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    outcomes(&system, &alert("site-a", "site-b")).await;
    let request = json!({ "accelerator": DNS_NAME, "site": "site-a" });
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "already_rejoined");
    assert_eq!(sites.entries().await[0]["site"], "site-b");
    assert_eq!((sites.in_service().len(), sites.a.status("site-b").as_str()), (1, "offline"));
}

#[tokio::test]
async fn a_site_rejoins_without_the_other_one_with_force() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    outcomes(&system, &alert("site-a", "site-b")).await;
    // Site A burns down.
    sites.a.fail_always("status", infinispan::Fault::CloseBefore);
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
    let outcome = rejoin_within(&system, &request, Duration::from_secs(3)).await.unwrap();
    assert_eq!(outcome["outcome"], "rejoined");
    assert!(
        outcome["detail"].as_str().unwrap().starts_with("not replicated to: Infinispan of site-a"),
        "{outcome}"
    );
    // Its note shows that the other site does not replicate to it, until that is repaired.
    let tags = sites.tags();
    assert_eq!((sites.in_service().len(), tags.len()), (2, 2));
    assert!(tags[1].0 == "site-fence:site-b:rejoined" && tags[1].1.ends_with("Z forced"), "{tags:?}");
    sites.a.recover();
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    assert_eq!((sites.a.status("site-b").as_str(), sites.tags().len()), ("online", 1));
}

#[tokio::test]
async fn a_deleted_load_balancer_does_not_keep_the_others_out() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    outcomes(&system, &alert("site-a", "site-b")).await;
    let accelerator = Accelerator::new(LABEL);
    let gone = "arn:aws:elasticloadbalancing:us-east-1:000000000000:loadbalancer/net/gone/0123456789abcdef";
    let group = Group::new(REGION, [sites.both()[0].clone()]);
    let noted = |endpoint: &str| format!("0123vx00/098765zyxw00 55 true {endpoint}");
    let put = |tags: &[(&str, String)]| {
        let accelerator = accelerator.clone().listener([group.clone()]);
        sites.accelerators.put(tags.iter().fold(accelerator, |all, (key, value)| all.tagged(key, value)));
    };
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    put(&[("site-fence:site-b:0", noted(gone))]);
    let outcome = rejoin(&system, &request).await.unwrap();
    assert_eq!((&outcome["outcome"], &outcome["reason"]), (&json!("refused"), &json!("nothing_noted")));
    assert!(outcome["detail"].as_str().unwrap().contains(gone), "{outcome}");
    put(&[("site-fence:site-b:0", noted(gone)), ("site-fence:site-b:1", noted(&sites.balancer_b))]);
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    assert_eq!((sites.in_service().len(), sites.tags().len()), (2, 1));
}

#[tokio::test]
async fn both_sites_replicate_to_each_other_before_traffic_returns() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    outcomes(&system, &alert("site-a", "site-b")).await;
    // The returning site has its partner offline too: its writes would never arrive.
    sites.b.set_online("site-a", "sessions", false);
    sites.b.set_online("site-a", "work", false);
    sites.b.fail_always("bring-online", infinispan::Fault::Status(403, "no"));
    let error = rejoin(&system, &request).await.unwrap_err();
    assert!(error.starts_with("Infinispan of site-b"), "{error}");
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    sites.b.recover();
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    assert_eq!([sites.a.status("site-b"), sites.b.status("site-a")], ["online", "online"]);
    // The same for sites that are in service: a take-out by hand was undone by hand.
    sites.b.set_online("site-a", "work", false);
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    assert_eq!(sites.b.status("site-a"), "online");
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "already_rejoined");
}

#[tokio::test]
async fn a_site_comes_back_into_an_endpoint_group_that_was_made_anew() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    let noted = format!("0123vx00/gone 55 true {}", sites.balancer_b);
    let a = sites.both()[0].clone();
    let put = |groups: Vec<Group>| {
        let accelerator = Accelerator::new(LABEL).tagged("site-fence:site-b:0", &noted);
        sites
            .accelerators
            .put(accelerator.tagged("site-fence:site-b", "2026-11-21T03:08:09Z site-a").listener(groups));
    };
    put(vec![Group::new("eu-west-1", []), Group::new(REGION, [a.clone()])]);
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    let groups = [Group::new(REGION, []), Group::new(REGION, [])];
    let group = Accelerator::new(LABEL).listener(groups).group_arns().remove(1);
    let back = sites.accelerators.endpoints(&group);
    assert_eq!((back.len(), back[1].weight, back[1].client_ip), (2, 55, true));
    assert_eq!(sites.tags().len(), 1);

    // No group stands for it: the answer says what is left to do by hand.
    put(vec![Group::new("eu-west-1", []), Group::new("eu-west-2", [a.clone()])]);
    let outcome = rejoin(&system, &request).await.unwrap();
    assert_eq!((&outcome["outcome"], &outcome["reason"]), (&json!("refused"), &json!("nothing_noted")));
    let detail = outcome["detail"].as_str().unwrap();
    assert!(
        detail.starts_with(&format!("{} (weight 55) was left out: its group ", sites.balancer_b)),
        "{detail}"
    );
    // It was added by hand, with the weight of AWS.
    put(vec![Group::new(REGION, [a, Endpoint::new(&sites.balancer_b).client_ip(true)])]);
    let outcome = rejoin(&system, &request).await.unwrap();
    assert_eq!(outcome["outcome"], "rejoined");
    let detail = format!(
        "{} has the weight 128, and had 55 before it was taken out: set it by hand",
        sites.balancer_b
    );
    assert_eq!(outcome["detail"], detail);
    assert_eq!(sites.tags().len(), 1);
}

#[tokio::test]
async fn a_listener_that_was_deleted_does_not_keep_the_site_out_of_the_other_one() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let two = || {
        let both = || [Group::new(REGION, sites.both())];
        Accelerator::new(LABEL).listener(both()).listener(both())
    };
    sites.accelerators.put(two());
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    let tags = sites.tags();
    let a = sites.both()[0].clone();
    let mut one = Accelerator::new(LABEL).listener([Group::new(REGION, [a])]);
    for (key, value) in &tags {
        one = one.tagged(key, value);
    }
    sites.accelerators.put(one);
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    // Also where the answer is lost, and the endpoint is found at the next look.
    sites.accelerators.fail("AddEndpoints", Fault::CloseAfter);
    let outcome = rejoin(&system, &request).await.unwrap();
    assert_eq!(outcome["outcome"], "rejoined", "{outcome}");
    let detail = outcome["detail"].as_str().unwrap();
    assert!(
        detail.starts_with(&format!("{} (weight 55) was left out: its group ", sites.balancer_b))
            && !detail.contains("set it by hand"),
        "{detail}"
    );
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn a_site_does_not_come_back_into_another_listener_while_its_own_is_there() {
    let sites = Sites::start().await;
    let noted = format!("0123vx00/gone 55 true {}", sites.balancer_b);
    let [a, _] = sites.both();
    sites.accelerators.put(
        Accelerator::new(LABEL)
            .tagged("site-fence:site-b:0", &noted)
            .tagged("site-fence:site-b", "2026-11-21T03:08:09Z site-a")
            .listener([Group::new("eu-west-1", [a.clone()])])
            .listener([Group::new(REGION, [a])]),
    );
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    let outcome = rejoin(&sites.system(&[]), &request).await.unwrap();
    assert_eq!(outcome["outcome"], "refused", "{outcome}");
    let detail = outcome["detail"].as_str().unwrap();
    assert!(detail.contains("(weight 55) was left out: its group "), "{detail}");
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
}

#[tokio::test]
async fn a_note_that_cannot_be_read_is_named() {
    let sites = Sites::start().await;
    let [a, _] = sites.both();
    let noted = format!("0123vx00/098765zyxw00 55 true {}", sites.balancer_b);
    sites.accelerators.put(
        Accelerator::new(LABEL)
            .tagged("site-fence:site-b:0", &noted)
            .tagged("site-fence:site-b:1", "0123vx01/098765 heavy true x")
            .tagged("site-fence:site-b", "2026-11-21T03:08:09Z site-a")
            .listener([Group::new(REGION, [a])]),
    );
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    let outcome = rejoin(&sites.system(&[]), &request).await.unwrap();
    assert_eq!(outcome["outcome"], "rejoined");
    assert!(outcome["detail"].as_str().unwrap().contains("0123vx01/098765 heavy true x"), "{outcome}");
}

#[tokio::test]
async fn a_rejoin_of_the_future_answers_no_report() {
    let sites = Sites::start().await;
    sites.accelerators.put(
        Accelerator::new(LABEL)
            .tagged("site-fence:site-b:rejoined", "2999-01-01T00:00:00Z")
            .listener([Group::new(REGION, sites.both())]),
    );
    sites.a.cut_off(true);
    assert_eq!(outcomes(&sites.system(&[]), &alert("site-a", "site-b")).await, ["fenced"]);
}

#[tokio::test]
async fn of_two_listeners_that_became_one_it_has_the_endpoint_once() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let [a, b] = sites.both();
    let with = |weight: u8| [Group::new(REGION, [a.clone(), b.clone().weight(weight)])];
    sites.accelerators.put(Accelerator::new(LABEL).listener(with(20)).listener(with(40)));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    // Neither group is that of the new listener.
    let mut one = Accelerator::new(LABEL).listener([Group::new(REGION, [a])]);
    for (key, value) in &sites.tags() {
        one = one.tagged(key, &value.replace("0123vx", "9876vx"));
    }
    sites.accelerators.put(one);
    let outcome = rejoin(&system, &json!({ "accelerator": DNS_NAME, "site": "site-b" })).await.unwrap();
    assert_eq!(outcome["outcome"], "rejoined", "{outcome}");
    assert!(
        outcome["detail"].as_str().unwrap().contains("(weight 40) was left out: its group "),
        "{outcome}"
    );
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn a_load_balancer_that_was_given_to_another_site_is_not_added_as_the_former_ones() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    sites.tag_balancer(&sites.balancer_b, "site-c").await;
    let outcome = rejoin(&system, &json!({ "accelerator": DNS_NAME, "site": "site-b" })).await.unwrap();
    assert_eq!((&outcome["outcome"], &outcome["reason"]), (&json!("refused"), &json!("nothing_noted")));
    assert_eq!(outcome["detail"], format!("{} was left out: its site is \"site-c\" now", sites.balancer_b));
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
}

#[tokio::test]
async fn two_endpoints_of_one_load_balancer_come_back_as_two() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let [a, b] = sites.both();
    let other = b.clone().client_ip(false).weight(9);
    sites
        .accelerators
        .put(Accelerator::new(LABEL).listener([Group::new(REGION, [a.clone(), b.clone(), other.clone()])]));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    let back = sites.accelerators.endpoints(&sites::group());
    assert_eq!(back, [a, b.health("INITIAL"), other.health("INITIAL")]);
}

#[tokio::test]
async fn a_site_that_was_drained_before_its_fence_is_not_said_to_serve() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let [a, b] = sites.both();
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    let of_a = Group::new("eu-west-1", [a]);
    for groups in [
        [of_a.clone(), Group::new(REGION, [b.clone().weight(0)])],
        [of_a.clone(), Group::new(REGION, [b.clone()]).dial(0.0)],
    ] {
        let accelerator = Accelerator::new(LABEL).listener(groups);
        let listener = accelerator.group_arns()[0].split("/endpoint-group/").next().unwrap().to_owned();
        let detail = format!(
            "the site gets no traffic from {listener}: set its weight or traffic dial above 0 by hand"
        );
        sites.accelerators.put(accelerator);
        assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
        for outcome in ["rejoined", "already_rejoined"] {
            let answer = rejoin(&system, &request).await.unwrap();
            assert_eq!((&answer["outcome"], &answer["detail"]), (&json!(outcome), &json!(detail)));
        }
    }
    // One of several endpoints may be.
    let spare = Endpoint::new(&sites.balancer("spare").await).weight(0);
    sites.tag_balancer(&spare.id, "site-b").await;
    sites.accelerators.put(Accelerator::new(LABEL).listener([of_a, Group::new(REGION, [b, spare])]));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    let answer = rejoin(&system, &request).await.unwrap();
    assert_eq!((&answer["outcome"], &answer["detail"]), (&json!("rejoined"), &json!(null)));
}

#[tokio::test]
async fn a_person_takes_a_site_out_for_maintenance_and_rejoins_it() {
    let sites = Sites::start().await;
    sites.table().await;
    let take_out = async |system: &SiteFence, request: serde_json::Value| {
        let deadline = Deadline::after(Duration::from_secs(5));
        let report = system.handle(Handler::Fence, &request.to_string(), deadline).await;
        report.into_answer().map(|answer| answer["outcomes"][0].clone()).map_err(|error| error.to_string())
    };
    for table in [String::new(), sites.table_name()] {
        sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, sites.both())]));
        let system = sites.system(&[("FENCE_TABLE", &table)]);
        let out = json!({ "takeOut": "site-b", "accelerator": DNS_NAME, "reason": "new nodes" });
        let dry = json!({ "takeOut": "site-b", "accelerator": DNS_NAME, "dryRun": true });
        assert_eq!(take_out(&system, dry).await.unwrap()["outcome"], "would_take_out");
        // Nothing is removed that could not be noted, and an answer may be lost.
        sites.accelerators.fail("TagResource", Fault::Error("AccessDeniedException", "not authorized"));
        assert!(take_out(&system, out.clone()).await.unwrap_err().contains("globalaccelerator:TagResource"));
        assert_eq!(sites.in_service().len(), 2);
        sites.accelerators.fail("RemoveEndpoints", Fault::CloseAfter);
        assert_eq!(take_out(&system, out.clone()).await.unwrap()["outcome"], "taken_out");
        assert_eq!(take_out(&system, out).await.unwrap()["outcome"], "already_out");
        assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
        let tags = sites.tags();
        assert!(tags.len() == 2 && tags[0].1.ends_with("Z +person"), "{tags:?}");
        // Its data stays current, and its report about the other site is settled.
        assert_eq!(sites.a.status("site-b"), "online");
        let report = outcomes(&system, &alert("site-b", "site-a")).await;
        assert_eq!(report, ["refused: reporter_is_fenced"]);
        // The last site stays.
        let last = json!({ "takeOut": "site-a", "accelerator": DNS_NAME });
        assert_eq!(take_out(&system, last).await.unwrap()["reason"], "last_endpoint");
        // During the maintenance its Infinispan goes down.
        assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
        let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
        assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
        let back = sites.accelerators.endpoints(&sites::group());
        assert_eq!(back[1], sites.both()[1].clone().health("INITIAL"));
        assert_eq!(sites.a.status("site-b"), "online");
        // It is unhealthy until Global Accelerator has checked it.
        let other = json!({ "takeOut": "site-a", "accelerator": DNS_NAME });
        assert_eq!(take_out(&system, other).await.unwrap()["reason"], "survivor_unhealthy");
        let unknown = json!({ "takeOut": "site-b", "accelerator": DNS_NAME, "force": true });
        assert!(take_out(&system, unknown).await.unwrap_err().contains("unknown field `force`"));
        assert_eq!(sites.rejoined().await.is_empty(), table.is_empty());
    }
}
