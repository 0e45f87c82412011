//! A tag's value: fields of the form `key=value`, and a free text.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{Before, CLOCK_SKEW, CUT, InvalidRecord, LAPSES, LONGEST, Lock, Restore, TOO_LONG, WAITS};
use crate::program::text::fitting_a_tag;

/// A tag's value: fields of the form `key=value`, the free text `by=` last.
pub(super) struct Fields<'a> {
    pub key: &'static str,
    pub text: &'a str,
    pub now: DateTime<Utc>,
}

impl<'a> Fields<'a> {
    pub fn lock(&self) -> Result<Lock, InvalidRecord> {
        let version = self.number("v")?;
        Ok(Lock {
            version: Some(version).filter(|version| *version > WAITS),
            found: self.field("found").is_some(),
            undone: self.field("undone").is_some(),
            on: self.field("on").map(|_| self.number("on")).transpose()?,
            at: self.time(self.field("at").ok_or_else(|| self.invalid())?)?,
            alarm: self.field("alarm").map(|text| self.time(text)).transpose()?,
            of: self.field("of").map(unescaped),
            before: match self.field("before") {
                None => Before::Unknown,
                Some(TOO_LONG) => Before::TooLong,
                Some(path) => Before::Path(unescaped(path)),
            },
            by: self.reason(),
        })
    }

    pub fn restore(&self) -> Result<Restore, InvalidRecord> {
        let seen = self.time(self.field("seen").ok_or_else(|| self.invalid())?)?;
        let done = self.field("done").map(|text| self.time(text)).transpose()?;
        let over = self.field("over").map(|_| self.number("over")).transpose()?;
        let alarm = self.field("alarm").map(|text| self.time(text)).transpose()?;
        Ok(Restore {
            version: self.number("v")?,
            seen,
            done,
            to: self.field("to").map(unescaped).unwrap_or_default(),
            over: over.map(|version| (version, alarm)),
            by: self.reason(),
            lapsed: done.is_none() && self.now - seen > LAPSES,
        })
    }

    fn field(&self, name: &str) -> Option<&'a str> {
        let fields = self.text.split_once(" by=").map_or(self.text, |(fields, _)| fields);
        fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    }

    fn reason(&self) -> String {
        self.text.split_once(" by=").map_or("", |(_, reason)| reason).to_owned()
    }

    fn number(&self, name: &str) -> Result<i64, InvalidRecord> {
        self.field(name).and_then(|text| text.parse().ok()).ok_or_else(|| self.invalid())
    }

    pub fn time(&self, text: &str) -> Result<DateTime<Utc>, InvalidRecord> {
        match text.parse::<DateTime<Utc>>() {
            // A future time would outrank every alarm until then, so this system cannot have written it.
            Ok(time) if time <= self.now + CLOCK_SKEW => Ok(time),
            Ok(_) => Err(InvalidRecord { is_future: true, ..self.invalid() }),
            Err(_) => Err(self.invalid()),
        }
    }

    fn invalid(&self) -> InvalidRecord {
        InvalidRecord { key: self.key, text: self.text.to_owned(), is_future: false }
    }
}

pub(super) fn seconds(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

pub(super) fn milliseconds(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Appends the free text, cut to what fits and without the characters that a tag does not take.
pub(super) fn with_reason(mut text: String, reason: &str) -> String {
    let room = LONGEST.saturating_sub(text.chars().count() + " by=".len());
    let reason: String = fitting_a_tag(reason).take(room).collect();
    let _ = write!(text, " by={reason}");
    text.trim_end().to_owned()
}

/// A path in the characters that a tag takes: others become `+` and their code in hexadecimal.
pub(super) fn escaped(path: &str) -> String {
    let mut text = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.:/=-@".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "+{byte:02X}");
        }
    }
    text
}

/// The same, cut to so many characters.
pub(super) fn escaped_within(path: &str, room: usize) -> String {
    let whole = escaped(path);
    if whole.len() <= room {
        return whole;
    }
    let cut = escaped(&CUT.to_string());
    let mut text = String::new();
    for character in path.trim_end_matches(CUT).chars() {
        let next = escaped(&character.to_string());
        if text.len() + next.len() + cut.len() > room {
            break;
        }
        text += &next;
    }
    text + &cut
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|code| str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if *first == b'+' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
