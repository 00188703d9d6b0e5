//! What cargo knows of the workspace.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The dependency graph without dev-dependencies, for this platform.
pub(crate) struct Graph {
    /// Names of the workspace's own crates.
    pub(crate) members: BTreeSet<String>,
    /// Package ids to names.
    names: BTreeMap<String, String>,
    /// Package ids to the ids of their normal and build dependencies.
    edges: BTreeMap<String, Vec<String>>,
}

impl Graph {
    /// Asks cargo.
    pub(crate) fn load() -> Result<Self> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["metadata", "--format-version=1", "--locked", "--filter-platform", &rustc_says("host: ")?])
            .output()
            .context("cargo metadata does not run")?;
        if !output.status.success() {
            bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Self::parse(&serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?)
    }

    /// Reads the output of `cargo metadata`.
    pub(crate) fn parse(metadata: &Value) -> Result<Self> {
        let list = |value: &Value, what: &str| {
            value.as_array().cloned().with_context(|| format!("cargo metadata has no {what}"))
        };
        let mut graph = Self { members: BTreeSet::new(), names: BTreeMap::new(), edges: BTreeMap::new() };
        for package in list(&metadata["packages"], "packages")? {
            graph.names.insert(text(&package["id"]), text(&package["name"]));
        }
        for id in list(&metadata["workspace_members"], "members")? {
            graph.members.extend(graph.names.get(&text(&id)).cloned());
        }
        for node in list(&metadata["resolve"]["nodes"], "graph")? {
            let used =
                list(&node["deps"], "dependencies")?.into_iter().filter(is_used).map(|d| text(&d["pkg"]));
            graph.edges.insert(text(&node["id"]), used.collect());
        }
        Ok(graph)
    }

    fn id(&self, name: &str) -> Option<&String> {
        self.names.iter().find(|(_, own)| *own == name).map(|(id, _)| id)
    }

    /// Names of the crates that `name` depends on directly.
    pub(crate) fn direct(&self, name: &str) -> BTreeSet<&str> {
        let ids = self.id(name).and_then(|id| self.edges.get(id)).into_iter().flatten();
        ids.filter_map(|id| self.names.get(id)).map(String::as_str).collect()
    }

    /// Ids of all packages below `name`, itself included.
    pub(crate) fn tree(&self, name: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut waiting: Vec<&String> = self.id(name).into_iter().collect();
        while let Some(id) = waiting.pop() {
            if found.insert(id.as_str()) {
                waiting.extend(self.edges.get(id).into_iter().flatten());
            }
        }
        found
    }

    /// Names of all packages below `name`, itself included.
    pub(crate) fn tree_names(&self, name: &str) -> BTreeSet<&str> {
        self.tree(name).into_iter().filter_map(|id| self.names.get(id)).map(String::as_str).collect()
    }
}

/// Whether a dependency is more than a dev-dependency.
fn is_used(dependency: &Value) -> bool {
    let kinds = dependency["dep_kinds"].as_array();
    kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind["kind"].as_str() != Some("dev")))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The rest of the line of `rustc -vV` that begins so: `host: ` is this machine's target triple.
pub(crate) fn rustc_says(begin: &str) -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("rustc does not run")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let rest = said.lines().find_map(|line| line.strip_prefix(begin));
    Ok(rest.with_context(|| format!("rustc does not tell its {begin}"))?.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A dependency's name and kind.
    type Used<'a> = (&'a str, Option<&'a str>);

    /// A graph from `(crate, [(dependency, kind)])`; all crates named first are members.
    pub(crate) fn graph(crates: &[(&str, &[Used<'_>])]) -> Graph {
        let mut names: BTreeSet<&str> = crates.iter().map(|(name, _)| *name).collect();
        names.extend(crates.iter().flat_map(|(_, used)| used.iter().map(|(name, _)| *name)));
        let packages: Vec<Value> = names.iter().map(|name| json!({"id": name, "name": name})).collect();
        let nodes: Vec<Value> = crates
            .iter()
            .map(|(name, used)| {
                let deps: Vec<Value> = used
                    .iter()
                    .map(|(name, kind)| json!({"pkg": name, "dep_kinds": [{"kind": kind}]}))
                    .collect();
                json!({"id": name, "deps": deps})
            })
            .collect();
        let members: Vec<&str> = crates.iter().map(|(name, _)| *name).collect();
        let metadata =
            json!({"packages": packages, "workspace_members": members, "resolve": {"nodes": nodes}});
        Graph::parse(&metadata).unwrap()
    }

    #[test]
    fn dev_dependencies_do_not_count() {
        let graph = graph(&[("a", &[("b", None), ("c", Some("dev"))]), ("b", &[("d", Some("build"))])]);
        assert_eq!(graph.direct("a"), BTreeSet::from(["b"]));
        assert_eq!(graph.tree_names("a"), BTreeSet::from(["a", "b", "d"]));
    }
}
