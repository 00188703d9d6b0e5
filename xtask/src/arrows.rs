//! The arrows between crates, as ARCHITECTURE.md draws them.

use anyhow::{Result, bail};

use crate::metadata::Graph;

/// Each crate with the crates of ours that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("nearfield-kernels", &[]),
    ("nearfield-model", &["nearfield-kernels"]),
    ("nearfield-engine", &["nearfield-kernels", "nearfield-model"]),
    ("nearfield-quantize", &["nearfield-kernels", "nearfield-model", "nearfield-engine"]),
    ("nearfield-api", &[]),
    ("nearfield-providers", &["nearfield-api"]),
    ("nearfield-privacy", &[]),
    ("nearfield-router", &["nearfield-api", "nearfield-privacy"]),
    ("nearfield-store", &["nearfield-api"]),
    ("nearfield-hub", &[]),
    (
        "nearfield-server",
        &[
            "nearfield-kernels",
            "nearfield-model",
            "nearfield-engine",
            "nearfield-api",
            "nearfield-privacy",
            "nearfield-providers",
            "nearfield-router",
            "nearfield-store",
            "nearfield-hub",
        ],
    ),
    (
        "nearfield",
        &[
            "nearfield-kernels",
            "nearfield-model",
            "nearfield-engine",
            "nearfield-quantize",
            "nearfield-api",
            "nearfield-privacy",
            "nearfield-providers",
            "nearfield-router",
            "nearfield-store",
            "nearfield-hub",
            "nearfield-server",
        ],
    ),
    // Its scripted cloud speaks every dialect through the codecs.
    ("nearfield-testkit", &["nearfield-api"]),
    ("xtask", &[]),
];

/// Crates that stay free of async runtimes and of HTTP.
const PURE: &[&str] = &[
    "nearfield-kernels",
    "nearfield-model",
    "nearfield-engine",
    "nearfield-quantize",
    "nearfield-api",
    "nearfield-privacy",
    "nearfield-router",
];

/// What a pure crate must not have anywhere below it.
const ASYNC_OR_HTTP: &[&str] = &["tokio", "hyper", "axum", "reqwest", "async-std", "smol", "ureq"];

/// Checks the workspace.
pub(crate) fn check() -> Result<String> {
    let graph = Graph::load()?;
    let found = violations(&graph);
    if found.is_empty() {
        return Ok(format!("{} crates, no arrow reversed", graph.members.len()));
    }
    bail!(
        "{}\nARCHITECTURE.md has the map; move the code, or change map and table with a reason",
        found.join("\n")
    );
}

fn violations(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    for member in &graph.members {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == member) else {
            found.push(format!("{member} is not on the map: add it to ALLOWED in xtask/src/arrows.rs"));
            continue;
        };
        let direct = graph.direct(member);
        let ours = direct.into_iter().filter(|name| graph.members.contains(*name));
        found.extend(
            ours.filter(|name| !allowed.contains(name))
                .map(|name| format!("{member} must not depend on {name}")),
        );
    }
    for pure in PURE {
        let below = graph.tree_names(pure);
        found.extend(
            ASYNC_OR_HTTP
                .iter()
                .filter(|name| below.contains(**name))
                .map(|name| format!("{pure} must stay free of {name}")),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::tests::graph;

    #[test]
    fn reversed_arrows_and_strangers_are_found() {
        let good = graph(&[
            ("nearfield-kernels", &[]),
            ("nearfield-model", &[("nearfield-kernels", None), ("nearfield-testkit", Some("dev"))]),
            ("nearfield-testkit", &[("tokio", None)]),
        ]);
        assert_eq!(violations(&good), Vec::<String>::new());
        let bad = graph(&[
            ("nearfield-kernels", &[("nearfield-model", None)]),
            ("nearfield-model", &[]),
            ("nearfield-news", &[]),
        ]);
        let found = violations(&bad);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], "nearfield-kernels must not depend on nearfield-model");
        assert!(found[1].starts_with("nearfield-news is not on the map"));
    }

    #[test]
    fn an_async_runtime_is_found_however_deep() {
        let bad = graph(&[("nearfield-router", &[("helper", None)]), ("helper", &[("tokio", None)])]);
        assert!(violations(&bad).contains(&"nearfield-router must stay free of tokio".to_owned()));
    }

    #[test]
    fn the_map_has_no_cycle() {
        for (place, (name, allowed)) in ALLOWED.iter().enumerate() {
            for other in *allowed {
                let before = ALLOWED.iter().position(|(name, _)| name == other).unwrap();
                assert!(before < place, "{name} stands before {other}");
            }
        }
    }
}
