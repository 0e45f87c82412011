//! A pause for planned work: no report takes a site out, and it ends by itself.

use std::time::{Duration, SystemTime};

use crate::support::accelerator::{Accelerator, Fault, Group};
use crate::support::sites::{DNS_NAME, LABEL, REGION, Sites, alert, fence, outcomes, rejoin, take_out, told};
use chrono::{SecondsFormat, TimeDelta, Utc};
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use failover::site_fence::{Handler, SiteFence};
use serde_json::{Value, json};

const PAUSED: &str = "refused: paused";

/// What a person's request has led to, and the number of pauses that was counted.
async fn ask(system: &SiteFence, request: Value) -> (String, Option<u64>) {
    let request = with_accelerator(request).to_string();
    let report = system.handle(Handler::Fence, &request, Deadline::after(Duration::from_secs(20))).await;
    let told = told(&report).remove(0);
    let lines: Vec<_> = report.metrics("site-fence", SystemTime::now()).collect();
    let counted =
        lines.iter().find_map(|line| serde_json::from_str::<Value>(line).unwrap()["Paused"].as_u64());
    (told, counted)
}

fn with_accelerator(mut request: Value) -> Value {
    request["accelerator"] = json!(DNS_NAME);
    request
}

/// The tag of a pause of all sites, until so many minutes from now.
fn tag(minutes: i64) -> String {
    let until = Utc::now() + TimeDelta::minutes(minutes);
    format!("{} upgrade", until.to_rfc3339_opts(SecondsFormat::Secs, true))
}

#[tokio::test]
async fn no_report_takes_a_site_out_until_the_pause_ends_and_then_it_does() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let pause = json!({ "pauseMinutes": 120, "site": "site-b", "reason": "upgrade CHG-42" });
    let mut dry = pause.clone();
    dry["dryRun"] = json!(true);
    assert_eq!(ask(&system, dry).await, ("would_pause".to_owned(), None));
    assert_eq!(sites.tags(), []);
    assert_eq!(ask(&system, pause).await, ("paused".to_owned(), Some(1)));
    // About it, and from it.
    for report in [alert("site-a", "site-b"), alert("site-b", "site-a")] {
        let (status, _) = fence(&system, &report).await;
        assert_eq!((status, outcomes(&system, &report).await), (204, vec![PAUSED.to_owned()]));
    }
    assert_eq!((sites.in_service().len(), sites.a.status("site-b").as_str()), (2, "online"));
    // A pause of all sites stands beside it.
    assert_eq!(ask(&system, json!({ "pauseMinutes": 5 })).await, ("paused".to_owned(), Some(1)));
    let resume = json!({ "pauseMinutes": 0, "site": "site-b" });
    assert_eq!(ask(&system, resume.clone()).await, ("resumed".to_owned(), Some(1)));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, [PAUSED]);
    assert_eq!(ask(&system, resume).await, ("not_paused".to_owned(), Some(1)));
    assert_eq!(
        ask(&system, json!({ "pauseMinutes": 0, "dryRun": true })).await,
        ("would_resume".to_owned(), None)
    );
    assert_eq!(ask(&system, json!({ "pauseMinutes": 0 })).await, ("resumed".to_owned(), Some(0)));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
}

#[tokio::test]
async fn a_pause_ends_by_itself_and_one_for_years_is_none() {
    for (minutes, outcome) in [(5, PAUSED), (-1, "fenced"), (60 * 24 * 400, "fenced")] {
        let sites = Sites::start().await;
        let accelerator = Accelerator::new(LABEL).listener([Group::new(REGION, sites.both().to_vec())]);
        sites.accelerators.put(accelerator.tagged("site-fence-paused:+all", &tag(minutes)));
        let system = sites.system(&[]);
        assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, [outcome], "{minutes}");
    }
}

#[tokio::test]
async fn a_pause_holds_no_person_back_and_what_is_out_already_is_finished() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(ask(&system, json!({ "pauseMinutes": 5 })).await.0, "paused");
    sites.a.set_online("site-b", "sessions", true);
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(sites.a.status("site-b"), "offline");
    let back = json!({ "accelerator": DNS_NAME, "site": "site-b" });
    assert_eq!(rejoin(&system, &back).await.unwrap()["outcome"], "rejoined");
    assert_eq!(take_out(&system, "site-b").await, "taken_out");
}

#[tokio::test]
async fn a_pause_that_comes_between_two_tries_of_a_removal_counts_if_nothing_is_removed_yet() {
    let sites = Sites::start().await;
    sites.table().await;
    let system = sites.system(&[("FENCE_TABLE", &sites.table_name())]);
    let ga = &sites.accelerators;
    // It is read again under the claim.
    ga.fail("ListTagsForResource", Fault::meddle(|_| {}));
    let both = sites.both().to_vec();
    ga.fail(
        "ListTagsForResource",
        Fault::meddle(move |ga| {
            let accelerator = Accelerator::new(LABEL).listener([Group::new(REGION, both.clone())]);
            ga.put(accelerator.tagged("site-fence-paused:site-b", &tag(5)));
        }),
    );
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, [PAUSED]);
    assert_eq!(sites.in_service().len(), 2);
}

/// Of two listeners, the first has let it go when the execution ends.
#[tokio::test]
async fn a_removal_that_has_begun_is_finished_in_spite_of_a_pause() {
    let sites = Sites::start().await;
    let both = sites.both().to_vec();
    let accelerator = Accelerator::new(LABEL)
        .listener([Group::new(REGION, both.clone())])
        .listener([Group::new(REGION, both)]);
    sites.accelerators.put(accelerator);
    let system = sites.system(&[]);
    sites.accelerators.fail("RemoveEndpoints", Fault::meddle(|_| {}));
    sites.accelerators.fail("RemoveEndpoints", Fault::Error("AccessDeniedException", "not authorized"));
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["failed: AccessDenied"]);
    // Of the first listener.
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    assert_eq!(ask(&system, json!({ "pauseMinutes": 5 })).await.0, "paused");
    assert_eq!(outcomes(&system, &alert("site-a", "site-b")).await, ["fenced"]);
    assert_eq!(sites.a.status("site-b"), "offline");
}

#[tokio::test]
async fn the_end_of_a_pause_names_what_still_holds_reports_back() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let pause = |site: Option<&str>, minutes: i64| {
        with_accelerator(json!({ "pauseMinutes": minutes, "site": site, "reason": "x" })).to_string()
    };
    let detail = async |request: String| {
        let report = system.handle(Handler::Fence, &request, Deadline::after(Duration::from_secs(20))).await;
        let answer = report.into_answer().unwrap();
        answer["outcomes"][0]["detail"].as_str().unwrap_or_default().to_owned()
    };
    detail(pause(Some("site-b"), 60)).await;
    let left = detail(pause(None, 0)).await;
    assert!(left.starts_with("still paused: site-b until 2"), "{left}");
    detail(pause(None, 60)).await;
    let left = detail(pause(Some("site-b"), 0)).await;
    assert!(left.starts_with("still paused: all sites until 2") && !left.contains("site-b"), "{left}");
    assert_eq!(detail(pause(None, 0)).await, "");
    // One of another site holds the reports about this one back that come from there.
    detail(pause(Some("site-a"), 60)).await;
    let left = detail(pause(Some("site-b"), 0)).await;
    assert!(left.starts_with("still paused: site-a until 2"), "{left}");
}

#[tokio::test]
async fn a_request_that_would_pause_nothing_or_for_too_long_is_refused() {
    let sites = Sites::start().await;
    let system = sites.system(&[]);
    let misspelt = json!({ "pauseMinutes": 5, "site": "site-bb" });
    assert_eq!(ask(&system, misspelt).await, ("refused: site_unknown".to_owned(), None));
    for unreadable in [
        json!({ "pauseMinutes": 21_601 }),
        json!({ "pauseMinutes": -1 }),
        json!({ "pauseMinutes": 5, "sites": [] }),
    ] {
        assert_eq!(ask(&system, unreadable).await.0, "failed: BadRequest");
    }
    assert_eq!(sites.tags(), []);
}
