//! What the functions of site-fence may have to do.

use crate::cli::function::Function;
use crate::cli::stack::Stack;
use crate::remote::arn::Arn;
use crate::site_fence::config::Config;

/// The resource of a statement of the functions' roles.
pub(super) fn of_accelerator(arn: &str) -> impl Fn(&str) -> Option<String> {
    move |statement| match statement {
        "FindAcceleratorAndSites" => Some("*".to_owned()),
        "Accelerator" => Some(arn.to_owned()),
        "Listeners" => Some(format!("{arn}/listener/any")),
        "EndpointGroups" => Some(format!("{arn}/listener/any/endpoint-group/any")),
        _ => None,
    }
}

/// The ARN of the queue of the alerts that were not finished.
pub(super) fn lost_alerts(stack: &Stack<'_>) -> Option<String> {
    let Arn { partition, region, account, .. } = Arn::parse(stack.arn)?;
    Some(format!("arn:{partition}:sqs:{region}:{account}:{}-lost-alerts", stack.name))
}

/// What a function needs beside, by its variables: the action and its resource.
pub(super) fn needs(
    config: Option<&Config>,
    function: &Function,
    stack: &Stack<'_>,
) -> Vec<(&'static str, String)> {
    let variable = |name: &str| function.variables.get(name).filter(|arn| arn.starts_with("arn:")).cloned();
    let secrets = ["WEBHOOK_USER_SECRET", "INFINISPAN_USER_SECRET", "INFINISPAN_CA_CERT_SECRET"];
    let secrets = secrets.into_iter().filter_map(variable);
    let mut needs: Vec<_> = secrets.map(|arn| ("secretsmanager:GetSecretValue", arn)).collect();
    let has_topic = config.is_some_and(|config| config.topic.is_some());
    needs.extend(
        lost_alerts(stack)
            .filter(|_| has_topic && function.handler == "fence")
            .map(|queue| ("sqs:SendMessage", queue)),
    );
    if let Some(table) =
        config.and_then(|config| config.table.as_ref()).filter(|table| table.name.starts_with("arn:"))
    {
        let actions = ["dynamodb:PutItem", "dynamodb:GetItem", "dynamodb:DeleteItem"];
        needs.extend(actions.map(|action| (action, table.name.clone())));
    }
    needs
}
