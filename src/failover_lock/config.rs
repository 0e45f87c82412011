//! The variables that configure a function, read once and checked together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::health_check::{HealthCheck, HealthCheckId, InvalidId, ResourcePath};
use crate::program::text::Quoted;
use crate::program::variables::{InvalidConfig, Lookup, Problems, boolean};
use crate::remote::arn::Arn;

/// A function's configuration, from its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `HEALTHY_PATH`: the path that a restore sets where the path from before the lock is not on record.
    pub healthy_path: ResourcePath,
    /// `LOCKED_PATH`: the path that never answers 2xx or 3xx.
    pub locked_path: ResourcePath,
    /// `GUARDED_HEALTH_CHECKS`: the only checks to touch; `None` for every check that an alarm names.
    pub guarded: Option<BTreeSet<HealthCheckId>>,
    /// `SECONDARY_HEALTH_CHECKS`: the check of the site that takes over, by the primary's.
    pub secondaries: BTreeMap<HealthCheckId, HealthCheckId>,
    /// `ALARM_ACTIONS`: the actions through which an alarm reaches `lock`, as ARNs; `None` for any, and for
    /// alarms that reach it through EventBridge.
    pub alarm_actions: Option<BTreeSet<String>>,
    /// `GUARDED_TAG`: a tag, as `key` or `key=value`, of the only checks to touch; read from each check.
    pub guarded_tag: Option<GuardedTag>,
    /// `RELOCK_UNDONE`: whether to set a lock again that was undone without a restore.
    pub relock_undone: bool,
    /// `DRY_RUN`: whether to decide and log only, and change nothing.
    pub dry_run: bool,
}

/// The tag that makes a check guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedTag {
    key: String,
    /// `None` for any value.
    value: Option<String>,
}

// === impl GuardedTag ===

impl GuardedTag {
    /// Whether a check with these tags is guarded.
    #[must_use]
    pub fn is_among(&self, tags: &BTreeMap<String, String>) -> bool {
        let found = tags.get(&self.key);
        found.is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found))
    }
}

/// Writes it as the variable has it.
impl fmt::Display for GuardedTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        self.value.iter().try_for_each(|value| write!(f, "={value}"))
    }
}

impl FromStr for GuardedTag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value)));
        if key.is_empty() {
            return Err(format!("{} is not a tag: set key or key=value", Quoted(text)));
        }
        Ok(Self { key: key.to_owned(), value: value.map(str::to_owned) })
    }
}

// === impl Config ===

impl Config {
    /// Reads and checks every variable.
    ///
    /// # Errors
    /// Names each variable that is invalid. A variable that is set but empty is also invalid: if a variable that is
    /// left out means "every health check", an empty one is probably a mistake.
    pub fn read(lookup: Lookup<'_>) -> Result<Self, InvalidConfig> {
        let mut problems = Problems::default();
        let text = |name: &str, default: &str| lookup(name).unwrap_or_else(|| default.to_owned());

        let healthy_path = problems.take("HEALTHY_PATH", text("HEALTHY_PATH", "/lb-check").try_into());
        let locked_path =
            problems.take("LOCKED_PATH", text("LOCKED_PATH", "/lb-check-failed-over").try_into());
        let guarded = problems
            .take("GUARDED_HEALTH_CHECKS", lookup("GUARDED_HEALTH_CHECKS").as_deref().map(ids).transpose());
        let secondaries = problems.take(
            "SECONDARY_HEALTH_CHECKS",
            lookup("SECONDARY_HEALTH_CHECKS").as_deref().map(pairs).transpose(),
        );
        let alarm_actions =
            problems.take("ALARM_ACTIONS", lookup("ALARM_ACTIONS").as_deref().map(arns).transpose());
        let guarded_tag = problems
            .take("GUARDED_TAG", lookup("GUARDED_TAG").map(|tag| tag.parse::<GuardedTag>()).transpose());
        let relock_undone = problems.take("RELOCK_UNDONE", boolean(&text("RELOCK_UNDONE", "false")));
        let dry_run = problems.take("DRY_RUN", boolean(&text("DRY_RUN", "false")));

        let config = || {
            Some(Self {
                healthy_path: healthy_path?,
                locked_path: locked_path?,
                guarded: guarded?,
                secondaries: secondaries?.unwrap_or_default(),
                alarm_actions: alarm_actions?,
                guarded_tag: guarded_tag?,
                relock_undone: relock_undone?,
                dry_run: dry_run?,
            })
        };
        let Some(config) = config() else {
            return problems.unless_any(None);
        };
        if config.healthy_path == config.locked_path {
            problems.add("LOCKED_PATH", "it equals HEALTHY_PATH, so that a lock would have no effect");
        }
        if let Some(guarded) = &config.guarded
            && let Some(stray) = config.secondaries.keys().find(|primary| !guarded.contains(primary))
        {
            problems.add("SECONDARY_HEALTH_CHECKS", format!("{stray} is not in GUARDED_HEALTH_CHECKS"));
        }
        if config.guarded.is_some() && config.guarded_tag.is_some() {
            problems.add("GUARDED_TAG", "GUARDED_HEALTH_CHECKS is set as well: set one of them");
        }
        problems.unless_any(Some(config))
    }

    /// Whether `id` is guarded by its name, so that a lock in doubt is a lock on one of our own checks.
    #[must_use]
    pub fn names(&self, id: &HealthCheckId) -> bool {
        self.guarded.as_ref().is_some_and(|guarded| guarded.contains(id))
    }

    /// Whether a check is on the locked path.
    #[must_use]
    pub fn is_locked(&self, check: &HealthCheck) -> bool {
        check.path() == Some(self.locked_path.as_str())
    }

    /// Whether a check with these tags is guarded, as far as `GUARDED_TAG` says.
    #[must_use]
    pub fn guards_tagged(&self, tags: &BTreeMap<String, String>) -> bool {
        self.guarded_tag.as_ref().is_none_or(|tag| tag.is_among(tags))
    }

    /// The guarded check, if there is exactly one.
    #[must_use]
    pub fn only(&self) -> Option<&HealthCheckId> {
        self.guarded.as_ref().filter(|guarded| guarded.len() == 1)?.first()
    }

    /// Whether this function may touch `id`, judged by its name. Without a list, that is every check except those that
    /// are named as a secondary: traffic fails over to a secondary.
    #[must_use]
    pub fn guards(&self, id: &HealthCheckId) -> bool {
        let is_secondary = || self.secondaries.values().any(|secondary| secondary == id);
        match &self.guarded {
            Some(guarded) => guarded.contains(id),
            None => self.secondaries.contains_key(id) || !is_secondary(),
        }
    }
}

/// Writes the configuration as variables.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guarded = self.guarded.iter().flatten().map(HealthCheckId::to_string);
        let pairs = self.secondaries.iter().map(|(primary, secondary)| format!("{primary}={secondary}"));
        let list = |items: Vec<String>| if items.is_empty() { "(unset)".to_owned() } else { items.join(",") };
        write!(f, "HEALTHY_PATH={} LOCKED_PATH={}", self.healthy_path, self.locked_path)?;
        write!(f, " GUARDED_HEALTH_CHECKS={}", list(guarded.collect()))?;
        write!(f, " SECONDARY_HEALTH_CHECKS={}", list(pairs.collect()))?;
        let actions = self.alarm_actions.iter().flatten().cloned();
        write!(f, " ALARM_ACTIONS={}", list(actions.collect()))?;
        if let Some(tag) = &self.guarded_tag {
            write!(f, " GUARDED_TAG={tag}")?;
        }
        if self.relock_undone {
            f.write_str(" RELOCK_UNDONE=true")?;
        }
        write!(f, " DRY_RUN={}", self.dry_run)
    }
}

fn ids(text: &str) -> Result<BTreeSet<HealthCheckId>, InvalidId> {
    text.split(',').map(id).collect()
}

fn arns(text: &str) -> Result<BTreeSet<String>, String> {
    let arn = |text: &str| match text.trim() {
        arn if Arn::parse(arn).is_some() => Ok(arn.to_owned()),
        other => Err(format!("{} is not an ARN", Quoted(other))),
    };
    text.split(',').map(arn).collect()
}

fn pairs(text: &str) -> Result<BTreeMap<HealthCheckId, HealthCheckId>, String> {
    let mut pairs = BTreeMap::new();
    for pair in text.split(',') {
        let (primary, secondary) =
            pair.split_once('=').ok_or_else(|| format!("{} is not primary=secondary", Quoted(pair)))?;
        let (primary, secondary) =
            (id(primary).map_err(|e| e.to_string())?, id(secondary).map_err(|e| e.to_string())?);
        if primary == secondary {
            return Err(format!("{primary} is named as its own secondary"));
        }
        if pairs.insert(primary.clone(), secondary).is_some() {
            return Err(format!("{primary} has two secondaries"));
        }
    }
    Ok(pairs)
}

fn id(text: &str) -> Result<HealthCheckId, InvalidId> {
    text.trim().to_owned().try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, String> {
        let lookup =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::read(&lookup).map_err(|error| error.to_string())
    }

    #[test]
    fn without_variables_the_configuration_is_the_documented_one() {
        let config = read(&[]).unwrap();
        assert_eq!(config.healthy_path.as_str(), "/lb-check");
        assert_eq!(config.locked_path.as_str(), "/lb-check-failed-over");
        assert_eq!((config.guarded, config.secondaries, config.dry_run), (None, BTreeMap::new(), false));
    }

    #[test]
    fn lists_and_pairs_may_contain_spaces() {
        let config = read(&[
            ("GUARDED_HEALTH_CHECKS", "a-1, b-2"),
            ("SECONDARY_HEALTH_CHECKS", "a-1=c-3 , b-2 = d-4"),
        ])
        .unwrap();
        assert!(config.guards(&id("b-2").unwrap()));
        assert!(!config.guards(&id("c-3").unwrap()));
        assert_eq!(config.secondaries[&id("b-2").unwrap()], id("d-4").unwrap());
    }

    #[test]
    fn an_invalid_variable_stops_the_start_and_is_named() {
        for (name, value, said) in [
            ("HEALTHY_PATH", "lb-check", "does not start with /"),
            ("HEALTHY_PATH", "", "does not start with /"),
            ("LOCKED_PATH", "/lb-check", "equals HEALTHY_PATH"),
            ("LOCKED_PATH", "/a b", "' '"),
            ("GUARDED_HEALTH_CHECKS", "", "not a health check id"),
            ("GUARDED_HEALTH_CHECKS", "a,,b", "not a health check id"),
            ("GUARDED_HEALTH_CHECKS", "../x", r#""../x""#),
            ("SECONDARY_HEALTH_CHECKS", "a", "not primary=secondary"),
            ("SECONDARY_HEALTH_CHECKS", "a=a", "its own secondary"),
            ("SECONDARY_HEALTH_CHECKS", "a=b,a=c", "two secondaries"),
            ("ALARM_ACTIONS", "alarms", "\"alarms\" is not an ARN"),
            ("ALARM_ACTIONS", "", "\"\" is not an ARN"),
            ("DRY_RUN", "", "neither true nor false"),
            ("DRY_RUN", "yes please", "neither true nor false"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(name) && error.contains(said), "{name}={value:?}: {error}");
        }
        let error = read(&[("LOCKED_PATH", &format!("/{}", "x".repeat(255)))]).unwrap_err();
        assert!(error.contains("LOCKED_PATH: it has 256 characters"), "{error}");
        let error = read(&[("GUARDED_HEALTH_CHECKS", "a"), ("SECONDARY_HEALTH_CHECKS", "b=c")]).unwrap_err();
        assert!(error.contains("b is not in GUARDED_HEALTH_CHECKS"), "{error}");
    }

    #[test]
    fn a_secondary_is_locked_only_if_it_is_listed() {
        let config = read(&[("SECONDARY_HEALTH_CHECKS", "a=b,c=d,d=c")]).unwrap();
        let guards = |text: &str| config.guards(&id(text).unwrap());
        assert_eq!(["a", "b", "c", "d", "e"].map(guards), [true, false, true, true, true]);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let error = read(&[("HEALTHY_PATH", "x"), ("DRY_RUN", "maybe")]).unwrap_err();
        assert!(error.contains("HEALTHY_PATH") && error.contains("DRY_RUN"), "{error}");
    }
}
