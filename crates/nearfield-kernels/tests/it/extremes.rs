//! Products at the edges: every scale code, odd shapes, extreme magnitudes, numbers that are none.

use nearfield_kernels::{KernelSet, WeightFormat, WeightMatrix, f32_to_f16};

use crate::products::{Random, packed, product, random_weights};

/// Asserts that every set gives the definition's bits, from the file's form and from panels, and returns them.
fn equal_on_every_set(what: &str, weights: &WeightMatrix<'_>, values: &[f32], exact: bool) -> Vec<u32> {
    let wanted = product(KernelSet::Scalar, weights, values, exact, 1);
    let panels = packed(weights);
    for set in KernelSet::available() {
        for (form, weights) in [("the file", weights), ("panels", &panels)] {
            let got = product(set, weights, values, exact, 1);
            let first = got.iter().zip(&wanted).position(|(got, wanted)| got != wanted);
            let name = weights.format().name();
            assert_eq!(first, None, "{name} in {form} on {}, exact {exact}: {what}", set.name());
        }
    }
    wanted
}

/// Where a format keeps f16 scales and minimums in a block.
fn halves(format: WeightFormat) -> &'static [usize] {
    match format {
        WeightFormat::F16
        | WeightFormat::Q4_0
        | WeightFormat::Q5_0
        | WeightFormat::Q8_0
        | WeightFormat::Iq4Nl => &[0],
        WeightFormat::Q4_1 | WeightFormat::Q5_1 | WeightFormat::Q4K | WeightFormat::Q5K => &[0, 2],
        WeightFormat::Q2K => &[80, 82],
        WeightFormat::Q3K => &[108],
        WeightFormat::Q6K => &[208],
        _ => &[],
    }
}

#[test]
fn every_half_is_taken_alike() {
    let mut random = Random(31);
    for format in WeightFormat::ALL {
        // Super-blocks are slow in the definition; their codes leave out mantissas, no exponent and no sign.
        let step = if format.block_size() == 256 { 37 } else { 1 };
        let codes: Vec<u16> = (0..=u16::MAX).step_by(step).collect();
        for at in halves(format) {
            let columns = format.block_size();
            let mut bytes = random_weights(format, codes.len(), columns, &mut random);
            for (row, code) in bytes.chunks_exact_mut(format.block_bytes()).zip(&codes) {
                row[*at..at + 2].copy_from_slice(&code.to_le_bytes());
            }
            let weights = WeightMatrix::new(format, codes.len(), columns, &bytes).unwrap();
            let values: Vec<f32> = (0..columns).map(|_| random.unit() * 4.0).collect();
            let got = equal_on_every_set("all halves", &weights, &values, false);
            assert!(got.iter().any(|bits| f32::from_bits(*bits).is_finite()));
            equal_on_every_set("all halves", &weights, &values, true);
        }
    }
}

#[test]
fn every_bf16_is_taken_alike() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(|code| [code.to_le_bytes(), [0; 2]].concat()).collect();
    let weights = WeightMatrix::new(WeightFormat::Bf16, 1 << 16, 2, &bytes).unwrap();
    equal_on_every_set("all codes", &weights, &[1.5, 1.0], false);
}

/// Small scales and minimums are packed bits of super-blocks: enough random rows have them all.
#[test]
fn every_packed_scale_is_taken_alike() {
    let mut random = Random(37);
    for format in
        [WeightFormat::Q2K, WeightFormat::Q3K, WeightFormat::Q4K, WeightFormat::Q5K, WeightFormat::Q6K]
    {
        let (rows, columns) = (600, 256);
        let mut bytes = random_weights(format, rows, columns, &mut random);
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            for at in halves(format) {
                block[*at..at + 2].copy_from_slice(&f32_to_f16(0.75).to_le_bytes());
            }
        }
        let weights = WeightMatrix::new(format, rows, columns, &bytes).unwrap();
        let values: Vec<f32> = (0..2 * columns).map(|_| random.unit()).collect();
        for exact in [false, true] {
            equal_on_every_set("packed scales", &weights, &values, exact);
        }
    }
}

#[test]
fn shapes_that_no_tile_divides() {
    let mut random = Random(41);
    let floats = [1, 3, 15, 16, 18, 33, 127, 129, 252, 257, 300, 514];
    let float_rows = [1, 16, 17, 31, 32, 33, 47, 65, 16, 48, 33, 20];
    for format in WeightFormat::ALL {
        let block = format.block_size();
        let columns: Vec<usize> = match block {
            1 => floats.to_vec(),
            256 => vec![256, 768],
            _ => (1..=10).chain([17]).map(|blocks| blocks * block).collect(),
        };
        for (number, columns) in columns.into_iter().enumerate() {
            let rows = if block == 1 { float_rows } else { [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 47, 65] };
            let rows = rows[number % 12];
            let count = [1, 2, 3, 4, 5, 8, 12, 13, 17][number % 9];
            let bytes = random_weights(format, rows, columns, &mut random);
            let weights = WeightMatrix::new(format, rows, columns, &bytes).unwrap();
            let values: Vec<f32> = (0..count * columns).map(|_| random.unit()).collect();
            for exact in [false, true] {
                equal_on_every_set(&format!("{rows}x{columns}, {count}"), &weights, &values, exact);
            }
        }
    }
}

#[test]
fn extreme_magnitudes_are_taken_alike() {
    let magnitudes = [f32::MAX, 1e30, 1e-30, f32::MIN_POSITIVE, 1e-40, f32::from_bits(1), 1.0];
    let mut random = Random(43);
    for format in WeightFormat::ALL {
        let columns = format.block_size().max(32) * 2;
        let (rows, count) = (21, magnitudes.len());
        let bytes = random_weights(format, rows, columns, &mut random);
        let weights = WeightMatrix::new(format, rows, columns, &bytes).unwrap();
        // Row t has its own magnitude; the last mixes them all, so that one group swallows the others.
        let mut values: Vec<f32> = magnitudes
            .iter()
            .flat_map(|m| (0..columns).map(|_| random.unit() * 1.9 * m).collect::<Vec<_>>())
            .collect();
        for (k, value) in values[(count - 1) * columns..].iter_mut().enumerate() {
            *value *= magnitudes[k / 5 % magnitudes.len()];
        }
        for exact in [false, true] {
            equal_on_every_set("many rows", &weights, &values, exact);
            for row in values.chunks_exact(columns) {
                equal_on_every_set("one row", &weights, row, exact);
            }
        }
        for scale in [f32::MAX, f32::MIN_POSITIVE, -0.0] {
            equal_on_every_set("matrix scale", &weights.clone().with_scale(scale), &values, false);
        }
    }
}

#[test]
fn numbers_that_are_none_stay_in_their_row() {
    let mut random = Random(47);
    for format in WeightFormat::ALL {
        let columns = format.block_size().max(32) * 2;
        let (rows, count) = (18, 6);
        let bytes = random_weights(format, rows, columns, &mut random);
        let weights = WeightMatrix::new(format, rows, columns, &bytes).unwrap();
        let clean: Vec<f32> = (0..count * columns).map(|_| random.unit()).collect();
        for exact in [false, true] {
            let wanted = equal_on_every_set("clean", &weights, &clean, exact);
            for (number, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
                for place in [0, 15, 16, 31, 32, columns - 1] {
                    let mut values = clean.clone();
                    values[(number + 1) * columns + place] = bad;
                    let got = equal_on_every_set("not a number", &weights, &values, exact);
                    for (t, (got, wanted)) in got.chunks(rows).zip(wanted.chunks(rows)).enumerate() {
                        let other = t != number + 1;
                        assert_eq!(got == wanted, other, "{} row {t}", format.name());
                    }
                }
            }
        }
    }
}
