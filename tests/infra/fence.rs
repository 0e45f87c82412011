//! `infra/site-fence.yaml`, and the documented commands that put site-fence in the place of the documented function.

use std::fs;

use crate::support::docs::commands_below;
use crate::support::emulator::free_port;
use crate::support::sites::{DOCUMENTED_FENCE, REGION, Sites};

#[tokio::test]
async fn the_documented_function_is_replaced_in_its_place() {
    let sites = Sites::start_with_functions().await;
    let [_, replace] = &commands_below("fence.md", "## Replace the documented Python function")[..] else {
        panic!("docs/fence.md has the commands")
    };
    let replace = replace.replace("arm64", "x86_64");
    let replace = replace.replace("target/package/site-fence-x86_64.zip", "$ARTIFACT");
    let folder = std::env::temp_dir().join(format!("site-fence-{}", free_port()));
    fs::create_dir_all(&folder).unwrap();
    let artifact = sites.aws.package("site-fence");
    let mut variables = sites.variables();
    // Lambda and the emulator set these.
    variables.retain(|name, _| !name.starts_with("AWS_"));
    let variables = serde_json::json!({ "Variables": variables }).to_string();
    let given = [
        ("ARTIFACT", artifact.to_str().unwrap()),
        ("FOLDER", folder.to_str().unwrap()),
        ("REGION", REGION),
        ("ROLE", "guide"),
        ("FUNCTION", "guide"),
        ("VARIABLES", &variables),
    ];
    let alert = r#"aws lambda invoke --region "$REGION" --function-name "$FUNCTION" \
        --payload fileb://events/alertmanager/firing.json /dev/stdout | cat"#;
    let (status, said) = sites.aws.bash(&format!("{DOCUMENTED_FENCE}\n{replace}\n{alert}"), &given).await;
    fs::remove_dir_all(&folder).unwrap();
    assert!(status == Some(0) && said.contains(r#""statusCode": 204"#), "{said}");
    assert_eq!(sites.in_service(), [sites.balancer_a.as_str()]);
    let concurrency = "aws lambda get-function-concurrency --function-name guide";
    let (_, said) = sites.aws.bash(concurrency, &[]).await;
    assert!(said.contains(r#""ReservedConcurrentExecutions": 1"#), "{said}");
}
