//! Compares every format with bytes and values of upstream (`tests/golden/formats`, made by `formats.py`).

use kvant_core::format::{FORMATS, FormatRef};
use kvant_core::{Codes, Encoder, Part};
use serde_json::Value;
use std::path::PathBuf;

const COLUMNS: usize = 512;

fn read(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/formats");
    std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn floats(name: &str) -> Vec<f32> {
    read(name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn manifest() -> Value {
    serde_json::from_slice(&read("manifest.json")).expect("the manifest is JSON")
}

/// Returns all formats except `f32`, because upstream has no encoder for `f32`.
fn formats() -> impl Iterator<Item = FormatRef> {
    FORMATS.iter().copied().filter(|f| f.name() != "f32")
}

/// Returns all formats that have an encoder, except `f32`.
fn written() -> impl Iterator<Item = (FormatRef, &'static dyn Encoder)> {
    formats().filter_map(|format| Some((format, format.encoder()?)))
}

/// Returns the name of each input tensor, and the range of its values in the input file.
fn tensors(manifest: &Value) -> Vec<(String, std::ops::Range<usize>)> {
    let number = |t: &Value, key: &str| t[key].as_u64().expect(key) as usize;
    let list = manifest["inputs"]["tensors"].as_array().expect("tensors");
    let range = |t: &Value| number(t, "row") * COLUMNS..(number(t, "row") + number(t, "rows")) * COLUMNS;
    list.iter().map(|t| (t["name"].as_str().expect("name").to_owned(), range(t))).collect()
}

fn decode(format: FormatRef, bytes: &[u8]) -> Vec<f32> {
    let block = format.block();
    let mut x = vec![0.0; bytes.len() / block.bytes * block.elements];
    format.decode(bytes, &mut x);
    x
}

/// Returns Σ w (x − y)² over the elements, where w is the weight of an element.
fn error(x: &[f32], y: &[f32], weight: impl Fn(usize) -> f64) -> f64 {
    let squares = x.iter().zip(y).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2));
    squares.enumerate().map(|(i, e)| weight(i) * e).sum()
}

#[test]
fn golden_files_know_every_format() {
    let manifest = manifest();
    for format in formats() {
        let entry = &manifest["types"][format.name()];
        assert_eq!(entry["block_elements"], format.block().elements, "{}", format.name());
        assert_eq!(entry["block_bytes"], format.block().bytes, "{}", format.name());
        assert_eq!(entry["encode"].is_object(), format.encoder().is_some(), "{}", format.name());
    }
}

#[test]
fn decode_is_bit_exact() {
    for format in formats() {
        for set in ["decode", "edge"] {
            let expected = floats(&format!("{}.{set}.f32", format.name()));
            let found = decode(format, &read(&format!("{}.{set}.bin", format.name())));
            assert_eq!(expected.len(), found.len());
            for (i, (e, f)) in expected.iter().zip(&found).enumerate() {
                let same = e.to_bits() == f.to_bits() || e.is_nan() && f.is_nan();
                assert!(same, "{} {set} element {i}: expected {e}, found {f}", format.name());
            }
        }
    }
}

#[test]
fn encode_is_byte_exact() {
    let (inputs, importance) = (floats("inputs.f32"), floats("importance.f32"));
    let tensors = tensors(&manifest());
    for (format, encoder) in written() {
        for (set, importance) in [("encode", None), ("encode_importance", Some(&importance[..]))] {
            let expected = read(&format!("{}.{set}.bin", format.name()));
            let mut found = vec![0xa5; expected.len()];
            encoder.encode(&inputs, importance, &mut found);
            let block = format.block();
            for (name, range) in &tensors {
                let bytes =
                    range.start / block.elements * block.bytes..range.end / block.elements * block.bytes;
                let blocks =
                    expected[bytes.clone()].chunks(block.bytes).zip(found[bytes].chunks(block.bytes));
                let differ = blocks.filter(|(expected, found)| expected != found).count();
                assert_eq!(differ, 0, "{} {set} {name}: blocks that differ from upstream's", format.name());
            }
        }
    }
}

/// Separate code computed the errors in the manifest from the values that upstream decodes. So this test connects the
/// two tests above.
#[test]
fn errors_are_those_of_the_manifest() {
    let (inputs, importance, manifest) = (floats("inputs.f32"), floats("importance.f32"), manifest());
    for (format, _) in written() {
        for set in ["encode", "encode_importance"] {
            let decoded = decode(format, &read(&format!("{}.{set}.bin", format.name())));
            for (name, range) in tensors(&manifest) {
                let (x, y) = (&inputs[range.clone()], &decoded[range]);
                let expected = &manifest["types"][format.name()][set]["errors"][&name];
                let squared = |i: usize| f64::from(x[i]).powi(2);
                let found = [
                    ("plain", error(x, y, |_| 1.0)),
                    ("x_squared", error(x, y, squared)),
                    ("importance", error(x, y, |i| f64::from(importance[i % COLUMNS]))),
                ];
                for (kind, found) in found {
                    let expected = expected[kind].as_f64().expect(kind);
                    let close = (found - expected).abs() <= 1e-9 * expected;
                    assert!(close, "{} {set} {name} {kind}: {found:e} {expected:e}", format.name());
                }
            }
        }
    }
}

/// Fits the scales and rounds each value separately, as a solver does. The error is not larger than that of upstream's
/// encoder.
#[test]
fn fit_and_round_are_as_good_as_encode() {
    let (inputs, manifest) = (floats("inputs.f32"), manifest());
    for format in formats() {
        let Some(grid) = format.grid() else { continue };
        let block = format.block();
        for (name, range) in tensors(&manifest) {
            // Compare only tensors that look like weights of a network. Some encoders of upstream (formats with one
            // group, and weights x²) minimize another error than this test measures, so other tensors cannot be
            // compared.
            if !["gaussian", "heavy_tailed", "bf16_weights"].contains(&name.as_str()) {
                continue;
            }
            let (mut codes, mut fitted) = (Codes::new(block), Vec::new());
            for x in inputs[range.clone()].chunks(block.elements) {
                grid.fit(x, None, Part::Block, &mut codes);
                for (group, x) in x.chunks(block.group).enumerate() {
                    grid.fit(x, None, Part::Group(group), &mut codes);
                }
                fitted.extend(x.iter().enumerate().map(|(at, &x)| grid.round(&mut codes, at, x)));
            }
            let found = error(&inputs[range], &fitted, |_| 1.0);
            let errors = |set: &str| manifest["types"][format.name()][set]["errors"][&name]["plain"].as_f64();
            let upstream =
                errors("encode").expect("a number").min(errors("encode_importance").expect("a number"));
            assert!(found <= 1.02 * upstream, "{} {name}: {}", format.name(), found / upstream);
        }
    }
}
