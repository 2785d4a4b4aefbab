//! Compares importance files with upstream's (`tests/golden/importance`, made by `importance.py`), and reads broken
//! files.

use kvant_core::{Bytes, Shape, Tensor, format};
use kvant_io::{Array, Limits, Metadata, Plan, PlannedTensor, Value};
use kvant_quant::importance::Entry;
use kvant_quant::{Error, Importance, ImportanceFault};
use std::path::{Path, PathBuf};

const EXPERTS: &str = "blk.0.ffn_up_exps.weight";
const PLAIN: &str = "blk.0.attn_q.weight";

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/importance").join(name)
}

fn read(path: &Path) -> Result<Importance, Error> {
    Importance::read(path, &Limits::default())
}

/// Checks that a file with these bytes is rejected with an error that names the file. Returns the text of the error.
fn refused(folder: &Path, bytes: &[u8], what: &str) -> String {
    let path = folder.join("bad.imatrix");
    std::fs::write(&path, bytes).unwrap();
    let Err(error) = read(&path) else { panic!("{what}: was taken") };
    let error = error.to_string();
    assert!(error.contains("bad.imatrix"), "{what}: the error names no path: {error}");
    assert!(error.len() < 1000, "{what}: the error is long");
    error
}

/// Builds a file in the older format. An entry has a name, a number of calls, and values. `trailer` holds the number of
/// chunks and the name of the text.
fn older(entries: &[(&[u8], i32, &[f32])], trailer: Option<(i32, &[u8])>) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &[u8]) {
        out.extend((text.len() as i32).to_le_bytes());
        out.extend(text);
    }
    let mut out = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, calls, values) in entries {
        text(&mut out, name);
        out.extend(calls.to_le_bytes());
        out.extend((values.len() as i32).to_le_bytes());
        out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }
    if let Some((chunks, dataset)) = trailer {
        out.extend(chunks.to_le_bytes());
        text(&mut out, dataset);
    }
    out
}

/// Writes a GGUF file with these tensors. Each tensor has a name, a shape, a format and bytes.
fn gguf(path: &Path, metadata: &Metadata, tensors: &[(&str, &[usize], &str, Vec<u8>)]) {
    let planned = tensors.iter().map(|(name, dimensions, format, _)| PlannedTensor {
        name: (*name).into(),
        shape: Shape::new(dimensions).unwrap(),
        format: format::by_name(format).unwrap(),
    });
    let plan = Plan { metadata: metadata.clone(), tensors: planned.collect() };
    let mut sink = kvant_io::create(path, &plan, true).unwrap();
    for (planned, (.., bytes)) in plan.tensors.iter().zip(tensors) {
        let tensor = Tensor::new(planned.shape, planned.format, Bytes::from(bytes.clone())).unwrap();
        sink.put(&planned.name, &tensor).unwrap();
    }
    sink.finish().unwrap();
}

fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("general.type", Value::String("imatrix".into()));
    metadata.set("imatrix.datasets", Value::Array(Array::String(Vec::new())));
    metadata.set("imatrix.chunk_count", Value::U32(3));
    metadata.set("imatrix.chunk_size", Value::U32(16));
    metadata
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn upstreams_files_have_the_values_that_gguf_py_reads() {
    let figures: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden("figures.json")).unwrap()).unwrap();
    for (file, tensors) in figures.as_object().unwrap() {
        let importance = read(&golden(file)).unwrap();
        let tensors = tensors.as_object().unwrap();
        assert_eq!(importance.entries.keys().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());
        for (name, expected) in tensors {
            let number = |key: &str| expected[key].as_f64().unwrap();
            let counts: Vec<f32> = serde_json::from_value(expected["counts"].clone()).unwrap();
            let columns = number("columns") as usize;
            let means = importance.mean_square(name, columns, counts.len()).unwrap().unwrap();
            assert_eq!(importance.entries[name].counts, counts, "{name}");
            assert_eq!(means.len(), columns * counts.len(), "{name}");
            assert_eq!(means[0], number("first") as f32, "{name}");
            assert_eq!(*means.last().unwrap(), number("last") as f32, "{name}");
            let sum: f64 = means.iter().copied().map(f64::from).sum();
            assert!((sum / number("sum") - 1.0).abs() < 1e-12, "{name}: {sum}");
        }
    }
    let demo = read(&golden("demo.gguf")).unwrap();
    assert_eq!((demo.chunk_count, demo.chunk_size, demo.entries.len()), (2, 128, 42));
    assert_eq!(demo.datasets, ["fox.txt"]);
    assert_eq!(demo.mean_square("output.weight", 256, 1).unwrap(), None);
}

#[test]
fn rewritten_upstream_files_have_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["demo.gguf", "experts.gguf"] {
        let importance = read(&golden(name)).unwrap();
        let path = folder.path().join(name);
        importance.write(&path, false).unwrap();
        assert!(std::fs::read(&path).unwrap() == std::fs::read(golden(name)).unwrap(), "{name}");
        assert_eq!(read(&path).unwrap(), importance);
        assert!(matches!(importance.write(&path, false), Err(Error::Io(kvant_io::Error::Exists { .. }))));
        importance.write(&path, true).unwrap();
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a temporary file was left");
}

#[test]
fn the_older_format_is_written_as_upstream_writes_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.dat");
    let newer = read(&golden("experts.gguf")).unwrap();
    newer.write(&path, false).unwrap();
    let (expected, found) = (read(&golden("experts.dat")).unwrap(), read(&path).unwrap());
    assert_eq!((found.chunk_count, &found.datasets), (expected.chunk_count, &expected.datasets));
    for (name, experts) in [(PLAIN, 1), (EXPERTS, 3)] {
        let of = |importance: &Importance| importance.mean_square(name, 8, experts).unwrap().unwrap();
        assert!(of(&found).iter().zip(&of(&expected)).all(|(x, y)| (x - y).abs() <= y * 1e-6), "{name}");
    }
    assert_eq!(
        std::fs::metadata(&path).unwrap().len(),
        std::fs::metadata(golden("experts.dat")).unwrap().len()
    );
    assert!(matches!(newer.write(&path, false), Err(Error::Io(kvant_io::Error::Exists { .. }))));
    newer.write(&path, true).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file was left");
}

#[test]
fn both_formats_of_upstreams_files_give_the_same_means() {
    let (newer, older) = (read(&golden("experts.gguf")).unwrap(), read(&golden("experts.dat")).unwrap());
    assert_eq!(newer.datasets, ["routed.txt", "süß.txt"]);
    // The older format stores only the name of the last text, and no chunk size.
    assert_eq!((older.chunk_count, older.chunk_size), (4, 0));
    assert_eq!(older.datasets, ["süß.txt"]);
    for (name, experts) in [(PLAIN, 1), (EXPERTS, 3)] {
        let expected = newer.mean_square(name, 8, experts).unwrap().unwrap();
        let found = older.mean_square(name, 8, experts).unwrap().unwrap();
        for (x, y) in expected.iter().zip(&found) {
            assert!((x - y).abs() <= x * 1e-6, "{name}: {x} against {y}");
        }
    }
    let means = newer.mean_square(EXPERTS, 8, 3).unwrap().unwrap();
    assert_eq!(means[8..16], [1.0; 8], "an expert that was never used");
}

#[test]
fn a_file_in_the_older_format_is_read_and_written_as_gguf() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("by hand.dat");
    let entries: [(&[u8], i32, &[f32]); 3] =
        [(b"b", 4, &[2.0, 1.0, 0.0]), (b"a", 0, &[0.5, 0.25]), (b"c", 3, &[3.0, 6.0, 9.0, 12.0])];
    std::fs::write(&path, older(&entries, Some((7, b"text")))).unwrap();
    let importance = read(&path).unwrap();
    assert_eq!((importance.chunk_count, importance.chunk_size), (7, 0));
    assert_eq!(importance.datasets, ["text"]);
    let rewritten = folder.path().join("rewritten.gguf");
    importance.write(&rewritten, false).unwrap();
    for importance in [&importance, &read(&rewritten).unwrap()] {
        let means = |name, columns, experts| importance.mean_square(name, columns, experts).unwrap().unwrap();
        assert_eq!(means("b", 3, 1), [0.5, 0.25, 0.0]);
        assert_eq!(means("a", 2, 1), [0.5, 0.25], "without calls the values stand for themselves");
        assert_eq!(means("c", 2, 2), [1.0, 2.0, 3.0, 4.0], "one count for two experts");
    }
    // The oldest files have no trailer.
    std::fs::write(&path, older(&entries, None)).unwrap();
    let bare = read(&path).unwrap();
    assert_eq!((bare.chunk_count, &bare.datasets), (0, &Vec::new()));
    assert_eq!(bare.entries, importance.entries);
    std::fs::write(&path, older(&entries, Some((7, b"")))).unwrap();
    assert_eq!(read(&path).unwrap().datasets, [""; 0]);
}

#[test]
fn means_are_rejected_for_other_sizes_and_invalid_values() {
    let mut importance = Importance::default();
    let name = "blk.1.ffn_down.weight";
    let entry = Entry { sums: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], counts: vec![2.0, 0.0] };
    importance.entries.insert(name.into(), entry);
    assert_eq!(
        importance.mean_square(name, 3, 2).unwrap().unwrap(),
        [0.5, 1.0, 1.5, 1.0, 1.0, 1.0],
        "zero counts make ones"
    );
    for (columns, experts) in [(3, 1), (6, 2), (0, 0), (usize::MAX, 2), (4, 1)] {
        let error = importance.mean_square(name, columns, experts).unwrap_err();
        assert!(matches!(error, Error::Importance(ImportanceFault::Columns { found: 6, .. })), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("never.gguf");
    for value in [f32::NAN, f32::INFINITY, -1.0] {
        let mut broken = importance.clone();
        broken.entries.get_mut(name).unwrap().sums[4] = value;
        let error = broken.mean_square(name, 3, 2).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("expert 1, column 1"), "{error}");
        assert!(broken.write(&path, false).unwrap_err().to_string().contains("never.gguf"));
        let mut broken = importance.clone();
        broken.entries.get_mut(name).unwrap().counts[1] = value;
        let error = broken.mean_square(name, 3, 2).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("count 1"), "{error}");
        assert!(broken.write(&path, false).is_err());
    }
    for (sums, counts) in [(vec![1.0; 6], vec![1.0; 4]), (vec![1.0; 6], vec![]), (vec![], vec![1.0])] {
        let mut broken = importance.clone();
        let columns = sums.len();
        broken.entries.insert(name.into(), Entry { sums, counts });
        assert!(broken.mean_square(name, columns, 1).is_err());
        assert!(broken.write(&path, false).is_err());
    }
    let long = importance.entries[name].clone();
    importance.entries.insert("x".repeat(56), long);
    assert!(importance.write(&path, false).unwrap_err().to_string().contains("at most 55"));
    assert!(Importance::default().write(&path, false).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a file was left");
}

#[test]
fn truncated_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for name in ["demo.gguf", "experts.gguf"] {
        let good = std::fs::read(golden(name)).unwrap();
        // The last tensor is one count. Padding follows it, and a reader does not notice if it is missing.
        for end in (0..good.len() - 32).step_by(37) {
            refused(folder, &good[..end], &format!("{name} cut at {end}"));
        }
    }
    let values = vec![1.0; 100];
    let entries: [(&[u8], i32, &[f32]); 3] =
        [(b"one", 1, &values), (b"two", 1, &values), (b"three", 1, &values)];
    let by_hand = older(&entries, Some((1, b"text")));
    let bare = older(&entries, None).len();
    for good in [by_hand.as_slice(), &std::fs::read(golden("experts.dat")).unwrap()] {
        // Every 37th position, and every position near the end. A file that ends after its last entry is complete.
        for end in (0..good.len()).step_by(37).chain(good.len() - 12..good.len()) {
            if good.len() != by_hand.len() || end != bare {
                refused(folder, &good[..end], &format!("{} bytes of {}", end, good.len()));
            }
        }
    }
}

/// Changes the bytes one by one. No change causes a panic, and a file that is accepted can be used.
#[test]
fn changed_bytes_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed");
    for name in ["experts.gguf", "experts.dat"] {
        let good = std::fs::read(golden(name)).unwrap();
        for at in 0..good.len() {
            for byte in [0x00, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                std::fs::write(&path, &bytes).unwrap();
                let Ok(importance) = read(&path) else { continue };
                for (name, entry) in &importance.entries {
                    let means = importance.mean_square(name, entry.sums.len(), 1).unwrap().unwrap();
                    assert!(means.iter().all(|x| x.is_finite() && *x >= 0.0), "{name}, byte {at}");
                }
            }
        }
    }
}

#[test]
fn broken_files_in_the_older_format_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let one = |name: &[u8], calls, values: &[f32]| older(&[(name, calls, values)], Some((1, b"text")));
    let good = one(b"name", 1, &[1.0, 2.0]);
    let patched = |at: usize, number: i32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    let trailing = [good.clone(), b"more".to_vec()].concat();
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("empty", Vec::new(), "at offset 0"),
        ("no entries", 0i32.to_le_bytes().to_vec(), "count of importance entries at offset 0 is 0"),
        ("negative entries", patched(0, -1), "is -1"),
        ("absurd entries", patched(0, i32::MAX), "importance entries: 2147483647, at most"),
        ("more entries than bytes", patched(0, 1000), "16000 bytes"),
        ("negative name", patched(4, -5), "tensor name at offset 4 is -5"),
        ("absurd name", patched(4, i32::MAX), "tensor name: 2147483647"),
        ("name beyond the end", patched(4, 1 << 20), "tensor name at offset 8"),
        ("name that is no UTF-8", one(b"na\xffe", 1, &[1.0]), "tensor name at offset 8 is not UTF-8"),
        ("negative calls", patched(12, -1), "count of calls at offset 12 is -1"),
        ("no values", patched(16, 0), "count of values at offset 16 is 0"),
        ("absurd values", patched(16, i32::MAX), "values at offset 20 takes 8589934588 bytes"),
        ("negative values", patched(16, i32::MIN), "is -2147483648"),
        ("not a number", one(b"name", 1, &[1.0, f32::NAN]), "\"name\", expert 0, column 1: NaN"),
        ("negative", one(b"name", 1, &[-0.5, 1.0]), "\"name\", expert 0, column 0: -0.5"),
        ("negative chunks", patched(28, -1), "count of chunks at offset 28 is -1"),
        ("bytes left over", trailing, "4 bytes at offset 40"),
        ("dataset that is no UTF-8", older(&[(b"a", 1, &[1.0])], Some((1, b"\xc3"))), "name of the text"),
        ("one name twice", older(&[(b"a", 1, &[1.0]), (b"a", 1, &[1.0])], None), "\"a\" occurs twice"),
        ("a text", b"Once upon a time".to_vec(), "importance entries"),
    ];
    for (what, bytes, expected) in cases {
        let error = refused(folder, bytes, what);
        assert!(error.contains(expected), "{what}: {error}");
    }
    assert!(read(&folder.join("absent")).unwrap_err().to_string().contains("absent"));
    assert!(read(folder).is_err());
}

#[test]
fn broken_gguf_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("made.gguf");
    type Made<'a> = (&'a str, &'a [usize], &'a str, Vec<u8>);
    let check = |what: &str, metadata: &Metadata, tensors: &[Made], expected: &str| {
        gguf(&path, metadata, tensors);
        let error = refused(folder, &std::fs::read(&path).unwrap(), what);
        assert!(error.contains(expected), "{what}: {error}");
    };
    let sums = || ("a.in_sum2", &[2usize, 4] as &[usize], "f32", floats(&[1.0; 8]));
    let counts = || ("a.counts", &[2usize, 1] as &[usize], "f32", floats(&[1.0; 2]));
    gguf(&path, &metadata(), &[counts(), ("other", &[3], "f16", vec![0; 6]), sums()]);
    assert_eq!(read(&path).unwrap().mean_square("a", 4, 2).unwrap().unwrap(), [1.0; 8]);

    for key in ["general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"] {
        let mut without = metadata();
        without.retain(|k| k != key);
        check(key, &without, &[sums(), counts()], &format!("{key:?} must be"));
        for value in [
            Value::String("model".repeat(1000)),
            Value::Array(Array::I32(vec![0; 1000])),
            Value::I64(-1),
            Value::U64(1 << 32),
            Value::F32(1.0),
        ] {
            let mut wrong = metadata();
            wrong.set(key, value);
            check(key, &wrong, &[sums(), counts()], &format!("{key:?} must be"));
        }
    }
    let good = metadata();
    check("nothing", &good, &[], "no importance entry");
    check("other tensors only", &good, &[("a.weight", &[1], "f32", floats(&[1.0]))], "no importance entry");
    check("no counts", &good, &[sums()], "lacks the tensor a.counts");
    check("no sums", &good, &[counts()], "lacks the tensor a.in_sum2");
    check("sums in f16", &good, &[("a.in_sum2", &[2, 4], "f16", vec![0; 16]), counts()], "format f16");
    check("counts in f16", &good, &[sums(), ("a.counts", &[2, 1], "f16", vec![0; 4])], "format f16");
    check(
        "more counts than rows",
        &good,
        &[sums(), ("a.counts", &[4], "f32", floats(&[1.0; 4]))],
        "as many rows as there are counts",
    );
    let odd = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, f32::INFINITY, 1.0];
    check(
        "infinite",
        &good,
        &[("a.in_sum2", &[2, 4], "f32", floats(&odd)), counts()],
        "expert 1, column 2: inf",
    );
    check("count", &good, &[sums(), ("a.counts", &[2], "f32", floats(&[1.0, f32::NAN]))], "count 1 is NaN");
    check("negative", &good, &[sums(), ("a.counts", &[2], "f32", floats(&[-1.0, 1.0]))], "count 0 is -1");
    let model = golden("../models/plain/model.gguf");
    assert!(read(&model).unwrap_err().to_string().contains("general.type"));
}
