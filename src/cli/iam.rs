//! IAM in failoverctl's terms: the only place that knows its SDK.

use aws_config::SdkConfig;
use aws_sdk_iam::Client;
use aws_sdk_iam::types::ContextKeyTypeEnum::String as Text;
use aws_sdk_iam::types::PolicyEvaluationDecisionType::Allowed;
use aws_sdk_iam::types::{ContextEntry, EvaluationResult};

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::policy;
use super::session::if_there;
use crate::remote::aws::{Call, Failure, pages, send};
use crate::remote::deadline::Deadline;

/// An action that a role may not do, by its policies, its boundary, and those of the organisation's that have no condition.
pub(super) struct Denied {
    pub action: String,
    /// The keys of conditions whose values are not known: by them it may be allowed.
    pub unknown: Vec<String>,
}

/// The statements of the policy that says who may assume the role of this ARN; `None` if it does not exist.
pub(super) async fn trust(
    aws: &SdkConfig,
    role: &str,
    deadline: Deadline,
) -> Result<Option<Vec<Value>>, Failure> {
    let client = Client::new(aws);
    let name = role.rsplit('/').next().unwrap_or_default();
    let found = deadline.persist(async |time| {
        let call = Call::new("iam:GetRole", "the role");
        send(call, time, client.get_role().role_name(name).send()).await
    });
    let role = if_there(found.await)?.and_then(|output| output.role);
    // IAM's answer is encoded as in a URL.
    Ok(role.map(|role| {
        let document = role.assume_role_policy_document.unwrap_or_default();
        policy::statements(&percent_decode_str(&document).decode_utf8_lossy())
    }))
}

/// Those of these actions on a resource, called in a Region, that the role of this ARN may not do; `None` if the role does not exist.
pub(super) async fn denied(
    aws: &SdkConfig,
    role: &str,
    (actions, resource, region): (&[&str], &str, &str),
    deadline: Deadline,
) -> Result<Option<Vec<Denied>>, Failure> {
    let client = Client::new(aws);
    let called_in = ContextEntry::builder().context_key_name("aws:RequestedRegion");
    let called_in = called_in.context_key_type(Text).context_key_values(region).build();
    let judged = pages(deadline, async |time, marker| {
        let request = client.simulate_principal_policy().policy_source_arn(role).resource_arns(resource);
        let request = request.context_entries(called_in.clone());
        let request = request.set_action_names(Some(actions.iter().copied().map(str::to_owned).collect()));
        let call = Call::new("iam:SimulatePrincipalPolicy", "the role");
        let page = send(call, time, request.set_marker(marker).send()).await?;
        Ok((page.evaluation_results.unwrap_or_default(), page.marker))
    });
    let judged: Option<Vec<EvaluationResult>> = if_there(judged.await)?;
    let denied = |one: EvaluationResult| Denied {
        action: one.eval_action_name,
        unknown: one.missing_context_values.unwrap_or_default(),
    };
    Ok(judged.map(|all| all.into_iter().filter(|one| one.eval_decision != Allowed).map(denied).collect()))
}
