//! Eigenvalues of a symmetric matrix in f64: Householder reflections make it tridiagonal, Sturm sequences count how many eigenvalues
//! lie below a number, and bisection finds each. Slower than QL by a factor that does not matter beside the reflections, and nothing can
//! fail to converge.

/// Steps of the bisection: an interval as wide as all eigenvalues shrinks below the rounding of its ends.
const HALVINGS: usize = 80;

/// The eigenvalues of a symmetric matrix `[n, n]`, the greatest first. Only its lower triangle is read; numbers have to be finite.
pub fn eigenvalues(mut matrix: Vec<f64>, n: usize) -> Vec<f64> {
    assert_eq!(matrix.len(), n * n, "a square matrix");
    let (diagonal, beside) = tridiagonal(&mut matrix, n);
    let radius = |i: usize| beside[i].abs() + beside.get(i + 1).map_or(0.0, |b| b.abs());
    let low = (0..n).map(|i| diagonal[i] - radius(i)).fold(f64::INFINITY, f64::min);
    let high = (0..n).map(|i| diagonal[i] + radius(i)).fold(f64::NEG_INFINITY, f64::max);
    (0..n).rev().map(|k| bisect(&diagonal, &beside, k, (low, high))).collect()
}

/// The diagonal, and what stands left of it in each row (the first of which is 0).
fn tridiagonal(a: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut beside) = (vec![0.0; n], vec![0.0; n]);
    let (mut v, mut w) = (vec![0.0; n], vec![0.0; n]);
    // From the last row up: row i is cleared left of its subdiagonal by a reflection of the coordinates below i.
    for i in (1..n).rev() {
        diagonal[i] = a[i * n + i];
        let row = &a[i * n..i * n + i];
        let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm == 0.0 {
            continue;
        }
        // The sign that does not cancel.
        let alpha = if row[i - 1] > 0.0 { -norm } else { norm };
        beside[i] = alpha;
        v[..i].copy_from_slice(row);
        v[i - 1] -= alpha;
        // (row - alpha e)·(row - alpha e) = 2 alpha (alpha - row[i - 1]).
        let half = alpha * (alpha - row[i - 1]);
        if half == 0.0 {
            continue;
        }
        symmetric_product(a, n, &v[..i], &mut w[..i]);
        w[..i].iter_mut().for_each(|x| *x /= half);
        let along = v[..i].iter().zip(&w[..i]).map(|(v, w)| v * w).sum::<f64>() / (2.0 * half);
        w[..i].iter_mut().zip(&v[..i]).for_each(|(w, v)| *w -= along * v);
        for j in 0..i {
            let (vj, wj) = (v[j], w[j]);
            let row = &mut a[j * n..j * n + j + 1];
            row.iter_mut().zip(&v).zip(&w).for_each(|((x, v), w)| *x -= vj * w + wj * v);
        }
    }
    if n > 0 {
        diagonal[0] = a[0];
    }
    (diagonal, beside)
}

/// w = A v for the leading part of A, of which the lower triangle is read.
fn symmetric_product(a: &[f64], n: usize, v: &[f64], w: &mut [f64]) {
    w.fill(0.0);
    for j in 0..v.len() {
        let row = &a[j * n..j * n + j];
        let mut sum = a[j * n + j] * v[j];
        for ((x, w), v_k) in row.iter().zip(&mut w[..j]).zip(&v[..j]) {
            sum += x * v_k;
            *w += x * v[j];
        }
        w[j] += sum;
    }
}

/// The `k`-th eigenvalue from below.
fn bisect(diagonal: &[f64], beside: &[f64], k: usize, (mut low, mut high): (f64, f64)) -> f64 {
    for _ in 0..HALVINGS {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        if below(diagonal, beside, middle) > k { high = middle } else { low = middle }
    }
    low + (high - low) / 2.0
}

/// How many eigenvalues lie below `x`: the negative pivots of T - x.
fn below(diagonal: &[f64], beside: &[f64], x: f64) -> usize {
    let (mut pivot, mut count) = (1.0, 0);
    for (d, b) in diagonal.iter().zip(beside) {
        pivot = d - x - b * b / pivot;
        if pivot == 0.0 {
            // As if the eigenvalue lay a little higher.
            pivot = f64::EPSILON * (b.abs() + f64::MIN_POSITIVE.sqrt());
        }
        count += usize::from(pivot < 0.0);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use fd_compute::Stream;

    /// Q diag(values) Qᵀ with Q a product of random reflections.
    fn with_spectrum(values: &[f64]) -> Vec<f64> {
        let n = values.len();
        let mut a = vec![0.0; n * n];
        values.iter().enumerate().for_each(|(i, v)| a[i * n + i] = *v);
        let mut random = Stream::named(3, "reflections");
        for _ in 0..4 {
            let mut v: Vec<f64> = (0..n).map(|_| f64::from(random.normal() as f32)).collect();
            let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            v.iter_mut().for_each(|x| *x /= length);
            // From the left, then, transposed, from the right.
            for _ in 0..2 {
                for j in 0..n {
                    let along: f64 = (0..n).map(|i| v[i] * a[i * n + j]).sum();
                    (0..n).for_each(|i| a[i * n + j] -= 2.0 * v[i] * along);
                }
                let t: Vec<f64> = (0..n * n).map(|k| a[k % n * n + k / n]).collect();
                a = t;
            }
        }
        a
    }

    #[test]
    fn a_known_spectrum_is_found() {
        let spectra: [Vec<f64>; 6] = [
            (0..40).map(|i| 2f64.powi(-i)).collect(),
            vec![1.0; 9],
            vec![5.0, 5.0, 5.0, 0.0, 0.0, -3.0],
            (0..65).map(|i| f64::from(65 - i)).collect(),
            vec![2.0],
            vec![1e8, 1.0, 1.0, 1e-8],
        ];
        for mut expected in spectra {
            expected.sort_by(|a, b| b.total_cmp(a));
            let found = eigenvalues(with_spectrum(&expected), expected.len());
            let tolerance = 1e-13 * expected.iter().fold(0.0, |m: f64, v| m.max(v.abs())) * expected.len() as f64;
            for (a, b) in found.iter().zip(&expected) {
                assert!((a - b).abs() <= tolerance, "{found:?}\n{expected:?}");
            }
        }
    }

    #[test]
    fn closed_forms() {
        // The path graph's second differences: 2 - 2 cos(pi k / (n + 1)).
        let n = 30;
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            a[i * n + i] = 2.0;
            if i > 0 {
                (a[i * n + i - 1], a[(i - 1) * n + i]) = (-1.0, -1.0);
            }
        }
        for (k, value) in (1..=n).rev().zip(eigenvalues(a, n)) {
            let expected = 2.0 - 2.0 * (std::f64::consts::PI * k as f64 / (n + 1) as f64).cos();
            assert!((value - expected).abs() < 1e-13, "{value} {expected}");
        }
        assert_eq!(eigenvalues(vec![0.0; 9], 3), [0.0; 3]);
        assert_eq!(eigenvalues(vec![], 0), [0.0; 0]);
        let found = eigenvalues(vec![3.0, 9.0, 4.0, -3.0], 2);
        assert!((found[0] - 5.0).abs() < 1e-14 && (found[1] + 5.0).abs() < 1e-14, "only the lower triangle is read: {found:?}");
    }
}
