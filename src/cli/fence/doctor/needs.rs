//! What the functions of site-fence may have to do.

use crate::cli::function::Function;
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

/// What a function needs beside, by its variables: the action and its resource.
pub(super) fn needs(config: Option<&Config>, function: &Function) -> Vec<(&'static str, String)> {
    let variable = |name: &str| function.variables.get(name).filter(|arn| arn.starts_with("arn:")).cloned();
    let secrets = ["WEBHOOK_USER_SECRET", "INFINISPAN_USER_SECRET", "INFINISPAN_CA_CERT_SECRET"];
    let secrets = secrets.into_iter().filter_map(variable);
    let mut needs: Vec<_> = secrets.map(|arn| ("secretsmanager:GetSecretValue", arn)).collect();
    if function.handler == "fence"
        && config.is_some_and(|config| config.topic.is_some())
        && let Some((arn, stack)) =
            function.arn.rsplit_once(':').and_then(|(arn, name)| Some((arn, name.strip_suffix("-fence")?)))
    {
        let queues = arn.replace(":lambda:", ":sqs:").replace(":function", "");
        needs.push(("sqs:SendMessage", format!("{queues}:{stack}-lost-alerts")));
    }
    if let Some(table) =
        config.and_then(|config| config.table.as_ref()).filter(|table| table.name.starts_with("arn:"))
    {
        let actions = ["dynamodb:PutItem", "dynamodb:GetItem", "dynamodb:DeleteItem"];
        needs.extend(actions.map(|action| (action, table.name.clone())));
    }
    needs
}
