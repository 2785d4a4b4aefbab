//! Properties that every format in the registry has.

use kvant_core::format::{FORMATS, FormatRef};
use kvant_core::{Codes, Encoder, Format, Levels, Part};
use proptest::prelude::*;

/// Returns all formats that have an encoder, with the encoder.
fn written() -> impl Iterator<Item = (FormatRef, &'static dyn Encoder)> {
    FORMATS.iter().filter_map(|format| Some((*format, format.encoder()?)))
}

/// Encodes rows. `written` is an item of [`written`].
fn encode(written: (FormatRef, &dyn Encoder), x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let block = written.0.block();
    let mut bytes = vec![0xa5; x.len() / block.elements * block.bytes];
    written.1.encode(x, importance, &mut bytes);
    bytes
}

fn decode(format: &dyn Format, bytes: &[u8]) -> Vec<f32> {
    let block = format.block();
    let mut x = vec![0.0; bytes.len() / block.bytes * block.elements];
    format.decode(bytes, &mut x);
    x
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// Fits all scales of a block. The scale of the whole block comes first, then the scales of its groups.
fn fit(format: &dyn Format, x: &[f32], importance: Option<&[f32]>, codes: &mut Codes) {
    let grid = format.grid().unwrap();
    let size = format.block().group;
    grid.fit(x, importance, Part::Block, codes);
    for (group, x) in x.chunks(size).enumerate() {
        let importance = importance.map(|i| &i[group * size..][..size]);
        grid.fit(x, importance, Part::Group(group), codes);
    }
}

/// Generates 256 values that look like weights, with any magnitude that occurs in practice.
fn weights() -> impl Strategy<Value = Vec<f32>> {
    (prop::collection::vec(-1.0f32..1.0, 256), -12i32..4, -0.5f32..0.5).prop_map(|(x, exponent, offset)| {
        x.into_iter().map(|x| (x * x * x + offset) * 10f32.powi(exponent)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn codes_say_what_decode_says(bytes in prop::collection::vec(any::<u8>(), 256)) {
        for format in FORMATS {
            let Some(grid) = format.grid() else { continue };
            let block = format.block();
            let bytes = &bytes[..block.bytes];
            let mut codes = Codes::new(block);
            grid.unpack(bytes, &mut codes);
            let levels = grid.levels();
            for (at, x) in decode(*format, bytes).into_iter().enumerate() {
                prop_assert!(usize::from(codes.codes[at]) < levels.count(), "{}", format.name());
                prop_assert!(same(codes.value(&levels, at), x), "{} element {at}", format.name());
            }
        }
    }

    #[test]
    fn pack_undoes_unpack(x in weights()) {
        for format in FORMATS {
            let Some(grid) = format.grid() else { continue };
            let block = format.block();
            let bytes = encode((*format, grid), &x, None);
            for bytes in bytes.chunks(block.bytes) {
                let mut codes = Codes::new(block);
                grid.unpack(bytes, &mut codes);
                let mut packed = vec![0xa5; block.bytes];
                grid.pack(&codes, &mut packed);
                prop_assert_eq!(bytes, &packed[..], "{}", format.name());
            }
        }
    }

    /// The rounded value that a solver gets from `round` is the value that a reader of the file decodes.
    #[test]
    fn rounded_values_survive_packing(x in weights(), weighted in any::<bool>()) {
        let importance: Vec<f32> = x.iter().enumerate().map(|(i, _)| 0.1 + (i % 7) as f32).collect();
        for format in FORMATS {
            let Some(grid) = format.grid() else { continue };
            let block = format.block();
            let x = &x[..block.elements];
            let mut codes = Codes::new(block);
            fit(*format, x, weighted.then_some(&importance[..block.elements]), &mut codes);
            let rounded: Vec<f32> =
                x.iter().enumerate().map(|(at, &x)| grid.round(&mut codes, at, x)).collect();
            let mut bytes = vec![0xa5; block.bytes];
            grid.pack(&codes, &mut bytes);
            for (at, (stored, rounded)) in decode(*format, &bytes).into_iter().zip(rounded).enumerate() {
                prop_assert!(same(stored, rounded), "{} element {at}: {stored:e}, {rounded:e}", format.name());
            }
        }
    }

    #[test]
    fn rows_are_encoded_one_by_one(x in weights()) {
        let importance: Vec<f32> = (0..256).map(|i| 0.5 + (i % 5) as f32).collect();
        for format in written() {
            for importance in [None, Some(&importance[..])] {
                let twice = encode(format, &[&x[..], &x[..]].concat(), importance);
                let once = encode(format, &x, importance);
                prop_assert_eq!(&twice, &[&once[..], &once[..]].concat(), "{}", format.0.name());
            }
        }
    }

    #[test]
    fn nearest_is_the_nearest(x in prop_oneof![-140f32..140.0, (-300i16..300).prop_map(|x| f32::from(x) / 2.0)]) {
        for format in FORMATS {
            let Some(grid) = format.grid() else { continue };
            let levels = grid.levels();
            let distance = |code: usize| (x - levels.level(code as u8)).abs();
            let nearest = usize::from(levels.nearest(x));
            let least = (0..levels.count()).map(distance).fold(f32::INFINITY, f32::min);
            prop_assert_eq!(distance(nearest), least, "{} {}", format.name(), x);
            // If two levels are equally near, the lower level is chosen. If several codes have this level, the first
            // code is chosen.
            for code in (0..levels.count()).filter(|&code| distance(code) == least) {
                let (a, b) = (levels.level(code as u8), levels.level(nearest as u8));
                prop_assert!(b < a || b == a && nearest <= code, "{} {}", format.name(), x);
            }
        }
    }
}

#[test]
fn nearest_at_the_ends() {
    for format in FORMATS {
        let Some(grid) = format.grid() else { continue };
        let levels = grid.levels();
        let all = || (0..levels.count()).map(|code| levels.level(code as u8));
        let (least, most) = (all().fold(f32::MAX, f32::min), all().fold(f32::MIN, f32::max));
        for far in [1e3, 1e10, f32::MAX, f32::INFINITY] {
            assert_eq!(levels.level(levels.nearest(far)), most, "{} {far}", format.name());
            assert_eq!(levels.level(levels.nearest(-far)), least, "{} {far}", format.name());
        }
        assert_eq!(levels.nearest(f32::NAN), 0, "{}", format.name());
    }
    assert_eq!(Levels::Linear { count: 4, offset: 2 }.nearest(0.5), 2);
}

/// Rows that a network should not contain, but that a file can contain.
fn odd_rows() -> Vec<(&'static str, Vec<f32>)> {
    let fill = |x: f32| vec![x; 512];
    let with = |x: f32| {
        let mut row: Vec<f32> = (0..512).map(|i| (i as f32 * 0.37).sin()).collect();
        (row[5], row[300]) = (x, -x);
        row
    };
    vec![
        ("zero", fill(0.0)),
        ("negative zero", fill(-0.0)),
        ("constant", fill(0.3)),
        ("negative constant", fill(-0.3)),
        ("huge", fill(f32::MAX)),
        ("negative huge", fill(f32::MIN)),
        ("subnormal", fill(f32::from_bits(1))),
        ("smallest", fill(f32::MIN_POSITIVE)),
        ("nan", fill(f32::NAN)),
        ("payload nan", fill(f32::from_bits(0xffff_ffff))),
        ("infinite", fill(f32::INFINITY)),
        ("negative infinite", fill(f32::NEG_INFINITY)),
        ("one huge", with(f32::MAX)),
        ("one large", with(1e30)),
        ("one nan", with(f32::NAN)),
        ("one payload nan", with(f32::from_bits(0x7fff_ffff))),
        ("one infinite", with(f32::INFINITY)),
        ("alternating", (0..512).map(|i| if i % 2 == 0 { f32::MAX } else { f32::MIN }).collect()),
    ]
}

#[test]
fn odd_rows_neither_panic_nor_spoil_others() {
    let importance: Vec<f32> = (0..512).map(|i| 0.01 + (i % 9) as f32).collect();
    let plain: Vec<f32> = (0..512).map(|i| (i as f32 * 0.11).cos()).collect();
    for (format, encoder) in written() {
        for (name, row) in odd_rows() {
            for importance in [None, Some(&importance[..])] {
                let both = encode((format, encoder), &[&row[..], &plain].concat(), importance);
                let alone = encode((format, encoder), &plain, importance);
                assert!(both.ends_with(&alone), "{} {name}: the next row changed", format.name());
                assert_eq!(decode(format, &both).len(), 1024);
            }
            let Some(grid) = format.grid() else { continue };
            let block = format.block();
            let mut codes = Codes::new(block);
            for x in row.chunks(block.elements) {
                for importance in [None, Some(&importance[..block.elements])] {
                    fit(format, x, importance, &mut codes);
                    x.iter().enumerate().for_each(|(at, &x)| _ = grid.round(&mut codes, at, x));
                    grid.pack(&codes, &mut vec![0; block.bytes]);
                }
            }
        }
    }
}

#[test]
fn zero_stays_zero() {
    for (format, encoder) in written() {
        let bytes = encode((format, encoder), &[0.0; 512], None);
        assert!(decode(format, &bytes).iter().all(|&x| x == 0.0), "{}", format.name());
    }
}

#[test]
fn names_are_unique_and_found() {
    for format in FORMATS {
        let found = kvant_core::format::by_name(format.name()).expect("every name is found");
        assert!(std::ptr::addr_eq(found, *format) || found.name() == format.name());
        assert_eq!(FORMATS.iter().filter(|f| f.name() == format.name()).count(), 1);
        let block = format.block();
        assert!(block.elements.is_multiple_of(block.group) && block.bytes > 0, "{}", format.name());
        assert!(
            format.encoder().is_some() || format.grid().is_none(),
            "{}: codes are written",
            format.name()
        );
        assert_eq!(format.is_quantized(), !["f32", "f16", "bf16"].contains(&format.name()));
    }
    assert!(kvant_core::format::by_name("q9_9").is_none());
}
