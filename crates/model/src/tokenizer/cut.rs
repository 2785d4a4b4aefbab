//! Cuts text into parts: the matches of a rule and the texts between them. Rules of a GGUF file (`pre_tokenizer`) and
//! the steps of a folder (`steps`) both are lists of cuts.
//!
//! Hand-written code runs the most frequent expressions (`words`). An expression without look-around runs on an engine
//! whose time is linear in the length of the text. The usual ending `\s+(?!\S)|\s+` is the only look-around of most
//! expressions, so it is separated from them and computed here. All other expressions run on a backtracking engine,
//! which has a limit.

use super::TokenizerError;
use super::classes::{Classes, NUMBER};
use super::words::Words;
use fancy_regex::Regex as Backtracking;
use regex_automata::Input;
use regex_automata::meta::{Config, Regex as Linear};

/// Largest length of a regular expression in bytes.
const LONGEST_EXPRESSION: usize = 1 << 16;
/// Largest size of a compiled expression in bytes.
const LARGEST_COMPILED: usize = 1 << 24;
/// The ending of an expression that is separated from it.
const SPACES: &str = r"|\s+(?!\S)|\s+";

/// A rule that cuts text into parts.
pub(super) enum Cut {
    Words(Words),
    Linear { expression: Box<Linear>, spaces: Spaces },
    Backtracking(Box<Backtracking>),
    Thousands(Thousands),
}

/// The alternatives at the end of an expression, for white space that the expression itself does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spaces {
    /// No alternatives: such white space is no match.
    None,
    /// `\s+(?!\S)|\s+`: all white space, but its last character begins the next word.
    KeepLast,
    /// `\s{512}(?!\S)|\s{256}(?!\S)|…|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}` (Jais 2).
    Cascade,
}

/// Cuts digits into groups of three, counted from the end of a run of digits. The groups are no matches: text before
/// the first group stays with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thousands {
    /// Runs of `\p{N}`. The end of a run is a border; the beginning is none. Source: llama.cpp's `src/unicode.cpp`.
    Numbers,
    /// Runs of 0 to 9, as `(?=(\d{3})+(?!\d))`: the beginning of each whole group is a border.
    Ascii,
}

impl Cut {
    /// Makes the cut from a regular expression of a folder.
    ///
    /// # Errors
    /// [`TokenizerError::Key`] for a text that is no regular expression, or is too large.
    pub fn expression(source: &str) -> Result<Self, TokenizerError> {
        if source.len() > LONGEST_EXPRESSION {
            let found = format!("{} bytes", source.len());
            return Err(TokenizerError::key("pattern", "an expression of at most 64 KiB", found));
        }
        if let Some(words) = Words::by_expression(source) {
            return Ok(Self::Words(words));
        }
        let (main, spaces) = match source.strip_suffix(SPACES) {
            Some(main) => (main, Spaces::KeepLast),
            None => (source, Spaces::None),
        };
        // The linear engine reads a possessive repetition as two repetitions. Expressions with one are left to the other
        // engine, and so is everything that the linear engine refuses.
        if !has_possessive(main)
            && let Ok(linear) = Self::linear(main, spaces)
        {
            return Ok(linear);
        }
        Backtracking::new(source)
            .map(|expression| Self::Backtracking(Box::new(expression)))
            .map_err(|e| TokenizerError::key("pattern", "a regular expression", e.to_string()))
    }

    /// Makes the cut from an expression without look-around, whose matches are not empty.
    ///
    /// # Errors
    /// [`TokenizerError::Key`] for an expression that the engine refuses, or that matches the empty text.
    pub fn linear(main: &str, spaces: Spaces) -> Result<Self, TokenizerError> {
        let refused = |found: String| TokenizerError::key("pattern", "a regular expression", found);
        let parsed = regex_syntax::parse(main).map_err(|e| refused(e.to_string()))?;
        if parsed.properties().minimum_len().is_none_or(|length| length == 0) {
            return Err(refused("one that matches the empty text".into()));
        }
        let config = Config::new().nfa_size_limit(Some(LARGEST_COMPILED));
        let mut builder = Linear::builder();
        builder.configure(config);
        let built = match spaces {
            Spaces::None => builder.build(main),
            // The number of the pattern in a match says which alternative it is.
            _ => builder.build_many(&[main, r"\s+"]),
        };
        let expression = built.map_err(|e| refused(e.to_string()))?;
        Ok(Self::Linear { expression: Box::new(expression), spaces })
    }

    /// Calls `take` with every part of `text`, in order. The flag says whether the part is a match.
    ///
    /// # Errors
    /// [`TokenizerError::Library`] if the backtracking engine gives up; an error of `take`.
    pub fn parts<'a>(
        &self,
        text: &'a str,
        take: &mut dyn FnMut(&'a str, bool) -> Result<(), TokenizerError>,
    ) -> Result<(), TokenizerError> {
        let mut result = Ok(());
        match self {
            Self::Words(words) => words.split(text, &mut |word| {
                if result.is_ok() {
                    result = take(word, true);
                }
            }),
            Self::Thousands(groups) => groups.split(text, &mut |part| {
                if result.is_ok() {
                    result = take(part, false);
                }
            }),
            Self::Linear { expression, spaces } => {
                let mut end = 0;
                while let Some(found) = expression.find(Input::new(text).range(end..)) {
                    let start = found.start();
                    let stop = match found.pattern().as_usize() {
                        0 => found.end(),
                        _ => start + spaces.length(&text[start..]),
                    };
                    if start > end {
                        take(&text[end..start], false)?;
                    }
                    take(&text[start..stop], true)?;
                    end = stop;
                }
                if end < text.len() {
                    take(&text[end..], false)?;
                }
            }
            Self::Backtracking(expression) => {
                let mut end = 0;
                for found in expression.find_iter(text) {
                    let found = found.map_err(|e| gave_up(&e))?;
                    if found.start() > end {
                        take(&text[end..found.start()], false)?;
                    }
                    take(&text[found.start()..found.end()], true)?;
                    end = found.end();
                }
                if end < text.len() {
                    take(&text[end..], false)?;
                }
            }
        }
        result
    }
}

/// True if an expression has a possessive repetition such as `a++`, or if this is not certain.
fn has_possessive(expression: &str) -> bool {
    let (mut depth, mut repeated, mut opened) = (0usize, false, false);
    let mut characters = expression.chars();
    while let Some(c) = characters.next() {
        let (after_repetition, at_start) = (repeated, opened);
        (repeated, opened) = (false, false);
        match c {
            '\\' => drop(characters.next()),
            '[' => (depth, opened) = (depth + 1, true),
            '^' if at_start => opened = true,
            // At the beginning of a class, a bracket is a character of it.
            ']' if !at_start => depth = depth.saturating_sub(1),
            '+' if depth == 0 && after_repetition => return true,
            '+' | '*' | '?' | '}' if depth == 0 => repeated = true,
            _ => {}
        }
    }
    depth > 0
}

/// Cuts a text with the rules in `cuts`, one after another. Calls `take` with every part.
///
/// # Errors
/// The errors of [`Cut::parts`].
pub(super) fn cut_all<'a>(
    cuts: &[Cut],
    text: &'a str,
    take: &mut dyn FnMut(&'a str) -> Result<(), TokenizerError>,
) -> Result<(), TokenizerError> {
    match cuts.split_first() {
        None => take(text),
        Some((first, others)) => first.parts(text, &mut |part, _| cut_all(others, part, take)),
    }
}

/// The error for a regular expression that fails on a text, for example because of too much backtracking.
fn gave_up(error: &fancy_regex::Error) -> TokenizerError {
    TokenizerError::Library(format!(
        "the expression of the pre-tokenizer or normalizer gives up on this text ({error}); split the text"
    ))
}

impl Spaces {
    /// Length in bytes of the match at the beginning of `text`, which begins with white space.
    fn length(self, text: &str) -> usize {
        let run = text.len() - text.trim_start_matches(char::is_whitespace).len();
        // The number of characters that a match without look-ahead may have.
        let count = |limit: usize| text[..run].chars().take(limit).count();
        let bytes = |count: usize| text.char_indices().nth(count).map_or(run, |(at, _)| at.min(run));
        let at_end = run == text.len();
        match self {
            Self::None => run,
            Self::KeepLast if at_end => run,
            Self::KeepLast => match text[..run].char_indices().next_back() {
                Some((last, _)) if last > 0 => last,
                _ => run,
            },
            Self::Cascade => {
                let available = count(513) - usize::from(!at_end && count(513) < 513);
                let longest = [512, 256, 128, 64, 32, 16, 8, 4, 2, 1].into_iter().find(|n| *n <= available);
                bytes(longest.unwrap_or(1))
            }
        }
    }
}

impl Thousands {
    /// Calls `take` with every part of `text`, in order.
    fn split<'a>(self, text: &'a str, take: &mut dyn FnMut(&'a str)) {
        let classes = Classes::get();
        let digit = |c: char| match self {
            Self::Numbers => classes.of(c) & NUMBER != 0,
            Self::Ascii => c.is_ascii_digit(),
        };
        let (mut start, mut at) = (0, 0);
        let mut cut = |border: usize| {
            if border > start {
                take(&text[start..border]);
                start = border;
            }
        };
        while let Some(before) = text[at..].find(digit) {
            let begin = at + before;
            let end = text[begin..].find(|c| !digit(c)).map_or(text.len(), |length| begin + length);
            let count = text[begin..end].chars().count();
            for (index, (offset, _)) in text[begin..end].char_indices().enumerate() {
                let left = count - index;
                if left.is_multiple_of(3) && (index > 0 || self == Self::Ascii) {
                    cut(begin + offset);
                }
            }
            if self == Self::Numbers {
                cut(end);
            }
            at = end;
        }
        cut(text.len());
    }
}
