//! Endpoints that no tag names, that were changed meanwhile, or that are only half out or half back.

use std::time::Duration;

use crate::support::accelerator::{Accelerator, Accelerators, Endpoint, Fault, Group};
use crate::support::sites::{
    DNS_NAME, LABEL, REGION, Sites, alert, fence, fence_within, outcomes, rejoin, take_out,
};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

const ADDRESS: &str = "eipalloc-0123456789abcdef0";
const ANOTHER: &str = "eipalloc-0fedcba9876543210";
const BUSY: Fault = Fault::Error("TransactionInProgressException", "try again");

/// An accelerator with site-a and this endpoint of an unknown site, and notes about site-b's.
fn noted(sites: &Sites, serves: &str, is_out: bool) -> Accelerator {
    let [a, _] = sites.both();
    let accelerator = Accelerator::new(LABEL).listener([Group::new(REGION, [a, Endpoint::new(serves)])]);
    let note = format!("0123vx00/098765zyxw00 128 default {ADDRESS}");
    let accelerator = accelerator.tagged("site-fence:site-b:0", &note);
    if is_out { accelerator.tagged("site-fence:site-b", "2026-11-21T03:08:09Z site-a") } else { accelerator }
}

#[tokio::test]
async fn an_endpoint_without_a_tag_is_the_sites_that_its_note_names() {
    for by_a_person in [false, true] {
        let sites = Sites::start().await;
        let system = sites.system(&[]);
        sites.accelerators.put(noted(&sites, ADDRESS, true));
        let (said, expected) = if by_a_person {
            (take_out(&system, "site-b").await, "taken_out")
        } else {
            (outcomes(&system, &alert("site-a", "site-b")).await.remove(0), "fenced")
        };
        assert_eq!(said, expected);
        assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    }
}

#[tokio::test]
async fn a_note_that_does_not_say_that_a_site_is_out_is_no_look_at_endpoints_of_unknown_sites() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    sites.accelerators.put(noted(&sites, ANOTHER, false));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["refused: site_unknown"]);
    assert_eq!(take_out(&system, "site-b").await, "refused: site_unknown");
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn an_endpoint_whose_setting_someone_changes_meanwhile_leaves() {
    let sites = Sites::start().await;
    let [a, b] = sites.both();
    let changed = move |ga: &Accelerators| {
        let group = Group::new(REGION, [a.clone(), b.clone().client_ip(false)]);
        ga.put(Accelerator::new(LABEL).listener([group]));
    };
    sites.accelerators.fail("RemoveEndpoints", Fault::meddle(changed));
    assert_eq!(outcomes(&sites.system(&[]), &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    let calls = sites.accelerators.calls();
    let removals: Vec<_> = calls.iter().filter(|call| call.starts_with("RemoveEndpoints")).collect();
    // All, each, and each with the other setting, before the list is looked at again.
    assert_eq!(removals.len(), 3, "{removals:?}");
}

/// The ids of the endpoints in these groups.
fn ids(accelerators: &Accelerators, groups: &[String]) -> Vec<String> {
    let endpoints = groups.iter().flat_map(|group| accelerators.endpoints(group));
    endpoints.map(|endpoint| endpoint.id).collect()
}

/// Two listeners with these endpoints each.
fn two(first: &[Endpoint], second: &[Endpoint]) -> Accelerator {
    let group = |endpoints: &[Endpoint]| [Group::new(REGION, endpoints.to_vec())];
    Accelerator::new(LABEL).listener(group(first)).listener(group(second))
}

#[tokio::test]
async fn of_three_sites_one_that_is_half_out_is_the_one_that_its_reporter_takes_out() {
    let sites = Sites::start().await;
    let (system, ga) = (sites.system(&[]), &sites.accelerators);
    let third = sites.balancer("site-c").await;
    let [a, b] = sites.both();
    let all = [a, b, Endpoint::new(&third)];
    let arns = two(&all, &all).group_arns();
    ga.put(two(&all, &all));
    sites.a.put("site-c", &["work"]);
    ga.fail("RemoveEndpoints", Fault::meddle(|ga| ga.fail_always("RemoveEndpoints", BUSY)));
    let (status, body) = fence_within(&system, &alert("site-a", "site-b"), Duration::from_secs(8)).await;
    assert_eq!(status, 503, "{body}");
    ga.recover();
    let [first, second, third] = [&sites.balancer_a, &sites.balancer_b, &third].map(String::as_str);
    let left = ids(ga, &arns);
    assert_eq!(left, [first, third, first, second, third]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-c")).await, ["refused: second_fence"]);
    // And it goes on with the first one.
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
}

#[tokio::test]
async fn a_removal_that_lands_after_a_rejoin_keeps_its_notes_and_is_not_settled() {
    let sites = Sites::start().await;
    let (system, ga) = (sites.system(&[]), &sites.accelerators);
    let both = sites.both();
    let arns = two(&both, &both).group_arns();
    ga.put(two(&both, &both));
    ga.fail("RemoveEndpoints", Fault::meddle(|_| {}));
    // While the second call is under way, a person's rejoin by force ends.
    let rejoined = Fault::meddle(move |ga| {
        let arn = Accelerator::new(LABEL).arn;
        let mut accelerator = two(&both, &both);
        for (key, value) in ga.tags(&arn) {
            accelerator = accelerator.tagged(&key, &value);
        }
        let at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        ga.put(accelerator.tagged("site-fence:site-b:rejoined", &format!("{at} forced")));
    });
    ga.fail("RemoveEndpoints", rejoined);
    let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
    let error = body["outcomes"][0]["error"].as_str().unwrap_or_default();
    assert!(status == 503 && error.contains("repeat the rejoin"), "{body}");
    let keys: Vec<_> = sites.tags().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["site-fence:site-b:0", "site-fence:site-b:1", "site-fence:site-b:rejoined"]);
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    assert_eq!(ids(ga, &arns).len(), 4);
}

async fn rejoined(sites: &Sites, force: bool) -> Result<Value, String> {
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": force });
    Box::pin(rejoin(&sites.system(&[]), &request)).await
}

#[tokio::test]
async fn an_endpoint_that_is_not_valid_any_more_does_not_keep_the_others_out() {
    let invalid = Fault::Error("InvalidArgumentException", "it is not valid");
    // Of another account, or of a kind for which a permission is missing.
    let denied = Fault::Error("AccessDeniedException", "it is not valid for this account");
    for (force, refused) in [(false, &invalid), (true, &invalid), (false, &denied), (true, &denied)] {
        let refused = || refused.clone();
        let sites = Sites::start().await;
        let ga = &sites.accelerators;
        let second = sites.balancer("second").await;
        sites.tag_balancer(&second, "site-b").await;
        let [a, b] = sites.both();
        ga.put(Accelerator::new(LABEL).listener([Group::new(REGION, [a, b, Endpoint::new(&second)])]));
        assert_eq!(outcomes(&sites.system(&[]), &alert("site-a", "site-b")).await, ["fenced"]);
        // Where nothing comes back, it is no rejoin.
        ga.fail_always("AddEndpoints", refused());
        let error = rejoined(&sites, force).await.unwrap_err();
        assert!(error.contains("it is not valid"), "{error}");
        // It had brought replication online.
        assert_eq!(outcomes(&sites.system(&[]), &alert("site-a", "site-b")).await, ["fenced"]);
        ga.recover();
        ga.fail("AddEndpoints", refused());
        ga.fail("AddEndpoints", refused());
        let outcome = rejoined(&sites, force).await.unwrap();
        assert_eq!(outcome["outcome"], "rejoined", "{outcome}");
        let detail = outcome["detail"].as_str().unwrap();
        let left_out = format!("{} (weight 55) was left out of ", sites.balancer_b);
        assert!(detail.starts_with(&left_out) && detail.contains("add it by hand: "), "{detail}");
        assert!(detail.contains("it is not valid"), "{detail}");
        assert_eq!(sites.in_service(), [sites.balancer_a.as_str(), second.as_str()]);
    }
}

#[tokio::test]
async fn where_an_endpoint_is_denied_a_site_that_was_added_by_hand_is_rejoined_without_it() {
    let sites = Sites::start().await;
    let ga = &sites.accelerators;
    let [a, b] = sites.both();
    let both = || [Group::new(REGION, [a.clone(), b.clone()])];
    let accelerator = Accelerator::new(LABEL).listener(both()).listener(both());
    let groups = accelerator.group_arns();
    ga.put(accelerator);
    assert_eq!(outcomes(&sites.system(&[]), &alert("site-a", "site-b")).await, ["fenced"]);
    // Minutes later.
    let arn = Accelerator::new(LABEL).arn;
    let alone = || [Group::new(REGION, [a.clone()])];
    let mut later = Accelerator::new(LABEL).listener(both()).listener(alone());
    for (key, value) in ga.tags(&arn) {
        let value = if key == "site-fence:site-b" { "2026-11-21T03:08:09Z site-a" } else { &value };
        later = later.tagged(&key, value);
    }
    ga.put(later);
    ga.fail_always("AddEndpoints", Fault::Error("AccessDeniedException", "not authorized"));
    let outcome = rejoined(&sites, false).await.unwrap();
    assert_eq!(outcome["outcome"], "rejoined", "{outcome}");
    let left_out =
        format!("{} (weight 55) was left out of {}: add it by hand: ", sites.balancer_b, groups[1]);
    assert!(outcome["detail"].as_str().unwrap().contains(&left_out), "{outcome}");
    assert_eq!(ga.endpoints(&groups[1]).len(), 1);
    // Its own reports count again: where it serves it may take out the lost site.
    let notes = sites.tags();
    assert_eq!((notes.len(), notes[0].0.as_str()), (1, "site-fence:site-b:rejoined"), "{notes:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_noted_twice_comes_back_once() {
    let sites = Sites::start().await;
    let [a, _] = sites.both();
    let note = format!("0123vx00/098765zyxw00 55 true {}", sites.balancer_b);
    sites.accelerators.put(
        Accelerator::new(LABEL)
            .tagged("site-fence:site-b", "2026-11-21T03:08:09Z site-a")
            .tagged("site-fence:site-b:0", &note)
            .tagged("site-fence:site-b:2", &note)
            .listener([Group::new(REGION, [a])]),
    );
    assert_eq!(rejoined(&sites, false).await.unwrap()["outcome"], "rejoined");
    assert_eq!((sites.in_service().len(), sites.tags().len()), (2, 1));
}
