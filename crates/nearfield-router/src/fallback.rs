//! What may send a request from one candidate to the next.

use nearfield_api::{ErrorKind, Locality};

use crate::{BackendFacts, Policy, PolicyMode};

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of its error.
    pub kind: ErrorKind,
    /// Whether a token had been produced: then the caller may have seen it, and nothing else may answer.
    pub after_first_token: bool,
}

/// Why the next candidate may be tried after `failed` has failed so, in words for the reply and the ledger; `None`
/// when the caller gets the error instead. This never names a backend: the next one comes from the closed candidate
/// set of [`crate::decide`].
pub fn fallback_reason(policy: &Policy, failed: &BackendFacts, failure: Failure) -> Option<String> {
    if failure.after_first_token {
        return None;
    }
    let here = failed.locality == Locality::Local;
    match failure.kind {
        ErrorKind::NotFound if here && policy.mode == PolicyMode::PreferLocal => {
            Some("the model is not installed here".to_owned())
        }
        ErrorKind::ContextLength if here && policy.mode == PolicyMode::PreferLocal => {
            Some("the context does not fit here".to_owned())
        }
        // No outage, but another candidate may have more room.
        ErrorKind::ContextLength => Some(format!("the context does not fit {}", failed.name)),
        kind if !kind.may_fall_back() => None,
        ErrorKind::Unsure => Some(format!("{} was not sure of its answer", failed.name)),
        ErrorKind::Overloaded if failed.engine => Some("the local queue is full".to_owned()),
        ErrorKind::Overloaded => Some(format!("{} is overloaded", failed.name)),
        ErrorKind::RateLimited => Some(format!("{} limits the rate", failed.name)),
        kind => Some(format!("{} failed before its first token: {}", failed.name, kind.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [ErrorKind; 12] = [
        ErrorKind::InvalidRequest,
        ErrorKind::ContextLength,
        ErrorKind::Authentication,
        ErrorKind::PermissionDenied,
        ErrorKind::NotFound,
        ErrorKind::RateLimited,
        ErrorKind::Overloaded,
        ErrorKind::Upstream,
        ErrorKind::Timeout,
        ErrorKind::Unsure,
        ErrorKind::Cancelled,
        ErrorKind::Internal,
    ];

    fn reason(mode: PolicyMode, locality: Locality, kind: ErrorKind, after: bool) -> Option<String> {
        let policy = Policy { mode, ..Policy::default() };
        let failed = match locality {
            Locality::Local => BackendFacts::own_engine("b"),
            Locality::Cloud => BackendFacts::new("b", locality),
        };
        fallback_reason(&policy, &failed, Failure { kind, after_first_token: after })
    }

    #[test]
    fn nothing_falls_back_after_a_token() {
        for kind in KINDS {
            for locality in [Locality::Local, Locality::Cloud] {
                assert_eq!(reason(PolicyMode::PreferLocal, locality, kind, true), None, "{kind:?}");
            }
        }
    }

    #[test]
    fn outages_fall_back_and_refusals_do_not() {
        for kind in KINDS {
            for mode in [PolicyMode::LocalOnly, PolicyMode::CloudOnly, PolicyMode::PreferLocal] {
                let cloud = reason(mode, Locality::Cloud, kind, false);
                let larger = kind == ErrorKind::ContextLength;
                assert_eq!(cloud.is_some(), kind.may_fall_back() || larger, "{mode} {kind:?}");
                let spills = larger || mode == PolicyMode::PreferLocal && kind == ErrorKind::NotFound;
                let local = reason(mode, Locality::Local, kind, false);
                assert_eq!(local.is_some(), kind.may_fall_back() || spills, "{mode} {kind:?}");
            }
        }
    }

    #[test]
    fn reasons_say_what_happened() {
        let local = |kind| reason(PolicyMode::PreferLocal, Locality::Local, kind, false).unwrap();
        assert_eq!(local(ErrorKind::Overloaded), "the local queue is full");
        assert_eq!(local(ErrorKind::NotFound), "the model is not installed here");
        assert_eq!(local(ErrorKind::ContextLength), "the context does not fit here");
        let cloud = reason(PolicyMode::CloudOnly, Locality::Cloud, ErrorKind::Timeout, false).unwrap();
        assert_eq!(cloud, "b failed before its first token: timeout");
        let pool = BackendFacts::new("pool", Locality::Local);
        let failure = Failure { kind: ErrorKind::Overloaded, after_first_token: false };
        let beside = fallback_reason(&Policy::default(), &pool, failure);
        assert_eq!(beside.as_deref(), Some("pool is overloaded"));
    }
}
