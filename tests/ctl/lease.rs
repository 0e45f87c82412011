//! `failoverctl lease`, beside real lease-keepers around an emulator's table.

use std::path::Path;
use std::process::Stdio;

use crate::failoverctl::{Ended, FAILOVERCTL, command, interrupted, programs, says};
use crate::support::docs::commands_below;
use crate::support::emulator::Emulator;
use crate::support::keeper::{Keeper, LEASE, Observer, TABLE, config, create_table, pin, put, record};
use crate::support::proxy::{Fault, Proxy};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// A program that sees this emulator's account at `url`.
fn program(path: &str, url: &str, emulator: &Emulator, arguments: &[&str]) -> Command {
    let mut command = command(Path::new(path), url, arguments);
    command.envs([("AWS_ACCESS_KEY_ID", &emulator.key), ("AWS_SECRET_ACCESS_KEY", &emulator.key)]);
    command
}

/// The arguments of `failoverctl lease` for the tests' lease.
fn arguments<'a>(typed: &[&'a str]) -> Vec<&'a str> {
    let (command, options) = typed.split_first().expect("a command is named");
    [&["lease", command, "--table", TABLE, "--lease", LEASE], options].concat()
}

/// Starts `failoverctl lease`.
fn start(emulator: &Emulator, typed: &[&str]) -> Child {
    let mut program = program(FAILOVERCTL, &emulator.url, emulator, &arguments(typed));
    program.stdin(Stdio::null()).spawn().expect("it starts")
}

/// Runs `failoverctl lease`.
async fn run(emulator: &Emulator, typed: &[&str]) -> Ended {
    run_at(&emulator.url, emulator, &arguments(typed)).await
}

/// Runs failoverctl with its AWS at `url`.
async fn run_at(url: &str, emulator: &Emulator, arguments: &[&str]) -> Ended {
    let mut program = program(FAILOVERCTL, url, emulator, arguments);
    Ended::of(program.stdin(Stdio::null()).output().await.expect("it starts"))
}

/// What a command prints with `--output json`, and its exit status.
async fn json_of(emulator: &Emulator, typed: &[&str]) -> (Option<i32>, Value) {
    let ended = run(emulator, &[typed, &["--output", "json"]].concat()).await;
    let json: Value = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_eq!((&json["version"], &json["context"]["region"]), (&json!(1), &json!("us-east-1")), "{json}");
    let found = [&json["lease"], &json["outcomes"][0]].into_iter().find(|found| found.is_object());
    (ended.status, found.expect("a lease or an outcome is printed").clone())
}

/// Runs `failoverctl lease` on a terminal, and answers yes to its question after `meanwhile`.
async fn confirmed_after(emulator: &Emulator, typed: &[&str], meanwhile: impl Future<Output = ()>) -> Ended {
    let typed = format!("{FAILOVERCTL} {}", arguments(typed).join(" "));
    let mut terminal = program("script", &emulator.url, emulator, &["-qec", &typed, "/dev/null"]);
    let mut child = terminal.spawn().expect("script starts");
    let mut out = child.stdout.take().expect("it is piped");
    let mut printed = Vec::new();
    while !String::from_utf8_lossy(&printed).contains("[y/N]") {
        let read = out.read_buf(&mut printed).await.expect("it prints");
        assert!(read > 0, "it ended without a question: {}", String::from_utf8_lossy(&printed));
    }
    meanwhile.await;
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(b"y\n").await.expect("it reads the answer");
    out.read_to_end(&mut printed).await.expect("it prints");
    let mut ended = Ended::of(child.wait_with_output().await.expect("it ends"));
    ended.out = String::from_utf8(printed).expect("UTF-8");
    ended
}

/// Writes a record as the lease-keeper of this owner does, which then ended.
async fn put_held(emulator: &Emulator, owner: &str) {
    let item = json!({
        "leaseName": { "S": LEASE },
        "leaseOwner": { "S": owner },
        "updatedTime": { "N": "1795228575" },
        "notes": { "S": "kept by lease-keeper" },
        "leaseWriter": { "S": "pod/0123456789abcdef" },
        "leaseBeat": { "N": "5" },
        "leaseEpoch": { "N": "7" },
        "leaseTerm": { "N": "3000" },
    });
    emulator.aws(&["dynamodb", "put-item", "--table-name", TABLE, "--item", &item.to_string()]).await;
}

#[tokio::test]
async fn status_shows_each_state_of_a_lease_and_what_one_look_does_not_show() {
    let emulator = Emulator::ministack().await;
    let ended = run(&emulator, &["status"]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(
        ended.said.contains("there is no table \"admiral-lease\" in us-east-1: check --table"),
        "{ended:?}"
    );
    create_table(&emulator).await;
    let ended = run(&emulator, &["status"]).await;
    assert_eq!(ended.status, Some(3), "{ended:?}");
    assert!(ended.out.contains("missing: there is no record"), "{ended:?}");

    let mut keeper = Keeper::start(&emulator, "site-a").await;
    let epoch = Observer::of(&[&keeper]).active(&keeper).await;
    let ended = run(&emulator, &["status"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    for said in [
        "lease      mylease in table admiral-lease, us-east-1\n",
        "state      held by site-a\n",
        "unknown: one look does not show whether site-a is still active.",
        "term       3 s\n",
        "by the writer's clock, ",
        "by this machine's\n",
        "notes      kept by lease-keeper\n",
    ] {
        assert!(ended.out.contains(said), "{said}: {ended:?}");
    }
    assert!(!ended.out.contains("unchanged"), "{ended:?}");
    let (status, held) = json_of(&emulator, &["status"]).await;
    assert_eq!((status, &held["state"], &held["active"]), (Some(0), &json!("held"), &Value::Null), "{held}");
    assert_eq!((&held["owner"], &held["epoch"]), (&json!("site-a"), &json!(epoch)));
    assert_eq!((&held["writer"], &held["termSeconds"]), (&keeper.state().await["writer"], &json!(3.0)));
    assert!(held["writtenAt"].is_string() && held["writtenSecondsAgo"].is_i64(), "{held}");

    keeper.signal("TERM").await;
    keeper.ended().await;
    let (status, released) = json_of(&emulator, &["status"]).await;
    assert_eq!((status, &released["state"]), (Some(3), &json!("released")));
    assert_eq!((&released["released"], &released["active"]), (&json!(true), &json!(false)), "{released}");

    for (owner, ends, state, words) in [
        ("", 3, "unowned", "without an owner"),
        ("SKIP-LEASE-POD", 3, "pinned", "pinned (SKIP-LEASE-POD)"),
        ("site-z", 0, "held", "held by site-z"),
    ] {
        put(&emulator, owner, "1").await;
        let ended = run(&emulator, &["status"]).await;
        assert_eq!(ended.status, Some(ends), "{ended:?}");
        for said in [words, "Admiral's checker or a person", "epoch      none\n", "term       unknown\n"] {
            assert!(ended.out.contains(said), "{said}: {ended:?}");
        }
        let (_, shown) = json_of(&emulator, &["status"]).await;
        assert_eq!(
            (&shown["state"], &shown["pinned"]),
            (&json!(state), &json!(state == "pinned")),
            "{shown}"
        );
    }
    let item =
        json!({ "leaseName": { "S": LEASE }, "leaseOwner": { "N": "7" }, "updatedTime": { "N": "1" } });
    emulator.aws(&["dynamodb", "put-item", "--table-name", TABLE, "--item", &item.to_string()]).await;
    let ended = run(&emulator, &["status"]).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(
        ended.said.contains("the record cannot be read: leaseOwner is not a string. Correct"),
        "{ended:?}"
    );
}

/// Before an emulator's table, which is described as one with a replica that takes a write only later.
async fn replicated(emulator: &Emulator) -> Proxy {
    let proxy = Proxy::start(&emulator.url).await;
    let replicas = json!([{ "RegionName": "us-west-2", "ReplicaStatus": "ACTIVE" }]);
    proxy.answer("DescribeTable", json!({ "Table": { "TableName": TABLE, "Replicas": replicas } }));
    proxy
}

#[tokio::test]
async fn the_lease_is_named_by_lease_keepers_file_by_options_or_by_variables() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    put_held(&emulator, "site-a").await;
    let file = config("site-b", "  role: arn:aws:iam::123456789012:role/lease\n");
    let file = file.to_str().expect("its name is UTF-8");
    let named = ["lease", "status", "--config", file];
    let ended = run_at(&emulator.url, &emulator, &named).await;
    assert_eq!((ended.status, ended.out.contains("held by site-a")), (Some(0), true), "{ended:?}");
    let both = [&named[..], &["--table", TABLE, "--lease", LEASE]].concat();
    assert_eq!(run_at(&emulator.url, &emulator, &both).await.status, Some(0));

    let with = async |arguments: &[&str], variables: [(&str, &str); 2]| {
        let mut program = program(FAILOVERCTL, &emulator.url, &emulator, arguments);
        Ended::of(program.envs(variables).stdin(Stdio::null()).output().await.expect("it starts"))
    };
    let ended = with(&["lease", "status"], [("LEASE_TABLE", TABLE), ("LEASE_NAME", LEASE)]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    // A command must not change another lease than the one that was named.
    let ended = with(&named, [("LEASE_TABLE", TABLE), ("LEASE_NAME", "other")]).await;
    assert_eq!(ended.status, Some(2), "{ended:?}");
    assert!(
        ended.said.contains("names the lease \"mylease\", but --lease or LEASE_NAME names \"other\""),
        "{ended:?}"
    );
    // Nor the lease of the same name in another Region, which may be a replica or another table.
    for command in ["pin", "status"] {
        let other = ["lease", command, "--config", file, "--region", "us-west-2"];
        let ended = run_at(&emulator.url, &emulator, &other).await;
        assert_eq!(ended.status, Some(2), "{ended:?}");
        let said = "names the Region \"us-east-1\", but --region names \"us-west-2\": leave one out";
        assert!(ended.said.contains(said), "{ended:?}");
        let same = ["lease", command, "--config", file, "--region", "us-east-1"];
        let ended = run_at(
            &emulator.url,
            &emulator,
            &[&same[..], if command == "pin" { &["--dry-run"] } else { &[] }].concat(),
        )
        .await;
        assert_eq!(ended.status, Some(0), "{ended:?}");
    }
    let warned = run_at(&replicated(&emulator).await.url, &emulator, &named).await;
    assert!(warned.said.contains("warning: the table has replicas in us-west-2 as well"), "{warned:?}");
    for (typed, said) in [
        (&["lease", "status"][..], "--table <NAME>"),
        (&["lease", "pin", "--table", TABLE], "--lease <NAME>"),
        (&["lease", "status", "--table", TABLE, "--lease", ""], "a value is required for '--lease"),
    ] {
        let ended = run_at(&emulator.url, &emulator, typed).await;
        assert_eq!(ended.status, Some(2), "{ended:?}");
        assert!(ended.said.contains(said), "{said}: {ended:?}");
    }
    let invalid = config("SKIP-LEASE-POD", "");
    let invalid = ["lease", "status", "--config", invalid.to_str().expect("its name is UTF-8")];
    let ended = run_at(&emulator.url, &emulator, &invalid).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.said.contains("--config") && ended.said.contains("podIdentifier"), "{ended:?}");
}

#[tokio::test]
async fn watching_shows_for_how_long_the_record_has_been_unchanged() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let keeper = Keeper::start(&emulator, "site-a").await;
    Observer::of(&[&keeper]).active(&keeper).await;
    // The pipe stays open: a command whose output is no longer read ends by itself.
    let watched_until = async |more: &[&str], this: &str| {
        let mut child = start(&emulator, &[&["status", "--watch"], more].concat());
        let mut out = child.stdout.take().expect("it is piped");
        says(&mut out, this).await;
        interrupted(child).await.status
    };
    assert_eq!(watched_until(&[], "unchanged  for at least ").await, Some(0));
    keeper.signal("KILL").await;
    assert_eq!(watched_until(&[], ", longer than its term").await, Some(3));
    assert_eq!(watched_until(&["--output", "json"], "\"active\": false").await, Some(3));
}

#[tokio::test]
async fn pin_keeps_all_candidates_passive_and_unpin_lets_one_continue() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let missing = run(&emulator, &["pin", "--yes"]).await;
    assert_eq!(missing.status, Some(3), "{missing:?}");
    assert!(
        missing.out.contains("mylease in us-east-1 has no record in table admiral-lease;"),
        "{missing:?}"
    );

    let holder = Keeper::start(&emulator, "site-a").await;
    let mut observer = Observer::of(&[&holder]);
    let epoch = observer.active(&holder).await;
    let contender = Keeper::start(&emulator, "site-b").await;
    observer.add(&contender);
    let unasked = run(&emulator, &["pin"]).await;
    assert_eq!(unasked.status, Some(3), "{unasked:?}");
    assert!(unasked.said.contains("there is no terminal to ask on, and nothing was changed"), "{unasked:?}");
    let (status, refused) = json_of(&emulator, &["unpin", "--yes"]).await;
    assert_eq!((status, &refused["outcome"]), (Some(3), &json!("not_pinned")), "{refused}");

    for (change, outcome) in [("pin", "would_pin"), ("handover", "would_hand_over")] {
        let before = record(&emulator).await["leaseOwner"].clone();
        let (status, dry) = json_of(&emulator, &[change, "--dry-run"]).await;
        assert_eq!((status, &dry["outcome"]), (Some(0), &json!(outcome)), "{dry}");
        let after = record(&emulator).await;
        assert!(after["leaseOwner"] == before && after["leaseHandover"].is_null(), "{after}");
    }
    let pinned = run(&emulator, &["pin", "--yes", "--reason", "INC-1"]).await;
    assert_eq!(pinned.status, Some(0), "{pinned:?}");
    assert!(
        pinned
            .out
            .starts_with("mylease in us-east-1 is pinned. Each candidate is passive after its next look"),
        "{pinned:?}"
    );
    observer.passive(&holder).await;
    for keeper in [&holder, &contender] {
        keeper.states("SKIP-LEASE-POD keeps all candidates passive").await;
    }
    let left = record(&emulator).await;
    assert_eq!((&left["leaseOwner"]["S"], &left["notes"]["S"]), (&json!("SKIP-LEASE-POD"), &json!("INC-1")));
    assert_eq!(left["leaseEpoch"]["N"], epoch.to_string(), "{left}");
    let (status, again) = json_of(&emulator, &["pin", "--yes", "--reason", "INC-2"]).await;
    assert_eq!((status, &again["outcome"]), (Some(0), &json!("already_pinned")), "{again}");
    assert_eq!(record(&emulator).await, left);

    let (status, dry) = json_of(&emulator, &["unpin", "--dry-run"]).await;
    assert_eq!((status, &dry["outcome"]), (Some(0), &json!("would_unpin")), "{dry}");
    assert_eq!(record(&emulator).await, left);
    let unpinned = run(&emulator, &["unpin", "--yes"]).await;
    assert_eq!(unpinned.status, Some(0), "{unpinned:?}");
    assert!(
        unpinned.out.contains("mylease in us-east-1 is unpinned. The first candidate to poll takes it"),
        "{unpinned:?}"
    );
    assert!(observer.anyone().await > epoch);
    observer.vouch();
}

#[tokio::test]
async fn an_unpinned_lease_is_not_released_and_has_its_epoch() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let mut keeper = Keeper::start(&emulator, "site-a").await;
    let epoch = Observer::of(&[&keeper]).active(&keeper).await;
    keeper.signal("TERM").await;
    keeper.ended().await;
    assert_eq!(record(&emulator).await["leaseReleased"]["BOOL"], true);
    for command in [&["pin", "--yes"][..], &["unpin", "--yes", "--reason", "maintenance is over"]] {
        let ended = run(&emulator, command).await;
        assert_eq!(ended.status, Some(0), "{ended:?}");
    }
    let left = record(&emulator).await;
    assert_eq!((&left["leaseOwner"]["S"], &left["leaseReleased"]), (&json!(""), &Value::Null), "{left}");
    assert_eq!(left["leaseEpoch"]["N"], epoch.to_string());
    assert_eq!(left["notes"]["S"], "maintenance is over");
    let (status, shown) = json_of(&emulator, &["status"]).await;
    assert_eq!((status, &shown["state"], &shown["active"]), (Some(3), &json!("unowned"), &Value::Null));
}

#[tokio::test]
async fn a_record_that_changes_before_the_confirmation_is_left_as_it_is() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    for command in ["pin", "unpin", "handover"] {
        match command {
            "unpin" => pin(&emulator).await,
            _ => put_held(&emulator, "site-a").await,
        }
        let ended = confirmed_after(&emulator, &[command], put_held(&emulator, "site-z")).await;
        assert_eq!(ended.status, Some(3), "{ended:?}");
        let said = "mylease in us-east-1 was changed after it was read, and is held by site-z now: nothing was changed.";
        assert!(ended.out.contains(said), "{command}: {ended:?}");
        let left = record(&emulator).await;
        assert_eq!((&left["leaseOwner"]["S"], &left["leaseHandover"]), (&json!("site-z"), &Value::Null));
    }
}

#[tokio::test]
async fn renewals_while_a_person_confirms_are_no_change() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let keeper = Keeper::start(&emulator, "site-a").await;
    let observer = Observer::of(&[&keeper]);
    observer.active(&keeper).await;
    let renewal = async {
        let renewals = keeper.proxy.calls("UpdateItem");
        keeper.proxy.arrived("UpdateItem", renewals + 2).await;
    };
    let ended = confirmed_after(&emulator, &["pin"], renewal).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.out.contains("It is held by site-a. All its candidates become passive"), "{ended:?}");
    observer.passive(&keeper).await;
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_found_done_and_a_denied_one_names_its_permission() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    put_held(&emulator, "site-a").await;
    let proxy = Proxy::start(&emulator.url).await;
    let denied = Fault::Error { status: 400, code: "AccessDeniedException", message: "not authorized" };
    proxy.only("UpdateItem", denied);
    let command = arguments(&["pin", "--yes"]);
    let ended = run_at(&proxy.url, &emulator, &command).await;
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.said.contains("Grant the caller's role dynamodb:UpdateItem"), "{ended:?}");
    assert_eq!(record(&emulator).await["leaseOwner"]["S"], "site-a");

    proxy.only("UpdateItem", Fault::CutAfter);
    let first_answer_lost = async {
        proxy.arrived("UpdateItem", 2).await;
        proxy.only("UpdateItem", Fault::None);
    };
    let (ended, ()) = tokio::join!(run_at(&proxy.url, &emulator, &command), first_answer_lost);
    assert_eq!(
        (ended.status, ended.out.contains("mylease in us-east-1 is pinned")),
        (Some(0), true),
        "{ended:?}"
    );
    assert_eq!(record(&emulator).await["leaseOwner"]["S"], "SKIP-LEASE-POD");

    // The next try is denied: what the first one has done stands.
    let tries = proxy.calls("UpdateItem");
    proxy.only("UpdateItem", Fault::CutAfter);
    let then_denied = async {
        proxy.arrived("UpdateItem", tries + 1).await;
        proxy.only("UpdateItem", denied);
    };
    let command = arguments(&["unpin", "--yes"]);
    let (ended, ()) = tokio::join!(run_at(&proxy.url, &emulator, &command), then_denied);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert_eq!(record(&emulator).await["leaseOwner"]["S"], "");
}

#[tokio::test]
async fn a_holder_hands_over_to_the_candidate_that_is_named_and_the_others_wait() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let first = Keeper::start(&emulator, "site-a").await;
    let mut observer = Observer::of(&[&first]);
    observer.active(&first).await;
    let (second, third) =
        (Keeper::start(&emulator, "site-b").await, Keeper::start(&emulator, "site-c").await);
    observer.add(&second);
    observer.add(&third);
    second.states("it is site-a's").await;
    third.states("it is site-a's").await;
    for (to, keeper) in [("site-c", &third), ("site-b", &second), ("site-a", &first)] {
        let ended = run(&emulator, &["handover", "--to", to, "--yes", "--timeout", "60"]).await;
        assert_eq!(ended.status, Some(0), "{ended:?}");
        observer.active(keeper).await;
        assert_eq!(record(&emulator).await["leaseHandover"], Value::Null);
    }
    // To any other one.
    let ended = run(&emulator, &["handover", "--yes", "--timeout", "60"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    observer.passive(&first).await;
    observer.anyone().await;
    observer.vouch();
}

#[tokio::test]
async fn handover_asks_by_one_attribute_and_follows_the_record_until_the_candidate_has_the_lease() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let mut holder = Keeper::start(&emulator, "site-a").await;
    Observer::of(&[&holder]).active(&holder).await;
    holder.signal("KILL").await;
    holder.ended().await;
    let mut before = record(&emulator).await;

    let mut child = start(&emulator, &["handover", "--to", "site-b", "--yes", "--timeout", "60"]);
    says(child.stderr.take().expect("it is piped"), "held by site-a, and asked to hand it over to site-b")
        .await;
    before["leaseHandover"] = json!({ "S": "site-b" });
    let mut now = record(&emulator).await;
    now.as_object_mut().expect("a record").remove("leaseChange");
    assert_eq!(now, before, "nothing else has changed");
    let ended = run(&emulator, &["status"]).await;
    assert!(ended.out.contains("held by site-a, and asked to hand it over to site-b"), "{ended:?}");

    // Its holder has died, and the candidate takes it after a term.
    let candidate = Keeper::start(&emulator, "site-b").await;
    Observer::of(&[&candidate]).active(&candidate).await;
    let ended = Ended::of(child.wait_with_output().await.expect("it ends"));
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert_eq!(ended.out, "mylease in us-east-1 is handed over: site-b has it\n");
    let left = record(&emulator).await;
    assert_eq!(
        (&left["leaseOwner"]["S"], &left["leaseHandover"]),
        (&json!("site-b"), &Value::Null),
        "{left}"
    );
}

#[tokio::test]
async fn a_request_that_is_not_answered_is_removed() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    put_held(&emulator, "site-a").await;
    let before = record(&emulator).await;
    let ended = run(&emulator, &["handover", "--yes", "--timeout", "0"]).await;
    assert_eq!(ended.status, Some(3), "{ended:?}");
    assert!(
        ended.said.contains("held by site-a, and asked to hand it over to another candidate"),
        "{ended:?}"
    );
    assert!(
        ended.out.contains("mylease in us-east-1 is held by site-a after 0 s; the request was removed."),
        "{ended:?}"
    );
    let but_the_removal = async || {
        let mut now = record(&emulator).await;
        let removal = now.as_object_mut().expect("a record").remove("leaseChange");
        (now, removal.expect("it is on record"))
    };
    let first = but_the_removal().await;
    assert_eq!(first.0, before);

    let mut child = start(&emulator, &["handover", "--yes", "--timeout", "600"]);
    says(child.stderr.take().expect("it is piped"), "asked to hand it over").await;
    assert_eq!(record(&emulator).await["leaseHandover"]["S"], "*");
    assert_eq!(interrupted(child).await.status, Some(1));
    let second = but_the_removal().await;
    assert_eq!(second.0, before);
    assert_ne!(second.1, first.1, "a try from before the first one would count again");
}

#[tokio::test]
async fn a_request_for_the_same_candidate_that_has_replaced_another_is_left_in_the_record() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    put_held(&emulator, "site-a").await;
    let mut first = start(&emulator, &["handover", "--to", "site-b", "--yes", "--timeout", "5"]);
    says(first.stderr.take().expect("it is piped"), "asked to hand it over").await;
    let mut second = start(&emulator, &["handover", "--to", "site-b", "--yes", "--timeout", "600"]);
    says(second.stderr.take().expect("it is piped"), "asked to hand it over").await;
    let first = Ended::of(first.wait_with_output().await.expect("it ends"));
    assert_eq!(first.status, Some(3), "{first:?}");
    assert!(first.out.contains("another one replaced it"), "{first:?}");
    assert_eq!(record(&emulator).await["leaseHandover"]["S"], "site-b");
    assert_eq!(interrupted(second).await.status, Some(1));
    assert_eq!(record(&emulator).await["leaseHandover"], Value::Null);
}

/// Runs a command whose first write is held on its way, until the proxy delivers it.
async fn run_with_a_late_try(emulator: &Emulator, typed: &[&str]) -> (Ended, Proxy) {
    let proxy = Proxy::start(&emulator.url).await;
    proxy.only("UpdateItem", Fault::Held);
    let first_try_under_way = async {
        proxy.arrived("UpdateItem", 1).await;
        proxy.only("UpdateItem", Fault::None);
    };
    let command = arguments(typed);
    let (ended, ()) = tokio::join!(run_at(&proxy.url, emulator, &command), first_try_under_way);
    (ended, proxy)
}

#[tokio::test]
async fn a_request_that_arrives_after_its_removal_asks_for_nothing() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    put_held(&emulator, "site-a").await;
    let (ended, proxy) =
        run_with_a_late_try(&emulator, &["handover", "--to", "site-b", "--yes", "--timeout", "0"]).await;
    assert!(ended.out.contains("the request was removed"), "{ended:?}");
    assert_eq!(proxy.deliver().await, 1);
    assert_eq!(record(&emulator).await["leaseHandover"], Value::Null);
}

#[tokio::test]
async fn an_unpin_that_arrives_after_a_later_pin_does_not_end_that() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    put_held(&emulator, "site-a").await;
    let pin = arguments(&["pin", "--yes", "--reason", "maintenance"]);
    assert_eq!(run_at(&emulator.url, &emulator, &pin).await.status, Some(0));
    let (ended, proxy) = run_with_a_late_try(&emulator, &["unpin", "--yes", "--reason", "maintenance"]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert_eq!(run_at(&emulator.url, &emulator, &pin).await.status, Some(0));
    assert_eq!(proxy.deliver().await, 1);
    assert_eq!(record(&emulator).await["leaseOwner"]["S"], "SKIP-LEASE-POD");
}

#[tokio::test]
async fn a_lease_that_no_lease_keeper_holds_is_not_handed_over() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let (status, ended) = json_of(&emulator, &["handover", "--yes"]).await;
    assert_eq!((status, &ended["outcome"]), (Some(3), &json!("missing")), "{ended}");
    for (owner, said) in [
        ("SKIP-LEASE-POD", "to end the pin: failoverctl lease unpin"),
        ("", "a candidate takes it without a request"),
        ("site-a", "the record was not written by a lease-keeper"),
    ] {
        put(&emulator, owner, "1").await;
        let ended = run(&emulator, &["handover", "--yes"]).await;
        assert_eq!(ended.status, Some(3), "{ended:?}");
        assert!(ended.out.contains("nothing was changed: ") && ended.out.contains(said), "{said}: {ended:?}");
    }
    put_held(&emulator, "site-a").await;
    let (status, ended) = json_of(&emulator, &["handover", "--yes", "--to", "site-a"]).await;
    assert_eq!((status, &ended["outcome"]), (Some(0), &json!("already_held")), "{ended}");
    assert_eq!(record(&emulator).await["leaseHandover"], Value::Null);
    let ended = run(&emulator, &["handover", "--to", "SKIP-LEASE-POD"]).await;
    assert_eq!(ended.status, Some(2), "{ended:?}");
    assert!(ended.said.contains("is not a candidate's name"), "{ended:?}");
}

/// The configuration file of a lease-keeper whose name is in a variable.
fn anothers_file() -> std::path::PathBuf {
    let file = std::env::temp_dir().join(format!("lease-{}.yaml", crate::support::emulator::free_port()));
    let text = format!(
        "dynamoDB:\n  leaseName: {LEASE}\n  waitTimeInSeconds: 1\n  failureThreshold: 3\n  tableName: {TABLE}\n  \
         region: us-east-1\n"
    );
    std::fs::write(&file, text).expect("it can be written");
    file
}

#[tokio::test]
async fn the_term_of_a_file_is_not_taken_for_that_of_a_record_that_has_none() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    crate::support::keeper::put(&emulator, "site-a", "1").await;
    let file = anothers_file();
    let config = file.to_str().expect("UTF-8");
    let ended = run_at(&emulator.url, &emulator, &["lease", "status", "--config", config]).await;
    std::fs::remove_file(&file).expect("it is there");
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(
        ended.out.contains("term       unknown: the record has no term; the file's is 3 s\n"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_reader_that_has_closed_the_pipe_changes_no_exit_status() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    put_held(&emulator, "site-a").await;
    let programs = programs();
    for (command, status) in
        [("handover --to site-b --yes --timeout 1", 3), ("unpin --yes", 3), ("status", 0)]
    {
        let of = format!("--region us-east-1 --table {TABLE} --lease {LEASE}");
        let closed = format!(
            "{{ {programs}/failoverctl lease {command} {of} || echo \"ended with $?\" >&2; }} | true
            {{ {programs}/failoverctl lease {command} {of} && echo ended with 0 >&2 || true; }} | true"
        );
        let (_, said) = emulator.bash(&format!("set +o pipefail\n{closed}"), &[]).await;
        assert!(said.contains(&format!("ended with {status}")), "{command}: {said}");
    }
    // What is not there is not well.
    emulator
        .aws(&[
            "dynamodb",
            "delete-item",
            "--table-name",
            TABLE,
            "--key",
            r#"{"leaseName": {"S": "mylease"}}"#,
        ])
        .await;
    let closed = format!(
        "{{ {programs}/failoverctl lease status --region us-east-1 --table {TABLE} --lease {LEASE} || echo \"ended with $?\" >&2; }} | true"
    );
    let (_, said) = emulator.bash(&format!("set +o pipefail\n{closed}"), &[]).await;
    assert!(said.contains("ended with 3"), "{said}");
}

#[tokio::test]
async fn a_time_to_wait_has_a_limit() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    put_held(&emulator, "site-a").await;
    let ended =
        run(&emulator, &["handover", "--to", "site-b", "--yes", "--timeout", "9223372036854775807"]).await;
    assert_eq!(ended.status, Some(2), "{ended:?}");
    assert_eq!(record(&emulator).await["leaseHandover"], Value::Null);
}

#[tokio::test]
async fn the_documented_commands_show_pin_and_unpin_the_lease() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    put_held(&emulator, "site-a").await;
    let blocks = commands_below("runbook.md", "## Lease commands");
    let blocks: Vec<_> = blocks.iter().filter(|block| block.contains("failoverctl")).collect();
    let [show, pin, unpin, hand_over] = &blocks[..] else { panic!("{blocks:#?}") };
    let path = format!("PATH={}:$PATH\nLEASE=mylease\n", programs());
    // There is no terminal, and no lease-keeper that answers.
    let bash = async |block: &str, more: &str| {
        let block = block.trim_end().to_owned() + more;
        emulator.bash(&(path.clone() + &block), &[("REGION", "us-east-1")]).await
    };
    let (status, said) = bash(show, "").await;
    assert_eq!((status, said.contains("held by site-a")), (Some(0), true), "{said}");
    let (status, said) = bash(hand_over, " --yes --timeout 0").await;
    assert_eq!((status, said.contains("the request was removed")), (Some(3), true), "{said}");
    let (status, said) = bash(pin, " --yes").await;
    assert_eq!((status, said.contains("mylease in us-east-1 is pinned")), (Some(0), true), "{said}");
    let (status, said) = bash(unpin, " --yes").await;
    assert_eq!((status, said.contains("mylease in us-east-1 is unpinned")), (Some(0), true), "{said}");

    let ended = run_at(&emulator.url, &emulator, &["completions", "bash"]).await;
    assert!(ended.out.contains("handover") && ended.out.contains("unpin"));
    for command in ["status", "pin", "unpin", "handover"] {
        let ended = run_at(&emulator.url, &emulator, &["lease", command, "--help"]).await;
        assert!(
            ended.out.contains("Example") && ended.out.contains("LEASE_TABLE"),
            "{command}: {}",
            ended.out
        );
    }
}
