//! The few vector operations that the integer kernels are written in, once for every instruction set.
//!
//! A [`Simd`] implementation is a vector of `ROWS` 32-bit lanes, one lane per weight row. All methods are
//! `#[inline(always)]` and are only called from functions that enable the instruction set, so that each compiles to
//! its instruction.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

/// Something to do in the instructions of a set.
pub(crate) trait Work {
    /// Does it.
    ///
    /// # Safety
    /// The CPU has `S`; the rest is what the work promises.
    unsafe fn run<S: Simd>(self);
}

/// Vector operations over `ROWS` lanes of 32 bits.
///
/// # Safety
/// Every method may only run on a CPU that has the implementation's instruction set; `load4` reads 16 bytes at each
/// pointer plus offset.
pub(crate) trait Simd: Copy {
    /// Integer vector: `ROWS` dwords.
    type I: Copy;
    /// Float vector: `ROWS` singles.
    type F: Copy;
    /// Rows in a tile.
    const ROWS: usize;
    /// What `dot4` wants added to a signed code: 128 where it multiplies unsigned codes, 0 where signed ones.
    const UNSIGNED: bool;

    /// Does some work in a function of its own that has the set's instructions.
    unsafe fn apart(work: impl Work);
    /// Reads 16 bytes from each row and transposes dwords: result `d` holds dword `d` of every row.
    unsafe fn load4(rows: &[*const u8; 16], offset: usize) -> [Self::I; 4];
    /// Reads `ROWS` dwords.
    unsafe fn load(from: *const u8) -> Self::I;
    /// Reads `ROWS` f16.
    unsafe fn load_halves(from: *const u8) -> Self::F;
    /// Reads `ROWS` bytes, each into a dword of its own.
    unsafe fn load_bytes(from: *const u8) -> Self::I;
    unsafe fn splat(value: i32) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn xor(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn shift_right<const N: u32>(a: Self::I) -> Self::I;
    unsafe fn shift_left<const N: u32>(a: Self::I) -> Self::I;
    /// Arithmetic shift of each dword.
    unsafe fn shift_right_signed<const N: u32>(a: Self::I) -> Self::I;
    /// Logical shift of each dword by less than 32, known only at run time.
    unsafe fn shift_right_by(a: Self::I, count: u32) -> Self::I;
    unsafe fn shift_left_by(a: Self::I, count: u32) -> Self::I;
    /// The greater of two signed dwords.
    unsafe fn max32(a: Self::I, b: Self::I) -> Self::I;
    /// Sixteen bytes for [`Simd::lookup`].
    unsafe fn table(values: &[i8; 16]) -> Self::I;
    /// `table[index]` for each byte; indices are below 16.
    unsafe fn lookup(table: Self::I, index: Self::I) -> Self::I;
    unsafe fn sub8(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn add32(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn mul32(a: Self::I, b: Self::I) -> Self::I;
    /// Bits `4 * J ..= 4 * J + 3` of each dword, each in bit 4 of its own byte.
    unsafe fn spread_bits<const J: u32>(bits: Self::I) -> Self::I;
    /// `sum + codes[0]*a[0] + .. + codes[3]*a[3]` in each dword: codes as `UNSIGNED` says, `a` four signed bytes.
    unsafe fn dot4(sum: Self::I, codes: Self::I, a: i32) -> Self::I;
    /// The f16 in the low half of each dword.
    unsafe fn half_to_float(a: Self::I) -> Self::F;
    /// The f16 in the low and in the high half of each dword.
    unsafe fn halves_to_float(a: Self::I) -> [Self::F; 2];
    unsafe fn to_float(a: Self::I) -> Self::F;
    /// The same bits as singles.
    unsafe fn as_float(a: Self::I) -> Self::F;
    unsafe fn splat_float(value: f32) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    unsafe fn load_float(from: *const f32) -> Self::F;
    unsafe fn store_float(to: *mut f32, value: Self::F);
}

/// The four E4M3 codes of each dword, each as 2^-8 of its value; codes that are NaN stay NaN.
///
/// A code moved into the places of a half's exponent and mantissa is worth 2^-8 of its value, subnormals included.
///
/// # Safety
/// The CPU has `S`.
#[inline(always)]
pub(crate) unsafe fn e4m3<S: Simd>(codes: S::I) -> [S::F; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let signs = S::splat(0x8080_8080_u32 as i32);
        let magnitudes = S::and(codes, S::splat(0x7F7F_7F7F));
        // Only 0x7F carries into the eighth bit, which becomes the top bit of the half's exponent.
        let nan = S::and(S::add32(magnitudes, S::splat(0x0101_0101)), signs);
        let magnitudes = S::or(magnitudes, nan);
        let (fields, sign) = (S::splat(0x7F80_7F80), S::splat(0x8000_8000_u32 as i32));
        let even =
            S::or(S::and(S::shift_left::<7>(magnitudes), fields), S::and(S::shift_left::<8>(codes), sign));
        let odd = S::or(S::and(S::shift_right::<1>(magnitudes), fields), S::and(codes, sign));
        let [first, third] = S::halves_to_float(even);
        let [second, fourth] = S::halves_to_float(odd);
        [first, second, third, fourth]
    }
}
