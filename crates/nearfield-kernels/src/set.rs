//! Which instruction set the kernels run on.

use std::sync::OnceLock;

use crate::trial::passes;

/// An implementation of the kernels. All compute the same bits; they differ in speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelSet {
    /// Plain Rust: the definition of the bits.
    Scalar,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// The same with the dot product of AVX-VNNI.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 F, BW, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// NEON with the dot product of Armv8.2.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// The environment asked for kernels that this machine cannot run.
#[derive(Debug, PartialEq, Eq)]
pub struct UnsupportedKernels {
    /// What was asked for.
    pub wanted: String,
}

impl std::fmt::Display for UnsupportedKernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = KernelSet::available().iter().map(|set| set.name()).collect();
        write!(
            f,
            "NEARFIELD_KERNELS={} names kernels that this processor cannot run; choose one of {} or unset it",
            self.wanted,
            names.join(", ")
        )
    }
}

impl std::error::Error for UnsupportedKernels {}

impl KernelSet {
    /// The name used in receipts and in `NEARFIELD_KERNELS`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
        }
    }

    /// What this processor can run, slowest first. A set whose products differ from the definition in a small trial,
    /// made once, is not offered: processors differ more than their feature bits say.
    pub fn available() -> Vec<Self> {
        static TRIED: OnceLock<Vec<KernelSet>> = OnceLock::new();
        TRIED.get_or_init(|| Self::present().into_iter().filter(|set| passes(*set)).collect()).clone()
    }

    /// The sets whose instructions the processor says it has, slowest first.
    pub(crate) fn present() -> Vec<Self> {
        let mut sets = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            sets.push(Self::Avx2);
            if is_x86_feature_detected!("avxvnni") {
                sets.push(Self::AvxVnni);
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
            {
                sets.push(Self::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon")
            && std::arch::is_aarch64_feature_detected!("dotprod")
        {
            sets.push(Self::Neon);
        }
        sets
    }

    /// The fastest set of this processor, or the one that the environment variable `NEARFIELD_KERNELS` names.
    ///
    /// # Errors
    /// When the variable names a set that is unknown or that this processor lacks.
    pub fn detect() -> Result<Self, UnsupportedKernels> {
        let available = Self::available();
        match std::env::var("NEARFIELD_KERNELS") {
            Ok(wanted) if !wanted.is_empty() => {
                available.into_iter().find(|set| set.name() == wanted).ok_or(UnsupportedKernels { wanted })
            }
            _ => Ok(available.last().copied().unwrap_or(Self::Scalar)),
        }
    }
}

/// Compiles one body for every kernel set: the set chosen at run time calls the copy built for its instructions.
/// The body is plain Rust with explicit `mul_add`, so every copy computes the same bits.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident / $avx2:ident / $avx512:ident ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path;) => {
        $(#[$meta])*
        #[inline]
        $vis fn $name(set: $crate::set::KernelSet, $($arg: $ty),*) $(-> $ret)? {
            match set {
                $crate::set::KernelSet::Scalar => $body($($arg),*),
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a set other than `Scalar` comes from `KernelSet::available`, which has checked the features.
                $crate::set::KernelSet::Avx2 | $crate::set::KernelSet::AvxVnni => unsafe { $avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::set::KernelSet::Avx512 => unsafe { $avx512($($arg),*) },
                // NEON belongs to every aarch64 target, so the body is compiled for it already.
                #[cfg(target_arch = "aarch64")]
                $crate::set::KernelSet::Neon => $body($($arg),*),
            }
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn $avx2($($arg: $ty),*) $(-> $ret)? {
            $body($($arg),*)
        }

        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
        fn $avx512($($arg: $ty),*) $(-> $ret)? {
            $body($($arg),*)
        }
    };
}
pub(crate) use multiversion;
