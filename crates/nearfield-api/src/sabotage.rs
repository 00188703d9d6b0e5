//! Faults that tests switch on, to see that they are found. Without the feature `sabotage`, which nothing that ships
//! has, nothing here can be switched on.

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// After a failure the candidates are taken from all backends anew.
    Candidates,
    /// Redirects are followed.
    Redirects,
    /// The arguments of tool calls are not looked at.
    ToolArguments,
    /// Headers of one attempt stay for the next.
    Headers,
}

impl Break {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Candidates, Self::Redirects, Self::ToolArguments, Self::Headers];

    /// The name by which [`VARIABLE`] switches it on.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Candidates => "candidates",
            Self::Redirects => "redirects",
            Self::ToolArguments => "tool-arguments",
            Self::Headers => "headers",
        }
    }
}

/// The environment variable that names what is broken in this process.
pub const VARIABLE: &str = "NEARFIELD_SABOTAGE";

/// Whether something is broken on purpose.
#[cfg(not(feature = "sabotage"))]
pub const fn breaks(_: Break) -> bool {
    false
}

/// Whether something is broken on purpose.
#[cfg(feature = "sabotage")]
pub fn breaks(what: Break) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref() == Some(what.name())
}
