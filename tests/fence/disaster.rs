//! What must not happen on the worst day: the stale site serves alone, a dead execution blocks the only live reporter, a
//! dead survivor is not reported, an old notification fences.

use std::sync::Arc;
use std::time::Duration;

use crate::support::accelerator::{Accelerator, Accelerators, Endpoint, Fault, Group};
use crate::support::infinispan;
use crate::support::proxy::{self, Proxy};
use crate::support::sites::{
    DNS_NAME, INFINISPAN_PASSWORD, LABEL, REGION, Sites, alert, alert_since, fence, fence_within, outcomes,
    outcomes_within, rejoin, rejoin_within, take_out, take_out_within,
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use failover::remote::deadline::Deadline;
use failover::site_fence::{Handler, SiteFence};
use serde_json::{Value, json};
use tokio::sync::Notify;

fn request(site: &str) -> Value {
    json!({ "accelerator": DNS_NAME, "site": site })
}

fn ago(minutes: i64) -> DateTime<Utc> {
    Utc::now() - TimeDelta::minutes(minutes)
}

// === A rejoin that comes too early ===

#[tokio::test]
async fn a_site_is_not_rejoined_while_the_sites_do_not_see_each_other() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    for one_sided in [true, false] {
        sites.a.cut_off(!one_sided);
        sites.b.cut_off(true);
        outcomes(&system, &alert("site-a", "site-b")).await;
        let outcome = rejoin(&system, &request("site-b")).await.unwrap();
        assert_eq!(
            (&outcome["outcome"], &outcome["reason"]),
            (&json!("refused"), &json!("sites_disconnected"))
        );
        assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
        // `bring-online` would make the writes of the site that serves fail.
        assert_eq!(sites.a.status("site-b"), "offline");
        // The fenced site's repeated alert does not take out the site that serves.
        assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["refused: reporter_is_fenced"]);
        assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    }
    sites.a.cut_off(false);
    sites.b.cut_off(false);
    assert_eq!(rejoin(&system, &request("site-b")).await.unwrap()["outcome"], "rejoined");
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn a_node_that_does_not_know_what_it_sees_is_asked_again() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    outcomes(&system, &alert("site-a", "site-b")).await;
    sites.a.fail("view", infinispan::Fault::Status(200, r#"{ "relay_node": false, "sites_view": [] }"#));
    sites.a.fail("view", infinispan::Fault::CloseBefore);
    assert_eq!(rejoin(&system, &request("site-b")).await.unwrap()["outcome"], "rejoined");
    outcomes(&system, &alert("site-a", "site-b")).await;
    sites.a.fail_always("view", infinispan::Fault::Status(200, "{}"));
    let error = rejoin_within(&system, &request("site-b"), Duration::from_secs(3)).await.unwrap_err();
    assert!(error.contains("the node that answered does not know which sites it sees"), "{error}");
    assert!(error.contains("set maxRelayNodes"), "{error}");
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
}

#[tokio::test]
async fn a_dry_run_shows_before_any_fence_whether_a_rejoin_would_be_answered() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let dry = json!({ "accelerator": DNS_NAME, "site": "site-b", "dryRun": true });
    assert_eq!(rejoin(&system, &dry).await.unwrap()["outcome"], "already_rejoined");
    for site in [&sites.a, &sites.b] {
        site.fail_always(
            "view",
            infinispan::Fault::Status(200, r#"{ "relay_node": false, "sites_view": [] }"#),
        );
        let error = rejoin_within(&system, &dry, Duration::from_secs(3)).await.unwrap_err();
        assert!(error.contains("set maxRelayNodes"), "{error}");
        // A rejoin that finds nothing to do needs no answer.
        assert_eq!(rejoin(&system, &request("site-b")).await.unwrap()["outcome"], "already_rejoined");
        site.recover();
    }
    sites.b.cut_off(true);
    let outcome = rejoin(&system, &dry).await.unwrap();
    assert_eq!((&outcome["outcome"], &outcome["reason"]), (&json!("refused"), &json!("sites_disconnected")));
}

#[tokio::test]
async fn a_person_may_force_a_rejoin_and_its_partner_does_not_undo_it() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let split = ago(10);
    outcomes(&system, &alert_since(split, "site-a", "site-b")).await;
    sites.a.cut_off(true);
    sites.b.cut_off(true);
    let forced = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
    let outcome = rejoin(&system, &forced).await.unwrap();
    assert_eq!(outcome["outcome"], "rejoined");
    assert_eq!(outcome["detail"], "not replicated to: site-a does not see site-b");
    assert_eq!((sites.in_service().len(), sites.a.status("site-b").as_str()), (2, "offline"));
    let old = alert_since(split, "site-a", "site-b");
    let (status, body) = fence(&system, &old).await;
    assert_eq!((status, &body["outcomes"][0]["reason"]), (503, &json!("rejoined_by_force")));
    // The report of the site that a person chose counts, although it is from before that.
    sites.accelerators.set_health(&sites.balancer_b, "HEALTHY");
    assert_eq!(outcomes(&system, &alert_since(split, "site-b", "site-a")).await, ["fenced"]);
    assert_eq!(sites.in_service(), [sites.balancer_b.as_str()]);
}

#[tokio::test]
async fn a_site_whose_note_cannot_be_read_counts_as_taken_out_until_a_rejoin() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let damaged = Accelerator::new(LABEL).tagged("site-fence:site-b", "yesterday");
    sites.accelerators.put(damaged.listener([Group::new(REGION, sites.both())]));
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["refused: reporter_was_fenced"]);
    assert_eq!(rejoin(&system, &request("site-b")).await.unwrap()["outcome"], "rejoined");
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["fenced"]);
}

#[tokio::test]
async fn a_site_that_was_put_back_without_a_rejoin_takes_out_no_other() {
    let sites = Sites::start().await;
    sites.table().await;
    for table in [String::new(), sites.table_name()] {
        let system = sites.system(&[("FENCE_TABLE", &table)]);
        sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, sites.both())]));
        outcomes(&system, &alert("site-a", "site-b")).await;
        // Infrastructure as code puts the endpoint back while the split lasts.
        let group = crate::support::sites::group();
        sites.accelerators.add(&group, sites.both()[1].clone());
        let (status, body) = fence(&system, &alert("site-b", "site-a")).await;
        assert_eq!((status, &body["outcomes"][0]["reason"]), (503, &json!("reporter_was_fenced")));
        assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
        assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
        assert_eq!(rejoin(&system, &request("site-b")).await.unwrap()["outcome"], "rejoined");
        sites.accelerators.set_health(&sites.balancer_b, "HEALTHY");
        assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["fenced"]);
    }
}

#[tokio::test]
async fn a_fence_whose_answer_is_lost_is_noted_whatever_follows_it() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let group = crate::support::sites::group();
    for is_second in [false, true] {
        if is_second {
            // The note of the fence before is left by a rejoin by force.
            sites.accelerators.remove(&sites.balancer_b);
            let forced = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
            assert_eq!(rejoin(&system, &forced).await.unwrap()["outcome"], "rejoined");
        }
        sites.accelerators.set_health(&sites.balancer_b, "HEALTHY");
        sites.accelerators.fail("RemoveEndpoints", Fault::CloseAfter);
        sites.a.set_online("site-b", "work", true);
        sites.a.fail_always("take-offline", infinispan::Fault::Status(500, "{}"));
        let event = alert("site-a", "site-b");
        let (status, body) = fence_within(&system, &event, Duration::from_secs(4)).await;
        assert_eq!(status, 503, "{body}");
        sites.a.recover();
        // Infrastructure as code puts the endpoint back before the report comes again.
        sites.accelerators.add(&group, sites.both()[1].clone());
        let (status, body) = fence(&system, &alert("site-b", "site-a")).await;
        assert_eq!((status, &body["outcomes"][0]["reason"]), (503, &json!("reporter_was_fenced")));
        assert_eq!(sites.in_service().len(), 2);
    }
}

#[tokio::test]
async fn a_person_does_not_take_out_the_good_site_beside_a_stale_one_or_a_site_that_is_unknown() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let take_out = async |site: &str| take_out(&system, site).await;
    assert_eq!(take_out("site-bb").await, "refused: site_unknown");
    outcomes(&system, &alert("site-a", "site-b")).await;
    assert_eq!(take_out("site-b").await, "already_out");
    sites.accelerators.add(&crate::support::sites::group(), sites.both()[1].clone());
    assert_eq!(take_out("site-a").await, "refused: reporter_was_fenced");
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn a_report_that_is_repeated_during_a_rejoin_does_not_undo_it() {
    for with_table in [true, false] {
        Box::pin(during_a_rejoin(with_table)).await;
    }
}

async fn during_a_rejoin(with_table: bool) {
    let sites = Sites::start().await;
    sites.table().await;
    let table = sites.table_name();
    let with = [("FENCE_TABLE", table.as_str())];
    let system = sites.system(if with_table { &with } else { &[] });
    let report = alert_since(ago(5), "site-a", "site-b");
    assert_eq!(outcomes(&system, &report).await, ["fenced"]);
    // Replication is back, and the endpoints are not.
    let begun = Arc::new(Notify::new());
    let noted = Arc::clone(&begun);
    sites.accelerators.fail("TagResource", Fault::meddle(move |_| noted.notify_one()));
    sites.accelerators.fail("AddEndpoints", Fault::Hang);
    let repeated = async {
        begun.notified().await;
        outcomes(&system, &report).await
    };
    let back = request("site-b");
    let (rejoined, repeated) = tokio::join!(rejoin(&system, &back), repeated);
    assert_eq!(rejoined.unwrap()["outcome"], "rejoined");
    assert_eq!(repeated, ["ignored: older_than_rejoin"]);
    assert_eq!((sites.in_service().len(), sites.a.status("site-b").as_str()), (2, "online"));
    assert!(sites.tags().iter().all(|(key, _)| key.ends_with(":rejoined")), "{:?}", sites.tags());
}

/// Whatever happens after the removal, the site is marked: put back without a rejoin, it takes out no other.
#[tokio::test]
async fn a_site_that_is_out_is_noted_as_such_however_the_request_ended() {
    let denied = || Fault::Error("AccessDeniedException", "not authorized");
    let silent =
        |accelerators: &Accelerators| accelerators.fail_always("ListEndpointGroups", Fault::CloseBefore);
    for how in ["a report cannot read back", "a person's request cannot note it", "a rejoin cannot add"] {
        let sites = Sites::start().await;
        let system = sites.system(&[]);
        let take_out = async || take_out(&system, "site-b").await;
        match how {
            "a report cannot read back" => {
                sites.accelerators.fail("RemoveEndpoints", Fault::meddle(silent));
                let event = alert("site-a", "site-b");
                assert_eq!(fence_within(&system, &event, Duration::from_secs(4)).await.0, 503);
            }
            "a person's request cannot note it" => {
                sites.accelerators.fail("TagResource", Fault::meddle(|_| {}));
                sites.accelerators.fail("TagResource", denied());
                assert_eq!(take_out().await, "failed: AccessDenied");
                assert_eq!(take_out().await, "taken_out");
                assert_eq!(take_out().await, "already_out");
            }
            _ => {
                assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
                sites.accelerators.fail_always("AddEndpoints", denied());
                rejoin(&system, &request("site-b")).await.unwrap_err();
            }
        }
        sites.accelerators.recover();
        sites.accelerators.add(&crate::support::sites::group(), sites.both()[1].clone());
        assert_eq!(
            outcomes(&system, &alert("site-b", "site-a")).await,
            ["refused: reporter_was_fenced"],
            "{how}"
        );
        assert_eq!(sites.in_service().len(), 2);
    }
}

#[tokio::test]
async fn a_rejoin_by_force_does_not_wait_for_a_report_that_does_not_end() {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    sites.a.fail_always("take-offline", infinispan::Fault::Hang);
    let report = alert("site-a", "site-b");
    let stuck = fence_within(&system, &report, Duration::from_secs(40));
    let forced = async {
        while sites.in_service().len() > 1 {
            tokio::task::yield_now().await;
        }
        let forced = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
        rejoin(&system, &forced).await.unwrap()
    };
    tokio::pin!(forced);
    let outcome = tokio::select! {
        _ = stuck => panic!("the report has ended"),
        outcome = &mut forced => outcome,
    };
    assert_eq!(outcome["outcome"], "rejoined");
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn a_report_that_is_under_way_gives_way_to_a_rejoin_by_force() {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    sites.a.fail_always("take-offline", infinispan::Fault::Status(500, "no"));
    let report = alert("site-a", "site-b");
    let reported = outcomes(&system, &report);
    let forced = async {
        while sites.in_service().len() > 1 {
            tokio::task::yield_now().await;
        }
        let forced = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
        let outcome = rejoin(&system, &forced).await.unwrap();
        sites.a.recover();
        outcome
    };
    let (reported, forced) = tokio::join!(reported, forced);
    assert_eq!(
        (&forced["outcome"], &reported[..]),
        (&json!("rejoined"), &["ignored: older_than_rejoin".to_owned()][..])
    );
    assert_eq!((sites.in_service().len(), sites.a.status("site-b").as_str()), (2, "online"));
}

/// A person takes the site out, and that is slow; another person rejoins it.
#[tokio::test]
async fn a_planned_removal_that_is_under_way_gives_way_to_a_rejoin_by_force() {
    let sites = Sites::start().await;
    // With a table, this is what a rejoin does that no claim holds back.
    let system = sites.system(&[]);
    let both = sites.both().to_vec();
    let accelerator = Accelerator::new(LABEL)
        .listener([Group::new(REGION, both.clone())])
        .listener([Group::new(REGION, both)]);
    let groups = accelerator.group_arns();
    sites.accelerators.put(accelerator);
    // It leaves the first listener; the other one does not answer.
    sites.accelerators.fail("RemoveEndpoints", Fault::meddle(|_| {}));
    for _ in 0..3 {
        sites.accelerators.fail("RemoveEndpoints", Fault::Hang);
    }
    let forced = async {
        while sites.in_service().len() > 1 {
            tokio::task::yield_now().await;
        }
        let forced = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
        rejoin_within(&system, &forced, Duration::from_secs(12)).await.unwrap()
    };
    let (out, forced) = tokio::join!(take_out_within(&system, "site-b", Duration::from_secs(40)), forced);
    // A removal without an answer may be done later: the person is told.
    assert_eq!((&forced["outcome"], out.as_str()), (&json!("rejoined"), "failed: OtherReport"));
    for group in &groups {
        assert_eq!(sites.accelerators.endpoints(group).len(), 2, "{group}");
    }
    // Nothing says any more that it is out.
    for balancer in [&sites.balancer_a, &sites.balancer_b] {
        sites.accelerators.set_health(balancer, "HEALTHY");
    }
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["fenced"]);
    assert_eq!(sites.in_service(), [sites.balancer_b.as_str()]);
}

#[tokio::test]
async fn of_two_rejoins_by_force_the_newer_one_says_which_site_is_lost() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    sites.a.cut_off(true);
    sites.b.cut_off(true);
    let force = async |site: &str| {
        let forced = json!({ "accelerator": DNS_NAME, "site": site, "force": true });
        let outcome = rejoin(&system, &forced).await.unwrap()["outcome"].clone();
        for balancer in [&sites.balancer_a, &sites.balancer_b] {
            sites.accelerators.set_health(balancer, "HEALTHY");
        }
        outcome
    };
    let report = alert_since(ago(60), "site-a", "site-b");
    assert_eq!(outcomes(&system, &report).await, ["fenced"]);
    assert_eq!(force("site-b").await, "rejoined");
    assert_eq!(outcomes(&system, &report).await, ["refused: rejoined_by_force"]);
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["fenced"]);
    assert_eq!(force("site-a").await, "rejoined");
    assert_eq!(outcomes(&system, &report).await, ["fenced"]);
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
}

/// The alert goes on to fire, or is delivered again, although the other site was only slow.
#[tokio::test]
async fn a_report_from_before_a_rejoin_by_force_takes_out_no_site_that_its_reporter_sees() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let (by_a, by_b) = (alert_since(ago(60), "site-a", "site-b"), alert_since(ago(60), "site-b", "site-a"));
    let force = async |site: &str, silent: &infinispan::Infinispan| {
        silent.fail_always("status", infinispan::Fault::Status(503, "{}"));
        let forced = json!({ "accelerator": DNS_NAME, "site": site, "force": true });
        let outcome = rejoin_within(&system, &forced, Duration::from_secs(3)).await.unwrap();
        assert_eq!(outcome["outcome"], "rejoined", "{outcome}");
        assert!(outcome["detail"].as_str().unwrap().starts_with("not replicated to: "), "{outcome}");
        silent.recover();
        for balancer in [&sites.balancer_a, &sites.balancer_b] {
            sites.accelerators.set_health(balancer, "HEALTHY");
        }
    };
    assert_eq!(outcomes(&system, &by_a).await, ["fenced"]);
    force("site-b", &sites.a).await;
    assert_eq!(outcomes(&system, &by_b).await, ["ignored: older_than_rejoin"]);
    assert_eq!(fence(&system, &by_b).await.0, 204);
    assert_eq!((sites.in_service().len(), sites.b.status("site-a").as_str()), (2, "online"));
    // The link breaks: the site that a person chose takes out the other one, and then that one is the person's choice.
    sites.b.cut_off(true);
    assert_eq!(outcomes(&system, &by_b).await, ["fenced"]);
    force("site-a", &sites.b).await;
    assert_eq!(outcomes(&system, &by_a).await, ["ignored: older_than_rejoin"]);
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn a_person_who_takes_out_the_last_but_one_at_once_with_another_is_told() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let a = sites.balancer_a.clone();
    sites.accelerators.fail("RemoveEndpoints", Fault::meddle(move |accelerators| accelerators.remove(&a)));
    let request = json!({ "takeOut": "site-b", "accelerator": DNS_NAME }).to_string();
    let report = system.handle(Handler::Fence, &request, Deadline::after(Duration::from_secs(5))).await;
    assert_eq!(crate::support::sites::told(&report), ["failed: NobodyLeft"]);
}

// === A claim ends ===

#[tokio::test]
async fn a_claim_of_an_execution_that_failed_is_released() {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    let denied = Fault::Error("AccessDeniedException", "not authorized");
    sites.accelerators.fail("RemoveEndpoints", denied);
    let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
    assert_eq!((status, &body["outcomes"][0]["errorType"]), (503, &json!("AccessDenied")));
    assert!(sites.entries().await.is_empty());
    // The reporter dies. The other site never left, so its data is not stale.
    sites.accelerators.set_health(&sites.balancer_a, "UNHEALTHY");
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["fenced"]);
    assert_eq!(sites.in_service(), [sites.balancer_b.as_str()]);
}

#[tokio::test]
async fn an_entry_that_is_left_over_blocks_no_report() {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    let long_ago = (Utc::now() - TimeDelta::days(180)).to_rfc3339_opts(SecondsFormat::Secs, true);
    // As an earlier version of the function left it.
    sites.put_entry(&[("site", "site-b"), ("reporter", "site-a"), ("at", &long_ago)]).await;
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["fenced"]);
    // The site is brought back by hand, and the entry of the fence is left.
    sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, sites.both())]));
    sites.age_entries(TimeDelta::minutes(2)).await;
    assert_eq!(sites.entries().await[0]["site"], "site-a");
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    // What is done already needs no claim.
    sites.put_entry(&[("site", "site-c"), ("reporter", "site-a"), ("at", &long_ago)]).await;
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["already_fenced"]);
    assert_eq!(sites.entries().await[0]["site"], "site-c");
}

#[tokio::test]
async fn a_claim_of_an_execution_that_died_ends_by_itself() {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    // It hangs until it is cut off, as Lambda does at the timeout.
    sites.accelerators.fail_always("RemoveEndpoints", Fault::Hang);
    let event = alert("site-a", "site-b");
    let dies = outcomes_within(&system, &event, Duration::from_mins(1));
    while_claimed(&sites, Box::pin(dies)).await;
    sites.accelerators.recover();
    let other = alert("site-b", "site-a");
    let blocked = outcomes_within(&system, &other, Duration::from_secs(1)).await;
    assert_eq!(blocked, ["failed: OtherReport"]);
    // Three minutes after its claim no execution of a minute runs any more.
    sites.age_entries(TimeDelta::minutes(3)).await;
    assert_eq!(outcomes(&system, &other).await, ["fenced"]);
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_does_not_block_the_other_sites_report() {
    let sites = Sites::start().await;
    sites.table().await;
    let proxy = Proxy::start(&sites.aws.url).await;
    let table = sites.table_name();
    let system = sites.system(&[("FENCE_TABLE", &table), ("AWS_ENDPOINT_URL_DYNAMODB", &proxy.url)]);
    proxy.only("PutItem", proxy::Fault::AnswerLost);
    let (by_a, by_b) = (alert("site-a", "site-b"), alert("site-b", "site-a"));
    assert_eq!(outcomes_within(&system, &by_a, Duration::from_secs(4)).await, ["failed: AwsUnavailable"]);
    assert_eq!(proxy.calls("DeleteItem"), 1);
    assert!(sites.entries().await.is_empty());
    proxy.only("PutItem", proxy::Fault::None);
    assert_eq!(outcomes(&system, &by_b).await, ["fenced"]);
}

/// Runs this until the table has an entry, and drops it then.
async fn while_claimed(sites: &Sites, execution: impl Future<Output = Vec<String>>) {
    let claimed = async {
        while sites.entries().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = execution => panic!("{ended:?}"),
        () = claimed => {}
    }
}

// === A survivor that died ===

#[tokio::test]
async fn the_death_of_the_site_that_stayed_is_not_settled() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["refused: reporter_is_fenced"]);
    sites.accelerators.set_health(&sites.balancer_a, "UNHEALTHY");
    let (status, body) = fence(&system, &alert("site-b", "site-a")).await;
    let outcome = &body["outcomes"][0];
    assert_eq!((status, &outcome["reason"]), (503, &json!("survivor_unhealthy")));
    assert!(outcome["detail"].as_str().unwrap().starts_with("site-a reported site-b at "), "{outcome}");
    // A person decides that the stale site serves; its report then takes out the dead one.
    sites.a.fail_always("status", infinispan::Fault::CloseBefore);
    sites.b.cut_off(true);
    let forced = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
    assert_eq!(rejoin_within(&system, &forced, Duration::from_secs(3)).await.unwrap()["outcome"], "rejoined");
    sites.accelerators.set_health(&sites.balancer_b, "HEALTHY");
    assert_eq!(outcomes(&system, &alert_since(ago(60), "site-b", "site-a")).await, ["fenced"]);
    assert_eq!(sites.in_service(), [sites.balancer_b.as_str()]);
}

// === Reports wait for each other in the table alone ===

#[tokio::test]
async fn a_reporter_whose_infinispan_hangs_holds_no_claim() {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    sites.a.fail_always("status", infinispan::Fault::Hang);
    let (by_a, by_b) = (alert("site-a", "site-b"), alert("site-b", "site-a"));
    let hangs = outcomes_within(&system, &by_a, Duration::from_secs(20));
    tokio::select! {
        ended = hangs => panic!("{ended:?}"),
        fenced = outcomes_within(&system, &by_b, Duration::from_secs(4)) => assert_eq!(fenced, ["fenced"]),
    }
    assert_eq!(sites.in_service(), [sites.balancer_b.as_str()]);
}

#[test]
fn with_a_table_a_report_or_a_stranger_does_not_keep_the_only_execution_busy() {
    let template = std::fs::read_to_string("infra/site-fence.yaml").unwrap();
    let fence = template.split("\n  FenceRole:").next().unwrap().split("\n  Fence:").nth(1).unwrap();
    // The emulator does not apply it from a template.
    assert!(fence.contains("\n      ReservedConcurrentExecutions: !If [HasFenceTable, 10, 1]\n"), "{fence}");
    let parameter = template.split("\n  CreateFenceTable:\n").nth(1).unwrap();
    assert!(parameter.starts_with("    Type: String\n    Default: \"true\"\n"), "{parameter}");
}

// === A notification that is delivered again ===

#[tokio::test]
async fn a_report_from_before_a_rejoin_takes_out_no_site() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let (by_a, by_b) = (alert("site-a", "site-b"), alert("site-b", "site-a"));
    assert_eq!(outcomes(&system, &by_a).await, ["fenced"]);
    assert_eq!(rejoin(&system, &request("site-b")).await.unwrap()["outcome"], "rejoined");
    sites.accelerators.set_health(&sites.balancer_b, "HEALTHY");
    for event in [&by_a, &by_b] {
        assert_eq!(fence(&system, event).await.0, 204);
        assert_eq!(outcomes(&system, event).await, ["ignored: older_than_rejoin"]);
    }
    assert_eq!(sites.in_service().len(), 2);
    // An alert that keeps firing over a short reconnection is about the present if its site sees the other one no more.
    sites.a.cut_off(true);
    assert_eq!(outcomes(&system, &by_a).await, ["fenced"]);
    // A report that is newer needs no such look.
    sites.a.cut_off(false);
    assert_eq!(rejoin(&system, &request("site-b")).await.unwrap()["outcome"], "rejoined");
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
}

// === Three sites ===

#[tokio::test]
async fn of_three_sites_one_reporter_takes_out_one() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let third = sites.balancer("site-c").await;
    let [a, b] = sites.both();
    let group = Group::new(REGION, [a, b, Endpoint::new(&third)]);
    sites.accelerators.put(Accelerator::new(LABEL).listener([group]));
    sites.a.put("site-c", &["work"]);
    sites.b.put("site-c", &["work"]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    // It may be the reporter that is cut off.
    let (status, body) = fence(&system, &alert("site-a", "site-c")).await;
    assert_eq!((status, &body["outcomes"][0]["reason"]), (503, &json!("second_fence")));
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str(), third.as_str()]);
    // The fenced site's report about a site that is dead does not hide that another one serves.
    sites.accelerators.set_health(&third, "UNHEALTHY");
    assert_eq!(outcomes(&system, &alert("site-b", "site-c")).await, ["refused: reporter_is_fenced"]);
    // After a rejoin the reporter may take out another one.
    assert_eq!(rejoin(&system, &request("site-b")).await.unwrap()["outcome"], "rejoined");
    assert_eq!(outcomes(&system, &alert("site-a", "site-c")).await, ["fenced"]);
}

/// Three sites in service, whose third one's Infinispan is this.
async fn three() -> (Sites, infinispan::Infinispan, SiteFence) {
    let sites = Sites::start().await;
    let c = infinispan::Infinispan::start("developer", INFINISPAN_PASSWORD).await;
    let third = sites.balancer("site-c").await;
    let [a, b] = sites.both();
    let group = Group::new(REGION, [a, b, Endpoint::new(&third)]);
    sites.accelerators.put(Accelerator::new(LABEL).listener([group]));
    for (at, other) in [(&sites.a, "site-c"), (&sites.b, "site-c"), (&c, "site-a"), (&c, "site-b")] {
        at.put(other, &["work"]);
    }
    let (a, b) = (sites.a.authority(), sites.b.authority());
    let endpoints = json!({ "site-a": a, "site-b": b, "site-c": c.authority() }).to_string();
    let roots = format!("{}{}{}", sites.a.root(), sites.b.root(), c.root());
    let system = sites.system(&[("INFINISPAN_SITE_ENDPOINTS", &endpoints), ("INFINISPAN_CA_CERT", &roots)]);
    (sites, c, system)
}

#[tokio::test]
async fn of_three_sites_each_replicates_to_one_that_is_rejoined() {
    let (sites, c, system) = three().await;
    // Both others report it, and stop to replicate to it.
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["fenced"]);
    assert_eq!(outcomes(&system, &alert("site-c", "site-a")).await, ["fenced"]);
    assert_eq!((sites.b.status("site-a").as_str(), c.status("site-a").as_str()), ("offline", "offline"));
    // One of them that does not see it keeps it out.
    c.cut_off(true);
    let refused = rejoin(&system, &request("site-a")).await.unwrap();
    assert_eq!(refused["reason"], "sites_disconnected");
    c.cut_off(false);
    assert_eq!(rejoin(&system, &request("site-a")).await.unwrap()["outcome"], "rejoined");
    assert_eq!((sites.b.status("site-a").as_str(), c.status("site-a").as_str()), ("online", "online"));
    assert_eq!(rejoin(&system, &request("site-a")).await.unwrap()["outcome"], "already_rejoined");
}

#[tokio::test]
async fn of_three_sites_one_comes_back_after_maintenance_or_when_its_reporter_is_lost() {
    let (sites, c, system) = three().await;
    assert_eq!(take_out(&system, "site-b").await, "taken_out");
    assert_eq!(rejoin(&system, &request("site-b")).await.unwrap()["outcome"], "rejoined");
    sites.accelerators.set_health(&sites.balancer_b, "HEALTHY");
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["fenced"]);
    assert_eq!(outcomes(&system, &alert("site-c", "site-b")).await, ["fenced"]);
    for call in ["status", "view", "bring-online", "take-offline"] {
        sites.b.fail_always(call, infinispan::Fault::CloseBefore);
    }
    assert_eq!(rejoin(&system, &request("site-a")).await.unwrap()["outcome"], "rejoined");
    assert_eq!(c.status("site-a"), "online");
}

#[tokio::test]
async fn by_force_a_site_that_serves_replicates_to_the_one_that_comes_back_also_where_another_is_silent() {
    let (sites, c, system) = three().await;
    assert_eq!(outcomes(&system, &alert("site-c", "site-b")).await, ["fenced"]);
    assert_eq!(c.status("site-b"), "offline");
    for call in ["status", "view", "bring-online", "take-offline"] {
        sites.a.fail_always(call, infinispan::Fault::CloseBefore);
    }
    let forced = json!({ "accelerator": DNS_NAME, "site": "site-b", "force": true });
    let outcome = rejoin(&system, &forced).await.unwrap();
    assert_eq!(outcome["outcome"], "rejoined", "{outcome}");
    assert!(outcome["detail"].as_str().unwrap().starts_with("not replicated to: "), "{outcome}");
    assert_eq!(c.status("site-b"), "online");
}
