//! Amazon Resource Names.

/// An ARN's parts: `arn:partition:service:region:account:resource`. A part may be empty, and a resource may
/// hold colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arn<'a> {
    /// For example `aws` or `aws-cn`.
    pub partition: &'a str,
    /// For example `sns`.
    pub service: &'a str,
    /// For example `us-east-1`.
    pub region: &'a str,
    /// The account's 12 digits.
    pub account: &'a str,
    /// For example `function:NAME:QUALIFIER`.
    pub resource: &'a str,
}

// === impl Arn ===

impl<'a> Arn<'a> {
    /// Reads an ARN; `None` if the text is not an ARN.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(6, ':');
        let is_arn = parts.next() == Some("arn");
        let mut part = || parts.next();
        let arn = Self {
            partition: part()?,
            service: part()?,
            region: part()?,
            account: part()?,
            resource: part()?,
        };
        (is_arn && !arn.partition.is_empty() && !arn.service.is_empty() && !arn.resource.is_empty())
            .then_some(arn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_has_five_parts_behind_its_prefix() {
        let arn = Arn::parse("arn:aws:lambda:eu-west-1:123456789012:function:lock:live").unwrap();
        assert_eq!((arn.partition, arn.service, arn.region), ("aws", "lambda", "eu-west-1"));
        assert_eq!((arn.account, arn.resource), ("123456789012", "function:lock:live"));
        assert!(Arn::parse("arn:aws:iam::123456789012:role/lease").is_some());
        for text in
            ["", "alarms", "arn:aws:sns:us-east-1:123456789012", "nra:aws:sns:us-east-1:1:x", "arn:::::x"]
        {
            assert_eq!(Arn::parse(text), None, "{text}");
        }
    }
}
