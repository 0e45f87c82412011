//! A site reports the other one: the endpoints and the replication that are removed, and those that stay.

use std::time::Duration;

use crate::support;
use crate::support::accelerator::{Accelerator, Endpoint, Fault, Group};
use crate::support::infinispan;
use crate::support::recorded;
use crate::support::sites::{
    self, LABEL, PASSWORD, REGION, Sites, USER, alert, fence, fence_within, outcomes, rejoin, rejoin_within,
};
use chrono::{SecondsFormat, TimeDelta, Utc};
use serde_json::json;

#[tokio::test]
async fn the_reported_site_leaves_and_its_settings_are_noted() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let added = sites.balancer("site-c").await;
    let ga = sites.accelerators.clone();
    let group = sites::group();
    // An operator adds an endpoint between the read and the removal.
    let (place, id) = (group.clone(), added.clone());
    ga.fail("RemoveEndpoints", Fault::meddle(move |ga| ga.add(&place, Endpoint::new(&id).weight(7))));
    assert_eq!(fence(&system, &alert("site-a", "site-b")).await.0, 204);
    let left = ga.endpoints(&group);
    assert_eq!(left, [sites.both()[0].clone(), Endpoint::new(&added).weight(7)]);
    assert_eq!(sites.a.status("site-b"), "offline");
    let tags = sites.tags();
    assert_eq!(
        (tags[0].0.as_str(), tags[1].0.as_str(), tags.len()),
        ("site-fence:site-b", "site-fence:site-b:0", 2)
    );
    assert!(tags[0].1.ends_with("Z site-a"), "{tags:?}");
    assert_eq!(tags[1].1, format!("0123vx00/098765zyxw00 55 true {}", sites.balancer_b));

    // A second report finds no change to make.
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["already_fenced"]);
    assert_eq!(sites.tags(), tags);
}

#[tokio::test]
async fn all_listeners_groups_and_pages_are_read() {
    let sites = Sites::start().await;
    let groups = || [Group::new(REGION, sites.both()), Group::new("eu-west-1", sites.both())];
    let other = |label| Accelerator::new(label).listener([Group::new(REGION, sites.both())]);
    let ga = &sites.accelerators;
    for label in ["a0000000000000001", "a0000000000000002"] {
        ga.put(other(label));
    }
    let ours = Accelerator::new(LABEL).listener(groups()).listener(groups()).listener(groups());
    ga.put(ours.clone());
    ga.page_size(1);
    assert_eq!(outcomes(&sites.system(&[]), &alert("site-a", "site-b")).await, ["fenced"]);
    for group in ours.group_arns() {
        assert_eq!(ga.endpoints(&group), [sites.both()[0].clone()], "{group}");
    }
    for label in ["a0000000000000001", "a0000000000000002"] {
        assert_eq!(ga.endpoints(&other(label).group_arns()[0]).len(), 2, "{label} is not changed");
    }
    // Each group is noted.
    assert_eq!(sites.tags().len(), 7);
}

#[tokio::test]
async fn a_report_of_a_site_that_does_not_serve_is_repeated_later() {
    let sites = Sites::start().await;
    let misnamed = sites.balancer("Site-B").await;
    let (system, ga) = (sites.system(&[]), &sites.accelerators);
    let put =
        |endpoints: Vec<Endpoint>| ga.put(Accelerator::new(LABEL).listener([Group::new(REGION, endpoints)]));
    let [a, b] = sites.both();
    for (endpoints, reason) in [
        (vec![a.clone().health("UNHEALTHY"), b.clone()], "reporter_unhealthy"),
        (vec![a.clone().health("INITIAL"), b.clone()], "reporter_unhealthy"),
        (vec![a.clone().weight(0), b.clone()], "reporter_missing"),
        (vec![b.clone(), Endpoint::new("i-0123456789abcdef0")], "reporter_missing"),
        (vec![b.clone()], "reporter_missing"),
        (vec![Endpoint::new("i-0123456789abcdef0"), a.clone()], "site_unknown"),
        (vec![Endpoint::new(&misnamed), a.clone()], "site_unknown"),
        (vec![], "reporter_missing"),
    ] {
        put(endpoints.clone());
        let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
        assert_eq!((status, body["outcomes"][0]["reason"].as_str()), (503, Some(reason)));
        assert_eq!(sites.in_service().len(), endpoints.len(), "{reason}");
    }
    // One of two listeners would be left without an endpoint.
    let listeners = [Group::new(REGION, [a.clone(), b.clone()]), Group::new(REGION, [b.clone()])];
    let two = listeners.into_iter().fold(Accelerator::new(LABEL), |all, group| all.listener([group]));
    ga.put(two);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["refused: last_endpoint"]);
    assert_eq!(sites.in_service().len(), 2);
    assert_eq!(sites.a.calls(), [""; 0]);
    put(vec![a, b]);
    assert_eq!(fence(&system, &alert("site-a", "site-b")).await.0, 204);
}

#[tokio::test]
async fn endpoints_of_no_site_stay_and_a_deleted_load_balancer_blocks_no_fence() {
    let sites = Sites::start().await;
    let gone = "arn:aws:elasticloadbalancing:us-east-1:000000000000:loadbalancer/net/gone/0123456789abcdef";
    let elsewhere = gone.replace("000000000000", "210987654321");
    let [a, b] = sites.both();
    let others =
        [Endpoint::new("eipalloc-0123456789abcdef0"), Endpoint::new(gone), Endpoint::new(&elsewhere)];
    let all = [vec![a, b], others.to_vec()].concat();
    sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, all)]));
    let system = sites.system(&[]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(sites.in_service().len(), 4);
    assert!(!sites.in_service().contains(&sites.balancer_b));

    // The site's load balancer was deleted: it serves no traffic, and does not count as an endpoint that is left.
    let [a, b] = sites.both();
    sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, [a, Endpoint::new(gone)])]));
    sites.a.set_online("site-b", "work", true);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, [b, Endpoint::new(gone)])]));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["refused: reporter_missing"]);
}

#[tokio::test]
async fn a_failed_take_offline_is_finished_by_the_next_request() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    sites.a.fail_always("take-offline", infinispan::Fault::Status(500, "no"));
    let (status, body) = fence_within(&system, &alert("site-a", "site-b"), Duration::from_secs(2)).await;
    assert_eq!(status, 503);
    let error = body["outcomes"][0]["error"].as_str().unwrap();
    assert!(error.contains("not off: Infinispan of site-a, POST /rest/v2/container/x-site/backups/site-b?action=take-offline: HTTP 500"), "{error}");
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    // Global Accelerator's checks may well find the reporter unhealthy as long as it cannot write.
    sites.accelerators.set_health(&sites.balancer_a, "UNHEALTHY");
    sites.a.recover();
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(sites.a.status("site-b"), "offline");
}

#[tokio::test]
async fn a_site_that_is_added_to_another_listener_meanwhile_leaves_that_one_as_well() {
    let sites = Sites::start().await;
    let groups = || [Group::new(REGION, sites.both())];
    let two = Accelerator::new(LABEL).listener(groups()).listener(groups());
    let arns = two.group_arns();
    sites.accelerators.put(Accelerator::new(LABEL).listener(groups()));
    let added = Fault::meddle(move |accelerators| accelerators.put(two.clone()));
    sites.accelerators.fail("RemoveEndpoints", added);
    assert_eq!(outcomes(&sites.system(&[]), &alert("site-a", "site-b")).await, ["fenced"]);
    for arn in arns {
        assert_eq!(sites.accelerators.endpoints(&arn).len(), 1, "{arn}");
    }
}

#[tokio::test]
async fn a_load_balancer_that_takes_anothers_place_meanwhile_is_known_for_its_sites() {
    for replaced in ["site-b", "site-a"] {
        let sites = Sites::start().await;
        let own = sites.balancer("green").await;
        sites.tag_balancer(&own, replaced).await;
        let [a, b] = sites.both();
        let serve =
            if replaced == "site-a" { vec![Endpoint::new(&own)] } else { vec![a, Endpoint::new(&own)] };
        drop(b);
        let changed = Fault::meddle(move |accelerators| {
            accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, serve.clone())]));
        });
        sites.accelerators.fail("RemoveEndpoints", changed);
        assert_eq!(outcomes(&sites.system(&[]), &alert("site-a", "site-b")).await, ["fenced"], "{replaced}");
        let left = if replaced == "site-a" { &own } else { &sites.balancer_a };
        assert_eq!(&sites.in_service(), std::slice::from_ref(left), "{replaced}");
    }
}

#[tokio::test]
async fn infinispans_state_decides_and_not_its_answer() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    sites.a.fail("take-offline", infinispan::Fault::Stuck);
    sites.a.fail("take-offline", infinispan::Fault::CloseAfter);
    sites.a.fail("status", infinispan::Fault::CloseBefore);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(sites.a.status("site-b"), "offline");

    sites.a.put("site-c", &["work"]);
    let (status, body) = fence(&system, &alert("site-a", "site-d")).await;
    assert_eq!(status, 503);
    let error = body["outcomes"][0]["error"].as_str().unwrap();
    assert!(
        error.contains("it does not know the backup site site-d; it knows \"site-b, site-c\""),
        "{error}"
    );
}

#[tokio::test]
async fn infinispans_certificate_is_checked_unless_the_configuration_disables_it() {
    let sites = Sites::start().await;
    let untrusting = sites.system(&[("INFINISPAN_CA_CERT", "")]);
    let (status, body) = fence(&untrusting, &alert("site-a", "site-b")).await;
    assert_eq!(status, 503);
    let error = body["outcomes"][0]["error"].as_str().unwrap();
    assert!(error.contains("UnknownIssuer") && error.contains("to the root that signed it"), "{error}");
    assert_eq!(sites.a.calls(), [""; 0], "no password was sent");
    // The correct root, but another name than the certificate's.
    let renamed =
        json!({ "site-a": sites.a.authority().replace("localhost", "127.0.0.1"), "site-b": "unasked" });
    let renamed = sites.system(&[("INFINISPAN_SITE_ENDPOINTS", &renamed.to_string())]);
    let (status, body) = fence(&renamed, &alert("site-a", "site-b")).await;
    let error = body["outcomes"][0]["error"].as_str().unwrap();
    assert!(
        status == 503 && error.contains("a certificate for the host that INFINISPAN_SITE_ENDPOINTS"),
        "{error}"
    );
    assert_eq!((sites.a.calls(), sites.in_service().len()), (vec![], 2), "nor was anything changed");
    let told = sites.system(&[("INFINISPAN_CA_CERT", ""), ("INFINISPAN_INSECURE_TLS", "true")]);
    assert_eq!(outcomes(&told, &alert("site-a", "site-b")).await, ["fenced"]);
}

#[tokio::test]
async fn a_missing_resource_is_named_before_any_change() {
    let sites = Sites::start().await;
    let only_b = json!({ "site-b": sites.b.authority(), "site-c": "unasked" }).to_string();
    let other = alert("site-a", "site-b").replace("a1234567890abcdef", "a0000000000000000");
    for (changes, event, status, said) in [
        (
            &[("INFINISPAN_SITE_ENDPOINTS", only_b.as_str())][..],
            alert("site-a", "site-b"),
            503,
            "Infinispan of site-a, GET /rest/v2/container/x-site/backups/: INFINISPAN_SITE_ENDPOINTS has no endpoint",
        ),
        (
            &[],
            other,
            400,
            "no accelerator of this account has the DNS name or ARN \"a0000000000000000.awsglob",
        ),
    ] {
        let (answered, body) = fence(&sites.system(changes), &event).await;
        let error = body["outcomes"][0]["error"].as_str().unwrap();
        assert!(answered == status && error.contains(said), "{answered} {error}");
    }
    sites.secret("infinispan-password", "changed since").await;
    let (status, body) = fence(&sites.system(&[]), &alert("site-a", "site-b")).await;
    let error = body["outcomes"][0]["error"].as_str().unwrap();
    assert!(status == 503 && error.contains("HTTP 401 Unauthorized. Check INFINISPAN_USER"), "{error}");
    assert_eq!(sites.in_service().len(), 2);
    assert_eq!(sites.tags(), []);

    let system = sites.system(&[("WEBHOOK_USER_SECRET", "forgotten")]);
    let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
    let message =
        "the credentials cannot be checked now: the password could not be read; see the function's log";
    assert_eq!((status, body), (503, json!({ "message": message })));
}

#[tokio::test]
async fn a_rotated_password_is_read_again_and_then_the_old_one_is_refused() {
    let sites = Sites::start().await;
    let system = sites.system(&[("DRY_RUN", "true")]);
    let with = |password: &str| {
        let header = failover::site_fence::auth::basic(USER, password);
        let event = recorded("alertmanager/resolved.json");
        let (before, rest) = event.split_once("Basic ").unwrap();
        format!("{before}{header}{}", &rest[rest.find('"').unwrap()..])
    };
    let status = async |password| fence(&system, &with(password)).await.0;
    let later = async |seconds| {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
    };
    assert_eq!(status(PASSWORD).await, 204);
    sites.secret("webhook-password", "another one").await;
    // A secret that was just read is not read again for every guess.
    assert_eq!((status("another one").await, status(PASSWORD).await), (403, 204));
    later(6).await;
    assert_eq!((status("another one").await, status(PASSWORD).await), (204, 403));
    sites.secret("webhook-password", "the third").await;
    assert_eq!(status("another one").await, 204);
    later(61).await;
    assert_eq!((status("another one").await, status("the third").await), (403, 204));
}

#[tokio::test]
async fn a_call_that_global_accelerator_turns_away_or_receives_twice_has_one_effect() {
    let sites = Sites::start().await;
    let (system, ga) = (sites.system(&[]), &sites.accelerators);
    for code in ["TransactionInProgressException", "InternalServiceErrorException", "ConflictException"] {
        ga.fail("RemoveEndpoints", Fault::Error(code, "try again"));
    }
    ga.fail("ListEndpointGroups", Fault::Error("ThrottlingException", "Rate exceeded"));
    // The call is done, and its answer is lost: the second call finds no endpoint to remove.
    ga.fail("RemoveEndpoints", Fault::CloseAfter);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    assert_eq!(sites.a.status("site-b"), "offline");

    ga.put(Accelerator::new(LABEL).listener([Group::new(REGION, sites.both())]));
    ga.fail_always("RemoveEndpoints", Fault::Error("AccessDeniedException", "not authorized"));
    let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
    let error = body["outcomes"][0]["error"].as_str().unwrap();
    assert!(
        status == 503 && error.contains("Grant the caller's role globalaccelerator:RemoveEndpoints"),
        "{error}"
    );
}

/// What a person takes out of a site that stays in service does not come back with its next rejoin.
#[tokio::test]
async fn the_endpoints_of_a_site_stay_noted_only_if_one_may_be_gone() {
    let denied = || Fault::Error("AccessDeniedException", "not authorized");
    let throttled = || Fault::Error("ThrottlingException", "Rate exceeded");
    for (fault, stays) in [(denied(), false), (throttled(), false), (Fault::CloseBefore, true)] {
        let sites = Sites::start().await;
        let system = sites.system(&[]);
        sites.accelerators.fail_always("RemoveEndpoints", fault);
        let time = Duration::from_secs(4);
        assert_eq!(fence_within(&system, &alert("site-a", "site-b"), time).await.0, 503);
        assert_eq!(!sites.tags().is_empty(), stays, "{:?}", sites.tags());
        let told = sites::take_out_within(&system, "site-b", time).await;
        assert!(told.starts_with("failed: "), "{told}");
        assert_eq!(!sites.tags().is_empty(), stays, "{:?}", sites.tags());
    }
    // Those of a removal that was begun before stay as well, and so do those of a site that someone else took out meanwhile.
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    sites.accelerators.fail("RemoveEndpoints", Fault::CloseAfter);
    sites.accelerators.fail_always("ListEndpointGroups", Fault::CloseBefore);
    sites.accelerators.fail("ListEndpointGroups", Fault::meddle(|_| {}));
    fence_within(&system, &alert("site-a", "site-b"), Duration::from_secs(2)).await;
    sites.accelerators.recover();
    sites.accelerators.add(&sites::group(), sites.both()[1].clone());
    sites.accelerators.fail_always("RemoveEndpoints", denied());
    fence_within(&system, &alert("site-a", "site-b"), Duration::from_secs(4)).await;
    assert!(!sites.tags().is_empty());
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let gone = sites.balancer_b.clone();
    sites.accelerators.fail("RemoveEndpoints", throttled());
    sites.accelerators.fail("RemoveEndpoints", Fault::meddle(move |ga| ga.remove(&gone)));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert!(sites.tags().iter().any(|(key, _)| key == "site-fence:site-b:0"), "{:?}", sites.tags());
}

#[tokio::test]
async fn a_site_is_removed_even_if_it_cannot_be_noted() {
    let sites = Sites::start().await;
    let denied = Fault::Error("AccessDeniedException", "not authorized");
    sites.accelerators.fail_always("TagResource", denied);
    let system = sites.system(&[]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    // Without a note, a reporter that was taken out looks like a reporter that is missing.
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["refused: reporter_missing"]);
    // The table, if there is one, shows the difference.
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, sites.both())]));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["refused: other_report_was_first"]);
    // A repeated report notes it as soon as that is possible.
    sites.accelerators.recover();
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["already_fenced"]);
    assert_eq!(outcomes(&system, &alert("site-b", "site-a")).await, ["refused: reporter_is_fenced"]);
}

#[tokio::test]
async fn if_both_sites_were_removed_at_once_the_alert_is_not_settled() {
    let sites = Sites::start().await;
    let (system, ga) = (sites.system(&[]), &sites.accelerators);
    // A concurrent execution takes the reporter out.
    let reporter = sites.balancer_a.clone();
    ga.fail("RemoveEndpoints", Fault::meddle(move |ga| ga.remove(&reporter)));
    let (status, body) = fence(&system, &alert("site-a", "site-b")).await;
    assert_eq!((status, &body["outcomes"][0]["errorType"]), (503, &json!("NobodyLeft")));
    for (reporter, site, reason) in
        [("site-a", "site-b", "reporter_missing"), ("site-b", "site-a", "survivor_unhealthy")]
    {
        let (status, body) = fence(&system, &alert(reporter, site)).await;
        assert_eq!((status, &body["outcomes"][0]["reason"]), (503, &json!(reason)));
    }
    assert_eq!(sites.a.status("site-b"), "online");
}

#[tokio::test]
async fn a_reporter_whose_infinispan_hangs_does_not_block_the_other_report() {
    let sites = Sites::start().await;
    sites.a.fail_always("status", infinispan::Fault::Hang);
    let (status, _) =
        fence_within(&sites.system(&[]), &alert("site-a", "site-b"), Duration::from_mins(1)).await;
    // The invocation has a minute, enough for about twenty attempts.
    assert!(status == 503 && sites.a.calls().len() < 5, "{:?}", sites.a.calls());
    assert_eq!(sites.in_service().len(), 2);
}

#[tokio::test]
async fn an_alert_that_hangs_leaves_time_for_the_others() {
    let sites = Sites::start().await;
    sites.b.fail_always("status", infinispan::Fault::Hang);
    let event = recorded("alertmanager/accused-by-both.json");
    // Site B's report is the first here, and its Infinispan hangs.
    let event = event.replace("site-a", "SITE").replace("site-b", "site-a").replace("SITE", "site-b");
    let (status, body) = fence_within(&sites.system(&[]), &event, Duration::from_secs(6)).await;
    assert_eq!(status, 503);
    assert!(body["outcomes"][0]["error"].as_str().unwrap().contains("no answer from localhost:"), "{body}");
    assert_eq!(body["outcomes"][1]["outcome"], "fenced", "{body}");
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_reports_what_it_would_do() {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("DRY_RUN", "true"), ("FENCE_TABLE", &sites.table_name())]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["would_fence"]);
    assert_eq!(sites.in_service().len(), 2);
    let changes = |call: &String| !call.starts_with("List");
    assert!(!sites.accelerators.calls().iter().any(changes));
    assert!(sites.a.calls().iter().all(|call| call == "status"));
    assert!(sites.entries().await.is_empty());
}

#[tokio::test]
async fn two_sites_that_accuse_each_other_at_once_leave_exactly_one() {
    let sites = Sites::start().await;
    sites.table().await;
    // One function in each of two Regions: only the table excludes one of them.
    let table = sites.table_name();
    let region = ("FENCE_TABLE", table.as_str());
    let (one, two) = (sites.system(&[region]), sites.system(&[region]));
    for round in 0..5 {
        sites.accelerators.put(Accelerator::new(LABEL).listener([Group::new(REGION, sites.both())]));
        sites.a.set_online("site-b", "work", true);
        sites.b.set_online("site-a", "work", true);
        let (alert_a, alert_b) = (alert("site-a", "site-b"), alert("site-b", "site-a"));
        let (by_a, by_b) = tokio::join!(outcomes(&one, &alert_a), outcomes(&two, &alert_b));
        let (winner, left, loser) = match by_a[0].as_str() {
            "fenced" => ("site-a", &sites.balancer_a, by_b),
            _ => ("site-b", &sites.balancer_b, by_a),
        };
        assert!(
            ["refused: other_report_was_first", "refused: reporter_is_fenced"].contains(&loser[0].as_str()),
            "round {round}: {loser:?}"
        );
        let (kept, other) = if winner == "site-a" { (&sites.b, "site-a") } else { (&sites.a, "site-b") };
        assert_eq!(kept.status(other), "online", "round {round}: the loser changes nothing");
        assert_eq!(sites.in_service(), [left.as_str()], "round {round}");
        let entries = sites.entries().await;
        assert_eq!((entries.len(), entries[0]["reporter"].as_str()), (1, winner), "round {round}");
        let fenced = if winner == "site-a" { "site-b" } else { "site-a" };
        let request = json!({ "accelerator": support::sites::DNS_NAME, "site": fenced });
        assert_eq!(rejoin(&one, &request).await.unwrap()["outcome"], "rejoined", "round {round}");
        let rejoined = sites.rejoined().await;
        assert!(rejoined.iter().any(|one| one.starts_with(fenced)), "round {round}: {rejoined:?}");
        sites.age_entries(TimeDelta::minutes(1)).await;
    }
}

#[tokio::test]
async fn a_report_that_is_handled_at_this_moment_is_named_to_the_other_one() {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    let (now, soon) = (Utc::now(), Utc::now() + TimeDelta::seconds(90));
    let claim = |site, reporter| {
        [
            ("site", site),
            ("reporter", reporter),
            ("at", now.to_rfc3339_opts(SecondsFormat::Secs, true)),
            ("claim", "0123".to_owned()),
            ("ends", soon.to_rfc3339_opts(SecondsFormat::Secs, true)),
        ]
    };
    let claim = claim("site-b".to_owned(), "site-a".to_owned());
    let claim: Vec<_> = claim.iter().map(|(name, value)| (*name, value.as_str())).collect();
    sites.put_entry(&claim).await;
    // Also a second report of the same site waits: the execution of the first one may still remove endpoints.
    for (reporter, site) in [("site-b", "site-a"), ("site-a", "site-b")] {
        let (status, body) = fence_within(&system, &alert(reporter, site), Duration::from_secs(15)).await;
        let error = body["outcomes"][0]["error"].as_str().unwrap();
        assert_eq!((status, &body["outcomes"][0]["errorType"]), (503, &json!("OtherReport")));
        assert!(error.starts_with(r#"FENCE_TABLE: "site-a" reported "site-b" at "#), "{error}");
    }
    assert_eq!(sites.in_service().len(), 2);
    // Nor is a site rejoined meanwhile.
    sites.accelerators.remove(&sites.balancer_b);
    let noted = format!("0123vx00/098765zyxw00 55 true {}", sites.balancer_b);
    let group = Group::new(REGION, [sites.both()[0].clone()]);
    sites.accelerators.put(Accelerator::new(LABEL).tagged("site-fence:site-b:0", &noted).listener([group]));
    let request = json!({ "accelerator": support::sites::DNS_NAME, "site": "site-b" });
    let error = rejoin_within(&system, &request, Duration::from_secs(15)).await.unwrap_err();
    assert!(error.contains("may still be under way until"), "{error}");
    assert_eq!((sites.in_service().len(), sites.entries().await.len()), (1, 1));
    // The execution has died: its claim ends by itself.
    sites.age_entries(TimeDelta::seconds(100)).await;
    assert_eq!(rejoin(&system, &request).await.unwrap()["outcome"], "rejoined");
    assert!(sites.rejoined().await[0].starts_with("site-b="));
}
