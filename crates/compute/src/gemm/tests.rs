//! Products held to their definition, to each other, and to f64.

use super::*;
use crate::Stream;

fn random(n: usize, key: u64) -> Vec<f64> {
    let mut s = Stream::new(&[key]);
    (0..n).map(|_| s.normal()).collect()
}

#[test]
fn agrees_with_the_definition_for_all_transposes_and_strides() {
    for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 33, 12), (64, 48, 130), (1, 40, 9), (50, 1, 20), (70, 200, 600)] {
        let (a, b) = (random(m * k, 1), random(k * n, 2));
        let expected = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f64>();
        let at: Vec<f64> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
        let bt: Vec<f64> = (0..k * n).map(|i| b[(i % k) * n + i / k]).collect();
        let stride = n + 3;
        for (ma, mb) in [
            (Mat::new(&a, m, k), Mat::new(&b, k, n)),
            (Mat::new(&at, k, m).t(), Mat::new(&b, k, n)),
            (Mat::new(&a, m, k), Mat::new(&bt, n, k).t()),
            (Mat::new(&at, k, m).t(), Mat::new(&bt, n, k).t()),
        ] {
            let mut c = vec![1.0; m * stride];
            matmul(0.5, ma, mb, true, MatMut::strided(&mut c, m, n, stride), Threads::All);
            for i in 0..m {
                for j in 0..stride {
                    let want = if j < n { 1.0 + 0.5 * expected(i, j) } else { 1.0 };
                    assert!(i + 1 == m && j >= n || (c[i * stride + j] - want).abs() < 1e-9, "{m} {n} {k} at {i} {j}");
                }
            }
        }
    }
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|v| *v as f32).collect()
}

/// m, n, k: whole tiles and ragged ones, blocks of k, columns near and far.
const SHAPES: [(usize, usize, usize); 14] = [
    (2, 129, 3),
    (8, 48, 96),
    (43, 6, 7),
    (50, 50, 32),
    (50, 32, 50),
    (17, 33, 513),
    (64, 64, 1100),
    (65, 64, 1100),
    (130, 100, 31),
    (96, 288, 1025),
    (400, 96, 97),
    (33, 640, 600),
    (640, 33, 513),
    (9, 1040, 20),
];

/// What this machine has.
#[cfg(target_arch = "x86_64")]
fn kernels(operands: Operands) -> Vec<Kernel> {
    let mut kernels = vec![];
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        kernels.push(Kernel::Avx2);
    }
    if is_x86_feature_detected!("avx512f") {
        kernels.push(Kernel::Avx512);
    }
    if operands == Operands::Bf16 && is_x86_feature_detected!("avx512bf16") {
        kernels.push(Kernel::Avx512Bf16);
    }
    kernels
}

/// In f32 the kernels by hand give the library's bits, whatever lies where and however many threads there are: what was
/// trained before they were there can be made again.
#[test]
fn by_hand_gives_the_bits_of_the_library() {
    let pool = |n: usize| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let (one, three) = (pool(1), pool(3));
    for kernel in kernels(Operands::Exact) {
        for (m, n, k) in SHAPES {
            let (a, b, bias, old) =
                (narrow(&random(m * k, 1)), narrow(&random(k * n, 2)), narrow(&random(n, 3)), narrow(&random(m * n, 4)));
            let at: Vec<f32> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
            let bt: Vec<f32> = (0..k * n).map(|i| b[(i % k) * n + i / k]).collect();
            for (ma, mb) in [
                (Mat::new(&a, m, k), Mat::new(&b, k, n)),
                (Mat::new(&at, k, m).t(), Mat::new(&b, k, n)),
                (Mat::new(&a, m, k), Mat::new(&bt, n, k).t()),
                (Mat::new(&at, k, m).t(), Mat::new(&bt, n, k).t()),
            ] {
                for (alpha, start) in [(0.3, Start::Zero), (1.0, Start::C), (1.0, Start::Row(&bias))] {
                    let product = Product { alpha, operands: Operands::Exact, start, threads: Threads::All };
                    let (mut library, mut ours) = (old.clone(), old.clone());
                    one.install(|| product.by_library(ma, mb, MatMut::new(&mut library, m, n)));
                    for pool in [&one, &three] {
                        ours.copy_from_slice(&old);
                        // SAFETY: a kernel this machine has.
                        assert!(pool.install(|| unsafe { by_kernel(kernel, &product, ma, mb, &mut MatMut::new(&mut ours, m, n)) }));
                        let differ = ours.iter().zip(&library).filter(|(x, y)| x.to_bits() != y.to_bits()).count();
                        assert_eq!(differ, 0, "{kernel:?} {m} x {k} x {n}");
                    }
                }
            }
        }
    }
}

/// Of the two bf16 around x the nearer, or the even one.
fn nearest(x: f32) -> f64 {
    let below = x.to_bits() & 0xffff_0000;
    let [low, high] = [below, below + 0x1_0000].map(|bits| f64::from(f32::from_bits(bits)));
    let (down, up) = ((f64::from(x) - low).abs(), (high - f64::from(x)).abs());
    if down < up || (down == up && below & 0x1_0000 == 0) { low } else { high }
}

/// With bf16 operands: what double precision makes of the rounded ones, whatever multiplies them.
#[test]
fn operands_in_bf16() {
    let ways: Vec<Option<Kernel>> = kernels(Operands::Bf16).into_iter().map(Some).chain([None]).collect();
    println!("kernels run, none is the library: {ways:?}");
    for way in ways {
        for (m, n, k) in SHAPES.into_iter().chain([(1, 1, 1), (1, 40, 9), (50, 1, 20), (3, 5, 7), (5, 7, 2)]) {
            let (a, b) = (narrow(&random(m * k, 1)), narrow(&random(k * n, 2)));
            let [ar, br] = [&a, &b].map(|x| x.iter().copied().map(nearest).collect::<Vec<f64>>());
            let mut expected = vec![0.0; m * n];
            matmul(1.0, Mat::new(&ar, m, k), Mat::new(&br, k, n), false, MatMut::new(&mut expected, m, n), Threads::One);
            let at: Vec<f32> = (0..k * m).map(|i| a[(i % m) * k + i / m]).collect();
            let bt: Vec<f32> = (0..k * n).map(|i| b[(i % k) * n + i / k]).collect();
            for (ma, mb) in [
                (Mat::new(&a, m, k), Mat::new(&b, k, n)),
                (Mat::new(&at, k, m).t(), Mat::new(&b, k, n)),
                (Mat::new(&a, m, k), Mat::new(&bt, n, k).t()),
            ] {
                let mut c = vec![f32::NAN; m * n];
                let (operands, start, threads) = (Operands::Bf16, Start::Zero, Threads::All);
                let product = Product { alpha: 1.0, operands, start, threads };
                match way {
                    // SAFETY: a kernel this machine has.
                    Some(kernel) => assert!(unsafe { by_kernel(kernel, &product, ma, mb, &mut MatMut::new(&mut c, m, n)) }),
                    None => product.rounded_by_library(ma, mb, MatMut::new(&mut c, m, n)),
                }
                for (i, c) in c.iter().enumerate() {
                    assert!((f64::from(*c) - expected[i]).abs() < 1e-5 * (k as f64).sqrt(), "{way:?} {m} {k} {n} at {i}");
                }
            }
        }
    }
    let (a, b) = ([1.0, f32::NAN, 2.0, 3.0], [1.0f32; 4]);
    let mut c = [0.0; 4];
    let product = Product { alpha: 1.0, operands: Operands::Bf16, start: Start::Zero, threads: Threads::One };
    product.run(Mat::new(&a, 2, 2), Mat::new(&b, 2, 2), MatMut::new(&mut c, 2, 2));
    assert!(c[0].is_nan() && c[1].is_nan() && c[2] == 5.0 && c[3] == 5.0, "not a number stays one: {c:?}");
}

#[test]
#[should_panic(expected = "within its memory")]
fn a_matrix_larger_than_its_memory_is_refused() {
    Mat::new(&[0.0f32; 5], 2, 3);
}
