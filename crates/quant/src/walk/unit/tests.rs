//! Tests of saving and loading units, and of work folders that are damaged or belong to other runs.

use super::*;
use crate::gather::ActivationFile;
use crate::solve::Flag;
use crate::work_folder::{KEY, LOCK};
use kvant_core::{Bytes, Shape, Tensor, format};
use std::fs;

fn unit(fill: u8) -> Unit {
    let shape = Shape::new(&[2, 32]).unwrap();
    let tensor = Tensor::new(shape, &format::Q4_0, Bytes::from(vec![fill; 36])).unwrap();
    let solved = Solved {
        tensor,
        squared_error: 0.1,
        squared_sum: 1.0 / 3.0,
        not_finite: None,
        overflow: None,
        flags: vec![Flag::Lattice],
        chosen: Some(Settings { correction_damping: None, ..Settings::default() }),
    };
    Unit { tensors: vec![("a.weight".into(), solved)], residuals: Some(("f".into(), "q".into())) }
}

fn key(of: &str) -> String {
    blake3::hash(of.as_bytes()).to_hex().to_string()
}

fn plan() -> Vec<PlannedTensor> {
    let shape = Shape::new(&[2, 32]).unwrap();
    vec![PlannedTensor { name: "a.weight".into(), shape, format: &format::Q4_0 }]
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn loading_returns_the_saved_content() {
    let folder = tempfile::tempdir().unwrap();
    let work = WorkFolder::open(folder.path(), &key("one"), false).unwrap();
    assert!(Unit::load(&work, "block-0000", &plan()).unwrap().is_none());
    unit(7).save(&work, "block-0000").unwrap();
    let loaded = Unit::load(&work, "block-0000", &plan()).unwrap().unwrap();
    let (expected, found) = (&unit(7).tensors[0], &loaded.tensors[0]);
    assert_eq!(found.0, expected.0);
    assert!(found.1.tensor.bytes()[..] == expected.1.tensor.bytes()[..]);
    assert_eq!(found.1.squared_sum, expected.1.squared_sum);
    assert_eq!((&found.1.flags, found.1.chosen), (&expected.1.flags, expected.1.chosen));
    assert_eq!(loaded.residuals, unit(7).residuals);
    assert!(work.load_tokens("own-text-0000", 2, 9).unwrap().is_none());
    work.save_tokens("own-text-0000", &[7, 8]).unwrap();
    assert_eq!(work.load_tokens("own-text-0000", 2, 9).unwrap().unwrap(), [7, 8]);
    for (count, vocabulary) in [(1, 9), (3, 9), (2, 8), (usize::MAX, 9)] {
        assert!(work.load_tokens("own-text-0000", count, vocabulary).is_err(), "{count} {vocabulary}");
    }
    work.save_floats("head-input", &[0.5, f32::NAN]).unwrap();
    assert_eq!(work.load_floats("head-input", 2).unwrap()[0], 0.5);
    assert!(work.load_floats("head-input", 1).is_err() && work.load_floats("head-input", 3).is_err());
    std::fs::write(work.path("own-text-0000.tokens"), [0; 40]).unwrap();
    assert!(matches!(work.load_tokens("own-text-0000", 2, 9), Err(Error::WorkDamaged { .. })));
    let path = work.path("block-0000.unit");
    let good = std::fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert!(
            matches!(Unit::load(&work, "block-0000", &plan()), Err(Error::WorkDamaged { .. })),
            "byte {at}"
        );
        std::fs::write(&path, &good[..at]).unwrap();
        assert!(
            matches!(Unit::load(&work, "block-0000", &plan()), Err(Error::WorkDamaged { .. })),
            "cut at {at}"
        );
    }
}

#[test]
fn a_file_of_another_run_or_under_another_name_is_refused() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let work = ["one", "two"].map(key).into_iter().zip(&folders);
    let [one, two]: [WorkFolder; 2] = work
        .map(|(key, folder)| WorkFolder::open(folder.path(), &key, false).unwrap())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap_or_else(|_| unreachable!());
    unit(7).save(&one, "block-0000").unwrap();
    for to in [one.path("block-0001.unit"), two.path("block-0000.unit")] {
        fs::copy(one.path("block-0000.unit"), to).unwrap();
    }
    assert!(Unit::load(&one, "block-0000", &plan()).unwrap().is_some());
    assert!(matches!(Unit::load(&one, "block-0001", &plan()), Err(Error::WorkDamaged { .. })));
    assert!(matches!(Unit::load(&two, "block-0000", &plan()), Err(Error::WorkDamaged { .. })));
}

/// Every person who can read the key can compute a valid digest, so the content must be checked too.
#[test]
fn a_unit_with_a_digest_holds_the_planned_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let work = WorkFolder::open(folder.path(), &key("one"), false).unwrap();
    let header = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = serde_json::json!({
            "tensors": [{ "name": "a.weight", "format": "q4_0", "dimensions": [2, 32], "squared_error": 0.1,
                "squared_sum": 0.2, "flags": [], "chosen": null }],
            "residuals": null
        });
        change(&mut json);
        json.to_string()
    };
    let load = |json: &str, length: u64, data: usize| {
        let content = [&length.to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat();
        work.save_sealed("head.unit", content).unwrap();
        Unit::load(&work, "head", &plan())
    };
    let whole = header(&|_| {});
    assert!(load(&whole, whole.len() as u64, 36).unwrap().is_some());
    for (length, data) in
        [(whole.len() as u64, 35), (whole.len() as u64, 37), (u64::MAX, 36), (0, 36), (1 << 40, 36)]
    {
        assert!(load(&whole, length, data).is_err(), "{length} {data}");
    }
    let set = |pointer: &'static str, value: serde_json::Value| {
        header(&|json| *json.pointer_mut(pointer).expect("a place in the header") = value.clone())
    };
    use serde_json::json;
    for changed in [
        set("/tensors/0/name", json!("b.weight")),
        set("/tensors/0/format", json!("q8_0")),
        set("/tensors/0/format", json!("nothing")),
        set("/tensors/0/dimensions", json!([1, 64])),
        set("/tensors/0/dimensions", json!([2, 64])),
        set("/tensors/0/dimensions", json!([])),
        set("/tensors/0/dimensions", json!([u64::MAX, u64::MAX])),
        set("/tensors/0/dimensions", json!(vec![1; 1000])),
        set("/tensors/0/squared_sum", json!(-1.0)),
        set("/tensors/0/flags", json!(["unheard-of"])),
        set("/tensors/0/chosen", json!({ "damping": -1.0, "correction_damping": null, "sweeps": 1 })),
        set("/tensors/0/chosen", json!({ "damping": 1.0, "correction_damping": null, "sweeps": u64::MAX })),
        set("/tensors", json!([])),
        header(&|json| {
            let tensors = json["tensors"].as_array_mut().unwrap();
            tensors.push(tensors[0].clone());
        }),
        "[".repeat(1 << 16),
        " ".repeat(MAX_HEADER_BYTES + 1),
    ] {
        let error = load(&changed, changed.len() as u64, 36).err().expect("an error");
        assert!(error.to_string().contains("head.unit"), "{error}");
    }
}

#[test]
fn a_folder_belongs_to_one_run_and_other_files_stay() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = ["block-1.unit", "download.part", "notes.unit", "samples.f32"];
    theirs.iter().for_each(|name| std::fs::write(folder.path().join(name), name).unwrap());
    let open = |of: &str, fresh| WorkFolder::open(folder.path(), &key(of), fresh);
    let work = open("one", false).unwrap();
    unit(1).save(&work, "head").unwrap();
    assert!(matches!(open("one", false), Err(Error::WorkInUse { .. })));
    drop(work);
    assert!(matches!(open("two", false), Err(Error::WorkOfAnother { .. })));
    let work = open("one", false).unwrap();
    assert!(Unit::load(&work, "head", &plan()).unwrap().is_some());
    drop(work);
    let work = open("two", true).unwrap();
    assert!(Unit::load(&work, "head", &plan()).unwrap().is_none());
    work.remove();
    assert_eq!(names(folder.path()), theirs);
}

#[test]
fn a_damaged_key_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let open = |fresh| WorkFolder::open(folder.path(), &key("one"), fresh);
    unit(1).save(&open(false).unwrap(), "head").unwrap();
    let path = folder.path().join(KEY);
    let all = names(folder.path());
    for bytes in [&b""[..], b"\xff\xfe", &[b'a'; 63], &[b'g'; 64], &[b'a'; 5000]] {
        fs::write(&path, bytes).unwrap();
        assert!(open(false).err().expect("an error").to_string().contains("key"));
        assert_eq!(names(folder.path()), all);
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(open(false), Err(Error::WorkWithoutKey { .. })));
    // A run was killed before it wrote its key. Its temporary file is not saved work.
    fs::remove_file(folder.path().join("head.unit")).unwrap();
    fs::write(folder.path().join(".key.Ab3dEf.part"), "half").unwrap();
    drop(open(false).unwrap());
    assert_eq!(names(folder.path()), [KEY, LOCK]);
    fs::write(&path, b"\xff").unwrap();
    drop(open(true).unwrap());
    assert_eq!(fs::read(&path).unwrap(), key("one").as_bytes());
}

#[cfg(unix)]
#[test]
fn links_are_neither_followed_nor_removed() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let (folder, victim) = (root.path().join("work"), root.path().join("victim"));
    fs::write(&victim, "precious").unwrap();
    let open = |fresh| WorkFolder::open(&folder, &key("one"), fresh);
    for name in [KEY, LOCK, "head.unit", "own-text-0000.tokens", "head-input.sums", "input-float.f32"] {
        for hard in [false, true] {
            fs::create_dir(&folder).unwrap();
            if name != KEY {
                fs::write(folder.join(KEY), key("one")).unwrap();
            }
            let link = folder.join(name);
            if hard {
                fs::hard_link(&victim, &link).unwrap()
            } else {
                symlink("../victim", &link).unwrap()
            }
            let read = || -> Result<(), Error> {
                let work = open(false)?;
                Unit::load(&work, "head", &plan())?;
                work.load_tokens("own-text-0000", 2, 9)?;
                work.load_floats("head-input", 2)?;
                ActivationFile::open(&work.path("input-float.f32"), 1).map(drop)
            };
            let error = read().unwrap_err().to_string();
            assert!(
                error.contains(name) || name == "input-float.f32" && error.contains("head-input"),
                "{error}"
            );
            assert!(link.symlink_metadata().is_ok(), "{name}");
            if !hard {
                assert!(open(true).is_err(), "{name}: --fresh");
                assert!(link.symlink_metadata().is_ok(), "{name}: --fresh");
            }
            assert_eq!(fs::read(&victim).unwrap(), b"precious", "{name}");
            fs::remove_dir_all(&folder).unwrap();
        }
    }
    symlink("elsewhere", &folder).unwrap();
    fs::create_dir(root.path().join("elsewhere")).unwrap();
    for spelling in [folder.clone(), folder.join(""), folder.join("."), "".into(), victim.clone()] {
        assert!(matches!(WorkFolder::open(&spelling, &key("one"), true), Err(Error::WorkFolder { .. })));
    }
    assert_eq!(names(&root.path().join("elsewhere")), [""; 0]);
}
