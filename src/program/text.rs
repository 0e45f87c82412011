//! Foreign texts in messages.

use std::fmt;

/// A foreign text in a message: quoted, escaped and cut to a length that fits a log line.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 100;
        match self.0.char_indices().nth(SHOWN) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}… ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}

/// A text with the characters that a tag's value does not take replaced: AWS takes `[\p{L}\p{Z}\p{N}_.:/=+\-@]`. What only follows
/// a letter, such as a vowel sign, is alphabetic and no letter.
pub fn fitting_a_tag(text: &str) -> impl Iterator<Item = char> + '_ {
    let fits = |c: char| {
        c.is_numeric() || c.is_alphabetic() && unicode_ident::is_xid_start(c) || " _.:/=+-@".contains(c)
    };
    text.chars().map(move |c| if fits(c) { c } else { '_' })
}

/// A JSON parser's message, cut to a length that fits a log line: it may quote the whole text.
#[must_use]
pub fn brief(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(300) {
        None => text,
        Some((end, _)) => format!("{}… at line {} column {}", &text[..end], error.line(), error.column()),
    }
}

/// The same for a text that may hold a secret: a value that is not of the expected type is not quoted.
#[must_use]
pub fn without_value(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let kind = ["invalid type", "invalid value"].into_iter().find(|kind| text.starts_with(kind));
    // What the value holds comes before the last one.
    match (kind, text.rsplit_once(", expected ")) {
        (Some(kind), Some((_, expected))) => format!("{kind}, expected {expected}"),
        (Some(kind), None) => format!("{kind} at line {} column {}", error.line(), error.column()),
        (None, _) => brief(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_type_is_not_quoted_and_a_field_is_named() {
        let of = |text| without_value(&serde_json::from_str::<Vec<bool>>(text).unwrap_err());
        assert_eq!(of(r#"["secret, expected x"]"#), "invalid type, expected a boolean at line 1 column 21");
        assert_eq!(of(r#""secret""#), "invalid type, expected a sequence at line 1 column 8");
        assert_eq!(of("[true"), "EOF while parsing a list at line 1 column 5");
    }

    #[test]
    fn a_foreign_text_is_shown_escaped_and_cut() {
        assert_eq!(Quoted("a\nb").to_string(), r#""a\nb""#);
        assert_eq!(Quoted(&"é".repeat(300)).to_string(), format!("\"{}\"… (600 bytes)", "é".repeat(100)));
    }
}
