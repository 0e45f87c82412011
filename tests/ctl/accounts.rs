//! `failoverctl status` of several accounts.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failoverctl::{CHANGED, Ended, FAILOVERCTL, command};
use crate::support::cloudwatch::Alarm;
use crate::support::emulator::Emulator;
use crate::support::lock::{LOCKED, PRIMARY};
use crate::support::route53::{Check, Fault, Route53};
use serde_json::{Value, json};

/// A configuration of the AWS CLI. Its folder goes with it.
struct Config(PathBuf);

// === impl Config ===

impl Config {
    fn new(text: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("failoverctl-{:016x}", fastrand::u64(..)));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config"), text).unwrap();
        Self(folder)
    }

    /// Runs it with this configuration, and with no endpoint but the profiles'.
    async fn run(&self, typed: &[&str]) -> Ended {
        let mut command = command(Path::new(FAILOVERCTL), "", typed);
        command.env_remove("AWS_ENDPOINT_URL").env("AWS_CONFIG_FILE", self.0.join("config"));
        Ended::of(command.output().await.expect("it starts"))
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn profile(name: &str, route53: &Route53) -> String {
    let url = route53.url();
    format!("[profile {name}]\naws_access_key_id = x\naws_secret_access_key = x\nendpoint_url = {url}\n")
}

#[tokio::test]
async fn what_cannot_be_read_of_one_account_hides_nothing_of_the_others() {
    let (shop, blog, denied) = (Route53::start().await, Route53::start().await, Route53::start().await);
    shop.put(PRIMARY, Check::new("HTTP", 80).reported(16).tagged("Name", "shop primary"));
    shop.put_alarm("shop", Alarm::on(PRIMARY, "OK", CHANGED));
    let locked = Check::new("HTTP", 80).with("ResourcePath", LOCKED).reported(0);
    blog.put(PRIMARY, locked.tagged("Name", "blog primary"));
    blog.put_alarm("blog", Alarm::on(PRIMARY, "ALARM", CHANGED));
    denied.fail_always("ListHealthChecks", Fault::Error(403, "AccessDenied", "User: x is not authorized"));
    let config =
        Config::new(&[profile("shop", &shop), profile("blog", &blog), profile("denied", &denied)].concat());

    let well = config.run(&["status", "--profile", "shop", "--profile", "blog"]).await;
    assert_eq!(well.status, Some(0), "{well:?}");
    let all =
        ["status", "--profile", "denied", "--profile", "shop", "--profile", "nobody", "--profile", "blog"];
    let ended = config.run(&all).await;
    assert_eq!(ended.status, Some(3), "{ended:?}");
    let sections: Vec<_> = ended.out.split("\n\n").collect();
    let line = |name: &str| {
        format!("account 123456789012, us-east-1, profile {name}, as assumed-role/Operator/jane\n")
    };
    let [first, second, third, fourth] = sections[..] else { panic!("{ended:?}") };
    assert!(
        first.starts_with(&line("denied")) && first.contains("not read: route53:ListHealthChecks"),
        "{first}"
    );
    assert!(second.starts_with(&line("shop")) && second.contains("\narmed  shop primary"), "{second}");
    assert!(
        third.starts_with("account unknown, profile nobody\nnot read: there are no credentials to use"),
        "{third}"
    );
    assert!(fourth.starts_with(&line("blog")) && fourth.contains("\nlocked  blog primary"), "{fourth}");

    let ended = config.run(&[&all[..], &["--output", "json"]].concat()).await;
    let json: Value = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_eq!(
        (ended.status, &json["version"], &json["context"]),
        (Some(3), &json!(1), &Value::Null),
        "{json}"
    );
    let accounts = json["accounts"].as_array().unwrap();
    let seen: Vec<_> = accounts
        .iter()
        .map(|of| {
            let check = &of["healthChecks"][0];
            (
                &of["profile"],
                &of["context"]["profile"],
                &check["account"],
                &check["state"],
                of["why"].is_string(),
            )
        })
        .collect();
    let (account, null) = (&json!("123456789012"), &Value::Null);
    assert_eq!(
        seen,
        [
            (&json!("denied"), &json!("denied"), null, null, true),
            (&json!("shop"), &json!("shop"), account, &json!("armed"), false),
            (&json!("nobody"), null, null, null, true),
            (&json!("blog"), &json!("blog"), account, &json!("locked"), false),
        ]
    );
    assert_eq!(accounts[0]["healthChecks"], Value::Null);
}

#[tokio::test]
async fn several_profiles_are_for_a_status_without_names_alone() {
    let config = Config::new("");
    for (typed, said) in [
        (&["status", "primary"][..], "health checks are named in one account"),
        (&["doctor", "primary"], "this command works in one account"),
        (&["lock", "primary", "--reason", "x", "--yes"], "this command works in one account"),
    ] {
        let ended = config.run(&[typed, &["--profile", "a", "--profile", "b"]].concat()).await;
        assert!(ended.status == Some(2) && ended.said.contains(said), "{ended:?}");
    }
}

#[tokio::test]
async fn an_organisations_role_reaches_another_account() {
    let aws = Emulator::moto().await;
    let config = Config::new(&format!(
        "[profile own]\naws_access_key_id = x\naws_secret_access_key = x\nendpoint_url = {url}\n\
         [profile other]\nrole_arn = arn:aws:iam::222222222222:role/viewer\nsource_profile = own\nendpoint_url = {url}\n",
        url = aws.url
    ));
    let create = r"read -r AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN < <(aws sts assume-role --output text \
            --role-arn arn:aws:iam::222222222222:role/viewer --role-session-name test \
            --query 'Credentials.[AccessKeyId, SecretAccessKey, SessionToken]')
        export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
        aws route53 create-health-check --caller-reference one \
            --health-check-config Type=HTTP,IPAddress=192.0.2.1,Port=80,ResourcePath=/lb-check";
    let made = aws.bash(create, &[]).await;
    assert_eq!(made.0, Some(0), "{made:?}");
    let ended = config.run(&["status", "--profile", "own", "--profile", "other", "--output", "json"]).await;
    let json: Value = serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("{ended:?}"));
    let [own, other] = &json["accounts"].as_array().unwrap()[..] else { panic!("{json}") };
    assert_eq!(
        (&own["context"]["account"], &own["healthChecks"]),
        (&json!("123456789012"), &json!([])),
        "{json}"
    );
    assert_eq!(other["healthChecks"][0]["account"], "222222222222", "{json}");
    assert_eq!(other["healthChecks"][0]["path"], "/lb-check", "{json}");
}

#[tokio::test]
async fn an_empty_endpoint_of_a_profile_is_named() {
    let keys = "[profile shop]\naws_access_key_id = x\naws_secret_access_key = x\n";
    for (endpoint, named) in [
        ("endpoint_url =\n", "endpoint_url: it is empty in the profile"),
        (
            "services = local\n[services local]\ndynamodb =\n  endpoint_url =\n",
            "endpoint_url of DynamoDB: it is empty in the profile",
        ),
    ] {
        let ended = Config::new(&format!("{keys}{endpoint}")).run(&["status", "--profile", "shop"]).await;
        assert_eq!(ended.status, Some(1), "{ended:?}");
        assert!(ended.said.contains(named) && !ended.said.contains("panicked"), "{ended:?}");
    }
}
