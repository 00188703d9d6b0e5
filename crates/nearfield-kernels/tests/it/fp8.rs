//! FP8 weights: every code, every kind of scales, and blocks that no tile or panel is aligned to.

use nearfield_kernels::{Fp8Scales, KernelSet, ScalesMismatch, WeightFormat, WeightMatrix, e4m3_to_f32};

use crate::products::{Random, packed, product, random_weights};

/// A number whose product with a code needs a rounding.
fn scale(random: &mut Random) -> f32 {
    random.unit() * 0.37
}

#[test]
fn every_code_reaches_the_product_unchanged() {
    // Row r has code r everywhere; with one activation of 1 the output is its value, the NaN codes included.
    let bytes: Vec<u8> = (0..256 * 40).map(|i| (i / 40) as u8).collect();
    let weights = WeightMatrix::new(WeightFormat::F8E4M3, 256, 40, &bytes).unwrap();
    for place in [0, 1, 2, 3, 17, 38] {
        let mut values = vec![0.0; 40];
        values[place] = 1.0;
        for set in KernelSet::available() {
            for (code, bits) in product(set, &weights, &values, false, 1).into_iter().enumerate() {
                let wanted = e4m3_to_f32(code as u8);
                // The zeros beside it make -0 a 0.
                let equal = if wanted.is_nan() { bits == u32::MAX } else { f32::from_bits(bits) == wanted };
                assert!(equal, "code {code} at {place} on {}", set.name());
            }
        }
    }
}

#[test]
fn every_set_equals_the_definition_with_every_kind_of_scales() {
    let mut random = Random(17);
    for (rows, columns, count) in
        [(1, 1, 1), (160, 160, 3), (37, 300, 1), (131, 127, 9), (257, 513, 2), (129, 784, 5)]
    {
        let bytes = random_weights(WeightFormat::F8E4M3, rows, columns, &mut random);
        let plain = WeightMatrix::new(WeightFormat::F8E4M3, rows, columns, &bytes).unwrap();
        let for_rows: Vec<f32> = (0..rows).map(|_| scale(&mut random)).collect();
        let grid = rows.div_ceil(128) * columns.div_ceil(128);
        let for_blocks: Vec<f32> = (0..grid).map(|_| scale(&mut random)).collect();
        let matrices = [
            plain.clone().with_scale(scale(&mut random)),
            plain.clone().with_scales(Fp8Scales::Rows(&for_rows)).unwrap(),
            plain.clone().with_scales(Fp8Scales::Blocks(&for_blocks)).unwrap(),
        ];
        let values: Vec<f32> = (0..count * columns).map(|_| random.unit() * 3.0).collect();
        for (kind, weights) in matrices.iter().enumerate() {
            let wanted = product(KernelSet::Scalar, weights, &values, false, 1);
            let panels = packed(weights);
            assert_eq!(panels.in_panels(), columns.is_multiple_of(4));
            for set in KernelSet::available() {
                for threads in [1, 3] {
                    let got = product(set, weights, &values, false, threads);
                    assert_eq!(got, wanted, "{rows}x{columns}, kind {kind}, {}", set.name());
                    let got = product(set, &panels, &values, false, threads);
                    assert_eq!(got, wanted, "{rows}x{columns} in panels, kind {kind}, {}", set.name());
                }
                assert_eq!(product(set, weights, &values, true, 1), wanted, "exact is the same");
            }
        }
    }
}

#[test]
fn scales_enter_where_the_text_says() {
    let (rows, columns) = (130, 257);
    let mut random = Random(23);
    let bytes = random_weights(WeightFormat::F8E4M3, rows, columns, &mut random);
    let plain = WeightMatrix::new(WeightFormat::F8E4M3, rows, columns, &bytes).unwrap();
    let scales: Vec<f32> = (0..rows.max(6)).map(|_| scale(&mut random)).collect();
    let values: Vec<f32> = (0..columns).map(|_| random.unit()).collect();
    let chain = |row: usize, scale: &dyn Fn(usize) -> f32| {
        (0..columns).fold(0.0_f32, |sum, k| {
            (e4m3_to_f32(bytes[row * columns + k]) * scale(k)).mul_add(values[k], sum)
        })
    };
    let blocks = plain.clone().with_scales(Fp8Scales::Blocks(&scales[..6])).unwrap();
    let wanted: Vec<u32> =
        (0..rows).map(|row| chain(row, &|k| scales[row / 128 * 3 + k / 128]).to_bits()).collect();
    assert_eq!(product(KernelSet::Scalar, &blocks, &values, false, 1), wanted);
    let by_row = plain.clone().with_scales(Fp8Scales::Rows(&scales[..rows])).unwrap();
    let wanted: Vec<u32> = (0..rows).map(|row| (chain(row, &|_| 1.0) * scales[row]).to_bits()).collect();
    assert_eq!(product(KernelSet::Scalar, &by_row, &values, false, 1), wanted);

    let mut out = vec![0.0; columns];
    for row in [0, 127, 128, 129] {
        blocks.dequantize_row(row, &mut out);
        assert!(
            (0..columns).all(|k| {
                out[k] == e4m3_to_f32(bytes[row * columns + k]) * scales[row / 128 * 3 + k / 128]
            })
        );
        by_row.dequantize_row(row, &mut out);
        assert!((0..columns).all(|k| out[k] == e4m3_to_f32(bytes[row * columns + k]) * scales[row]));
    }
}

#[test]
fn extreme_scales_keep_the_bits_and_unusable_ones_are_refused() {
    let (rows, columns) = (20, 144);
    let mut random = Random(29);
    let bytes = random_weights(WeightFormat::F8E4M3, rows, columns, &mut random);
    let plain = WeightMatrix::new(WeightFormat::F8E4M3, rows, columns, &bytes).unwrap();
    for scale in [f32::MAX / 448.0, f32::MIN_POSITIVE, f32::from_bits(1), f32::from_bits(0x0040_1234), 0.0] {
        let scales = [scale, -scale];
        let weights = plain.clone().with_scales(Fp8Scales::Blocks(&scales)).unwrap();
        for magnitude in [1.0, 1e-30, 1e30] {
            let values: Vec<f32> = (0..2 * columns).map(|_| random.unit() * magnitude).collect();
            let wanted = product(KernelSet::Scalar, &weights, &values, false, 1);
            for set in KernelSet::available() {
                let got = product(set, &weights, &values, false, 1);
                assert_eq!(got, wanted, "{scale:e} times {magnitude:e} on {}", set.name());
            }
        }
    }
    let error = plain.clone().with_scales(Fp8Scales::Blocks(&[1.0, f32::NAN])).unwrap_err();
    assert!(matches!(error, ScalesMismatch::Value { index: 1, .. }), "{error}");
    assert!(plain.clone().with_scales(Fp8Scales::Rows(&[1.0])).is_err());
}
