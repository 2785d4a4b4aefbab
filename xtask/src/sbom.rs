//! Writes the parts list of the program (SBOM) as CycloneDX 1.5: every crate that is built into `kvant`.
//!
//! The data comes from `cargo metadata` and `Cargo.lock`, so that no other tool is needed. The same source tree gives
//! the same bytes, because the list contains no time and no random number. Crates that only tests use are not listed.
//! Crates for other operating systems are listed, because there is one list for all systems.

use clap::Args;
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package whose parts are listed.
const PROGRAM: &str = "kvant-cli";

/// `cargo xtask sbom`.
#[derive(Args)]
pub struct Sbom {
    /// Output file
    #[arg(short, long)]
    output: PathBuf,
}

/// Runs the command. Returns the faults as texts.
pub fn run(root: &Path, arguments: &Sbom) -> Vec<String> {
    let text = metadata(root).and_then(|metadata| {
        let path = root.join("Cargo.lock");
        let lock = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(format!("{:#}\n", list(&metadata, &lock)?))
    });
    let written = text.and_then(|text| {
        std::fs::write(&arguments.output, text).map_err(|e| format!("{}: {e}", arguments.output.display()))
    });
    written.err().into_iter().collect()
}

fn metadata(root: &Path) -> Result<Json, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--locked"]).current_dir(root);
    let output = command.output().map_err(|e| format!("cargo metadata: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata: {e}"))
}

/// Creates the list from the output of `cargo metadata` and from `Cargo.lock`.
fn list(metadata: &Json, lock: &str) -> Result<Json, String> {
    let missing = |what: &str| format!("cargo metadata: {what} is missing");
    let array = |value: &Json, what: &str| value.as_array().cloned().ok_or_else(|| missing(what));
    let packages: BTreeMap<String, Json> = array(&metadata["packages"], "packages")?
        .into_iter()
        .map(|package| (package["id"].as_str().unwrap_or_default().to_owned(), package))
        .collect();
    let nodes: BTreeMap<String, Vec<String>> = array(&metadata["resolve"]["nodes"], "resolve.nodes")?
        .iter()
        .map(|node| (node["id"].as_str().unwrap_or_default().to_owned(), used(node)))
        .collect();
    let program = packages.iter().find(|(_, package)| package["name"] == PROGRAM);
    let (program, _) = program.ok_or_else(|| missing(PROGRAM))?;
    let (mut found, mut open) = (BTreeSet::new(), vec![program.clone()]);
    while let Some(id) = open.pop() {
        if found.insert(id.clone()) {
            open.extend(nodes.get(&id).into_iter().flatten().cloned());
        }
    }
    let checksums = checksums(lock);
    let reference = |id: &String| packages.get(id).map(purl).unwrap_or_default();
    let mut components: Vec<Json> = found
        .iter()
        .filter(|id| *id != program)
        .filter_map(|id| packages.get(id))
        .map(|package| component(package, "library", &checksums))
        .collect();
    components.sort_by_key(|part| part["bom-ref"].as_str().unwrap_or_default().to_owned());
    let mut dependencies: Vec<Json> = found
        .iter()
        .map(|id| {
            let mut on: Vec<String> = nodes.get(id).into_iter().flatten().map(reference).collect();
            on.sort();
            json!({ "ref": reference(id), "dependsOn": on })
        })
        .collect();
    dependencies.sort_by_key(|part| part["ref"].as_str().unwrap_or_default().to_owned());
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": component(&packages[program], "application", &checksums) },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// Returns the packages that a node of the graph is built with, without the packages of its tests.
fn used(node: &Json) -> Vec<String> {
    let kinds = |dependency: &Json| {
        let kinds = dependency["dep_kinds"].as_array().cloned().unwrap_or_default();
        kinds.iter().any(|kind| kind["kind"] != "dev")
    };
    let dependencies = node["deps"].as_array().into_iter().flatten().filter(|d| kinds(d));
    let ids: BTreeSet<&str> = dependencies.filter_map(|d| d["pkg"].as_str()).collect();
    ids.into_iter().map(str::to_owned).collect()
}

/// Returns the package URL (purl), a name that is valid in every ecosystem.
fn purl(package: &Json) -> String {
    let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
    format!("pkg:cargo/{}@{}", text("name"), text("version").replace('+', "%2B"))
}

fn component(package: &Json, kind: &str, checksums: &BTreeMap<(String, String), String>) -> Json {
    let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let mut part = Map::new();
    part.insert("type".into(), kind.into());
    part.insert("bom-ref".into(), purl(package).into());
    part.insert("name".into(), text("name").into());
    part.insert("version".into(), text("version").into());
    part.insert("purl".into(), purl(package).into());
    if let Some(license) = package["license"].as_str() {
        // `/` is an older spelling of OR in SPDX.
        let expression = license.replace('/', " OR ").replace("  ", " ");
        part.insert("licenses".into(), json!([{ "expression": expression }]));
    }
    if let Some(hash) = checksums.get(&(text("name"), text("version"))) {
        part.insert("hashes".into(), json!([{ "alg": "SHA-256", "content": hash }]));
    }
    if let Some(url) = package["repository"].as_str() {
        part.insert("externalReferences".into(), json!([{ "type": "vcs", "url": url }]));
    }
    Json::Object(part)
}

/// Returns the SHA-256 of every package from a registry, by name and version. In `Cargo.lock`, each key has its own
/// line.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |package: &str, key: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        line.map(|text| text.trim_matches('"').to_owned())
    };
    let package =
        |text: &str| Some(((value(text, "name")?, value(text, "version")?), value(text, "checksum")?));
    lock.split("[[package]]").filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_every_crate_of_the_program_and_no_other() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let lock = std::fs::read_to_string(root.join("Cargo.lock")).unwrap();
        let list = list(&metadata(root).unwrap(), &lock).unwrap();
        assert_eq!((&list["bomFormat"], &list["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
        assert_eq!(list["metadata"]["component"]["name"], PROGRAM);
        let components = list["components"].as_array().unwrap();
        let text = |part: &Json, key: &str| part[key].as_str().unwrap().to_owned();
        let references: BTreeSet<String> = components.iter().map(|part| text(part, "bom-ref")).collect();
        assert_eq!(references.len(), components.len(), "references are unique");
        let named = |name: &str| components.iter().any(|part| part["name"] == name);
        assert!(["kvant-io", "gemm", "clap", "tokenizers", "serde_json", "libc"].into_iter().all(named));
        assert!(!named("proptest") && !named("xtask"), "crates of tests alone are in the list");
        for part in components {
            assert_eq!(part["type"], "library");
            assert_eq!(
                text(part, "purl"),
                format!("pkg:cargo/{}@{}", text(part, "name"), text(part, "version").replace('+', "%2B"))
            );
            assert!(part["licenses"][0]["expression"].as_str().is_some_and(|l| !l.contains('/')), "{part}");
            let own = text(part, "name").starts_with("kvant") || part["name"] == "paste";
            let hash = part["hashes"][0]["content"].as_str();
            assert_eq!(hash.is_none(), own, "{part}");
            assert!(hash.is_none_or(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit())));
        }
        let program = text(&list["metadata"]["component"], "bom-ref");
        let dependencies = list["dependencies"].as_array().unwrap();
        assert_eq!(dependencies.len(), components.len() + 1);
        for dependency in dependencies {
            let known = |name: &str| references.contains(name) || name == program;
            assert!(known(dependency["ref"].as_str().unwrap()));
            assert!(dependency["dependsOn"].as_array().unwrap().iter().all(|on| known(on.as_str().unwrap())));
        }
    }
}
