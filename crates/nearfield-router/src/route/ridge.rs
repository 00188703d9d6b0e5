//! Linear regression with a penalty on large weights.

/// Weights `w` that make `|y - Xw|² + penalty |w|²` least, by Cholesky's decomposition of the normal equations; the first
/// feature, a constant, is hardly penalised. `None` when the rows say nothing.
pub(super) fn fit(rows: &[(&[f64], f64)], penalty: f64) -> Option<Vec<f64>> {
    let width = rows.first()?.0.len();
    let mut matrix = vec![0.0; width * width];
    let mut right = vec![0.0; width];
    for (row, target) in rows {
        for (at, &value) in row.iter().enumerate() {
            if value != 0.0 {
                right[at] += value * target;
                for (other, &with) in row[..=at].iter().enumerate() {
                    matrix[at * width + other] += value * with;
                }
            }
        }
    }
    for at in 0..width {
        matrix[at * width + at] += if at == 0 { 1e-6 } else { penalty };
    }
    for at in 0..width {
        for other in 0..=at {
            let dot: f64 = (0..other).map(|k| matrix[at * width + k] * matrix[other * width + k]).sum();
            let rest = matrix[at * width + other] - dot;
            matrix[at * width + other] = if at == other {
                if rest <= 0.0 {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / matrix[other * width + other]
            };
        }
    }
    for at in 0..width {
        let dot: f64 = (0..at).map(|k| matrix[at * width + k] * right[k]).sum();
        right[at] = (right[at] - dot) / matrix[at * width + at];
    }
    for at in (0..width).rev() {
        let dot: f64 = (at + 1..width).map(|k| matrix[k * width + at] * right[k]).sum();
        right[at] = (right[at] - dot) / matrix[at * width + at];
    }
    Some(right)
}

/// The scale of each feature over some rows: mean and deviation.
pub(super) fn scale(rows: &[&[f64]]) -> Vec<(f64, f64)> {
    let count = rows.len().max(1) as f64;
    let width = rows.first().map_or(0, |row| row.len());
    (0..width)
        .map(|at| {
            let mean = rows.iter().map(|row| row[at]).sum::<f64>() / count;
            let variance = rows.iter().map(|row| (row[at] - mean) * (row[at] - mean)).sum::<f64>() / count;
            if variance > 1e-12 && at > 0 { (mean, variance.sqrt()) } else { (0.0, 1.0) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plane_is_found_again() {
        let rows: Vec<Vec<f64>> =
            (0..40).map(|at| vec![1.0, f64::from(at % 7), f64::from(at * at % 11)]).collect();
        let with: Vec<(&[f64], f64)> =
            rows.iter().map(|row| (row.as_slice(), 2.0 + 3.0 * row[1] - 0.5 * row[2])).collect();
        let weights = fit(&with, 1e-9).unwrap();
        for (weight, expected) in weights.iter().zip([2.0, 3.0, -0.5]) {
            assert!((weight - expected).abs() < 1e-4, "{weights:?}");
        }
        assert!(fit(&[], 1.0).is_none());
    }
}
