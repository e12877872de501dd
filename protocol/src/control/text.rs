//! Words for people inside a message: never long, and nothing in them steers a terminal, whoever wrote them.
//!
//! For `#[serde(with = "text")]`, so that no way leads past it in either direction.

use crate::text::is_plain;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// About the longest text, in bytes. Even if JSON escapes each character, a message has room for it.
pub(super) const MAX_TEXT_BYTES: usize = 512;

/// The text with spaces for what steers a terminal or is not seen, and not too long.
pub(super) fn printable(text: &str) -> String {
    let mut clean = String::new();
    for letter in text.chars() {
        if clean.len() >= MAX_TEXT_BYTES {
            clean.push('…');
            break;
        }
        clean.push(if is_plain(letter) { letter } else { ' ' });
    }
    clean
}

/// Writes it, made printable.
pub(super) fn serialize<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    printable(text).serialize(to)
}

/// Reads it, made printable.
pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from).map(|text| printable(&text))
}

/// The same for several of them.
pub(super) mod list {
    use super::printable;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes them, made printable.
    pub(in super::super) fn serialize<S: Serializer>(texts: &[String], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(texts.iter().map(|text| printable(text)))
    }

    /// Reads them, made printable.
    pub(in super::super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<String>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        Ok(texts.iter().map(|text| printable(text)).collect())
    }
}
