//! Checks rules that the compiler does not check: a crate depends only on the crates below it, files of a crate do not
//! import each other in a circle, files are short, unsafe code is only in certain files, and families of networks are
//! named only in `arch/`.

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
    ("serve", &[]),
    ("cli", &["serve"]),
];

/// Crates whose files must not import each other in a circle.
const WITHOUT_CIRCLES: &[&str] = &["kernels", "eval", "quant", "report", "kvant", "serve", "cli"];

/// Maximum number of lines of a source file.
const LONGEST_FILE: usize = 800;

/// Returns every violation as text.
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
        // The tokenizer may use these names, because some vocabularies of GGUF files have the same names.
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
