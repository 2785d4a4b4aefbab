//! Broken files. The reader returns an error that names the file. It does not panic and does not allocate much memory.

use kvant_core::{Bytes, Shape, Tensor, format};
use kvant_io::{Array, Checkpoint, Error, Limits, Metadata, Plan, PlannedTensor, Value};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An allocator that counts the live heap bytes and stores their maximum.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code)]
// SAFETY: every call passes its arguments unchanged to the allocator of the system, which meets the contract of
// `GlobalAlloc`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller meets the contract of `GlobalAlloc::alloc`, and `System` has the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller meets the contract of `GlobalAlloc::dealloc`. `pointer` comes from `System`, because
        // `alloc` passes every request to it.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Maximum number of heap bytes for the attempt to read a broken file.
const MOST_BYTES: usize = 64 << 20;

fn plan() -> Plan {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::String("llama".into()));
    metadata.set("tokens", Value::Array(Array::String((0..40).map(|i| format!("token {i}")).collect())));
    metadata.set("scores", Value::Array(Array::F32(vec![0.5; 40])));
    metadata.set("count", Value::U64(7));
    let tensor = |name: &str, dimensions: &[usize], format| PlannedTensor {
        name: name.into(),
        shape: Shape::new(dimensions).unwrap(),
        format: format::by_name(format).unwrap(),
    };
    Plan { metadata, tensors: vec![tensor("a.weight", &[3, 64], "q4_0"), tensor("b.weight", &[5], "f32")] }
}

fn good(folder: &Path) -> Vec<u8> {
    let path = folder.join("good.gguf");
    let plan = plan();
    let mut sink = kvant_io::create(&path, &plan, true).unwrap();
    for planned in plan.tensors.iter().rev() {
        let bytes = vec![1u8; planned.format.tensor_bytes(&planned.shape).unwrap()];
        sink.put(&planned.name, &Tensor::new(planned.shape, planned.format, Bytes::from(bytes)).unwrap())
            .unwrap();
    }
    sink.finish().unwrap();
    std::fs::read(&path).unwrap()
}

/// Writes a file with these bytes, opens it and reads every tensor.
fn open(folder: &Path, name: &str, bytes: &[u8]) -> Result<Box<dyn Checkpoint>, Error> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    let checkpoint = kvant_io::open(&path, &Limits::default())?;
    for info in checkpoint.tensors() {
        checkpoint.tensor(&info.name)?.decode();
    }
    Ok(checkpoint)
}

fn refused(folder: &Path, name: &str, bytes: &[u8], what: &str) {
    PEAK.store(LIVE.load(Ordering::Relaxed), Ordering::Relaxed);
    let before = LIVE.load(Ordering::Relaxed);
    let Err(error) = open(folder, name, bytes) else { panic!("{what}: was taken") };
    let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    assert!(peak < MOST_BYTES, "{what}: {peak} bytes of heap");
    assert!(error.to_string().contains(name), "{what}: the error names no path: {error}");
}

/// All cases are in one test, because the allocator counts the heap bytes of the whole process.
#[test]
fn broken_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let good = good(folder);
    assert_eq!(open(folder, "good.gguf", &good).unwrap().tensors().len(), 2);

    for end in (0..good.len() - 32).step_by(37) {
        refused(folder, "cut.gguf", &good[..end], &format!("cut at {end}"));
    }
    let find = |text: &str| good.windows(text.len()).position(|w| w == text.as_bytes()).unwrap();
    let patched = |at: usize, bytes: &[u8]| {
        let mut copy = good.clone();
        copy[at..at + bytes.len()].copy_from_slice(bytes);
        copy
    };
    let huge = u64::MAX.to_le_bytes();
    let info = find("a.weight") + 8;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("bad magic", patched(0, b"GGUX")),
        ("version 1", patched(4, &1u32.to_le_bytes())),
        ("big endian", patched(4, &3u32.to_be_bytes())),
        ("absurd tensor count", patched(8, &huge)),
        ("absurd metadata count", patched(16, &huge)),
        ("absurd key length", patched(24, &huge)),
        ("absurd array length", patched(find("tokens") + 6 + 8, &huge)),
        ("unknown value type", patched(find("count") + 5, &99u32.to_le_bytes())),
        ("key that is no UTF-8", patched(find("count"), &[0xff, 0xfe])),
        ("five dimensions", patched(info, &5u32.to_le_bytes())),
        ("no dimensions", patched(info, &0u32.to_le_bytes())),
        ("zero rows", patched(info + 12, &0u64.to_le_bytes())),
        ("absurd dimension", patched(info + 4, &huge)),
        ("rows that are not whole blocks", patched(info + 4, &63u64.to_le_bytes())),
        ("unknown tensor type", patched(info + 20, &4096u32.to_le_bytes())),
        ("type that is not read", patched(info + 20, &10u32.to_le_bytes())),
        ("offset beyond the file", patched(info + 24, &(1u64 << 40).to_le_bytes())),
        ("offset that overflows", patched(info + 24, &(u64::MAX - 31).to_le_bytes())),
        ("misaligned offset", patched(info + 24, &1u64.to_le_bytes())),
        ("overlapping tensors", patched(find("b.weight") + 8 + 4 + 8 + 4, &0u64.to_le_bytes())),
        ("one name twice", patched(find("b.weight"), b"a.weight")),
    ];
    for (what, bytes) in &cases {
        refused(folder, "bad.gguf", bytes, what);
    }

    std::fs::write(folder.join("config.json"), "{}").unwrap();
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert!(open(folder, "good.safetensors", &file(one, 8)).is_ok());
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("header longer than the file", huge.to_vec()),
        ("no JSON", file("not json", 0)),
        ("data missing", file(one, 4)),
        ("data left over", file(one, 12)),
        ("length that contradicts the shape", file(&one.replace("[2]", "[3]"), 8)),
        ("absurd shape", file(&one.replace("[2]", "[4294967296,4294967296,4]"), 8)),
        ("offsets in the wrong order", file(&one.replace("[0,8]", "[8,0]"), 8)),
        ("one name twice", file(&format!("{},{}", &one[..one.len() - 1], &one[1..]), 8)),
        ("overlap", file(&format!("{},{}", &one[..one.len() - 1], &one[1..].replace("\"a\"", "\"b\"")), 8)),
    ];
    for (what, bytes) in &cases {
        refused(folder, "bad.safetensors", bytes, what);
    }
    let index = folder.join("sharded");
    std::fs::create_dir(&index).unwrap();
    std::fs::write(index.join("config.json"), "{}").unwrap();
    for shard in ["../good.safetensors", "/etc/passwd", "missing.safetensors"] {
        let json = format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#);
        std::fs::write(index.join("model.safetensors.index.json"), json).unwrap();
        assert!(kvant_io::open(&index, &Limits::default()).is_err(), "{shard}");
    }
}

#[test]
fn a_sink_keeps_its_plan_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let plan = plan();
    let sink = kvant_io::create(&path, &plan, false).unwrap();
    assert!(matches!(sink.finish(), Err(Error::NotPut { missing: 2, .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a temporary file was left");
    std::fs::write(&path, "mine").unwrap();
    assert!(matches!(kvant_io::create(&path, &plan, false), Err(Error::Exists { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}
