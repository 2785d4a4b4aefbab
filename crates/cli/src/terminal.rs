//! What reaches a terminal. Names, metadata, templates and answers are other people's text: an escape sequence in them
//! must not move the cursor, set a title or reorder a line.
//!
//! Whatever is printed goes through here and shows what is not printable as `\u{1b}`, whether it goes to a terminal or
//! not: what is piped is looked at in a terminal all the same. `--json` has the same characters as JSON escapes, so
//! that its values stay exact. Invariant: nothing here panics where stderr or stdout is closed or full.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};

/// Bytes of a message at most.
const MOST: usize = 4000;

/// Whether a terminal does something else than show this character: control characters (C0, DEL, C1), bidirectional
/// embeddings, overrides and isolates, separators of lines and paragraphs.
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

/// Text of several lines, such as an answer or a table: newlines and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c == '\n' || c == '\t')
}

/// A name inside a line: it has one line.
pub fn name(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// JSON text: the same values. Such characters stand in strings alone, where `serde_json` has escaped the C0 ones.
pub fn json(text: &str) -> Cow<'_, str> {
    let bad = |c: char| acts(c) && c != '\n' && c != '\t';
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // All of them have four hexadecimal digits.
        let _ = if bad(c) { write!(out, "\\u{:04x}", c as u32) } else { out.write_char(c) };
    }
    Cow::Owned(out)
}

/// The beginning and the end of a text that is too long.
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

/// A message as it is printed: escaped, at most 4 kB, later lines indented so that none of them looks like a message.
fn message(text: &str) -> String {
    // Cut twice: before, so that little is escaped, and after, since escapes are longer.
    let text = lines(&shortened(text)).replace('\n', "\n  ");
    format!("kvant: {}\n", shortened(&text))
}

/// Says something on stderr. Where stderr takes nothing, nothing is said.
pub fn say(text: impl Display) {
    let _ = io::stderr().lock().write_all(message(&text.to_string()).as_bytes());
}

/// Asks for a line on stderr.
pub fn ask() {
    let mut err = io::stderr().lock();
    let _ = err.write_all(b"> ").and_then(|()| err.flush());
}

/// Prints a part of a text on stdout at once.
///
/// # Errors
/// What the system says.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(lines(text).as_bytes())?;
    out.flush()
}

/// Lets a panic be told as every other fault is, with a backtrace where `RUST_BACKTRACE` asks for one.
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
