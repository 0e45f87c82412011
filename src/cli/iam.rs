//! IAM in failoverctl's terms: the only place that knows its SDK.

use aws_config::SdkConfig;
use aws_sdk_iam::Client;
use aws_sdk_iam::types::PolicyEvaluationDecisionType::Allowed;

use super::session::if_there;
use crate::remote::aws::{Call, Failure, pages, send};
use crate::remote::deadline::Deadline;

/// Those of these actions on a resource that the role of this ARN may not do, by its policies, its boundary and the organisation's;
/// `None` if the role does not exist.
pub(super) async fn denied(
    aws: &SdkConfig,
    role: &str,
    actions: &[&str],
    resource: &str,
    deadline: Deadline,
) -> Result<Option<Vec<String>>, Failure> {
    let client = Client::new(aws);
    let judged = pages(deadline, async |time, marker| {
        let request = client.simulate_principal_policy().policy_source_arn(role).resource_arns(resource);
        let request = request.set_action_names(Some(actions.iter().copied().map(str::to_owned).collect()));
        let call = Call::new("iam:SimulatePrincipalPolicy", "the role");
        let page = send(call, time, request.set_marker(marker).send()).await?;
        Ok((page.evaluation_results.unwrap_or_default(), page.marker))
    });
    let judged = if_there(judged.await)?;
    let denied = |judged: Vec<_>| {
        let denied = judged
            .into_iter()
            .filter(|one: &aws_sdk_iam::types::EvaluationResult| one.eval_decision != Allowed);
        denied.map(|one| one.eval_action_name).collect()
    };
    Ok(judged.map(denied))
}
