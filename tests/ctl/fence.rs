//! `failoverctl fence doctor`, on a stack of the template beside a Global Accelerator of our own.

use crate::failoverctl::{Ended, run_at};
use crate::support::accelerator::{Accelerator, Group};
use crate::support::docs::commands_below;
use crate::support::sites::{ACCELERATORS_APART, DNS_NAME, LABEL, REGION, Sites, alert, outcomes};

/// Deploys with the documented commands.
async fn deploy(sites: &Sites, more: &str) {
    let [secrets, _, deploy, _] = &commands_below("fence.md", "## Deploy")[..] else {
        panic!("the page has the commands")
    };
    let deploy = deploy.replace("DryRun=true", "DryRun=false");
    let deploy = deploy.replace(
        "\"CodeKey=$KEY\"",
        &format!("\"CodeKey=$KEY\" Architecture=x86_64 CreateFenceTable=true {more}"),
    );
    let upload = r#"
        KEY=site-fence-test.zip
        aws s3 mb --region "$REGION" "s3://$BUCKET"
        aws s3 cp --region "$REGION" "$ARTIFACT" "s3://$BUCKET/$KEY""#;
    let (artifact, given) = (sites.aws.package("site-fence"), sites.deployment());
    let artifact = [("ARTIFACT", artifact.to_str().expect("the target folder's name is UTF-8"))];
    let given: Vec<_> = given.iter().map(|(name, value)| (*name, value.as_str())).chain(artifact).collect();
    let (status, said) =
        sites.aws.bash(&format!("{ACCELERATORS_APART}\n{upload}\n{secrets}\n{deploy}"), &given).await;
    assert_eq!(status, Some(0), "{said}");
}

async fn doctor(sites: &Sites) -> Ended {
    run_at(sites, &["fence", "doctor", DNS_NAME]).await
}

/// Breaks something, and puts it back.
async fn is_found(sites: &Sites, broken: &str, said: &str, mended: &str) {
    for (command, is_there) in [(broken, true), (mended, false)] {
        let (status, printed) = sites.aws.bash(command, &[("AWS_DEFAULT_REGION", REGION)]).await;
        assert_eq!(status, Some(0), "{command}: {printed}");
        let found = doctor(sites).await;
        assert_eq!(found.out.contains(said), is_there, "{command}: {said}: {}", found.out);
        assert_eq!(found.status, Some(if is_there { 3 } else { 0 }), "{command}: {}", found.out);
    }
}

/// What stands against a report now, and an accelerator without room for notes.
async fn reports_that_are_refused(sites: &Sites) {
    let found = async |said: &str| {
        let found = doctor(sites).await;
        assert!(found.status == Some(3) && found.out.contains(said), "{said}: {}", found.out);
    };
    sites.accelerators.set_health(&sites.balancer_a, "UNHEALTHY");
    found("a report of site-a about site-b would be refused: reporter_unhealthy").await;
    sites.accelerators.set_health(&sites.balancer_a, "HEALTHY");
    let one = |listener: &[_]| [Group::new(REGION, listener.to_vec())];
    let accelerator = Accelerator::new(LABEL).dual_stack();
    let alone = accelerator.clone().listener(one(&sites.both())).listener(one(&sites.both()[1..]));
    sites.accelerators.put(alone);
    found("a report of site-a about site-b would be refused: last_endpoint").await;
    let both = accelerator.listener(one(&sites.both()));
    sites.accelerators.put((0..48).fold(both.clone(), |full, n| full.tagged(&format!("cost-{n}"), "x")));
    found("the accelerator has 48 of 50 tags, and the notes of a site that is taken out need 3").await;
    sites.accelerators.put(both);
    assert_eq!(doctor(sites).await.status, Some(0));
}

#[tokio::test]
async fn doctor_walks_from_the_report_to_the_accelerator_and_finds_what_is_broken() {
    let sites = Sites::start_with_functions().await;
    let missing = doctor(&sites).await;
    assert!(missing.out.contains("site-fence does not exist in "), "{missing:?}");
    deploy(&sites, "CreateAlertTopic=true").await;
    let well = doctor(&sites).await;
    assert_eq!(well.status, Some(0), "{}", well.out);
    for said in [
        "ok      site          site-a: in service\n",
        "ok      function      site-fence is there, and can run\n",
        "ok      role          that of site-fence allows what it needs\n",
        " lets Alertmanager in, with its password\n",
        "site-alerts invokes site-fence\n",
        "ok      table         ",
        "ok      rejoin        site-rejoin is there, and can run\n",
        "ok      alarms        all ",
        "unseen  not looked at Prometheus, Alertmanager and Infinispan",
    ] {
        assert!(well.out.contains(said), "{said}: {}", well.out);
    }

    let role = "ROLE=$(aws lambda get-function-configuration --function-name site-fence --query Role --output text)
        POLICY=$(aws iam get-role-policy --role-name \"${ROLE##*/}\" --policy-name fence --query PolicyDocument --output json)
        aws iam put-role-policy --role-name \"${ROLE##*/}\" --policy-name fence --policy-document";
    for (broken, said, mended) in [
        (
            "aws lambda put-function-concurrency --function-name site-fence --reserved-concurrent-executions 0",
            "site-fence has 0 reserved executions, and 10 by its template: it cannot run",
            "aws lambda put-function-concurrency --function-name site-fence --reserved-concurrent-executions 10",
        ),
        (
            "aws lambda update-function-url-config --function-name site-fence --auth-type AWS_IAM",
            " wants signed requests, which Alertmanager does not send",
            "aws lambda update-function-url-config --function-name site-fence --auth-type NONE",
        ),
        (
            "aws lambda add-permission --function-name site-fence --statement-id open --action lambda:InvokeFunction --principal '*'",
            "lets every AWS account invoke it without its URL",
            "aws lambda remove-permission --function-name site-fence --statement-id open",
        ),
        (
            &*format!("{role} \"${{POLICY//:RemoveEndpoints/:RemoveNothing}}\""),
            "does not allow globalaccelerator:RemoveEndpoints",
            &*format!("{role} \"${{POLICY//:RemoveNothing/:RemoveEndpoints}}\""),
        ),
        (
            "aws logs delete-log-group --log-group-name /aws/lambda/site-rejoin",
            "/aws/lambda/site-rejoin does not exist",
            "aws logs create-log-group --log-group-name /aws/lambda/site-rejoin",
        ),
        (
            "aws cloudwatch disable-alarm-actions --alarm-names site-fenced site-silent-site-b",
            "their actions are off: site-fenced site-silent-site-b",
            "aws cloudwatch enable-alarm-actions --alarm-names site-fenced site-silent-site-b",
        ),
    ] {
        is_found(&sites, broken, said, mended).await;
    }
    reports_that_are_refused(&sites).await;
    for (broken, said) in [
        (
            "aws lambda remove-permission --function-name site-fence --statement-id \"$(aws lambda get-policy --function-name site-fence \
             --query Policy --output text | python3 -c 'import json, sys
print(*[one[\"Sid\"] for one in json.load(sys.stdin)[\"Statement\"] if \"InvokeFunctionUrl\" in one[\"Action\"]])')\"",
            "the policy of site-fence does not let its URL do lambda:InvokeFunctionUrl",
        ),
        (
            "aws sns set-subscription-attributes --attribute-name RedrivePolicy --attribute-value '{}' --subscription-arn \
             \"$(aws sns list-subscriptions --output text --query \"Subscriptions[?Protocol=='lambda'].SubscriptionArn\")\"",
            "the subscription of site-fence has no queue for what cannot be delivered",
        ),
        ("aws lambda delete-function-url-config --function-name site-fence", "site-fence has no URL"),
        ("aws cloudwatch delete-alarms --alarm-names site-refused", "deleted in us-east-1: site-refused"),
        (
            "aws cloudwatch delete-alarms --alarm-names site-silent-site-a",
            "deleted in us-east-1: site-silent-site-a",
        ),
        (
            "aws sqs delete-queue --region \"$AWS_DEFAULT_REGION\" --endpoint-url \"$AWS_ENDPOINT_URL\" --queue-url \"$AWS_ENDPOINT_URL/000000000000/site-lost-alerts\"",
            "site-lost-alerts does not exist: an alert that is not finished is lost",
        ),
        (
            "aws sns unsubscribe --subscription-arn \"$(aws sns list-subscriptions --output text --query \
             \"Subscriptions[?Protocol=='lambda'].SubscriptionArn\")\"",
            "site-fence does not subscribe to ",
        ),
        ("aws lambda delete-function --function-name site-rejoin", "site-rejoin does not exist"),
    ] {
        let (status, printed) = sites.aws.bash(broken, &[("AWS_DEFAULT_REGION", REGION)]).await;
        assert_eq!(status, Some(0), "{broken}: {printed}");
        let found = doctor(&sites).await;
        assert!(found.status == Some(3) && found.out.contains(said), "{said}: {}", found.out);
    }

    outcomes(&sites.system(&[]), &alert("site-a", "site-b")).await;
    let out = doctor(&sites).await.out;
    assert!(out.contains("site          site-b: fenced since "), "{out}");
}
