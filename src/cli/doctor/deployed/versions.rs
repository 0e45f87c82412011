//! Which versions the functions run by their alias `live`, after an update and after a rollback.

use crate::cli::function::{self, Function, Versions};
use crate::cli::screen::Mood;
use crate::cli::session::patience;
use crate::cli::stack::Stack;

const NAME: &str = "versions";

impl Stack<'_> {
    /// Finds the functions that do not run their newest version, and those that were changed since that was published. The first one
    /// is `lock`: where it is invoked by its alias, so are the others.
    pub(super) async fn versions(&mut self, functions: &[Function]) {
        let by_alias = functions.first().is_some_and(Function::is_live);
        let (mut behind, mut changed, mut newest) = (Vec::new(), Vec::new(), Vec::new());
        for function in functions {
            let name = &function.name;
            if by_alias && !function.is_live() {
                let said = format!("{name} has no alias live, by which it is invoked");
                self.findings.wrong(NAME, said, self.anew());
                continue;
            }
            match function::other_versions(&self.aws, name, patience()).await {
                Ok(others) if others.is_empty() => {}
                Ok(others) => {
                    let said = format!("the alias live of {name} also runs version {}", others.join(", "));
                    let region = self.region;
                    let command = format!(
                        "aws lambda update-alias --region {region} --function-name {name} --name live --routing-config \
                         AdditionalVersionWeights={{}}"
                    );
                    self.findings.fixable(NAME, said, command);
                }
                Err(failure) => self.findings.unknown(NAME, &failure),
            }
            let found = function::versions(&self.aws, name, patience()).await;
            let Versions { newest: Some(number), has_changed } = (match found {
                Ok(versions) => versions,
                Err(failure) => return self.findings.unknown(NAME, &failure),
            }) else {
                continue;
            };
            if !function.is_live() {
                behind.push(format!(
                    "{name} is invoked without its alias live, and {number} is its newest version"
                ));
            } else if function.version != number.to_string() {
                behind.push(format!("{name} runs version {}, and {number} is the newest", function.version));
            } else if has_changed {
                changed.push(name.as_str());
            } else {
                newest.push(format!("{name} runs version {number}"));
            }
        }
        let forward = || Some(format!("to go forward: infra/deploy --stack {}", self.name));
        if !behind.is_empty() {
            let found = format!("rolled back, or changed by hand: {}", behind.join("; "));
            self.findings.add(NAME, Mood::Warn, found, forward());
        }
        if !changed.is_empty() {
            let found = format!(
                "changed since the newest version was published, which does not run: {}",
                changed.join(" ")
            );
            self.findings.add(
                NAME,
                Mood::Warn,
                found,
                Some(format!("infra/deploy --stack {}, with the parameters that are to run", self.name)),
            );
        }
        if behind.is_empty() && changed.is_empty() && !newest.is_empty() {
            self.findings.ok(NAME, format!("{}, the newest", newest.join(", ")));
        }
    }
}
