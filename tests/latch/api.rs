//! The miniature's API, as the AWS SDK uses it.

use std::time::Duration;

use aws_sdk_route53::Client;
use aws_sdk_route53::error::ProvideErrorMetadata;
use aws_sdk_route53::types::{
    Change, ChangeAction, ChangeBatch, ChangeStatus, HealthCheckConfig, HealthCheckType, ResourceRecord,
    ResourceRecordSet, ResourceRecordSetFailover, RrType, Tag, TagResourceType,
};

use crate::support::aws::aws_at;
use crate::support::miniature::Shared;
use crate::support::miniature::api::{Api, ZONE_ID};
use crate::support::miniature::records::{NAMES, Record};
use crate::support::miniature::world::World;

struct Stage {
    world: Shared,
    api: Api,
    client: Client,
}

impl Stage {
    async fn set() -> Self {
        let world = Shared::new(World::new(1));
        let api = Api::start(&world).await;
        let client = Client::new(&aws_at(&api.url()).await);
        Self { world, api, client }
    }

    async fn create(&self, reference: &str, config: HealthCheckConfig) -> Result<String, String> {
        let call = self.client.create_health_check().caller_reference(reference);
        let created = call.health_check_config(config).send().await.map_err(code)?;
        Ok(created.health_check.unwrap().id)
    }

    async fn change(&self, changes: &[(ChangeAction, ResourceRecordSet)]) -> Result<String, String> {
        let changes = changes.iter().map(|(action, set)| {
            let change = Change::builder().action(action.clone()).resource_record_set(set.clone());
            change.build().unwrap()
        });
        let batch = ChangeBatch::builder().set_changes(Some(changes.collect())).build().unwrap();
        let call = self.client.change_resource_record_sets().hosted_zone_id(ZONE_ID);
        Ok(call.change_batch(batch).send().await.map_err(code)?.change_info.unwrap().id)
    }

    async fn status(&self, change: &str) -> ChangeStatus {
        self.client.get_change().id(change).send().await.unwrap().change_info.unwrap().status
    }
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` passes a value")]
fn code(error: impl ProvideErrorMetadata) -> String {
    error.code().unwrap_or("no code").to_owned()
}

fn endpoint() -> HealthCheckConfig {
    let config = HealthCheckConfig::builder().r#type(HealthCheckType::Https);
    let config = config.fully_qualified_domain_name("bucket.s3.eu-west-1.amazonaws.com");
    config
        .resource_path("/latches/app")
        .request_interval(10)
        .failure_threshold(1)
        .inverted(true)
        .build()
        .unwrap()
}

fn metric() -> HealthCheckConfig {
    HealthCheckConfig::builder().r#type(HealthCheckType::CloudwatchMetric).build().unwrap()
}

fn calculated(children: &[&str], threshold: i32) -> HealthCheckConfig {
    let children = children.iter().map(ToString::to_string).collect();
    let config = HealthCheckConfig::builder().r#type(HealthCheckType::Calculated);
    config.set_child_health_checks(Some(children)).health_threshold(threshold).build().unwrap()
}

fn txt(name: &str, text: &str) -> ResourceRecordSet {
    let value = ResourceRecord::builder().value(format!("\"{text}\"")).build().unwrap();
    let set = ResourceRecordSet::builder().name(name).r#type(RrType::Txt).ttl(10);
    set.resource_records(value).build().unwrap()
}

#[tokio::test]
async fn a_check_is_created_once_for_each_caller_reference() {
    let stage = Stage::set().await;
    let id = stage.create("one", endpoint()).await.unwrap();
    assert_eq!(stage.create("one", endpoint()).await, Ok(id.clone()));
    assert_eq!(stage.create("one", metric()).await, Err("HealthCheckAlreadyExists".to_owned()));
    assert_ne!(stage.create("two", endpoint()).await, Ok(id.clone()));
    stage.client.delete_health_check().health_check_id(&id).send().await.unwrap();
    assert_eq!(stage.create("one", endpoint()).await, Err("HealthCheckAlreadyExists".to_owned()));
    let gone = stage.client.get_health_check().health_check_id(&id).send().await.map_err(code);
    assert_eq!(gone.unwrap_err(), "NoSuchHealthCheck");
}

#[tokio::test]
async fn a_check_of_an_object_is_probed_at_its_url_and_shown_with_route_53s_defaults() {
    let stage = Stage::set().await;
    let id = stage.create("one", endpoint()).await.unwrap();
    let url = "https://bucket.s3.eu-west-1.amazonaws.com/latches/app";
    stage.world.lock().set_passing(url, false);
    stage.world.lock().pass(Duration::from_mins(1));
    assert!(stage.world.lock().is_healthy(&id));
    stage.world.lock().set_passing(url, true);
    stage.world.lock().pass(Duration::from_mins(1));
    assert!(!stage.world.lock().is_healthy(&id));
    let status = stage.client.get_health_check_status().health_check_id(&id).send().await.unwrap();
    assert_eq!(status.health_check_observations.len(), 16);

    let shown =
        stage.client.get_health_check().health_check_id(&id).send().await.unwrap().health_check.unwrap();
    let config = shown.health_check_config.unwrap();
    assert_eq!(
        (shown.health_check_version, config.enable_sni, config.disabled),
        (1, Some(true), Some(false))
    );
}

#[tokio::test]
async fn an_update_is_refused_at_another_version_and_changes_children_and_threshold_at_once() {
    let stage = Stage::set().await;
    let one = stage.create("one", metric()).await.unwrap();
    let two = stage.create("two", metric()).await.unwrap();
    let parent = stage.create("parent", calculated(&[&one, &two], 2)).await.unwrap();
    stage.world.lock().set_alarm_ok(&two, false);
    assert!(!stage.world.lock().is_healthy(&parent));
    let update = || stage.client.update_health_check().health_check_id(&parent);
    let refused = update().health_check_version(2).health_threshold(1).send().await.map_err(code);
    assert_eq!(refused.unwrap_err(), "HealthCheckVersionMismatch");
    let updated =
        update().health_check_version(1).child_health_checks(&one).health_threshold(1).send().await.unwrap();
    assert_eq!(updated.health_check.unwrap().health_check_version, 2);
    assert!(stage.world.lock().is_healthy(&parent));
    assert_eq!(stage.create("nested", calculated(&[&parent], 1)).await, Err("InvalidInput".to_owned()));
    let status = stage.client.get_health_check_status().health_check_id(&parent).send().await.map_err(code);
    assert_eq!(status.unwrap_err(), "InvalidInput");
}

#[tokio::test]
async fn checks_are_listed_in_pages_with_their_tags_elsewhere() {
    let stage = Stage::set().await;
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(stage.create(&number.to_string(), metric()).await.unwrap());
    }
    ids.sort();
    let first = stage.client.list_health_checks().max_items(2).send().await.unwrap();
    let marker = first.next_marker.clone().unwrap();
    let second = stage.client.list_health_checks().marker(marker).send().await.unwrap();
    let listed: Vec<_> =
        first.health_checks.into_iter().chain(second.health_checks).map(|check| check.id).collect();
    assert_eq!((listed, second.is_truncated), (ids.clone(), false));

    let tag = Tag::builder().key("Name").value("latch <a>").build();
    let call = stage.client.change_tags_for_resource().resource_type(TagResourceType::Healthcheck);
    call.resource_id(&ids[0]).add_tags(tag).send().await.unwrap();
    let call = stage.client.list_tags_for_resources().resource_type(TagResourceType::Healthcheck);
    let sets = call.set_resource_ids(Some(ids)).send().await.unwrap().resource_tag_sets;
    assert_eq!(sets[0].tags()[0].value(), Some("latch <a>"));
}

#[tokio::test]
async fn the_zone_has_its_four_name_servers() {
    let stage = Stage::set().await;
    let zone = stage.client.get_hosted_zone().id(ZONE_ID).send().await.unwrap();
    assert_eq!(zone.delegation_set.unwrap().name_servers, NAMES);
    let by_name = |name: &str| stage.client.list_hosted_zones_by_name().dns_name(name).send();
    assert_eq!(by_name("example.com").await.unwrap().hosted_zones[0].id, format!("/hostedzone/{ZONE_ID}"));
    assert!(by_name("example.org").await.unwrap().hosted_zones.is_empty());
    let missing = stage.client.get_hosted_zone().id("Z1").send().await.map_err(code);
    assert_eq!(missing.unwrap_err(), "NoSuchHostedZone");
}

#[tokio::test]
async fn a_batch_of_changes_is_made_as_a_whole_and_known_after_the_longest_lag() {
    let stage = Stage::set().await;
    let name = "_serving.app.example.com";
    let check = stage.create("one", metric()).await.unwrap();
    let half = |text: &str, failover: ResourceRecordSetFailover| {
        let mut set = txt(name, text);
        set.set_identifier = Some(text.to_owned());
        set.health_check_id = (failover == ResourceRecordSetFailover::Primary).then(|| check.clone());
        set.failover = Some(failover);
        set
    };
    let primary = half("primary", ResourceRecordSetFailover::Primary);
    let standby = half("standby", ResourceRecordSetFailover::Secondary);
    let change = stage
        .change(&[(ChangeAction::Create, primary.clone()), (ChangeAction::Create, standby.clone())])
        .await
        .unwrap();
    assert_eq!(stage.status(&change).await, ChangeStatus::Pending);
    stage.world.lock().pass(Duration::from_mins(1));
    assert_eq!(stage.status(&change).await, ChangeStatus::Insync);
    assert_eq!(stage.world.lock().text(3, name).unwrap(), "primary");

    // The second change is refused, and so is the first.
    let mut other = standby.clone();
    other.ttl = Some(60);
    let changes = [(ChangeAction::Delete, primary.clone()), (ChangeAction::Delete, other)];
    assert_eq!(stage.change(&changes).await, Err("InvalidChangeBatch".to_owned()));
    assert_eq!(
        stage.change(&[(ChangeAction::Create, txt(name, "primary"))]).await,
        Err("InvalidChangeBatch".to_owned())
    );
    assert_eq!(
        stage.change(&[(ChangeAction::Create, txt("example.org", "x"))]).await,
        Err("InvalidChangeBatch".to_owned())
    );
    let mut unchecked = primary.clone();
    unchecked.health_check_id = Some("none".to_owned());
    assert_eq!(stage.change(&[(ChangeAction::Upsert, unchecked)]).await, Err("NoSuchHealthCheck".to_owned()));

    let list = || stage.client.list_resource_record_sets().hosted_zone_id(ZONE_ID);
    let listed = list().start_record_name(name).send().await.unwrap();
    assert_eq!(listed.resource_record_sets.len(), 2);
    assert_eq!(listed.resource_record_sets[0].resource_records(), primary.resource_records());
    let page = list().max_items(3).send().await.unwrap();
    assert_eq!(page.next_record_identifier.as_deref(), Some("standby"));
    stage.change(&[(ChangeAction::Delete, primary), (ChangeAction::Delete, standby)]).await.unwrap();
    assert_eq!(list().send().await.unwrap().resource_record_sets.len(), 2);
}

#[tokio::test]
async fn what_the_test_puts_is_listed_and_calls_are_remembered_until_the_api_is_down() {
    let stage = Stage::set().await;
    stage.world.lock().put([Record::a("app.example.com", "192.0.2.1")]);
    let list = || stage.client.list_resource_record_sets().hosted_zone_id(ZONE_ID).send();
    let sets = list().await.unwrap().resource_record_sets;
    assert_eq!(sets.iter().map(|set| set.r#type.as_str()).collect::<Vec<_>>(), ["NS", "SOA", "A"]);
    assert_eq!(stage.api.calls(), [format!("ListResourceRecordSets {ZONE_ID}")]);
    stage.api.set_down(true);
    assert!(list().await.is_err());
}
