//! What a request asks for beside text: tools, a form of the answer, reasoning, and labels of the caller's.

use serde_json::Value;

use crate::Extra;

/// A tool that the model may use.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Tool {
    /// A function of the caller's.
    Function(Function),
    /// A tool that the provider runs, or anything else of the request's own dialect. Only that dialect can write it.
    Other(Value),
}

/// A function that the model may call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// A JSON schema of its arguments.
    pub parameters: Option<Value>,
    /// Whether the arguments must follow the schema exactly.
    pub strict: Option<bool>,
    /// Fields that only the request's own dialect knows.
    pub extra: Extra,
}

/// Whether and which tools the model shall call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ToolChoice {
    /// As it sees fit.
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
    /// One of these, or as it sees fit among them.
    Allowed {
        /// Their names.
        names: Vec<String>,
        /// Whether one must be called.
        required: bool,
    },
    /// Something that only the request's own dialect knows.
    Other(Value),
}

/// The form that the answer shall have.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum OutputFormat {
    /// Text.
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON that follows a schema.
    JsonSchema(JsonSchema),
}

/// A schema for the answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonSchema {
    /// Its name.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The schema.
    pub schema: Value,
    /// Whether the answer must follow it exactly.
    pub strict: Option<bool>,
    /// Fields that only the request's own dialect knows.
    pub extra: Extra,
}

/// How the model shall think before it answers. All unset leaves it to the backend.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReasoningOptions {
    /// How hard: `none`, `minimal`, `low`, `medium`, `high`, or another word of the provider's.
    pub effort: Option<String>,
    /// At most so many tokens; 0 turns it off where that can be.
    pub budget_tokens: Option<u32>,
    /// Whether the reasoning, or a summary, is wanted in the answer: `auto`, `concise`, `detailed`, or another word.
    pub summary: Option<String>,
    /// Fields that only the request's own dialect knows.
    pub extra: Extra,
}

impl ReasoningOptions {
    /// Whether nothing is set.
    pub fn is_unset(&self) -> bool {
        *self == Self::default()
    }
}

/// What the caller sends for bookkeeping. It may name a person, so it goes to a backend only where somebody decided so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Labels {
    /// The caller's name of its user.
    pub user: Option<String>,
    /// The same, in the newer spelling.
    pub safety_identifier: Option<String>,
    /// Ties requests with a common beginning together, for the provider's cache.
    pub prompt_cache_key: Option<String>,
    /// Words of the caller's own, kept with the answer.
    pub metadata: Option<Extra>,
    /// Whether the provider shall keep the answer.
    pub store: Option<bool>,
}

impl Labels {
    /// The same with a pseudonym for each label, `nf-` and the tag that `tag` makes of it; `None` for no label. Metadata,
    /// which is more than a label, is dropped; `store` stays.
    #[must_use]
    pub fn replaced(&self, tag: impl Fn(&str) -> Option<String>) -> Self {
        let of = |label: &Option<String>| Some(format!("nf-{}", tag(label.as_deref()?)?));
        Self {
            user: of(&self.user),
            safety_identifier: of(&self.safety_identifier),
            prompt_cache_key: of(&self.prompt_cache_key),
            metadata: None,
            store: self.store,
        }
    }
}
