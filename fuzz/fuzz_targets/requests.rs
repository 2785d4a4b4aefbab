//! `cargo +nightly fuzz run requests`: runs the target `requests` of `xtask/src/fuzz/targets.rs`.
#![no_main]

#[path = "../../xtask/src/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let target = targets::TARGETS.iter().find(|t| t.name == "requests").expect("a target of this name");
    let folder = tempfile::tempdir().expect("a temporary folder");
    (target.feed)(folder.path(), bytes);
});
