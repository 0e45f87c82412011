//! What every command of failoverctl does alike: errors that name the next command, dry runs, help.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::failoverctl::{CHANGED, Ended, FAILOVERCTL, command, run};
use crate::support::cloudwatch::Alarm;
use crate::support::docs::failoverctl_of;
use crate::support::lock::{LOCKED, PRIMARY};
use crate::support::primary::Primary;
use crate::support::route53::{Check, Fault, Route53};
use clap::Parser as _;
use clap::error::ErrorKind;
use failover::cli::Arguments;
use serde_json::Value;

async fn account(port: u16) -> Route53 {
    let route53 = Route53::start().await;
    route53.put(PRIMARY, Check::new("HTTP", port).tagged("Name", "primary"));
    route53.put_alarm("primary-unhealthy", Alarm::on(PRIMARY, "OK", CHANGED));
    route53
}

#[tokio::test]
async fn credentials_that_aws_does_not_accept_end_in_the_command_that_logs_in() {
    for code in ["ExpiredToken", "InvalidClientTokenId"] {
        let route53 = account(80).await;
        for operation in ["GetCallerIdentity", "ListHealthChecks", "GetHealthCheck", "ListTagsForResource"] {
            route53.fail_always(operation, Fault::Error(403, code, "The security token is invalid"));
        }
        for typed in [
            &["status"][..],
            &["status", PRIMARY],
            &["status", "primary"],
            &["doctor", PRIMARY],
            &["restore", PRIMARY, "--yes"],
            &["lock", PRIMARY, "--yes", "--reason", "test"],
        ] {
            let ended = run(&route53.url(), typed).await;
            assert_eq!(ended.status, Some(1), "{ended:?}");
            assert!(
                ended.said.contains(code) && ended.said.ends_with("Log in again: aws sso login\n"),
                "{ended:?}"
            );
            assert_eq!(ended.out, "", "{ended:?}");
        }
    }
}

#[tokio::test]
async fn the_command_that_logs_in_names_the_profile() {
    let folder = std::env::temp_dir().join(format!("failoverctl-{:016x}", fastrand::u64(..)));
    std::fs::create_dir_all(&folder).unwrap();
    let config = folder.join("config");
    std::fs::write(&config, "[profile prod]\naws_access_key_id = prod\naws_secret_access_key = prod\n")
        .unwrap();
    let route53 = account(80).await;
    let with_profile = async |typed: &[&str]| {
        let mut command = command(Path::new(FAILOVERCTL), &route53.url(), typed);
        Ended::of(command.env("AWS_CONFIG_FILE", &config).output().await.expect("it starts"))
    };
    let shown = with_profile(&["status", "--profile", "prod"]).await;
    assert!(shown.out.starts_with("account 123456789012, us-east-1, profile prod, as "), "{shown:?}");
    route53.fail_always("ListHealthChecks", Fault::Error(403, "ExpiredToken", "The token is expired"));
    let ended = with_profile(&["status", "--profile", "prod"]).await;
    assert!(ended.said.ends_with("Log in again: aws sso login --profile prod\n"), "{ended:?}");
    let ended = with_profile(&["status", "--profile", "nobody"]).await;
    for said in ["log in: aws sso login --profile nobody", "aws configure list-profiles"] {
        assert!(ended.status == Some(1) && ended.said.contains(said), "{said}: {ended:?}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn a_wrong_endpoint_or_region_is_named_at_once() {
    let start = Instant::now();
    for (typed, variable, status, said) in [
        (&["status", "--endpoint-url", "localhost:4566"][..], "http://127.0.0.1:9", 2, "http or https URL"),
        (
            &["status", "--endpoint-url", "http://127.0.0.1:9"],
            "http://127.0.0.1:1",
            1,
            "\"http://127.0.0.1:9\"",
        ),
        (
            &["lease", "status", "--table", "t", "--lease", "l", "--endpoint-url", "http://127.0.0.1:9"],
            "http://127.0.0.1:1",
            1,
            "there is no AWS at \"http://127.0.0.1:9\": Connection refused",
        ),
        (
            &["restore", PRIMARY],
            "http://127.0.0.1:9",
            1,
            "there is no AWS at \"http://127.0.0.1:9\": Connection refused",
        ),
        (
            &["restore", PRIMARY],
            "127.0.0.1:9",
            1,
            "there is no AWS at \"127.0.0.1:9\": it is not an http or https URL",
        ),
        (
            &["status", "--region", "us_east_1"],
            "http://127.0.0.1:9",
            2,
            "not the name of a Region, for example us-east-1",
        ),
    ] {
        let ended = run(variable, typed).await;
        assert_eq!(ended.status, Some(status), "{ended:?}");
        assert!(ended.said.contains(said) && !ended.said.contains('{'), "{said}: {ended:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_dry_run_shows_what_would_be_done_and_changes_nothing() {
    let primary = Primary::start("/lb-check").await;
    let route53 = account(primary.address.port()).await;
    let url = route53.url();
    let dry = run(&url, &["lock", "primary", "--reason", "test", "--dry-run"]).await;
    let said = format!("{PRIMARY}: would be locked (/lb-check → {LOCKED})\n");
    assert_eq!((dry.status, dry.out), (Some(0), said), "{}", dry.said);
    route53.set_path(PRIMARY, LOCKED);
    let dry = run(&url, &["restore", "primary", "--direct", "--dry-run", "--output", "json"]).await;
    let json: Value = serde_json::from_str(&dry.out).unwrap();
    assert_eq!((dry.status, &json["outcomes"][0]["outcome"]), (Some(0), &"would_restore".into()), "{json}");
    primary.set_up(false);
    let dry = run(&url, &["restore", "primary", "--direct", "--dry-run"]).await;
    assert!(dry.status == Some(3) && dry.said.contains("/lb-check answers 503"), "{dry:?}");
    let changes = ["UpdateHealthCheck", "ChangeTags"];
    let calls = route53.calls();
    assert!(!calls.iter().any(|call| changes.iter().any(|change| call.starts_with(change))), "{calls:?}");
}

#[tokio::test]
async fn help_groups_what_every_command_has_and_manual_pages_are_written() {
    for command in [&["status"][..], &["lock"], &["lease", "status"], &["fence", "out"], &["latch", "lock"]] {
        let ended = run("http://127.0.0.1:9", &[command, &["--help"]].concat()).await;
        let (own, global) =
            ended.out.split_once("\nGlobal options:\n").unwrap_or_else(|| panic!("{ended:?}"));
        for option in ["--profile", "--region", "--endpoint-url", "--output", "--verbose"] {
            let is_own = own.lines().any(|line| line.trim_start().starts_with(option));
            assert!(global.contains(option) && !is_own, "{option}: {ended:?}");
        }
    }
    let folder = std::env::temp_dir().join(format!("failoverctl-man-{:016x}", fastrand::u64(..)));
    let ended = run("http://127.0.0.1:9", &["man", folder.to_str().unwrap()]).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    for page in ["failoverctl.1", "failoverctl-status.1", "failoverctl-latch-release.1"] {
        let text =
            std::fs::read_to_string(folder.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH failoverctl"), "{page}: {text}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn every_command_that_a_page_names_is_one_of_failoverctls() {
    let mut count = 0;
    for page in [
        "README.md",
        "docs/alternatives.md",
        "docs/failoverctl.md",
        "docs/faq.md",
        "docs/fence.md",
        "docs/glossary.md",
        "docs/latch-deploy.md",
        "docs/latch.md",
        "docs/lease.md",
        "docs/lock.md",
        "docs/reference.md",
        "docs/runbook.md",
    ] {
        for words in failoverctl_of(page) {
            let error = Arguments::try_parse_from(&words).err();
            // What is missing may be in a variable, in the next line, or what the text is about.
            let fits = error.as_ref().is_none_or(|error| {
                matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                )
            });
            assert!(fits, "{page}: {words:?}: {}", error.map(|error| error.to_string()).unwrap_or_default());
            count += 1;
        }
    }
    assert!(count > 60, "{count}");
}
