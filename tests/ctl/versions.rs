//! `failoverctl` over functions with versions: what counts is what their alias `live` runs.

use serde_json::Value;

use crate::failoverctl::{Ended, deployed, run};
use crate::support::emulator::Emulator;
use crate::support::lock::LOCKED;
use crate::support::primary::Primary;

const TOPIC: &str = "arn:aws:sns:us-east-1:000000000000:failover-alarms";

async fn does(aws: &Emulator, command: &str) {
    let (status, printed) = aws.bash(command, &[]).await;
    assert_eq!(status, Some(0), "{command}: {printed}");
}

/// What doctor says, and what it finds about a link with this rating: each with its remedy.
async fn found(aws: &Emulator, check: &str, rating: &str) -> (Ended, Vec<(String, String)>) {
    let ended = run(&aws.url, &["doctor", check, "--output", "json"]).await;
    let json: Value = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"));
    let text = |link: &Value, key: &str| link[key].as_str().unwrap_or_default().to_owned();
    let links = json["findings"].as_array().expect("a list").iter().filter(|link| link["result"] == rating);
    let links = links.map(|link| (text(link, "found"), text(link, "remedy"))).collect();
    (ended, links)
}

/// Gives a function another variable; `then` is done with its new version.
fn changed(function: &str, variable: &str, then: &str) -> String {
    format!(
        r#"aws lambda update-function-configuration --function-name failover-{function} --environment "$(
            aws lambda get-function-configuration --function-name failover-{function} --query Environment --output json |
            sed 's|"Variables": {{|"Variables": {{{variable},|')"
        publish() {{ aws lambda publish-version --function-name failover-{function} --query Version --output text; }}
        live() {{ aws lambda update-alias --function-name failover-{function} --name live --function-version "$1"; }}
        {then}"#
    )
}

#[tokio::test]
async fn doctor_judges_the_version_that_runs_and_says_how_to_go_forward() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed(&aws, &primary).await;
    let newest = "failover-lock runs version 1, failover-restore runs version 1, failover-reconcile runs version 1, the newest";
    let (_, ok) = found(&aws, &check, "ok").await;
    assert!(ok.iter().any(|(said, _)| said == newest), "{ok:?}");

    // The function itself is not what runs.
    let cut_off = r#""AWS_ENDPOINT_URL_ROUTE_53": "http://127.0.0.1:9""#;
    let looks = [
        (
            changed("lock", cut_off, ""),
            "changed since the newest version was published, which does not run: failover-lock",
        ),
        (
            changed("lock", r#""ANOTHER": "x""#, "publish"),
            "rolled back, or changed by hand: failover-lock runs version 1, and 2 is the newest",
        ),
    ];
    for (change, said) in looks {
        does(&aws, &change).await;
        let (ended, looks) = found(&aws, &check, "warn").await;
        assert_eq!(ended.status, Some(0), "{ended:?}");
        let (_, remedy) =
            looks.iter().find(|(found, _)| found == said).unwrap_or_else(|| panic!("{said}: {looks:?}"));
        assert!(remedy.contains("infra/deploy --stack failover"), "{remedy}");
    }

    // Of what runs, each fault is found: another version of one of the three, and one that is short of time.
    does(&aws, &changed("reconcile", r#""SECONDARY_HEALTH_CHECKS": "a=b""#, "live \"$(publish)\"")).await;
    let (ended, wrong) = found(&aws, &check, "wrong").await;
    assert_eq!(ended.status, Some(3), "{ended:?}");
    let other = r#"failover-reconcile: SECONDARY_HEALTH_CHECKS is "a=b", and "" for failover-lock"#;
    assert!(wrong.iter().any(|(said, _)| said == other), "{wrong:?}");
    let short = "aws lambda update-function-configuration --function-name failover-reconcile --timeout 1";
    does(&aws, &changed("reconcile", r#""ANOTHER": "x""#, &format!("{short}; live \"$(publish)\""))).await;
    let (_, wrong) = found(&aws, &check, "wrong").await;
    let said = "failover-reconcile may run for 1 s, and has 50 s by infra/deploy";
    let (_, remedy) = wrong.iter().find(|(found, _)| found == said).unwrap_or_else(|| panic!("{wrong:?}"));
    assert!(remedy.contains("infra/deploy with --set Deployment="), "{remedy}");
    does(&aws, "aws lambda update-alias --function-name failover-reconcile --name live --function-version 1")
        .await;
    assert_eq!(found(&aws, &check, "wrong").await.1, []);

    // A person's restore, by the command that the stack names, would fail.
    let of = "--function-name failover-restore --name live";
    does(&aws, &format!("aws lambda delete-alias {of}")).await;
    let (_, wrong) = found(&aws, &check, "wrong").await;
    let missing = "failover-restore has no alias live, by which it is invoked";
    assert!(wrong.iter().any(|(said, _)| said == missing), "{wrong:?}");
    does(&aws, &format!("aws lambda create-alias {of} --function-version 1")).await;
    assert_eq!(found(&aws, &check, "wrong").await.1, []);

    // What invokes it past the alias would run what a rollback takes back.
    let no_target = "aws events remove-targets --rule failover-reconcile --ids reconcile";
    let past_it = "aws events put-targets --rule failover-reconcile \
        --targets Id=reconcile,Arn=arn:aws:lambda:us-east-1:000000000000:function:failover-reconcile";
    let by_another = "aws events remove-targets --rule failover-reconcile --ids reconcile; aws events put-targets \
        --rule failover-reconcile \
        --targets Id=mine,Arn=arn:aws:lambda:us-east-1:000000000000:function:failover-reconcile:other";
    for (broken, said, mends) in [
        (no_target, "its schedule does not invoke failover-reconcile", ":function:failover-reconcile:live"),
        (past_it, ":function:failover-reconcile, and not arn", ":function:failover-reconcile:live"),
        (by_another, ":function:failover-reconcile:other, and not arn", "Id=mine,Arn="),
    ] {
        does(&aws, broken).await;
        let (_, wrong) = found(&aws, &check, "wrong").await;
        let [(found_, remedy)] = &wrong[..] else { panic!("{broken}: {wrong:?}") };
        assert!(found_.contains(said) && remedy.contains(mends), "{wrong:?}");
        does(&aws, remedy).await;
        assert_eq!(found(&aws, &check, "wrong").await.1, [], "{remedy}");
    }
}

/// As an earlier version of the template has deployed it.
const WITHOUT_ALIASES: &str = r#"
arn_of() { aws lambda get-function-configuration --function-name "failover-$1" --query FunctionArn --output text; }
aws sns unsubscribe --subscription-arn "$(aws sns list-subscriptions --output text \
  --query "Subscriptions[?Protocol=='lambda'].SubscriptionArn")"
aws sns subscribe --topic-arn "$TOPIC" --protocol lambda --notification-endpoint "$(arn_of lock)"
aws lambda add-permission --function-name failover-lock --statement-id topic --action lambda:InvokeFunction \
  --principal sns.amazonaws.com --source-arn "$TOPIC"
"#;
const NOT_EVEN_ALIASES: &str = r#"
arn_of() { aws lambda get-function-configuration --function-name "failover-$1" --query FunctionArn --output text; }
for name in lock restore reconcile; do aws lambda delete-alias --function-name "failover-$name" --name live; done
aws events put-targets --rule failover-reconcile --targets "Id=reconcile,Arn=$(arn_of reconcile)"
aws lambda add-permission --function-name failover-reconcile --statement-id rule --action lambda:InvokeFunction \
  --principal events.amazonaws.com --source-arn arn:aws:events:us-east-1:000000000000:rule/failover-reconcile
"#;

#[tokio::test]
async fn a_subscription_and_a_stack_without_the_alias_are_judged_and_restored_as_before() {
    let aws = Emulator::own_ministack().await;
    let primary = Primary::start("/lb-check").await;
    let check = deployed(&aws, &primary).await;
    let restored = async |function: &str| {
        assert_eq!(run(&aws.url, &["lock", &check, "--reason", "test", "--yes"]).await.status, Some(0));
        let restored =
            run(&aws.url, &["restore", &check, "--yes", "--reason", "test", "--output", "json"]).await;
        let json: Value = serde_json::from_str(&restored.out).unwrap_or_else(|_| panic!("{restored:?}"));
        assert_eq!(json["outcomes"][0]["previousPath"], LOCKED, "{restored:?}");
        let log = "aws logs filter-log-events --log-group-name /aws/lambda/failover-restore --output text \
            --query 'events[].message' | tr '\\t' '\\n' | grep '^START RequestId' | tail -1";
        let (_, last) = aws.bash(log, &[]).await;
        assert!(last.trim_end().ends_with(function), "{function}: {last}");
    };
    restored("Version: 1").await;

    for script in [WITHOUT_ALIASES, NOT_EVEN_ALIASES] {
        let (status, said) = aws.bash(script, &[("TOPIC", TOPIC)]).await;
        assert_eq!(status, Some(0), "{said}");
        let (ended, looks) = found(&aws, &check, "warn").await;
        assert_eq!(ended.status, Some(0), "{ended:?}");
        let said = "failover-lock is invoked without its alias live, and 1 is its newest version";
        assert!(looks.iter().any(|(found, _)| found.contains(said)), "{looks:?}");
        restored(if script == WITHOUT_ALIASES { "Version: 1" } else { "Version: $LATEST" }).await;
    }
}

#[tokio::test]
async fn status_shows_what_each_function_runs_and_whether_another_one_is_newer() {
    let aws = Emulator::own_ministack().await;
    let nothing = run(&aws.url, &["status", "--versions"]).await;
    assert!(nothing.status == Some(3) && nothing.out.contains("There is no function of"), "{nothing:?}");
    let primary = Primary::start("/lb-check").await;
    deployed(&aws, &primary).await;
    let shown = async || {
        let ended = run(&aws.url, &["status", "--versions", "--output", "json"]).await;
        let json: Value = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"));
        let each = json["functions"].as_array().expect("a list").iter();
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let each = each.map(|one| {
            [text(&one["function"]), text(&one["version"]), text(&one["live"]), one["newest"].to_string()]
                .join(" ")
        });
        (ended.status, each.collect::<Vec<_>>())
    };
    let names = ["lock", "reconcile", "restore"];
    let version = env!("CARGO_PKG_VERSION");
    let expected = names.map(|name| format!("failover-{name} {version} 1 true"));
    assert_eq!(shown().await, (Some(0), expected.to_vec()));
    let runs = |function: &str, artifact: &str, then: &str| {
        let publish = "aws lambda publish-version --function-name failover";
        format!(
            "aws lambda update-function-configuration --function-name failover-{function} \
                 --environment 'Variables={{ARTIFACT=failover-lock-{artifact}-arm64-0.zip}}'
             version=$({publish}-{function} --query Version --output text)
             {then} aws lambda update-alias --function-name failover-{function} --name live --function-version \"$version\""
        )
    };
    for (function, then) in [("lock", ""), ("reconcile", ""), ("restore", ":")] {
        does(&aws, &runs(function, "0.9.0-aaaaaaaaaaaa", "")).await;
        does(&aws, &runs(function, "0.10.0-bbbbbbbbbbbb", then)).await;
    }
    let expected = ["lock 0.10.0 3 true", "reconcile 0.10.0 3 true", "restore 0.9.0 2 false"];
    assert_eq!(shown().await, (Some(3), expected.map(|one| format!("failover-{one}")).to_vec()));
    let ended = run(&aws.url, &["status", "--versions"]).await;
    assert!(ended.out.contains("version 2, by its alias live"), "{ended:?}");
    // An artifact that infra/package has not made has no version in its name.
    does(&aws, &runs("restore", "made-by-hand", "")).await;
    assert_eq!(shown().await.1[2], "failover-restore - 4 null");
    for wrong in [
        &["status", "--versions", "--watch"][..],
        &["status", "--versions", "--profile", "a", "--profile", "b"],
    ] {
        assert_eq!(run(&aws.url, wrong).await.status, Some(2));
    }
}
