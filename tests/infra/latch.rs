//! The latch's templates: what its roles and its buckets' policy allow, and what its health checks are.

use std::collections::BTreeSet;
use std::fs;

use crate::policy::{Policy, Request};
use crate::support::emulator::Emulator;
use crate::support::root;
use serde_json::Value;

const FIRST: &str = "eu-central-1";
const PEOPLE: &str = "arn:aws:iam::000000000000:role/sre";
const WATCHER: &str = "arn:aws:iam::000000000000:role/latch-WatchRole";
/// A checker's address, and one of another host.
const CHECKER: &str = "192.0.2.7";
const STRANGER: &str = "198.51.100.7";

/// The SDK's calls in `src/latch`, and the action that each needs.
const CALLS: [(&str, &str); 3] =
    [("get_object", "s3:GetObject"), ("list_objects_v2", "s3:ListBucket"), ("put_object", "s3:PutObject")];

/// The statements that this emulator cannot judge: it speaks plain HTTP, and knows neither `s3:if-none-match` nor
/// `s3:authType` nor `s3:signatureversion`. Nor does it know `s3:signatureAge`, without which `WatchersWriteAtOnce` denies
/// nothing, and `s3:x-amz-storage-class`, without which `StorageClassThatCheckersRead` denies nothing.
const NOT_ENFORCED: [&str; 4] = ["TlsOnly", "CreateOnly", "WatchersPresign", "SignatureVersion4Only"];

/// Deploys the first Region's stack. No code runs: the artifact is empty.
async fn deploy(aws: &Emulator, ranges: &str) {
    let script = r#"
        printf 'UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA==' | base64 -d >"$ZIP"
        aws s3api create-bucket --region eu-central-1 --bucket code \
            --create-bucket-configuration LocationConstraint=eu-central-1
        aws s3api put-object --region eu-central-1 --bucket code --key function.zip --body "$ZIP"
        LATCHES="app:serving=_serving.app.example.com,primary=_primary.app.example.com,standby=_standby.app.example.com"
        aws cloudformation deploy --region eu-central-1 --stack-name latch --template-file infra/latch-region.yaml \
            --capabilities CAPABILITY_IAM CAPABILITY_AUTO_EXPAND --parameter-overrides Place=first "Latches=$LATCHES" \
            LatchNames=app NameServers=ns-1.example.net=192.0.2.1,ns-2.example.net=192.0.2.2 FirstRegion=eu-central-1 \
            FirstBucket=latch-a SecondRegion=eu-west-1 SecondBucket=latch-b "CheckerRanges=$RANGES" "PeopleArns=$PEOPLE" \
            NotificationEmail=sre@example.com CodeBucket=code CodeKey=function.zip"#;
    let zip =
        std::env::temp_dir().join(format!("latch-{}.zip", aws.url.rsplit(':').next().unwrap_or_default()));
    let variables = [("ZIP", zip.to_str().expect("UTF-8")), ("RANGES", ranges), ("PEOPLE", PEOPLE)];
    let (status, said) = aws.bash(script, &variables).await;
    fs::remove_file(&zip).expect("the script wrote it");
    assert_eq!(status, Some(0), "{said}");
}

async fn text(aws: &Emulator, command: &str) -> String {
    let (status, said) = aws.bash(&format!("aws --region {FIRST} --output text {command}"), &[]).await;
    assert_eq!(status, Some(0), "{command}: {said}");
    said.trim().to_owned()
}

async fn bucket_policy(aws: &Emulator) -> Value {
    let policy = text(aws, "s3api get-bucket-policy --bucket latch-a --query Policy").await;
    serde_json::from_str(&policy).expect("a policy is JSON")
}

async fn physical_id(aws: &Emulator, resource: &str) -> String {
    let describe = "cloudformation describe-stack-resource --stack-name latch --logical-resource-id";
    text(aws, &format!("{describe} {resource} --query StackResourceDetail.PhysicalResourceId")).await
}

/// What a policy allows: each action, with its resources.
fn allowed(policy: &Value) -> BTreeSet<(String, String)> {
    let list = |value: &Value| match value {
        Value::Array(values) => values.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        value => vec![value.as_str().expect("a text").to_owned()],
    };
    let statements = policy["Statement"].as_array().expect("a policy has statements").iter();
    statements
        .flat_map(|statement| {
            assert_eq!(statement["Effect"], "Allow");
            let resources = list(&statement["Resource"]);
            list(&statement["Action"])
                .into_iter()
                .flat_map(move |action| resources.clone().into_iter().map(move |of| (action.clone(), of)))
        })
        .collect()
}

/// Actions on what both buckets have at these places.
fn on_both(action: &str, places: &[&str]) -> BTreeSet<(String, String)> {
    let of = |bucket: &str, place: &&str| (action.to_owned(), format!("arn:aws:s3:::{bucket}{place}"));
    ["latch-a", "latch-b"].iter().flat_map(|bucket| places.iter().map(|place| of(bucket, place))).collect()
}

async fn managed_policy(aws: &Emulator, resource: &str) -> Value {
    let arn = physical_id(aws, resource).await;
    let get = format!(
        "--output json iam get-policy-version --policy-arn {arn} --version-id v1 --query PolicyVersion.Document"
    );
    serde_json::from_str(&text(aws, &get).await).expect("a policy is JSON")
}

async fn inline_policy(aws: &Emulator, resource: &str, name: &str) -> Value {
    let role = physical_id(aws, resource).await;
    assert_eq!(
        text(aws, &format!("iam list-role-policies --role-name {role} --query PolicyNames")).await,
        name
    );
    let get = format!(
        "--output json iam get-role-policy --role-name {role} --policy-name {name} --query PolicyDocument"
    );
    serde_json::from_str(&text(aws, &get).await).expect("a policy is JSON")
}

#[test]
fn the_watcher_makes_no_call_to_s3_but_those_that_its_role_allows() {
    let mut called = BTreeSet::new();
    for file in fs::read_dir(root().join("src/latch")).expect("src/latch is there") {
        let text = fs::read_to_string(file.unwrap().path()).expect("a source file can be read");
        for verb in ["get", "head", "list", "put", "delete", "copy", "create", "upload", "complete"] {
            for after in text.split(&format!(".{verb}_")).skip(1) {
                let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if name.contains("object") {
                    called.insert(format!("{verb}_{name}"));
                }
            }
        }
    }
    assert_eq!(called, CALLS.iter().map(|(call, _)| (*call).to_owned()).collect());
}

#[tokio::test]
async fn a_watcher_may_create_a_lock_and_remove_none_and_people_may_release_it() {
    let aws = Emulator::own_ministack().await;
    deploy(&aws, "192.0.2.0/24").await;
    let log = |function: &str| {
        let group = format!("arn:aws:logs:{FIRST}:000000000000:log-group:/aws/lambda/latch-{function}:*");
        ["logs:CreateLogStream", "logs:PutLogEvents"].map(|action| (action.to_owned(), group.clone()))
    };

    let watch = managed_policy(&aws, "WatchPolicy").await;
    let expected: BTreeSet<_> = [
        on_both("s3:ListBucket", &[""]),
        on_both("s3:GetObject", &["/latches/*", "/holds/*", "/control"]),
        on_both("s3:PutObject", &["/latches/*"]),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert_eq!(allowed(&watch), expected);
    let actions: BTreeSet<_> = allowed(&watch).into_iter().map(|(action, _)| action).collect();
    assert_eq!(actions, CALLS.iter().map(|(_, action)| (*action).to_owned()).collect());
    assert_eq!(allowed(&inline_policy(&aws, "WatchRole", "log").await), log("watch").into());
    let role = physical_id(&aws, "WatchRole").await;
    let attached =
        format!("iam list-attached-role-policies --role-name {role} --query AttachedPolicies[].PolicyArn");
    assert_eq!(text(&aws, &attached).await, physical_id(&aws, "WatchPolicy").await);

    let control = on_both("s3:PutObject", &["/control"]).into_iter().chain(log("control")).collect();
    assert_eq!(allowed(&inline_policy(&aws, "ControlRole", "control").await), control);

    let function = format!("arn:aws:lambda:{FIRST}:000000000000:function:latch-watch");
    let schedule = inline_policy(&aws, "ScheduleRole", "schedule").await;
    assert_eq!(allowed(&schedule), [("lambda:InvokeFunction".to_owned(), function)].into());

    let release: BTreeSet<_> = [
        on_both("s3:ListBucket", &[""]),
        on_both("s3:GetObject", &["/latches/*", "/holds/*", "/control"]),
        on_both("s3:PutObject", &["/latches/*", "/holds/*"]),
        on_both("s3:DeleteObject", &["/latches/*", "/holds/*"]),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert_eq!(allowed(&managed_policy(&aws, "ReleasePolicy").await), release);

    // From the template as it is deployed.
    let policy = Policy::new(bucket_policy(&aws).await);
    each_denial_of_the_buckets_policy(&policy);
}

/// The policy against requests as AWS describes them, by the keys that S3 fills. Each caller's own policy allows
/// everything.
fn each_denial_of_the_buckets_policy(policy: &Policy) {
    let put = |key: &str| {
        Request::new("s3:PutObject", &format!("latch-a/{key}"))
            .by(WATCHER)
            .with("aws:SecureTransport", "true")
            .with("s3:authType", "REST-QUERY-STRING")
            .with("s3:signatureversion", "AWS4-HMAC-SHA256")
            .with("s3:signatureAge", "14999")
            .with("s3:if-none-match", "*")
            .with("s3:x-amz-server-side-encryption", "AES256")
    };
    let by_header =
        |key: &str| put(key).by(PEOPLE).with("s3:authType", "REST-HEADER").without("s3:signatureAge");
    let of = |action: &str, of: &str, by: &str| {
        Request::new(action, of).by(by).with("aws:SecureTransport", "true").with("s3:authType", "REST-HEADER")
    };
    let anonymous = |key: &str, address: &str| {
        let get = Request::new("s3:GetObject", &format!("latch-a/{key}"));
        get.with("aws:SecureTransport", "true").with("aws:SourceIp", address)
    };
    for (request, allowed) in [
        (put("latches/app"), true),
        (put("latches/app").with("s3:signatureAge", "15000"), true),
        (put("latches/app").with("s3:signatureAge", "15001"), false),
        (put("latches/app").with("s3:authType", "REST-HEADER").without("s3:signatureAge"), false),
        (put("latches/app").with("s3:authType", "POST"), false),
        (put("latches/app").with("s3:signatureversion", "AWS").with("s3:signatureAge", "0"), false),
        (put("latches/app").without("s3:if-none-match"), false),
        (put("latches/app").without("s3:if-none-match").with("s3:if-match", "\"etag\""), false),
        (put("latches/app").without("s3:x-amz-server-side-encryption"), false),
        (put("latches/app").with("s3:x-amz-server-side-encryption", "aws:kms"), false),
        (put("latches/app").with("s3:x-amz-storage-class", "STANDARD"), true),
        (put("latches/app").with("s3:x-amz-storage-class", "GLACIER"), false),
        (put("latches/app").with("aws:SecureTransport", "false"), false),
        (put("control"), true),
        (put("control").without("s3:if-none-match"), false),
        (put("control").with("s3:x-amz-server-side-encryption", "aws:kms"), false),
        (put("holds/app"), false),
        (of("s3:DeleteObject", "latch-a/latches/app", WATCHER), false),
        (of("s3:DeleteObjectVersion", "latch-a/latches/app", WATCHER), false),
        (of("s3:DeleteObject", "latch-a/control", WATCHER), false),
        // A release, and the object that it puts back.
        (of("s3:DeleteObject", "latch-a/latches/app", PEOPLE), true),
        (of("s3:DeleteObject", "latch-a/holds/app", PEOPLE), true),
        (by_header("holds/app"), true),
        (by_header("holds/app").without("s3:if-none-match").with("s3:if-match", "\"etag\""), true),
        (by_header("latches/app"), true),
        (by_header("latches/app").without("s3:if-none-match"), false),
        (by_header("latches/app").without("s3:x-amz-server-side-encryption"), false),
        // No person's either.
        (of("s3:PutLifecycleConfiguration", "latch-a", PEOPLE), false),
        (of("s3:PutBucketRequestPayment", "latch-a", PEOPLE), false),
        (of("s3:DeleteBucket", "latch-a", PEOPLE), false),
        (of("s3:ReplicateDelete", "latch-a/latches/app", PEOPLE), false),
        (of("s3:PutBucketPolicy", "latch-a", PEOPLE), true),
        // The checkers'.
        (anonymous("latches/app", CHECKER), true),
        (anonymous("control", CHECKER), true),
        (anonymous("latches/app", STRANGER), false),
        (anonymous("holds/app", CHECKER), false),
        (anonymous("latches/app", CHECKER).with("aws:SecureTransport", "false"), false),
        (Request::new("s3:ListBucket", "latch-a").with("aws:SourceIp", CHECKER), false),
        (Request::new("s3:PutObject", "latch-a/latches/app").with("aws:SourceIp", CHECKER), false),
    ] {
        assert_eq!(policy.allows(&request), allowed, "{request:?}");
    }
}

/// The policy as an emulator enforces it, without the statements that it cannot judge. Unlike S3, it tells an anonymous
/// reader that a key is absent, and its `aws:PrincipalArn` is the session's ARN instead of the role's.
#[tokio::test]
async fn the_buckets_policy_is_enforced() {
    let aws = Emulator::own_ministack_enforcing_permissions().await;
    deploy(&aws, "192.0.2.0/24,127.0.0.0/8").await;
    let mut policy = bucket_policy(&aws).await;
    let statements = policy["Statement"].as_array_mut().expect("a policy has statements");
    let before = statements.len();
    statements.retain(|statement| !NOT_ENFORCED.iter().any(|name| statement["Sid"] == *name));
    assert_eq!(statements.len() + NOT_ENFORCED.len(), before);
    let policy = policy.to_string().replace(PEOPLE, "arn:aws:sts::000000000000:assumed-role/sre/test");
    let watcher = physical_id(&aws, "WatchRole").await;

    let roles = r#"
        trust='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole",
            "Principal": {"AWS": "arn:aws:iam::000000000000:root"}}]}'
        all='{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
        for role in sre machine; do
            aws iam create-role --role-name $role --assume-role-policy-document "$trust"
            aws iam put-role-policy --role-name $role --policy-name all --policy-document "$all"
        done
        aws iam update-assume-role-policy --role-name "$WATCHER" --policy-document "$trust"
        aws s3api put-bucket-policy --bucket latch-a --policy "$POLICY""#;
    let variables = [("WATCHER", watcher.as_str()), ("POLICY", policy.as_str())];
    let (status, said) = aws.bash(roles, &variables).await;
    assert_eq!(status, Some(0), "{said}");

    let script = r#"
        try() {
            local said
            if said=$(aws "$@" 2>&1); then echo allowed
            else case $said in *AccessDenied*) echo denied ;; *NoSuchKey*) echo absent ;; *) echo "$said" ;; esac; fi
        }
        key() { local call=$1 key=$2; shift 2; try s3api "$call" --bucket latch-a --key "$key" "$@"; }
        as() {
            set -- $(aws sts assume-role --role-arn "arn:aws:iam::000000000000:role/$1" --role-session-name test \
                --query 'Credentials.[AccessKeyId, SecretAccessKey, SessionToken]' --output text)
            export AWS_ACCESS_KEY_ID=$1 AWS_SECRET_ACCESS_KEY=$2 AWS_SESSION_TOKEN=$3
        }
        for role in machine "$WATCHER" sre; do (
            as "$role"
            echo "$(key put-object latches/app) $(key put-object latches/app --server-side-encryption AES256)" \
                "$(key put-object holds/app) $(key put-object control --server-side-encryption AES256)" \
                "$(key get-object holds/none /dev/null) $(key get-object other /dev/null)" \
                "$(key delete-object latches/none) $(key delete-object holds/app)" \
                "$(try s3api put-bucket-request-payment --bucket latch-a --request-payment-configuration Payer=Requester)" \
                "$(try s3api delete-bucket --bucket latch-a)"
        ); done
        echo "$(key get-object latches/app /dev/null --no-sign-request)" \
            "$(key get-object holds/app /dev/null --no-sign-request) $(key put-object latches/b --no-sign-request)"
        aws s3api put-bucket-policy --bucket latch-a --policy "${POLICY/127.0.0.0/198.51.100.0}"
        key get-object latches/app /dev/null --no-sign-request"#;
    let (status, said) = aws.bash(script, &variables).await;
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        [
            "denied allowed denied allowed absent absent denied denied denied denied",
            "denied allowed denied denied absent denied denied denied denied denied",
            "denied allowed allowed allowed absent absent allowed allowed denied denied",
            "allowed denied denied",
            "denied",
        ]
    );
}

#[test]
fn the_watcher_runs_each_minute_without_retries_and_ticks_may_overlap() {
    let template = fs::read_to_string(root().join("infra/latch-region.yaml")).unwrap();
    for line in [
        "      Timeout: 120\n",
        "      ReservedConcurrentExecutions: !Ref WatchConcurrency\n",
        "    Default: 3\n    MinValue: 3\n",
        "      ScheduleExpression: rate(1 minute)\n",
        "        RetryPolicy: { MaximumRetryAttempts: 0, MaximumEventAgeInSeconds: 60 }\n",
        "      MaximumRetryAttempts: 0\n      MaximumEventAgeInSeconds: 60\n",
    ] {
        assert!(template.contains(line), "infra/latch-region.yaml lacks {line}");
    }
    // The deadline of a presigned request is one number in two places.
    let signature = fs::read_to_string(root().join("src/latch/s3.rs")).unwrap();
    assert!(signature.contains("pub const SIGNATURE: Duration = Duration::from_secs(15);"));
    assert!(template.contains(r#""s3:signatureAge": "15000""#));
}

#[test]
fn a_creation_that_fails_leaves_nothing_behind_that_would_refuse_the_next_one() {
    for template in ["latch-region", "latch-checks", "latch-control"] {
        let text = fs::read_to_string(root().join(format!("infra/{template}.yaml"))).unwrap();
        let policies: Vec<_> = text.lines().filter(|line| line.contains(" DeletionPolicy:")).collect();
        assert!(
            policies.iter().all(|line| line.ends_with(": RetainExceptOnCreate")),
            "{template}: {policies:?}"
        );
    }
}

#[test]
fn a_latch_check_is_unhealthy_if_and_only_if_the_object_answers() {
    let template = fs::read_to_string(root().join("infra/latch-checks.yaml")).unwrap();
    let resources: Vec<_> = template.split("\n\n").collect();
    for (name, bucket, region) in
        [("FirstLatch", "FirstBucket", "FirstRegion"), ("SecondLatch", "SecondBucket", "SecondRegion")]
    {
        let check = resources.iter().find(|resource| resource.contains(&format!("  {name}:\n"))).unwrap();
        for line in [
            "    DeletionPolicy: RetainExceptOnCreate\n    UpdateReplacePolicy: Retain\n",
            "        Type: HTTPS\n",
            &format!(
                "        FullyQualifiedDomainName: !Sub \"${{{bucket}}}.s3.${{{region}}}.amazonaws.com\"\n"
            ),
            "        ResourcePath: !Sub \"/latches/${LatchName}\"\n",
            "        EnableSNI: true\n        Inverted: true\n",
            "        FailureThreshold: 1\n",
        ] {
            assert!(check.contains(line), "{name} lacks {line}");
        }
    }
    // The calculated check requires the primary's children and both latch checks.
    let thresholds = template.lines().find(|line| line.trim().starts_with("PrimaryChildren: {")).unwrap();
    for (children, threshold) in (1..=8).zip(3..) {
        assert!(thresholds.contains(&format!("\"{children}\": {threshold}")), "{thresholds}");
    }
}

#[tokio::test]
async fn the_costs_are_computed_in_one_place_and_the_documentation_quotes_them() {
    let aws = Emulator::ministack().await;
    let page = fs::read_to_string(root().join("docs/latch-deploy.md")).unwrap();
    let quoted = page.split('`').filter(|code| code.starts_with("infra/latch-costs --every"));
    let quoted = quoted.chain(["infra/latch-costs --pairs 1", "infra/latch-costs --pairs 10"]);
    for command in quoted {
        let (status, costs) = aws.bash(command, &[]).await;
        assert_eq!(status, Some(0), "{costs}");
        assert!(page.contains(&format!("```text\n{costs}```\n")), "docs/latch-deploy.md lacks:\n{costs}");
    }
    // What the script assumes of the watcher and of the templates.
    let script = fs::read_to_string(root().join("infra/latch-costs")).unwrap();
    let template = fs::read_to_string(root().join("infra/latch-region.yaml")).unwrap();
    let alarms = template.matches("Type: AWS::CloudWatch::Alarm\n").count();
    let outcome = fs::read_to_string(root().join("src/latch/outcome.rs")).unwrap();
    let (_, listed) = outcome.split_once("-> Vec<Metric> {").expect("it returns the metrics");
    let listed = listed.split("\n    }\n").next().unwrap();
    let metrics: usize =
        ["is(\"", "one(\"", "count(\"", "name: \""].map(|call| listed.matches(call).count()).iter().sum();
    assert!(script.contains(&format!("metrics = {metrics}; alarms = {alarms};")), "{metrics}, {alarms}");
    let page = fs::read_to_string(root().join("src/latch/s3.rs")).unwrap();
    assert!(script.contains("page = 12") && page.contains("const PAGE: usize = 12;"));
    for (options, said) in [
        ("--pairs 0", "--pairs takes a number from 1, not \"0\""),
        ("--every 61", "--every takes seconds from 1 to 60, not \"61\""),
        ("--price gold=1", "there is no price gold"),
        ("--price metric=cheap", "--price metric takes USD, not \"cheap\""),
    ] {
        let (status, printed) = aws.bash(&format!("infra/latch-costs {options}"), &[]).await;
        assert!(status == Some(2) && printed.contains(said), "{options}: {printed}");
    }
}
