use nearfield_kernels::{
    Activations, Fp4Planes, KernelSet, MatmulScratch, Output, QuantizedRows, ThreadPool, WeightFormat,
    WeightMatrix, dequantize_row, matmul, pack,
};

/// A small generator, so that failures repeat.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    pub(crate) fn unit(&mut self) -> f32 {
        f32::from_bits(0x3F80_0000 | (self.next() & 0x007F_FFFF)) - 1.5
    }
}

/// Random blocks whose scales are finite: every code value occurs, exponents stay in a range that cannot overflow.
pub(crate) fn random_weights(
    format: WeightFormat,
    rows: usize,
    columns: usize,
    random: &mut Random,
) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..rows * format.row_bytes(columns).unwrap()).map(|_| random.next() as u8).collect();
    let halves: &[usize] = match format {
        WeightFormat::Q4_0 | WeightFormat::Q5_0 | WeightFormat::Q8_0 | WeightFormat::Iq4Nl => &[0],
        WeightFormat::Q4_1 | WeightFormat::Q5_1 | WeightFormat::Q4K | WeightFormat::Q5K => &[0, 2],
        WeightFormat::Q2K => &[80, 82],
        WeightFormat::Q3K => &[108],
        WeightFormat::Q6K => &[208],
        _ => &[],
    };
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for at in halves {
            // Any half but infinity and NaN.
            if block[at + 1] & 0x7C == 0x7C {
                block[at + 1] &= 0xBF;
            }
        }
        match format {
            WeightFormat::F16 if block[1] & 0x7C == 0x7C => block[1] &= 0xBF,
            WeightFormat::F32 => block.copy_from_slice(&random.unit().to_le_bytes()),
            WeightFormat::Bf16 => block.copy_from_slice(&random.unit().to_le_bytes()[2..]),
            WeightFormat::F8E4M3 if block[0] & 0x7F == 0x7F => block[0] ^= 1,
            WeightFormat::Mxfp4 if block[0] > 200 => block[0] = 127,
            WeightFormat::Nvfp4 => {
                for scale in &mut block[..4] {
                    if *scale & 0x7F == 0x7F {
                        *scale = 0x7E;
                    }
                }
            }
            _ => {}
        }
    }
    bytes
}

pub(crate) fn product(
    set: KernelSet,
    weights: &WeightMatrix<'_>,
    values: &[f32],
    exact: bool,
    threads: usize,
) -> Vec<u32> {
    let columns = weights.columns();
    let count = values.len() / columns;
    let mut quantized = QuantizedRows::default();
    let activations = if exact || weights.format().is_float() {
        Activations::Float { values, columns }
    } else {
        quantized.quantize(set, &mut ThreadPool::new(1).unwrap(), values, count, columns);
        Activations::Quantized(&quantized)
    };
    let mut out = vec![f32::MIN; count * weights.rows()];
    let output = Output::new(&mut out, weights.rows());
    let share = weights.rows().div_ceil(threads).next_multiple_of(16);
    for start in (0..weights.rows()).step_by(share) {
        let range = start..(start + share).min(weights.rows());
        // SAFETY: the ranges are disjoint and run one after the other.
        unsafe { matmul(set, weights, &activations, range, &output, &mut MatmulScratch::default()) };
    }
    out.iter().map(|value| if value.is_nan() { u32::MAX } else { value.to_bits() }).collect()
}

/// The same matrix in panels, where it can be.
pub(crate) fn packed<'a>(weights: &WeightMatrix<'a>) -> WeightMatrix<'a> {
    let mut panels = weights.clone();
    pack(&mut [&mut panels], &mut ThreadPool::new(2).unwrap(), &mut || {}).unwrap();
    panels
}

#[test]
fn rows_come_back_from_panels_and_equal_bytes_are_packed_once() {
    let mut random = Random(3);
    for format in WeightFormat::ALL {
        let (rows, columns) = (70, 512);
        let bytes = random_weights(format, rows, columns, &mut random);
        let weights = WeightMatrix::new(format, rows, columns, &bytes).unwrap();
        let (mut first, mut second) = (weights.clone(), weights.clone());
        let mut pool = ThreadPool::new(3).unwrap();
        let mut rounds = 0;
        let taken = pack(&mut [&mut first, &mut second], &mut pool, &mut || rounds += 1).unwrap();
        assert_eq!(taken, first.packed_bytes().unwrap().next_multiple_of(64), "{}", format.name());
        assert_eq!(rounds, 1);
        for panels in [first, second] {
            let (mut got, mut wanted) = (vec![0.0; columns], vec![0.0; columns]);
            for row in 0..rows {
                assert_eq!(panels.row(row), weights.row(row), "{} row {row}", format.name());
                panels.dequantize_row(row, &mut got);
                weights.dequantize_row(row, &mut wanted);
                assert_eq!(got, wanted);
            }
        }
    }
}

#[test]
fn every_set_equals_the_definition() {
    let mut random = Random(1);
    for format in WeightFormat::ALL {
        let block = format.block_size().max(32);
        for (rows, blocks, count) in
            [(1, 1, 1), (16, 2, 1), (37, 3, 1), (19, 5, 7), (48, 9, 4), (5, 17, 2), (33, 2, 15), (70, 9, 19)]
        {
            let columns = block * blocks;
            let bytes = random_weights(format, rows, columns, &mut random);
            let weights = WeightMatrix::new(format, rows, columns, &bytes).unwrap();
            let mut values: Vec<f32> = (0..count * columns).map(|_| random.unit() * 3.0).collect();
            values[columns / 2] *= 1e4;
            let panels = packed(&weights);
            assert!(panels.in_panels(), "{}", format.name());
            for exact in [false, true] {
                let wanted = product(KernelSet::Scalar, &weights, &values, exact, 1);
                for set in KernelSet::available() {
                    for threads in [1, 2] {
                        let got = product(set, &weights, &values, exact, threads);
                        assert_eq!(got, wanted, "{} on {} exact {exact}", format.name(), set.name());
                        let got = product(set, &panels, &values, exact, threads);
                        let name = format.name();
                        assert_eq!(got, wanted, "{name} in panels on {} exact {exact}", set.name());
                    }
                }
                // A row alone gives what it gives among others.
                let last = product(
                    *KernelSet::available().last().unwrap(),
                    &weights,
                    &values[(count - 1) * columns..],
                    exact,
                    1,
                );
                assert_eq!(last, wanted[(count - 1) * rows..], "{} alone", format.name());
            }
        }
    }
}

/// Codes as a checkpoint has them, two a byte with the first in the low half, from those of a matrix's blocks.
fn planes(format: WeightFormat, blocks: &WeightMatrix<'_>) -> (Vec<u8>, Vec<u8>) {
    let group = Fp4Planes::group(format);
    let scales_a_block = format.block_size() / group;
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for row in 0..blocks.rows() {
        for block in blocks.row(row).chunks_exact(format.block_bytes()) {
            scales.extend_from_slice(&block[..scales_a_block]);
            for group in block[scales_a_block..].chunks_exact(group / 2) {
                let all: Vec<u8> =
                    group.iter().map(|byte| byte & 15).chain(group.iter().map(|byte| byte >> 4)).collect();
                codes.extend(all.chunks_exact(2).map(|pair| pair[0] | (pair[1] << 4)));
            }
        }
    }
    (codes, scales)
}

#[test]
fn codes_and_scales_apart_give_what_blocks_give() {
    let mut random = Random(29);
    for format in [WeightFormat::Nvfp4, WeightFormat::Mxfp4] {
        for (rows, columns, count) in [(1, 64, 1), (37, 192, 3), (70, 512, 9)] {
            let bytes = random_weights(format, rows, columns, &mut random);
            let blocks = WeightMatrix::new(format, rows, columns, &bytes).unwrap().with_scale(0.75);
            let (codes, scales) = planes(format, &blocks);
            let apart = Fp4Planes { format, columns, codes: &codes, scales: &scales };
            let apart = WeightMatrix::of_planes(rows, apart).unwrap().with_scale(0.75);
            let panels = packed(&apart);
            assert!(panels.in_panels() && !apart.in_panels());
            let values: Vec<f32> = (0..count * columns).map(|_| random.unit()).collect();
            for exact in [false, true] {
                let wanted = product(KernelSet::Scalar, &blocks, &values, exact, 1);
                for set in KernelSet::available() {
                    for threads in [1, 2] {
                        assert_eq!(product(set, &apart, &values, exact, threads), wanted, "{}", set.name());
                        assert_eq!(product(set, &panels, &values, exact, threads), wanted, "{}", set.name());
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_visible() {
    let mut random = Random(5);
    for format in WeightFormat::ALL {
        let columns = format.block_size().max(32) * 2;
        let bytes = random_weights(format, 20, columns, &mut random);
        let weights = WeightMatrix::new(format, 20, columns, &bytes).unwrap();
        let mut values = vec![0.5; columns];
        values[3] = f32::NAN;
        for set in KernelSet::available() {
            for exact in [false, true] {
                let got = product(set, &weights, &values, exact, 1);
                assert_eq!(got, vec![u32::MAX; 20], "{} on {}", format.name(), set.name());
            }
        }
    }
}

#[test]
fn the_definition_is_close_to_plain_arithmetic() {
    let mut random = Random(9);
    for format in WeightFormat::ALL {
        let columns = format.block_size().max(32) * 4;
        let rows = 6;
        let mut bytes = random_weights(format, rows, columns, &mut random);
        if format == WeightFormat::Mxfp4 {
            bytes.chunks_exact_mut(17).for_each(|block| block[0] = 120 + block[0] % 9);
        }
        let weights = WeightMatrix::new(format, rows, columns, &bytes).unwrap();
        // Small integers quantize without error when each group's largest is 127.
        let mut values: Vec<f32> = (0..columns).map(|_| (random.next() % 255) as f32 - 127.0).collect();
        for group in values.chunks_exact_mut(32) {
            group[0] = 127.0;
        }
        let got = product(KernelSet::Scalar, &weights, &values, false, 1);
        let mut row = vec![0.0; columns];
        for (r, bits) in got.iter().enumerate() {
            dequantize_row(format, &weights.row(r), &mut row);
            let terms: Vec<f64> =
                row.iter().zip(&values).map(|(w, x)| f64::from(*w) * f64::from(*x)).collect();
            let wanted: f64 = terms.iter().sum();
            let size: f64 = terms.iter().map(|term| term.abs()).sum();
            let error = (f64::from(f32::from_bits(*bits)) - wanted).abs();
            assert!(error <= 1e-5 * size, "{}: {} against {wanted}", format.name(), f32::from_bits(*bits));
        }
    }
}

/// Every code of the FP4 formats' scales, the ones that are not numbers included, alone in a row of its own.
#[test]
fn every_scale_code_is_decoded_alike() {
    let mut random = Random(11);
    for format in [WeightFormat::Mxfp4, WeightFormat::Nvfp4] {
        let columns = 128;
        let mut bytes = random_weights(format, 256, columns, &mut random);
        let row_bytes = bytes.len() / 256;
        for (code, row) in bytes.chunks_exact_mut(row_bytes).enumerate() {
            match format {
                WeightFormat::Mxfp4 => row.chunks_exact_mut(17).for_each(|block| block[0] = code as u8),
                _ => row.chunks_exact_mut(36).for_each(|block| block[code % 4] = code as u8),
            }
        }
        let weights = WeightMatrix::new(format, 256, columns, &bytes).unwrap();
        let values: Vec<f32> = (0..columns).map(|_| random.unit()).collect();
        let wanted = product(KernelSet::Scalar, &weights, &values, false, 1);
        assert!(wanted.contains(&u32::MAX), "{} has a code that is no number", format.name());
        for set in KernelSet::available() {
            let got = product(set, &weights, &values, false, 1);
            assert_eq!(got, wanted, "{} on {}", format.name(), set.name());
        }
    }
}
