//! Cuts this process, and every program that it starts, off from the network, by the kernel's hand.
//!
//! Two layers. Landlock ([`deny_connections`]) refuses to connect TCP sockets; it binds the calling thread and those
//! that are started from it later, so it comes before any other thread. A seccomp filter ([`seal`]) then refuses to
//! make sockets of any family but Unix ones; it binds all threads at once, so it can come after the listeners, which go
//! on accepting. Neither can be taken back.
//!
//! Only Linux has both. Elsewhere the two functions do nothing and [`ENFORCED_BY_KERNEL`] is false.

/// Whether the kernel of this system enforces what is asked here.
pub const ENFORCED_BY_KERNEL: bool = cfg!(target_os = "linux");

/// Why this process cannot be cut off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// No Landlock, or one that knows no networks.
    #[error(
        "--offline needs a kernel that can refuse connections (Landlock, Linux 6.7 or newer, switched on): {0}; \
         without --offline nothing leaves either unless the configuration names a cloud backend"
    )]
    Connections(String),
    /// No seccomp, or not for all threads.
    #[error(
        "--offline needs a kernel that can refuse sockets (seccomp filters for all threads, Linux 3.17 or newer): {0}; \
         without --offline nothing leaves either unless the configuration names a cloud backend"
    )]
    Sockets(String),
}

/// Refuses, from now on, to connect TCP sockets of this thread and of all threads and programs that come from it. To be
/// called before there are other threads.
///
/// # Errors
/// The kernel cannot.
pub fn deny_connections() -> Result<(), OfflineError> {
    #[cfg(target_os = "linux")]
    linux::deny_connections()?;
    Ok(())
}

/// Refuses, from now on and for all threads, sockets of any family but Unix ones, `io_uring`, which could make them
/// unseen, and sending with a connection's first packet. Sockets that are there stay.
///
/// # Errors
/// The kernel cannot, or not for this processor.
pub fn seal() -> Result<(), OfflineError> {
    #[cfg(target_os = "linux")]
    linux::seal()?;
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;

    use landlock::{AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetStatus};
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
        SeccompFilter, SeccompRule, TargetArch,
    };

    use super::OfflineError;

    /// Added to the number of a call by programs with 32-bit pointers on 64-bit processors of this kind. They pass for
    /// the same architecture.
    const X32: i64 = 0x4000_0000;

    pub(super) fn deny_connections() -> Result<(), OfflineError> {
        let cannot = |error: &dyn std::fmt::Display| OfflineError::Connections(error.to_string());
        // Without a rule that allows some of it, all that is handled is refused.
        let status = Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessNet::ConnectTcp)
            .and_then(Ruleset::create)
            .and_then(landlock::RulesetCreated::restrict_self)
            .map_err(|error| cannot(&error))?;
        match status.ruleset {
            RulesetStatus::FullyEnforced => Ok(()),
            _ => Err(cannot(&"the kernel took only a part of it")),
        }
    }

    pub(super) fn seal() -> Result<(), OfflineError> {
        let program = program().map_err(|error| OfflineError::Sockets(error.to_string()))?;
        seccompiler::apply_filter_all_threads(&program)
            .map_err(|error| OfflineError::Sockets(error.to_string()))
    }

    /// The filter. Calls of another architecture, whose numbers mean other things, end the program that makes them.
    fn program() -> Result<BpfProgram, BackendError> {
        let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
        let refuse = SeccompAction::Errno(libc::EACCES.unsigned_abs());
        SeccompFilter::new(rules()?, SeccompAction::Allow, refuse, architecture)?.try_into()
    }

    fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
        let family = i64::from(libc::AF_UNIX).unsigned_abs();
        // The kernel reads these arguments as 32-bit numbers; so does the filter.
        let other_family =
            || condition(0, SeccompCmpOp::Ne, family).and_then(|one| SeccompRule::new(vec![one]));
        let fast_open = |argument| {
            let flag = i64::from(libc::MSG_FASTOPEN).unsigned_abs();
            condition(argument, SeccompCmpOp::MaskedEq(flag), flag)
                .and_then(|one| SeccompRule::new(vec![one]))
        };
        let mut rules = BTreeMap::from([
            (libc::SYS_socket, vec![other_family()?]),
            (libc::SYS_socketpair, vec![other_family()?]),
            (libc::SYS_io_uring_setup, Vec::new()),
            (libc::SYS_sendto, vec![fast_open(3)?]),
            (libc::SYS_sendmsg, vec![fast_open(2)?]),
            (libc::SYS_sendmmsg, vec![fast_open(3)?]),
        ]);
        if cfg!(target_arch = "x86_64") {
            let again: Vec<_> = rules.iter().map(|(number, rule)| (x32(*number), rule.clone())).collect();
            rules.extend(again);
        }
        Ok(rules)
    }

    /// The number under which such a program makes the call. Two of them have numbers of their own there.
    const fn x32(number: i64) -> i64 {
        match number {
            libc::SYS_sendmsg => X32 + 518,
            libc::SYS_sendmmsg => X32 + 538,
            _ => X32 + number,
        }
    }

    fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
    }
}
