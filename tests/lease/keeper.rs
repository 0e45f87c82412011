//! Several `lease-keeper` processes around one table, behind proxies that delay, lose and cut: in no case
//! do two of them answer 200 at once.

use std::future::pending;
use std::time::Duration;

use crate::command::{eventually, is_gone, runs_as};
use crate::support::docs::commands_below;
use crate::support::emulator::Emulator;
use crate::support::keeper::{Keeper, LEASE, Observer, TABLE, create_table, get, pin, put, record, spawn};
use crate::support::proxy::{Fault, PATIENCE, Proxy};
use failover::lease::claim::Standing;
use failover::lease::held::Obstacle;
use failover::lease::status::Status;
use failover::lease::{self, Candidate, Table, Terms};
use serde_json::{Value, json};
use tokio::time::timeout;

/// Longer than a keeper waits for an answer: half its period.
const TOO_LONG: Duration = Duration::from_millis(800);
/// Shorter than a keeper waits for an answer.
const SLOW: Duration = Duration::from_millis(300);

/// Two keepers around a new table, the first of which is active.
async fn pair(emulator: &Emulator) -> (Keeper, Keeper, Observer, u64) {
    create_table(emulator).await;
    let holder = Keeper::start(emulator, "site-a").await;
    let mut observer = Observer::of(&[&holder]);
    let epoch = observer.active(&holder).await;
    let contender = Keeper::start(emulator, "site-b").await;
    observer.add(&contender);
    contender.states("it is site-a's").await;
    (holder, contender, observer, epoch)
}

/// How often a contender looks at most from its holder's last renewal until it takes over: it first sees that up to
/// a period later, and then watches it for a term of three; one look more finds out what the last write did.
const LOOKS_OF_A_TAKEOVER: usize = 6;

/// A holder that is killed, and one that ends as it should, on this table.
async fn is_followed(emulator: &Emulator) {
    let (holder, contender, mut observer, first) = pair(emulator).await;
    let looks = contender.proxy.calls("GetItem");
    holder.signal("KILL").await;
    let second = observer.active(&contender).await;
    assert!(second > first, "{second} follows {first}");
    let looks = contender.proxy.calls("GetItem") - looks;
    assert!(looks <= LOOKS_OF_A_TAKEOVER, "it looked {looks} times");

    // Its successor of the same name does not disturb the active candidate.
    let mut restarted = Keeper::start(emulator, "site-a").await;
    observer.add(&restarted);
    restarted.states("it is site-b's").await;
    let looks = restarted.proxy.calls("GetItem");
    contender.signal("TERM").await;
    let third = observer.active(&restarted).await;
    assert!(third > second, "{third} follows {second}");
    let looks = restarted.proxy.calls("GetItem") - looks;
    assert!(looks <= 2, "a released lease is taken at the next look, not after {looks}");
    contender.says("it releases the lease").await;

    restarted.signal("TERM").await;
    assert_eq!(restarted.ended().await.code(), Some(0));
    let left = record(emulator).await;
    assert_eq!((&left["leaseOwner"]["S"], &left["leaseReleased"]["BOOL"]), (&json!(""), &json!(true)));
    assert_eq!(left["leaseEpoch"]["N"], third.to_string());
    observer.vouch();
}

#[tokio::test]
async fn a_lease_is_taken_over_from_the_dead_and_handed_over_by_the_living() {
    is_followed(&Emulator::ministack().await).await;
}

#[tokio::test]
async fn a_lease_changes_hands_the_same_way_on_an_independent_emulator() {
    is_followed(&Emulator::moto().await).await;
}

#[tokio::test]
async fn a_holder_that_wakes_up_too_late_never_reports_that_it_is_active() {
    let emulator = Emulator::ministack().await;
    let (holder, contender, observer, first) = pair(&emulator).await;
    holder.signal("STOP").await;
    let second = observer.active(&contender).await;
    assert!(second > first);
    // These requests wait for the holder when it wakes up.
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let address = holder.address.clone();
                async move { get(&address, "/leader").await }
            })
        })
        .collect();
    tokio::task::yield_now().await;
    holder.signal("CONT").await;
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap().0, 503);
    }
    observer.passive(&holder).await;
    holder.says("\"passive\"").await;
    holder.states("it is site-b's").await;
    observer.vouch();
}

#[tokio::test]
async fn a_holder_that_is_cut_off_is_passive_before_another_candidate_is_active() {
    let emulator = Emulator::ministack().await;
    let (holder, contender, observer, _) = pair(&emulator).await;
    holder.proxy.all(Fault::Lost);
    observer.passive(&holder).await;
    assert_eq!(contender.get("/leader").await.0, 503, "the term is not over yet");
    let said = holder.says("\"passive\"").await;
    assert!(said.contains("it could not be renewed: dynamodb:"), "{said}");
    assert!(holder.state().await["failing"].as_str().unwrap().contains("no answer within 0.5 s"));
    observer.active(&contender).await;
    holder.proxy.all(Fault::None);
    holder.states("it is site-b's").await;
    assert_eq!(holder.get("/leader").await.0, 503);
    observer.vouch();
}

#[tokio::test]
async fn an_answer_without_the_record_is_no_proof_that_it_was_written() {
    let emulator = Emulator::ministack().await;
    let (holder, contender, observer, _) = pair(&emulator).await;
    for body in ["{}", r#"{"Attributes":{}}"#, r#"{"Attributes":{"leaseOwner":{"S":"site-a"}}}"#] {
        let refused = "the answer does not show the record as it was written";
        let before = holder.said(refused);
        holder.proxy.only("UpdateItem", Fault::Answer(body));
        observer.active(&contender).await;
        assert!(holder.said(refused) > before, "{body}");
        holder.proxy.only("UpdateItem", Fault::None);
        contender.proxy.all(Fault::Lost);
        observer.active(&holder).await;
        contender.proxy.all(Fault::None);
    }
    observer.vouch();
}

#[tokio::test]
async fn a_holder_whose_release_fails_is_not_active_again_after_a_request_to_hand_over() {
    let emulator = Emulator::ministack().await;
    let (holder, contender, observer, _) = pair(&emulator).await;
    // It renews with writes alone, whose answers show the request, and releases after a look.
    holder.proxy.only("GetItem", Fault::Lost);
    let key = r#"{"leaseName":{"S":"mylease"}}"#;
    let set = ["--update-expression", "SET leaseHandover = :h", "--expression-attribute-values"];
    let update = ["dynamodb", "update-item", "--table-name", TABLE, "--key", key];
    emulator.aws(&[&update[..], &set, &[r#"{":h":{"S":"site-b"}}"#]].concat()).await;
    holder.says("a person asks it to hand over").await;
    let state = holder.states("\"failing\":\"dynamodb:GetItem").await;
    assert_eq!(state["active"], false, "{state}");
    observer.active(&contender).await;
    assert_eq!(holder.said("\"active\""), 1);
    holder.proxy.only("GetItem", Fault::None);
    holder.states("it is site-b's").await;
    observer.vouch();
}

#[tokio::test]
async fn an_epoch_that_no_other_candidate_could_read_is_not_written() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let item = json!({
        "leaseName": { "S": "mylease" }, "leaseOwner": { "S": "" }, "updatedTime": { "N": "1" },
        "leaseEpoch": { "N": "9007199254740992" }, "leaseReleased": { "BOOL": true },
    });
    let item = item.to_string();
    emulator.aws(&["dynamodb", "put-item", "--table-name", TABLE, "--item", &item]).await;
    let candidate = Keeper::start(&emulator, "site-a").await;
    candidate.says("leaseEpoch would be beyond 2^53").await;
    assert_eq!(candidate.get("/leader").await.0, 503);
    assert_eq!(record(&emulator).await["leaseEpoch"]["N"], "9007199254740992");
}

#[tokio::test]
async fn a_call_that_fails_now_and_then_does_not_cost_the_lease() {
    let emulator = Emulator::ministack().await;
    let (holder, contender, observer, epoch) = pair(&emulator).await;
    let throttled = Fault::Error {
        status: 400,
        code: "ProvisionedThroughputExceededException",
        message: "The level of configured provisioned throughput for the table was exceeded",
    };
    for fault in [
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::AnswerLost,
        Fault::SlowCall(SLOW),
        Fault::SlowAnswer(SLOW),
        Fault::SlowCall(TOO_LONG),
        throttled,
    ] {
        let before = holder.proxy.calls("UpdateItem");
        holder.proxy.only("UpdateItem", fault);
        holder.proxy.arrived("UpdateItem", before + 1).await;
        holder.proxy.only("UpdateItem", Fault::None);
        // The lease is renewed again before the next fault.
        let renewed = holder.proxy.calls("UpdateItem") + 1;
        holder.proxy.arrived("UpdateItem", renewed).await;
        holder.states("\"failing\":null").await;
    }
    assert_eq!(observer.active(&holder).await, epoch);
    assert_eq!(observer.losses(&holder), 0, "{:?}", holder.state().await);
    assert_eq!(contender.state().await["active"], false);
    observer.vouch();
}

#[tokio::test]
async fn a_write_whose_answer_never_comes_is_found_done_by_the_next_look() {
    let emulator = Emulator::ministack().await;
    let (holder, contender, observer, epoch) = pair(&emulator).await;
    holder.proxy.only("UpdateItem", Fault::AnswerLost);
    let looks = contender.proxy.calls("GetItem");
    contender.proxy.arrived("GetItem", looks + 8).await;
    assert_eq!(observer.active(&holder).await, epoch);
    assert_eq!(observer.losses(&holder), 0, "{:?}", holder.state().await);
    observer.vouch();
}

#[tokio::test]
async fn a_write_that_arrives_after_a_takeover_changes_nothing() {
    let emulator = Emulator::ministack().await;
    let (holder, contender, observer, _) = pair(&emulator).await;
    holder.proxy.all(Fault::Held);
    let epoch = observer.active(&contender).await;
    assert!(holder.proxy.deliver().await > 0, "renewals were on their way");
    holder.proxy.all(Fault::None);
    holder.states("it is site-b's").await;
    let looks = holder.proxy.calls("GetItem");
    holder.proxy.arrived("GetItem", looks + 2).await;
    assert_eq!(observer.active(&contender).await, epoch);
    assert_eq!(observer.losses(&contender), 0);
    observer.vouch();
}

#[tokio::test]
async fn a_table_that_is_missing_is_waited_for() {
    let emulator = Emulator::ministack().await;
    let keeper = Keeper::start(&emulator, "site-a").await;
    let observer = Observer::of(&[&keeper]);
    let state = keeper.states("ResourceNotFoundException").await;
    assert!(state["failing"].as_str().unwrap().ends_with("Check that the table exists"), "{state}");
    create_table(&emulator).await;
    observer.active(&keeper).await;
    emulator.aws(&["dynamodb", "delete-table", "--table-name", TABLE]).await;
    observer.passive(&keeper).await;
    let said = keeper.says("\"passive\"").await;
    assert!(said.contains("ResourceNotFoundException"), "{said}");
}

#[tokio::test]
async fn credentials_that_expire_make_a_holder_passive_and_are_named() {
    let emulator = Emulator::ministack().await;
    let (holder, contender, observer, _) = pair(&emulator).await;
    holder.proxy.all(Fault::Error {
        status: 400,
        code: "ExpiredTokenException",
        message: "The security token included in the request is expired",
    });
    observer.passive(&holder).await;
    let said = holder.says("\"passive\"").await;
    assert!(said.contains("ExpiredTokenException (HTTP 400): The security token included"), "{said}");
    observer.active(&contender).await;
    observer.vouch();
}

#[tokio::test]
async fn a_person_pins_all_candidates_passive_and_ends_the_pin() {
    let emulator = Emulator::ministack().await;
    let (holder, contender, observer, epoch) = pair(&emulator).await;
    pin(&emulator).await;
    observer.passive(&holder).await;
    let said = holder.says("\"passive\"").await;
    assert!(said.contains("SKIP-LEASE-POD keeps all candidates passive"), "{said}");
    // The pin lasts, however long.
    let looks = contender.proxy.calls("GetItem");
    contender.proxy.arrived("GetItem", looks + 6).await;
    contender.states("SKIP-LEASE-POD keeps all candidates passive").await;
    assert_eq!(contender.state().await["active"], false);
    put(&emulator, "", "0").await;
    assert!(observer.anyone().await > epoch, "the epoch that the pin wiped out is not used again");
    observer.vouch();
}

#[tokio::test]
async fn a_record_that_cannot_be_read_keeps_all_candidates_passive_and_is_named() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let item =
        json!({ "leaseName": { "S": "mylease" }, "leaseOwner": { "N": "7" }, "updatedTime": { "N": "1" } });
    emulator.aws(&["dynamodb", "put-item", "--table-name", TABLE, "--item", &item.to_string()]).await;
    let keeper = Keeper::start(&emulator, "site-a").await;
    let state = keeper.states("leaseOwner is not a string").await;
    assert_eq!(state["active"], false);
    put(&emulator, "", "1").await;
    Observer::of(&[&keeper]).active(&keeper).await;
}

#[tokio::test]
async fn a_table_whose_regions_agree_only_later_is_refused() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let table = |more: Value| {
        let mut table = json!({
            "TableName": TABLE,
            "KeySchema": [{ "AttributeName": "leaseName", "KeyType": "HASH" }],
            "AttributeDefinitions": [{ "AttributeName": "leaseName", "AttributeType": "S" }],
        });
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "Table": table })
    };
    let replicas = json!([{ "RegionName": "eu-west-1", "ReplicaStatus": "ACTIVE" }]);
    let eventual = table(json!({ "Replicas": replicas, "GlobalTableVersion": "2019.11.21" }));
    let strong = table(json!({ "Replicas": replicas, "MultiRegionConsistency": "STRONG" }));
    let other = table(json!({ "KeySchema": [{ "AttributeName": "accelerator", "KeyType": "HASH" }] }));

    for (described, said) in
        [(&eventual, "a global table in eventual mode"), (&other, "the table's key is \\\"accelerator\\\"")]
    {
        let mut keeper = described_as(&emulator, described, &[]).await;
        assert_eq!(keeper.ended().await.code(), Some(1));
        keeper.says(said).await;
    }
    // Global tables of 2017 are visible only in their items.
    let item = json!({
        "leaseName": { "S": "mylease" },
        "leaseOwner": { "S": "" },
        "updatedTime": { "N": "1" },
        "aws:rep:updateregion": { "S": "eu-west-1" },
    });
    emulator.aws(&["dynamodb", "put-item", "--table-name", TABLE, "--item", &item.to_string()]).await;
    let mut keeper = Keeper::start(&emulator, "site-a").await;
    assert_eq!(keeper.ended().await.code(), Some(1));
    keeper.says("a global table in eventual mode").await;
    put(&emulator, "", "1").await;

    for (described, arguments) in [(&eventual, &["--one-region"][..]), (&strong, &[])] {
        let keeper = described_as(&emulator, described, arguments).await;
        Observer::of(&[&keeper]).active(&keeper).await;
    }
}

#[tokio::test]
async fn a_table_that_was_deleted_is_looked_at_again_when_it_is_back() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    put(&emulator, "", "1").await;
    let before = Proxy::start(&emulator.url).await;
    let mut keeper = Keeper::start_behind(&before.url, &emulator, "site-a", "", &[]).await;
    Observer::of(&[&keeper]).active(&keeper).await;
    // A pipeline deletes it, and creates it again as a global table in eventual mode.
    emulator.aws(&["dynamodb", "delete-table", "--table-name", TABLE]).await;
    keeper.says("ResourceNotFoundException").await;
    before.answer("DescribeTable", eventual());
    create_table(&emulator).await;
    assert_eq!(keeper.ended().await.code(), Some(1));
    keeper.says("a global table in eventual mode").await;
    std::mem::forget(before);
}

/// The description of a global table in eventual mode.
fn eventual() -> Value {
    json!({ "Table": {
        "TableName": TABLE,
        "KeySchema": [{ "AttributeName": "leaseName", "KeyType": "HASH" }],
        "AttributeDefinitions": [{ "AttributeName": "leaseName", "AttributeType": "S" }],
        "Replicas": [{ "RegionName": "eu-west-1", "ReplicaStatus": "ACTIVE" }],
    }})
}

#[tokio::test]
async fn a_table_that_could_not_be_seen_is_looked_at_again_before_the_lease_is_held_again() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    put(&emulator, "", "1").await;
    let before = Proxy::start(&emulator.url).await;
    let mut keeper = Keeper::start_behind(&before.url, &emulator, "site-a", "", &[]).await;
    let observer = Observer::of(&[&keeper]);
    observer.active(&keeper).await;
    // Meanwhile it is replaced, and the record copied.
    keeper.proxy.all(Fault::Error { status: 500, code: "InternalServerError", message: "try again" });
    observer.passive(&keeper).await;
    before.answer("DescribeTable", eventual());
    keeper.proxy.all(Fault::None);
    assert_eq!(keeper.ended().await.code(), Some(1));
    keeper.says("a global table in eventual mode").await;
    std::mem::forget(before);
}

#[tokio::test]
async fn a_standby_takes_over_while_only_descriptions_of_the_table_fail() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let holder = Keeper::start(&emulator, "site-a").await;
    Observer::of(&[&holder]).active(&holder).await;
    let standby = Keeper::start(&emulator, "site-b").await;
    standby.states("it is site-a's").await;
    // One read fails, and from then on DynamoDB's control plane.
    let failed = Fault::Error { status: 500, code: "InternalServerError", message: "try again" };
    standby.proxy.all(failed);
    standby.says("could not be claimed or renewed").await;
    standby.proxy.only("DescribeTable", failed);
    standby.proxy.all(Fault::None);
    standby.says("the table cannot be described").await;
    drop(holder);
    let observer = Observer::of(&[&standby]);
    observer.active(&standby).await;
    // Also when a person deletes the record.
    let key = json!({ "leaseName": { "S": "mylease" } }).to_string();
    emulator.aws(&["dynamodb", "delete-item", "--table-name", TABLE, "--key", &key]).await;
    observer.passive(&standby).await;
    observer.active(&standby).await;
}

#[tokio::test]
async fn a_standby_that_may_not_write_says_so() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let holder = Keeper::start(&emulator, "site-a").await;
    Observer::of(&[&holder]).active(&holder).await;
    let before = Proxy::start(&emulator.url).await;
    let denied = Fault::Error { status: 400, code: "AccessDeniedException", message: "not authorized" };
    before.only("UpdateItem", denied);
    let standby = Keeper::start_behind(&before.url, &emulator, "site-b", "", &[]).await;
    standby.states("UpdateItem").await;
    let (_, metrics) = standby.get("/metrics").await;
    assert!(metrics.contains("lease_keeper_failing{lease=\"mylease\"} 1"), "{metrics}");
    std::mem::forget(before);
}

#[tokio::test]
async fn an_answer_that_describes_no_table_is_asked_for_again() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let before = Proxy::start(&emulator.url).await;
    let table = emulator.aws(&["dynamodb", "describe-table", "--table-name", TABLE]).await;
    before.answer("DescribeTable", json!({ "Table": {} }));
    let started = Keeper::start_behind(&before.url, &emulator, "site-a", "", &[]);
    let mended = async {
        before.arrived("DescribeTable", 1).await;
        before.answer("DescribeTable", table);
    };
    let (keeper, ()) = tokio::join!(started, mended);
    Observer::of(&[&keeper]).active(&keeper).await;
}

/// A keeper that receives this description of its table.
async fn described_as(emulator: &Emulator, table: &Value, arguments: &[&str]) -> Keeper {
    let before = Proxy::start(&emulator.url).await;
    before.answer("DescribeTable", table.clone());
    let keeper = Keeper::start_behind(&before.url, emulator, "site-a", "", arguments).await;
    // Later requests through this proxy also need an answer.
    std::mem::forget(before);
    keeper
}

#[tokio::test]
async fn the_role_of_the_configuration_is_assumed() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let role = format!("  role: arn:aws:iam::{}:role/lease\n", emulator.account());
    let keeper = Keeper::start_with(&emulator, "site-a", &role, &[]).await;
    let observer = Observer::of(&[&keeper]);
    observer.active(&keeper).await;
    assert_eq!(keeper.proxy.calls("AssumeRole"), 1);
}

#[tokio::test]
async fn work_is_dropped_when_the_lease_is_lost_and_work_that_continues_prevents_its_release() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let table = Table::new(&emulator.config().await, TABLE, LEASE);
    let period = Duration::from_secs(1);
    let me = Candidate::new("site-a").unwrap();
    let terms = Terms::of(period, 3).unwrap();
    let (keeper, lease) = lease::Keeper::new(table, me, period, terms, terms.term());
    let keeping = tokio::spawn(keeper.run());
    let held = lease.held().await.expect("no other candidate wants it");
    assert_eq!(held.during(async { held.epoch() }).await, Some(held.epoch()));
    lease.leave();
    assert_eq!(held.during(pending::<()>()).await, None);
    assert!(!held.is_held() && lease.held().await.is_none());
    keeping.await.unwrap().unwrap();
    let left = record(&emulator).await;
    assert_eq!((&left["leaseOwner"]["S"], &left["leaseReleased"]), (&json!("site-a"), &Value::Null));
    drop(held);
}

#[tokio::test]
async fn a_candidate_whose_work_does_not_end_goes_on_looking_and_renews_nothing() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let proxy = Proxy::start(&emulator.url).await;
    let aws = emulator.config().await.into_builder().endpoint_url(&proxy.url).build();
    let (period, me) = (Duration::from_secs(1), Candidate::new("site-a").unwrap());
    let terms = Terms::of(period, 2).unwrap();
    let table = Table::new(&aws, TABLE, LEASE);
    let (keeper, lease) = lease::Keeper::new(table, me, period, terms, terms.term());
    let keeper = keeper.with_stop(Duration::ZERO);
    let keeping = tokio::spawn(keeper.run());
    let held = lease.held().await.expect("no other candidate wants it");
    lease.able(Obstacle::Leftovers, Err("processes are left".to_owned()));
    let shows = async |what: &str, is_so: &dyn Fn(&Status) -> bool| {
        eventually(what, async || is_so(&lease.status())).await;
        let status = lease.status();
        assert!(status.active().is_none() && status.unwilling.is_some(), "{status:?}");
    };
    let looks = proxy.calls("GetItem");
    proxy.arrived("GetItem", looks + 2).await;
    let writes = proxy.calls("UpdateItem");
    pin(&emulator).await;
    shows("it sees the pin", &|status| status.standing == Standing::Pinned).await;
    put(&emulator, "site-b", "1").await;
    shows("it sees the next holder", &|status| {
        status.record.as_ref().is_some_and(|record| record.owner == "site-b")
    })
    .await;
    emulator.aws(&["dynamodb", "delete-table", "--table-name", TABLE]).await;
    shows("it sees that the table is gone", &|status| status.failing.is_some()).await;
    assert_eq!(proxy.calls("UpdateItem"), writes, "it renews nothing, and releases nothing");

    create_table(&emulator).await;
    drop(held);
    lease.able(Obstacle::Leftovers, Ok(()));
    let held = lease.held().await.expect("no other candidate wants it");
    lease.leave();
    drop(held);
    keeping.await.unwrap().unwrap();
    assert_eq!(record(&emulator).await["leaseReleased"]["BOOL"], true);
}

/// A script that reports its start and TERM.
const SCRIPT: &str = "echo runs $LEASE_NAME $LEASE_OWNER $LEASE_EPOCH; trap 'echo told; exit 0' TERM; while :; do sleep 0.05; done";

#[tokio::test]
async fn a_command_runs_while_the_lease_is_held_and_no_longer() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let command = ["--", "sh", "-c", SCRIPT];
    let mut holder = Keeper::start_with(&emulator, "site-a", "", &command).await;
    let mut observer = Observer::of(&[&holder]);
    let epoch = observer.active(&holder).await;
    holder.says(&format!("runs mylease site-a {epoch}")).await;
    let contender = Keeper::start_with(&emulator, "site-b", "", &command).await;
    observer.add(&contender);
    contender.states("it is site-a's").await;

    holder.proxy.all(Fault::Lost);
    holder.says("told").await;
    holder.says("\"the command was ended\"").await;
    let second = observer.active(&contender).await;
    contender.says(&format!("runs mylease site-b {second}")).await;

    // After TERM it releases the lease, but only when its command has ended does the other candidate have it.
    holder.proxy.all(Fault::None);
    holder.states("it is site-b's").await;
    contender.signal("TERM").await;
    contender.says("told").await;
    let third = observer.active(&holder).await;
    holder.says(&format!("runs mylease site-a {third}")).await;
    holder.signal("TERM").await;
    assert_eq!(holder.ended().await.code(), Some(0));
    assert_eq!(record(&emulator).await["leaseOwner"]["S"], "");
    observer.vouch();
}

#[tokio::test]
async fn a_command_that_does_not_end_after_term_is_killed_before_another_candidate_is_active() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let stubborn = "trap '' TERM; echo runs as $$; while :; do sleep 0.05; done";
    let holder = Keeper::start_with(&emulator, "site-a", "", &["--", "sh", "-c", stubborn]).await;
    let id = &runs_as(&holder).await;
    let contender = Keeper::start(&emulator, "site-b").await;
    contender.states("it is site-a's").await;
    let observer = Observer::of(&[&holder, &contender]);
    holder.proxy.all(Fault::Lost);
    observer.active(&contender).await;
    assert!(is_gone(id), "it does not run beside the next one");
    holder.says("it was killed").await;
}

/// A script whose work is done by a child of its own.
const WORKER: &str = "sh -c 'while :; do sleep 0.05; done' & echo runs as $!; wait";

#[tokio::test]
async fn a_command_and_its_children_do_not_outlive_their_keeper() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let mut keeper = Keeper::start_with(&emulator, "site-a", "", &["--", "sh", "-c", WORKER]).await;
    let id = &runs_as(&keeper).await;
    keeper.signal("KILL").await;
    keeper.ended().await;
    let gone = async {
        while !is_gone(id) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("what the command started is killed as well");
}

#[tokio::test]
async fn a_command_does_not_run_on_when_its_keeper_is_stopped() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let holder = Keeper::start_with(&emulator, "site-a", "", &["--", "sh", "-c", WORKER]).await;
    let id = &runs_as(&holder).await;
    let contender = Keeper::start(&emulator, "site-b").await;
    let observer = Observer::of(&[&contender]);
    contender.states("it is site-a's").await;
    holder.signal("STOP").await;
    observer.active(&contender).await;
    assert!(is_gone(id), "it does not run beside the next one");
    holder.signal("CONT").await;
}

#[tokio::test]
async fn a_contender_waits_for_the_term_that_the_holder_has() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let holder = Keeper::start(&emulator, "site-a").await;
    let mut observer = Observer::of(&[&holder]);
    observer.active(&holder).await;
    // The record of a holder with a term of 12 s.
    let key = json!({ "leaseName": { "S": "mylease" } }).to_string();
    holder.signal("KILL").await;
    let update = ["dynamodb", "update-item", "--table-name", TABLE, "--key", &key];
    let set = ["--update-expression", "SET leaseTerm = :term", "--expression-attribute-values"];
    let value = json!({ ":term": { "N": "12000" } }).to_string();
    emulator.aws(&[&update[..], &set, &[&value]].concat()).await;
    let contender = Keeper::start_with(&emulator, "site-b", "  longestTermInSeconds: 10\n", &[]).await;
    observer.add(&contender);
    let state = contender.states("it is site-a's").await;
    assert!(state["takesOverInSeconds"].as_f64().unwrap() > 9.0, "{state}");
    let said = state["standing"].as_str().unwrap();
    assert!(said.contains("its term of 12s is longer than longestTermInSeconds here"), "{said}");
    contender.proxy.arrived("GetItem", 6).await;
    assert_eq!(contender.state().await["active"], false, "its own term of 3 s is over");
}

#[tokio::test]
async fn terms_that_differ_and_records_that_show_none_never_make_two_active() {
    // The holder's term is 8 s, the contender's 2 s.
    let long = "  failureThreshold: 8\n  longestTermInSeconds: 8\n";
    let short = "  failureThreshold: 2\n  longestTermInSeconds: 8\n";
    for started_before in [true, false] {
        for deleted in [true, false] {
            let emulator = Emulator::ministack().await;
            create_table(&emulator).await;
            let holder = Keeper::start_with(&emulator, "site-a", long, &[]).await;
            let mut observer = Observer::of(&[&holder]);
            observer.active(&holder).await;
            let watching = async || {
                let contender = Keeper::start_with(&emulator, "site-b", short, &[]).await;
                contender.proxy.arrived("GetItem", 1).await;
                contender
            };
            let mut contender = if started_before { Some(watching().await) } else { None };
            holder.proxy.all(Fault::Lost);
            if deleted {
                let key = json!({ "leaseName": { "S": LEASE } }).to_string();
                emulator.aws(&["dynamodb", "delete-item", "--table-name", TABLE, "--key", &key]).await;
            } else {
                put(&emulator, "other", "1").await;
            }
            if contender.is_none() {
                contender = Some(watching().await);
            }
            let contender = contender.unwrap();
            observer.add(&contender);
            observer.active(&contender).await;
            observer.vouch();
        }
    }
}

#[tokio::test]
async fn a_command_that_ends_releases_the_lease_and_its_status_is_the_keepers() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let mut keeper = Keeper::start_with(&emulator, "site-a", "", &["--", "sh", "-c", "exit 7"]).await;
    assert_eq!(keeper.ended().await.code(), Some(7));
    assert_eq!(record(&emulator).await["leaseReleased"]["BOOL"], true);
}

#[tokio::test]
async fn an_invalid_argument_or_configuration_is_named_at_the_start() {
    for (more, arguments, status, named) in [
        ("  leaseNmae: other\n", &[][..], 1, "leaseNmae"),
        ("", &["--", "/no/such/program"], 1, "/no/such/program cannot be started: there is no such program"),
        ("", &["--", "no-such-program"], 1, "no-such-program cannot be started: there is no such program"),
        ("", &["--", "/etc/passwd"], 1, "/etc/passwd cannot be started"),
        // No clock reaches that far.
        ("", &["--stop", "18446744073709551615", "--", "true"], 2, "--stop"),
    ] {
        let (mut process, mut log) = spawn(("http://127.0.0.1:1", "test"), "site-a", more, arguments);
        assert_eq!(process.wait().await.unwrap().code(), Some(status));
        let said = log.wait_for(|lines| !lines.is_empty()).await.unwrap()[0].clone();
        assert!(said.contains(named), "{said}");
    }
}

#[tokio::test]
async fn the_endpoints_answer_a_probe_a_person_and_prometheus() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let keeper = Keeper::start(&emulator, "site-a").await;
    assert_eq!(keeper.get("/healthz").await, (200, r#"{"running":true}"#.to_owned()));
    assert_eq!(keeper.get("/leader").await, (503, r#"{"active":false,"epoch":null}"#.to_owned()));
    let observer = Observer::of(&[&keeper]);
    let epoch = observer.active(&keeper).await;
    assert_eq!(keeper.get("/leader").await, (200, format!(r#"{{"active":true,"epoch":{epoch}}}"#)));
    let state = keeper.state().await;
    assert_eq!((&state["lease"], &state["candidate"]), (&json!("mylease"), &json!("site-a")));
    assert_eq!((&state["epoch"], &state["record"]["owner"]), (&json!(epoch), &json!("site-a")));
    let metrics = keeper.get("/metrics").await.1;
    for line in [
        "lease_keeper_active{lease=\"mylease\"} 1.0",
        "lease_keeper_failing{lease=\"mylease\"} 0.0",
        "lease_keeper_calls_total{lease=\"mylease\",call=\"describe\",became=\"done\"} 1",
        "lease_keeper_changes_total{lease=\"mylease\",to=\"active\"} 1",
        "lease_keeper_log_lines_dropped_total{lease=\"mylease\"} 0",
        concat!("lease_keeper_build_info{lease=\"mylease\",version=\"", env!("CARGO_PKG_VERSION")),
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    assert_eq!(keeper.get("/").await.0, 404);
}

#[tokio::test]
async fn the_documented_commands_create_a_table_whose_policy_suffices_and_pin_the_lease() {
    let emulator = Emulator::own_ministack_enforcing_permissions().await;
    let deploy = commands_below("lease.md", "## Deploy");
    // `tests/ctl/lease.rs` runs those with failoverctl.
    let runbook = commands_below("runbook.md", "## Lease commands").into_iter();
    let runbook: Vec<_> = runbook.filter(|block| !block.contains("failoverctl")).collect();
    let (deploy, [look, pin, release]) = (&deploy[0], &runbook[..]) else { panic!("{runbook:#?}") };
    let role = "TrustedPrincipalArn=arn:aws:iam::000000000000:root LeaseName=mylease";
    let deploy = deploy.replacen(
        "--capabilities CAPABILITY_IAM",
        &format!("--capabilities CAPABILITY_IAM --parameter-overrides {role}"),
        1,
    );
    let region = [("REGION", "us-east-1")];
    let (status, said) = emulator.bash(&deploy, &region).await;
    assert_eq!(status, Some(0), "{said}");
    let stack = emulator.aws(&["cloudformation", "describe-stacks", "--stack-name", "lease"]).await;
    let outputs = stack["Stacks"][0]["Outputs"].as_array().expect("the stack has outputs").iter();
    let role = outputs.clone().find(|output| output["OutputKey"] == "RoleArn").expect("a role was made");
    let role = format!("  role: {}\n", role["OutputValue"].as_str().expect("it is a text"));

    let holder = Keeper::start_with(&emulator, "site-a", &role, &[]).await;
    let mut observer = Observer::of(&[&holder]);
    let epoch = observer.active(&holder).await;
    let contender = Keeper::start_with(&emulator, "site-b", &role, &[]).await;
    observer.add(&contender);
    let (_, said) = emulator.bash(look, &region).await;
    assert!(said.contains("site-a") && said.contains(&epoch.to_string()), "{said}");
    let (status, said) = emulator.bash(&format!("LEASE=mylease\n{pin}"), &region).await;
    assert_eq!(status, Some(0), "{said}");
    observer.passive(&holder).await;
    contender.states("SKIP-LEASE-POD keeps all candidates passive").await;
    let seen = record(&emulator).await["leaseChange"]["S"].as_str().expect("a person's change").to_owned();
    let owner = pin.replace("owner 'leaseOwner <> :pin' SKIP-LEASE-POD", "");
    let (status, said) = emulator.bash(&format!("LEASE=mylease\n{owner}{release}"), &region).await;
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = emulator.bash(&format!("LEASE=mylease\n{owner}{release}"), &region).await;
    assert!(
        status != Some(0) && said.contains("ConditionalCheckFailed"),
        "a lease that is not pinned does not change: {said}"
    );
    // A late try of the end of the first pin does not end the second one.
    let (status, said) = emulator.bash(&format!("LEASE=mylease\n{pin}"), &region).await;
    assert_eq!(status, Some(0), "{said}");
    let late = format!(r#"aws() {{ case $2 in get-item) echo {seen} ;; *) command aws "$@" ;; esac; }}"#);
    let (status, said) = emulator.bash(&format!("LEASE=mylease\n{late}\n{owner}{release}"), &region).await;
    assert!(status != Some(0) && said.contains("ConditionalCheckFailed"), "{said}");
    let (status, said) = emulator.bash(&format!("LEASE=mylease\n{owner}{release}"), &region).await;
    assert_eq!(status, Some(0), "{said}");
    assert!(observer.anyone().await > epoch);
    observer.vouch();
}

/// What may happen to a keeper in a moment of chaos.
#[derive(Clone, Copy, Debug)]
enum Chaos {
    Fault(Fault),
    Deliver,
    Stop,
    Continue,
    Kill,
    Terminate,
}

#[tokio::test]
async fn two_are_never_active_at_once_in_any_chaos() {
    const MOMENTS: usize = 60;
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let seed = fastrand::u64(..);
    println!("the seed is {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let kinds = [
        Chaos::Fault(Fault::None),
        Chaos::Fault(Fault::None),
        Chaos::Fault(Fault::SlowCall(SLOW)),
        Chaos::Fault(Fault::SlowCall(TOO_LONG)),
        Chaos::Fault(Fault::SlowAnswer(TOO_LONG)),
        Chaos::Fault(Fault::Lost),
        Chaos::Fault(Fault::AnswerLost),
        Chaos::Fault(Fault::CutAfter),
        Chaos::Fault(Fault::Held),
        Chaos::Deliver,
        Chaos::Stop,
        Chaos::Continue,
        Chaos::Continue,
        Chaos::Kill,
        Chaos::Terminate,
    ];
    let mut keepers = Vec::new();
    let mut observer = Observer::of(&[]);
    for name in ["site-a", "site-b", "site-c"] {
        let keeper = Keeper::start(&emulator, name).await;
        observer.add(&keeper);
        keepers.push((name, keeper));
    }
    let mut moments = tokio::time::interval(Duration::from_millis(400));
    for _ in 0..MOMENTS {
        moments.tick().await;
        let (name, keeper) = random.choice(&mut keepers).expect("there are three");
        let kind = *random.choice(&kinds).expect("there are some");
        match kind {
            Chaos::Fault(fault) => keeper.proxy.all(fault),
            Chaos::Deliver => drop(keeper.proxy.deliver().await),
            Chaos::Stop => keeper.signal("STOP").await,
            Chaos::Continue => keeper.signal("CONT").await,
            Chaos::Kill | Chaos::Terminate => {
                keeper.signal("CONT").await;
                keeper.signal(if matches!(kind, Chaos::Kill) { "KILL" } else { "TERM" }).await;
                keeper.ended().await;
                *keeper = Keeper::start(&emulator, name).await;
                observer.add(keeper);
            }
        }
        observer.vouch();
    }
    for (_, keeper) in &keepers {
        keeper.signal("CONT").await;
        keeper.proxy.all(Fault::None);
    }
    observer.anyone().await;
    observer.vouch();
}
