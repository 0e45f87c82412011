//! What the functions of an account run: each with its artifact, and whether that is the newest one that is deployed there.

use aws_config::SdkConfig;
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use serde::Serialize;

use crate::cli::error::{Ended, Error};
use crate::cli::function::{self, Listed};
use crate::cli::screen::{Mood, Row, table};
use crate::cli::session::{Session, patience};
use crate::cli::text::{ago, plain, wrapped};
use crate::remote::aws::Failure;

/// A function that runs an artifact of this project.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Runs {
    function: String,
    /// The program in it, for example `failover-lock`.
    program: String,
    /// For example `0.1.0`; `None` if the artifact's name has none.
    version: Option<String>,
    commit: Option<String>,
    artifact: String,
    /// The number of the version that its alias `live` has; `None` without an alias.
    live: Option<String>,
    deployed: Option<DateTime<Utc>>,
    /// Whether none of the functions with this program has a newer one; `None` if one of them has no version in its name.
    newest: Option<bool>,
}

/// The programs that are functions.
const PROGRAMS: [&str; 3] = ["failover-lock", "failover-latch", "site-fence"];
/// The indentation of the lines below a row.
const BELOW: usize = 4;

pub(super) async fn run(session: &Session) -> Result<Ended, Error> {
    let aws = &session.aws;
    let listed = function::list(aws, patience()).await?;
    let listed: Vec<_> = listed.into_iter().filter(|one| program(&one.artifact).is_some()).collect();
    let live = join_all(listed.iter().map(|one| live(aws, one))).await;
    let mut all = Vec::new();
    for (listed, live) in listed.iter().zip(live) {
        all.extend(Runs::new(listed, live?));
    }
    // What an alias does not run, after a rollback, is deployed as well.
    let deployed: Vec<_> =
        listed.iter().filter_map(|one| Runs::new(one, None)).chain(all.iter().cloned()).collect();
    for one in &mut all {
        one.newest = one.is_newest(&deployed);
    }
    all.sort_by(|one, other| one.function.cmp(&other.function));
    session.screen.show_in_context("functions", &all, || text(&all)).await?;
    let is_well = !all.is_empty() && all.iter().all(|one| one.newest != Some(false));
    Ok(if is_well { Ended::Well } else { Ended::NotWell })
}

/// What its alias `live` runs, if it has that.
async fn live(aws: &SdkConfig, function: &Listed) -> Result<Option<Listed>, Failure> {
    function::listed(aws, &format!("{}:{}", function.name, function::LIVE), patience()).await
}

/// The program of an artifact with this name, and what follows it.
fn program(artifact: &str) -> Option<(&'static str, &str)> {
    PROGRAMS
        .into_iter()
        .find_map(|program| Some((program, artifact.strip_prefix(program)?.strip_prefix('-')?)))
}

fn text(all: &[Runs]) -> String {
    if all.is_empty() {
        return wrapped(
            "There is no function of failover-lock, failover-latch or site-fence in this Region. Another one: --region",
            0,
        );
    }
    let rows: Vec<_> = all.iter().map(Runs::row).collect();
    table(["FUNCTION", "RUNS", "COMMIT", "NEWEST"], &rows)
}

// === impl Runs ===

impl Runs {
    fn new(listed: &Listed, live: Option<Listed>) -> Option<Self> {
        let number = live.as_ref().map(|live| live.version.clone());
        let Listed { name, artifact, deployed, .. } = live.unwrap_or_else(|| listed.clone());
        let (program, rest) = program(&artifact)?;
        let mut parts = rest.split('-');
        let version = parts.next().filter(|version| version.starts_with(|c: char| c.is_ascii_digit()));
        let commit = version.and_then(|_| parts.next());
        Some(Self {
            function: name,
            program: program.to_owned(),
            version: version.map(str::to_owned),
            commit: commit.map(str::to_owned),
            artifact: artifact.clone(),
            live: number,
            deployed,
            newest: None,
        })
    }

    /// The numbers of its version.
    fn numbers(&self) -> Option<Vec<u64>> {
        self.version.as_ref()?.split('.').map(|part| part.parse().ok()).collect()
    }

    /// Whether none of these with the same program has a newer artifact: one with a higher version, or another one of the same
    /// version that was deployed later.
    fn is_newest(&self, all: &[Self]) -> Option<bool> {
        let own = self.numbers()?;
        let mut same = all.iter().filter(|other| other.program == self.program);
        same.try_fold(true, |newest, other| {
            let theirs = other.numbers()?;
            let is_newer = theirs > own
                || theirs == own && other.commit != self.commit && other.deployed > self.deployed;
            Some(newest && !is_newer)
        })
    }

    fn row(&self) -> Row<4> {
        let or_unknown = |text: &Option<String>| text.as_deref().map_or_else(|| "unknown".to_owned(), plain);
        let (newest, mood) = match self.newest {
            Some(true) => ("yes", Mood::Ok),
            Some(false) => ("no", Mood::Warn),
            None => ("unknown", Mood::Unknown),
        };
        let mut below = String::new();
        if let Some(number) = &self.live {
            below += &wrapped(&format!("version {number}, by its alias live"), BELOW);
        }
        if let Some(deployed) = self.deployed {
            below += &wrapped(&format!("deployed {}", ago(deployed)), BELOW);
        }
        let cells =
            [plain(&self.function), or_unknown(&self.version), or_unknown(&self.commit), newest.to_owned()];
        Row { cells, mood, below }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployed(function: &str, artifact: &str, at: &str) -> Runs {
        let deployed = Some(at.parse().expect("a time"));
        let listed = Listed {
            name: function.to_owned(),
            version: "$LATEST".to_owned(),
            artifact: artifact.to_owned(),
            deployed,
        };
        Runs::new(&listed, None).expect("it is ours")
    }

    #[test]
    fn the_newest_has_the_highest_version_and_of_one_version_the_latest_deployment() {
        let of = |artifacts: [&str; 3]| {
            let [one, two, three] = artifacts;
            let all = [
                deployed("one", one, "2026-01-01T00:00:00Z"),
                deployed("two", two, "2026-01-02T00:00:00Z"),
                deployed("three", three, "2026-01-03T00:00:00Z"),
            ];
            [all[0].is_newest(&all), all[1].is_newest(&all), all[2].is_newest(&all)]
        };
        let (yes, no) = (Some(true), Some(false));
        let [old, new] = ["failover-lock-0.9.0-a-arm64-0.zip", "failover-lock-0.10.0-b-arm64-0.zip"];
        assert_eq!(of([new, old, "site-fence-0.1.0-a-arm64-0.zip"]), [yes, no, yes]);
        assert_eq!(of([new, new, new]), [yes; 3]);
        let later = "failover-lock-0.10.0-c-x86_64-0.zip";
        assert_eq!(of([new, later, old]), [no, yes, no]);
        assert_eq!(of([old, "failover-lock-arm64-0.zip", new]), [None; 3]);
    }
}
