//! Which instruction set the kernels run on.

/// An implementation of the kernels. All compute the same bits; they differ in speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelSet {
    /// Plain Rust: the definition of the bits.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512,
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
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// What this processor can run, slowest first.
    pub fn available() -> Vec<Self> {
        let mut sets = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                sets.push(Self::Avx2);
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni")
            {
                sets.push(Self::Avx512);
            }
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
                $crate::set::KernelSet::Avx2 => unsafe { $avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::set::KernelSet::Avx512 => unsafe { $avx512($($arg),*) },
                #[cfg(not(target_arch = "x86_64"))]
                _ => $body($($arg),*),
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
