//! The decision: a closed, ordered list of the backends that may answer one request.

use std::collections::BTreeMap;

use nearfield_api::{Error, ErrorKind, Locality};
use nearfield_privacy::{ClassSet, DataClass};

use crate::rules::Address;
use crate::{Policy, PolicyMode};

/// What a decision needs to know of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendFacts {
    /// Its name in the configuration.
    pub name: String,
    /// Whether content that is sent to it leaves this machine.
    pub locality: Locality,
    /// Whether it is the engine in this process. Another server of this machine, behind a Unix socket, is not: it can be
    /// out of reach as a cloud can.
    pub engine: bool,
    /// The models that the configuration limits it to; `None` when it may be asked for any.
    pub models: Option<Vec<String>>,
    /// Models that it knows under another name than the one that callers ask for.
    pub model_map: BTreeMap<String, String>,
    /// The base addresses to which its requests go; none where that is not known.
    pub addresses: Vec<Address>,
}

impl BackendFacts {
    /// A backend outside this process that may be asked for any model by its own name.
    pub fn new(name: impl Into<String>, locality: Locality) -> Self {
        let (model_map, addresses) = (BTreeMap::new(), Vec::new());
        Self { name: name.into(), locality, engine: false, models: None, model_map, addresses }
    }

    /// The engine in this process.
    pub fn own_engine(name: impl Into<String>) -> Self {
        Self { engine: true, ..Self::new(name, Locality::Local) }
    }

    /// The backend's own name of a model.
    pub fn upstream_model<'a>(&'a self, asked: &'a str) -> &'a str {
        self.model_map.get(asked).map_or(asked, String::as_str)
    }

    /// Whether it is configured for a model.
    pub fn may_serve(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|name| name == model))
    }
}

/// What a decision needs to know of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The model as the caller wrote it.
    pub model: String,
    /// Every class that it is of: its caller's claim, and what was found in it.
    pub classes: ClassSet,
}

/// Which backends may answer, in the order to try them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Names of backends, at least one, none twice. Nothing outside this list may see the request.
    pub candidates: Vec<String>,
    /// Why the first candidate stands first, in words for the reply and the ledger.
    pub reason: String,
    /// [`Policy::hash`] of the policy that decided.
    pub policy_hash: String,
}

/// Why no backend may answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nothing is configured.
    #[error("no backend is configured; enable the local engine or add a backend to nearfield.toml")]
    NoBackend,
    /// The policy allows none of the configured backends.
    #[error(
        "the policy `{mode}` allows none of the configured backends; change `mode` in the policy of nearfield.toml, \
         or configure a {wanted} backend"
    )]
    Forbidden {
        /// The policy's mode.
        mode: PolicyMode,
        /// The side that the mode asks for.
        wanted: &'static str,
    },
    /// The backends that the policy allows are configured for other models.
    #[error(
        "the model `{model}` is not configured on any backend that the policy `{mode}` allows; ask for one of the \
         models that /v1/models lists, or add it to a backend in nearfield.toml"
    )]
    ModelNotServed {
        /// The model as the caller wrote it.
        model: String,
        /// The policy's mode.
        mode: PolicyMode,
    },
    /// The request holds more than the policy lets leave, and nothing on this machine may answer.
    #[error(
        "the request is of class {class}, which the policy `{mode}` does not let leave this machine; take it out and send \
         the request again, or say in a policy file to whom such data may go"
    )]
    Stays {
        /// The request's class.
        class: DataClass,
        /// The policy's mode.
        mode: PolicyMode,
    },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::NoBackend => Self::new(ErrorKind::NotFound, message).with_code("no_backend"),
            Refusal::Forbidden { .. } | Refusal::Stays { .. } => {
                Self::new(ErrorKind::PermissionDenied, message).with_code("policy_forbids")
            }
            Refusal::ModelNotServed { .. } => {
                Self::new(ErrorKind::NotFound, message).with_param("model").with_code("model_not_found")
            }
        }
    }
}

/// The backends that the policy allows for some request, in the order to try them: local backends before cloud backends; local ones in
/// the order of the configuration; cloud ones in the policy's order.
pub fn permitted<'a>(policy: &Policy, backends: &'a [BackendFacts]) -> Vec<&'a BackendFacts> {
    let on = |side: Locality| backends.iter().filter(move |backend| backend.locality == side);
    let mut ordered: Vec<&BackendFacts> = on(Locality::Local).collect();
    if policy.cloud.is_empty() {
        ordered.extend(on(Locality::Cloud));
    } else {
        let named = |name: &String| on(Locality::Cloud).find(|backend| backend.name == *name);
        ordered.extend(policy.cloud.iter().filter_map(named));
    }
    let mut allowed: Vec<&BackendFacts> = Vec::with_capacity(ordered.len());
    for backend in ordered {
        let repeated = allowed.iter().any(|earlier| earlier.name == backend.name);
        let allowed_here = backend.locality == Locality::Local || policy.leaves.is_some();
        if policy.mode.allows(backend.locality) && allowed_here && !repeated {
            allowed.push(backend);
        }
    }
    allowed
}

/// Closes the candidate set of one request: what is [`permitted`], may be asked for its model and may see its content.
pub fn decide(
    policy: &Policy,
    backends: &[BackendFacts],
    request: &RequestFacts,
) -> Result<Decision, Refusal> {
    if backends.is_empty() {
        return Err(Refusal::NoBackend);
    }
    let mut allowed = permitted(policy, backends);
    if allowed.is_empty() {
        let wanted = match policy.mode {
            PolicyMode::LocalOnly => "local",
            PolicyMode::CloudOnly => "cloud",
            PolicyMode::PreferLocal => "local or cloud",
        };
        return Err(Refusal::Forbidden { mode: policy.mode, wanted });
    }
    allowed.retain(|backend| backend.may_serve(&request.model));
    if allowed.is_empty() {
        return Err(Refusal::ModelNotServed { model: request.model.clone(), mode: policy.mode });
    }
    let (all, class) = (allowed.len(), request.classes.highest());
    if !policy.lets_leave(request.classes) {
        allowed.retain(|backend| backend.locality == Locality::Local);
    }
    let Some(first) = allowed.first() else { return Err(Refusal::Stays { class, mode: policy.mode }) };
    let reason = match (policy.mode, first.locality) {
        (mode, Locality::Local) if allowed.len() < all => format!("{mode}: {class} data stays here"),
        (PolicyMode::PreferLocal, Locality::Cloud) => {
            format!("{}: no local backend for this model", policy.mode)
        }
        (mode, _) => mode.to_string(),
    };
    Ok(Decision {
        candidates: allowed.into_iter().map(|backend| backend.name.clone()).collect(),
        reason,
        policy_hash: policy.hash(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(name: &str, locality: Locality) -> BackendFacts {
        BackendFacts::new(name, locality)
    }

    fn request() -> RequestFacts {
        RequestFacts { model: "m".to_owned(), classes: ClassSet::default() }
    }

    fn policy(mode: PolicyMode, cloud: &[&str]) -> Policy {
        let cloud = cloud.iter().map(|&name| name.to_owned()).collect();
        Policy { cloud, ..Policy::up_to(DataClass::Internal, mode) }
    }

    #[test]
    fn what_is_above_the_declared_class_stays() {
        let here = facts("here", Locality::Local);
        let backends = [here.clone(), facts("a", Locality::Cloud)];
        let personal = RequestFacts { classes: ClassSet::of(DataClass::Personal), ..request() };
        let decided = |policy: &Policy, backends: &[BackendFacts]| decide(policy, backends, &personal);
        let prefer = policy(PolicyMode::PreferLocal, &[]);
        let decision = decided(&prefer, &backends).unwrap();
        assert_eq!(
            (decision.candidates, decision.reason.as_str()),
            (vec!["here".to_owned()], "prefer-local: personal data stays here")
        );
        let error = Error::from(decided(&policy(PolicyMode::CloudOnly, &[]), &backends).unwrap_err());
        assert_eq!(
            (error.kind, error.code.as_deref()),
            (ErrorKind::PermissionDenied, Some("policy_forbids"))
        );
        assert!(error.message.contains("class personal") && error.message.contains("policy file"), "{error}");
        let wider = Policy::up_to(DataClass::Personal, PolicyMode::PreferLocal);
        assert_eq!(decided(&wider, &backends).unwrap().candidates, ["here", "a"]);
        // Nothing would have left anyway.
        let only = Policy::up_to(DataClass::Internal, PolicyMode::LocalOnly);
        assert_eq!(decided(&only, &backends).unwrap().reason, "local-only");
    }

    #[test]
    fn without_a_declared_class_nothing_leaves() {
        let backends = [facts("here", Locality::Local), facts("a", Locality::Cloud)];
        let silent = |mode| Policy { mode, ..Policy::default() };
        let decision = decide(&silent(PolicyMode::PreferLocal), &backends, &request()).unwrap();
        assert_eq!(decision.candidates, ["here"]);
        assert!(decide(&silent(PolicyMode::CloudOnly), &backends, &request()).is_err());
    }

    #[test]
    fn each_mode_orders_its_side() {
        let backends =
            [facts("a", Locality::Cloud), facts("here", Locality::Local), facts("b", Locality::Cloud)];
        let candidates =
            |mode, cloud: &[&str]| decide(&policy(mode, cloud), &backends, &request()).unwrap().candidates;
        assert_eq!(candidates(PolicyMode::LocalOnly, &[]), ["here"]);
        assert_eq!(candidates(PolicyMode::LocalOnly, &["a"]), ["here"]);
        assert_eq!(candidates(PolicyMode::CloudOnly, &[]), ["a", "b"]);
        assert_eq!(candidates(PolicyMode::CloudOnly, &["b", "a"]), ["b", "a"]);
        assert_eq!(candidates(PolicyMode::PreferLocal, &["b"]), ["here", "b"]);
        assert_eq!(candidates(PolicyMode::PreferLocal, &[]), ["here", "a", "b"]);
    }

    #[test]
    fn an_empty_set_says_what_to_do() {
        let cloud = [facts("a", Locality::Cloud)];
        let refused = |policy: &Policy, backends: &[BackendFacts]| -> Error {
            decide(policy, backends, &request()).unwrap_err().into()
        };
        let error = refused(&Policy::default(), &cloud);
        assert_eq!(error.kind, ErrorKind::PermissionDenied);
        assert!(
            error.message.contains("`local-only`") && error.message.contains("nearfield.toml"),
            "{error}"
        );
        let error = refused(&policy(PolicyMode::CloudOnly, &[]), &[facts("here", Locality::Local)]);
        assert_eq!(error.kind, ErrorKind::PermissionDenied);
        let error = refused(&Policy::default(), &[]);
        assert_eq!(error.kind, ErrorKind::NotFound);

        let other = BackendFacts { models: Some(vec!["x".to_owned()]), ..facts("a", Locality::Cloud) };
        let error = refused(&policy(PolicyMode::CloudOnly, &[]), &[other]);
        assert_eq!((error.kind, error.param.as_deref()), (ErrorKind::NotFound, Some("model")));
    }

    #[test]
    fn a_backend_limited_to_models_gets_only_those() {
        let limited = BackendFacts { models: Some(vec!["m".to_owned()]), ..facts("a", Locality::Cloud) };
        let other = BackendFacts { models: Some(vec!["x".to_owned()]), ..facts("b", Locality::Cloud) };
        let decision = decide(&policy(PolicyMode::CloudOnly, &[]), &[limited, other], &request()).unwrap();
        assert_eq!(decision.candidates, ["a"]);

        let here = BackendFacts { models: Some(vec!["x".to_owned()]), ..facts("here", Locality::Local) };
        let spill = [here, facts("a", Locality::Cloud)];
        let decision = decide(&policy(PolicyMode::PreferLocal, &[]), &spill, &request()).unwrap();
        assert_eq!(decision.candidates, ["a"]);
        assert!(decision.reason.contains("no local backend"), "{}", decision.reason);
    }

    fn any_mode() -> impl Strategy<Value = PolicyMode> {
        prop_oneof![Just(PolicyMode::LocalOnly), Just(PolicyMode::CloudOnly), Just(PolicyMode::PreferLocal)]
    }

    fn any_backend() -> impl Strategy<Value = BackendFacts> {
        let models = proptest::option::of(proptest::collection::vec("[mx]", 0..3));
        ("[a-d]", any::<bool>(), models).prop_map(|(name, local, models)| {
            let locality = if local { Locality::Local } else { Locality::Cloud };
            // The side is part of the name, so that two backends never share one.
            BackendFacts { models, ..BackendFacts::new(format!("{name}-{local}"), locality) }
        })
    }

    proptest! {
        #[test]
        fn the_set_holds_only_what_the_policy_allows(
            mode in any_mode(),
            cloud in proptest::collection::vec("[a-e]-(true|false)", 0..5),
            backends in proptest::collection::vec(any_backend(), 0..8),
            leaves in proptest::option::of(proptest::sample::select(&DataClass::ALL[..])),
            class in proptest::sample::select(&DataClass::ALL[..]),
        ) {
            let policy = Policy { mode, cloud, leaves };
            let request = RequestFacts { classes: ClassSet::of(class), ..request() };
            let may_leave = class <= DataClass::Personal && leaves.is_some_and(|most| class <= most);
            if let Ok(decision) = decide(&policy, &backends, &request) {
                prop_assert!(!decision.candidates.is_empty());
                let mut seen_cloud = false;
                for (at, name) in decision.candidates.iter().enumerate() {
                    let backend = backends.iter().find(|backend| backend.name == *name).unwrap();
                    prop_assert!(!decision.candidates[..at].contains(name));
                    prop_assert!(mode.allows(backend.locality));
                    if backend.locality == Locality::Cloud {
                        prop_assert!(policy.cloud.is_empty() || policy.cloud.contains(name));
                        prop_assert!(may_leave);
                        seen_cloud = true;
                    } else {
                        prop_assert!(!seen_cloud, "a cloud backend stands before a local one");
                    }
                }
            } else {
                let open = backends.iter().any(|backend| {
                    mode.allows(backend.locality)
                        && backend.may_serve("m")
                        && (backend.locality == Locality::Local
                            || may_leave && (policy.cloud.is_empty() || policy.cloud.contains(&backend.name)))
                        && backends.iter().find(|other| other.name == backend.name) == Some(backend)
                });
                prop_assert!(!open, "refused although a backend was allowed");
            }
        }
    }
}
