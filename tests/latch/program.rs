//! The program: as a Lambda function and as a process. Every AWS service but S3 leads nowhere here, so that a call to
//! Route 53's API or to us-east-1 would fail the look.

use std::io::{PipeWriter, pipe};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use crate::support::docs::words_below;
use crate::support::lambda::Function;
use crate::support::program::{fill, program};
use crate::support::root;
use crate::support::s3::WATCHER;
use crate::support::site::{A, Site};

/// There is time for one look before the last 5 s.
const TICK: Duration = Duration::from_secs(9);
/// How long a test waits for what comes sooner.
const PATIENCE: Duration = Duration::from_mins(1);

async fn function(site: &Site, further: &[(&str, &str)]) -> Function {
    let (url, variables) = (site.s3.url(), site.variables());
    let mut all: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.extend([
        ("AWS_ENDPOINT_URL_S3", url.as_str()),
        ("AWS_ACCESS_KEY_ID", WATCHER),
        ("AWS_SECRET_ACCESS_KEY", WATCHER),
        ("AWS_REGION", "eu-west-1"),
    ]);
    all.extend(further);
    Function::start_program("failover-latch", "watch", &all).await
}

/// The metrics of a line in CloudWatch's embedded metric format, those that are not 0.
fn metrics(lines: &[String]) -> Vec<Vec<(String, f64)>> {
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines = lines.filter(|line| line["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "FailoverLatch");
    lines
        .map(|line| {
            let directive = &line["_aws"]["CloudWatchMetrics"][0];
            assert_eq!((&directive["Dimensions"], &line["Latch"]), (&json!([["Latch"]]), &json!("app")));
            let names = directive["Metrics"]
                .as_array()
                .unwrap()
                .iter()
                .map(|metric| metric["Name"].as_str().unwrap());
            let values = names.map(|name| (name.to_owned(), line[name].as_f64().unwrap()));
            values.filter(|(name, value)| *value != 0.0 && name != "LookGap").collect()
        })
        .collect()
}

#[tokio::test]
async fn a_function_locks_within_its_tick_and_counts_it_once() {
    let site = Site::failed_over().await;
    let function = function(&site, &[("LOOK_EVERY", "1")]).await;
    for event in ["{}", r#"{"source":"aws.scheduler"}"#] {
        assert_eq!(
            function.invoke(event, TICK).await,
            Ok(json!({ "latches": { "app": "locked" } })),
            "{event}"
        );
    }
    let lines = function.stop().await;
    let one = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1.0)).collect::<Vec<_>>();
    assert_eq!(metrics(&lines), [one(&["Locked", "Standing"]), one(&["Standing"])], "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("decided: lock")), "{lines:#?}");
}

#[tokio::test]
async fn a_function_reports_a_lock_that_was_opened_without_a_hold() {
    let site = Site::failed_over().await;
    let function = function(&site, &[("DRY_RUN", "true")]).await;
    site.s3.put(A, "latches/app", "{}");
    assert_eq!(function.invoke("{}", TICK).await, Ok(json!({ "latches": { "app": "would_lock" } })));
    site.s3.remove(A, "latches/app");
    assert_eq!(function.invoke("{}", TICK).await, Ok(json!({ "latches": { "app": "would_lock" } })));
    let counted = metrics(&function.stop().await);
    let ones = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1.0)).collect::<Vec<_>>();
    assert_eq!(counted, [ones(&["DryRun", "Standing"]), ones(&["Opened", "Missed", "DryRun"])]);
}

#[tokio::test]
async fn an_invocation_fails_if_every_latch_fails() {
    let site = Site::start().await;
    site.s3.stop().await;
    let function = function(&site, &[]).await;
    let error = function.invoke("{}", TICK).await.unwrap_err();
    assert_eq!(error["errorType"], "AllFailed");
    assert!(error["errorMessage"].as_str().unwrap().starts_with("app: acme-latch-"), "{error}");
}

#[tokio::test]
async fn an_unknown_handler_and_invalid_variables_stop_the_start() {
    let site = Site::start().await;
    let (status, lines) = Function::start_program("failover-latch", "lock", &[]).await.ended().await;
    assert!(!status.success() && lines.concat().contains("set it to watch, or"), "{lines:?}");
    let (status, lines) =
        function(&site, &[("LATCH_BUCKETS", "us-east-1=aaa,eu-west-1=bbb")]).await.ended().await;
    assert!(!status.success() && lines.concat().contains("LATCH_BUCKETS: aaa is in us-east-1"), "{lines:?}");
}

/// The program with `--watch`, where it listens, and its log's pipe, which is read until it has looked.
async fn process(site: &Site) -> (Child, String, Lines<BufReader<Receiver>>, PipeWriter) {
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let (reader, writer) = pipe().unwrap();
    let documented = words_below("latch.md", "## As a process", ("127.0.0.1:8096", &address));
    let child = Command::new(program(&documented[0]))
        .args(&documented[1..])
        .env_clear()
        .envs(site.variables())
        .envs([
            ("LOOK_EVERY", "1"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
            ("AWS_ENDPOINT_URL_S3", &site.s3.url()),
            ("AWS_ACCESS_KEY_ID", WATCHER),
            ("AWS_SECRET_ACCESS_KEY", WATCHER),
        ])
        .stdin(Stdio::null())
        .stdout(writer.try_clone().unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(Receiver::from_owned_fd(OwnedFd::from(reader)).unwrap()).lines();
    while !lines.next_line().await.unwrap().expect("it looks").contains("\"done\"") {}
    (child, address, lines, writer)
}

/// Ends the program with a signal.
async fn ends(mut child: Child) {
    let id = child.id().unwrap().to_string();
    // `kill` alone is a program that not every machine has.
    assert!(Command::new("sh").args(["-c", r#"kill -s TERM "$0""#, &id]).status().await.unwrap().success());
    assert!(child.wait().await.unwrap().success());
}

/// The status and the body of an answer.
async fn ask(address: &str, method: &Method, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// Asks until the answer is so.
async fn until(address: &str, path: &str, is_so: impl Fn(u16, &str) -> bool) -> (u16, String) {
    let so = async {
        loop {
            let (status, body) = ask(address, &Method::GET, path).await;
            if is_so(status, &body) {
                return (status, body);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("never: {path}"))
}

#[tokio::test]
async fn a_process_locks_shows_its_metrics_and_its_health_and_ends_on_a_signal() {
    let site = Site::start().await;
    let (child, address, mut lines, _writer) = process(&site).await;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let (status, body) = ask(&address, &Method::GET, "/healthz").await;
    assert_eq!(
        (status, serde_json::from_str(&body).unwrap()),
        (200, json!({ "unhealthy": [], "latches": { "app": "armed" } }))
    );
    site.fails_over();
    let (_, metrics) =
        until(&address, "/metrics", |_, body| body.contains("failover_latch_standing{latch=\"app\"} 1"))
            .await;
    for line in [
        "# TYPE failover_latch_armed gauge",
        "failover_latch_armed{latch=\"app\"} 0",
        "failover_latch_look_gap_seconds",
        "failover_latch_locked_total{latch=\"app\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // The alerts are on what there is.
    let pod = std::fs::read_to_string(root().join("infra/latch-pod.yaml")).unwrap();
    let word = |text: &str| {
        text.chars().take_while(|char| char.is_ascii_lowercase() || *char == '_').collect::<String>()
    };
    let names: Vec<_> = pod.split("failover_latch_").skip(1).map(word).collect();
    assert!(names.len() > 8, "{names:?}");
    for name in names {
        assert!(metrics.contains(&format!("\nfailover_latch_{name}{{")), "{name}: {metrics}");
    }
    assert_eq!(site.objects(), [true, true]);
    assert_eq!(ask(&address, &Method::GET, "/").await.0, 404);
    assert_eq!(ask(&address, &Method::POST, "/healthz").await.0, 405);
    // Nothing is seen any more.
    site.s3.stop().await;
    until(&address, "/healthz", |status, _| status == 503).await;
    ends(child).await;
}

#[tokio::test]
async fn a_process_whose_log_no_one_reads_locks_and_ends() {
    let site = Site::start().await;
    let (child, address, _unread, writer) = process(&site).await;
    fill(&writer).await;
    site.fails_over();
    until(&address, "/metrics", |_, body| body.contains("failover_latch_standing{latch=\"app\"} 1")).await;
    assert_eq!(site.objects(), [true, true]);
    ends(child).await;
}
