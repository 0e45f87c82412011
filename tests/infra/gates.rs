//! The commands for `--require-command`: Aurora on the emulator, Infinispan on its stand-in.

use std::collections::BTreeMap;
use std::fs;

use crate::support::emulator::Emulator;
use crate::support::infinispan::{Fault, Infinispan};
use crate::support::root;
use tokio::process::Command;

#[tokio::test]
async fn auroras_writer_has_to_be_in_the_region_and_its_copies_near() {
    let aws = Emulator::own_ministack().await;
    let (here, there) = ("eu-central-1", "eu-west-1");
    let cluster = |name: &str, options: &str| {
        format!(
            "aws rds create-db-cluster --db-cluster-identifier {name} --engine aurora-postgresql {options} >/dev/null"
        )
    };
    let user = "--master-username admin1 --master-user-password not-a-secret";
    let made = format!(
        "{}\naws rds create-global-cluster --region {here} --global-cluster-identifier shop \
         --source-db-cluster-identifier arn:aws:rds:{here}:000000000000:cluster:shop-a >/dev/null\n{}",
        cluster("shop-a", &format!("--region {here} {user}")),
        cluster("shop-b", &format!("--region {there} --global-cluster-identifier shop")),
    );
    assert_eq!(aws.bash(&made, &[]).await, (Some(0), String::new()));
    let gate = async |region: &str, most: u32| {
        aws.bash(&format!("infra/gates/aurora shop {region} {most}"), &[]).await
    };
    let lags = async |milliseconds: u32| {
        let put = format!(
            "aws cloudwatch put-metric-data --region {there} --namespace AWS/RDS --metric-name AuroraGlobalDBReplicationLag \
             --dimensions DBClusterIdentifier=shop-b,SourceRegion={here} --value {milliseconds}"
        );
        assert_eq!(aws.bash(&put, &[]).await.0, Some(0));
    };
    let refused = async |region: &str, most: u32, why: &str| {
        let (status, said) = gate(region, most).await;
        assert!(status == Some(1) && said.contains(why), "{why}: {said}");
    };
    refused(here, 1000, "shop-b in eu-west-1 has reported no lag for five minutes").await;
    lags(120).await;
    let (status, said) = gate(here, 1000).await;
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(said, "global cluster shop is written in eu-central-1; shop-b in eu-west-1 lags by 120 ms\n");
    refused(here, 100, "lags by 120 ms, more than 100 ms").await;
    refused(there, 1000, "is written in eu-central-1, and not in eu-west-1").await;
    let (status, said) = aws.bash("infra/gates/aurora other eu-west-1 1000", &[]).await;
    assert!(status == Some(1) && said.contains("other"), "{said}");
    assert_eq!(aws.bash("infra/gates/aurora shop", &[]).await.0, Some(2));
}

#[tokio::test]
async fn infinispan_has_to_replicate_to_the_site_with_no_transfer_unfinished() {
    let infinispan = Infinispan::start("reader", "secret").await;
    infinispan.put("site-b", &["sessions", "work"]);
    let root_file = std::env::temp_dir().join(format!("gate-{:016x}.pem", fastrand::u64(..)));
    fs::write(&root_file, infinispan.root()).expect("it can be written");
    let gate = async |password: &str, site: &str| {
        let program = root().join("infra/gates/infinispan");
        let mut command = Command::new("python3");
        command.arg(program).args([&infinispan.url(), site]).arg(&root_file).env_remove("SSL_CERT_FILE");
        command.envs(BTreeMap::from([("INFINISPAN_USER", "reader"), ("INFINISPAN_PASSWORD", password)]));
        let output = command.output().await.expect("python3 starts");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).expect("UTF-8"))
    };
    let refused = async |why: &str| {
        let (status, said) = gate("secret", "site-b").await;
        assert!(status == Some(1) && said.contains(why), "{why}: {said}");
    };
    let (status, said) = gate("secret", "site-b").await;
    assert_eq!(
        (status, said.as_str()),
        (Some(0), "site-b is seen and online, no state transfer to it runs, 0 are done\n")
    );
    infinispan.set_online("site-b", "work", false);
    refused("site-b is mixed: work").await;
    infinispan.set_online("site-b", "work", true);
    for (transfer, why) in [
        ("SENDING", "the state transfer of work to site-b runs"),
        ("ERROR", "the last state transfer of work to site-b is ERROR: repeat it"),
        ("CANCELED", "is CANCELED"),
    ] {
        infinispan.set_transfer("work", "site-b", transfer);
        refused(why).await;
    }
    infinispan.set_transfer("work", "site-b", "OK");
    let (status, said) = gate("secret", "site-b").await;
    assert!(status == Some(0) && said.contains("1 are done"), "{said}");
    infinispan.cut_off(true);
    refused("does not see site-b; it sees this-site").await;
    infinispan.cut_off(false);
    let (status, said) = gate("wrong", "site-b").await;
    assert!(status == Some(1) && said.contains("HTTP 401") && !said.contains("wrong"), "{said}");
    infinispan.fail_always("status", Fault::Status(503, "busy"));
    refused("HTTP 503").await;
    fs::remove_file(&root_file).expect("it is there");
}
