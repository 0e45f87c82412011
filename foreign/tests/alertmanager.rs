//! A real Alertmanager, configured by `infra/alertmanager.yaml`, and the function behind its URL on an emulator,
//! deployed by the documented commands.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use support::accelerator::Fault;
use support::docs::commands_below;
use support::sites::{self, ACCELERATORS_APART, DNS_NAME, DOCUMENTED_FENCE, PASSWORD, Sites, USER};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How often the log is read; each read takes the AWS CLI half a second or more.
const LOOKS: usize = 120;

/// A running Alertmanager; dropped, its process ends.
struct Alertmanager {
    url: String,
    password: PathBuf,
    _process: Child,
}

impl Alertmanager {
    /// Started with the configuration of `infra/alertmanager.yaml` for those without an operator.
    async fn start(function_url: &str, folder: &Path) -> Self {
        let password = folder.join("password");
        let config = documented()
            .replace("REPLACE_FUNCTION_URL", function_url)
            .replace("REPLACE_WEBHOOK_USER", USER)
            .replace("/etc/alertmanager/site-fence-password", password.to_str().unwrap())
            .replace("send_resolved: false", "send_resolved: true");
        let lines: Vec<_> = config.lines().filter(|line| !line.trim().starts_with('#')).collect();
        Self::start_with(&lines.join("\n"), folder, &[]).await
    }

    /// The same, with the receiver that publishes to this topic of the emulator.
    async fn start_with_topic(topic: &str, sites: &Sites, folder: &Path) -> Self {
        let config = documented()
            .replace("REPLACE_ALERT_TOPIC", topic)
            .replace("REPLACE_REGION", support::sites::REGION)
            .replace("    sigv4:", &format!("    api_url: {}\n    #     sigv4:", sites.aws.url));
        let before = config.lines().take_while(|line| !line.contains("webhook_configs:"));
        let after = config.lines().skip_while(|line| !line.contains("# sns_configs:"));
        let after = after.map(|line| line.replacen("# ", "", 1));
        let lines: Vec<_> = before.map(str::to_owned).chain(after).collect();
        let key = sites.aws.key.as_str();
        let variables = [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", key)];
        // What was not finished comes again at this interval.
        let config = lines.join("\n").replace("repeat_interval: 5m", "repeat_interval: 2s");
        Self::start_with(&config, folder, &variables).await
    }

    async fn start_with(config: &str, folder: &Path, variables: &[(&str, &str)]) -> Self {
        let password = folder.join("password");
        // The test has less time than an operator.
        let config = config.replace("group_interval: 90s", "group_interval: 2s");
        assert!(!config.contains("REPLACE") && config.contains("2s"), "{config}");
        let file = folder.join("alertmanager.yml");
        fs::write(&file, config).unwrap();
        let address = format!("127.0.0.1:{}", support::emulator::free_port());
        let mut child = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .envs(variables.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("prometheus-alertmanager is installed (Debian: apt-get install prometheus-alertmanager)");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.contains("Listening") {
                break;
            }
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { url: format!("http://{address}"), password, _process: child }
    }

    /// Site A reports site B offline; `ends` says when that is over.
    async fn alert(&self, ends: &[&str]) {
        self.alert_named("alertname=SiteOffline", ends).await;
    }

    async fn alert_named(&self, name: &str, ends: &[&str]) {
        let accelerator = format!("accelerator={DNS_NAME}");
        let labels = [name, "site=site-b", "reporter=site-a", &accelerator];
        let added = Command::new("amtool")
            .args(["--alertmanager.url", &self.url, "alert", "add"])
            .args(ends)
            .args(labels)
            .status()
            .await
            .expect("amtool comes with Alertmanager");
        assert!(added.success());
    }
}

/// The configuration for those without an operator.
fn documented() -> String {
    let infra = fs::read_to_string(support::root().join("infra/alertmanager.yaml")).unwrap();
    let lines = infra.lines().filter_map(|line| line.strip_prefix("#|"));
    let lines: Vec<_> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    lines.join("\n").replace("REPLACE_YOUR_RECEIVER", "people")
}

/// The definition for Amazon Managed Service for Prometheus, as Alertmanager's own configuration.
fn managed() -> String {
    let page = fs::read_to_string(support::root().join("docs/fence.md")).unwrap();
    let (_, block) = page.split_once("alertmanager_config: |\n").expect("the page has the definition");
    let lines = block.split("```").next().unwrap().lines();
    lines.map(|line| line.strip_prefix("  ").expect("it is below the key").to_owned() + "\n").collect()
}

#[tokio::test]
async fn the_managed_prometheus_has_the_same_receiver() {
    let file = std::env::temp_dir().join(format!("managed-{}.yml", support::emulator::free_port()));
    fs::write(&file, managed()).unwrap();
    let checked = Command::new("amtool").arg("check-config").arg(&file).output().await.unwrap();
    assert!(checked.status.success(), "{checked:?}");
    fs::remove_file(&file).unwrap();
    // What it sends, and when, is what the other tests have seen to work.
    let lines = |text: String| -> BTreeSet<String> {
        text.lines().map(|line| line.trim_start_matches(['#', ' ']).trim_end().to_owned()).collect()
    };
    let names =
        |line: &&String| !line.contains("rout") && !line.contains("receiver") && !line.contains("name:");
    let (here, there) = (lines(managed()), lines(documented()));
    let missing: Vec<_> = here.iter().filter(names).filter(|line| !there.contains(*line)).collect();
    assert!(missing.is_empty() && here.len() > 12, "{missing:?}");
}

#[tokio::test]
async fn people_are_notified_of_an_offline_site_and_not_of_the_watchdog() {
    let file = std::env::temp_dir().join(format!("routes-{}.yml", support::emulator::free_port()));
    fs::write(&file, documented().replace("REPLACE_FUNCTION_URL", "http://127.0.0.1:1/")).unwrap();
    for (alert, receivers) in [
        ("SiteOffline", "site-fence,people"),
        ("SiteFenceWatchdog", "site-fence"),
        ("SiteViewMissing", "people"),
    ] {
        let routes = ["config", "routes", "test", "--config.file"];
        let label = format!("alertname={alert}");
        let found = Command::new("amtool").args(routes).arg(&file).arg(label).output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout).trim(), receivers, "{found:?}");
    }
    fs::remove_file(&file).unwrap();
}

/// Waits until the function's log contains this.
async fn log_says(sites: &Sites, what: &str) {
    let mut lines = String::new();
    for _ in 0..LOOKS {
        let look = "aws logs filter-log-events --log-group-name /aws/lambda/site-fence --query 'events[].message' --output text";
        lines = sites.aws.bash(look, &[]).await.1;
        if lines.contains(what) {
            return;
        }
    }
    panic!("the log never contains {what}: {lines}");
}

#[tokio::test]
async fn alertmanager_fences_after_a_wrong_password_and_a_503_and_a_resolved_alert_is_ignored() {
    let sites = Sites::start_with_functions().await;
    let folder = std::env::temp_dir().join(format!("site-fence-{}", support::emulator::free_port()));
    fs::create_dir_all(&folder).unwrap();
    let url = deploy(&sites, &folder).await;
    let alertmanager = Alertmanager::start(&url, &folder).await;

    fs::write(&alertmanager.password, "changeme").unwrap();
    alertmanager.alert(&[]).await;
    log_says(&sites, r#""status":403"#).await;
    assert_eq!(sites.in_service().len(), 2);

    // The next interval brings the right password, and a 503 for a reporter that is not healthy.
    sites.accelerators.set_health(&sites.balancer_a, "UNHEALTHY");
    fs::write(&alertmanager.password, PASSWORD).unwrap();
    log_says(&sites, "reporter_unhealthy").await;
    assert_eq!(sites.in_service().len(), 2);
    // A removal that is denied takes its notes back.
    sites.accelerators.fail("RemoveEndpoints", Fault::Error("AccessDeniedException", "not authorized"));
    sites.accelerators.set_health(&sites.balancer_a, "HEALTHY");
    log_says(&sites, r#""outcome":"fenced""#).await;
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    assert_eq!(sites.a.status("site-b"), "offline");

    alertmanager.alert(&["--end", "2026-01-01T00:00:00Z", "--start", "2025-12-31T00:00:00Z"]).await;
    log_says(&sites, "not_firing").await;
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    fs::remove_dir_all(&folder).unwrap();

    let fenced = sites.accelerators.calls();
    the_role_allows_what_was_called(&sites, ("FenceRole", "fence"), &fenced).await;

    let [rejoin, ..] = &commands_below("runbook.md", "## Rejoin a site")[..] else {
        panic!("the page has the command")
    };
    let given = [("REGION", support::sites::REGION), ("ACCELERATOR", DNS_NAME)];
    let (_, said) = sites.aws.bash(rejoin, &given).await;
    assert!(said.contains(r#""outcome": "rejoined""#), "{said}");
    assert_eq!((sites.in_service().len(), sites.a.status("site-b").as_str()), (2, "online"));
    let rejoined = &sites.accelerators.calls()[fenced.len()..];
    the_role_allows_what_was_called(&sites, ("RejoinRole", "rejoin"), rejoined).await;

    let [log, by_hand] = &commands_below("runbook.md", "## site-fence-failed")[..] else {
        panic!("the page has the commands")
    };
    let group = sites::group();
    let accelerators = sites.accelerators.url();
    let given = [
        ("REGION", support::sites::REGION),
        ("ACCELERATORS", &accelerators),
        ("GROUP", &group),
        ("ID", &sites.balancer_b),
    ];
    let (_, said) = sites.aws.bash(log, &given).await;
    assert!(said.contains("turned away") && said.contains(r#""outcome":"fenced""#), "{said}");
    let (status, said) = sites.aws.bash(&format!("{ACCELERATORS_APART}{by_hand}"), &given).await;
    assert_eq!((status, sites.in_service()), (Some(0), vec![sites.balancer_a.clone()]), "{said}");
}

#[tokio::test]
async fn alertmanager_fences_through_a_topic_and_repeats_what_is_not_finished() {
    let sites = Sites::start_with_functions().await;
    let folder = std::env::temp_dir().join(format!("site-fence-{}", support::emulator::free_port()));
    fs::create_dir_all(&folder).unwrap();
    deploy(&sites, &folder).await;
    let with_topic = r#"aws cloudformation deploy --region "$REGION" --stack-name site --template-file infra/site-fence.yaml \
        --capabilities CAPABILITY_IAM --parameter-overrides CreateAlertTopic=true >&2
        aws cloudformation describe-stacks --region "$REGION" --stack-name site --output text \
        --query "Stacks[0].Outputs[?OutputKey=='AlertTopic'].OutputValue""#;
    let (status, said) = sites.aws.bash(with_topic, &[("REGION", support::sites::REGION)]).await;
    let topic = said
        .lines()
        .find(|line| line.starts_with("arn:aws:sns:"))
        .unwrap_or_else(|| panic!("{status:?} {said}"));
    let alertmanager = Alertmanager::start_with_topic(topic, &sites, &folder).await;
    alertmanager.alert_named("alertname=SiteFenceWatchdog", &[]).await;
    log_says(&sites, r#""Watchdog":1"#).await;
    sites.accelerators.set_health(&sites.balancer_a, "UNHEALTHY");
    alertmanager.alert(&[]).await;
    log_says(&sites, "reporter_unhealthy").await;
    assert_eq!(sites.in_service().len(), 2);
    sites.accelerators.set_health(&sites.balancer_a, "HEALTHY");
    log_says(&sites, r#""outcome":"fenced""#).await;
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    fs::remove_dir_all(&folder).unwrap();
}

/// Neither less nor more. For every service but Global Accelerator, which is not its own, the emulator holds the
/// roles to their policies.
async fn the_role_allows_what_was_called(sites: &Sites, (role, policy): (&str, &str), calls: &[String]) {
    let role = format!(
        "aws cloudformation describe-stack-resource --stack-name site --logical-resource-id {role} \
        --query StackResourceDetail.PhysicalResourceId --output text"
    );
    let policy = format!(
        "aws iam get-role-policy --policy-name {policy} --role-name $({role}) \
        --query 'PolicyDocument.Statement[].Action[]' --output text"
    );
    let (status, actions) = sites.aws.bash(&policy, &[]).await;
    assert_eq!(status, Some(0), "{actions}");
    let allowed = actions.split_whitespace().filter_map(|action| action.strip_prefix("globalaccelerator:"));
    let called = calls.iter().filter_map(|call| call.split(' ').next());
    // Global Accelerator requires it in addition to the calls that remove and add endpoints.
    let called: BTreeSet<_> = called.chain(["UpdateEndpointGroup"]).collect();
    assert_eq!(allowed.collect::<BTreeSet<_>>(), called);
}

/// Deploys with the documented commands. Returns the function's URL on this emulator.
async fn deploy(sites: &Sites, folder: &Path) -> String {
    let artifact = sites.aws.package("site-fence");
    let blocks = commands_below("fence.md", "## Deploy");
    let [secrets, build, deploy, url] = &blocks[..] else { panic!("{blocks:#?}") };
    let zip = build.lines().find(|line| line.starts_with("ZIP=")).expect("the page names the zip").to_owned();
    let build =
        build.replace("infra/package --program site-fence arm64\n", "").replace(&zip, "ZIP=$ARTIFACT");
    // The emulator runs binaries of this machine's architecture.
    let deploy =
        deploy.replace("\"CodeKey=$KEY\"", "\"CodeKey=$KEY\" Architecture=x86_64 CreateFenceTable=true");
    let [act] = &commands_below("fence.md", "## Verify the installation")[..] else {
        panic!("the page lets it act")
    };
    let [instead, _] = &commands_below("fence.md", "## Replace the documented Python function")[..] else {
        panic!("the page has the commands")
    };
    assert!(instead.ends_with(act), "{instead}");
    let given = sites.deployment();
    let own = [
        ("ARTIFACT", artifact.to_str().expect("the target folder's name is UTF-8")),
        ("FOLDER", folder.to_str().expect("a temporary folder's name is UTF-8")),
        ("ROLE", "guide"),
        ("FUNCTION", "guide"),
        ("VARIABLES", "{}"),
    ];
    let given: Vec<_> = given.iter().map(|(name, value)| (*name, value.as_str())).chain(own).collect();
    let bucket = r#"aws s3 mb --region "$REGION" "s3://$BUCKET""#;
    let script = format!(
        "{ACCELERATORS_APART}\n{bucket}\n{DOCUMENTED_FENCE}\n{secrets}\n{build}\n{deploy}\n{instead}\n{url}"
    );
    let (status, said) = sites.aws.bash(&script, &given).await;
    assert_eq!(status, Some(0), "{said}");
    let host =
        said.trim().lines().last().and_then(|line| line.strip_prefix("https://")).expect("a URL at the end");
    let id = host.split('.').next().unwrap_or_default();
    format!("{}/_aws/lambda-url/{id}/", sites.aws.url)
}
