//! What a watcher does, at the wire: a Route 53 in miniature with four name servers, and an S3 that enforces its rules.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use serde_json::Value;

use failover::lambda::Report as _;
use failover::latch::FailoverLatch;
use failover::latch::outcome::State;
use failover::remote::deadline::Deadline;

use crate::support::miniature::dns::{Fault as Dns, Transport};
use crate::support::miniature::latch::{PRIMARY_SENTINEL, SERVING_SENTINEL, STANDBY_SENTINEL};
use crate::support::miniature::records::Record;
use crate::support::s3::{Call, Down, Fault, WATCHER};
use crate::support::site::{A, B, HOLD, KEY, Site, answer, look};

const BOTH: [bool; 2] = [true, true];
const NONE: [bool; 2] = [false, false];

#[tokio::test]
async fn a_failover_to_a_healthy_standby_is_locked_in_every_bucket() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
    assert_eq!(site.objects(), BOTH);
    let object = site.s3.object(A, KEY).unwrap();
    let body: Value = serde_json::from_str(&object.text()).unwrap();
    assert_eq!((&body["latch"], &body["by"]), (&"app".into(), &"watcher-1".into()));
    assert!(body["lockedAt"].as_str().is_some_and(|at| at.starts_with("20")), "{body}");
    let puts: Vec<_> = site.s3.calls().into_iter().filter(|call| call.operation == "PutObject").collect();
    assert!(
        puts.iter().all(|put| put.presigned && put.condition.as_deref() == Some("if-none-match=*")),
        "{puts:?}"
    );
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
    assert_eq!(site.s3.history(A, KEY).len(), 1, "a lock that stands is left alone");
}

#[tokio::test]
async fn the_primary_stays_out_when_it_recovers() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    look(&watcher).await.unwrap();
    site.checkers_look();
    site.primary(true);
    assert_eq!(site.world.lock().text(0, SERVING_SENTINEL).as_deref(), Some("standby"));
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
}

#[tokio::test]
async fn without_a_failover_nothing_is_written() {
    let site = Site::start().await;
    let watcher = site.watcher().await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("armed"));
    site.standby(false);
    assert_eq!(look(&watcher).await.as_deref(), Ok("armed"));
    site.primary(false);
    assert_eq!(look(&watcher).await.as_deref(), Ok("standby_unhealthy"));
    assert_eq!(site.objects(), NONE);
    assert!(site.s3.calls().iter().all(|call| call.operation != "PutObject"));
    site.standby(true);
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
    assert_eq!(site.s3.denied(), Vec::<String>::new());
}

#[tokio::test]
async fn a_dry_run_does_everything_but_the_write() {
    let site = Site::failed_over().await;
    let watcher = site.watcher_with(&[("DRY_RUN", "true")]).await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("would_lock"));
    assert_eq!(site.objects(), NONE);
}

#[tokio::test]
async fn a_dry_run_is_never_armed() {
    let site = Site::start().await;
    let watcher = site.watcher_with(&[("DRY_RUN", "true")]).await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("dry_run"));
}

/// The metrics of `app` after one look.
async fn counted(watcher: &FailoverLatch) -> impl Fn(&str) -> u64 + use<> {
    let report = watcher.handle("{}", Deadline::after(Duration::from_secs(9))).await;
    let lines: Vec<_> = report.metrics("watch", std::time::SystemTime::now()).collect();
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    move |name| line[name].as_u64().unwrap()
}

#[tokio::test]
async fn a_lock_that_is_due_and_not_set_is_counted_as_missed() {
    // Nothing was due, or it was set.
    let site = Site::start().await;
    let watcher = site.watcher().await;
    assert_eq!(counted(&watcher).await("Missed"), 0);
    site.fails_over();
    let locks = counted(&watcher).await;
    assert_eq!((locks("Missed"), locks("Locked")), (0, 1), "it was set");
    // It stands, as of the last look that saw it.
    site.s3.stop().await;
    assert_eq!(counted(&watcher).await("Missed"), 0);
    let dry_run = Site::failed_over().await;
    let seen = counted(&dry_run.watcher_with(&[("DRY_RUN", "true")]).await).await;
    assert_eq!((seen("Missed"), seen("DryRun"), seen("Armed")), (1, 1, 0));
    // The buckets do not answer a watcher that has seen no lock.
    let unread = Site::failed_over().await;
    unread.s3.stop().await;
    assert_eq!(counted(&unread.watcher().await).await("Missed"), 1);
    // No name server answers over TCP.
    let closed = Site::failed_over().await;
    for server in 0..4 {
        closed.servers.close_tcp(server).await;
    }
    assert_eq!(counted(&closed.watcher().await).await("Missed"), 1);
    // A person holds it.
    let held = Site::failed_over().await;
    held.s3.put(A, HOLD, "{}");
    assert_eq!(counted(&held.watcher().await).await("Missed"), 0);
}

#[tokio::test]
async fn a_watcher_that_no_server_answers_over_tcp_is_not_armed() {
    let site = Site::start().await;
    for server in 0..3 {
        site.servers.close_tcp(server).await;
    }
    let watcher = site.watcher().await;
    // It stays blind until two answer.
    for _ in 0..2 {
        assert_eq!(look(&watcher).await.as_deref(), Ok("blind"));
    }
    site.servers.open_tcp(2).await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("armed"));
}

/// Neither the verdict over UDP nor the one over TCP counts alone.
#[tokio::test]
async fn a_watcher_whose_servers_contradict_over_tcp_what_they_say_over_udp_is_not_armed() {
    for (failed_over, over_tcp, dry_run) in [
        (true, ["primary"; 4], "false"),
        (true, ["primary"; 4], "true"),
        (true, ["standby", "standby", "primary", "primary"], "false"),
        (false, ["standby"; 4], "false"),
        (false, ["standby"; 4], "true"),
        (false, ["standby", "standby", "primary", "primary"], "false"),
    ] {
        let site = Site::start().await;
        if failed_over {
            site.fails_over();
        }
        for (server, text) in over_tcp.into_iter().enumerate() {
            site.servers.set_fault_about_over(server, SERVING_SENTINEL, Transport::Tcp, Dns::Text(text));
        }
        let watcher = site.watcher_with(&[("DRY_RUN", dry_run)]).await;
        for _ in 0..2 {
            assert_eq!(look(&watcher).await.as_deref(), Ok("unsettled"), "{failed_over} {over_tcp:?}");
        }
        pass(Duration::from_secs(61)).await;
        assert_eq!(look(&watcher).await.as_deref(), Ok("blind"), "{failed_over} {over_tcp:?}");
        assert_eq!(watcher.memory().unhealthy(Duration::from_secs(5)), ["app"]);
        assert_eq!(site.objects(), NONE);
    }
}

/// A time without looks.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// A look that fails is no clear answer.
#[tokio::test]
async fn a_look_that_fails_does_not_end_the_time_without_a_clear_answer() {
    let site = Site::start().await;
    let watcher = site.watcher().await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("armed"));
    let unhealthy = || watcher.memory().unhealthy(Duration::from_mins(1));
    let all = |fault| (0..4).for_each(|server| site.servers.set_fault(server, fault));
    all(Dns::Code(ResponseCode::ServFail));
    for seconds in [0, 40, 40] {
        pass(Duration::from_secs(seconds)).await;
        site.s3.up(A);
        assert_eq!(look(&watcher).await.as_deref(), Ok("blind"));
        site.s3.down(A, Down::Refused);
        assert!(look(&watcher).await.is_err());
    }
    assert_eq!(unhealthy(), ["app"], "as of a look that failed");
    all(Dns::None);
    assert!(look(&watcher).await.is_err());
    assert!(unhealthy().is_empty(), "the name servers answer");
}

/// Under a hold no name server is asked.
#[tokio::test]
async fn a_hold_is_no_time_without_a_clear_answer() {
    let site = Site::start().await;
    let watcher = site.watcher().await;
    (0..4).for_each(|server| site.servers.set_fault(server, Dns::Code(ResponseCode::ServFail)));
    assert_eq!(look(&watcher).await.as_deref(), Ok("blind"));
    site.s3.put(B, HOLD, "{}");
    pass(Duration::from_secs(61)).await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("holding"));
    assert!(watcher.memory().unhealthy(Duration::from_mins(10)).is_empty());
}

/// An answer over TCP proves nothing a minute later.
#[tokio::test]
async fn while_a_bucket_fails_the_name_servers_are_asked_over_tcp_once_a_minute_too() {
    let site = Site::start().await;
    let watcher = site.watcher().await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("armed"));
    site.s3.down(A, Down::Refused);
    (0..4).for_each(|server| {
        site.servers.set_fault_over(server, Transport::Tcp, Dns::Code(ResponseCode::ServFail));
    });
    for seconds in [61, 61, 1] {
        pass(Duration::from_secs(seconds)).await;
        assert!(look(&watcher).await.is_err());
    }
    assert_eq!(watcher.memory().unhealthy(Duration::from_mins(10)), ["app"]);
}

/// Where no lock would be due next, TCP is not asked of itself.
#[tokio::test]
async fn a_look_that_asks_no_server_over_tcp_does_not_end_the_time_without_a_clear_answer() {
    let site = Site::failed_over().await;
    (0..4).for_each(|server| {
        site.servers.set_fault_about_over(server, SERVING_SENTINEL, Transport::Tcp, Dns::Text("primary"));
    });
    let watcher = site.watcher().await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("unsettled"));
    for state in ["unsettled", "blind"] {
        // The standby's own check flaps.
        (0..4).for_each(|server| {
            site.servers.set_fault_about(server, STANDBY_SENTINEL, Dns::Text("unhealthy"));
        });
        assert_eq!(look(&watcher).await.as_deref(), Ok(state));
        pass(Duration::from_secs(61)).await;
    }
    (0..4).for_each(|server| {
        site.servers.set_fault_about_over(server, SERVING_SENTINEL, Transport::Tcp, Dns::Text("standby"));
    });
    assert_eq!(look(&watcher).await.as_deref(), Ok("standby_unhealthy"));
    assert!(watcher.memory().unhealthy(Duration::from_mins(10)).is_empty(), "TCP has answered as UDP");
}

#[tokio::test]
async fn questions_that_no_server_answers_keep_none_from_the_others() {
    let site = Site::start().await;
    let dead: Vec<_> = (0..64).map(|pair| format!("_serving.gone{pair}.example.com")).collect();
    let latches = dead.iter().enumerate().map(|(pair, serving)| {
        (0..4).for_each(|server| {
            for name in [serving, &serving.replace("_serving", "_standby")] {
                site.servers.set_fault_about(server, name, Dns::Silent);
            }
        });
        format!(
            "gone{pair}:serving={serving},primary={PRIMARY_SENTINEL},standby={}",
            serving.replace("_serving", "_standby")
        )
    });
    let latches: Vec<_> = latches.chain([site.variables()[0].1.clone()]).collect();
    let watcher = site.watcher_with(&[("LATCHES", &latches.join(";"))]).await;
    let states = answer(&watcher, "{}").await.unwrap().latches;
    assert_eq!((states["app"].clone(), states["gone0"].clone()), (State::Armed, State::Blind));
}

#[tokio::test]
async fn a_lock_that_is_due_does_not_wait_for_a_latch_whose_servers_contradict_each_other() {
    const SPLIT: &str = "_serving.two.example.com";
    let site = Site::failed_over().await;
    {
        let mut world = site.world.lock();
        world.put([Record::txt(SPLIT, "standby")]);
        world.pass(Duration::from_mins(1));
    }
    site.servers.set_fault_about(0, SPLIT, Dns::Text("primary"));
    let two = format!(
        "two:serving={SPLIT},primary={PRIMARY_SENTINEL},standby={STANDBY_SENTINEL};{}",
        site.variables()[0].1
    );
    let watcher = site.watcher_with(&[("LATCHES", &two)]).await;
    let held = site.s3.hold("PutObject", A);
    let asked = || site.servers.queries(0, SPLIT, Transport::Udp);
    let (answer, ()) = tokio::join!(answer(&watcher, "{}"), async {
        held.reached().await;
        assert_eq!(asked(), 1, "it is asked again once the other one is locked");
        held.release();
    });
    let states: Vec<_> = answer.unwrap().latches.into_values().collect();
    assert_eq!((states, asked()), (vec![State::Locked, State::Unsettled], 2));
}

/// What no look has seen for two minutes is not known.
#[tokio::test]
async fn an_absent_object_is_remembered_for_two_minutes() {
    // Seen by look after look that sees nothing, or after a time without looks.
    for pauses in [&[0, 60, 50][..], &[0, 60, 61], &[121]] {
        let site = Site::start().await;
        let watcher = site.watcher().await;
        assert_eq!(look(&watcher).await.as_deref(), Ok("armed"));
        for bucket in [A, B] {
            site.s3.down(bucket, Down::Refused);
        }
        for seconds in pauses {
            pass(Duration::from_secs(*seconds)).await;
            assert!(look(&watcher).await.is_err());
        }
        let known = pauses.iter().sum::<u64>() < 120;
        assert_eq!(watcher.memory().outcomes()[0].0.standing, known.then_some(false), "{pauses:?}");
    }
}

/// What every invalid answer has in common: it does not count.
#[tokio::test]
async fn two_valid_answers_lock_and_fewer_are_blind() {
    let invalid = [
        Dns::Silent,
        Dns::Code(ResponseCode::ServFail),
        Dns::Code(ResponseCode::Refused),
        Dns::Code(ResponseCode::NXDomain),
        Dns::Lame,
        Dns::WrongId,
        Dns::WrongQuestion,
        Dns::WrongName,
        Dns::WrongType,
        Dns::WrongClass,
        Dns::TwoRecords,
        Dns::TwoStrings,
        Dns::Text("Standby"),
        Dns::Text(""),
        Dns::Garbage,
    ];
    for fault in invalid {
        let site = Site::failed_over().await;
        let watcher = site.watcher().await;
        for server in 0..3 {
            site.servers.set_fault(server, fault);
        }
        assert_eq!(look(&watcher).await.as_deref(), Ok("blind"), "{fault:?}");
        assert_eq!(site.objects(), NONE, "{fault:?}");
        site.servers.set_fault(2, Dns::None);
        assert_eq!(look(&watcher).await.as_deref(), Ok("locked"), "{fault:?}");
    }
}

#[tokio::test]
async fn a_forged_datagram_neither_blinds_a_server_nor_speaks_for_it() {
    let site = Site::start().await;
    let watcher = site.watcher().await;
    for server in 0..4 {
        site.servers.set_fault_over(server, Transport::Udp, Dns::Forged("standby"));
    }
    assert_eq!(look(&watcher).await.as_deref(), Ok("armed"));
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    for server in 0..4 {
        site.servers.set_fault_over(server, Transport::Udp, Dns::Forged("primary"));
    }
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_over_tcp() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    for server in 0..4 {
        site.servers.set_fault_over(server, Transport::Udp, Dns::Truncated);
    }
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
}

#[tokio::test]
async fn a_lock_needs_two_servers_over_tcp_that_agree() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    for server in 0..3 {
        site.servers.close_tcp(server).await;
    }
    assert_eq!(look(&watcher).await.as_deref(), Ok("blind"));
    assert_eq!(site.objects(), NONE);
    site.servers.open_tcp(0).await;
    site.servers.set_fault_over(1, Transport::Tcp, Dns::Reset);
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"), "servers that fail over TCP do not count");
}

#[tokio::test]
async fn servers_that_disagree_are_asked_again_and_lock_nothing() {
    let site = Site::start().await;
    let watcher = site.watcher().await;
    {
        let mut world = site.world.lock();
        world.set_lag(0, Duration::from_hours(1));
        // What the server with the lag says is older than the failover.
        world.pass(Duration::from_hours(1));
    }
    site.fails_over();
    assert_eq!(look(&watcher).await.as_deref(), Ok("unsettled"));
    assert_eq!(site.objects(), NONE);
    assert_eq!(site.servers.queries(0, SERVING_SENTINEL, Transport::Udp), 2);
    assert_eq!(site.servers.queries(0, STANDBY_SENTINEL, Transport::Udp), 2);
    site.world.lock().set_lag(0, Duration::ZERO);
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
}

#[tokio::test]
async fn a_fresh_hold_ends_the_look_and_a_stale_one_does_not() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    site.s3.put(B, HOLD, "{}");
    assert_eq!(look(&watcher).await.as_deref(), Ok("holding"));
    assert_eq!((site.objects(), site.servers.queries(0, SERVING_SENTINEL, Transport::Udp)), (NONE, 0));
    site.s3.remove(B, HOLD);
    site.s3.put_aged(B, HOLD, "{}", Duration::from_secs(601));
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
}

#[tokio::test]
async fn a_hold_that_comes_during_the_look_stops_the_write() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    // The first read of the hold, then the one of the key; just before the second read of the hold it is put.
    let put = Fault::Meddle(Arc::new(|s3| drop(s3.put(A, HOLD, "{}"))));
    for fault in [Fault::Pass, Fault::Pass, put] {
        site.s3.fail("GetObject", A, fault);
    }
    assert_eq!(look(&watcher).await.as_deref(), Ok("holding"));
    assert_eq!(site.objects(), NONE);
}

/// Rule M: a write that outlives its look must not land.
#[tokio::test]
async fn a_write_that_arrives_late_is_refused() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    let held = site.s3.hold("PutObject", A);
    let (state, ()) = tokio::join!(look(&watcher), async {
        held.reached().await;
        site.s3.until(|_| site.objects()[1]).await;
    });
    assert_eq!(state.as_deref(), Ok("half"), "the bucket did not answer");
    site.s3.advance(Duration::from_secs(16));
    held.release();
    let is_refused = |call: &Call| call.operation == "PutObject" && call.status == Some(403);
    site.s3.until(|s3| s3.calls().iter().any(is_refused)).await;
    assert_eq!(site.objects(), [false, true]);
}

#[tokio::test]
async fn a_clock_that_is_off_ends_the_look() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    site.s3.advance(Duration::from_secs(10));
    let failed = look(&watcher).await.unwrap_err();
    assert!(failed.contains("the watcher's clock is off"), "{failed}");
    assert_eq!(site.objects(), NONE);
    site.s3.set_back(Duration::from_secs(20));
    let failed = look(&watcher).await.unwrap_err();
    assert!(failed.contains("the watcher's clock is off"), "{failed}");
}

#[tokio::test]
async fn a_lock_survives_the_loss_of_a_region_and_is_healed_with_the_first_body() {
    for down in [Down::Refused, Down::Silent] {
        let site = Site::start().await;
        let watcher = site.watcher().await;
        site.s3.down(A, down);
        assert!(look(&watcher).await.unwrap_err().contains(A), "{down:?}");
        site.fails_over();
        assert_eq!(look(&watcher).await.as_deref(), Ok("half"), "{down:?}");
        assert_eq!(site.objects(), [false, true], "{down:?}");
        assert_eq!(look(&watcher).await.as_deref(), Ok("half"), "{down:?}");
        site.s3.up(A);
        assert_eq!(look(&watcher).await.as_deref(), Ok("locked"), "{down:?}");
        let (healed, first) = ([A, B].map(|bucket| site.s3.object(bucket, KEY).unwrap().text())).into();
        let first: Value = serde_json::from_str(&first).unwrap();
        let mut body: Value = serde_json::from_str(&healed).unwrap();
        assert!(body["healedAt"].is_string(), "{healed}");
        body.as_object_mut().unwrap().remove("healedAt");
        assert_eq!(body, first);
    }
}

#[tokio::test]
async fn half_a_lock_is_not_healed_while_the_primary_serves() {
    let site = Site::start().await;
    let watcher = site.watcher().await;
    site.s3.put(A, KEY, "{}");
    assert_eq!(look(&watcher).await.as_deref(), Ok("half"));
    site.s3.remove(A, KEY);
    site.s3.put_aged(A, KEY, "{}", Duration::from_secs(130));
    assert_eq!(look(&watcher).await.as_deref(), Ok("not_holding"));
    assert_eq!(site.objects(), [true, false]);
}

#[tokio::test]
async fn an_invisible_bucket_is_a_failure_and_the_other_one_is_locked() {
    for (fault, said) in [
        (Fault::FORBIDDEN, "AccessDenied"),
        (Fault::Error(404, "NoSuchBucket", "The specified bucket does not exist"), "NoSuchBucket"),
        (Fault::Redirect("eu-south-1"), "301"),
    ] {
        let site = Site::failed_over().await;
        let watcher = site.watcher().await;
        site.s3.fail_always("GetObject", A, fault);
        let failed = look(&watcher).await.unwrap_err();
        assert!(failed.contains(A) && failed.contains(said), "{failed}");
        assert_eq!(site.objects(), [false, true], "{said}");
    }
}

#[tokio::test]
async fn a_bucket_that_hides_absent_keys_is_invisible() {
    let site = Site::start().await;
    let watcher = site.watcher().await;
    site.s3.revoke(B, WATCHER, "s3:ListBucket");
    let failed = look(&watcher).await.unwrap_err();
    assert!(failed.contains(B) && failed.contains("AccessDenied"), "{failed}");
}

#[tokio::test]
async fn two_writes_that_meet_are_no_failure() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    site.s3.fail("PutObject", A, Fault::CONFLICT);
    site.s3.fail("PutObject", B, Fault::CONFLICT);
    assert_eq!(look(&watcher).await.as_deref(), Ok("unsettled"));
    let meddle = Fault::Meddle(Arc::new(|s3| drop(s3.put(A, KEY, "{\"by\":\"watcher-2\"}"))));
    site.s3.fail("PutObject", A, meddle);
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"), "412 is a lock that is there");
    assert_eq!(site.s3.history(A, KEY).len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_lost_after_the_write_is_seen_at_the_next_look() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    site.s3.fail("PutObject", A, Fault::CloseAfter);
    site.s3.fail("PutObject", B, Fault::INTERNAL_AFTER);
    assert!(look(&watcher).await.is_err());
    assert_eq!(site.objects(), BOTH);
    for _ in 0..2 {
        assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
        assert_eq!(watcher.memory().outcomes()[0].1.locked, 1, "it is counted then, and once");
    }
}

#[tokio::test]
async fn a_lock_of_a_look_that_was_cut_off_is_counted_by_the_next_one() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    let held = site.s3.hold_admitted("PutObject", B);
    // A second of the deadline is for the answer.
    let cut_off = watcher.handle("{}", Deadline::after(Duration::from_secs(2))).await;
    assert!(cut_off.into_answer().unwrap_err().to_string().contains("cut off"));
    held.release();
    site.s3.until(|_| site.objects() == BOTH).await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
    assert_eq!(watcher.memory().outcomes()[0].1.locked, 1);
}

#[tokio::test]
async fn of_two_watchers_one_counts_a_lock_also_where_its_answer_was_lost() {
    let site = Site::failed_over().await;
    let (first, second) = (site.watcher().await, site.watcher().await);
    let locked = |watcher: &FailoverLatch| watcher.memory().outcomes()[0].1.locked;
    // The first one's write arrives in A, and its answer does not; the second one is faster in B.
    site.s3.fail("PutObject", A, Fault::CloseAfter);
    site.s3.fail(
        "PutObject",
        B,
        Fault::Meddle(Arc::new(|s3| drop(s3.put(B, KEY, "{\"by\":\"watcher-2\"}")))),
    );
    assert_eq!(look(&first).await.as_deref(), Ok("half"));
    assert_eq!(look(&second).await.as_deref(), Ok("locked"));
    assert_eq!((locked(&first), locked(&second)), (0, 0));
    assert_eq!(look(&first).await.as_deref(), Ok("locked"));
    assert_eq!((locked(&first), locked(&second)), (1, 0));
}

#[tokio::test]
async fn the_control_object_is_written_once() {
    let site = Site::start().await;
    for bucket in [A, B] {
        site.s3.grant(bucket, WATCHER, "s3:PutObject", "control");
    }
    let watcher = site.watcher().await;
    for done in ["created", "already_there"] {
        let control = answer(&watcher, r#"{"control": true}"#).await.unwrap().control.unwrap();
        assert!(control.values().all(|said| *said == done), "{control:?}");
    }
}

/// The answer of a tick is an error if and only if every latch failed.
#[tokio::test]
async fn one_latch_that_fails_does_not_fail_the_others() {
    let site = Site::failed_over().await;
    let two = format!(
        "{};two:serving=_serving.two.example.com,primary=_primary.two.example.com,standby=_standby.two.example.com",
        site.variables()[0].1
    );
    let watcher = site.watcher_with(&[("LATCHES", &two)]).await;
    let answer = answer(&watcher, "{}").await.unwrap();
    let states: Vec<_> = answer.latches.iter().map(|(name, state)| (name.as_str(), state.name())).collect();
    assert_eq!(states, [("app", "locked"), ("two", "blind")]);
}

/// Polling costs calls per page, not per latch.
#[tokio::test]
async fn many_latches_are_read_by_the_page() {
    let site = Site::start().await;
    let names = (0..500).map(|number| {
        let at = |role: &str| format!("_{role}.app-{number}.example.com");
        format!("app-{number}:serving={},primary={},standby={}", at("serving"), at("primary"), at("standby"))
    });
    let latches = names.chain([site.variables()[0].1.clone()]).collect::<Vec<_>>().join(";");
    let watcher = site.watcher_with(&[("LATCHES", &latches)]).await;
    site.s3.put_aged(A, "latches/app-7", "{}", Duration::from_secs(5));
    site.s3.put_aged(B, "latches/app-7", "{}", Duration::from_secs(5));
    site.fails_over();
    let answer = answer(&watcher, "{}").await.unwrap();
    assert_eq!(answer.latches["app"].name(), "locked");
    let calls = site.s3.calls_by(WATCHER);
    let lists = calls.iter().filter(|call| call.starts_with("ListObjectsV2")).count();
    assert_eq!(
        (lists, calls.len()),
        (4, 8),
        "two pages and, for the one latch, a hold and a write in each bucket: {calls:?}"
    );
}

/// A Region that comes back must not take so long to heal that the look is cut off.
#[tokio::test]
async fn a_bucket_that_stops_answering_costs_many_latches_one_wait() {
    let site = Site::failed_over().await;
    let latches = (0..100)
        .map(|number| {
            format!("app-{number}:serving=_serving.app.example.com,primary=_primary.app.example.com,standby=_standby.app.example.com")
        })
        .collect::<Vec<_>>()
        .join(";");
    let watcher = site.watcher_with(&[("LATCHES", &latches)]).await;
    site.s3.fail_always("PutObject", A, Fault::Hang);
    let looked = answer(&watcher, "{}").await.unwrap();
    assert!(looked.latches.values().all(|state| state.name() == "half"), "{looked:?}");
    assert_eq!((site.s3.keys(A).len(), site.s3.keys(B).len()), (0, 100));
    site.s3.fail_never("PutObject", A);
    let healed = answer(&watcher, "{}").await.unwrap();
    assert!(healed.latches.values().all(|state| state.name() == "locked"), "{healed:?}");
}

#[tokio::test]
async fn a_name_server_that_answers_one_question_a_connection_delays_no_lock() {
    let site = Site::failed_over().await;
    let latches = (0..5)
        .map(|number| {
            format!("app-{number}:serving=_serving.app.example.com,primary=_primary.app.example.com,standby=_standby.app.example.com")
        })
        .collect::<Vec<_>>()
        .join(";");
    let watcher = site.watcher_with(&[("LATCHES", &latches)]).await;
    site.servers.set_fault_over(0, Transport::Tcp, Dns::Slow(Duration::from_millis(900)));
    let answer = answer(&watcher, "{}").await.unwrap();
    assert!(answer.latches.values().all(|state| state.name() == "locked"), "{answer:?}");
}

/// What was not seen is neither gone nor opened.
#[tokio::test]
async fn a_lock_that_cannot_be_seen_counts_as_standing() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
    for bucket in [A, B] {
        site.s3.down(bucket, Down::Refused);
    }
    assert!(look(&watcher).await.is_err());
    let (seen, totals) = watcher.memory().outcomes().remove(0);
    assert!(seen.standing == Some(true) && !seen.opened, "{seen:?}");
    assert_eq!((totals.locked, totals.opened), (1, 0));
    for bucket in [A, B] {
        site.s3.up(bucket);
        site.s3.remove(bucket, KEY);
    }
    // Without a hold, that is an opening.
    site.primary(true);
    assert_eq!(look(&watcher).await.as_deref(), Ok("armed"));
    assert_eq!(watcher.memory().outcomes()[0].1.opened, 1);
}

/// A bucket that does not answer hides no opening in the one that had the object.
#[tokio::test]
async fn an_opening_is_counted_while_the_bucket_without_the_object_does_not_answer() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    site.s3.down(B, Down::Refused);
    let _ = look(&watcher).await;
    assert_eq!(site.objects(), [true, false]);
    let _ = look(&watcher).await;
    site.s3.remove(A, KEY);
    site.primary(true);
    for _ in 0..2 {
        let _ = look(&watcher).await;
        let (seen, totals) = watcher.memory().outcomes().remove(0);
        assert_eq!((seen.standing, totals.opened), (None, 1), "{seen:?}");
    }
    // Also where its write had failed just before.
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    site.s3.fail("PutObject", B, Fault::CloseBefore);
    let _ = look(&watcher).await;
    assert_eq!(site.objects(), [true, false]);
    site.s3.down(B, Down::Refused);
    site.s3.remove(A, KEY);
    site.primary(true);
    let _ = look(&watcher).await;
    assert_eq!(watcher.memory().outcomes()[0].1.opened, 1);
    // One that had it may have it still.
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    for _ in 0..2 {
        assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
    }
    site.s3.down(B, Down::Refused);
    site.s3.remove(A, KEY);
    site.primary(true);
    let _ = look(&watcher).await;
    let (seen, totals) = watcher.memory().outcomes().remove(0);
    assert_eq!((seen.standing, totals.opened), (Some(true), 0), "{seen:?}");
}

#[tokio::test]
async fn an_object_that_is_gone_under_a_hold_is_released_and_not_opened() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    for _ in 0..2 {
        assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
    }
    site.s3.put(A, HOLD, "{}");
    assert_eq!(look(&watcher).await.as_deref(), Ok("holding"));
    assert_eq!(watcher.memory().outcomes()[0].0.standing, Some(true), "it keeps its last value");
    for bucket in [A, B] {
        site.s3.remove(bucket, KEY);
    }
    site.s3.remove(A, HOLD);
    site.primary(true);
    assert_eq!(look(&watcher).await.as_deref(), Ok("armed"));
    assert_eq!(watcher.memory().outcomes()[0].1.opened, 0);
}

#[tokio::test]
async fn an_object_that_was_gone_after_a_time_without_looks_may_have_been_released() {
    for (seconds, opened) in [(60, 1), (121, 0)] {
        let site = Site::failed_over().await;
        let watcher = site.watcher().await;
        assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
        for bucket in [A, B] {
            site.s3.remove(bucket, KEY);
        }
        site.primary(true);
        pass(Duration::from_secs(seconds)).await;
        assert_eq!(look(&watcher).await.as_deref(), Ok("armed"));
        assert_eq!(watcher.memory().outcomes()[0].1.opened, opened, "{seconds}");
    }
}

#[tokio::test]
async fn an_opening_is_counted_also_if_the_same_look_locks_again() {
    let site = Site::failed_over().await;
    let watcher = site.watcher().await;
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
    for bucket in [A, B] {
        site.s3.remove(bucket, KEY);
    }
    assert_eq!(look(&watcher).await.as_deref(), Ok("locked"));
    let totals = watcher.memory().outcomes()[0].1;
    assert_eq!((totals.locked, totals.opened), (2, 1));
}
