//! What a `lease-keeper` process reads from its file, its environment and its credentials' sources, and how it
//! follows a rotation of these without a restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::command::{STUBBORN, is_gone, runs_as};
use crate::support::emulator::Emulator;
use crate::support::issuer::{CONTAINER, Issuer};
use crate::support::keeper::{
    Keeper, LEASE, Observer, TABLE, collect, command, create_table, record, spawn_with,
};
use crate::support::proxy::{Fault, PATIENCE, Proxy};

/// A file of Admiral with a list of identities to ignore, which has a section `dynamoDB` of its own.
const WHOLE: &str = r#"ignoreIdentityList:
  stateCheckerPeriodInSeconds: 60
  dynamoDB:
    region: "us-west-2"
    role: "arn:aws:iam::123456789012:role/admiral-read"
    tableName: "admiral-ignore-identity"
    clusterEnvironment: "prod"
dynamoDB:
  leaseName: mylease
  podIdentifier: site-a
  waitTimeInSeconds: 15
  failureThreshold: 3
  tableName: admiral-lease
  role: arn:aws:iam::123456789012:role/lease
  region: us-west-2
"#;

/// A term that is long enough for a test's own delays.
const SECTION: &str = "dynamoDB:
  leaseName: mylease
  podIdentifier: site-a
  waitTimeInSeconds: 1
  failureThreshold: 20
  tableName: admiral-lease
  region: us-east-1
";

/// The tokens of the sessions before and after a rotation.
const TOKEN: [&str; 2] = ["token-1", "token-2"];

/// A process's own folder, which is its home.
pub(crate) struct Home(PathBuf);

// === impl Home ===

impl Home {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("home-{}-{number}", std::process::id());
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder))
    }

    /// Replaces a file of the folder as a whole, as Kubernetes and careful people do; its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let file = self.0.join(name);
        fs::create_dir_all(file.parent().expect("it is in the folder")).expect("target/tmp can be written");
        let new = file.with_extension("new");
        fs::write(&new, text).expect("target/tmp can be written");
        fs::rename(&new, &file).expect("target/tmp can be written");
        file.to_str().expect("its name is UTF-8").to_owned()
    }

    /// The path of a file of the folder.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("its name is UTF-8").to_owned()
    }

    /// A keeper with this file and these variables, and with no others but its home.
    pub(crate) async fn keeper(
        &self,
        emulator: &Emulator,
        yaml: &str,
        variables: &[(&str, &str)],
        arguments: &[&str],
    ) -> Keeper {
        let proxy = Proxy::start(&emulator.url).await;
        let file = self.write("lease.yaml", yaml);
        let home = self.0.to_str().expect("its name is UTF-8");
        let alone = [("HOME", home), ("AWS_EC2_METADATA_DISABLED", "true")];
        let variables = [&alone[..], variables].concat();
        let spawned = spawn_with(&proxy.url, Path::new(&file), &variables, arguments);
        Keeper::of(proxy, spawned).await
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The variables with keys of the test's own account.
fn keys(emulator: &Emulator) -> [(&str, &str); 2] {
    [("AWS_ACCESS_KEY_ID", &emulator.key), ("AWS_SECRET_ACCESS_KEY", &emulator.key)]
}

/// A table whose lease was released, so that the first candidate takes it at once.
pub(crate) async fn create_released(emulator: &Emulator) {
    create_table(emulator).await;
    let item = json!({
        "leaseName": { "S": LEASE },
        "leaseOwner": { "S": "" },
        "updatedTime": { "N": "1" },
        "notes": { "S": "by hand" },
        "leaseWriter": { "S": "another" },
        "leaseBeat": { "N": "1" },
        "leaseEpoch": { "N": "1" },
        "leaseTerm": { "N": "3000" },
        "leaseReleased": { "BOOL": true },
    });
    emulator.aws(&["dynamodb", "put-item", "--table-name", TABLE, "--item", &item.to_string()]).await;
}

/// The holder's credentials are replaced, and from then on the table refuses the former ones: it keeps the lease.
async fn keeps_the_lease(keeper: &Keeper, rotate: impl AsyncFnOnce()) {
    let observer = Observer::of(&[keeper]);
    let epoch = observer.active(keeper).await;
    rotate().await;
    keeper.says("UnrecognizedClientException").await;
    keeper.says("the credentials were read anew").await;
    keeper.states("\"failing\":null").await;
    assert_eq!(observer.active(keeper).await, epoch);
    assert_eq!(observer.losses(keeper), 0);
    observer.vouch();
}

#[tokio::test]
async fn admirals_whole_file_is_accepted_and_its_other_sections_are_named_once() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    // The emulator's account and Region, and a term that is over within a test.
    let yaml = WHOLE.replace("123456789012", emulator.account()).replace("us-west-2", "us-east-1");
    let yaml = yaml.replace("waitTimeInSeconds: 15", "waitTimeInSeconds: 1");
    let keeper = Home::new().keeper(&emulator, &yaml, &keys(&emulator), &[]).await;
    let said = keeper.says("ignoreIdentityList").await;
    assert!(said.contains("\"INFO\"") && said.contains("are ignored"), "{said}");
    Observer::of(&[&keeper]).active(&keeper).await;
    assert_eq!(keeper.said("ignoreIdentityList"), 1);
    assert!(keeper.proxy.calls("AssumeRole") > 0);
}

#[tokio::test]
async fn every_wrong_value_is_named_by_its_key_at_once() {
    let home = Home::new();
    let file = home.write(
        "lease.yaml",
        "dynamoDB:\n  leaseName: [a, b]\n  waitTimeInSeconds: soon\n  failureThreshold: 1\n  tableNmae: x\n  role: lease\n  region: {a: b}\n",
    );
    let (mut process, mut log) = spawn_with("http://127.0.0.1:1", Path::new(&file), &[], &[]);
    assert_eq!(process.wait().await.unwrap().code(), Some(1));
    let said = log.wait_for(|lines| !lines.is_empty()).await.unwrap().clone();
    for key in [
        "leaseName: it is not a text",
        "podIdentifier: it is missing",
        "waitTimeInSeconds: it is not a whole number",
        "failureThreshold: it must be at least 2",
        "tableName: it is missing",
        "tableNmae: there is no such key",
        "role: ",
        "region: it is not a text",
    ] {
        assert!(said[0].contains(key), "{key}: {said:#?}");
    }
}

#[tokio::test]
async fn identity_and_region_come_from_the_environment_if_the_file_has_none() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let yaml = SECTION.replace("  podIdentifier: site-a\n", "").replace("  region: us-east-1\n", "");
    for region in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        let own = [("LEASE_IDENTITY", region), (region, "us-east-1")];
        let variables = [&keys(&emulator)[..], &own].concat();
        let mut keeper = Home::new().keeper(&emulator, &yaml, &variables, &[]).await;
        let started = keeper.says("\"starting\"").await;
        assert!(started.contains(&format!("us-east-1, for {region}")), "{started}");
        Observer::of(&[&keeper]).active(&keeper).await;
        assert_eq!(keeper.state().await["record"]["owner"], region);
        keeper.signal("TERM").await;
        assert_eq!(keeper.ended().await.code(), Some(0));
    }
}

/// A profile with keys; the file's name and content.
fn profile(id: &str, secret: &str, token: &str) -> (&'static str, String) {
    let keys = format!("aws_access_key_id = {id}\naws_secret_access_key = {secret}\n");
    let token = if token.is_empty() { String::new() } else { format!("aws_session_token = {token}\n") };
    (".aws/credentials", format!("[default]\n{keys}{token}"))
}

#[tokio::test]
async fn a_profiles_keys_can_be_rotated_as_a_table_that_checks_them_sees_it() {
    let emulator = Emulator::own_ministack_enforcing_permissions().await;
    create_released(&emulator).await;
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "dynamodb:*", "Resource": "*" },
    ]});
    let user = ["--user-name", "lease"];
    emulator.aws(&[&["iam", "create-user"], &user[..]].concat()).await;
    let policy = policy.to_string();
    let put = ["--policy-name", "lease", "--policy-document", &policy];
    emulator.aws(&[&["iam", "put-user-policy"], &user[..], &put].concat()).await;
    let create = async || -> [String; 2] {
        let key: Value = emulator.aws(&[&["iam", "create-access-key"], &user[..]].concat()).await;
        ["AccessKeyId", "SecretAccessKey"].map(|part| key["AccessKey"][part].as_str().unwrap().to_owned())
    };
    let [id, secret] = create().await;
    let home = Home::new();
    let (name, text) = profile(&id, &secret, "");
    home.write(name, &text);
    let keeper = home.keeper(&emulator, SECTION, &[], &[]).await;
    keeps_the_lease(&keeper, async || {
        let [next, secret] = create().await;
        home.write(name, &profile(&next, &secret, "").1);
        emulator.aws(&[&["iam", "delete-access-key", "--access-key-id", &id], &user[..]].concat()).await;
    })
    .await;
}

/// A file of a profile with this endpoint.
fn at(endpoint: &str) -> [String; 2] {
    [
        format!("[default]\nendpoint_url = {endpoint}\n"),
        format!("[default]\nservices = local\n[services local]\ndynamodb =\n  endpoint_url = {endpoint}\n"),
    ]
}

#[tokio::test]
async fn an_empty_endpoint_in_a_profile_costs_a_holder_nothing_and_is_named() {
    for (kind, named) in
        ["endpoint_url: it is empty", "endpoint_url of DynamoDB: it is empty"].iter().enumerate()
    {
        let emulator = Emulator::ministack().await;
        create_released(&emulator).await;
        let home = Home::new();
        let write = |token: &str, endpoint: &str| {
            let (name, text) = profile(&emulator.key, &emulator.key, token);
            home.write(".aws/config", &at(endpoint)[kind]);
            home.write(name, &text);
        };
        let proxy = Proxy::start(&emulator.url).await;
        let url = proxy.url.clone();
        let file = home.write("lease.yaml", SECTION);
        let folder = home.path("");
        let spawned = || {
            let variables = [("HOME", &*folder), ("AWS_EC2_METADATA_DISABLED", "true")];
            let mut command = command("", Path::new(&file), &variables, &[]);
            collect(command.env_remove("AWS_ENDPOINT_URL"))
        };
        write(TOKEN[0], &url);
        let keeper = Keeper::of(proxy, spawned()).await;
        let observer = Observer::of(&[&keeper]);
        let epoch = observer.active(&keeper).await;
        write(TOKEN[1], "");
        keeper.proxy.refuse(TOKEN[0]);
        let said = keeper.says("the credentials cannot be read anew").await;
        assert!(said.contains(named), "{said}");

        let (mut new, mut log) = spawned();
        let said = log.wait_for(|lines| lines.iter().any(|line| line.contains(named))).await;
        assert!(said.is_ok(), "{named}");
        drop(said);
        assert_eq!(new.wait().await.unwrap().code(), Some(1));
        assert!(!log.borrow().iter().any(|line| line.contains("panicked")));

        write(TOKEN[1], &url);
        keeper.states("\"failing\":null").await;
        assert_eq!(observer.active(&keeper).await, epoch);
        assert_eq!(observer.losses(&keeper), 0);
    }
}

#[tokio::test]
async fn keys_of_another_account_lead_to_no_other_table_of_the_same_name() {
    let (emulator, other) = (Emulator::ministack().await, Emulator::ministack().await);
    create_released(&emulator).await;
    create_released(&other).await;
    let released = record(&other).await;
    let home = Home::new();
    let write = |key: &str, token: &str| {
        let (name, text) = profile(key, key, token);
        home.write(name, &text)
    };
    write(&emulator.key, TOKEN[0]);
    let keeper = home.keeper(&emulator, SECTION, &[], &[]).await;
    let observer = Observer::of(&[&keeper]);
    let epoch = observer.active(&keeper).await;
    write(&other.key, TOKEN[1]);
    keeper.proxy.refuse(TOKEN[0]);
    let state = keeper.states("the credentials lead to the table").await;
    let failing = state["failing"].as_str().unwrap();
    assert!(failing.contains(emulator.account()) && failing.contains(other.account()), "{failing}");
    assert_eq!(record(&other).await, released);
    // Once they are corrected, it goes on.
    write(&emulator.key, TOKEN[1]);
    keeper.states("\"failing\":null").await;
    assert_eq!(record(&other).await, released);
    assert_eq!(observer.active(&keeper).await, epoch);
}

#[tokio::test]
async fn a_process_that_gives_another_accounts_keys_by_itself_leads_to_no_other_table_either() {
    for is_empty in [true, false] {
        let (emulator, other) = (Emulator::ministack().await, Emulator::ministack().await);
        create_released(&emulator).await;
        create_released(&other).await;
        if is_empty {
            let key = json!({ "leaseName": { "S": LEASE } }).to_string();
            other.aws(&["dynamodb", "delete-item", "--table-name", TABLE, "--key", &key]).await;
        }
        let released = record(&other).await;
        let home = Home::new();
        let key = home.write("key", &emulator.key);
        // They are loaded again before each call: a short time before they expire.
        let script = format!(
            "key=$(cat '{key}'); until=$(date -u -d '+5 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
             printf '{{\"Version\": 1, \"AccessKeyId\": \"%s\", \"SecretAccessKey\": \"%s\", \"Expiration\": \"%s\"}}' \
             \"$key\" \"$key\" \"$until\""
        );
        let script = home.write("credentials.sh", &script);
        home.write(".aws/config", &format!("[default]\ncredential_process = sh \"{script}\"\n"));
        let keeper = home.keeper(&emulator, SECTION, &[], &[]).await;
        let observer = Observer::of(&[&keeper]);
        let epoch = observer.active(&keeper).await;
        home.write("key", &other.key);
        let state = keeper.states("the credentials lead to the table").await;
        assert!(state["failing"].as_str().unwrap().contains(other.account()), "{state}");
        keeper.states("\"active\":false").await;
        assert_eq!(record(&other).await, released);
        home.write("key", &emulator.key);
        keeper.states("\"active\":true").await;
        assert_eq!(record(&other).await, released);
        assert!(observer.active(&keeper).await >= epoch);
    }
}

#[tokio::test]
async fn no_record_is_created_with_other_keys_than_those_with_which_the_table_was_seen() {
    for own in 1..6 {
        let (emulator, other) = (Emulator::ministack().await, Emulator::ministack().await);
        for account in [&emulator, &other] {
            create_table(account).await;
        }
        let home = Home::new();
        // So many times its own keys, each for one call, then another account's.
        let count = home.write("count", "0");
        let script = format!(
            "n=$(cat '{count}'); echo $((n + 1)) >'{count}'; if [ $n -lt {own} ]; then key={}; else key={}; fi\n\
             until=$(date -u -d '+5 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
             printf '{{\"Version\": 1, \"AccessKeyId\": \"%s\", \"SecretAccessKey\": \"%s\", \"Expiration\": \"%s\"}}' \
             \"$key\" \"$key\" \"$until\"",
            emulator.key, other.key
        );
        let script = home.write("credentials.sh", &script);
        home.write(".aws/config", &format!("[default]\ncredential_process = sh \"{script}\"\n"));
        let keeper = home.keeper(&emulator, SECTION, &[], &[]).await;
        let state = keeper.states("the credentials lead to the table").await;
        assert!(state["failing"].as_str().unwrap().contains(other.account()), "{state}");
        assert!(record(&other).await.is_null(), "after {own}: {}", record(&other).await);
    }
}

#[tokio::test]
async fn a_profile_that_is_written_late_is_found() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let home = Home::new();
    let keeper = home.keeper(&emulator, SECTION, &[], &[]).await;
    let state = keeper.states("Check the credentials of this program").await;
    assert_eq!(state["active"], false);
    let (name, text) = profile(&emulator.key, &emulator.key, "");
    home.write(name, &text);
    Observer::of(&[&keeper]).active(&keeper).await;
}

#[tokio::test]
async fn credentials_of_a_process_are_used_and_its_line_can_be_changed() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let home = Home::new();
    let [line, next] = TOKEN.map(|token| {
        let printed = json!({
            "Version": 1,
            "AccessKeyId": emulator.key,
            "SecretAccessKey": emulator.key,
            "SessionToken": token,
            "Expiration": "2099-01-01T00:00:00Z",
        });
        let file = home.write(token, &printed.to_string());
        format!("[default]\ncredential_process = cat \"{file}\"\n")
    });
    home.write(".aws/config", &line);
    let keeper = home.keeper(&emulator, SECTION, &[], &[]).await;
    keeps_the_lease(&keeper, async || {
        home.write(".aws/config", &next);
        keeper.proxy.refuse(TOKEN[0]);
    })
    .await;
}

#[tokio::test]
async fn a_containers_credentials_are_used_and_its_token_file_is_read_again() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let issuer = Issuer::start(&emulator.key, "proof-1", TOKEN[0]).await;
    let home = Home::new();
    let token = home.write("token", "proof-1");
    let url = format!("{}{CONTAINER}", issuer.url);
    let variables =
        [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*url), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &*token)];
    let keeper = home.keeper(&emulator, SECTION, &variables, &[]).await;
    keeps_the_lease(&keeper, async || {
        issuer.rotate("proof-2", TOKEN[1]);
        home.write("token", "proof-2");
        keeper.proxy.refuse(TOKEN[0]);
    })
    .await;
}

#[tokio::test]
async fn an_instances_credentials_are_used_and_rotated() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let issuer = Issuer::start(&emulator.key, "", TOKEN[0]).await;
    let variables =
        [("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*issuer.url), ("AWS_EC2_METADATA_DISABLED", "false")];
    let keeper = Home::new().keeper(&emulator, SECTION, &variables, &[]).await;
    keeps_the_lease(&keeper, async || {
        issuer.rotate("", TOKEN[1]);
        keeper.proxy.refuse(TOKEN[0]);
    })
    .await;
}

#[tokio::test]
async fn credentials_of_sso_are_used_and_follow_a_new_login() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let issuer = Issuer::start(&emulator.key, "login-1", TOKEN[0]).await;
    let home = Home::new();
    home.write(
        ".aws/config",
        "[default]\nsso_start_url = https://example.com/start\nsso_region = us-east-1\nsso_account_id = 123456789012\n\
         sso_role_name = lease\n",
    );
    // Its name is the SHA-1 of the URL.
    let login = |token: &str| {
        let login = json!({ "accessToken": token, "expiresAt": "2099-01-01T00:00:00Z" });
        home.write(".aws/sso/cache/b343494cf15ba6b81449840ea93161cf3b27e5e3.json", &login.to_string());
    };
    login("login-1");
    let variables = [("AWS_ENDPOINT_URL_SSO", &*issuer.url)];
    let keeper = home.keeper(&emulator, SECTION, &variables, &[]).await;
    keeps_the_lease(&keeper, async || {
        issuer.rotate("login-2", TOKEN[1]);
        login("login-2");
        keeper.proxy.refuse(TOKEN[0]);
    })
    .await;
}

#[tokio::test]
async fn credentials_of_a_console_login_are_used_and_follow_a_new_login() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let home = Home::new();
    home.write(".aws/config", "[default]\nlogin_session = arn:aws:iam::123456789012:user/jane\n");
    // Its name is the SHA-256 of the session.
    let login = |token: &str| {
        let login = json!({
            "accessToken": {
                "accessKeyId": emulator.key,
                "secretAccessKey": emulator.key,
                "sessionToken": token,
                "accountId": "123456789012",
                "expiresAt": "2099-01-01T00:00:00Z",
            },
            "tokenType": "aws_sigv4",
            "refreshToken": "refresh",
            "clientId": "arn:aws:signin:::devtools/same-device",
            "dpopKey": "not needed before the login expires",
        });
        home.write(
            ".aws/login/cache/e503db6a50c52e426cd2e8b0edf93b94ec9cb0ba1ccdba607277d35e756abde9.json",
            &login.to_string(),
        );
    };
    login(TOKEN[0]);
    let keeper = home.keeper(&emulator, SECTION, &[], &[]).await;
    keeps_the_lease(&keeper, async || {
        login(TOKEN[1]);
        keeper.proxy.refuse(TOKEN[0]);
    })
    .await;
}

#[tokio::test]
async fn profiles_that_lead_to_other_sources_are_followed() {
    let emulator = Emulator::ministack().await;
    let (key, account) = (&emulator.key, emulator.account());
    let issuer = Issuer::start(key, "login-1", TOKEN[0]).await;
    let role = format!("role_arn = arn:aws:iam::{account}:role/lease");
    let base = format!("[profile base]\naws_access_key_id = {key}\naws_secret_access_key = {key}\n");
    let named = ("AWS_PROFILE", "lease");
    for (profile, variables, assumes) in [
        (format!("{role}\nsource_profile = base\n{base}"), vec![named], Some("AssumeRole")),
        (
            format!("{role}\nweb_identity_token_file = TOKEN\n"),
            vec![named],
            Some("AssumeRoleWithWebIdentity"),
        ),
        (
            "sso_session = prod\nsso_account_id = 123456789012\nsso_role_name = lease\n\
             [sso-session prod]\nsso_start_url = https://example.com/start\nsso_region = us-east-1\n"
                .to_owned(),
            vec![named, ("AWS_ENDPOINT_URL_SSO", &*issuer.url)],
            None,
        ),
    ] {
        create_released(&emulator).await;
        let home = Home::new();
        let token = home.write("token", "web-identity");
        home.write(".aws/config", &format!("[profile lease]\n{}", profile.replace("TOKEN", &token)));
        let login = json!({ "accessToken": "login-1", "expiresAt": "2099-01-01T00:00:00Z" });
        // Its name is the SHA-1 of the session's.
        home.write(".aws/sso/cache/f6c433acac2a27cc06a0625896fe3e540a275ac9.json", &login.to_string());
        let keeper = home.keeper(&emulator, SECTION, &variables, &[]).await;
        Observer::of(&[&keeper]).active(&keeper).await;
        if let Some(assumes) = assumes {
            assert!(keeper.proxy.calls(assumes) > 0, "{profile}");
        }
        drop(keeper);
        emulator.aws(&["dynamodb", "delete-table", "--table-name", TABLE]).await;
    }
}

#[tokio::test]
async fn credentials_for_a_web_identity_are_used_and_requested_again() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let home = Home::new();
    let token = home.write("token", "web-identity");
    let role = format!("arn:aws:iam::{}:role/lease", emulator.account());
    let variables = [("AWS_WEB_IDENTITY_TOKEN_FILE", &*token), ("AWS_ROLE_ARN", &*role)];
    let keeper = home.keeper(&emulator, SECTION, &variables, &[]).await;
    let observer = Observer::of(&[&keeper]);
    let epoch = observer.active(&keeper).await;
    let requested = keeper.proxy.calls("AssumeRoleWithWebIdentity");
    assert!(requested > 0);
    keeper.proxy.only(
        "UpdateItem",
        Fault::Error { status: 400, code: "ExpiredTokenException", message: "The security token is expired" },
    );
    keeper.says("the credentials were read anew").await;
    keeper.proxy.only("UpdateItem", Fault::None);
    keeper.proxy.arrived("AssumeRoleWithWebIdentity", requested + 1).await;
    keeper.states("\"failing\":null").await;
    assert_eq!(observer.active(&keeper).await, epoch);
    assert_eq!(observer.losses(&keeper), 0);
}

#[tokio::test]
async fn sighup_changes_nothing_and_is_explained() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let mut keeper = Home::new().keeper(&emulator, SECTION, &keys(&emulator), &[]).await;
    let observer = Observer::of(&[&keeper]);
    let epoch = observer.active(&keeper).await;
    keeper.signal("HUP").await;
    keeper.says("the configuration is read at the start only").await;
    let renewed = keeper.proxy.calls("UpdateItem") + 1;
    keeper.proxy.arrived("UpdateItem", renewed).await;
    assert_eq!(observer.active(&keeper).await, epoch);
    keeper.signal("TERM").await;
    assert_eq!(keeper.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_and_its_command_at_once() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let stubborn = "trap '' TERM; echo runs as $$; while :; do sleep 0.05; done";
    let command = ["--", "sh", "-c", stubborn];
    for (first, second) in [("TERM", "TERM"), ("TERM", "INT")] {
        let mut keeper = Home::new().keeper(&emulator, SECTION, &keys(&emulator), &command).await;
        let said = keeper.says("runs as").await;
        let stat = format!("/proc/{}/stat", said.rsplit(' ').next().unwrap());
        keeper.signal(first).await;
        keeper.says("\"ending\"").await;
        keeper.signal(second).await;
        assert_eq!(keeper.ended().await.code(), Some(1));
        let gone = async {
            while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, gone).await.expect("the command does not outlive its keeper");
        // Its lease was not released: the next one would wait for the term.
        emulator.aws(&["dynamodb", "delete-table", "--table-name", TABLE]).await;
        create_released(&emulator).await;
    }
}

/// A file that blocks whoever opens it, as one of a file system that does not answer does.
fn block(file: &str) {
    let _ = fs::remove_file(file);
    mknodat(CWD, file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a FIFO can be made");
}

#[tokio::test]
async fn a_file_that_does_not_answer_silences_no_listener_and_a_signal_ends_the_program() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    let home = Home::new();
    let (name, text) = profile(&emulator.key, &emulator.key, "");
    let file = home.write(name, &text);
    let mut keeper = home.keeper(&emulator, SECTION, &[], &[]).await;
    Observer::of(&[&keeper]).active(&keeper).await;
    block(&file);
    keeper.proxy.all(Fault::Error { status: 400, code: "ExpiredTokenException", message: "expired" });
    keeper.says("the lease could not be claimed or renewed").await;
    assert_eq!(keeper.get("/healthz").await.0, 200);
    keeper.signal("TERM").await;
    keeper.states("\"active\":false").await;
    keeper.signal("TERM").await;
    assert_eq!(keeper.ended().await.code(), Some(1));

    // Its claim is blocked: that is told, and the command has its time to end.
    let (name, text) = profile(&emulator.key, &emulator.key, "");
    emulator.aws(&["dynamodb", "delete-table", "--table-name", TABLE]).await;
    create_released(&emulator).await;
    fs::remove_file(&file).unwrap();
    home.write(name, &text);
    let mark = home.path("tidied");
    let tidies = format!("trap 'echo tidied >{mark}; exit 0' TERM; echo runs; while :; do sleep 0.05; done");
    let mut keeper = home.keeper(&emulator, SECTION, &[], &["--", "sh", "-c", &tidies]).await;
    keeper.says("runs").await;
    keeper.states("\"running\":true").await;
    block(&file);
    keeper.proxy.all(Fault::Error { status: 400, code: "ExpiredTokenException", message: "expired" });
    keeper.states("\"failing\":\"blocked for").await;
    let (status, answer) = keeper.get("/healthz").await;
    assert!(status == 503 && answer.contains("blocked for"), "{answer}");
    assert!(keeper.get("/metrics").await.1.contains("lease_keeper_failing{lease=\"mylease\"} 1"));
    keeper.states("\"running\":null").await;
    assert!(!keeper.get("/metrics").await.1.contains("lease_keeper_command_running"));
    assert_eq!(fs::read_to_string(&mark).unwrap_or_default(), "tidied\n");
    // Only a new start may help.
    assert_eq!(keeper.ended().await.code(), Some(1));
    assert_eq!(keeper.said("lease-keeper is blocked, perhaps by a file of credentials"), 1);

    // Also if its guard is gone, it leaves no command behind when it ends.
    let (name, text) = profile(&emulator.key, &emulator.key, "");
    emulator.aws(&["dynamodb", "delete-table", "--table-name", TABLE]).await;
    create_released(&emulator).await;
    fs::remove_file(&file).unwrap();
    home.write(name, &text);
    let mut keeper = home.keeper(&emulator, SECTION, &[], &["--", "sh", "-c", STUBBORN]).await;
    let command = runs_as(&keeper).await;
    block(&file);
    keeper.proxy.all(Fault::Error { status: 400, code: "ExpiredTokenException", message: "expired" });
    keeper.states("\"failing\":\"blocked for").await;
    let status = fs::read_to_string(format!("/proc/{command}/status")).unwrap();
    let guard = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    let killed = Command::new("sh").args(["-c", r#"kill -KILL "$0""#, guard]).status().await.unwrap();
    assert!(killed.success());
    assert_eq!(keeper.ended().await.code(), Some(1));
    assert!(is_gone(&command), "{command} outlives its keeper");

    // A blocked standby takes nothing over.
    let (name, text) = profile(&emulator.key, &emulator.key, "");
    fs::remove_file(&file).unwrap();
    home.write(name, &text);
    let standby = home.keeper(&emulator, SECTION, &[], &[]).await;
    let state = standby.states("it is site-").await;
    assert!(state["takesOverInSeconds"].is_number(), "{state}");
    block(&file);
    standby.proxy.all(Fault::Error { status: 400, code: "ExpiredTokenException", message: "expired" });
    let state = standby.states("\"failing\":\"blocked for").await;
    assert!(state["takesOverInSeconds"].is_null(), "{state}");

    // Also at the start, where no second signal is needed.
    let mut keeper = home.keeper(&emulator, SECTION, &[], &[]).await;
    keeper.signal("TERM").await;
    keeper.says("lease-keeper is blocked, perhaps by a file of credentials").await;
    assert_eq!(keeper.ended().await.code(), Some(1));
}

#[tokio::test]
async fn a_key_id_that_no_request_can_carry_is_reported_and_ends_nothing() {
    let emulator = Emulator::ministack().await;
    create_released(&emulator).await;
    // As `echo` leaves it in a Secret.
    let broken = format!("{}\n", emulator.key);
    let home = Home::new();
    let variables = [("AWS_ACCESS_KEY_ID", broken.as_str()), ("AWS_SECRET_ACCESS_KEY", &emulator.key)];
    let keeper = home.keeper(&emulator, SECTION, &variables, &[]).await;
    keeper.states("perhaps a line break at its end").await;
    assert_eq!(keeper.get("/healthz").await.0, 200);

    // A token that is wrapped, in a file that is then corrected.
    let home = Home::new();
    let (name, text) = profile(&emulator.key, &emulator.key, "to\n  ken");
    home.write(name, &text);
    let keeper = home.keeper(&emulator, SECTION, &[], &[]).await;
    keeper.states("the session token has a character that no request can carry").await;
    let (name, text) = profile(&emulator.key, &emulator.key, "");
    home.write(name, &text);
    Observer::of(&[&keeper]).active(&keeper).await;
}

#[tokio::test]
async fn a_web_identity_is_not_told_although_its_endpoint_is_no_url() {
    let emulator = Emulator::ministack().await;
    create_table(&emulator).await;
    let home = Home::new();
    let token = home.write("token", "eyJSECRET.abc.def");
    let variables = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.as_str()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/lease"),
        ("AWS_ENDPOINT_URL_STS", "unix:/x"),
    ];
    let keeper = home.keeper(&emulator, SECTION, &variables, &[]).await;
    let state = keeper.states("\"failing\":\"").await;
    assert!(!state.to_string().contains("eyJSECRET"), "{state}");
    keeper.says("the lease could not be claimed or renewed").await;
    assert_eq!(keeper.said("eyJSECRET"), 0, "{}", keeper.says("eyJSECRET").await);
}
