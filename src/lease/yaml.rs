//! Single values of a YAML file, each read on its own, so that every invalid one is named by its key.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_saphyr::{NonFiniteFloatPolicy, with_deserializer_from_str_with_options};

/// Returns the value below these keys; `None` if it is absent or null.
///
/// # Errors
/// The file is not YAML, a key is given twice, or a value is of another type. The message names the place.
pub(super) fn value<T: de::DeserializeOwned>(yaml: &str, path: &[&str]) -> Result<Option<T>, String> {
    // A section that is not ours may hold what JSON has no number for.
    let options = serde_saphyr::options! { non_finite_float_policy: NonFiniteFloatPolicy::AsString };
    let value = with_deserializer_from_str_with_options(yaml, options, |file| {
        Below::<T>(path, PhantomData).deserialize(file)
    });
    // The parser's message shows the surrounding lines, which do not fit a log line.
    value.map_err(|error| error.without_snippet().to_string())
}

/// Returns the keys of the section below these keys; `None` if it is absent or null.
///
/// # Errors
/// The same as those of [`value`].
#[expect(clippy::zero_sized_map_values, reason = "a section is a map, and a set would be read from a list")]
pub(super) fn keys(yaml: &str, path: &[&str]) -> Result<Option<Vec<String>>, String> {
    let section = value::<BTreeMap<String, IgnoredAny>>(yaml, path)?;
    Ok(section.map(|section| section.into_keys().collect()))
}

/// The value below these keys. All others are skipped.
struct Below<'a, T>(&'a [&'a str], PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Below<'_, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() { Option::deserialize(value) } else { value.deserialize_map(self) }
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Below<'_, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut section: M) -> Result<Self::Value, M::Error> {
        let mut found = None;
        while let Some(key) = section.next_key::<String>()? {
            match self.0.split_first() {
                Some((wanted, below)) if key == *wanted => {
                    found = section.next_value_seed(Below(below, PhantomData))?;
                }
                _ => drop(section.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}
