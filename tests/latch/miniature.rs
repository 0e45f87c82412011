//! The Route 53 in miniature, held to the sentences of AWS's guide.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::miniature::Shared;
use crate::support::miniature::check::Check;
use crate::support::miniature::drive::Driver;
use crate::support::miniature::latch::{
    APP, Latch, Mode, OBJECTS, Outage, Outcome, PRIMARY, Probing, SERVING_SENTINEL, STANDBY, Ticks,
};
use crate::support::miniature::records::{Answer, Kind, Record, SERVERS};
use crate::support::miniature::world::{CHECKERS, Probe, World};
use crate::support::primary::Primary;
use crate::support::tls::Tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

const SITE: &str = "https://site.example.com/";
const OTHER: &str = "https://other.example.com/";

/// Pages of the Route 53 Developer Guide.
const DETERMINES: &str = "dns-failover-determining-health-of-endpoints";
const VALUES: &str = "health-checks-creating-values";
const CHOOSES: &str = "health-checks-how-route-53-chooses-records";
const DELETING: &str = "health-checks-updating-deleting-tasks";
/// Pages of the Route 53 API Reference.
const CONFIG: &str = "API_HealthCheckConfig";
const RECORD_SET: &str = "API_ResourceRecordSet";

/// A sentence, the page that it is from, and whether it holds here.
type Case = (&'static str, &'static str, fn() -> bool);

const CASES: [Case; 25] = [
    (
        "If more than 18% of health checkers report that an endpoint is healthy, Route 53 considers it healthy.",
        DETERMINES,
        || seen_by(3),
    ),
    (
        "If 18% of health checkers or fewer report that an endpoint is healthy, Route 53 considers it unhealthy.",
        DETERMINES,
        || !seen_by(2),
    ),
    (
        "You can specify the interval between checks: every 10 seconds or every 30 seconds.",
        DETERMINES,
        || {
            let refused = World::new(1).create_check(Check::endpoint(SITE).probed(20, 3)).is_err();
            let near =
                |interval, expected: usize| probes_in_an_hour(interval).abs_diff(expected) < expected / 30;
            refused && near(10, 360 * CHECKERS) && near(30, 120 * CHECKERS)
        },
    ),
    (
        "Route 53 health checkers in different data centers don't coordinate with one another.",
        DETERMINES,
        || {
            let moments: BTreeSet<_> =
                probes(1, 30, 30).into_iter().map(|probe| probe.at.as_secs()).collect();
            moments.len() > CHECKERS / 2
        },
    ),
    (
        "The number of consecutive health checks that an endpoint must pass or fail for Amazon Route 53 to change the \
         current status of the endpoint from unhealthy to healthy or vice versa.",
        CONFIG,
        || {
            keep(true, &[false, false, true])
                && !keep(true, &[false, false, false])
                && keep(false, &[true, true, false])
                && !keep(false, &[true, true, true])
        },
    ),
    (
        "Route 53 considers a new health check to be healthy until there's enough data to determine the actual status, \
         healthy or unhealthy.",
        DETERMINES,
        || {
            let (mut world, id) = watched(Check::endpoint(SITE), false);
            let before = world.is_healthy(&id);
            world.pass(Duration::from_mins(2));
            before && !world.is_healthy(&id)
        },
    ),
    (
        "If you chose the option to invert the health check status, Route 53 considers a new health check to be \
         unhealthy until there's enough data.",
        DETERMINES,
        || {
            let (mut world, id) = watched(Check::endpoint(SITE).inverted(), false);
            let before = world.is_healthy(&id);
            world.pass(Duration::from_mins(2));
            !before && world.is_healthy(&id)
        },
    ),
    (
        "If you choose this option, Route 53 considers health checks to be unhealthy when the status is healthy and \
         vice versa.",
        VALUES,
        || {
            !settled(Check::endpoint(SITE).inverted(), true)
                && settled(Check::endpoint(SITE).inverted(), false)
        },
    ),
    (
        "After you disable a health check, Route 53 considers the status of the health check to always be healthy.",
        VALUES,
        || settled(Check::endpoint(SITE).disabled(), false),
    ),
    (
        "Health checks that check the health of endpoints: Route 53 stops submitting requests to your application, \
         server, or other resource.",
        CONFIG,
        || {
            let (mut world, id) = watched(Check::endpoint(SITE), true);
            let seen = Arc::new(Mutex::new(0));
            let count = Arc::clone(&seen);
            world.set_answering(SITE, move |_| {
                *count.lock().unwrap() += 1;
                true
            });
            world.update_check(&id, Check::endpoint(SITE).disabled()).unwrap();
            world.pass(Duration::from_mins(10));
            let disabled = *seen.lock().unwrap();
            world.update_check(&id, Check::endpoint(SITE)).unwrap();
            world.pass(Duration::from_mins(10));
            disabled == 0 && *seen.lock().unwrap() > 0
        },
    ),
    (
        // API_HealthCheckConfig says "always be healthy" without this exception. Which of the two AWS does is unknown.
        "If you want the disabled health check to be considered unhealthy, choose the Invert health check status \
         check box.",
        VALUES,
        || !settled(Check::endpoint(SITE).inverted().disabled(), false),
    ),
    (
        "If you disable a health check that a calculated health check is monitoring, Route 53 considers the disabled \
         health check to be healthy as it calculates whether the calculated health check is healthy.",
        VALUES,
        || parent(&[Check::endpoint(SITE).disabled()], &[false], 1),
    ),
    (
        "Route 53 considers this health check to be healthy when the specified number of health checks that you added \
         to Health checks to monitor are healthy.",
        VALUES,
        || parent(&[one(), two()], &[true, false], 1) && !parent(&[one(), two()], &[true, false], 2),
    ),
    (
        // A child counts with its inverted status.
        "Route 53 adds up the number of child health checks that are considered to be healthy.",
        DETERMINES,
        || {
            parent(&[one(), two().inverted()], &[true, false], 2)
                && !parent(&[one(), two().inverted()], &[true, true], 2)
        },
    ),
    (
        "If you specify a number greater than the number of child health checks, Route 53 always considers this health \
         check to be unhealthy.",
        CONFIG,
        || !parent(&[one(), two()], &[true, true], 3),
    ),
    ("If you specify 0, Route 53 always considers this health check to be healthy.", CONFIG, || {
        parent(&[one(), two()], &[false, false], 0)
    }),
    (
        "You can't configure a calculated health check to monitor the health of other calculated health checks.",
        VALUES,
        || {
            let mut world = World::new(1);
            let child = world.create_check(Check::metric()).unwrap();
            let parent = world.create_check(Check::calculated([child], 1)).unwrap();
            world.create_check(Check::calculated([parent], 1)).is_err()
        },
    ),
    ("One parent health check can monitor the health of up to 255 child health checks.", DETERMINES, || {
        let mut world = World::new(1);
        let children: Vec<_> = (0..256).map(|_| world.create_check(Check::metric()).unwrap()).collect();
        world.create_check(Check::calculated(children[..255].to_vec(), 1)).is_ok()
            && world.create_check(Check::calculated(children, 1)).is_err()
    }),
    (
        "If the data stream indicates that the state of the alarm is OK, the health check is considered healthy. If the \
         data stream indicates that the state is Alarm, the health check is considered unhealthy.",
        DETERMINES,
        || {
            let (mut world, id) = watched(Check::metric(), true);
            let before = world.is_healthy(&id);
            world.set_alarm_ok(&id, false);
            before && !world.is_healthy(&id)
        },
    ),
    (
        "When the primary resource record set is healthy, Route 53 responds to DNS queries with the applicable value \
         from the primary resource record set regardless of the health of the secondary resource record set.",
        RECORD_SET,
        || pair(true, Some(true)) == "primary" && pair(true, Some(false)) == "primary",
    ),
    (
        "When the primary resource record set is unhealthy and the secondary resource record set is healthy, Route 53 \
         responds to DNS queries with the applicable value from the secondary resource record set.",
        RECORD_SET,
        || pair(false, Some(true)) == "secondary",
    ),
    (
        "When the secondary resource record set is unhealthy, Route 53 responds to DNS queries with the applicable value \
         from the primary resource record set regardless of the health of the primary resource record set.",
        RECORD_SET,
        || pair(false, Some(false)) == "primary",
    ),
    (
        "If you omit the HealthCheckId element for the secondary resource record set, and if the primary resource record \
         set is unhealthy, Route 53 always responds to DNS queries with the applicable value from the secondary resource \
         record set.",
        RECORD_SET,
        || pair(false, None) == "secondary",
    ),
    (
        "Route 53 periodically checks the health of the endpoint that is specified in a health check; it doesn't perform \
         the health check when the DNS query arrives.",
        CHOOSES,
        || {
            let mut world = World::new(1);
            let id = world.create_check(Check::endpoint(SITE)).unwrap();
            world.put([
                Record::txt("app.example.com", "primary").primary(&id),
                Record::txt("app.example.com", "secondary").secondary(None),
            ]);
            world.set_passing(SITE, false);
            world.text(0, "app.example.com").unwrap() == "primary"
        },
    ),
    (
        "If you delete a health check and you don't update the associated records, Route 53 considers the health check \
         healthy.",
        DELETING,
        || {
            let (mut world, id) = watched(Check::metric(), true);
            world.put([Record::txt("app.example.com", "primary").primary(&id)]);
            world.put([Record::txt("app.example.com", "secondary").secondary(None)]);
            world.set_alarm_ok(&id, false);
            world.pass(Duration::from_mins(1));
            let before = world.text(0, "app.example.com").unwrap();
            world.delete_check(&id);
            world.pass(Duration::from_mins(1));
            before == "secondary" && world.text(0, "app.example.com").unwrap() == "primary"
        },
    ),
];

#[test]
fn the_miniature_keeps_to_the_sentences_of_the_guide() {
    for (sentence, page, holds) in CASES {
        assert!(holds(), "{page}: {sentence}");
    }
}

// --- What the guide does not say

#[test]
fn a_seed_names_a_run() {
    let times =
        |seed| probes(seed, 10, 60).into_iter().map(|probe| (probe.at, probe.checker)).collect::<Vec<_>>();
    assert_eq!(times(7), times(7));
    assert_ne!(times(7), times(8));
}

#[test]
fn each_name_server_answers_what_was_decided_its_lag_ago() {
    let (mut world, id) = watched(Check::metric(), true);
    world.put([
        Record::txt("app.example.com", "primary").primary(&id),
        Record::txt("app.example.com", "secondary").secondary(None),
    ]);
    for (server, lag) in [0, 1, 5, 60].into_iter().enumerate() {
        world.set_lag(server, Duration::from_secs(lag));
    }
    world.pass(Duration::from_mins(1));
    world.set_alarm_ok(&id, false);
    world.pass(Duration::from_secs(1));
    world.set_alarm_ok(&id, true);
    let answers = |world: &World| {
        (0..SERVERS).map(|server| world.text(server, "app.example.com").unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(answers(&world), ["primary", "secondary", "primary", "primary"]);
    world.pass(Duration::from_secs(4));
    assert_eq!(answers(&world), ["primary", "primary", "secondary", "primary"]);
    world.pass(Duration::from_secs(55));
    assert_eq!(answers(&world), ["primary", "primary", "primary", "secondary"]);
}

#[test]
fn a_name_without_records_does_not_exist_unless_a_longer_name_does() {
    let mut world = World::new(1);
    world.put([Record::txt("_serving.app.example.com", "primary")]);
    assert_eq!(world.answer(0, "_serving.app.example.com", Kind::A), Answer::NoData);
    assert_eq!(world.answer(0, "APP.example.com.", Kind::Txt), Answer::NoData);
    assert_eq!(world.answer(0, "other.example.com", Kind::Txt), Answer::NoName);
}

#[test]
fn an_object_in_a_bucket_takes_the_primary_out_and_an_unreachable_bucket_does_not() {
    let mut world = World::new(1);
    let probing = Probing { interval: 10, threshold: 1 };
    let latch = Latch::attach(&mut world, probing, probing, Mode::Absolute);
    world.pass(Duration::from_mins(10));
    assert!(world.is_healthy(&latch.serving));
    world.set_passing(OBJECTS[1], true);
    world.pass(Duration::from_mins(1));
    assert!(!world.is_healthy(&latch.serving) && world.is_healthy(&latch.primary));
    assert_eq!(world.text(0, SERVING_SENTINEL).unwrap(), "standby");
}

#[test]
fn both_modes_differ_where_the_standby_fails_as_well() {
    for (mode, expected) in [(Mode::Absolute, "192.0.2.2"), (Mode::Yielding, "192.0.2.1")] {
        let mut world = World::new(1);
        let probing = Probing { interval: 10, threshold: 1 };
        Latch::attach(&mut world, probing, probing, mode);
        world.set_passing(OBJECTS[0], true);
        world.set_passing(STANDBY, false);
        world.pass(Duration::from_mins(1));
        let Answer::Values { values, .. } = world.answer(0, APP, Kind::A) else {
            panic!("there is a record")
        };
        assert_eq!(values, [expected], "{mode:?}");
    }
}

#[test]
fn route_53_falls_back_before_the_latch_holds_only_where_the_primarys_check_is_quick() {
    let fell_back = |threshold| {
        let outcomes: Vec<_> = (0..200).filter_map(|seed| short_outage(seed, threshold)).collect();
        assert!(outcomes.len() > 100, "{} of 200 outages led to a failover", outcomes.len());
        outcomes.iter().filter(|outcome| outcome.fell_back > Duration::ZERO).count()
    };
    assert_eq!(fell_back(3), 0);
    assert!(fell_back(1) > 0);
}

/// The outcome of an outage of 30 to 300 seconds that starts after two minutes; none if Route 53 did not fail over.
fn short_outage(seed: u64, threshold: u32) -> Option<Outcome> {
    let lasts = Duration::from_secs(fastrand::Rng::with_seed(seed).u64(30..300));
    let outage = Outage {
        primary: Probing { interval: 30, threshold },
        latch: Probing { interval: 30, threshold: 1 },
        failing: vec![Duration::from_mins(2)..Duration::from_mins(2) + lasts],
        until: Duration::from_mins(10),
        ticks: Ticks { look_every: Duration::from_secs(15), ..Ticks::default() },
    };
    let outcome = outage.simulate(seed, |world, look| {
        let standby = |server| world.text(server, SERVING_SENTINEL).is_some_and(|text| text == "standby");
        if (0..SERVERS).all(standby) {
            for object in OBJECTS {
                world.set_passing_from(object, look.now + Duration::from_secs(1), true);
            }
        }
    });
    outcome.failed_over.is_some().then_some(outcome)
}

#[test]
fn looks_leave_no_gap_while_ticks_overlap_and_one_where_they_do_not() {
    let gap = |ticks: Ticks| {
        let looks = ticks.looks(&mut fastrand::Rng::with_seed(1), Duration::from_hours(1));
        looks.windows(2).map(|pair| pair[1].now.abs_diff(pair[0].now)).max().unwrap()
    };
    assert!(gap(Ticks::default()) <= Duration::from_secs(10), "{:?}", gap(Ticks::default()));
    let short = Ticks { lasts: Duration::from_secs(55), ..Ticks::default() };
    assert!(gap(short) > Duration::from_secs(20), "{:?}", gap(short));
}

#[tokio::test]
async fn a_driver_asks_the_endpoint_over_http_and_the_world_follows() {
    let site = Primary::start("/lb-check").await;
    let url = format!("http://{}/lb-check", site.address);
    let mut world = World::new(1);
    let right = world.create_check(Check::endpoint(&url).probed(10, 3)).unwrap();
    let path = format!("http://{}/other", site.address);
    let wrong = world.create_check(Check::endpoint(&path).probed(10, 1)).unwrap();
    world.settle(&right, false);
    let world = Shared::new(world);
    let _driver = Driver::start(&world, 100);
    turns(&world, &right, true).await;
    turns(&world, &wrong, false).await;
    site.set_up(false);
    turns(&world, &right, false).await;
}

#[tokio::test]
async fn a_redirect_behind_an_unknown_certificate_passes_and_one_request_serves_many_checkers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(AtomicUsize::new(0));
    let served = Arc::clone(&requests);
    tokio::spawn(async move {
        let acceptor = Tls::new().acceptor;
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap_or(0);
            if request[..length].starts_with(b"GET /latches/app?x=1 HTTP/1.1\r\nhost: bucket.example.com\r\n")
            {
                served.fetch_add(1, Ordering::Relaxed);
                let found = b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
                let _ = stream.write_all(found).await;
            }
        }
    });
    let mut world = World::new(1);
    let url = "https://bucket.example.com/latches/app?x=1";
    let id = world.create_check(Check::endpoint(url).probed(10, 3)).unwrap();
    world.settle(&id, false);
    let world = Shared::new(world);
    let driver = Driver::start(&world, 1000);
    driver.locate("bucket.example.com", address);
    turns(&world, &id, true).await;
    // Four of 16 checkers, three results each.
    assert!(requests.load(Ordering::Relaxed) >= 3);
    let seconds = usize::try_from(world.lock().now().as_secs()).unwrap();
    assert!(
        requests.load(Ordering::Relaxed) < CHECKERS * (seconds / 10 + 1) / 2,
        "{requests:?} in {seconds} s"
    );
}

/// Waits until the check's status is this one.
async fn turns(world: &Shared, id: &str, healthy: bool) {
    let turned = async {
        while world.lock().is_healthy(id) != healthy {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), turned).await.expect("the check turns");
}

// --- Worlds for the cases

fn one() -> Check {
    Check::endpoint(SITE)
}

fn two() -> Check {
    Check::endpoint(OTHER)
}

/// A world with this check, whose endpoint passes or fails.
fn watched(check: Check, passing: bool) -> (World, String) {
    let mut world = World::new(1);
    world.set_passing(SITE, passing);
    let id = world.create_check(check).unwrap();
    (world, id)
}

/// The check's status when its checkers have long known that the endpoint passes or fails.
fn settled(check: Check, passing: bool) -> bool {
    let (mut world, id) = watched(check, passing);
    world.pass(Duration::from_mins(5));
    world.is_healthy(&id)
}

/// Whether an endpoint is healthy that so many checkers reach.
fn seen_by(checkers: usize) -> bool {
    let (mut world, id) = watched(Check::endpoint(SITE), true);
    world.set_answering(SITE, move |probe| probe.checker < checkers);
    world.pass(Duration::from_mins(5));
    assert_eq!(world.opinions(&id).iter().filter(|healthy| **healthy).count(), checkers);
    world.is_healthy(&id)
}

/// Whether a check with a threshold of 3, whose checkers are of one opinion, keeps its status while each checker gets
/// these results over and over.
fn keep(healthy: bool, results: &'static [bool]) -> bool {
    let (mut world, id) = watched(Check::endpoint(SITE).probed(10, 3), healthy);
    world.settle(&id, healthy);
    let changes = world.verdicts(&id).len();
    let mut asked = [0; CHECKERS];
    world.set_answering(SITE, move |probe| {
        asked[probe.checker] += 1;
        results[(asked[probe.checker] - 1) % results.len()]
    });
    world.pass(Duration::from_mins(10));
    world.verdicts(&id).len() == changes
}

/// The status of a calculated check of endpoints that pass or fail.
fn parent(children: &[Check], passing: &[bool], threshold: usize) -> bool {
    let mut world = World::new(1);
    for (url, passing) in [SITE, OTHER].into_iter().zip(passing) {
        world.set_passing(url, *passing);
    }
    let children: Vec<_> = children.iter().map(|child| world.create_check(child.clone()).unwrap()).collect();
    let parent = world.create_check(Check::calculated(children, threshold)).unwrap();
    world.pass(Duration::from_mins(5));
    world.is_healthy(&parent)
}

/// What a failover pair answers with these verdicts; `None` is a secondary without a check.
fn pair(primary: bool, secondary: Option<bool>) -> String {
    let mut world = World::new(1);
    let checks = [primary, secondary.unwrap_or(true)].map(|healthy| {
        let id = world.create_check(Check::metric()).unwrap();
        world.set_alarm_ok(&id, healthy);
        id
    });
    world.put([
        Record::txt("app.example.com", "primary").primary(&checks[0]),
        Record::txt("app.example.com", "secondary").secondary(secondary.map(|_| checks[1].as_str())),
    ]);
    world.text(0, "app.example.com").expect("there is an answer")
}

/// The probes that an endpoint gets in so many seconds.
fn probes(seed: u64, interval: u64, seconds: u64) -> Vec<Probe> {
    let mut world = World::new(seed);
    world.create_check(Check::endpoint(PRIMARY).probed(interval, 3)).unwrap();
    let all = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&all);
    world.set_answering(PRIMARY, move |probe| {
        noted.lock().unwrap().push(probe);
        true
    });
    world.pass(Duration::from_secs(seconds));
    all.lock().unwrap().clone()
}

fn probes_in_an_hour(interval: u64) -> usize {
    probes(1, interval, 3600).len()
}
