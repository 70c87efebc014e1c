//! Eigenvalues and eigenvectors of a small symmetric matrix by Jacobi's rotations: slow for large ones, and hard to get wrong.

/// Most sweeps over all pairs; six are usual.
const SWEEPS: usize = 60;

/// Of a symmetric matrix `[n, n]`: its eigenvalues in no particular order, and a matrix whose column j is the unit eigenvector of the j-th.
pub fn symmetric(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let whole: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..SWEEPS {
        let beside: f64 = (0..n * n).filter(|at| at / n != at % n).map(|at| a[at] * a[at]).sum();
        // Below this they move no eigenvalue by more than its rounding; NaN ends the search, too.
        if beside.is_nan() || beside <= f64::EPSILON * f64::EPSILON * whole {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p * n + q] != 0.0 {
                    rotate(&mut a, &mut vectors, n, p, q);
                }
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), vectors)
}

/// Turns the plane of axes p and q so that `a[p, q]` becomes 0: A ← JᵀAJ, V ← VJ.
fn rotate(a: &mut [f64], vectors: &mut [f64], n: usize, p: usize, q: usize) {
    let ratio = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
    // The smaller root of t² + 2 ratio t - 1 = 0.
    let tangent = ratio.signum() / (ratio.abs() + ratio.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    for k in 0..n {
        turn(a, k * n + p, k * n + q, cosine, sine);
        turn(vectors, k * n + p, k * n + q, cosine, sine);
    }
    for k in 0..n {
        turn(a, p * n + k, q * n + k, cosine, sine);
    }
}

fn turn(a: &mut [f64], p: usize, q: usize, cosine: f64, sine: f64) {
    (a[p], a[q]) = (cosine * a[p] - sine * a[q], sine * a[p] + cosine * a[q]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    #[test]
    fn the_second_difference_has_its_known_spectrum() {
        for n in [1, 2, 5, 40] {
            let entry = |i: usize, j: usize| [2.0, -1.0, 0.0][i.abs_diff(j).min(2)];
            let matrix: Vec<f64> = (0..n * n).map(|at| entry(at / n, at % n)).collect();
            let (values, vectors) = symmetric(matrix.clone(), n);
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            for (k, value) in sorted.iter().enumerate() {
                let known = 2.0 - 2.0 * (PI * (k + 1) as f64 / (n + 1) as f64).cos();
                assert!((value - known).abs() < 1e-13, "{n}: {value} {known}");
            }
            for (j, value) in values.iter().enumerate() {
                for i in 0..n {
                    let product: f64 = (0..n).map(|k| matrix[i * n + k] * vectors[k * n + j]).sum();
                    assert!((product - value * vectors[i * n + j]).abs() < 1e-13);
                }
            }
        }
    }

    #[test]
    fn equal_eigenvalues_and_nothing_finite() {
        let (values, _) = symmetric(vec![1.0, 1.0, 1.0, 1.0], 2);
        assert!((values[0] - 0.0).abs() < 1e-15 && (values[1] - 2.0).abs() < 1e-15, "{values:?}");
        assert!(symmetric(vec![f64::NAN; 9], 3).0[0].is_nan());
    }
}
