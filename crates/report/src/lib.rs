//! Output formats for results: tables for a terminal, CSV, JSON and NumPy arrays.
//!
//! Invariant: this crate does not depend on the model crates. Not included: measurements (`kvant-eval`), and the
//! escaping of text for a terminal (`kvant-cli`).
//!
//! ```
//! use kvant_report::{Column, size, table};
//!
//! let rows = [("q4_0", 4096u64), ("q8_0", 8192)];
//! let columns = [
//!     Column::text("format", |row: &(&str, u64)| row.0.to_owned()),
//!     Column::number("file", |row: &(&str, u64)| size(row.1)),
//! ];
//! assert!(table(&rows, &columns).contains("8.0 KiB"));
//! ```

mod npy;

pub use npy::npy_header;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// One column of a table.
pub struct Column<Row> {
    title: &'static str,
    alignment: CellAlignment,
    show: fn(&Row) -> String,
}

impl<Row> Column<Row> {
    /// Creates a column of text, aligned to the left.
    pub fn text(title: &'static str, show: fn(&Row) -> String) -> Self {
        Self { title, alignment: CellAlignment::Left, show }
    }

    /// Creates a column of numbers, aligned to the right.
    pub fn number(title: &'static str, show: fn(&Row) -> String) -> Self {
        Self { title, alignment: CellAlignment::Right, show }
    }
}

/// Formats a table for a terminal.
pub fn table<Row>(rows: &[Row], columns: &[Column<Row>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(columns.iter().map(|column| column.title));
    for row in rows {
        table.add_row(columns.iter().map(|column| (column.show)(row)));
    }
    for (shown, column) in table.column_iter_mut().zip(columns) {
        shown.set_cell_alignment(column.alignment);
    }
    table.to_string()
}

/// Formats rows as CSV. The first line is a header with the field names. Rows must be flat: no field is a list or a
/// map.
///
/// # Errors
/// A row that is not flat.
pub fn csv<Row: Serialize>(rows: &[Row]) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter().try_for_each(|row| writer.serialize(row))?;
    let bytes = writer.into_inner().map_err(|error| error.into_error())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Formats a result as one JSON object. The key `kvant` has the version of the program.
///
/// # Errors
/// A value that JSON cannot express.
pub fn json(value: &impl Serialize, version: &str) -> serde_json::Result<String> {
    let mut value = serde_json::to_value(value)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("kvant".into(), version.into());
    }
    Ok(value.to_string())
}

/// Formats a number of bytes for people: `3.9 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Parses a size as people write it: `3.9GiB`, `512MiB`, `900MB` or a plain number of bytes.
///
/// # Errors
/// A message for the user if the text is not a size.
pub fn parse_size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 7] = [
        ("gib", (1u64 << 30) as f64),
        ("mib", (1u64 << 20) as f64),
        ("kib", (1u64 << 10) as f64),
        ("gb", 1e9),
        ("mb", 1e6),
        ("kb", 1e3),
        ("b", 1.0),
    ];
    let lower = text.trim().to_ascii_lowercase();
    let unit = UNITS.iter().find(|(name, _)| lower.ends_with(name));
    let (number, factor) =
        unit.map_or((&*lower, 1.0), |(name, factor)| (&lower[..lower.len() - name.len()], *factor));
    match number.trim().parse::<f64>() {
        Ok(x) if x > 0.0 && x * factor < (1u64 << 62) as f64 => Ok((x * factor) as u64),
        _ => Err("expected a size such as 3.9GiB, 512MiB, 900MB or plain bytes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Row {
        format: &'static str,
        share: f64,
        bytes: u64,
    }

    #[test]
    fn csv_and_json_use_the_field_names() {
        let rows =
            [Row { format: "a,b", share: 0.25, bytes: 7 }, Row { format: "q4_0", share: 1e-9, bytes: 1 }];
        let text = csv(&rows).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["format,share,bytes", "\"a,b\",0.25,7"]);
        assert_eq!(lines[2].split(',').nth(1).unwrap().parse::<f64>().unwrap(), 1e-9);
        assert_eq!(
            json(&rows[1], "1.2").unwrap(),
            r#"{"format":"q4_0","share":1e-9,"bytes":1,"kvant":"1.2"}"#
        );
    }

    #[test]
    fn sizes_have_their_unit() {
        assert_eq!(
            [0, 1023, 1024, 5 << 20, 4 << 40].map(size),
            ["0 B", "1023 B", "1.0 KiB", "5.0 MiB", "4096.0 GiB"]
        );
    }
}
