//! The one error type of the request path. HTTP status, error body, retry and fallback all derive from its kind.

use std::time::Duration;

/// What went wrong with a request, said so that a person can act on it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind, from which status codes and retries derive.
    pub kind: ErrorKind,
    /// What happened and what to do next, for the caller. It never holds a credential; a provider's words in it may repeat
    /// the prompt, so that it is neither logged nor recorded.
    pub message: String,
    /// The request field at fault, where one is.
    pub param: Option<String>,
    /// A short machine-readable code, such as `context_length_exceeded`.
    pub code: Option<String>,
    /// When a retry may succeed.
    pub retry_after: Option<Duration>,
}

/// Kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request cannot be understood or asks for what is not supported.
    InvalidRequest,
    /// Prompt and answer do not fit the model's context.
    ContextLength,
    /// No key, or a wrong one.
    Authentication,
    /// The key is good, the policy says no.
    PermissionDenied,
    /// No such model or route.
    NotFound,
    /// The caller sends too much.
    RateLimited,
    /// No room now; see `retry_after`.
    Overloaded,
    /// A cloud backend failed or sent nonsense.
    Upstream,
    /// A deadline passed.
    Timeout,
    /// The model is not sure enough of its answer for it to be shown.
    Unsure,
    /// The caller went away.
    Cancelled,
    /// A fault of ours.
    Internal,
}

impl ErrorKind {
    /// The kind's name in ledgers and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ContextLength => "context_length",
            Self::Authentication => "authentication",
            Self::PermissionDenied => "permission_denied",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::Upstream => "upstream",
            Self::Timeout => "timeout",
            Self::Unsure => "unsure",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }

    /// The HTTP status that says this best.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidRequest | Self::ContextLength => 400,
            Self::Authentication => 401,
            Self::PermissionDenied => 403,
            Self::NotFound => 404,
            Self::RateLimited => 429,
            Self::Overloaded | Self::Unsure => 503,
            Self::Upstream => 502,
            Self::Timeout => 504,
            Self::Cancelled => 499,
            Self::Internal => 500,
        }
    }

    /// The `type` of OpenAI's error body.
    pub const fn openai_type(self) -> &'static str {
        match self {
            Self::InvalidRequest | Self::ContextLength | Self::NotFound => "invalid_request_error",
            Self::Authentication => "authentication_error",
            Self::PermissionDenied => "permission_error",
            Self::RateLimited => "rate_limit_error",
            Self::Overloaded => "overloaded_error",
            Self::Upstream | Self::Timeout => "upstream_error",
            Self::Cancelled | Self::Internal | Self::Unsure => "server_error",
        }
    }

    /// Whether another backend of the candidate set may be tried, given that nothing was produced yet.
    pub const fn may_fall_back(self) -> bool {
        matches!(
            self,
            Self::Overloaded
                | Self::RateLimited
                | Self::Upstream
                | Self::Timeout
                | Self::Unsure
                | Self::Internal
        )
    }
}

impl Error {
    /// An error of a kind with a message.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// Names the request field at fault.
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Adds a machine-readable code.
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.code = Some(code.into());
        self
    }

    /// Says when a retry may succeed.
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// A request that cannot be accepted, with the field at fault.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, message).with_param(param)
    }
}
