//! A judge of resource policies by the rules of IAM, for the condition keys that no emulator fills. It knows the operators
//! of this repository's templates, and panics at another one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde_json::Value;

/// A resource policy.
pub struct Policy(Value);

/// A request as the policy sees it. Without a principal it is anonymous.
#[derive(Clone, Debug)]
pub struct Request {
    action: String,
    resource: String,
    keys: BTreeMap<String, String>,
}

// === impl Policy ===

impl Policy {
    pub fn new(policy: Value) -> Self {
        Self(policy)
    }

    /// Whether the request succeeds. A principal's own policy allows everything; an anonymous request needs a statement
    /// that allows it.
    pub fn allows(&self, request: &Request) -> bool {
        let statements = self.0["Statement"].as_array().expect("a policy has statements").iter();
        let applying: Vec<_> = statements.filter(|statement| applies(statement, request)).collect();
        let is = |effect: &str| applying.iter().any(|statement| statement["Effect"] == effect);
        !is("Deny") && (request.keys.contains_key("aws:PrincipalArn") || is("Allow"))
    }
}

// === impl Request ===

impl Request {
    /// An action on `BUCKET` or `BUCKET/KEY`.
    pub fn new(action: &str, of: &str) -> Self {
        let resource = format!("arn:aws:s3:::{of}");
        Self { action: action.to_owned(), resource, keys: BTreeMap::new() }
    }

    pub fn by(self, principal: &str) -> Self {
        self.with("aws:PrincipalArn", principal)
    }

    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.keys.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.keys.remove(key);
        self
    }
}

fn applies(statement: &Value, request: &Request) -> bool {
    assert_eq!(statement["Principal"], "*", "{statement}");
    let matches = |of: &str, text: &str| list(&statement[of]).iter().any(|pattern| is_like(pattern, text));
    let conditions = statement["Condition"].as_object().into_iter().flatten();
    let mut conditions = conditions.flat_map(|(operator, keys)| {
        let keys = keys.as_object().expect("a condition names keys").iter();
        keys.map(move |(key, values)| (operator, key, list(values)))
    });
    matches("Action", &request.action)
        && matches("Resource", &request.resource)
        && conditions.all(|(operator, key, values)| holds(operator, request.keys.get(key), &values))
}

/// Whether one condition holds. For a key that the request does not have, a negated operator does, and another does not.
fn holds(operator: &str, found: Option<&String>, values: &[String]) -> bool {
    let any = |is: &dyn Fn(&str, &str) -> bool| {
        found.is_some_and(|found| values.iter().any(|value| is(value, found)))
    };
    match operator {
        "Null" => values == [found.is_none().to_string()],
        "Bool" => any(&|value, found| value == found),
        "StringNotEquals" => !any(&|value, found| value == found),
        "ArnNotLike" => !any(&is_like),
        "NumericGreaterThan" => any(&|value, found| number(found) > number(value)),
        "IpAddress" => any(&|range, found| is_in(range, found)),
        other => panic!("this judge does not know {other}"),
    }
}

fn list(value: &Value) -> Vec<String> {
    match value {
        Value::Array(values) => values.iter().map(|value| value.as_str().unwrap().to_owned()).collect(),
        value => vec![value.as_str().expect("a text").to_owned()],
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// Whether the text matches a pattern with `*`.
fn is_like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).any(|at| text.is_char_boundary(at) && is_like(rest, &text[at..]))
        }),
    }
}

fn is_in(range: &str, address: &str) -> bool {
    let (start, bits) = range.split_once('/').expect("a range has a length");
    let bits = |text: &str| u32::from(text.parse::<Ipv4Addr>().expect("an address")) >> (32 - number(bits));
    bits(start) == bits(address)
}
