//! The approval of a second person: a request to STS that they have signed, bound to one plan. STS says whose it is.

use std::fmt::{self, Display};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{NaiveDateTime, SecondsFormat, TimeDelta};
use clap::Args;

use super::clock;
use super::context::{Context, SHORTLY};
use super::error::Error;
use super::policy;
use super::screen::{read_line, say};
use super::session::{Session, region};
use super::sts::{self, Signature, VALID};
use super::text::{plain, quoted};
use super::timeline::{Source, Timeline};
use crate::remote::arn::Arn;

/// Between what is approved and where, by whom and when it was asked for.
const ASKED: &str = " | ";
/// How a signature writes its time.
const DATE: &str = "%Y%m%dT%H%M%SZ";

/// Whether a second person has to approve.
#[derive(Debug, Default, Args)]
pub(super) struct Options {
    /// Go on only if a second person approves, by failoverctl approve. Their ARN has to match the pattern, in which * stands
    /// for any text; without one, it has to be of the caller's account.
    #[arg(long, value_name = "ARN_PATTERN", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    require_approval: Option<String>,
    /// The approval that the second person's command has printed; without it, it is asked for.
    #[arg(long, value_name = "TOKEN")]
    approval: Option<String>,
}

/// What is to be approved, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// What is to be done, with what, and why.
    pub what: String,
    /// Of the caller.
    pub account: String,
    /// Whose STS is asked.
    pub region: String,
    /// The caller's ARN.
    pub by: String,
    /// When it was asked for.
    pub at: String,
    /// A random number, in which two plans differ that are alike otherwise.
    nonce: String,
}

/// The approval of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Approval {
    pub plan: Plan,
    pub signature: Signature,
}

/// Whether two ARNs may be of one person: the name of the user, or of the role's session, is the same.
pub(super) fn is_one_person(one: &str, other: &str) -> bool {
    let name = |arn: &str| arn.rsplit(['/', ':']).next().map(str::to_lowercase);
    name(one) == name(other)
}

// === impl Options ===

impl Options {
    pub fn is_required(&self) -> bool {
        self.require_approval.is_some() || self.approval.is_some()
    }

    /// Asks for the approval of this, or takes the one that was given, and lets STS say whose it is. Returns the name of the
    /// second person.
    ///
    /// # Errors
    /// It is not approved: the message says why, and how it is.
    pub async fn get(&self, session: &Session, what: &str, timeline: &mut Timeline) -> Result<String, Error> {
        let context = session.screen.context().await;
        let mut plan = Plan::new(session, context.as_ref(), what)?;
        let approval = if let Some(token) = &self.approval {
            let approval: Approval = token.parse().map_err(|why: String| plan.not_approved(&why))?;
            // It was asked for by a command before this one.
            (plan.at, plan.nonce) = (approval.plan.at.clone(), approval.plan.nonce.clone());
            approval
        } else {
            say(&format!("a second person has to approve this. They run:\n\n  {}\n", plan.command()));
            timeline.add(Source::Person, format!("asked for the approval of: {plan}"));
            let Some(pasted) = read_line("Paste the approval: ")? else {
                return Err(Error::Gate(
                    "there is no terminal to paste the approval on: repeat the command with --approval TOKEN"
                        .to_owned(),
                ));
            };
            pasted.parse().map_err(|why: String| plan.not_approved(&why))?
        };
        let arn = plan.signer(session, approval).await?;
        if is_one_person(&arn, &plan.by) {
            return Err(plan.not_approved(&format!("{} has approved it, who asks for it", plain(&arn))));
        }
        let (is_meant, who) = match self.require_approval.as_deref().unwrap_or_default() {
            "" => (
                Arn::parse(&arn).is_some_and(|arn| arn.account == plan.account),
                format!("who is not of account {}", plan.account),
            ),
            pattern => (policy::matches(pattern, &arn), format!("whom {pattern} does not match")),
        };
        if !is_meant {
            return Err(plan.not_approved(&format!("{} has approved it, {who}", plain(&arn))));
        }
        timeline.now(Source::Person, format!("approved by {}: {plan}", plain(&arn)));
        Ok(plain(Arn::parse(&arn).map_or(arn.as_str(), |arn| arn.resource)))
    }
}

// === impl Plan ===

impl Plan {
    fn new(session: &Session, context: Option<&Context>, what: &str) -> Result<Self, Error> {
        let own = context.and_then(|context| Some((context.account_id()?, context.arn()?)));
        let Some((account, by)) = own else {
            return Err(Error::Gate(
                "no approval can be checked: STS does not say whose credentials these are. Repeat the command when it answers"
                    .to_owned(),
            ));
        };
        Ok(Self {
            what: plain(what),
            account: account.to_owned(),
            region: session.aws.region().map(ToString::to_string).unwrap_or_default(),
            by: by.to_owned(),
            at: clock::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            nonce: format!("{:016x}", fastrand::u64(..)),
        })
    }

    /// The second person's command.
    fn command(&self) -> String {
        format!("failoverctl approve {}", quoted(&self.to_string()))
    }

    fn not_approved(&self, why: &str) -> Error {
        Error::Gate(format!("{why}. It is approved by: {}", self.command()))
    }

    /// Whose approval of this plan it is, as STS says.
    async fn signer(&self, session: &Session, approval: Approval) -> Result<String, Error> {
        let Approval { plan, signature } = approval;
        if plan != *self {
            return Err(
                self.not_approved(&format!("the approval is of another plan: {}", plain(&plan.to_string())))
            );
        }
        let signed = NaiveDateTime::parse_from_str(&signature.date, DATE).map(|at| at.and_utc());
        let age = signed.map_or(TimeDelta::MAX, |at| (clock::now() - at).abs());
        if age.to_std().is_ok_and(|age| age > VALID) {
            let minutes = VALID.as_secs() / 60;
            return Err(self.not_approved(&format!("the approval is not of the last {minutes} minutes")));
        }
        match sts::signer(&session.aws, &self.to_string(), signature, SHORTLY).await {
            Ok(caller) => {
                caller.arn.ok_or_else(|| self.not_approved("STS does not say whose the approval is"))
            }
            Err(failure) => {
                Err(self.not_approved(&format!("STS does not accept the approval: {}", failure.cause())))
            }
        }
    }
}

impl Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, account, region, by, at, nonce } = self;
        write!(f, "{what}{ASKED}{account} {region} {by} {at} {nonce}")
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (what, asked) = text.trim().rsplit_once(ASKED)?;
            let [account, name, by, at, nonce] = asked.split(' ').collect::<Vec<_>>().try_into().ok()?;
            Arn::parse(by)?;
            // It becomes a part of a host's name.
            let region = region(name).ok()?;
            let [account, by, at, nonce] = [account, by, at, nonce].map(str::to_owned);
            (plain(text) == text).then(|| Self { what: what.to_owned(), account, region, by, at, nonce })
        };
        read().ok_or_else(|| "it is not a plan as --require-approval prints it".to_owned())
    }
}

// === impl Approval ===

impl Display for Approval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Signature { key, date, hex, session_token } = &self.signature;
        let plan = URL_SAFE_NO_PAD.encode(self.plan.to_string());
        write!(f, "{plan}:{key}:{date}:{hex}:{session_token}")
    }
}

impl FromStr for Approval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let [plan, key, date, hex, session_token] =
                text.trim().split(':').collect::<Vec<_>>().try_into().ok()?;
            let plan = String::from_utf8(URL_SAFE_NO_PAD.decode(plan).ok()?).ok()?.parse().ok()?;
            let [key, date, hex, session_token] = [key, date, hex, session_token].map(str::to_owned);
            Some(Self { plan, signature: Signature { key, date, hex, session_token } })
        };
        read().ok_or_else(|| "it is not an approval as failoverctl approve prints it".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_and_its_approval_are_read_as_they_are_printed() {
        let plan = "restore 233e --force: a | b, ünd 'c' | 123456789012 us-east-1 \
                    arn:aws:sts::123456789012:assumed-role/Operator/jane 2026-11-28T14:00:00Z 0123456789abcdef";
        let read: Plan = plan.parse().unwrap();
        assert_eq!(
            (read.to_string().as_str(), read.what.as_str()),
            (plan, "restore 233e --force: a | b, ünd 'c'")
        );
        for session_token in ["", "FwoGZXIvYXdzE//+=="] {
            let signature = Signature {
                key: "AKIA".to_owned(),
                date: "20261128T140000Z".to_owned(),
                hex: "ab".to_owned(),
                session_token: session_token.to_owned(),
            };
            let approval = Approval { plan: read.clone(), signature };
            assert_eq!(approval.to_string().parse(), Ok(approval));
        }
        for wrong in [
            plan.replace("us-east-1", "evil.example/"),
            plan.replace("2026-11-28T14:00:00Z ", ""),
            plan.replace("--force", "\u{1b}[2J"),
            String::new(),
        ] {
            assert!(wrong.parse::<Plan>().is_err() && wrong.parse::<Approval>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_name_is_one_person_whatever_the_role() {
        let jane = "arn:aws:sts::123456789012:assumed-role/Operator/jane";
        for same in [
            jane,
            "arn:aws:sts::123456789012:assumed-role/Approver/jane",
            "arn:aws:iam::210987654321:user/people/Jane",
        ] {
            assert!(is_one_person(jane, same), "{same}");
        }
        assert!(!is_one_person(jane, "arn:aws:sts::123456789012:assumed-role/Operator/bob"));
        assert!(is_one_person("arn:aws:iam::123456789012:root", "arn:aws:iam::123456789012:root"));
    }
}
