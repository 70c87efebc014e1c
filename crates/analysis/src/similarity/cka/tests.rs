use super::*;
use fd_compute::Stream;

fn random(n: usize, width: usize, seed: u64) -> Rows {
    let mut stream = Stream::named(seed, "features");
    Rows { values: (0..n * width).map(|_| stream.normal()).collect(), width }
}

/// rows · m `[width, out]`.
fn times(rows: &Rows, m: &[f64], out: usize) -> Rows {
    let product = |row: &[f64], j: usize| row.iter().enumerate().map(|(i, x)| x * m[i * out + j]).sum();
    let values = rows.values.chunks(rows.width).flat_map(|row| (0..out).map(move |j| product(row, j))).collect();
    Rows { values, width: out }
}

/// An orthogonal matrix: a product of plane rotations.
fn rotation(n: usize) -> Vec<f64> {
    let mut q: Vec<f64> = (0..n * n).map(|k| f64::from(u8::from(k / n == k % n))).collect();
    for (a, b, angle) in (0..n).flat_map(|a| (0..a).map(move |b| (a, b, 0.3 + (a * n + b) as f64))) {
        for row in q.chunks_mut(n) {
            let (x, y) = (row[a], row[b]);
            (row[a], row[b]) = (x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos());
        }
    }
    q
}

fn cka(estimator: Estimator, batches: &[Vec<Rows>]) -> Vec<Option<f64>> {
    let widths: Vec<usize> = batches[0].iter().map(|r| r.width).collect();
    let mut cka = Cka::new(estimator, &widths, |_, _| true).unwrap();
    batches.iter().for_each(|batch| cka.add(batch).unwrap());
    cka.finish()
}

fn split(rows: &Rows, at: &[usize]) -> Vec<Rows> {
    let ends = at.iter().copied().chain([rows.len()]);
    let starts = [0].into_iter().chain(at.iter().copied());
    starts
        .zip(ends)
        .map(|(from, to)| Rows { values: rows.values[from * rows.width..to * rows.width].to_vec(), width: rows.width })
        .collect()
}

fn batches(layers: &[Rows], at: &[usize]) -> Vec<Vec<Rows>> {
    let parts: Vec<Vec<Rows>> = layers.iter().map(|l| split(l, at)).collect();
    (0..=at.len()).map(|i| parts.iter().map(|p| p[i].clone()).collect()).collect()
}

/// Doubly centred Gram matrix, the other definition of HSIC₀.
fn centred_gram(x: &Rows) -> Vec<f64> {
    let n = x.len();
    let row = |i: usize| &x.values[i * x.width..(i + 1) * x.width];
    let k: Vec<f64> = (0..n * n).map(|ij| row(ij / n).iter().zip(row(ij % n)).map(|(a, b)| a * b).sum()).collect();
    let mean = |i: usize| k[i * n..(i + 1) * n].iter().sum::<f64>() / n as f64;
    let means: Vec<f64> = (0..n).map(mean).collect();
    let all = means.iter().sum::<f64>() / n as f64;
    (0..n * n).map(|ij| k[ij] - means[ij / n] - means[ij % n] + all).collect()
}

fn brute_force(x: &Rows, y: &Rows) -> f64 {
    let (k, l) = (centred_gram(x), centred_gram(y));
    let trace = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    trace(&k, &l) / (trace(&k, &k) * trace(&l, &l)).sqrt()
}

/// HSIC₁ as Song et al. write it: tr(KL) + 1ᵀK1 1ᵀL1 / ((n-1)(n-2)) - 2/(n-2) 1ᵀKL1, of Gram matrices without diagonal.
fn hsic1(x: &Rows, y: &Rows) -> f64 {
    let n = x.len();
    let gram = |x: &Rows| -> Vec<f64> {
        let row = |i: usize| &x.values[i * x.width..(i + 1) * x.width];
        let product = |(i, j): (usize, usize)| row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum();
        (0..n * n).map(|ij| if ij / n == ij % n { 0.0 } else { product((ij / n, ij % n)) }).collect()
    };
    let (k, l) = (gram(x), gram(y));
    let (m, sum) = (n as f64, |a: &[f64]| a.iter().sum::<f64>());
    let trace: f64 = (0..n * n).map(|ij| k[ij] * l[ij % n * n + ij / n]).sum();
    let through: f64 = (0..n).map(|i| sum(&(0..n).map(|j| k[j * n + i]).collect::<Vec<_>>()) * sum(&l[i * n..(i + 1) * n])).sum();
    (trace + sum(&k) * sum(&l) / ((m - 1.0) * (m - 2.0)) - 2.0 / (m - 2.0) * through) / (m * (m - 3.0))
}

#[test]
fn rotated_shifted_and_scaled_features_are_the_same() {
    let x = random(60, 12, 0);
    let mut turned = times(&x, &rotation(12), 12);
    turned.values.iter_mut().enumerate().for_each(|(i, v)| *v = 3.5 * *v + 40.0 * (i % 12) as f64);
    for estimator in [Estimator::Exact, Estimator::Minibatch] {
        let found = cka(estimator, &batches(&[x.clone(), turned.clone()], &[20, 40]));
        found.iter().for_each(|v| assert!((v.unwrap() - 1.0).abs() < 1e-12, "{estimator:?}: {found:?}"));
    }
}

#[test]
fn the_exact_form_is_the_brute_force_whatever_the_batches() {
    let x = random(40, 7, 1);
    let y = times(&x, &random(7, 5, 2).values, 5);
    let layers = [x, y, random(40, 9, 3)];
    for at in [vec![], vec![1], vec![13, 27]] {
        let found = cka(Estimator::Exact, &batches(&layers, &at));
        for (a, b) in [(0, 1), (0, 2), (1, 2), (2, 0)] {
            let expected = brute_force(&layers[a], &layers[b]);
            let found = found[a * 3 + b].unwrap();
            assert!((found - expected).abs() < 1e-12, "{a} {b}: {found} {expected}");
        }
    }
}

#[test]
fn the_minibatch_form_is_the_published_formula() {
    let x = random(30, 6, 4);
    let layers = [times(&x, &random(6, 8, 5).values, 8), x];
    let parts = batches(&layers, &[10, 20]);
    let mean = |a: usize, b: usize| parts.iter().map(|p| hsic1(&p[a], &p[b])).sum::<f64>();
    let expected = mean(0, 1) / (mean(0, 0) * mean(1, 1)).sqrt();
    let found = cka(Estimator::Minibatch, &parts)[1].unwrap();
    assert!((found - expected).abs() < 1e-12, "{found} {expected}");
}

#[test]
fn unrelated_features_are_far_apart_only_without_bias() {
    // 40 rows of 40 channels: the exact form says one half, the unbiased one nothing.
    let layers = [random(400, 40, 6), random(400, 40, 7)];
    let parts = batches(&layers, &(1..10).map(|i| 40 * i).collect::<Vec<_>>());
    let biased = brute_force(&parts[0][0], &parts[0][1]);
    let unbiased = cka(Estimator::Minibatch, &parts)[1].unwrap();
    assert!(biased > 0.4 && unbiased.abs() < 0.05, "{biased} {unbiased}");
}

#[test]
fn what_cannot_be_compared_is_none() {
    let constant = Rows { values: vec![2.0; 40], width: 4 };
    let (x, longer) = (random(10, 3, 8), random(20, 3, 9));
    let mut cka = Cka::new(Estimator::Exact, &[3, 4, 3], |a, b| (a == 2) == (b == 2)).unwrap();
    cka.add(&[x.clone(), constant, longer]).unwrap();
    let found = cka.finish();
    let known = |a: usize, b: usize| found[a * 3 + b].is_some();
    assert!(known(0, 0) && known(2, 2) && !known(0, 1) && !known(0, 2) && !known(1, 1), "{found:?}");
    let e = Cka::new(Estimator::Exact, &[100_000; 3], |_, _| true).unwrap_err().to_string();
    assert!(e.starts_with("--estimator exact: 6 pairs") && e.contains("minibatch"), "{e}");
    let mut few = Cka::new(Estimator::Minibatch, &[3], |_, _| true).unwrap();
    assert!(few.add(&[random(3, 3, 0)]).unwrap_err().to_string().contains("at least 4 rows"));
}

#[test]
fn bits_do_not_depend_on_threads() {
    let layers = [random(64, 33, 10), random(64, 20, 11), random(64, 47, 12)];
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let bits = |e| cka(e, &batches(&layers, &[16, 32])).into_iter().map(|v| v.unwrap().to_bits()).collect::<Vec<_>>();
        pool.install(|| (bits(Estimator::Exact), bits(Estimator::Minibatch)))
    };
    assert_eq!(on(1), on(3));
}
