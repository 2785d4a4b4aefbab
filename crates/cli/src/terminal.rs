//! Prints text safely on a terminal. Names, metadata, templates and answers of a model are untrusted text. An escape
//! sequence in this text must not move the cursor, set a title or reorder a line.
//!
//! All output is printed by this module. It replaces characters that are not printable by escapes like `\u{1b}`. It
//! does this also if the output is not a terminal, because a user may later view the output in a terminal. In the
//! output of `--json` these characters are JSON escapes, so that the values are exact. Invariant: no function panics if
//! stderr or stdout is closed or full.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};

/// Length in bytes above which a message is shortened.
const MOST: usize = 4000;

/// Returns true if a terminal reacts to this character instead of showing it. These are control characters (C0, DEL,
/// C1), bidirectional embeddings, overrides and isolates, and separators of lines and paragraphs.
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let bad = |c: char| acts(c) && !keep(c);
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if bad(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Escapes a text of several lines, for example an answer or a table. Newlines and tabs are not escaped.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c == '\n' || c == '\t')
}

/// Escapes a name that is printed inside a line. Newlines and tabs are escaped too.
pub fn name(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Escapes JSON text without changing its values. Characters that control a terminal occur only in JSON strings.
/// `serde_json` has already escaped the C0 characters in these strings.
pub fn json(text: &str) -> Cow<'_, str> {
    let bad = |c: char| acts(c) && c != '\n' && c != '\t';
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // The code points of all characters in `acts` have at most four hexadecimal digits.
        let _ = if bad(c) { write!(out, "\\u{:04x}", c as u32) } else { out.write_char(c) };
    }
    Cow::Owned(out)
}

/// Returns the beginning and the end of a text that is too long, otherwise the whole text.
fn shortened(text: &str) -> Cow<'_, str> {
    if text.len() <= MOST {
        return Cow::Borrowed(text);
    }
    let (mut head, mut tail) = (MOST * 2 / 3, text.len() - MOST / 4);
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    Cow::Owned(format!("{} … {}", &text[..head], &text[tail..]))
}

/// Returns a message as it is printed: escaped, and shortened to about 4 kB. All lines after the first line are
/// indented, so that none of these lines looks like a separate message.
fn message(text: &str) -> String {
    // The text is shortened before escaping, so that only a short text is escaped. It is shortened again after
    // escaping, because escapes are longer than the characters.
    let text = lines(&shortened(text)).replace('\n', "\n  ");
    format!("kvant: {}\n", shortened(&text))
}

/// Prints a message on stderr. Errors of stderr are ignored.
pub fn say(text: impl Display) {
    let _ = io::stderr().lock().write_all(message(&text.to_string()).as_bytes());
}

/// Prints the prompt for a line on stderr. Errors of stderr are ignored.
pub fn ask() {
    let mut err = io::stderr().lock();
    let _ = err.write_all(b"> ").and_then(|()| err.flush());
}

/// Prints a part of a text on stdout and flushes stdout.
///
/// # Errors
/// Errors of writing to stdout.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(lines(text).as_bytes())?;
    out.flush()
}

/// Installs a panic hook that prints a panic like every other error. If the variable `RUST_BACKTRACE` requests a
/// backtrace, the hook prints the backtrace too.
pub fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::capture();
        let trace = match trace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{trace}"),
            _ => String::new(),
        };
        say(format_args!("a fault of this program, please report it: {panic}{trace}"));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_on_a_terminal_is_left() {
        let mut all = String::new();
        for c in
            ('\0'..='\u{a0}').chain('\u{2020}'..='\u{2070}').chain(['한', '😀', 'e', '\u{301}', '\u{200d}'])
        {
            all.push(c);
        }
        for (text, newlines) in [(lines(&all), true), (name(&all), false), (json(&all), true)] {
            let raw = |c: char| text.contains(c);
            for c in ('\0'..' ')
                .chain('\u{7f}'..='\u{9f}')
                .chain('\u{202a}'..='\u{202e}')
                .chain('\u{2066}'..='\u{2069}')
            {
                assert_eq!(raw(c), newlines && (c == '\n' || c == '\t'), "{:?}", c);
            }
            assert!(!raw('\u{2028}') && !raw('\u{2029}'));
            assert!(
                raw('한')
                    && raw('😀')
                    && raw('\u{301}')
                    && raw('\u{200d}')
                    && raw('\u{a0}')
                    && raw('\u{2027}')
            );
        }
        assert_eq!(lines("a\u{1b}[31m\tb\n\u{9b}"), "a\\u{1b}[31m\tb\n\\u{9b}");
        assert_eq!(name("a\nb"), "a\\u{a}b");
    }

    #[test]
    fn json_keeps_its_values() {
        let value = serde_json::json!({ "a\u{9b}\u{7f}": "\u{1b}]0;x\u{7}\u{202e}\u{2028}\n\t\u{85}한\\u" });
        let text = value.to_string();
        let shown = json(&text);
        assert!(!shown.contains(acts), "{shown:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    #[test]
    fn messages_are_short_and_their_later_lines_are_indented() {
        for text in ["한".repeat(1 << 20), "\u{1b}".repeat(1 << 20), "\n".repeat(9000), "x".repeat(MOST + 1)]
        {
            let text = message(&text);
            assert!(text.len() < 4096 && text.contains('…') && text.ends_with('\n'), "{} bytes", text.len());
            assert!(text.trim_end().lines().skip(1).all(|line| line.is_empty() || line.starts_with(' ')));
        }
        assert_eq!(message("one\nkvant: two"), "kvant: one\n  kvant: two\n");
    }
}
