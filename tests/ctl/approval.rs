//! The approval of a second person, with an STS that checks every signature.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::failoverctl::{Ended, FAILOVERCTL, command};
use crate::report::Folder;
use crate::support::lock::{LOCKED, PRIMARY};
use crate::support::route53::{Check, Route53};
use crate::support::sts::{Person, Sts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

const TOKEN: &str = "FwoGZXIvYXdzE/+0=";
const PEOPLE: [(&str, Person); 5] = [
    ("jane", Person { arn: "arn:aws:sts::123456789012:assumed-role/Operator/jane", session_token: None }),
    (
        "bob",
        Person { arn: "arn:aws:sts::123456789012:assumed-role/Approver/bob", session_token: Some(TOKEN) },
    ),
    ("eve", Person { arn: "arn:aws:sts::123456789012:assumed-role/Viewer/eve", session_token: None }),
    ("jane-too", Person { arn: "arn:aws:sts::123456789012:assumed-role/Approver/jane", session_token: None }),
    ("other", Person { arn: "arn:aws:sts::210987654321:assumed-role/Approver/ada", session_token: None }),
];
const APPROVERS: &str = "--require-approval=arn:aws:sts::123456789012:assumed-role/Approver/*";

/// A locked health check, and an STS that knows these people.
struct Account {
    route53: Route53,
    sts: Sts,
}

impl Account {
    async fn start() -> Self {
        let route53 = Route53::start().await;
        route53.put(PRIMARY, Check::new("HTTP", 80).with("ResourcePath", LOCKED));
        Self { route53, sts: Sts::start(&PEOPLE).await }
    }

    /// A program with this person's credentials.
    fn program(&self, program: &str, key: &str, typed: &[&str]) -> Command {
        let mut command = command(Path::new(program), &self.route53.url(), typed);
        command
            .env("AWS_ENDPOINT_URL_STS", self.sts.url())
            .envs([("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", key)])
            .stdin(Stdio::null());
        let person = PEOPLE.iter().find(|(known, _)| *known == key);
        command.envs(
            person.and_then(|(_, person)| person.session_token).map(|token| ("AWS_SESSION_TOKEN", token)),
        );
        command
    }

    async fn run(&self, key: &str, typed: &[&str]) -> Ended {
        Ended::of(self.program(FAILOVERCTL, key, typed).output().await.expect("it starts"))
    }

    /// Jane restores, with these options.
    async fn restore(&self, options: &[&str]) -> Ended {
        self.run("jane", &[&RESTORE[..], options].concat()).await
    }

    async fn refused(&self, options: &[&str], why: &str) -> Ended {
        let ended = self.restore(options).await;
        assert!(ended.status == Some(3) && ended.said.contains(why), "{why}: {ended:?}");
        assert!(ended.said.contains("nothing was changed"), "{ended:?}");
        assert!(!self.route53.calls().iter().any(|call| call.starts_with("Update")), "{why}");
        ended
    }

    async fn approval(&self, key: &str, plan: &str) -> String {
        let ended = self.run(key, &["approve", plan, "--yes"]).await;
        assert_eq!(ended.status, Some(0), "{ended:?}");
        ended.out.trim().to_owned()
    }
}

const RESTORE: [&str; 7] = ["restore", PRIMARY, "--direct", "--force", "--yes", "--reason", "INC-1"];

/// The plan that a command has printed.
fn plan(said: &str) -> &str {
    let (_, rest) = said.split_once("failoverctl approve '").unwrap_or_else(|| panic!("{said}"));
    rest.split_once('\'').expect("it is quoted").0
}

#[tokio::test]
async fn a_restore_is_done_once_a_second_person_has_approved_that_very_plan() {
    let account = Account::start().await;
    let unasked = account.refused(&[APPROVERS], "repeat the command with --approval TOKEN").await;
    let plan = plan(&unasked.said);
    assert!(
        plan.starts_with(&format!(
            "restore {PRIMARY} at its version 1 --force --direct: INC-1 | 123456789012 us-east-1 "
        )),
        "{plan}"
    );
    let token = account.approval("bob", plan).await;
    let approved = ["--approval", &token];
    // Another operation with the same approval, and another person's.
    account.refused(&["--path", "/other", "--approval", &token], "the approval is of another plan").await;
    let other = [&RESTORE[..6], &["INC-2"], &approved].concat();
    let ended = account.run("jane", &other).await;
    assert!(ended.status == Some(3) && ended.said.contains("the approval is of another plan"), "{ended:?}");
    let ended = account.run("eve", &[&RESTORE[..], &approved].concat()).await;
    assert!(ended.status == Some(3) && ended.said.contains("the approval is of another plan"), "{ended:?}");
    assert!(!account.route53.calls().iter().any(|call| call.starts_with("Update")));

    let folder = Folder::new("approval");
    let report = ["--report", folder.name()];
    let ended = account.restore(&[&[APPROVERS], &approved[..], &report].concat()).await;
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let tags = account.route53.check(PRIMARY).tags;
    let by = "approved by assumed-role/Approver/bob: INC-1";
    assert!(tags["failover-lock:in"].contains(by), "{tags:?}");
    // It was for that lock, and not for the next one.
    account.route53.set_path(PRIMARY, LOCKED);
    let ended = account.restore(&[&[APPROVERS], &approved[..]].concat()).await;
    assert!(ended.status == Some(3) && ended.said.contains("the approval is of another plan"), "{ended:?}");
    assert_eq!(account.route53.check(PRIMARY).path(), LOCKED);
    let approved = "approved by arn:aws:sts::123456789012:assumed-role/Approver/bob: restore";
    assert!(folder.has_steps(&[("person", approved), ("lock", "restored")]), "{}", folder.json());
}

#[tokio::test]
async fn an_approval_counts_if_sts_says_it_is_of_a_second_person_whom_the_pattern_names() {
    let account = Account::start().await;
    let unasked = account.refused(&["--require-approval"], "--approval TOKEN").await;
    let plan = plan(&unasked.said);
    let eve = account.approval("eve", plan).await;
    account
        .refused(&[APPROVERS, "--approval", &eve], "whom arn:aws:sts::123456789012:assumed-role/Approver/*")
        .await;
    let other = account.approval("other", plan).await;
    account.refused(&["--approval", &other], "who is not of account 123456789012").await;
    let ended = account.run("bob", &["approve", "restore everything", "--yes"]).await;
    assert!(ended.status == Some(3) && ended.said.contains("it is not a plan"), "{ended:?}");
    for key in ["jane", "jane-too"] {
        let ended = account.run(key, &["approve", plan, "--yes"]).await;
        assert!(ended.status == Some(3) && ended.out.is_empty(), "{key}: {ended:?}");
    }

    let bob = account.approval("bob", plan).await;
    // The plan in the token is replaced by one that the operation fits.
    let [_, rest] = eve.split(':').collect::<Vec<_>>()[..2] else { unreachable!("it has parts") };
    assert_eq!(rest, "eve");
    let parts = |token: &str| token.split(':').map(str::to_owned).collect::<Vec<_>>();
    let changed = |place: usize, part: &str| {
        let mut parts = parts(&bob);
        part.clone_into(&mut parts[place]);
        parts.join(":")
    };
    for (place, part, why) in [
        (1, "eve", "InvalidClientTokenId"),
        (2, &parts(&eve)[2].replace('Z', "z")[..], "is not of the last 15 minutes"),
        (2, "20260101T000000Z", "is not of the last 15 minutes"),
        (3, &"0".repeat(64)[..], "SignatureDoesNotMatch"),
        (4, "another", "InvalidClientTokenId"),
    ] {
        account.refused(&["--approval", &changed(place, part)], why).await;
    }
    // Signed for another plan: only the text beside the signature is this one.
    let next = account.refused(&["--require-approval"], "--approval TOKEN").await;
    let next = account.approval("eve", self::plan(&next.said)).await;
    account.refused(&["--approval", &changed(0, &parts(&next)[0])], "SignatureDoesNotMatch").await;

    account.sts.pass(Duration::from_mins(16));
    account.refused(&["--approval", &bob], "Signature expired").await;
    let without = account.program(FAILOVERCTL, "jane", &[&RESTORE[..], &["--approval", &bob]].concat());
    let mut without = without;
    let ended = Ended::of(
        without.env("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9").output().await.expect("it starts"),
    );
    assert!(ended.status == Some(3) && ended.said.contains("no approval can be checked"), "{ended:?}");
}

#[tokio::test]
async fn on_a_terminal_the_approval_is_pasted() {
    let account = Account::start().await;
    let typed: Vec<_> = RESTORE.iter().map(|word| format!("'{word}'")).collect();
    let typed = format!("{FAILOVERCTL} {} '{APPROVERS}'", typed.join(" "));
    let mut terminal = account.program("script", "jane", &["-qec", &typed, "/dev/null"]);
    let mut terminal = terminal.stdin(Stdio::piped()).spawn().expect("it starts");
    let (mut out, mut stdin) =
        (terminal.stdout.take().expect("piped"), terminal.stdin.take().expect("piped"));
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("Paste the approval: ") {
        let read = out.read_buf(&mut said).await.expect("it can be read");
        assert_ne!(read, 0, "it ended: {}", String::from_utf8_lossy(&said));
    }
    let token = account.approval("bob", plan(&String::from_utf8_lossy(&said))).await;
    stdin.write_all(format!("{token}\n").as_bytes()).await.expect("it reads");
    out.read_to_end(&mut said).await.expect("it can be read");
    assert!(terminal.wait().await.expect("it ends").success(), "{}", String::from_utf8_lossy(&said));
    assert!(account.route53.check(PRIMARY).tags["failover-lock:in"].contains("approved by"));
}
