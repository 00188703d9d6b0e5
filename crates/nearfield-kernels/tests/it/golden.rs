//! Products against numpy's evaluation of "The bits", from `tests/golden/make_products.py`.

use nearfield_kernels::{Fp8Scales, KernelSet, WeightFormat, WeightMatrix};

use crate::products::product;

/// One product with what it must give.
struct Case {
    format: WeightFormat,
    /// What comes before the colon of the scales, and the scales.
    scales: (String, Vec<f32>),
    rows: usize,
    columns: usize,
    weights: Vec<u8>,
    values: Vec<f32>,
    /// Result, and the sum of its terms' magnitudes.
    wanted: Vec<(f64, f64)>,
}

fn cases() -> Vec<Case> {
    let lines: Vec<&str> = include_str!("../golden/products.txt").lines().collect();
    let (cases, rest) = lines.as_chunks::<4>();
    assert!(rest.is_empty());
    cases.iter().map(|[head, weights, values, wanted]| case(head, weights, values, wanted)).collect()
}

fn case(head: &str, weights: &str, values: &str, wanted: &str) -> Case {
    let head: Vec<&str> = head.split(' ').collect();
    let format = WeightFormat::ALL.into_iter().find(|format| format.name() == head[0]);
    let (kind, scales) = head[1].split_once(':').unwrap_or(("", head[1]));
    let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    Case {
        format: format.unwrap(),
        scales: (kind.to_owned(), scales.split(',').map(|scale| scale.parse().unwrap()).collect()),
        rows: head[2].parse().unwrap(),
        columns: head[3].parse().unwrap(),
        weights: weights.as_bytes().as_chunks().0.iter().map(byte).collect(),
        values: values
            .split(' ')
            .map(|bits| f32::from_bits(u32::from_str_radix(bits, 16).unwrap()))
            .collect(),
        wanted: wanted
            .split(' ')
            .map(|pair| pair.split_once(':').unwrap())
            .map(|(value, size)| (value.parse().unwrap(), size.parse().unwrap()))
            .collect(),
    }
}

#[test]
fn every_product_is_what_numpy_makes_of_the_text() {
    let cases = cases();
    assert_eq!(
        cases.len(),
        WeightFormat::ALL.len() + 2,
        "one for each format, and FP8's three kinds of scales"
    );
    for case in cases {
        let name = case.format.name();
        let weights = WeightMatrix::new(case.format, case.rows, case.columns, &case.weights).unwrap();
        let weights = match (case.scales.0.as_str(), &case.scales.1) {
            ("rows", scales) => weights.with_scales(Fp8Scales::Rows(scales)).unwrap(),
            ("blocks", scales) => weights.with_scales(Fp8Scales::Blocks(scales)).unwrap(),
            (_, scales) => weights.with_scale(scales[0]),
        };
        for set in KernelSet::available() {
            let got = product(set, &weights, &case.values, false, 1);
            assert_eq!(got.len(), case.wanted.len());
            for (bits, (value, size)) in got.iter().zip(&case.wanted) {
                let got = f64::from(f32::from_bits(*bits));
                let off = (got - value).abs();
                assert!(off <= 1e-5 * value.abs().max(0.01 * size), "{name}: {got} against {value}");
            }
        }
    }
}
