//! GGUF models in several files.

use kvant_core::{Bytes, Shape, Tensor, format};
use kvant_io::{Array, Error, Limits, Meta, Metadata, Plan, PlannedTensor, Value, create, open};
use std::path::{Path, PathBuf};

/// Writes one part with the tensors `first..first + 2`, and returns its path.
fn part(folder: &Path, number: u16, count: u16, first: usize, all: i32) -> PathBuf {
    let path = folder.join(format!("model-{:05}-of-{count:05}.gguf", number + 1));
    let mut metadata = Metadata::default();
    if number == 0 {
        metadata.set("general.architecture", Value::String("llama".into()));
        metadata.set("list", Value::Array(Array::U32(vec![1, 2])));
    }
    metadata.set("split.no", Value::U16(number));
    metadata.set("split.count", Value::U16(count));
    metadata.set("split.tensors.count", Value::I32(all));
    let shape = Shape::new(&[2, 4]).unwrap();
    let planned = |i: usize| PlannedTensor { name: format!("tensor.{i}"), shape, format: &format::F32 };
    let plan = Plan { metadata, tensors: (first..first + 2).map(planned).collect() };
    let mut sink = create(&path, &plan, true).unwrap();
    for i in first..first + 2 {
        let bytes: Vec<u8> = [i as f32; 8].iter().flat_map(|x| x.to_le_bytes()).collect();
        sink.put(&format!("tensor.{i}"), &Tensor::new(shape, &format::F32, Bytes::from(bytes)).unwrap())
            .unwrap();
    }
    sink.finish().unwrap();
    path
}

fn fault(path: &Path) -> String {
    open(path, &Limits::default()).err().expect("a fault").to_string()
}

#[test]
fn any_part_opens_the_whole_model() {
    let folder = tempfile::tempdir().unwrap();
    let parts = [0, 1, 2].map(|i| part(folder.path(), i, 3, 2 * usize::from(i), 6));
    for path in &parts {
        let model = open(path, &Limits::default()).unwrap();
        assert_eq!(model.path(), path);
        let names: Vec<&str> = model.tensors().iter().map(|info| info.name.as_str()).collect();
        assert_eq!(names, ["tensor.0", "tensor.1", "tensor.2", "tensor.3", "tensor.4", "tensor.5"]);
        for i in 0..6 {
            let name = format!("tensor.{i}");
            assert_eq!(model.tensor(&name).unwrap().decode(), [i as f32; 8]);
            assert_eq!(model.stored_bytes(&name).unwrap().len(), 32);
            assert_eq!(model.info(&name).unwrap().name, name);
        }
        assert!(matches!(model.tensor("tensor.6"), Err(Error::MissingTensor { .. })));
        let Meta::Gguf(metadata) = model.meta() else { panic!("metadata") };
        let keys: Vec<&str> = metadata.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["general.architecture", "list"]);
    }
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second, third] = [0, 1, 2].map(|i| part(folder.path(), i, 3, 2 * usize::from(i), 6));
    let renamed = folder.path().join("other.gguf");
    std::fs::copy(&second, &renamed).unwrap();
    assert!(
        fault(&renamed).contains("needs a name that ends in -00002-of-00003.gguf"),
        "{}",
        fault(&renamed)
    );
    // The file of another part under this name.
    std::fs::copy(&third, &second).unwrap();
    assert!(fault(&first).contains("00002-of-00003.gguf: belongs to another model"), "{}", fault(&first));
    std::fs::remove_file(&second).unwrap();
    let missing = fault(&third);
    assert!(missing.contains("00002-of-00003.gguf: is missing: the model has 3 parts"), "{missing}");
    // The same tensors again.
    part(folder.path(), 1, 3, 0, 6);
    assert!(fault(&first).contains("tensor.0"), "{}", fault(&first));
    part(folder.path(), 1, 3, 2, 6);
    part(folder.path(), 0, 3, 0, 7);
    assert!(fault(&first).contains("is incomplete: 6 of 7 tensors"), "{}", fault(&first));
}
