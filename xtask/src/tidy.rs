//! What the compiler does not hold: arrows between crates point down only, files of a crate import each other one way
//! only, files stay short, unsafe stays where it may be, and no family of networks is named outside `arch/`.

mod imports;

use kvant::model::ARCHITECTURES;
use std::path::{Path, PathBuf};

/// Each crate and the crates it may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("io", &["core"]),
    ("kernels", &["core"]),
    ("model", &["core", "io", "kernels"]),
    ("eval", &["core", "io", "kernels", "model"]),
    ("quant", &["core", "io", "kernels", "model", "eval"]),
    ("report", &[]),
    ("kvant", &["core", "io", "kernels", "model", "eval", "quant", "report"]),
    ("cli", &[]),
];

/// Crates whose files import each other one way only.
const WITHOUT_CIRCLES: &[&str] = &["kernels", "eval", "quant", "report", "kvant", "cli"];

/// Lines that a source file may have.
const LONGEST_FILE: usize = 800;

/// Every breach, in words.
pub fn run(root: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, allowed) in ARROWS {
        let manifest = root.join("crates").join(name).join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest).unwrap_or_default();
        for line in text.lines().filter_map(|l| l.strip_prefix("kvant-")) {
            let used = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if !allowed.contains(&used) {
                faults.push(format!("{}: may not use kvant-{used}", manifest.display()));
            }
        }
    }
    for name in WITHOUT_CIRCLES {
        faults.extend(imports::circles(&root.join("crates").join(name).join("src")));
    }
    let mut files = Vec::new();
    collect(&root.join("crates"), &mut files);
    collect(&root.join("xtask/src"), &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let lines = text.lines().count();
        if lines > LONGEST_FILE {
            faults.push(format!("{}: {lines} lines, at most {LONGEST_FILE}", file.display()));
        }
        let path = file.to_string_lossy();
        let may_be_unsafe = path.contains("crates/kernels/")
            || ["mmap", "guard", "signals", "allocator"]
                .iter()
                .any(|file| path.ends_with(&format!("io/src/{file}.rs")))
            || path.contains("tests/");
        let word = ["un", "safe {"].concat();
        if !may_be_unsafe && text.contains(&word) {
            faults.push(format!("{}: unsafe code outside kernels and four files of io", file.display()));
        }
        // Vocabularies of GGUF files have such names, too.
        let may_name = ["model/src/arch/", "model/src/tokenizer/", "/tests/", "xtask/"];
        if !may_name.iter().any(|place| path.contains(place)) {
            for name in ARCHITECTURES.iter().map(|family| family.name()) {
                if text.contains(&format!("\"{name}\"")) || text.contains(&format!("\"{name}.")) {
                    faults.push(format!("{}: names the family {name}", file.display()));
                }
            }
        }
    }
    faults
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}
