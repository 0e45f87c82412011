//! Texts for people: times, ages, lines that fit, and texts from outside.

use super::clock;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// The columns of a narrow terminal.
const WIDTH: usize = 80;

/// Formats a time, for people and scripts.
#[must_use]
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Formats an age in seconds, in its two largest units from an hour on.
#[must_use]
pub(super) fn age(seconds: u64) -> String {
    let and = |large: u64, rest: u64, unit: &str, small: &str| match rest {
        0 => format!("{large} {unit}"),
        rest => format!("{large} {unit} {rest} {small}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => and(seconds / 3600, seconds % 3600 / 60, "h", "min"),
        _ => and(seconds / 86_400, seconds % 86_400 / 3600, "d", "h"),
    }
}

/// Formats a time as its age. A time that is ahead of this machine's clock has an age of 0 s.
#[must_use]
pub(super) fn ago(at: DateTime<Utc>) -> String {
    let since = (clock::now() - at).max(TimeDelta::zero());
    format!("{} ago", age(since.num_seconds().unsigned_abs()))
}

/// Breaks a text into lines that fit the screen behind this indentation, at spaces where there are some.
#[must_use]
pub(super) fn wrapped(text: &str, indent: usize) -> String {
    let (room, margin) = (WIDTH - indent, " ".repeat(indent));
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let word: Vec<char> = word.chars().collect();
        for (part, piece) in word.chunks(room).enumerate() {
            let piece: String = piece.iter().collect();
            match lines.last_mut() {
                Some(line) if part == 0 && line.chars().count() + 1 + piece.chars().count() <= room => {
                    *line += " ";
                    *line += &piece;
                }
                _ => lines.push(piece),
            }
        }
    }
    lines.into_iter().fold(String::new(), |text, line| text + &margin + &line + "\n")
}

/// Cuts a text that is longer than this.
#[must_use]
pub(super) fn cut(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    text.chars().take(longest - 1).chain(['…']).collect()
}

/// Returns a text from outside without characters that a terminal would interpret, or that would show it in another order
/// or not at all.
#[must_use]
pub(super) fn plain(text: &str) -> String {
    let is_hidden = |c: char| matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    text.replace(|c: char| c.is_control() || is_hidden(c), "\u{fffd}")
}

/// Returns a text from outside as a word of a shell's command.
#[must_use]
pub(super) fn quoted(text: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_-.:/@".contains(c);
    if !text.is_empty() && text.chars().all(is_safe) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_at_most_two_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3599, "59 min"),
            (3600, "1 h"),
            (11_520, "3 h 12 min"),
            (86_400, "1 d"),
            (1_036_800 + 5 * 3600, "12 d 5 h"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_foreign_text_is_shown_as_it_is_and_is_one_word_of_a_command() {
        assert_eq!(plain("a\u{9b}2Jb\n\u{202e}c\u{200b}é"), "a\u{fffd}2Jb\u{fffd}\u{fffd}c\u{fffd}é");
        assert_eq!(quoted("/lb-check_1.html"), "/lb-check_1.html");
        assert_eq!(quoted("/a;b`c`'d"), r"'/a;b`c`'\''d'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_text_is_broken_at_spaces_and_a_long_word_where_it_must_be() {
        let long = "x".repeat(100);
        let text = wrapped(&format!("{} {long} end", "word ".repeat(20)), 4);
        assert!(text.lines().all(|line| line.starts_with("    ") && line.chars().count() <= WIDTH), "{text}");
        let words = |text: &str| text.split_whitespace().collect::<String>();
        assert_eq!(words(&text), format!("{}{long}end", "word".repeat(20)));
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
    }
}
