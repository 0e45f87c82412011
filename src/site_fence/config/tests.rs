use super::*;

const GIVEN: [(&str, &str); 6] = [
    ("WEBHOOK_USER", "alertmanager"),
    ("WEBHOOK_USER_SECRET", "webhook-password"),
    ("INFINISPAN_USER", "developer"),
    ("INFINISPAN_USER_SECRET", "infinispan-password"),
    ("INFINISPAN_SITE_ENDPOINTS", r#"{"site-a":"a.example.com","site-b":"b.example.com:8443"}"#),
    ("SECRETS_REGION", "eu-central-1"),
];

/// The documented function's variables, and these.
fn read(more: &[(&str, &str)]) -> Result<Config, String> {
    let given = [&GIVEN, more].concat();
    let lookup =
        |name: &str| given.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    Config::read(&lookup).map_err(|error| error.to_string())
}

#[test]
fn the_documented_functions_variables_are_enough() {
    let config = read(&[]).unwrap();
    assert_eq!((config.alert_name.as_str(), config.dry_run), ("SiteOffline", false));
    let clusters = config.infinispan.unwrap();
    assert_eq!(clusters.endpoints[&"site-b".parse().unwrap()].as_str(), "b.example.com:8443");
    assert!(matches!(clusters.trust, Trust::System) && config.table.is_none());
}

#[test]
fn a_table_by_its_arn_is_in_the_arns_region() {
    let arn = "arn:aws:dynamodb:eu-west-1:123456789012:table/fence";
    let config = read(&[("FENCE_TABLE", arn), ("AWS_REGION", "eu-central-1")]).unwrap();
    assert_eq!(config.table, Some(Table { name: arn.to_owned(), region: "eu-west-1".to_owned() }));
    let config = read(&[("FENCE_TABLE", "fence"), ("AWS_REGION", "eu-central-1")]).unwrap();
    assert_eq!(config.table.unwrap().region, "eu-central-1");
}

#[test]
fn an_invalid_variable_stops_the_start_and_is_named() {
    for (name, value, said) in [
        ("WEBHOOK_USER", "", "it is empty"),
        ("WEBHOOK_USER", "a:b", "must not contain a colon"),
        ("INFINISPAN_USER_SECRET", " ", "it is empty"),
        ("INFINISPAN_SITE_ENDPOINTS", "site-a=a", "expected value at line 1"),
        ("INFINISPAN_SITE_ENDPOINTS", "{}", "it names fewer than two sites"),
        ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"c"}"#, "it names fewer than two sites"),
        ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"c","b":"d:99999"}"#, "b: \"d:99999\" is not a host"),
        ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"c","b":"d:"}"#, "b: \"d:\" is not a host"),
        ("INFINISPAN_SITE_ENDPOINTS", r#"{"a/b":"c","b":"d"}"#, "not a site's name"),
        ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"https://c","b":"d"}"#, "without https://"),
        ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"u@c","b":"d"}"#, "is not a host or host:port"),
        ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"c/d","b":"d"}"#, "is not a host or host:port"),
        ("INFINISPAN_CA_CERT", "/etc/ca.pem", "it holds no certificate"),
        (
            "INFINISPAN_CA_CERT",
            "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----",
            "certificate 1",
        ),
        ("INFINISPAN_CA_CERT_SECRET", "a secret", "neither a secret's name nor its ARN"),
        ("INFINISPAN_USER_SECRET", "arn:aws:secretsmanager:eu-west-1:1:secret:infinispan", "six characters"),
        ("WEBHOOK_USER_SECRET", "arn:aws:secretsmanager:eu-west-1:1:secret:infini-span", "six characters"),
        (
            "WEBHOOK_USER_SECRET",
            "arn:aws:ssm:eu-west-1:1:secret:a-AbCdEf",
            "not the complete ARN of a secret",
        ),
        ("ALERT_TOPIC", "alerts", "not the ARN of an SNS topic"),
        ("ALERT_TOPIC", "arn:aws:sns:eu-west-1:1:alerts:0a1b", "not the ARN of an SNS topic"),
        ("ALERT_TOPIC", "arn:aws:sns:eu-west-1:1:alerts.fifo", "FIFO topic, which invokes no function"),
        (
            "WEBHOOK_USER_SECRET",
            "arn:aws:secretsmanager:eu-west-1:1:secret:a-AbCdEf",
            "the secret is in eu-west-1, and SECRETS_REGION is eu-central-1",
        ),
        (
            "INFINISPAN_CA_CERT_SECRET",
            "arn:aws:secretsmanager:eu-west-1:1:secret:a-AbCdEf",
            "the secret is in eu-west-1, and SECRETS_REGION is eu-central-1",
        ),
        ("ACCELERATOR_SITE_ENDPOINTS", "site-a", "expected value at line 1"),
        ("ACCELERATOR_SITE_ENDPOINTS", r#"{"a":["i-1"],"b":["i-2"],"b":["i-3"]}"#, "it names b twice"),
        ("INFINISPAN_SITE_ENDPOINTS", r#"{"a":"c","b":"d","a":"e"}"#, "it names a twice"),
        ("ACCELERATOR_SITE_ENDPOINTS", r#"{"a":["i-1"]}"#, "two sites or more"),
        ("ACCELERATOR_SITE_ENDPOINTS", r#"{"a":["i-1"],"b":[]}"#, "each with an endpoint"),
        ("ACCELERATOR_SITE_ENDPOINTS", r#"{"a":["i-1"],"b":["i-1"]}"#, "named for a and for b"),
        ("ACCELERATOR_SITE_ENDPOINTS", r#"{"a":["i-1"],"b":["lb-b"]}"#, "b: \"lb-b\" is not an endpoint"),
        ("INFINISPAN_INSECURE_TLS", "yes", "neither true nor false"),
        ("SECRETS_REGION", "eu/west", "is not a Region"),
        ("FENCE_TABLE", "", "it is empty"),
        ("FENCE_TABLE", "fence", "needs AWS_REGION"),
        ("FENCE_TABLE", "arn:aws:sns:eu-west-1:1:x", "neither a table's name nor its ARN"),
        ("ALERT_NAME", "", "it is empty"),
        ("WATCHDOG_NAME", "SiteOffline", "it is ALERT_NAME too"),
        ("DRY_RUN", "maybe", "neither true nor false"),
    ] {
        let error = read(&[(name, value)]).unwrap_err();
        assert!(error.contains(&format!("{name}: ")) && error.contains(said), "{name}={value:?}: {error}");
    }
    for given in [("INFINISPAN_USER", "developer"), ("INFINISPAN_CA_CERT_SECRET", "roots")] {
        let error =
            Config::read(&|name| (name == given.0).then(|| given.1.to_owned())).unwrap_err().to_string();
        let others =
            ["INFINISPAN_USER", "INFINISPAN_USER_SECRET", "INFINISPAN_SITE_ENDPOINTS", "SECRETS_REGION"];
        for name in others.iter().filter(|name| **name != given.0) {
            assert!(error.contains(&format!("{name}: it is not set")), "{error}");
        }
    }
}

#[test]
fn without_any_variable_of_infinispan_it_is_left_out() {
    let topic = "arn:aws:sns:eu-west-1:123456789012:alerts";
    let of = |given: &[(&str, &str)]| {
        let given: Vec<_> =
            given.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let lookup =
            move |name: &str| given.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        Config::read(&lookup).map_err(|error| error.to_string())
    };
    let config = of(&[("ALERT_TOPIC", topic)]).unwrap();
    assert!(config.infinispan.is_none() && config.secrets_region.is_none());
    assert_eq!(config.topic.as_deref(), Some(topic));
    let error = of(&[("ALERT_TOPIC", topic), ("INFINISPAN_INSECURE_TLS", "yes")]).unwrap_err();
    assert!(
        error.contains("INFINISPAN_INSECURE_TLS: ") && error.contains("neither true nor false"),
        "{error}"
    );
    let error = of(&[("WEBHOOK_USER", "alertmanager"), ("WEBHOOK_USER_SECRET", "webhook")]).unwrap_err();
    assert!(error.contains("SECRETS_REGION: it is not set"), "{error}");
}

#[test]
fn an_endpoint_belongs_to_the_site_that_the_map_names() {
    let elb = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:loadbalancer/net/a/0123456789abcdef";
    let map = format!(r#"{{"site-a":["{elb}"],"site-b":["eipalloc-1","i-2"]}}"#);
    let config = read(&[("ACCELERATOR_SITE_ENDPOINTS", &map)]).unwrap();
    let site = |endpoint: &str| config.sites[endpoint].as_str().to_owned();
    assert_eq!([site(elb), site("eipalloc-1"), site("i-2")], ["site-a", "site-b", "site-b"]);
}
