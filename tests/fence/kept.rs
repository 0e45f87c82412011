//! Notes of an earlier removal are no facts of the present one: a rejoin by force keeps no more of them than it needs.

use std::time::Duration;

use crate::support::accelerator::{Accelerator, Accelerators, Endpoint, Fault, Group};
use crate::support::infinispan;
use crate::support::sites::{
    DNS_NAME, LABEL, REGION, Sites, alert, alert_since, fence_within, group, outcomes, rejoin, rejoin_within,
    take_out,
};
use chrono::{TimeDelta, Utc};
use serde_json::json;

const PAUSED: &str = "refused: paused";
const BY: (&str, &str) = ("site-fence:site-b", "2026-11-21T03:08:09Z site-a");
const FORCED: (&str, &str) = ("site-fence:site-b:rejoined", "2026-11-21T04:10:00Z forced");

/// A report that is newer than all notes.
fn report(reporter: &str, site: &str) -> String {
    alert_since(Utc::now(), reporter, site)
}

/// A pause of all sites.
fn paused(accelerator: Accelerator) -> Accelerator {
    let until = (Utc::now() + TimeDelta::hours(1)).format("%Y-%m-%dT%H:%M:%SZ upgrade");
    accelerator.tagged("site-fence-paused:+all", &until.to_string())
}

/// The note of an endpoint in the first group of this listener.
fn note(listener: &str, group: &str, endpoint: &str) -> String {
    format!("{listener}/{group} 55 default {endpoint}")
}

fn two(endpoints: &[Endpoint]) -> Accelerator {
    let group = || [Group::new(REGION, endpoints.to_vec())];
    Accelerator::new(LABEL).listener(group()).listener(group())
}

/// The notes of a site's endpoints in both listeners, as an earlier version left them after a rejoin by force.
fn noted(accelerator: Accelerator, endpoint: &str) -> Accelerator {
    let places: Vec<_> = accelerator.group_arns().iter().map(|arn| place(arn)).collect();
    let tagged = accelerator.tagged(BY.0, BY.1).tagged(FORCED.0, FORCED.1);
    places.iter().enumerate().fold(tagged, |accelerator, (n, (listener, group))| {
        accelerator.tagged(&format!("site-fence:site-b:{n}"), &note(listener, group, endpoint))
    })
}

fn place(group: &str) -> (String, String) {
    let (_, place) = group.split_once("/listener/").unwrap();
    let (listener, group) = place.split_once("/endpoint-group/").unwrap();
    (listener.to_owned(), group.to_owned())
}

fn keys(sites: &Sites) -> Vec<String> {
    sites.tags().into_iter().map(|(key, _)| key).collect()
}

/// A fence of site-b, and its rejoin by force while site-a does not answer.
async fn forced(sites: &Sites) {
    let system = sites.system(&[]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    sites.a.fail_always("status", infinispan::Fault::CloseBefore);
    let force = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
    let outcome = rejoin_within(&system, &force, Duration::from_secs(3)).await.unwrap();
    assert_eq!(outcome["outcome"], "rejoined");
    sites.a.recover();
}

/// Another load balancer of the site takes the place of its only one.
async fn replaced(sites: &Sites) -> Endpoint {
    let other = sites.balancer("other").await;
    sites.tag_balancer(&other, "site-b").await;
    Endpoint::new(&other)
}

#[tokio::test]
async fn a_pause_holds_for_a_site_that_was_rejoined_by_force_and_has_other_endpoints_since() {
    let sites = Sites::start().await;
    let [a, b] = sites.both();
    let other = replaced(&sites).await;
    // In another group, so that none of the site's endpoints is left in the noted one.
    let accelerator = Accelerator::new(LABEL)
        .listener([Group::new(REGION, [a.clone()])])
        .listener([Group::new(REGION, [a, other])]);
    sites.accelerators.put(paused(noted(accelerator, &b.id)));
    assert_eq!(outcomes(&sites.system(&[]), &report("site-a", "site-b")).await, [PAUSED]);
    assert_eq!(sites.a.status("site-b"), "online");
}

#[tokio::test]
async fn a_pause_holds_where_a_load_balancer_is_replaced_whose_removal_was_given_up() {
    let sites = Sites::start().await;
    let [a, b] = sites.both();
    let accelerator = Accelerator::new(LABEL).listener([Group::new(REGION, [a, replaced(&sites).await])]);
    let (listener, group) = place(&accelerator.group_arns()[0]);
    let accelerator = accelerator.tagged("site-fence:site-b:0", &note(&listener, &group, &b.id));
    sites.accelerators.put(paused(accelerator));
    assert_eq!(outcomes(&sites.system(&[]), &report("site-a", "site-b")).await, [PAUSED]);
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn a_pause_holds_where_the_planned_work_takes_the_endpoints_away_for_a_moment() {
    for with_note in [false, true] {
        let sites = Sites::start().await;
        let [a, b] = sites.both();
        let accelerator = paused(Accelerator::new(LABEL).listener([Group::new(REGION, [a])]));
        sites.accelerators.put(if with_note { noted(accelerator, &b.id) } else { accelerator });
        let tags = sites.tags();
        assert_eq!(outcomes(&sites.system(&[]), &report("site-a", "site-b")).await, [PAUSED]);
        assert_eq!((sites.tags(), sites.a.status("site-b").as_str()), (tags, "online"));
    }
}

#[tokio::test]
async fn of_three_sites_one_that_was_rejoined_by_force_and_is_half_out_again_is_the_one_of_its_reporter() {
    // A rejoin without force that has not ended leaves such a note as well.
    for rejoined in [FORCED.1, "2026-11-21T04:10:00Z"] {
        let sites = Sites::start().await;
        let (system, ga) = (sites.system(&[]), &sites.accelerators);
        let third = sites.balancer("site-c").await;
        let [a, b] = sites.both();
        let id = b.id.clone();
        ga.put(noted(two(&[a, b, Endpoint::new(&third)]), &id).tagged(FORCED.0, rejoined));
        sites.a.put("site-c", &["work"]);
        let busy = Fault::Error("TransactionInProgressException", "try again");
        let then_busy =
            Fault::meddle(move |ga: &Accelerators| ga.fail_always("RemoveEndpoints", busy.clone()));
        ga.fail("RemoveEndpoints", then_busy);
        let (status, body) = fence_within(&system, &report("site-a", "site-b"), Duration::from_secs(8)).await;
        assert_eq!(status, 503, "{body}");
        ga.recover();
        assert_eq!(outcomes(&system, &report("site-a", "site-c")).await, ["refused: second_fence"]);
        assert_eq!(outcomes(&system, &report("site-a", "site-b")).await, ["fenced"]);
    }
}

#[tokio::test]
async fn a_second_rejoin_does_not_add_what_a_person_has_replaced_since_the_one_by_force() {
    let sites = Sites::start().await;
    Box::pin(forced(&sites)).await;
    // The site waits for the other one.
    assert_eq!(keys(&sites), [BY.0, FORCED.0]);
    let other = replaced(&sites).await;
    sites.accelerators.remove(&sites.balancer_b);
    sites.accelerators.add(&group(), other.clone());
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    assert_eq!(rejoin(&sites.system(&[]), &request).await.unwrap()["outcome"], "rejoined");
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str(), other.id.as_str()]);
    assert_eq!((sites.a.status("site-b").as_str(), keys(&sites)), ("online", vec![FORCED.0.to_owned()]));
}

#[tokio::test]
async fn what_a_rejoin_by_force_could_not_add_stays_noted_and_the_next_one_adds_it() {
    let sites = Sites::start().await;
    let ga = &sites.accelerators;
    let accelerator = two(&sites.both());
    let groups = accelerator.group_arns();
    ga.put(accelerator);
    let system = sites.system(&[]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    sites.a.fail_always("status", infinispan::Fault::CloseBefore);
    // That of the second group.
    ga.fail("AddEndpoints", Fault::meddle(|_| {}));
    ga.fail("AddEndpoints", Fault::Error("AccessDeniedException", "not authorized"));
    let force = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
    let outcome = rejoin_within(&system, &force, Duration::from_secs(3)).await.unwrap();
    assert_eq!(outcome["outcome"], "rejoined", "{outcome}");
    assert_eq!([ga.endpoints(&groups[0]).len(), ga.endpoints(&groups[1]).len()], [2, 1]);
    assert_eq!(keys(&sites), [BY.0, "site-fence:site-b:1", FORCED.0]);
    sites.a.recover();
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    assert_eq!((ga.endpoints(&groups[1]).len(), keys(&sites)), (2, vec![FORCED.0.to_owned()]));
}

#[tokio::test]
async fn the_note_of_an_endpoint_whose_group_was_made_anew_goes_with_a_rejoin_by_force() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let gone = format!("0123vx00/gone 55 true {}", sites.balancer_b);
    let accelerator = Accelerator::new(LABEL).tagged(BY.0, BY.1).tagged("site-fence:site-b:0", &gone);
    sites.accelerators.put(accelerator.listener([Group::new(REGION, [sites.both()[0].clone()])]));
    sites.a.fail_always("status", infinispan::Fault::CloseBefore);
    let force = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
    let outcome = rejoin_within(&system, &force, Duration::from_secs(3)).await.unwrap();
    assert_eq!(outcome["outcome"], "rejoined", "{outcome}");
    assert_eq!((sites.in_service().len(), keys(&sites)), (2, vec![BY.0.to_owned(), FORCED.0.to_owned()]));
}

#[tokio::test]
async fn a_listener_that_was_emptied_since_a_rejoin_by_force_is_none_of_the_next_removal() {
    let sites = Sites::start().await;
    let accelerator = two(&sites.both());
    let groups = accelerator.group_arns();
    sites.accelerators.put(accelerator);
    Box::pin(forced(&sites)).await;
    for endpoint in sites.both() {
        sites.accelerators.remove_from(&groups[1], &endpoint.id);
    }
    let system = sites.system(&[]);
    assert_eq!(outcomes(&system, &report("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(outcomes(&system, &report("site-b", "site-a")).await, ["refused: reporter_is_fenced"]);
}

#[tokio::test]
async fn a_site_whose_rejoin_has_not_ended_is_still_the_one_of_its_reporter_and_of_no_other() {
    let sites = Sites::start().await;
    let (system, ga) = (sites.system(&[]), &sites.accelerators);
    let third = sites.balancer("site-c").await;
    let [a, b] = sites.both();
    // It died between its note and the endpoints.
    let accelerator =
        noted(Accelerator::new(LABEL).listener([Group::new(REGION, [a, Endpoint::new(&third)])]), &b.id);
    ga.put(accelerator.tagged(FORCED.0, "2026-11-21T04:10:00Z"));
    sites.a.put("site-c", &["work"]);
    assert_eq!(outcomes(&system, &report("site-a", "site-c")).await, ["refused: second_fence"]);
    // Infinispan of this one is no part of the configuration.
    let system = sites.system(&[
        ("INFINISPAN_SITE_ENDPOINTS", ""),
        ("INFINISPAN_USER", ""),
        ("INFINISPAN_USER_SECRET", ""),
        ("INFINISPAN_CA_CERT", ""),
    ]);
    assert_eq!(outcomes(&system, &report("site-c", "site-a")).await, ["fenced"]);
}

#[tokio::test]
async fn a_rejoin_that_cannot_end_makes_nothing_of_a_rejoin_by_force_void() {
    let sites = Sites::start().await;
    Box::pin(forced(&sites)).await;
    let (system, tags) = (sites.system(&[]), sites.tags());
    sites.accelerators.fail_always("UntagResource", Fault::Error("AccessDeniedException", "not authorized"));
    let request = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    let error = rejoin(&system, &request).await.unwrap_err();
    assert!(error.contains("UntagResource"), "{error}");
    // Only its time is another.
    assert_eq!((&sites.tags()[0], keys(&sites)), (&tags[0], vec![BY.0.to_owned(), FORCED.0.to_owned()]));
    assert!(sites.tags()[1].1.ends_with(" forced"), "{:?}", sites.tags());
    sites.accelerators.recover();
    // It reports the other one, which is lost, as before.
    sites.accelerators.set_health(&sites.balancer_b, "HEALTHY");
    assert_eq!(outcomes(&system, &report("site-b", "site-a")).await, ["fenced"]);
}

/// It may be stale until its rejoin has ended.
#[tokio::test]
async fn a_removal_that_fails_leaves_a_site_whose_rejoin_has_not_ended_without_a_say() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let group = Group::new(REGION, sites.both());
    let unended = noted(Accelerator::new(LABEL).listener([group]), &sites.balancer_b);
    sites.accelerators.put(unended.tagged(FORCED.0, "2026-11-21T04:10:00Z"));
    let denied = Fault::Error("AccessDeniedException", "not authorized");
    sites.accelerators.fail_always("RemoveEndpoints", denied);
    assert_eq!(outcomes(&system, &report("site-a", "site-b")).await, ["failed: AccessDenied"]);
    sites.accelerators.recover();
    assert_eq!(outcomes(&system, &report("site-b", "site-a")).await, ["refused: reporter_was_fenced"]);
    // Nor does it need the permission to remove a note.
    sites.accelerators.fail_always("UntagResource", Fault::Error("AccessDeniedException", "not authorized"));
    assert_eq!(outcomes(&system, &report("site-a", "site-b")).await, ["fenced"]);
}

#[tokio::test]
async fn notes_about_a_group_that_is_gone_show_no_removal() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let third = sites.balancer("site-c").await;
    let put = |accelerator: Accelerator| {
        let gone = format!("0123vx00/gone 55 true {}", sites.balancer_b);
        let endpoints = [&sites.both()[..], &[Endpoint::new(&third)]].concat();
        let group = Group::new(REGION, endpoints);
        sites.accelerators.put(accelerator.tagged("site-fence:site-b:0", &gone).listener([group]));
    };
    sites.a.put("site-c", &["work"]);
    put(paused(Accelerator::new(LABEL)));
    assert_eq!(outcomes(&system, &report("site-a", "site-b")).await, [PAUSED]);
    put(Accelerator::new(LABEL));
    assert_eq!(outcomes(&system, &report("site-a", "site-c")).await, ["fenced"]);
}

#[tokio::test]
async fn a_removal_that_fails_at_once_leaves_the_note_of_the_rejoin_by_force() {
    let sites = Sites::start().await;
    Box::pin(forced(&sites)).await;
    let tags = sites.tags();
    sites.accelerators.fail("RemoveEndpoints", Fault::Error("AccessDeniedException", "not authorized"));
    let said = outcomes(&sites.system(&[]), &report("site-a", "site-b")).await;
    assert_eq!((said, sites.tags()), (vec!["failed: AccessDenied".to_owned()], tags));
}

#[tokio::test]
async fn a_removal_that_fails_leaves_that_note_also_where_endpoints_were_noted_before() {
    let sites = Sites::start().await;
    sites.accelerators.put(noted(two(&sites.both()), &sites.balancer_b));
    let before = keys(&sites);
    sites.accelerators.fail("RemoveEndpoints", Fault::Error("AccessDeniedException", "not authorized"));
    let said = outcomes(&sites.system(&[]), &report("site-a", "site-b")).await;
    assert_eq!(said, ["failed: AccessDenied"]);
    let by = sites.tags().into_iter().find(|(key, _)| key == BY.0).map(|(_, value)| value);
    assert!(keys(&sites) == before && by.is_some_and(|by| by.ends_with(" site-a")), "{:?}", sites.tags());
}

/// An endpoint that is not back is noted of the rejoin by force before this removal, or of the one without that has not ended.
#[tokio::test]
async fn a_removal_that_fails_leaves_the_notes_as_they_were_whatever_was_noted_before() {
    let gone = "arn:aws:elasticloadbalancing:us-east-1:000000000000:loadbalancer/net/gone/0123456789abcdef";
    for rejoined in [FORCED.1, "2026-11-21T04:10:00Z"] {
        for by_a_person in [false, true] {
            let sites = Sites::start().await;
            let accelerator = two(&sites.both());
            let (listener, group) = place(&accelerator.group_arns()[0]);
            let left = accelerator
                .tagged(BY.0, "2026-11-21T03:08:09.000Z site-a")
                .tagged(FORCED.0, rejoined)
                .tagged("site-fence:site-b:1", &note(&listener, &group, gone));
            sites.accelerators.put(left);
            let values = |sites: &Sites| {
                let values = sites.tags().into_iter().map(|(_, value)| value);
                values.collect::<std::collections::BTreeSet<_>>()
            };
            let before = values(&sites);
            let denied = Fault::Error("AccessDeniedException", "not authorized");
            sites.accelerators.fail_always("RemoveEndpoints", denied);
            let said = if by_a_person {
                take_out(&sites.system(&[]), "site-b").await
            } else {
                outcomes(&sites.system(&[]), &report("site-a", "site-b")).await.remove(0)
            };
            assert_eq!((said.as_str(), values(&sites)), ("failed: AccessDenied", before), "{rejoined}");
        }
    }
}

#[tokio::test]
async fn a_removal_that_fails_brings_no_note_back_that_a_rejoin_has_removed_meanwhile() {
    let sites = Sites::start().await;
    Box::pin(forced(&sites)).await;
    // A person's rejoin without force, when this removal is about to remove the note of the one before.
    let now = Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let group = Group::new(REGION, sites.both());
    let rejoined = Accelerator::new(LABEL).dual_stack().listener([group]).tagged(FORCED.0, &now);
    let rejoins = Fault::meddle(move |accelerators| accelerators.put(rejoined.clone()));
    sites.accelerators.fail("UntagResource", rejoins);
    sites.accelerators.fail("RemoveEndpoints", Fault::Error("AccessDeniedException", "not authorized"));
    let said = outcomes(&sites.system(&[]), &report("site-a", "site-b")).await;
    assert_eq!((said, keys(&sites)), (vec!["failed: AccessDenied".to_owned()], vec![FORCED.0.to_owned()]));
}

#[tokio::test]
async fn a_rejoin_waits_also_where_only_one_listener_still_shows_a_site_that_was_taken_out() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let [a, b] = sites.both();
    let accelerator = two(&[a, b.clone()]);
    let groups = accelerator.group_arns();
    sites.accelerators.put(accelerator);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    let tags = sites.tags();
    sites.accelerators.add(&groups[1], b);
    for force in [false, true] {
        let request = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": force });
        let error = rejoin(&system, &request).await.unwrap_err();
        assert!(error.contains("by its note, and Global Accelerator may still show"), "{error}");
        assert_eq!((sites.accelerators.endpoints(&groups[0]).len(), sites.tags()), (1, tags.clone()));
    }
}
