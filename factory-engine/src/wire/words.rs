//! Other people's words: text of a peer's is cut and escaped where it is read, so that whoever logs, stores
//! or shows it later has nothing to think of (S28).

use std::fmt;
use std::ops::Deref;

use super::codec::{Codec, DecodeError, Reader};

/// Text for people that comes from a peer, or goes to one: at most [`Words::MOST`] characters, none of which
/// acts on a terminal, a log or a page instead of being seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words(String);

impl Words {
    /// The most characters that there can be, escapes and the mark of a cut included.
    pub const MOST: usize = 250;

    /// Cuts and escapes a text.
    pub fn new(text: &str) -> Self {
        Self(escaped(text.as_bytes(), Self::MOST))
    }
}

/// Stands where something was cut off.
const CUT: char = '…';

/// Bytes that should be text, for people: at most `most` characters.
pub fn escaped(bytes: &[u8], most: usize) -> String {
    let mut text = String::new();
    let mut left = most;
    for chunk in bytes.utf8_chunks() {
        let seen = chunk.valid().chars().map(|c| match is_seen(c) {
            true => c.to_string(),
            false => c.escape_unicode().to_string(),
        });
        let unreadable = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}"));
        for piece in seen.chain(unreadable) {
            let length = piece.chars().count();
            // Room is kept for the mark.
            if length >= left {
                text.push(CUT);
                return text;
            }
            left = left.saturating_sub(length);
            text.push_str(&piece);
        }
    }
    text
}

/// Whether a character is seen as itself: not a control, none that turns the direction of text or has no
/// width, no separator of lines, and none whose look depends on the program.
fn is_seen(c: char) -> bool {
    let hidden = matches!(c,
        // Soft hyphen, combining grapheme joiner, Arabic letter mark, Hangul fillers.
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}'
        // Khmer inherent vowels, Mongolian selectors.
        | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        // Zero width and direction marks, separators of lines, embeddings and overrides, isolates.
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        // Variation selectors, byte order mark, interlinear annotations, private use, tags.
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
        | '\u{e000}'..='\u{f8ff}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}');
    !c.is_control() && !hidden
}

impl Deref for Words {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Words {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// A u16 length and bytes that should be UTF-8. Whatever was written is taken: a message must not be lost for
/// its words.
impl Codec for Words {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = u16::read(r)?;
        Ok(Self(escaped(r.take(length.into())?, Self::MOST)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Words {
        let length = u16::try_from(bytes.len()).unwrap();
        Words::decoded(&[&length.to_be_bytes(), bytes].concat()).unwrap()
    }

    // S28
    #[test]
    fn what_is_meant_for_people_stays_as_it_is() {
        for text in ["", "the wallet hasn't got 5 sat", "zu teuer – Grüße, 高い 🙂", "a \\ b <i>"] {
            assert_eq!(&*read(text.as_bytes()), text);
        }
    }

    // S28
    #[test]
    fn nothing_acts_on_a_terminal_a_log_or_a_page() {
        for (text, shown) in [
            ("\x1b[31mred\x07", "\\u{1b}[31mred\\u{7}"),
            ("two\nlines\r\t\u{85}", "two\\u{a}lines\\u{d}\\u{9}\\u{85}"),
            ("\u{202e}evil\u{2066}", "\\u{202e}evil\\u{2066}"),
            ("o\u{200b}k\u{feff}\u{ad}\u{e0041}", "o\\u{200b}k\\u{feff}\\u{ad}\\u{e0041}"),
        ] {
            assert_eq!(&*Words::new(text), shown);
            // Once is enough: the next one who quotes it changes nothing.
            assert_eq!(&*Words::new(shown), shown);
        }
        assert_eq!(&*read(b"caf\xe9 \xf0\x9f"), "caf\\xe9 \\xf0\\x9f");
    }

    // S28
    #[test]
    fn the_rest_is_cut_off() {
        let exact = "ä".repeat(Words::MOST - 1);
        assert_eq!(&*Words::new(&exact), exact);
        for long in ["ä".repeat(Words::MOST), "🙂".repeat(70_000), "\x1b".repeat(70_000)] {
            let words = Words::new(&long);
            assert!(words.chars().count() <= Words::MOST && words.ends_with('…'), "{words}");
            assert!(words.encoded().len() <= 2 + 4 * Words::MOST);
            assert_eq!(Words::decoded(&words.encoded()), Ok(words));
        }
    }
}
