//! What may be shown of words that somebody else wrote.
//!
//! Terminals do more than show letters: they obey control characters, turn the direction of reading (U+202E makes `fdp.exe` of
//! `exe.pdf`), and show nothing at all for others. Which those are changes with each version of Unicode, so what is
//! known to be harmless is named here, and not what does harm.
//!
//! What is done about the rest is up to who shows it.

/// Letters, as Unicode counts them, that show nothing.
const INVISIBLE: [char; 4] = ['\u{115f}', '\u{1160}', '\u{3164}', '\u{ffa0}'];

/// Whether `letter` shows itself and does nothing else: a letter or a digit of any script, a space, a mark of ASCII, or the
/// one that says that something was cut.
#[must_use]
pub fn is_plain(letter: char) -> bool {
    let is_letter = letter.is_alphanumeric() && !INVISIBLE.contains(&letter);
    is_letter || letter.is_ascii_graphic() || matches!(letter, ' ' | '…')
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn words_of_any_language_are_plain() {
        for text in [
            "cannot read \"a\\b.raw\": EIO (os error 5)",
            "größer",
            "диск",
            "磁盘",
            "דיסק",
            "ディスク…",
        ] {
            assert!(text.chars().all(is_plain), "{text}");
        }
    }

    #[test]
    fn what_steers_a_terminal_or_is_not_seen_is_not() {
        let controls = ('\0'..' ').chain('\u{7f}'..='\u{9f}');
        let lines = ['\u{2028}', '\u{2029}'];
        let directions = ['\u{61c}', '\u{200e}', '\u{200f}'].into_iter();
        let directions = directions.chain('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}');
        let joiners = ('\u{200b}'..='\u{200d}').chain(['\u{ad}', '\u{34f}', '\u{2060}', '\u{feff}', '\u{180e}']);
        let others = ('\u{fe00}'..='\u{fe0f}')
            .chain('\u{e0000}'..='\u{e01ef}')
            .chain('\u{fff9}'..='\u{fffd}');
        let blanks = [
            '\u{a0}', '\u{115f}', '\u{1160}', '\u{3000}', '\u{3164}', '\u{ffa0}', '\u{2800}',
        ];
        let private = ['\u{e000}', '\u{f8ff}', '\u{10ffff}'];
        let all = controls.chain(lines).chain(directions).chain(joiners).chain(others);
        for letter in all.chain(blanks).chain(private) {
            assert!(!is_plain(letter), "{letter:?}");
        }
    }
}
