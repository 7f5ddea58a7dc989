//! Text for people that crosses the wire.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest [`Text`], in bytes.
pub const MAX_TEXT: usize = 160;
const ELLIPSIS: &str = "…";

/// A few words for people, on one line: at most [`MAX_TEXT`] bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text(String);

/// Why a string is no [`Text`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// It is too long.
    #[error("a text has at most {MAX_TEXT} bytes, this one has {0}")]
    TooLong(usize),
    /// It has a control character.
    #[error("a text has no control characters")]
    Control,
}

impl Text {
    /// As much of `text` as there may be, with an ellipsis at its end if that is not all.
    #[must_use]
    pub fn cut(text: &str) -> Self {
        let text = text.replace(char::is_control, " ");
        if text.len() <= MAX_TEXT {
            return Self(text);
        }
        let end = text.floor_char_boundary(MAX_TEXT - ELLIPSIS.len());
        Self(format!("{}{ELLIPSIS}", &text[..end]))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Text {
    type Error = TextError;

    fn try_from(text: String) -> Result<Self, TextError> {
        if text.len() > MAX_TEXT {
            return Err(TextError::TooLong(text.len()));
        }
        // It goes into tables and logs.
        if text.contains(char::is_control) {
            return Err(TextError::Control);
        }
        Ok(Self(text))
    }
}

impl From<Text> for String {
    fn from(text: Text) -> String {
        text.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_shows() {
        let most = "x".repeat(MAX_TEXT);
        assert_eq!(Text::cut(&most).as_str(), most);
        for more in ["y", "ü"] {
            let cut = Text::cut(&more.repeat(MAX_TEXT + 1));
            assert!(cut.as_str().ends_with(&format!("{more}…")), "{cut}");
            assert!((MAX_TEXT - 1..=MAX_TEXT).contains(&cut.as_str().len()));
        }
        assert_eq!(Text::cut("a\u{9b}b\n").as_str(), "a b ");
    }
}
