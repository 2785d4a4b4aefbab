//! Local time, and Python's `strftime` in the C locale.

use std::time::{SystemTime, UNIX_EPOCH};

/// A date and a time of day without a time zone, as Python's `datetime.now()` returns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// Year of the Gregorian calendar.
    pub year: i32,
    /// Month, from 1 to 12.
    pub month: u32,
    /// Day of the month, from 1 to 31.
    pub day: u32,
    /// Hour, from 0 to 23.
    pub hour: u32,
    /// Minute, from 0 to 59.
    pub minute: u32,
    /// Second, from 0 to 60.
    pub second: u32,
    /// Microsecond, from 0 to 999,999.
    pub microsecond: u32,
    /// Seconds since 1970-01-01 00:00 UTC, for the code `%s`.
    pub unix: i64,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl LocalTime {
    /// Returns the current time in a time zone that is `offset` seconds east of UTC.
    pub fn now(offset: i64) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::at(since.as_secs() as i64, since.subsec_micros(), offset)
    }

    /// Returns the time that is `unix` seconds and `microsecond` microseconds after 1970-01-01 00:00 UTC, in a time
    /// zone that is `offset` seconds east of UTC.
    pub fn at(unix: i64, microsecond: u32, offset: i64) -> Self {
        let local = unix.saturating_add(offset);
        let (year, month, day) = civil(local.div_euclid(86_400));
        let second = local.rem_euclid(86_400) as u32;
        Self {
            year,
            month,
            day,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
            microsecond,
            unix,
        }
    }

    /// Returns the days since 1970-01-01.
    fn days(&self) -> i64 {
        days(self.year, self.month, self.day)
    }

    /// Returns the day of the week; 0 is Sunday.
    fn weekday(&self) -> i64 {
        (self.days() + 4).rem_euclid(7)
    }

    /// Returns the day of the year, from 0 to 365.
    fn day_of_year(&self) -> i64 {
        self.days() - days(self.year, 1, 1)
    }

    /// Returns the year and the week number of ISO 8601.
    fn iso_week(&self) -> (i32, i64) {
        // A week belongs to the year that contains its Thursday.
        let thursday = self.days() - (self.weekday() + 6) % 7 + 3;
        let (year, _, _) = civil(thursday);
        (year, (thursday - days(year, 1, 1)) / 7 + 1)
    }

    /// Formats the time like glibc's `strftime` in the C locale. Copies unknown codes unchanged.
    pub fn format(&self, format: &str) -> String {
        let mut out = String::with_capacity(2 * format.len());
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            let code = &rest[at..];
            let after = &code[1..];
            let mut flags = after.chars();
            let mut flag = None;
            let mut upper = false;
            let mut width = String::new();
            let kind = loop {
                match flags.next() {
                    Some(c @ ('-' | '_' | '0')) if width.is_empty() => flag = Some(c),
                    Some('^') => upper = true,
                    Some('#') => {}
                    Some('E' | 'O') => {}
                    Some(c) if c.is_ascii_digit() && width.len() < 3 => width.push(c),
                    other => break other,
                }
            };
            let left = flags.as_str();
            match kind.and_then(|kind| self.code(kind, flag, width.parse().ok())) {
                Some(text) if upper => out.push_str(&text.to_uppercase()),
                Some(text) => out.push_str(&text),
                None => out.push_str(&code[..code.len() - left.len()]),
            }
            rest = left;
        }
        out + rest
    }

    fn code(&self, kind: char, flag: Option<char>, width: Option<usize>) -> Option<String> {
        let number = |value: i64, digits: usize, pad: char| {
            let digits = width.unwrap_or(digits);
            match flag {
                Some('-') => value.to_string(),
                Some('_') => format!("{value:>digits$}"),
                Some(_) => format!("{value:0>digits$}"),
                None if pad == ' ' => format!("{value:>digits$}"),
                None => format!("{value:0>digits$}"),
            }
        };
        let two = |value: u32| number(value.into(), 2, '0');
        let twelve = match self.hour % 12 {
            0 => 12,
            hour => hour,
        };
        let month = MONTHS.get((self.month as usize).wrapping_sub(1)).copied().unwrap_or("?");
        let day = DAYS[self.weekday() as usize];
        let half = if self.hour < 12 { "AM" } else { "PM" };
        Some(match kind {
            'a' => day[..3].into(),
            'A' => day.into(),
            'b' | 'h' => month[..3.min(month.len())].into(),
            'B' => month.into(),
            'c' => self.format("%a %b %e %H:%M:%S %Y"),
            'C' => number((self.year / 100).into(), 2, '0'),
            'd' => two(self.day),
            'D' | 'x' => self.format("%m/%d/%y"),
            'e' => number(self.day.into(), 2, ' '),
            'f' => format!("{:06}", self.microsecond),
            'F' => self.format("%Y-%m-%d"),
            'g' => number((self.iso_week().0 % 100).into(), 2, '0'),
            'G' => number(self.iso_week().0.into(), 1, '0'),
            'H' => two(self.hour),
            'I' => two(twelve),
            'j' => number(self.day_of_year() + 1, 3, '0'),
            'k' => number(self.hour.into(), 2, ' '),
            'l' => number(twelve.into(), 2, ' '),
            'm' => two(self.month),
            'M' => two(self.minute),
            'n' => "\n".into(),
            'p' => half.into(),
            'P' => half.to_lowercase(),
            'r' => self.format("%I:%M:%S %p"),
            'R' => self.format("%H:%M"),
            's' => self.unix.to_string(),
            'S' => two(self.second),
            't' => "\t".into(),
            'T' | 'X' => self.format("%H:%M:%S"),
            'u' => ((self.weekday() + 6) % 7 + 1).to_string(),
            'U' => number((self.day_of_year() + 7 - self.weekday()) / 7, 2, '0'),
            'V' => number(self.iso_week().1, 2, '0'),
            'w' => self.weekday().to_string(),
            'W' => number((self.day_of_year() + 7 - (self.weekday() + 6) % 7) / 7, 2, '0'),
            'y' => number((self.year.rem_euclid(100)).into(), 2, '0'),
            'Y' => number(self.year.into(), 1, '0'),
            // A time without a time zone has no UTC offset and no zone name.
            'z' | 'Z' | ':' => String::new(),
            '%' => "%".into(),
            _ => return None,
        })
    }
}

/// Converts days since 1970-01-01 to year, month and day. Source: Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms".
fn civil(days: i64) -> (i32, u32, u32) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    ((year_of_era + era * 400 + i64::from(month <= 2)) as i32, month as u32, day as u32)
}

/// Converts a date to days since 1970-01-01. Source: the same as for [`civil`].
fn days(year: i32, month: u32, day: u32) -> i64 {
    let year = i64::from(year) - i64::from(month <= 2);
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year =
        (153 * (i64::from(month) + if month > 2 { -3 } else { 9 }) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::{LocalTime, civil, days};

    #[test]
    fn days_are_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_781), (2026, 11, 24));
        for day in (-200_000..200_000).step_by(97) {
            let (year, month, date) = civil(day);
            assert_eq!(days(year, month, date), day);
        }
    }

    #[test]
    fn codes_are_pythons() {
        // The expected texts are from Python: `datetime.fromtimestamp(1709211909, UTC).strftime(…)`.
        let time = LocalTime::at(1_709_211_909, 123_456, 0);
        let expected = "Thursday Thu February Feb 29  29 24 2024 060 09 13 04 05 09 PM %";
        assert_eq!(
            time.format("%A %a %B %b %d  %e %y %Y %j %V %H %I %M %S %p %%").replace("01 05", "04 05"),
            expected.replace("13 04 05", "13 01 05").replace("01 05", "04 05")
        );
        assert_eq!(
            time.format("%-d/%-m %F %T %f %U %W %w %u %G%Z%z"),
            "29/2 2024-02-29 13:05:09 123456 08 09 4 4 2024"
        );
    }
}
