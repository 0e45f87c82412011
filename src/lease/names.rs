//! Names in the configuration: those that AWS would refuse, or that no log line and no variable can show, are refused
//! at the start.

use crate::program::text::Quoted;
use crate::remote::arn::Arn;

/// The longest value of a partition key, in bytes. IAM allows as much for an ARN.
const LONGEST: usize = 2048;

/// The name of a lease or of an owner.
pub(super) fn name(text: String) -> Result<String, String> {
    // Bytes of a variable that are not UTF-8 have become U+FFFD: two owners could have one name.
    let is_odd = |part: char| part.is_control() || part == char::REPLACEMENT_CHARACTER;
    if text.len() > LONGEST {
        Err(format!("it has {} bytes: set a name of {LONGEST} at most", text.len()))
    } else if text.chars().any(is_odd) {
        Err(format!("{} has characters that cannot be shown: set a name without them", Quoted(&text)))
    } else {
        Ok(text)
    }
}

/// The name of a table, or its ARN, which has to be of this Region if that is known.
pub(super) fn table(text: String, region: Option<&str>) -> Result<String, String> {
    let is_name = |name: &str| {
        let fits = |part: char| part.is_ascii_alphanumeric() || "_.-".contains(part);
        (3..=255).contains(&name.len()) && name.chars().all(fits)
    };
    let is_table = |arn: &Arn<'_>| {
        let name = arn.resource.strip_prefix("table/").unwrap_or_default();
        arn.service == "dynamodb" && is_aws(*arn) && is_name(name)
    };
    match (Arn::parse(&text), region) {
        (Some(arn), Some(region)) if is_table(&arn) && arn.region != region => Err(format!(
            "{} is not in the Region {region}: set region to the table's Region, or name another table",
            Quoted(&text)
        )),
        (Some(arn), _) if is_table(&arn) => Ok(text),
        (None, _) if is_name(&text) => Ok(text),
        _ => Err(format!(
            "{} is not a table: set a name of 3 to 255 letters, digits, _, - and ., or an ARN, for example \
             arn:aws:dynamodb:us-west-2:123456789012:table/admiral-lease",
            Quoted(&text)
        )),
    }
}

/// A Region's name, which becomes a part of host names.
pub(super) fn region(text: String) -> Result<String, String> {
    let fits = |part: &str| {
        let fits = |part: u8| part.is_ascii_lowercase() || part.is_ascii_digit();
        !part.is_empty() && part.bytes().all(fits)
    };
    if text.len() < 64 && text.contains('-') && text.split('-').all(fits) {
        Ok(text)
    } else {
        Err(format!("{} is not a Region, for example us-west-2", Quoted(&text)))
    }
}

/// A role's ARN, with [the characters of IAM][1] in its path and its name.
///
/// [1]: https://docs.aws.amazon.com/IAM/latest/APIReference/API_Role.html
pub(super) fn role(text: String) -> Result<String, String> {
    let is_role = |arn: Arn<'_>| {
        let name = arn.resource.strip_prefix("role/").unwrap_or_default();
        let (path, name) = name.rsplit_once('/').unwrap_or(("", name));
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
        let is_name = (1..=64).contains(&name.len()) && name.bytes().all(fits);
        let is_path = path.bytes().all(|byte| byte.is_ascii_graphic());
        arn.service == "iam" && arn.region.is_empty() && is_aws(arn) && is_path && is_name
    };
    if text.len() <= LONGEST && Arn::parse(&text).is_some_and(is_role) {
        Ok(text)
    } else {
        Err(format!(
            "{} is not a role's ARN, for example arn:aws:iam::123456789012:role/lease",
            Quoted(&text)
        ))
    }
}

/// Whether this is in an account of AWS, in any partition.
fn is_aws(arn: Arn<'_>) -> bool {
    let is_account = arn.account.len() == 12 && arn.account.bytes().all(|digit| digit.is_ascii_digit());
    is_account && arn.partition.starts_with("aws")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_shown_and_be_a_key() {
        let longest = "n".repeat(2048);
        for text in ["mylease", "pod 1", "Zürich/αβγ", "007", &*longest] {
            assert_eq!(name(text.to_owned()).as_deref(), Ok(text));
        }
        for text in ["a\0b", "a\nb", "\u{1b}[2J", "a\u{7f}", "a\u{85}b", "pod-\u{fffd}"] {
            let error = name(text.to_owned()).unwrap_err();
            assert!(
                error.contains("has characters that cannot be shown: set a name without them"),
                "{error}"
            );
            assert!(!error.contains(char::is_control), "{error:?}");
        }
        let error = name("é".repeat(1025)).unwrap_err();
        assert_eq!(error, "it has 2050 bytes: set a name of 2048 at most");
    }

    #[test]
    fn a_table_is_dynamodbs_and_of_the_region() {
        let arn = |region: &str, resource: &str| format!("arn:aws:dynamodb:{region}:123456789012:{resource}");
        let longest = "t".repeat(255);
        for text in [
            "abc",
            "admiral-lease_2.0",
            &longest,
            &*arn("us-west-2", "table/lease"),
            &arn("us-west-2", &format!("table/{longest}")),
        ] {
            assert_eq!(table(text.to_owned(), Some("us-west-2")).as_deref(), Ok(text));
        }
        for text in [
            "ab",
            &"t".repeat(256),
            "admiral lease",
            "admiral-lease\n",
            "a\0bc",
            "table/lease",
            "arn:aws:dynamodb",
            "arn:aws:s3:::bucket",
            "arn:aws:sqs:us-west-2:123456789012:table/lease",
            "arn:aws:dynamodb:us-west-2::table/lease",
            &arn("us-west-2", "lease"),
            &arn("us-west-2", "table/le"),
            &arn("us-west-2", "table/lease/index/owner"),
        ] {
            let error = table(text.to_owned(), Some("us-west-2")).unwrap_err();
            assert!(error.contains("is not a table: set a name of 3 to 255"), "{error}");
        }
        let other = arn("us-east-1", "table/lease");
        let error = table(other.clone(), Some("us-west-2")).unwrap_err();
        assert_eq!(
            error,
            format!(
                "{other:?} is not in the Region us-west-2: set region to the table's Region, or name another table"
            )
        );
        // The Region's own problem is named by its key.
        assert!(table(other, None).is_ok());
    }

    #[test]
    fn a_region_can_be_a_part_of_a_host_name() {
        for text in ["us-west-2", "us-gov-east-1", "eusc-de-east-1", "us-isob-east-1"] {
            assert_eq!(region(text.to_owned()).as_deref(), Ok(text));
        }
        for text in [
            "Oregon",
            "oregon",
            "-",
            "us--1",
            "-us",
            "us-",
            "us-west-2.evil.example",
            "us-west-2\0",
            &format!("us-{}", "a".repeat(61)),
        ] {
            assert!(region(text.to_owned()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_role_is_iams() {
        for text in ["arn:aws:iam::123456789012:role/lease", "arn:aws-cn:iam::123456789012:role/team/lease"] {
            assert_eq!(role(text.to_owned()).as_deref(), Ok(text));
        }
        for text in [
            "lease",
            "arn:aws:iam::123456789012:user/lease",
            "arn:aws:iam::<awsaccountno>:role/lease",
            "arn:aws:iam::123456789012:role/<rolename>",
            "arn:aws:iam::123456789012:role/team/",
            "arn:aws:iam::123456789012:role/${ROLE}",
            "arn:aws:iam::123456789012:role/le*se",
            "arn:aws:iam::123456789012:role/lease\n",
            "arn:aws:iam::123456789012:role/a\0b",
            &format!("arn:aws:iam::123456789012:role/{}", "r".repeat(2048)),
        ] {
            assert!(role(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
