//! The stand-ins of the tests, as far as the sandbox needs them.
#![allow(dead_code, unused_imports, reason = "the tests use the whole of them")]

#[path = "../tests/support/aws.rs"]
pub mod aws;
#[path = "../tests/support/cloudwatch.rs"]
pub mod cloudwatch;
#[path = "../tests/support/miniature/mod.rs"]
pub mod miniature;
#[path = "../tests/support/mute_rules.rs"]
pub mod mute_rules;
#[path = "../tests/support/primary.rs"]
pub mod primary;
#[path = "../tests/support/query.rs"]
pub mod query;
#[path = "../tests/support/rest_xml.rs"]
pub mod rest_xml;
#[path = "../tests/support/route53.rs"]
pub mod route53;
#[path = "../tests/support/s3/mod.rs"]
pub mod s3;
#[path = "../tests/support/script.rs"]
pub mod script;
#[path = "../tests/support/signature.rs"]
pub mod signature;
#[path = "../tests/support/site.rs"]
pub mod site;
#[path = "../tests/support/tls.rs"]
pub mod tls;
