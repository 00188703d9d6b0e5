//! The bits of numerics version 1, as digests: what sets agree on must also be what other processors, other compilers and
//! other versions of this code compute. Who changes one of these on purpose raises the version in `docs/numerics.md`.

use nearfield_kernels::vector::{self, RotaryPairs};
use nearfield_kernels::{KernelSet, WeightFormat, WeightMatrix};

use crate::products::{Random, product, random_weights};

const VECTORS: u64 = 0x2C54_ADE5_9ECB_EE84;

const PRODUCTS: [&str; WeightFormat::ALL.len()] = [
    "F32 43513cdaaee2b941",
    "F16 d1f639890aac0f29",
    "BF16 80eb292e2c6e014d",
    "F8_E4M3 5f3f1f179a553c51",
    "Q4_0 5a893d3a8ca954c0",
    "Q4_1 7596e14359415288",
    "Q5_0 545f76daf46e9f51",
    "Q5_1 57c644384c9d643c",
    "Q8_0 3595f3443c095cc4",
    "Q2_K 58a3b185b0d36566",
    "Q3_K ccce7526b3f540b8",
    "Q4_K 212789f7e12ff346",
    "Q5_K c7c20e5329885938",
    "Q6_K 204373572d637d90",
    "IQ4_NL c5fec6166b3bd980",
    "MXFP4 61d4013078152047",
    "NVFP4 ef36e027f8cb9968",
];

/// FNV-1a over the bytes of numbers.
fn digest(bits: &[u32]) -> u64 {
    bits.iter()
        .flat_map(|bits| bits.to_le_bytes())
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Products of a format in default arithmetic, then in exact, with a matrix scale.
fn products(set: KernelSet, format: WeightFormat) -> u64 {
    let mut random = Random(101);
    let (rows, columns) = (35, 768);
    let bytes = random_weights(format, rows, columns, &mut random);
    let weights = WeightMatrix::new(format, rows, columns, &bytes).unwrap().with_scale(0.7);
    let values: Vec<f32> = (0..3 * columns).map(|_| random.unit() * 5.0).collect();
    let mut bits = product(set, &weights, &values, false, 1);
    bits.extend(product(set, &weights, &values, true, 1));
    digest(&bits)
}

/// Operations along vectors that the forward pass is made of.
fn vectors(set: KernelSet) -> u64 {
    let mut random = Random(103);
    let x: Vec<f32> = (0..999).map(|_| random.unit() * 20.0).collect();
    let y: Vec<f32> = (0..999).map(|_| random.unit()).collect();
    let mut all = Vec::new();
    let mut z = x.clone();
    vector::rms_norm(set, &x, &y, 1e-6, &mut z);
    all.extend_from_slice(&z);
    for operation in [vector::silu_times, vector::gelu_times] {
        let mut z = x.clone();
        operation(set, &mut z, &y);
        all.extend_from_slice(&z);
    }
    let mut z = x.clone();
    vector::soft_cap(set, &mut z, 7.0);
    vector::rotate(set, &mut z, &y[..400], &y[400..800], RotaryPairs::Halves);
    all.extend_from_slice(&z);
    vector::exp_of_ratio(set, &x, 3.0, 0.8, &mut z);
    all.extend_from_slice(&z);
    digest(&all.iter().map(|value| value.to_bits()).collect::<Vec<_>>())
}

#[test]
fn products_have_the_bits_of_version_1() {
    for set in KernelSet::available() {
        let got: Vec<String> = WeightFormat::ALL
            .into_iter()
            .map(|format| format!("{} {:016x}", format.name(), products(set, format)))
            .collect();
        assert_eq!(got, PRODUCTS, "on {}", set.name());
    }
}

#[test]
fn operations_along_vectors_have_the_bits_of_version_1() {
    for set in KernelSet::available() {
        assert_eq!(vectors(set), VECTORS, "on {}: {:016x}", set.name(), vectors(set));
    }
}

/// `NEARFIELD_EXPECTED_KERNELS` names the set that a run is meant to test, so that it cannot pass without it.
#[test]
fn the_expected_set_is_the_fastest_here() {
    if let Ok(expected) = std::env::var("NEARFIELD_EXPECTED_KERNELS") {
        assert_eq!(KernelSet::available().last().map(|set| set.name()), Some(expected.as_str()));
    }
}
