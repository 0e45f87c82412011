//! Two sites behind one accelerator, as Keycloak's guide sets them up: load balancers, secrets and a table in
//! `MiniStack`, the accelerator and each site's Infinispan as stand-ins.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_config::{Region, SdkConfig};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use failover::lambda::Report as _;
use failover::remote::deadline::Deadline;
use failover::remote::https::Https;
use failover::remote::sdk;
use failover::site_fence::config::Config;
use failover::site_fence::outcome::Report;
use failover::site_fence::{Handler, SERVICES, SiteFence};
use serde_json::{Value, json};

use super::accelerator::{Accelerator, Accelerators, Endpoint, Group};
use super::aws::credentials;
use super::emulator::Emulator;
use super::infinispan::Infinispan;

/// The accelerator of the recorded alerts.
pub const LABEL: &str = "a1234567890abcdef";
pub const DNS_NAME: &str = "a1234567890abcdef.awsglobalaccelerator.com";
/// The credentials of the recorded alerts.
pub const USER: &str = "alertmanager";
pub const PASSWORD: &str = "example-password";
/// Global Accelerator is not the emulator's.
pub const ACCELERATORS_APART: &str = r#"
aws() { case $1 in globalaccelerator) command aws --endpoint-url "$ACCELERATORS" "$@" ;; *) command aws "$@" ;; esac; }
"#;
pub const INFINISPAN_PASSWORD: &str = "s3cret of Infinispan";
/// Where everything but the accelerator is; the emulator runs functions here.
pub const REGION: &str = "us-east-1";

/// The guide's function, with its role and variables; its code does not matter here.
pub const DOCUMENTED_FENCE: &str = r#"
cat >"$FOLDER/lambda.py" <<'EOT'
def handler(event, context):
    return {"statusCode": 204}
EOT
python -m zipfile -c "$FOLDER/lambda.zip" "$FOLDER/lambda.py"
aws iam create-role --role-name "$ROLE" --assume-role-policy-document '{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}]}'
# What LambdaSecretManager, ElasticLoadBalancingReadOnly and GlobalAcceleratorFullAccess have of what matters.
aws iam put-role-policy --role-name "$ROLE" --policy-name guide --policy-document '{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": ["secretsmanager:GetSecretValue", "elasticloadbalancing:Describe*", "globalaccelerator:*"],
  "Resource": "*"}]}'
aws lambda create-function --function-name "$FUNCTION" --zip-file "fileb://$FOLDER/lambda.zip" --region "$REGION" \
  --handler lambda.handler --runtime python3.11 --role "arn:aws:iam::000000000000:role/$ROLE" --environment "$VARIABLES"
"#;

/// Variables without Infinispan.
pub const ALONE: [(&str, &str); 4] = [
    ("INFINISPAN_USER", ""),
    ("INFINISPAN_USER_SECRET", ""),
    ("INFINISPAN_SITE_ENDPOINTS", ""),
    ("INFINISPAN_CA_CERT", ""),
];

pub struct Sites {
    pub aws: Emulator,
    pub accelerators: Accelerators,
    pub a: Infinispan,
    pub b: Infinispan,
    /// The load balancers' ARNs.
    pub balancer_a: String,
    pub balancer_b: String,
    /// What sets the names of its resources apart from those of other tests.
    own: String,
}

// === impl Sites ===

impl Sites {
    /// Both sites in service, in the one group of the one listener.
    pub async fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let own = format!("-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let aws = Emulator::common_ministack_enforcing_permissions().await;
        Self::on(aws, Accelerators::start().await, own).await
    }

    /// The same on an emulator in which functions run.
    pub async fn start_with_functions() -> Self {
        let accelerators = Accelerators::start().await;
        let aws = Emulator::own_ministack_beside(&accelerators.url()).await;
        Self::on(aws, accelerators, String::new()).await
    }

    async fn on(aws: Emulator, accelerators: Accelerators, own: String) -> Self {
        let a = Infinispan::start("developer", INFINISPAN_PASSWORD).await;
        let b = Infinispan::start("developer", INFINISPAN_PASSWORD).await;
        a.put("site-b", &["sessions", "work"]);
        b.put("site-a", &["sessions", "work"]);
        let mut sites =
            Self { accelerators, balancer_a: String::new(), balancer_b: String::new(), aws, a, b, own };
        sites.balancer_a = sites.balancer("site-a").await;
        sites.balancer_b = sites.balancer("site-b").await;
        sites.secret("webhook-password", PASSWORD).await;
        sites.secret("infinispan-password", INFINISPAN_PASSWORD).await;
        sites.both_in_service();
        sites
    }

    /// Puts both sites in service, in the one group of the one listener, as if no site had ever been out.
    pub fn both_in_service(&self) {
        let group = Group::new(REGION, self.both());
        self.accelerators.put(Accelerator::new(LABEL).dual_stack().listener([group]));
    }

    /// An endpoint for each site, set up unlike each other.
    pub fn both(&self) -> [Endpoint; 2] {
        let a = Endpoint::new(&self.balancer_a).weight(200).client_ip(false);
        [a, Endpoint::new(&self.balancer_b).weight(55).client_ip(true)]
    }

    /// A load balancer that is tagged as this site's.
    pub async fn balancer(&self, site: &str) -> String {
        self.balancer_in(REGION, site).await
    }

    /// The same in this Region.
    pub async fn balancer_in(&self, region: &str, site: &str) -> String {
        use aws_sdk_elasticloadbalancingv2::types::Tag;
        let aws = self.aws_config().into_builder().region(Region::new(region.to_owned())).build();
        let client = aws_sdk_elasticloadbalancingv2::Client::new(&aws);
        let request = client.create_load_balancer().name(self.name(site)).subnets("subnet-1");
        let request = request.tags(Tag::builder().key("site").value(site).build());
        let created = request.send().await.expect("MiniStack makes load balancers");
        created.load_balancers()[0].load_balancer_arn().expect("it has an ARN").to_owned()
    }

    /// Gives a load balancer to another site.
    pub async fn tag_balancer(&self, arn: &str, site: &str) {
        use aws_sdk_elasticloadbalancingv2::types::Tag;
        let client = aws_sdk_elasticloadbalancingv2::Client::new(&self.aws_config());
        let tag = Tag::builder().key("site").value(site).build();
        client.add_tags().resource_arns(arn).tags(tag).send().await.expect("MiniStack tags load balancers");
    }

    /// Makes a secret, or changes it.
    pub async fn secret(&self, name: &str, text: &str) {
        let client = aws_sdk_secretsmanager::Client::new(&self.aws_config());
        let name = self.name(name);
        if client.create_secret().name(&name).secret_string(text).send().await.is_err() {
            let changed = client.put_secret_value().secret_id(name).secret_string(text).send().await;
            changed.expect("MiniStack keeps secrets");
        }
    }

    /// The table in which the first report wins.
    pub fn table_name(&self) -> String {
        self.name("site-fence")
    }

    fn name(&self, name: &str) -> String {
        format!("{name}{}", self.own)
    }

    /// Makes the table.
    pub async fn table(&self) {
        use aws_sdk_dynamodb::types::{
            AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
        };
        let key = AttributeDefinition::builder().attribute_name("accelerator");
        let schema = KeySchemaElement::builder().attribute_name("accelerator").key_type(KeyType::Hash);
        let request =
            aws_sdk_dynamodb::Client::new(&self.aws_config()).create_table().table_name(self.table_name());
        let request = request.billing_mode(BillingMode::PayPerRequest);
        let request =
            request.attribute_definitions(key.attribute_type(ScalarAttributeType::S).build().unwrap());
        request.key_schema(schema.build().unwrap()).send().await.expect("MiniStack makes tables");
    }

    /// The sites that were rejoined, by the record in the table, each with its time.
    pub async fn rejoined(&self) -> Vec<String> {
        let rejoins = self.entries().await.pop().and_then(|mut entry| entry.remove("rejoins"));
        rejoins.map(|rejoins| rejoins.split(' ').map(str::to_owned).collect()).unwrap_or_default()
    }

    /// What the table holds, but the record before a claim.
    pub async fn entries(&self) -> Vec<HashMap<String, String>> {
        let client = aws_sdk_dynamodb::Client::new(&self.aws_config());
        let items = client
            .scan()
            .table_name(self.table_name())
            .send()
            .await
            .expect("the table is there")
            .items
            .unwrap_or_default();
        let text = |(name, value): (String, aws_sdk_dynamodb::types::AttributeValue)| {
            (name != "former").then(|| (name, value.as_s().expect("it is a text").clone()))
        };
        items.into_iter().map(|item| item.into_iter().filter_map(text).collect()).collect()
    }

    /// Writes an entry of the accelerator as an execution leaves it.
    pub async fn put_entry(&self, attributes: &[(&str, &str)]) {
        use aws_sdk_dynamodb::types::AttributeValue;
        let client = aws_sdk_dynamodb::Client::new(&self.aws_config());
        let mut request = client.put_item().table_name(self.table_name());
        let arn = Accelerator::new(LABEL).arn;
        for (name, value) in attributes.iter().chain(&[("accelerator", arn.as_str())]) {
            request = request.item(*name, AttributeValue::S((*value).to_owned()));
        }
        request.send().await.expect("the table is there");
    }

    /// Sets an attribute of the accelerator's entry.
    async fn set(&self, name: &str, value: &str) {
        use aws_sdk_dynamodb::types::AttributeValue;
        let client = aws_sdk_dynamodb::Client::new(&self.aws_config());
        let key = AttributeValue::S(Accelerator::new(LABEL).arn);
        let request = client.update_item().table_name(self.table_name()).key("accelerator", key);
        let request =
            request.update_expression("SET #name = :value").expression_attribute_names("#name", name);
        let request = request.expression_attribute_values(":value", AttributeValue::S(value.to_owned()));
        request.send().await.expect("the table is there");
    }

    /// Removes the accelerator's entry from the table.
    pub async fn forget(&self) {
        use aws_sdk_dynamodb::types::AttributeValue;
        let client = aws_sdk_dynamodb::Client::new(&self.aws_config());
        let key = AttributeValue::S(Accelerator::new(LABEL).arn);
        let request = client.delete_item().table_name(self.table_name()).key("accelerator", key);
        request.send().await.expect("the table is there");
    }

    /// Makes every entry so much older, as if that time had passed.
    pub async fn age_entries(&self, by: TimeDelta) {
        for mut entry in self.entries().await {
            for name in ["at", "ends", "out"] {
                if let Some(time) = entry.get_mut(name) {
                    let older = time.parse::<DateTime<Utc>>().expect("a time") - by;
                    *time = older.to_rfc3339_opts(SecondsFormat::Secs, true);
                }
            }
            let rejoins = entry.get("rejoins").cloned().unwrap_or_default();
            let rejoins = rejoins.split(' ').filter_map(|rejoin| rejoin.split_once('='));
            let older = rejoins.map(|(site, at)| {
                let older = at.parse::<DateTime<Utc>>().expect("a time") - by;
                format!("{site}={}", older.to_rfc3339_opts(SecondsFormat::Secs, true))
            });
            let older = older.collect::<Vec<_>>().join(" ");
            entry.extend(
                Some(older).filter(|older| !older.is_empty()).map(|older| ("rejoins".to_owned(), older)),
            );
            for (name, value) in entry.iter().filter(|(name, _)| *name != "accelerator") {
                self.set(name, value).await;
            }
        }
    }

    /// The functions' variables.
    pub fn variables(&self) -> HashMap<&'static str, String> {
        let endpoints = json!({ "site-a": self.a.authority(), "site-b": self.b.authority() });
        HashMap::from([
            ("WEBHOOK_USER", USER.to_owned()),
            ("WEBHOOK_USER_SECRET", self.name("webhook-password")),
            ("INFINISPAN_USER", "developer".to_owned()),
            ("INFINISPAN_USER_SECRET", self.name("infinispan-password")),
            ("INFINISPAN_SITE_ENDPOINTS", endpoints.to_string()),
            ("INFINISPAN_CA_CERT", format!("{}{}", self.a.root(), self.b.root())),
            ("SECRETS_REGION", REGION.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", self.aws.key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.aws.key.clone()),
            ("AWS_ENDPOINT_URL", self.aws.url.clone()),
            ("AWS_ENDPOINT_URL_GLOBAL_ACCELERATOR", self.accelerators.url()),
        ])
    }

    fn aws_config(&self) -> SdkConfig {
        aws_by(&self.variables()).to_builder().region(Region::new(REGION)).build()
    }

    /// The secret's name in Secrets Manager.
    pub fn secret_name(&self, name: &str) -> String {
        self.name(name)
    }

    /// What the documented commands that deploy a stack are given, but for its artifact.
    pub fn deployment(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.variables();
        let mut of = |name: &'static str| (name, variables.remove(name).expect("it is among the variables"));
        vec![
            of("INFINISPAN_USER"),
            of("INFINISPAN_SITE_ENDPOINTS"),
            of("INFINISPAN_CA_CERT"),
            ("INFINISPAN_PASSWORD", INFINISPAN_PASSWORD.to_owned()),
            ("WEBHOOK_PASSWORD", PASSWORD.to_owned()),
            ("ACCELERATOR", DNS_NAME.to_owned()),
            ("ACCELERATORS", self.accelerators.url()),
            ("REGION", REGION.to_owned()),
            ("BUCKET", "artifacts".to_owned()),
            ("EMAIL", "sre@example.com".to_owned()),
        ]
    }

    /// The system, with these variables changed; an empty one is taken out.
    pub fn system(&self, changes: &[(&'static str, &str)]) -> SiteFence {
        let mut variables = self.variables();
        for (name, value) in changes {
            match *value {
                "" => variables.remove(name),
                value => variables.insert(name, value.to_owned()),
            };
        }
        let config =
            Config::read(&|name| variables.get(name).cloned()).expect("the test's variables are valid");
        SiteFence::new(config, &aws_by(&variables))
    }

    /// The ids of the endpoints that are in service, in the first group.
    pub fn in_service(&self) -> Vec<String> {
        self.accelerators.endpoints(&group()).into_iter().map(|endpoint| endpoint.id).collect()
    }

    /// The accelerator's tags.
    pub fn tags(&self) -> Vec<(String, String)> {
        self.accelerators.tags(&Accelerator::new(LABEL).arn).into_iter().collect()
    }
}

fn aws_by(variables: &HashMap<&'static str, String>) -> SdkConfig {
    let lookup = |name: &str| variables.get(name).cloned();
    let https = Https::new(&lookup).expect("no bundle is named");
    let aws = sdk::function_aws(&lookup, &https, &SERVICES).expect("the URLs are URLs");
    aws.to_builder().credentials_provider(credentials(&variables["AWS_ACCESS_KEY_ID"])).build()
}

/// The ARN of the accelerator's first group.
pub fn group() -> String {
    Accelerator::new(LABEL).listener([Group::new(REGION, [])]).group_arns().remove(0)
}

/// An HTTP answer: its status, and its body.
pub async fn fence(system: &SiteFence, event: &str) -> (u64, Value) {
    fence_within(system, event, Duration::from_secs(20)).await
}

/// The same, with so much time.
pub async fn fence_within(system: &SiteFence, event: &str, time: Duration) -> (u64, Value) {
    let report = system.handle(Handler::Fence, event, Deadline::after(time)).await;
    let answer = report.into_answer().unwrap_or_else(|error| panic!("{error}"));
    let body = answer["body"].as_str().map(|body| serde_json::from_str(body).expect("a body is JSON"));
    (answer["statusCode"].as_u64().expect("a status"), body.unwrap_or_default())
}

/// The result of each alert of a webhook.
pub async fn outcomes(system: &SiteFence, event: &str) -> Vec<String> {
    outcomes_within(system, event, Duration::from_secs(20)).await
}

/// The same, with so much time.
pub async fn outcomes_within(system: &SiteFence, event: &str, time: Duration) -> Vec<String> {
    told(&system.handle(Handler::Fence, event, Deadline::after(time)).await)
}

/// The result of each alert, as `outcome` or `outcome: reason`.
pub fn told(report: &Report) -> Vec<String> {
    let told = report.results().iter().map(|result| match result {
        Ok(outcome) => match outcome.reason {
            Some(reason) => format!("{}: {}", <&str>::from(outcome.outcome), <&str>::from(reason)),
            None => <&str>::from(outcome.outcome).to_owned(),
        },
        Err(failed) => format!("failed: {}", failed.error.error_type()),
    });
    told.collect()
}

/// The answer to a person's request.
pub async fn rejoin(system: &SiteFence, request: &Value) -> Result<Value, String> {
    rejoin_within(system, request, Duration::from_secs(20)).await
}

/// The same, with so much time.
pub async fn rejoin_within(system: &SiteFence, request: &Value, time: Duration) -> Result<Value, String> {
    let report = system.handle(Handler::Rejoin, &request.to_string(), Deadline::after(time)).await;
    let answer = report.into_answer().map_err(|error| error.to_string())?;
    Ok(answer["outcomes"][0].clone())
}

/// The result of a person's request to take a site out.
pub async fn take_out(system: &SiteFence, site: &str) -> String {
    take_out_within(system, site, Duration::from_secs(20)).await
}

/// The same, in this time.
pub async fn take_out_within(system: &SiteFence, site: &str, time: Duration) -> String {
    let request = json!({ "takeOut": site, "accelerator": DNS_NAME }).to_string();
    told(&system.handle(Handler::Fence, &request, Deadline::after(time)).await).remove(0)
}

/// The recorded alert, from this site about that one; it begins to fire now.
pub fn alert(reporter: &str, site: &str) -> String {
    alert_since(Utc::now(), reporter, site)
}

/// The same through the topic with this ARN, as SNS invokes a function at once.
pub fn notification(topic: &str, message: &str) -> String {
    notification_of(Utc::now(), topic, message)
}

/// The same, published then.
pub fn notification_of(published: DateTime<Utc>, topic: &str, message: &str) -> String {
    let published = published.to_rfc3339_opts(SecondsFormat::Millis, true);
    let sns = json!({ "Type": "Notification", "MessageId": "1", "TopicArn": topic, "Subject": "[FIRING:1]",
        "Message": message, "Timestamp": published, "MessageAttributes": {} });
    json!({ "Records": [{ "EventSource": "aws:sns", "EventVersion": "1.0",
        "EventSubscriptionArn": format!("{topic}:1"), "Sns": sns }] })
    .to_string()
}

/// The body of an event of the function's URL.
pub fn body(event: &str) -> String {
    let event: Value = serde_json::from_str(event).expect("an event is JSON");
    event["body"].as_str().expect("it has a body").to_owned()
}

/// The same, which began to fire then.
pub fn alert_since(began: DateTime<Utc>, reporter: &str, site: &str) -> String {
    let event = super::recorded("alertmanager/firing.json");
    event
        .replace(r#"\"site-b\""#, r#"\"SITE\""#)
        .replace(r#"\"site-a\""#, &format!(r#"\"{reporter}\""#))
        .replace(r#"\"SITE\""#, &format!(r#"\"{site}\""#))
        .replace("2026-11-21T19:04:12.157Z", &began.to_rfc3339_opts(SecondsFormat::Millis, true))
}
