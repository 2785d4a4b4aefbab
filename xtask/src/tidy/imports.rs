//! Finds circles of imports between the files of a crate.
//!
//! Follows each Rust path that begins with `crate`, `super` or `self` through modules and `pub use` to the file that
//! has the item. Not covered here: tests, and paths that a macro creates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module: its file, the names that it exports from other modules, and the Rust paths that it uses.
#[derive(Default)]
struct Module {
    file: PathBuf,
    exports: BTreeMap<String, Vec<String>>,
    uses: Vec<Vec<String>>,
}

/// The modules by their Rust path. `[]` is the root of the crate.
type Modules = BTreeMap<Vec<String>, Module>;

/// Returns, as texts, all circles of files in the crate with sources in `root`.
pub fn circles(root: &Path) -> Vec<String> {
    let mut modules = Modules::new();
    read(root, &mut Vec::new(), &mut modules);
    let mut edges: BTreeMap<&[String], BTreeSet<&[String]>> = BTreeMap::new();
    for (path, module) in &modules {
        let to = module.uses.iter().filter_map(|used| resolve(&modules, path, used, 0));
        edges.insert(path, to.filter(|to| *to != path.as_slice()).collect());
    }
    let mut faults = Vec::new();
    let mut done = BTreeSet::new();
    for start in modules.keys() {
        let mut way = Vec::new();
        if let Some(circle) = circle(start, &edges, &mut done, &mut way) {
            let files: Vec<String> = circle.iter().map(|m| modules[*m].file.display().to_string()).collect();
            faults.push(format!("files import each other in a circle: {}", files.join(" → ")));
        }
    }
    faults
}

/// Returns a circle that can be reached from `at` and was not seen before, if there is one.
fn circle<'a>(
    at: &'a [String],
    edges: &BTreeMap<&'a [String], BTreeSet<&'a [String]>>,
    done: &mut BTreeSet<&'a [String]>,
    way: &mut Vec<&'a [String]>,
) -> Option<Vec<&'a [String]>> {
    if let Some(first) = way.iter().position(|seen| *seen == at) {
        return Some(way[first..].iter().copied().chain([at]).collect());
    }
    if done.contains(at) {
        return None;
    }
    way.push(at);
    let found = edges.get(at).into_iter().flatten().find_map(|next| circle(next, edges, done, way));
    way.pop();
    done.insert(at);
    found
}

/// Reads the modules of a folder: `lib.rs` or `mod.rs`, other files, and folders.
fn read(folder: &Path, path: &mut Vec<String>, modules: &mut Modules) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.path();
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if file.is_dir() {
            path.push(name);
            read(&file, path, modules);
            path.pop();
        } else if name != "tests" && name != "main" && file.extension().is_some_and(|e| e == "rs") {
            let mut own = path.clone();
            if name != "lib" && name != "mod" {
                own.push(name);
            }
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            modules.insert(own, module(file, &text));
        }
    }
}

/// Returns the Rust paths that a file uses and exports.
fn module(file: PathBuf, text: &str) -> Module {
    let mut module = Module { file, ..Module::default() };
    let text: String = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut rest = &*text;
    while let Some(at) = rest.find("use ") {
        let before = &rest[..at];
        let is_statement = before.rsplit('\n').next().is_some_and(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with("pub")
        });
        let end = rest[at..].find(';').map_or(rest.len(), |end| at + end);
        if is_statement {
            let exports = before.rsplit('\n').next().is_some_and(|line| line.contains("pub"));
            for (name, used) in expanded(&rest[at + 4..end]) {
                if exports {
                    module.exports.insert(name, used);
                } else {
                    module.uses.push(used);
                }
            }
            rest = &rest[end..];
        } else {
            rest = &rest[at + 4..];
        }
    }
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let path: String = text[at..].chars().take_while(|&c| is_path(c)).collect();
            module.uses.push(path.split("::").map(str::to_owned).collect());
        }
    }
    module
}

/// Returns the Rust paths of a `use`, each with the name that it gets.
fn expanded(tree: &str) -> Vec<(String, Vec<String>)> {
    let tree = tree.trim();
    if let Some((prefix, group)) = tree.split_once('{') {
        let prefix: Vec<String> =
            prefix.split("::").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
        let group = group.strip_suffix('}').unwrap_or(group);
        let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
        let commas = group.char_indices().chain([(group.len(), ',')]);
        for (at, c) in commas {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    for (name, path) in expanded(&group[start..at]) {
                        paths.push((name, prefix.iter().cloned().chain(path).collect()));
                    }
                    start = at + 1;
                }
                _ => {}
            }
        }
        return paths;
    }
    let (path, name) = tree.split_once(" as ").unwrap_or((tree, tree));
    let path: Vec<String> =
        path.split("::").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect();
    let name = name.rsplit("::").next().unwrap_or_default().trim().to_owned();
    if path.is_empty() { Vec::new() } else { vec![(name, path)] }
}

/// Returns the module that has the item with the Rust path `path`, as seen from the module `from`.
fn resolve<'a>(modules: &'a Modules, from: &[String], path: &[String], depth: usize) -> Option<&'a [String]> {
    let mut segments = path.iter().peekable();
    let mut at: Vec<String> = match segments.peek()?.as_str() {
        "crate" => Vec::new(),
        "super" | "self" => from.to_vec(),
        child => {
            let mut inside = from.to_vec();
            inside.push(child.to_owned());
            // A path into another crate.
            if !modules.contains_key(&inside) {
                return None;
            }
            from.to_vec()
        }
    };
    while let Some(word) = segments.peek().map(|s| s.as_str()) {
        match word {
            "crate" | "self" => {}
            "super" => drop(at.pop()),
            _ => break,
        }
        segments.next();
    }
    for segment in segments {
        at.push(segment.clone());
        if modules.contains_key(&at) {
            continue;
        }
        at.pop();
        let export = modules.get(&at)?.exports.get(segment);
        return match export {
            Some(export) if depth < 8 => resolve(modules, &at, export, depth + 1),
            _ => modules.get_key_value(&at).map(|(path, _)| path.as_slice()),
        };
    }
    // The path is a module, because functions can be called through it.
    modules.get_key_value(&at).map(|(path, _)| path.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_found_through_an_export() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::create_dir(folder.path().join("b")).unwrap();
        write("lib.rs", "mod a;\nmod b;\npub use b::{One, c::Two};\n");
        write("a.rs", "use crate::{One, Two as Other};\n");
        write("b/mod.rs", "pub mod c;\npub use c::One;\n");
        write("b/c.rs", "pub struct One;\n");
        assert_eq!(circles(folder.path()), Vec::<String>::new());
        write("b/c.rs", "pub struct One;\n// use crate::a::Four;\nfn f() { crate::a::three() }\n");
        let found = circles(folder.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("a.rs") && found[0].contains("c.rs"), "{found:?}");
    }
}
