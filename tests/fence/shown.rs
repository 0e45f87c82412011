//! What Global Accelerator shows may be from before, and what was decided may be over before it is done.

use crate::support::accelerator::{Accelerator, Endpoint, Fault, Group};
use crate::support::proxy::{self, Proxy};
use crate::support::sites::{
    ALONE, DNS_NAME, LABEL, REGION, Sites, alert, alert_since, fence, outcomes, outcomes_within, rejoin,
    take_out,
};
use chrono::{SecondsFormat, TimeDelta, Utc};
use failover::site_fence::SiteFence;
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(3);
/// How long a removal takes; the answer is waited for until 3 s.
const SLOW: Duration = Duration::from_millis(2500);
const BUSY: Fault = Fault::Error("TransactionInProgressException", "try again");

async fn with_table() -> (Sites, SiteFence) {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    (sites, system)
}

/// Three sites behind one listener, without Infinispan: the third one's load balancer comes last.
async fn of_three() -> (Sites, SiteFence, String) {
    let (sites, _) = with_table().await;
    let third = sites.balancer("site-c").await;
    let [a, b] = sites.both();
    let all = Group::new(REGION, [a, b, Endpoint::new(&third)]);
    sites.accelerators.put(Accelerator::new(LABEL).listener([all]));
    let system = sites.system(&[&ALONE[..], &[("FENCE_TABLE", &sites.table_name())]].concat());
    (sites, system, third)
}

fn request(site: &str) -> Value {
    json!({ "accelerator": DNS_NAME, "site": site })
}

#[tokio::test]
async fn a_removal_that_is_turned_away_is_decided_about_again() {
    for by_a_person in [false, true] {
        let sites = Sites::start().await;
        let (system, ga) = (sites.system(&[]), &sites.accelerators);
        // After the third try it is looked at again.
        for _ in 0..3 {
            ga.fail("RemoveEndpoints", BUSY);
        }
        ga.fail("ListEndpointGroups", Fault::meddle(|_| {}));
        let survivor = sites.balancer_a.clone();
        ga.fail("ListEndpointGroups", Fault::meddle(move |ga| ga.set_health(&survivor, "UNHEALTHY")));
        let said = if by_a_person {
            take_out(&system, "site-b").await
        } else {
            outcomes(&system, &alert("site-a", "site-b")).await.remove(0)
        };
        let refused = if by_a_person { "refused: survivor_unhealthy" } else { "refused: reporter_unhealthy" };
        assert_eq!(said, refused);
        assert_eq!(sites.in_service().len(), 2);
        assert!(sites.tags().is_empty(), "what was not removed is not noted");
    }
}

#[tokio::test]
async fn a_rejoin_between_two_tries_of_a_removal_ends_it() {
    for is_back in [true, false] {
        let sites = Sites::start().await;
        let (system, ga) = (sites.system(&[]), &sites.accelerators);
        let both = sites.both();
        let listeners = move |first: &[Endpoint]| {
            let first = [Group::new(REGION, first.to_vec())];
            Accelerator::new(LABEL).listener(first).listener([Group::new(REGION, both.clone())])
        };
        let all = listeners(&sites.both());
        let arns = all.group_arns();
        ga.put(all);
        // One listener is done, the other one is busy. Meanwhile a person rejoins the site by force.
        ga.fail("RemoveEndpoints", Fault::meddle(|_| {}));
        ga.fail("RemoveEndpoints", BUSY);
        for _ in 0..2 {
            ga.fail("ListTagsForResource", Fault::meddle(|_| {}));
        }
        let back = if is_back { sites.both().to_vec() } else { sites.both()[..1].to_vec() };
        let rejoined = Fault::meddle(move |ga| {
            let at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
            let accelerator = listeners(&back).tagged("site-fence:site-b:rejoined", &format!("{at} forced"));
            ga.put(accelerator);
        });
        ga.fail("ListTagsForResource", rejoined);
        let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
        assert_eq!(ga.endpoints(&arns[1]).len(), 2, "{body}");
        assert!(
            !sites.tags().iter().any(|(key, _)| key == "site-fence:site-b"),
            "it is no fence: {:?}",
            sites.tags()
        );
        if is_back {
            assert_eq!(status, 204, "{body}");
        } else {
            // The rejoin had looked before.
            let error = body["outcomes"][0]["error"].as_str().unwrap();
            let expected = format!("these may not be in service: {}: if", sites.balancer_b);
            assert!(status == 503 && error.contains(&expected), "{body}");
        }
    }
}

#[tokio::test]
async fn without_a_table_the_note_tells_that_a_site_may_only_still_be_shown() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    let tags = sites.tags();
    sites.accelerators.add(&crate::support::sites::group(), sites.both()[1].clone());
    for force in [false, true] {
        let request = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": force });
        let error = rejoin(&system, &request).await.unwrap_err();
        assert!(
            error.starts_with("\"site-b\" was taken out at ") && error.contains("by its note, and"),
            "{error}"
        );
        assert_eq!(sites.tags(), tags);
    }
}

#[tokio::test]
async fn nobody_is_left_where_the_other_site_receives_no_traffic() {
    let sites = Sites::start().await;
    let (system, ga) = (sites.system(&[]), &sites.accelerators);
    let [a, b] = sites.both();
    let drained = a.clone().weight(0);
    ga.fail(
        "RemoveEndpoints",
        Fault::meddle(move |ga| {
            ga.put(Accelerator::new(LABEL).listener([Group::new(REGION, [drained.clone(), b.clone()])]));
        }),
    );
    let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
    assert_eq!((status, &body["outcomes"][0]["errorType"]), (503, &json!("NobodyLeft")));
}

#[tokio::test]
async fn the_records_minute_begins_with_the_last_try_to_remove() {
    let (sites, system) = with_table().await;
    // The first may have been done, and the second one takes a while.
    sites.accelerators.fail("RemoveEndpoints", Fault::CloseBefore);
    sites.accelerators.fail("RemoveEndpoints", Fault::meddle(|_| std::thread::sleep(SLOW)));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    let entry = sites.entries().await.remove(0);
    let time = |key: &str| entry[key].parse::<chrono::DateTime<Utc>>().expect("a time");
    assert!(time("out") - time("at") >= TimeDelta::seconds(2), "{entry:?}");
}

#[tokio::test]
async fn of_three_sites_a_second_one_does_not_leave_within_the_minute_of_the_first_one() {
    let (sites, _) = with_table().await;
    let third = sites.balancer("site-c").await;
    let [a, b] = sites.both();
    let all = Group::new(REGION, [a, b, Endpoint::new(&third)]);
    let shown = || sites.accelerators.put(Accelerator::new(LABEL).listener([all.clone()]));
    shown();
    let system = sites.system(&[&ALONE[..], &[("FENCE_TABLE", &sites.table_name())]].concat());
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    shown();
    assert_eq!(outcomes_within(&system, &alert("site-c", "site-a"), SOON).await, ["failed: OtherReport"]);
    assert_eq!(sites.in_service().len(), 3);
}

#[tokio::test]
async fn of_three_sites_one_reporter_takes_out_one_also_where_no_note_has_room() {
    let (sites, system, third) = of_three().await;
    sites.accelerators.fail_always("TagResource", Fault::Error("LimitExceededException", "50 tags"));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    sites.age_entries(TimeDelta::minutes(5)).await;
    assert_eq!(outcomes(&system, &alert("site-a", "site-c")).await, ["refused: second_fence"]);
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str(), third.as_str()]);
}

#[tokio::test]
async fn of_three_sites_the_record_outlives_an_execution_that_dies() {
    let (sites, system, third) = of_three().await;
    let full = Fault::Error("LimitExceededException", "50 tags");
    sites.accelerators.fail_always("TagResource", full.clone());
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    sites.age_entries(TimeDelta::minutes(5)).await;
    sites.accelerators.fail_always("RemoveEndpoints", Fault::Hang);
    let event = alert("site-c", "site-a");
    let dies = outcomes_within(&system, &event, Duration::from_mins(1));
    let claimed = async {
        while sites.entries().await.remove(0)["site"] != "site-a" {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = dies => panic!("{ended:?}"),
        () = claimed => {}
    }
    sites.accelerators.recover();
    sites.accelerators.fail_always("TagResource", full);
    sites.age_entries(TimeDelta::minutes(5)).await;
    assert_eq!(outcomes(&system, &alert("site-a", "site-c")).await, ["refused: second_fence"]);
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str(), third.as_str()]);
}

/// Global Accelerator may show for a while what was before.
#[tokio::test]
async fn a_claim_that_arrives_late_takes_the_place_of_no_record_that_it_does_not_know() {
    let (sites, system) = with_table().await;
    sites.accelerators.fail_always("TagResource", Fault::Error("LimitExceededException", "50 tags"));
    let proxy = Proxy::start(&sites.aws.url).await;
    let slow =
        sites.system(&[("FENCE_TABLE", &sites.table_name()), ("AWS_ENDPOINT_URL_DYNAMODB", &proxy.url)]);
    proxy.only("PutItem", proxy::Fault::Held);
    let (by_a, by_b) = (alert("site-a", "site-b"), alert("site-b", "site-a"));
    let late = outcomes_within(&slow, &by_b, Duration::from_secs(8));
    let meanwhile = async {
        proxy.arrived("PutItem", 1).await;
        assert_eq!(outcomes(&system, &by_a).await, ["fenced"]);
        sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, sites.both())]));
        proxy.deliver().await;
        proxy.only("PutItem", proxy::Fault::None);
    };
    let (late, ()) = tokio::join!(late, meanwhile);
    assert_eq!(late, ["failed: OtherReport"]);
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn of_three_sites_one_that_another_took_out_by_the_record_is_not_the_reporters() {
    for (reporter, site, said) in
        [("site-a", "site-b", "fenced"), ("site-b", "site-a", "refused: second_fence")]
    {
        let (sites, _) = with_table().await;
        let third = sites.balancer("site-c").await;
        let [a, b] = sites.both();
        let all = Group::new(REGION, [a, b, Endpoint::new(&third)]);
        sites.accelerators.put(Accelerator::new(LABEL).listener([all]));
        // The endpoint is noted, and not by whom it is out.
        let full = || Fault::Error("LimitExceededException", "50 tags");
        sites
            .accelerators
            .fail("RemoveEndpoints", Fault::meddle(move |ga| ga.fail_always("TagResource", full())));
        let system = sites.system(&[&ALONE[..], &[("FENCE_TABLE", &sites.table_name())]].concat());
        assert_eq!(outcomes(&system, &alert("site-b", "site-c")).await, ["fenced"]);
        assert_eq!(sites.tags().len(), 1);
        sites.accelerators.recover();
        sites.age_entries(TimeDelta::minutes(5)).await;
        assert_eq!(outcomes(&system, &alert(reporter, site)).await, [said]);
    }
}

#[tokio::test]
async fn what_rests_on_a_site_being_out_waits_for_a_minute_after_its_rejoin() {
    for alone in [false, true] {
        let (sites, with_infinispan) = with_table().await;
        let system = if alone {
            sites.system(&[&ALONE[..], &[("FENCE_TABLE", &sites.table_name())]].concat())
        } else {
            with_infinispan
        };
        assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
        let (tags, group) = (sites.tags(), Group::new(REGION, [sites.both()[0].clone()]));
        assert_eq!(rejoin(&system, &request("site-b")).await.unwrap()["outcome"], "rejoined");
        // The accelerator as it was before.
        let before = tags.iter().fold(Accelerator::new(LABEL), |ga, (key, value)| ga.tagged(key, value));
        sites.accelerators.put(before.listener([group]));
        for (reporter, site) in [("site-a", "site-b"), ("site-b", "site-a")] {
            let said = outcomes_within(&system, &alert(reporter, site), SOON).await;
            assert_eq!(said, ["failed: OtherReport"], "{reporter}, {alone}");
        }
        assert_eq!(take_out(&system, "site-b").await, "failed: OtherReport");
        sites.age_entries(TimeDelta::seconds(50)).await;
        let own = async || outcomes_within(&system, &alert("site-b", "site-a"), SOON).await.remove(0);
        assert_eq!(own().await, "failed: OtherReport");
        // Also after a rejoin of the other one, and while another execution has the claim.
        let _ = rejoin(&system, &request("site-a")).await;
        assert_eq!(own().await, "failed: OtherReport");
        let entry = sites.entries().await.remove(0);
        let soon = (Utc::now() + TimeDelta::seconds(60)).to_rfc3339_opts(SecondsFormat::Secs, true);
        let claimed = [
            ("site", "site-b"),
            ("reporter", "site-a"),
            ("claim", "0"),
            ("ends", &soon),
            ("rejoins", &entry["rejoins"]),
        ];
        sites.put_entry(&claimed).await;
        assert_eq!(own().await, "failed: OtherReport");
        sites.age_entries(TimeDelta::minutes(1)).await;
        assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["refused: reporter_is_fenced"]);
    }
}

#[tokio::test]
async fn a_rejoin_of_the_site_that_stayed_does_not_end_the_minute_of_the_other_one() {
    let (sites, system) = with_table().await;
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, sites.both())]));
    let _ = rejoin(&system, &request("site-a")).await;
    assert_eq!(outcomes_within(&system, &alert("site-b", "site-a"), SOON).await, ["failed: OtherReport"]);
    assert_eq!(sites.in_service().len(), 2);
    // Nor, later, the record that it was taken out.
    sites.age_entries(TimeDelta::minutes(5)).await;
    let _ = rejoin(&system, &request("site-a")).await;
    assert_eq!(sites.entries().await[0]["reporter"], "site-a");
}

#[tokio::test]
async fn a_rejoin_that_is_under_way_or_has_failed_counts_as_one() {
    let (sites, system) = with_table().await;
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    let (tags, group) = (sites.tags(), Group::new(REGION, [sites.both()[0].clone()]));
    let before = || {
        let before = tags.iter().fold(Accelerator::new(LABEL), |ga, (key, value)| ga.tagged(key, value));
        sites.accelerators.put(before.listener([group.clone()]));
    };
    let own = async || outcomes_within(&system, &alert("site-b", "site-a"), SOON).await;
    assert_eq!(own().await, ["refused: reporter_is_fenced"]);
    let denied = Fault::Error("AccessDeniedException", "not authorized");
    sites.accelerators.fail("UntagResource", denied);
    assert!(rejoin(&system, &request("site-b")).await.is_err());
    before();
    assert_eq!(own().await, ["failed: OtherReport"]);
    // Its claim, as long as nothing says that it has ended.
    let soon = (Utc::now() + TimeDelta::seconds(60)).to_rfc3339_opts(SecondsFormat::Secs, true);
    sites.put_entry(&[("site", "site-b"), ("claim", "0"), ("ends", &soon)]).await;
    assert_eq!(own().await, ["failed: OtherReport"]);
}

#[tokio::test]
async fn a_take_out_that_stopped_goes_on_at_once() {
    let (sites, system) = with_table().await;
    let groups = || [Group::new(REGION, sites.both())];
    sites.accelerators.put(Accelerator::new(LABEL).listener(groups()).listener(groups()));
    let second = Fault::Error("AccessDeniedException", "not authorized");
    sites.accelerators.fail("RemoveEndpoints", Fault::meddle(|_| {}));
    sites.accelerators.fail("RemoveEndpoints", second);
    assert_eq!(take_out(&system, "site-b").await, "failed: AccessDenied");
    assert_eq!(take_out(&system, "site-b").await, "taken_out");
}

#[tokio::test]
async fn a_stale_site_that_was_put_back_by_hand_is_no_survivor() {
    let sites = Sites::start().await;
    let third = sites.balancer("site-c").await;
    let [a, _] = sites.both();
    let system = sites.system(&ALONE);
    let all = Group::new(REGION, [a.health("UNHEALTHY"), Endpoint::new(&third)]);
    let at = "2026-11-26T03:00:00Z";
    let fenced = Accelerator::new(LABEL)
        .tagged("site-fence:site-b", &format!("{at} site-a"))
        .tagged("site-fence:site-c", &format!("{at} site-a"));
    sites.accelerators.put(fenced.listener([all]));
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["refused: survivor_unhealthy"]);
}

#[tokio::test]
async fn a_claim_lasts_as_long_as_its_execution_and_none_lasts_for_ever() {
    let (sites, system) = with_table().await;
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    sites.accelerators.fail_always("UntagResource", Fault::Hang);
    let again = request("site-b");
    let rejoining = rejoin(&system, &again);
    let seen = async {
        loop {
            let entry = sites.entries().await.remove(0);
            if !entry.contains_key("reporter") {
                return entry;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let entry = tokio::select! {
        entry = seen => entry,
        done = rejoining => panic!("{done:?}"),
    };
    let time = |key: &str| entry[key].parse::<chrono::DateTime<Utc>>().expect("a time");
    // The tests' invocations have 20 s, and a claim a minute and a half more.
    assert!(time("ends") - time("at") >= TimeDelta::seconds(105), "{entry:?}");

    // Whatever time its invocation has.
    let (sites, system) = with_table().await;
    assert_eq!(
        outcomes_within(&system, &alert("site-a", "site-b"), Duration::from_mins(15)).await,
        ["fenced"]
    );
    let removed = Utc::now();
    sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, sites.both())]));
    sites.age_entries(TimeDelta::minutes(2)).await;
    sites.accelerators.fail_always("RemoveEndpoints", Fault::Hang);
    let again = alert("site-a", "site-b");
    let long = outcomes_within(&system, &again, Duration::from_mins(15));
    let seen = async {
        loop {
            let entry = sites.entries().await.remove(0);
            if !entry.contains_key("out") {
                return entry["ends"].parse::<chrono::DateTime<Utc>>().expect("a time");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ends = tokio::select! {
        ends = seen => ends,
        done = long => panic!("{done:?}"),
    };
    assert!(ends - removed <= TimeDelta::seconds(160), "{ends}");

    // A clock that is ahead by some seconds makes no record void.
    let (sites, system) = with_table().await;
    let ahead = (Utc::now() + TimeDelta::seconds(20)).to_rfc3339_opts(SecondsFormat::Secs, true);
    let past = (Utc::now() - TimeDelta::seconds(1)).to_rfc3339_opts(SecondsFormat::Secs, true);
    sites.put_entry(&[("site", "site-a"), ("claim", "0"), ("out", &ahead), ("ends", &past)]).await;
    assert_eq!(outcomes_within(&system, &alert("site-a", "site-b"), SOON).await, ["failed: OtherReport"]);

    let written = |at: chrono::DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let (now, later) = (written(Utc::now()), written(Utc::now() + TimeDelta::hours(1)));
    for entry in [
        &[
            ("site", "site-a"),
            ("reporter", "site-b"),
            ("at", &now),
            ("claim", "0"),
            ("ends", "2099-01-01T00:00:00Z"),
        ][..],
        &[("site", "site-a"), ("reporter", "site-b"), ("at", &now), ("claim", "0"), ("ends", &later)],
        &[("site", "site-a"), ("reporter", "site-b"), ("at", &now), ("claim", "0"), ("ends", "soon")],
        &[("site", "site-a"), ("reporter", "site-b"), ("at", "2099-01-01T00:00:00Z"), ("claim", "0")],
        &[("site", "site-a"), ("out", "2099-01-01T00:00:00Z"), ("ends", &now)],
        &[("site", "site-a"), ("out", &written(Utc::now() + TimeDelta::seconds(90))), ("ends", &now)],
        &[],
    ] {
        let (sites, system) = with_table().await;
        sites.put_entry(entry).await;
        assert_eq!(outcomes_within(&system, &alert("site-a", "site-b"), SOON).await, ["fenced"], "{entry:?}");
    }
}

#[tokio::test]
async fn of_two_listeners_a_survivor_has_to_be_healthy_in_both() {
    let sites = Sites::start().await;
    let system = sites.system(&ALONE);
    let groups = || [Group::new(REGION, sites.both())];
    sites.accelerators.put(Accelerator::new(LABEL).listener(groups()).listener(groups()));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    let group = Accelerator::new(LABEL).listener(groups()).listener(groups()).group_arns().remove(1);
    let own = async || outcomes(&system, &alert("site-b", "site-a")).await.remove(0);
    assert_eq!(own().await, "refused: reporter_is_fenced");
    let unhealthy = sites.both()[0].clone().health("UNHEALTHY");
    sites.accelerators.remove_from(&group, &sites.balancer_a);
    sites.accelerators.add(&group, unhealthy);
    assert_eq!(own().await, "refused: survivor_unhealthy");
    // It is gone from one, then from all.
    sites.accelerators.remove_from(&group, &sites.balancer_a);
    assert_eq!(own().await, "refused: survivor_unhealthy");
    sites.accelerators.remove(&sites.balancer_a);
    assert_eq!(own().await, "refused: survivor_unhealthy");
}

#[tokio::test]
async fn a_listener_that_was_made_anew_is_served_by_who_is_in_it() {
    let sites = Sites::start().await;
    let system = sites.system(&ALONE);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    let tags = sites.tags();
    // Its note names the listener of before, and another one has taken its place.
    let group = || Group::new(REGION, [sites.both()[0].clone()]);
    let anew = tags.iter().fold(Accelerator::new(LABEL), |ga, (key, value)| {
        ga.tagged(key, &value.replace("0123vx00", "0123vx99"))
    });
    sites.accelerators.put(anew.listener([group()]));
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["refused: reporter_is_fenced"]);
}

#[tokio::test]
async fn a_named_endpoint_whose_load_balancer_is_gone_is_left_out_of_a_rejoin() {
    let sites = Sites::start().await;
    let gone = "arn:aws:elasticloadbalancing:us-east-1:000000000000:loadbalancer/app/gone/50dc6c495c0c9188";
    let map = json!({ "site-a": [sites.balancer_a], "site-b": [gone] }).to_string();
    let system = sites.system(&[&ALONE[..], &[("ACCELERATOR_SITE_ENDPOINTS", map.as_str())]].concat());
    let group = Group::new(REGION, [sites.both()[0].clone()]);
    let noted = format!("0123vx00/098765zyxw00 55 true {gone}");
    sites.accelerators.put(Accelerator::new(LABEL).tagged("site-fence:site-b:0", &noted).listener([group]));
    let refused = rejoin(&system, &request("site-b")).await.unwrap();
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("no longer exist")), "{refused}");
}

#[tokio::test]
async fn a_fenced_site_that_was_put_in_the_others_place_takes_out_none() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    sites.accelerators.add(&crate::support::sites::group(), sites.both()[1].clone());
    sites.accelerators.remove(&sites.balancer_a);
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["refused: reporter_was_fenced"]);
    assert_eq!(sites.b.status("site-a"), "online");
    // With the good site back, its report counts.
    sites.accelerators.add(&crate::support::sites::group(), sites.both()[0].clone());
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
}

#[tokio::test]
async fn a_rejoin_that_finds_everything_in_its_place_is_noted_all_the_same() {
    for alone in [false, true] {
        let sites = Sites::start().await;
        let system = sites.system(if alone { &ALONE } else { &[] });
        let began = Utc::now() - TimeDelta::minutes(5);
        let dry = json!({ "accelerator": DNS_NAME, "site": "site-b", "dryRun": true });
        assert_eq!(rejoin(&system, &dry).await.unwrap()["outcome"], "already_rejoined");
        assert!(sites.tags().is_empty());
        assert_eq!(rejoin(&system, &request("site-b")).await.unwrap()["outcome"], "already_rejoined");
        let old = outcomes(&system, &alert_since(began, "site-a", "site-b")).await;
        assert_eq!(old, [if alone { "refused: rejoined_since" } else { "ignored: older_than_rejoin" }]);
        assert_eq!(sites.in_service().len(), 2);
    }
}

#[tokio::test]
async fn endpoints_that_the_configuration_names_need_no_load_balancer_that_answers() {
    let sites = Sites::start().await;
    let map = json!({ "site-a": [sites.balancer_a], "site-b": [sites.balancer_b] }).to_string();
    let changes = [
        &ALONE[..],
        &[
            ("ACCELERATOR_SITE_ENDPOINTS", map.as_str()),
            ("AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2", "http://127.0.0.1:9"),
        ],
    ];
    let system = sites.system(&changes.concat());
    assert_eq!(outcomes_within(&system, &alert("site-a", "site-b"), SOON).await, ["fenced"]);
}
