//! Every format against upstream's own bytes and numbers (`tests/golden/formats`, made by `formats.py`).

use kvant_core::format::FORMATS;
use std::path::PathBuf;

fn read(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/formats");
    std::fs::read(folder.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn floats(name: &str) -> Vec<f32> {
    read(name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn manifest() -> serde_json::Value {
    serde_json::from_slice(&read("manifest.json")).expect("the manifest is JSON")
}

/// Formats whose encoder has to give upstream's bytes on every golden tensor.
const BYTE_EXACT: &[&str] =
    &["f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "mxfp4", "iq4_xs"];

#[test]
fn decode_is_bit_exact() {
    for format in FORMATS.iter().filter(|f| f.name() != "f32") {
        for set in ["decode", "edge"] {
            let bytes = read(&format!("{}.{set}.bin", format.name()));
            let expected = floats(&format!("{}.{set}.f32", format.name()));
            let mut found = vec![0.0; expected.len()];
            format.decode(&bytes, &mut found);
            for (i, (e, f)) in expected.iter().zip(&found).enumerate() {
                let same = e.to_bits() == f.to_bits() || e.is_nan() && f.is_nan();
                assert!(same, "{} {set} element {i}: expected {e}, found {f}", format.name());
            }
        }
    }
}

#[test]
fn encode_is_byte_exact_or_as_good_as_upstream() {
    let inputs = floats("inputs.f32");
    let manifest = manifest();
    let tensors = manifest["inputs"]["tensors"].as_array().expect("tensors");
    for format in FORMATS.iter().filter(|f| f.name() != "f32") {
        let expected = read(&format!("{}.encode.bin", format.name()));
        let mut found = vec![0; expected.len()];
        format.encode(&inputs, None, &mut found);
        if BYTE_EXACT.contains(&format.name()) {
            let differ = expected.iter().zip(&found).filter(|(a, b)| a != b).count();
            assert_eq!(differ, 0, "{}: bytes that differ from upstream's", format.name());
        }
        let row_bytes = expected.len() / 96;
        for tensor in tensors {
            let (row, rows) =
                (tensor["row"].as_u64().unwrap() as usize, tensor["rows"].as_u64().unwrap() as usize);
            let x = &inputs[row * 512..(row + rows) * 512];
            let error = |bytes: &[u8], weight: &dyn Fn(f32) -> f64| {
                let mut y = vec![0.0; x.len()];
                format.decode(&bytes[row * row_bytes..(row + rows) * row_bytes], &mut y);
                x.iter().zip(&y).map(|(x, y)| weight(*x) * f64::from(x - y) * f64::from(x - y)).sum::<f64>()
            };
            for weight in [&(|_: f32| 1.0) as &dyn Fn(f32) -> f64, &|x: f32| f64::from(x) * f64::from(x)] {
                let (upstream, ours) = (error(&expected, weight), error(&found, weight));
                assert!(
                    ours <= upstream * 1.01,
                    "{} {}: error {ours:e}, upstream's {upstream:e}",
                    format.name(),
                    tensor["name"]
                );
            }
        }
    }
}

/// With importance the searches are ours: no worse than upstream's by more than 5 % over all tensors together.
#[test]
fn importance_lowers_the_error_that_it_weighs() {
    let (inputs, importance) = (floats("inputs.f32"), floats("importance.f32"));
    for format in FORMATS.iter().filter(|f| f.grid().is_some()) {
        let weighted = |bytes: &[u8]| {
            let mut y = vec![0.0; inputs.len()];
            format.decode(bytes, &mut y);
            // Rows of gaussian and heavy-tailed weights: those that look like a network's.
            let rows = inputs.iter().zip(&y).zip(importance.iter().cycle()).take(24 * 512);
            rows.map(|((x, y), w)| f64::from(*w) * f64::from(x - y) * f64::from(x - y)).sum::<f64>()
        };
        let mut plain = read(&format!("{}.encode.bin", format.name()));
        format.encode(&inputs, None, &mut plain);
        let mut ours = plain.clone();
        format.encode(&inputs, Some(&importance), &mut ours);
        let upstream = weighted(&read(&format!("{}.encode_importance.bin", format.name())));
        assert!(weighted(&ours) <= weighted(&plain), "{}: importance made it worse", format.name());
        assert!(
            weighted(&ours) <= 1.05 * upstream,
            "{}: {:e} > {upstream:e}",
            format.name(),
            weighted(&ours)
        );
    }
}
