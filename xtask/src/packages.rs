//! How many packages the binary is built from: a clean build's time follows it.

use anyhow::{Result, bail};

use crate::metadata::Graph;

/// The most packages below the binary, itself included.
const BUDGET: usize = 420;

/// Checks the workspace.
pub(crate) fn check() -> Result<String> {
    let count = Graph::load()?.tree("nearfield").len();
    judge(count)
}

fn judge(count: usize) -> Result<String> {
    match count {
        0 => bail!("the binary's crate `nearfield` was not found"),
        1..=BUDGET => Ok(format!("{count} of {BUDGET} packages")),
        _ => bail!(
            "the binary is built from {count} packages, more than the budget of {BUDGET}: drop a dependency or some of \
             its features, or raise the budget in xtask/src/packages.rs with the build time that it costs"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_past_the_budget_fails() {
        assert!(judge(0).is_err());
        assert!(judge(BUDGET).is_ok());
        assert!(judge(BUDGET + 1).is_err());
    }
}
