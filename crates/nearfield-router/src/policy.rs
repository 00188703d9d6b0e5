//! What the person who runs Nearfield has written down.

use std::fmt;

use nearfield_api::Locality;
use nearfield_privacy::{ClassSet, DataClass};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::BackendFacts;

/// Where requests may go. The default keeps everything on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Which sides may answer.
    pub mode: PolicyMode,
    /// The cloud backends that may be used, in the order to try them. Empty means every configured one, in the order
    /// of the configuration; otherwise a backend that is not listed gets nothing.
    pub cloud: Vec<String>,
    /// The highest class of data that may leave this machine, at most [`Policy::MOST`]. Without a policy file no key
    /// declares a class, so this is what declares it for all of them; without it nothing leaves.
    pub leaves: Option<DataClass>,
}

/// Which sides may answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyMode {
    /// Nothing leaves this machine.
    #[default]
    LocalOnly,
    /// Every request goes to a cloud backend.
    CloudOnly,
    /// This machine first; a cloud backend when the local queue is full, the model is not here, the context does not
    /// fit, or the local engine fails before its first token.
    PreferLocal,
}

impl PolicyMode {
    /// The name that configuration and ledger use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LocalOnly => "local-only",
            Self::CloudOnly => "cloud-only",
            Self::PreferLocal => "prefer-local",
        }
    }

    /// Whether a backend on this side may answer at all.
    pub const fn allows(self, locality: Locality) -> bool {
        match (self, locality) {
            (Self::LocalOnly, Locality::Local)
            | (Self::CloudOnly, Locality::Cloud)
            | (Self::PreferLocal, _) => true,
            (Self::LocalOnly, Locality::Cloud) | (Self::CloudOnly, Locality::Local) => false,
        }
    }
}

impl fmt::Display for PolicyMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A policy that does not fit the configured backends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Two backends have one name: the ledger could not tell them apart.
    #[error("two backends are named `{name}`; rename one")]
    DuplicateBackend {
        /// The name.
        name: String,
    },
    /// A name in the cloud order belongs to no backend.
    #[error(
        "the policy's cloud order names `{name}`, which is not a configured backend; configured are: {known}"
    )]
    UnknownBackend {
        /// The name in the policy.
        name: String,
        /// The names of the configured cloud backends.
        known: String,
    },
    /// A name in the cloud order belongs to a local backend.
    #[error("the policy's cloud order names `{name}`, which runs on this machine; remove it from the order")]
    NotCloud {
        /// The name in the policy.
        name: String,
    },
    /// Cloud backends could answer, and nobody has said what may leave.
    #[error(
        "the policy `{mode}` lets requests leave this machine, and no class of data is declared; write leaves = \
         \"internal\" (or \"public\", \"personal\") under [policy], or a policy file that says it for each key"
    )]
    NothingDeclared {
        /// The policy's mode.
        mode: PolicyMode,
    },
    /// What may leave is more than a mode can answer for.
    #[error(
        "leaves = \"{class}\" is too much for a mode: such data leaves only where a policy file says to whom and how; \
         write \"{most}\" at most, or a policy file", most = Policy::MOST
    )]
    TooMuchLeaves {
        /// The class in the policy.
        class: DataClass,
    },
    /// A name stands twice in the cloud order.
    #[error("the policy's cloud order names `{name}` twice; remove one")]
    Repeated {
        /// The name in the policy.
        name: String,
    },
}

impl Policy {
    /// The highest class that may leave by a mode alone: health data needs an agreement with the backend, and credentials
    /// a rule that masks them.
    pub const MOST: DataClass = DataClass::Personal;

    /// A policy of this mode that lets data up to a class leave.
    pub fn up_to(class: DataClass, mode: PolicyMode) -> Self {
        Self { mode, cloud: Vec::new(), leaves: Some(class) }
    }

    /// Whether anything may leave at all.
    pub fn lets_leave_something(&self) -> bool {
        self.leaves.is_some() && self.mode.allows(Locality::Cloud)
    }

    /// Whether a request of these classes may leave.
    pub fn lets_leave(&self, classes: ClassSet) -> bool {
        let most = self.leaves.map(|class| class.min(Self::MOST));
        self.lets_leave_something() && most.is_some_and(|most| classes.highest() <= most)
    }

    /// A short hash of what the policy says, the same on every machine and for every spelling of the same policy: the
    /// first 16 hexadecimal digits of a SHA-256 over its length-prefixed parts.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        match self.leaves {
            None => part(b"nearfield policy 1"),
            Some(class) => {
                part(b"nearfield policy 2");
                part(class.as_str().as_bytes());
            }
        }
        part(self.mode.as_str().as_bytes());
        for name in &self.cloud {
            part(name.as_bytes());
        }
        let digest: [u8; 32] = hasher.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        format!("{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// Checks the policy against the configured backends, so that a misspelt name is found at start and not by the
    /// first request.
    pub fn check(&self, backends: &[BackendFacts]) -> Result<(), PolicyError> {
        for (at, backend) in backends.iter().enumerate() {
            if backends.iter().take(at).any(|earlier| earlier.name == backend.name) {
                return Err(PolicyError::DuplicateBackend { name: backend.name.clone() });
            }
        }
        for (at, name) in self.cloud.iter().enumerate() {
            match backends.iter().find(|backend| backend.name == *name) {
                None => {
                    let known: Vec<&str> = backends
                        .iter()
                        .filter(|backend| backend.locality == Locality::Cloud)
                        .map(|backend| backend.name.as_str())
                        .collect();
                    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    return Err(PolicyError::UnknownBackend { name: name.clone(), known });
                }
                Some(backend) if backend.locality == Locality::Local => {
                    return Err(PolicyError::NotCloud { name: name.clone() });
                }
                Some(_) if self.cloud.iter().take(at).any(|earlier| earlier == name) => {
                    return Err(PolicyError::Repeated { name: name.clone() });
                }
                Some(_) => {}
            }
        }
        if let Some(class) = self.leaves.filter(|class| *class > Self::MOST) {
            return Err(PolicyError::TooMuchLeaves { class });
        }
        let clouds = self.mode.allows(Locality::Cloud)
            && backends.iter().any(|backend| backend.locality == Locality::Cloud);
        if clouds && self.leaves.is_none() {
            return Err(PolicyError::NothingDeclared { mode: self.mode });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, locality: Locality) -> BackendFacts {
        BackendFacts::new(name, locality)
    }

    #[test]
    fn reads_from_configuration() {
        let policy: Policy = toml::from_str("mode = 'prefer-local'\ncloud = ['b', 'a']").unwrap();
        assert_eq!(policy.mode, PolicyMode::PreferLocal);
        assert_eq!(policy.cloud, ["b", "a"]);
        assert_eq!(toml::from_str::<Policy>("").unwrap(), Policy::default());
        assert_eq!(Policy::default().mode, PolicyMode::LocalOnly);
        assert!(toml::from_str::<Policy>("mode = 'prefer-cloud'").is_err());
        assert!(toml::from_str::<Policy>("modus = 'local-only'").is_err());
    }

    #[test]
    fn hash_is_stable_and_tells_policies_apart() {
        // Ledgers keep these hashes for years: a change here is a change of what old rows mean.
        assert_eq!(Policy::default().hash(), "83128b4eaee321bf");
        let of = |mode, cloud: &[&str]| {
            let cloud = cloud.iter().map(|&name| name.to_owned()).collect();
            Policy { mode, cloud, leaves: None }.hash()
        };
        let hashes = [
            of(PolicyMode::LocalOnly, &[]),
            of(PolicyMode::CloudOnly, &[]),
            of(PolicyMode::PreferLocal, &[]),
            of(PolicyMode::PreferLocal, &["a", "b"]),
            of(PolicyMode::PreferLocal, &["b", "a"]),
            of(PolicyMode::PreferLocal, &["ab"]),
            of(PolicyMode::PreferLocal, &["a\0b"]),
            Policy::up_to(DataClass::Public, PolicyMode::PreferLocal).hash(),
            Policy::up_to(DataClass::Internal, PolicyMode::PreferLocal).hash(),
        ];
        for (at, hash) in hashes.iter().enumerate() {
            assert_eq!(hash.len(), 16);
            assert!(!hashes[..at].contains(hash), "{at}");
        }
    }

    #[test]
    fn check_finds_names_that_fit_nothing() {
        let backends =
            [facts("local", Locality::Local), facts("a", Locality::Cloud), facts("b", Locality::Cloud)];
        let check = |cloud: &[&str]| {
            let cloud = cloud.iter().map(|&name| name.to_owned()).collect();
            let policy = Policy::up_to(DataClass::Internal, PolicyMode::PreferLocal);
            Policy { cloud, ..policy }.check(&backends)
        };
        assert_eq!(check(&["b", "a"]), Ok(()));
        assert_eq!(
            check(&["c"]),
            Err(PolicyError::UnknownBackend { name: "c".to_owned(), known: "a, b".to_owned() })
        );
        assert_eq!(check(&["local"]), Err(PolicyError::NotCloud { name: "local".to_owned() }));
        assert_eq!(check(&["a", "a"]), Err(PolicyError::Repeated { name: "a".to_owned() }));
        let twice = [facts("a", Locality::Local), facts("a", Locality::Cloud)];
        let duplicate = PolicyError::DuplicateBackend { name: "a".to_owned() };
        assert_eq!(Policy::default().check(&twice), Err(duplicate));
    }

    #[test]
    fn what_may_leave_is_declared_before_anything_does() {
        let backends = [facts("local", Locality::Local), facts("a", Locality::Cloud)];
        for mode in [PolicyMode::CloudOnly, PolicyMode::PreferLocal] {
            let silent = Policy { mode, ..Policy::default() };
            assert_eq!(silent.check(&backends), Err(PolicyError::NothingDeclared { mode }));
            assert_eq!(silent.check(&backends[..1]), Ok(()), "nothing could leave");
            assert!(!silent.lets_leave(ClassSet::default()));
            let most = Policy::up_to(DataClass::Personal, mode);
            assert_eq!(most.check(&backends), Ok(()));
            for (class, leaves) in [
                (DataClass::Public, true),
                (DataClass::Personal, true),
                (DataClass::Health, false),
                (DataClass::Secret, false),
            ] {
                assert_eq!(most.lets_leave(ClassSet::of(class)), leaves, "{class}");
                let wrong = Err(PolicyError::TooMuchLeaves { class });
                assert_eq!(Policy::up_to(class, mode).check(&backends), if leaves { Ok(()) } else { wrong });
            }
        }
        assert_eq!(Policy::default().check(&backends), Ok(()));
        assert!(!Policy::up_to(DataClass::Internal, PolicyMode::LocalOnly).lets_leave(ClassSet::default()));
    }
}
