//! Writes numbers like Python's `%` operator and `format`.

use super::limits::{Error, Result, fail};
use super::print;

/// Maximum number of digits that a template may request for a number.
const MOST_DIGITS: usize = 10_000;

/// Returns the precision. Returns an error if it is larger than `MOST_DIGITS`.
pub fn digits(precision: usize) -> Result<usize> {
    if precision > MOST_DIGITS {
        return Err(Error::limit(format!("a number of more than {MOST_DIGITS} digits")));
    }
    Ok(precision)
}

/// Returns the magnitude of a float in `e`, `f`, `g` or `%` notation.
pub fn float(f: f64, kind: char, precision: usize, alternate: bool) -> Result<String> {
    let precision = digits(precision)?;
    let f = f.abs();
    let upper = kind.is_ascii_uppercase();
    let text = if f.is_nan() {
        "nan".to_owned()
    } else if f.is_infinite() {
        "inf".to_owned()
    } else {
        match kind.to_ascii_lowercase() {
            'f' => {
                let text = format!("{f:.precision$}");
                if alternate && precision == 0 { text + "." } else { text }
            }
            'e' => exponent(&format!("{f:.precision$e}")),
            'g' => general(f, precision.max(1), alternate),
            _ => return fail(format!("Unknown format code '{kind}' for object of type 'float'")),
        }
    };
    Ok(if upper { text.to_ascii_uppercase() } else { text })
}

/// Converts Rust's exponent notation to Python's notation.
fn exponent(text: &str) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{digits}e{sign}{exponent:0>2}")
}

fn general(f: f64, precision: usize, alternate: bool) -> String {
    let scientific = format!("{f:.*e}", precision - 1);
    let power: i64 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let trim = |text: &str| {
        if alternate || !text.contains('.') {
            return text.to_owned();
        }
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if power < -4 || power >= precision as i64 {
        let (digits, _) = scientific.split_once('e').unwrap_or((&scientific, ""));
        return exponent(&format!("{}e{power}", trim(digits)));
    }
    let decimals = (precision as i64 - 1 - power).max(0) as usize;
    trim(&format!("{f:.decimals$}"))
}

/// Returns `repr` of a float's magnitude.
pub fn shortest(f: f64) -> String {
    print::float(f.abs())
}

/// Returns the digits of an integer's magnitude in the base of `kind`, and the prefix of the base. The prefix is empty
/// if `alternate` is false.
pub fn integer(magnitude: u128, kind: char, alternate: bool) -> (String, &'static str) {
    let (text, prefix) = match kind {
        'x' => (format!("{magnitude:x}"), "0x"),
        'X' => (format!("{magnitude:X}"), "0X"),
        'o' => (format!("{magnitude:o}"), "0o"),
        'b' => (format!("{magnitude:b}"), "0b"),
        _ => (magnitude.to_string(), ""),
    };
    (text, if alternate { prefix } else { "" })
}

/// Inserts `separator` between groups of `size` digits before the decimal point.
pub fn grouped(text: &str, separator: char, size: usize) -> String {
    let end = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    let (whole, rest) = text.split_at(end);
    let mut out = String::with_capacity(text.len() * 4 / 3 + 1);
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % size == 0 {
            out.push(separator);
        }
        out.push(c);
    }
    out + rest
}
