//! What a resource's policy says of a request that a service makes for one of its resources: a topic invokes a function.
//!
//! The rules are IAM's: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html>.

use serde_json::Value;

use crate::remote::arn::Arn;

/// A service's request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// For example `sns.amazonaws.com`.
    pub service: &'a str,
    /// For example `lambda:InvokeFunction`.
    pub action: &'a str,
    /// The ARN of the resource that has the policy, if statements may name another one.
    pub resource: Option<&'a str>,
    /// The ARN for which the service makes it.
    pub source: &'a str,
}

/// Whether a policy allows a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lets {
    Yes,
    /// No statement allows it.
    No,
    /// A statement denies it, by its `Sid`.
    Denied(String),
    /// It depends on a condition that is not known here.
    Perhaps,
}

/// The statements of a policy; a document that is no policy has none.
pub(super) fn statements(document: &str) -> Vec<Value> {
    let mut policy: Value = serde_json::from_str(document).unwrap_or_default();
    match policy["Statement"].take() {
        Value::Array(statements) => statements,
        statement @ Value::Object(_) => vec![statement],
        _ => Vec::new(),
    }
}

/// What these statements say of a request.
pub(super) fn lets(statements: &[Value], request: Request<'_>) -> Lets {
    judged(statements, |statement| applies(statement, request))
}

/// What these statements say of a request that anyone makes, without credentials; the keys of conditions, in small letters, have
/// these values.
pub(super) fn lets_anyone(statements: &[Value], action: &str, keys: &[(&str, &str)]) -> Lets {
    let known = keys.iter().chain(&[("aws:securetransport", "true")]);
    let of = |key: &str| known.clone().find(|(name, _)| *name == key).map(|(_, value)| *value);
    judged(statements, |statement| applies_to(statement, &is_everyone, action, None, &of))
}

fn judged(statements: &[Value], applies: impl Fn(&Value) -> Option<bool>) -> Lets {
    let mut lets = Lets::No;
    let mut is_unsure = false;
    for statement in statements {
        match (statement["Effect"].as_str(), applies(statement)) {
            (Some("Deny"), Some(true)) => {
                return Lets::Denied(statement["Sid"].as_str().unwrap_or_default().to_owned());
            }
            (Some("Deny"), None) => is_unsure = true,
            (Some("Allow"), Some(true)) => lets = Lets::Yes,
            (Some("Allow"), None) if lets == Lets::No => lets = Lets::Perhaps,
            _ => {}
        }
    }
    if is_unsure && lets == Lets::Yes { Lets::Perhaps } else { lets }
}

fn applies(statement: &Value, request: Request<'_>) -> Option<bool> {
    // An account, or its roles, is not the service.
    let is_service =
        |of: &Value| is_everyone(of) || texts(&of["Service"]).any(|service| service == request.service);
    let of = |key: &str| request.value(key);
    applies_to(statement, &is_service, request.action, request.resource, &of)
}

/// Whether a statement is about this request; `None` if that depends on what is not known.
fn applies_to<'v>(
    statement: &Value,
    is_principal: &dyn Fn(&Value) -> bool,
    action: &str,
    resource: Option<&str>,
    of: &dyn Fn(&str) -> Option<&'v str>,
) -> Option<bool> {
    let fits = |name: &str, not: &str, is: &dyn Fn(&Value) -> bool| {
        if statement[name].is_null() && !statement[not].is_null() {
            !is(&statement[not])
        } else {
            is(&statement[name])
        }
    };
    let action = action.to_lowercase();
    let is_action = |of: &Value| texts(of).any(|pattern| matches(&pattern.to_lowercase(), &action));
    let is_resource = |of: &Value| texts(of).any(|pattern| resource.is_some_and(|arn| matches(pattern, arn)));
    if !fits("Principal", "NotPrincipal", &is_principal)
        || !fits("Action", "NotAction", &is_action)
        || (resource.is_some() && !fits("Resource", "NotResource", &is_resource))
    {
        return Some(false);
    }
    let held = conditions(statement)
        .map(|(operator, key, values)| holds(operator, of(&key.to_lowercase())?, values));
    let held: Vec<_> = held.collect();
    // One that does not hold decides.
    if held.contains(&Some(false)) {
        Some(false)
    } else {
        held.into_iter().try_fold(true, |all, one| Some(all && one?))
    }
}

// === impl Request ===

impl<'a> Request<'a> {
    /// What the service sends as the value of a condition's key, if that is known.
    fn value(self, key: &str) -> Option<&'a str> {
        match key {
            "aws:sourcearn" => Some(self.source),
            // The older name is in the policy that SNS gives a new topic.
            "aws:sourceaccount" | "aws:sourceowner" => {
                Some(Arn::parse(self.source).map_or("", |arn| arn.account))
            }
            "aws:securetransport" | "aws:principalisawsservice" => Some("true"),
            "aws:principalservicename" => Some(self.service),
            _ => None,
        }
    }
}

/// Whether a condition holds for this value of its key.
fn holds(operator: &str, found: &str, values: &Value) -> Option<bool> {
    let operator = operator.strip_suffix("IfExists").unwrap_or(operator);
    let any = |is: &dyn Fn(&str) -> bool| texts(values).any(is);
    match operator {
        "StringEquals" => Some(any(&|value| value == found)),
        "StringNotEquals" => Some(!any(&|value| value == found)),
        "Bool" | "StringEqualsIgnoreCase" => Some(any(&|value| value.eq_ignore_ascii_case(found))),
        "StringLike" => Some(any(&|value| matches(value, found))),
        "StringNotLike" => Some(!any(&|value| matches(value, found))),
        // What a pattern without parts matches is not documented.
        "ArnEquals" | "ArnLike" | "ArnNotEquals" | "ArnNotLike" if any(&|value| value == "*") => None,
        "ArnEquals" | "ArnLike" => Some(any(&|value| matches_arn(value, found))),
        "ArnNotEquals" | "ArnNotLike" => Some(!any(&|value| matches_arn(value, found))),
        _ => None,
    }
}

/// The conditions of a statement: operator, key and values.
pub(super) fn conditions(statement: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let conditions = statement["Condition"].as_object().into_iter().flatten();
    conditions.flat_map(|(operator, keys)| {
        let keys = keys.as_object().into_iter().flatten();
        keys.map(move |(key, values)| (operator.as_str(), key.as_str(), values))
    })
}

pub(super) fn is_everyone(principal: &Value) -> bool {
    principal == "*" || texts(&principal["AWS"]).any(|one| one == "*")
}

/// A text, a list of texts, or a truth value, which a policy may have without quotes.
pub(super) fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let of = |value| match value {
        &Value::Bool(true) => Some("true"),
        &Value::Bool(false) => Some("false"),
        value => value.as_str(),
    };
    let list = value.as_array().map(Vec::as_slice);
    list.unwrap_or(std::slice::from_ref(value)).iter().filter_map(of)
}

/// Whether an ARN matches a pattern of an ARN's condition: each of the [six parts by itself][1].
///
/// [1]: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html#Conditions_ARN
fn matches_arn(pattern: &str, arn: &str) -> bool {
    let parts = |text: &str| text.splitn(6, ':').map(str::to_owned).collect::<Vec<_>>();
    let (patterns, parts) = (parts(pattern), parts(arn));
    patterns.len() == parts.len() && patterns.iter().zip(&parts).all(|(pattern, part)| matches(pattern, part))
}

/// Whether a text matches an IAM pattern: `*` matches any text, `?` one character.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<_>, Vec<_>) = (pattern.chars().collect(), text.chars().collect());
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for part in pattern {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            let from_before = at > 0 && reached[at - 1] && (part == '?' || part == text[at - 1]);
            let by_star = part == '*' && (reached[at] || (at > 0 && next[at - 1]));
            next[at] = if part == '*' { by_star } else { from_before };
        }
        reached = next;
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOPIC: &str = "arn:aws:sns:us-east-1:123456789012:alarms";
    const INVOKES: Request<'_> = Request {
        service: "sns.amazonaws.com",
        action: "lambda:InvokeFunction",
        resource: None,
        source: TOPIC,
    };

    fn statement(effect: &str, more: &Value) -> Value {
        let mut statement = json!({ "Sid": effect, "Effect": effect, "Principal": { "Service": "sns.amazonaws.com" },
            "Action": "lambda:InvokeFunction" });
        for (key, value) in more.as_object().into_iter().flatten() {
            statement[key] = value.clone();
        }
        statement
    }

    #[test]
    fn a_policy_allows_a_service_for_its_action_and_the_source_that_it_names() {
        let from = |arn: &str| json!({ "Condition": { "ArnLike": { "AWS:SourceArn": arn } } });
        let of = |account: &str| json!({ "Condition": { "StringEquals": { "AWS:SourceAccount": account } } });
        let org = json!({ "Condition": { "StringEquals": { "aws:PrincipalOrgID": "o-1" } } });
        for (more, expected) in [
            (json!({}), Lets::Yes),
            (from(TOPIC), Lets::Yes),
            (from("arn:aws:sns:*:123456789012:*"), Lets::Yes),
            (of("123456789012"), Lets::Yes),
            (json!({ "Principal": "*", "Action": ["lambda:Get*", "lambda:invoke*"] }), Lets::Yes),
            (from("arn:aws:sns:us-east-1:1:x"), Lets::No),
            (from("arn:aws:sns:us-east-1:*"), Lets::No),
            (from("arn:aws:sns:*:alarms"), Lets::No),
            (from("*"), Lets::Perhaps),
            (from("arn:*:sns:us-*-1:*:al?rms"), Lets::Yes),
            (
                json!({ "Condition": { "StringLike": { "AWS:SourceArn": "arn:aws:sns:*:alarms" } } }),
                Lets::Yes,
            ),
            (of("999999999999"), Lets::No),
            (json!({ "Action": "lambda:GetFunction" }), Lets::No),
            (json!({ "Principal": { "Service": "events.amazonaws.com" } }), Lets::No),
            (json!({ "Principal": { "AWS": "arn:aws:iam::123456789012:root" } }), Lets::No),
            (org.clone(), Lets::Perhaps),
        ] {
            assert_eq!(lets(&[statement("Allow", &more)], INVOKES), expected, "{more}");
        }
        assert_eq!(lets(&[], INVOKES), Lets::No);
        let allowed = statement("Allow", &json!({}));
        for (more, expected) in [
            (json!({}), Lets::Denied("Deny".to_owned())),
            (json!({ "Principal": "*", "Action": "*" }), Lets::Denied("Deny".to_owned())),
            (json!({ "NotAction": "lambda:InvokeFunction", "Action": null }), Lets::Yes),
            (of("999999999999"), Lets::Yes),
            (json!({ "Condition": { "Bool": { "aws:SecureTransport": "false" } } }), Lets::Yes),
            (org, Lets::Perhaps),
        ] {
            let denial = statement("Deny", &more);
            assert_eq!(lets(&[denial.clone(), allowed.clone()], INVOKES), expected, "{more}");
            assert_eq!(lets(&[allowed.clone(), denial], INVOKES), expected, "{more}");
        }
    }

    #[test]
    fn a_pattern_matches_as_in_iam() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*", "ba", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
