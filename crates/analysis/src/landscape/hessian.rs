//! The curvature of a loss without its matrix: products of the Hessian with vectors, its extreme eigenvalues by Lanczos, its trace by
//! Hutchinson.
//!
//! A product is a central difference of gradients, Hv ≈ (∇L(θ + hv) - ∇L(θ - hv)) / 2h with |v| = 1. Its error is h²|∇⁴L|/6 of
//! truncation and about ε|∇L|/h of rounding, so that h is the cube root of the precision: gradients in double precision leave about
//! eight digits, in single precision they would leave three.
//!
//! Lanczos builds an orthonormal basis Q of the Krylov space of one random vector, in which H is a tridiagonal matrix T. Each new vector
//! is orthogonalised against the whole basis, twice: without that, rounding brings eigenvalues that were found back as copies. With
//! T s = λ s, the vector Q s misses being an eigenvector of H by β|s_k|, so an eigenvalue of H lies within that distance of λ.

use fd_compute::Stream;
use fd_distill::Error;

use super::eigen::symmetric;

/// A function of a vector, with its gradient.
pub trait Objective {
    /// Length of the vector.
    fn dim(&self) -> usize;

    /// The value at `theta`; writes the gradient there.
    ///
    /// # Errors
    /// Those of whoever computes it, and [`Error::Interrupted`].
    fn gradient(&mut self, theta: &[f64], gradient: &mut [f64]) -> Result<f64, Error>;
}

/// An eigenvalue, and how far from it one of the Hessian's can be at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Eigenvalue {
    /// The value.
    pub value: f64,
    /// Norm of Hx - λx for the unit vector x that belongs to it.
    pub residual: f64,
}

/// What Lanczos found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extremes {
    /// The largest eigenvalue.
    pub largest: Eigenvalue,
    /// The smallest one: below zero where the point is a saddle.
    pub smallest: Eigenvalue,
    /// Products that it took.
    pub iterations: usize,
}

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error; 0 for one sample.
    pub error: f64,
    /// Samples.
    pub samples: usize,
}

impl Estimate {
    /// Of these samples, at least one.
    pub fn of(samples: &[f64]) -> Estimate {
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let squares: f64 = samples.iter().map(|x| (x - mean).powi(2)).sum();
        let error = if samples.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
        Estimate { mean, error, samples: samples.len() }
    }
}

/// The Hessian of an objective at a point.
pub struct Hessian<O> {
    objective: O,
    /// The same one once more, where both sides of a difference may be computed at the same time.
    twin: Option<O>,
    theta: Vec<f64>,
    step: f64,
    up: Vec<f64>,
    down: Vec<f64>,
    below: Vec<f64>,
}

impl<O: Objective + Send> Hessian<O> {
    /// At `theta`; with a twin of the objective, a product takes the time of one gradient.
    pub fn new(objective: O, twin: Option<O>, theta: Vec<f64>) -> Self {
        let n = theta.len();
        let step = f64::EPSILON.cbrt() * (norm(&theta) / (n as f64).sqrt()).max(1.0);
        let zeros = || vec![0.0; n];
        Hessian { objective, twin, step, up: zeros(), down: zeros(), below: zeros(), theta }
    }

    /// Length of the vectors.
    pub fn dim(&self) -> usize {
        self.theta.len()
    }

    /// Norm of the gradient at the point itself.
    ///
    /// # Errors
    /// The objective's.
    pub fn gradient_norm(&mut self) -> Result<f64, Error> {
        self.objective.gradient(&self.theta, &mut self.below)?;
        Ok(norm(&self.below))
    }

    /// Hv into `out`.
    ///
    /// # Errors
    /// The objective's.
    pub fn apply(&mut self, v: &[f64], out: &mut [f64]) -> Result<(), Error> {
        let length = norm(v);
        if length == 0.0 {
            out.fill(0.0);
            return Ok(());
        }
        let h = self.step / length;
        for (i, (theta, v)) in self.theta.iter().zip(v).enumerate() {
            (self.up[i], self.down[i]) = (theta + h * v, theta - h * v);
        }
        let Hessian { objective, twin, up, down, below, .. } = self;
        match twin {
            None => drop((objective.gradient(up, out)?, objective.gradient(down, below)?)),
            Some(twin) => std::thread::scope(|scope| {
                let other = scope.spawn(|| twin.gradient(down, below));
                let loss = objective.gradient(up, out);
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).and(loss)
            })
            .map(drop)?,
        }
        out.iter_mut().zip(&self.below).for_each(|(up, down)| *up = (*up - down) / (2.0 * h));
        Ok(())
    }
}

/// The extreme eigenvalues, in at most `iterations` products (at least one): fewer where both residuals are below `tolerance` times the
/// larger of the two, or where the Krylov space is exhausted. `each` is told of every product.
///
/// # Errors
/// The objective's.
pub fn lanczos<O: Objective + Send>(
    hessian: &mut Hessian<O>,
    iterations: usize,
    tolerance: f64,
    seed: u64,
    mut each: impl FnMut(usize),
) -> Result<Extremes, Error> {
    let n = hessian.dim();
    let mut stream = Stream::named(seed, "landscape.lanczos");
    let mut next: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
    let mut length = norm(&next);
    let (mut basis, mut diagonal, mut beside): (Vec<Vec<f64>>, Vec<f64>, Vec<f64>) = (vec![], vec![], vec![]);
    loop {
        next.iter_mut().for_each(|x| *x /= length);
        basis.push(std::mem::replace(&mut next, vec![0.0; n]));
        let q = &basis[basis.len() - 1];
        hessian.apply(q, &mut next)?;
        each(basis.len());
        diagonal.push(dot(q, &next));
        for q in basis.iter().chain(&basis) {
            let along = dot(q, &next);
            next.iter_mut().zip(q).for_each(|(x, q)| *x -= along * q);
        }
        length = norm(&next);
        let found = extremes(&diagonal, &beside, length);
        let scale = found.largest.value.abs().max(found.smallest.value.abs());
        let settled = found.largest.residual.max(found.smallest.residual) <= tolerance * scale;
        // What is left of an exhausted space is rounding.
        let exhausted = basis.len() == n || length <= 1e-9 * scale;
        if settled || exhausted || basis.len() >= iterations || !length.is_finite() {
            return Ok(found);
        }
        beside.push(length);
    }
}

/// The ends of the spectrum of a tridiagonal matrix whose Krylov space goes on with a vector of this length.
fn extremes(diagonal: &[f64], beside: &[f64], length: f64) -> Extremes {
    let k = diagonal.len();
    let mut matrix = vec![0.0; k * k];
    for i in 0..k {
        matrix[i * k + i] = diagonal[i];
        if i + 1 < k {
            (matrix[i * k + i + 1], matrix[(i + 1) * k + i]) = (beside[i], beside[i]);
        }
    }
    let (values, vectors) = symmetric(matrix, k);
    let eigenvalue = |j: usize| Eigenvalue { value: values[j], residual: length * vectors[(k - 1) * k + j].abs() };
    let by_value = |a: &usize, b: &usize| values[*a].total_cmp(&values[*b]);
    let (least, most) = ((0..k).min_by(by_value).unwrap_or(0), (0..k).max_by(by_value).unwrap_or(0));
    Extremes { largest: eigenvalue(most), smallest: eigenvalue(least), iterations: k }
}

/// The trace: the mean of vᵀHv over `vectors` vectors v of random signs. Its variance for one vector is twice the sum of the squares
/// beside the diagonal.
///
/// # Errors
/// The objective's.
pub fn hutchinson<O: Objective + Send>(
    hessian: &mut Hessian<O>,
    vectors: usize,
    seed: u64,
    mut each: impl FnMut(usize),
) -> Result<Estimate, Error> {
    let n = hessian.dim();
    let (mut samples, mut product) = (vec![], vec![0.0; n]);
    for k in 0..vectors {
        let mut stream = Stream::named(seed, &format!("landscape.hutchinson.{k}"));
        let v: Vec<f64> = (0..n).map(|_| if stream.uniform() < 0.5 { -1.0 } else { 1.0 }).collect();
        hessian.apply(&v, &mut product)?;
        samples.push(dot(&v, &product));
        each(k + 1);
    }
    Ok(Estimate::of(&samples))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// θᵀAθ/2 + bᵀθ with A = R diag(spectrum) R and R = I - 2uuᵀ a reflection.
    #[derive(Clone)]
    struct Quadratic {
        matrix: Vec<f64>,
        linear: Vec<f64>,
    }

    impl Quadratic {
        fn new(spectrum: &[f64], seed: u64) -> Quadratic {
            let n = spectrum.len();
            let mut stream = Stream::named(seed, "quadratic");
            let mut u: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
            let length = norm(&u);
            u.iter_mut().for_each(|x| *x /= length);
            let reflection = |i: usize, j: usize| f64::from(u8::from(i == j)) - 2.0 * u[i] * u[j];
            let entry = |i, j| (0..n).map(|k| reflection(i, k) * spectrum[k] * reflection(k, j)).sum();
            let matrix = (0..n * n).map(|at| entry(at / n, at % n)).collect();
            Quadratic { matrix, linear: (0..n).map(|_| stream.normal()).collect() }
        }
    }

    impl Objective for Quadratic {
        fn dim(&self) -> usize {
            self.linear.len()
        }

        fn gradient(&mut self, theta: &[f64], gradient: &mut [f64]) -> Result<f64, Error> {
            let n = self.dim();
            for (i, g) in gradient.iter_mut().enumerate() {
                *g = dot(&self.matrix[i * n..][..n], theta) + self.linear[i];
            }
            Ok(0.5 * (dot(theta, gradient) + dot(theta, &self.linear)))
        }
    }

    /// Σ cosh(c_i θ_i): its Hessian is diagonal with c_i² cosh(c_i θ_i), and no derivative vanishes.
    struct Catenary(Vec<f64>);

    impl Objective for Catenary {
        fn dim(&self) -> usize {
            self.0.len()
        }

        fn gradient(&mut self, theta: &[f64], gradient: &mut [f64]) -> Result<f64, Error> {
            gradient.iter_mut().zip(theta).zip(&self.0).for_each(|((g, t), c)| *g = c * (c * t).sinh());
            Ok(theta.iter().zip(&self.0).map(|(t, c)| (c * t).cosh()).sum())
        }
    }

    fn theta(n: usize) -> Vec<f64> {
        let mut stream = Stream::named(5, "theta");
        (0..n).map(|_| stream.normal()).collect()
    }

    #[test]
    fn the_spectrum_of_a_quadratic_is_recovered() {
        let spectrum: Vec<f64> = (0..60).map(|i| -0.5 + (f64::from(i) / 20.0).powi(3)).collect();
        let (largest, smallest, trace) = (spectrum[59], spectrum[0], spectrum.iter().sum::<f64>());
        let quadratic = Quadratic::new(&spectrum, 1);
        let squares_beside: f64 = (0..3600).filter(|at| at / 60 != at % 60).map(|at| quadratic.matrix[at].powi(2)).sum();
        let mut hessian = Hessian::new(quadratic.clone(), Some(quadratic), theta(60));
        let found = lanczos(&mut hessian, 60, 1e-12, 0, |_| ()).unwrap();
        assert!((found.largest.value - largest).abs() < 1e-8 && (found.smallest.value - smallest).abs() < 1e-8, "{found:?}");
        // Stopped early, the residual bounds the error.
        let early = lanczos(&mut hessian, 8, 0.0, 0, |_| ()).unwrap();
        assert_eq!(early.iterations, 8);
        let nearest = spectrum.iter().map(|v| (v - early.largest.value).abs()).fold(f64::INFINITY, f64::min);
        assert!(nearest <= early.largest.residual + 1e-9 && early.largest.residual > 1e-6, "{nearest} {early:?}");
        let estimate = hutchinson(&mut hessian, 400, 0, |_| ()).unwrap();
        assert!((estimate.mean - trace).abs() < 4.0 * estimate.error, "{estimate:?} {trace}");
        let expected = (2.0 * squares_beside / 400.0).sqrt();
        assert!((estimate.error / expected - 1.0).abs() < 0.15, "{} {expected}", estimate.error);
    }

    #[test]
    fn few_different_eigenvalues_take_as_few_products() {
        let spectrum: Vec<f64> = (0..40).map(|i| [2.0, -1.0, 5.0][i % 3]).collect();
        let mut hessian = Hessian::new(Quadratic::new(&spectrum, 2), None, theta(40));
        let found = lanczos(&mut hessian, 40, 0.0, 3, |_| ()).unwrap();
        assert!(found.iterations <= 4, "{found:?}");
        assert!((found.largest.value - 5.0).abs() < 1e-8 && (found.smallest.value + 1.0).abs() < 1e-8, "{found:?}");
        let one = lanczos(&mut Hessian::new(Quadratic::new(&[3.5], 0), None, vec![1.0]), 10, 0.0, 0, |_| ()).unwrap();
        assert!((one.largest.value - 3.5).abs() < 1e-9 && one.iterations == 1);
    }

    #[test]
    fn products_keep_eight_digits_where_the_loss_is_no_quadratic() {
        let c: Vec<f64> = (1..30).map(|i| 0.1 * f64::from(i)).collect();
        let at = theta(c.len());
        let expected: Vec<f64> = c.iter().zip(&at).map(|(c, t)| c * c * (c * t).cosh()).collect();
        let mut hessian = Hessian::new(Catenary(c), None, at);
        let (v, mut out) = (vec![1.0; expected.len()], vec![0.0; expected.len()]);
        hessian.apply(&v, &mut out).unwrap();
        let top = expected.iter().copied().fold(0.0, f64::max);
        out.iter().zip(&expected).for_each(|(got, want)| assert!((got - want).abs() < 1e-8 * top, "{got} {want}"));
        hessian.apply(&vec![0.0; v.len()], &mut out).unwrap();
        assert!(out.iter().all(|x| *x == 0.0));
        // A diagonal matrix's trace has no variance.
        let estimate = hutchinson(&mut hessian, 3, 0, |_| ()).unwrap();
        let trace: f64 = expected.iter().sum();
        assert!((estimate.mean / trace - 1.0).abs() < 1e-8 && estimate.error < 1e-8 * trace, "{estimate:?} {trace}");
    }

    #[test]
    fn estimates_by_hand() {
        assert_eq!(Estimate::of(&[2.0, 4.0, 6.0]), Estimate { mean: 4.0, error: (4.0f64 / 3.0).sqrt(), samples: 3 });
        assert_eq!(Estimate::of(&[7.0]), Estimate { mean: 7.0, error: 0.0, samples: 1 });
    }
}
