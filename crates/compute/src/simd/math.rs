//! Elementary functions for kernels: branch-free, so that a loop calling them vectorises at its level.
//!
//! The coefficients are this crate's own: `tools/fit_math.py` fits them (minimax in weighted relative error by Lawson's iteration on a
//! dense grid, then rounded to `f32` one at a time with refits between) and prints the tables below. The bounds stated here were
//! measured against `f64` at every `f32` of magnitude above 1e-8 up to where results are flushed or saturated ([`quick_gelu`]: every
//! third), once with fused multiply-adds and once without; the tests hold them on a grid of 3 million points over all exponents.

use super::Simd;
use crate::Real;

/// 2 e^r on [-ln 2, 0], lowest power first: 2.2e-9 relative.
const EXP: [f32; 7] = [2.0, 1.9999996, 0.99999064, 0.33325016, 0.08298724, 0.015922714, 0.0019604664];
/// ln 2 in two parts: the first has 10 bits, so that its product with an exponent is exact.
const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
/// The bits of √½.
const SQRT_HALF: i32 = 0x3f35_04f3;
/// 2 (artanh(s) - s) / s³ in powers of s²: its Taylor series.
const ATANH: [f32; 4] = [2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0];
/// Below -126 ln 2, still above -127 ln 2: the least argument whose scale has a non-negative exponent field (namely 0).
const EXP_MIN: f32 = -88.0;
/// 1/2, which makes a ceiling of the rounding, less twice what rounding errors come to at the ends of the range: so r may exceed 0 by
/// 2e-5, where 2 e^r is as exact as elsewhere, and never falls below -ln 2, where it would pass into the binade below and lose a bit.
const ABOVE: f32 = 0.499_98;
/// Above 128 ln 2, still below 129 ln 2: the scale is infinite.
const EXP_MAX: f32 = 89.0;
/// 1.5 · 2^23, whose ulp is 1, plus the exponent bias less 1: adding it rounds to an integer and leaves that integer's biased exponent
/// in the low bits.
const ROUND: f32 = 12_582_912.0 + 126.0;

/// N and D, lowest power first, of M(a) = e^(a²/2) Φ(-a) = 1/2 - a N(a) / D(a) on [0, 13.25]: as fitted, Φ(-a) is within
/// 2e-9 absolute and 2e-6 relative.
const MILLS_NUM: [f32; 4] = [0.39894217, 0.31690845, 0.104812935, 0.014110443];
const MILLS_DEN: [f32; 5] = [1.0, 1.4210241, 0.81991553, 0.23208801, 0.02822231];
/// Here -a²/2 lies in [EXP_MIN, -126 ln 2], so e^(-a²/2) is flushed to 0.
const GELU_MAX: f32 = 13.25;
/// 1 / √(2π)
const PHI_0: f32 = 0.398_942_3;

/// The lesser of x and the limit; NaN where x is NaN.
#[inline(always)]
fn at_most<T: PartialOrd>(x: T, limit: T) -> T {
    if limit < x { limit } else { x }
}

/// The greater of x and the limit; NaN where x is NaN.
#[inline(always)]
fn at_least<T: PartialOrd>(x: T, limit: T) -> T {
    if limit > x { limit } else { x }
}

#[inline(always)]
fn poly<S: Simd, const N: usize>(c: [f32; N], x: f32) -> f32 {
    let mut p = c[N - 1];
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        p = f32::fma::<S>(p, x, c[i]);
    }
    p
}

/// [`exp`] for EXP_MIN ≤ x ≤ EXP_MAX.
#[inline(always)]
fn exp_bounded<S: Simd>(x: f32) -> f32 {
    // n = ⌈x / ln 2⌉, so r = x - n ln 2 is in [-ln 2, 0] and e^x = (2 e^r) 2^(n - 1), whose second factor is finite and normal
    // wherever e^x is.
    let t = f32::fma::<S>(x, std::f32::consts::LOG2_E, ABOVE) + ROUND;
    let n = t - ROUND;
    let r = f32::fma::<S>(n, -LN2[0], x);
    let r = f32::fma::<S>(n, -LN2[1], r);
    // The field n + 126 is 0, the scale 0.0, at n = -126; it is 255, the scale infinite, at n = 129.
    poly::<S, _>(EXP, r) * f32::from_bits(t.to_bits() << 23)
}

/// e^x wherever it is a normal number, -87.3365 < x < 88.7228: to 1.25 ulp fused, 1.71 ulp unfused.
///
/// Below that 0 (there are no subnormal results), above it +∞; exp(0) = 1 exactly, exp(-∞) = 0, and NaN stays NaN.
#[inline(always)]
pub fn exp<S: Simd>(x: f32) -> f32 {
    exp_bounded::<S>(at_most(at_least(x, EXP_MIN), EXP_MAX))
}

/// x ln x, the terms of an entropy, for 0 ≤ x < ∞: within 1.7 ulp of the larger of |x ln x| and x.
///
/// With x = 2^n m, m from √½ to √2, and s = (m - 1) / (m + 1): ln m = 2 (s + s³/3 + s⁵/5 + …), of which five terms leave 3e-10 of the
/// whole. Subnormal x count as 0, x = 0 gives 0; NaN stays NaN.
#[inline(always)]
pub fn x_ln_x<S: Simd>(x: f32) -> f32 {
    let bits = at_least(x, f32::MIN_POSITIVE).to_bits() as i32;
    let n = (bits - SQRT_HALF) >> 23;
    let m = f32::from_bits((bits - (n << 23)) as u32);
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let of_m = f32::fma::<S>(s * square, poly::<S, _>(ATANH, square), s + s);
    let n = n as f32;
    x * f32::fma::<S>(n, LN2[0], f32::fma::<S>(n, LN2[1], of_m))
}

/// [`x_ln_x`] in f64, on libm.
#[inline(always)]
pub fn x_ln_x_f64(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x * libm::log(x) }
}

/// The exact (erf) GELU x Φ(x) and its derivative Φ(x) + x φ(x).
///
/// Both come from one e^(-a²/2), a = |x|, and one quotient of polynomials M(a) = e^(a²/2) Φ(-a), by the symmetries
/// x Φ(x) = max(x, 0) - a Φ(-a) and Φ(x) + x φ(x) = h or, for x > 0, 1 - h, with h = Φ(-a) - a φ(a). A caller that drops one of
/// the two does not pay for it.
///
/// Divided by max(1, |x|), the value errs by at most 8.5e-8 fused and 9.9e-8 unfused, the derivative by 1.02e-7 and 1.19e-7 (an ulp of
/// the derivative is 1.2e-7 where it exceeds 1). For x < -1, while |value| > 1e-30, the relative errors are at most 9.2e-6 and 4.1e-6.
///
/// gelu(0) = (0, 1/2) exactly; below -13.22 both are 0, at -∞ too; gelu(∞) = (∞, 1); NaN gives NaNs.
#[inline(always)]
pub fn gelu<S: Simd>(x: f32) -> (f32, f32) {
    let a = at_most(x.abs(), GELU_MAX);
    let e = exp_bounded::<S>(a * (-0.5 * a));
    let w = poly::<S, _>(MILLS_NUM, a) / poly::<S, _>(MILLS_DEN, a);
    let m = f32::fma::<S>(-a, w, 0.5);
    let value = f32::fma::<S>(-a, e * m, if x > 0.0 { x } else { 0.0 });
    let g = f32::fma::<S>(-PHI_0, a, m);
    (value, if x > 0.0 { f32::fma::<S>(-e, g, 1.0) } else { e * g })
}

/// [`gelu`] in f64, on libm's erfc and exp; meant for proofs, not for speed. Its errors are a few ulp, but for the derivative's far
/// left tail, where x² is rounded before it is exponentiated (1e-13 relative at worst).
#[inline(always)]
pub fn gelu_f64(x: f64) -> (f64, f64) {
    // From here on Φ(-a) and φ(a) are 0 in f64.
    let a = at_most(x.abs(), 40.0);
    let q = 0.5 * libm::erfc(a * std::f64::consts::FRAC_1_SQRT_2);
    let phi = libm::exp(-0.5 * a * a) * (0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2);
    let value = if x > 0.0 { x } else { 0.0 } - a * q;
    let h = q - a * phi;
    (value, if x > 0.0 { 1.0 - h } else { h })
}

/// x σ(1.702 x), GELU's sigmoid approximation as CLIP has it, and its derivative.
///
/// With a = |x|, s = σ(-1.702 a) and h = s (1 - 1.702 a (1 - s)) these are max(x, 0) - a s and h or, for x > 0, 1 - h.
/// Exactly (0, 1/2) at 0; safe at ±∞; NaN gives NaNs. In f32, divided by max(1, |x|), the value errs by at most 8.7e-8, the derivative
/// by 1.16e-7, fused or not, and both by 4.9e-6 of themselves for x < -1 while |value| > 1e-30.
#[inline(always)]
pub fn quick_gelu<S: Simd, T: Real>(x: T) -> (T, T) {
    // Beyond 450 e^(-1.702 a) is 0 in f64 too.
    let a = at_most(x.abs(), T::of(450.0));
    let y = T::of(1.702) * a;
    let e = (-y).exp::<S>();
    let above = T::ONE / (T::ONE + e);
    let s = e * above;
    let value = T::fma::<S>(-a, s, if x > T::ZERO { x } else { T::ZERO });
    let h = s * T::fma::<S>(-y, above, T::ONE);
    (value, if x > T::ZERO { T::ONE - h } else { h })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Baseline, Fused};

    /// 2.1 million bit patterns, evenly spread over the exponents and signs, then a million evenly spaced points of [-100, 100].
    fn grid() -> impl Iterator<Item = f32> {
        let bits = (0..0x7f80_0000_u32).step_by(2039).flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)]);
        bits.chain((0..=1_000_000).map(|i| (i - 500_000) as f32 * 2e-4))
    }

    /// The ulp of f32 at x.
    fn ulp(x: f64) -> f64 {
        let exponent = (x.abs().to_bits() >> 52) as i32 - 1023;
        2f64.powi(exponent.max(-126) - 23)
    }

    fn scale(x: f32) -> f64 {
        f64::from(x.abs().max(1.0))
    }

    /// x, gelu, gelu', quick_gelu, quick_gelu', from 40 digits of mpmath.
    const KNOWN: [(f64, f64, f64, f64, f64); 10] = [
        (-12.0, -2.1317785344932147e-32, -2.5578956616748956e-31, -1.6186417835847617e-08, -2.6200414966464992e-08),
        (-5.5, -1.0444259356238245e-07, -5.733472398739924e-07, -0.00047303654130853026, -0.0007190323047791782),
        (-3.0, -0.0040496940948902835, -0.011945647204183927, -0.018071309707785966, -0.02454832390565235),
        (-1.0, -0.15865525393145705, -0.0833154705876863, -0.1542042340671787, -0.06777960655633405),
        (-0.25, -0.10032341857926907, 0.30462664511636395, -0.09880035009980583, 0.2934995590257331),
        (0.5, 0.34573123063700656, 0.8674951246561629, 0.35038843660638014, 0.8792219119654142),
        (1.0, 0.8413447460685429, 1.0833154705876864, 0.8457957659328212, 1.067779606556334),
        (2.0, 1.9544997361036416, 1.085231801078197, 1.9356586231442081, 1.073815354308542),
        (4.0, 3.9998733150326675, 1.0005036496612265, 3.995585275860419, 1.006401886545355),
        (9.0, 9.0, 1.0, 8.999997996822014, 1.0000031868328425),
    ];

    fn exp_is_bounded<S: Simd>(bound: f64) {
        let mut worst = 0f64;
        for x in grid() {
            let got = exp::<S>(x);
            if x < -87.3366 {
                assert_eq!(got, 0.0, "exp({x})");
            } else if x > 88.723 {
                assert_eq!(got, f32::INFINITY, "exp({x})");
            } else if x > -87.3365 && x < 88.7228 {
                assert!(got.is_normal(), "exp({x}) = {got}");
                let want = f64::from(x).exp();
                worst = worst.max((f64::from(got) - want).abs() / ulp(want));
            } else {
                assert!(got == 0.0 || got >= f32::MIN_POSITIVE, "exp({x}) = {got}");
            }
        }
        assert!(worst <= bound, "{worst} ulp");
    }

    #[test]
    fn exp_errs_by_less_than_two_ulp() {
        exp_is_bounded::<Baseline>(1.71);
        exp_is_bounded::<Fused>(1.25);
    }

    fn x_ln_x_is_bounded<S: Simd>(bound: f64) {
        let mut worst = 0f64;
        for x in grid().filter(|x| *x >= f32::MIN_POSITIVE && *x < 1e30) {
            let (x, want) = (f64::from(x), f64::from(x) * f64::from(x).ln());
            worst = worst.max((f64::from(x_ln_x::<S>(x as f32)) - want).abs() / ulp(want.abs().max(x)));
        }
        assert!(worst <= bound, "{worst} ulp");
        assert_eq!((x_ln_x::<S>(0.0), x_ln_x::<S>(1.0)), (0.0, 0.0));
        assert!(x_ln_x::<S>(f32::NAN).is_nan());
        assert!(x_ln_x::<S>(f32::from_bits(9)).abs() < 1e-36);
    }

    #[test]
    fn x_ln_x_errs_by_little() {
        x_ln_x_is_bounded::<Baseline>(1.7);
        x_ln_x_is_bounded::<Fused>(1.7);
        assert_eq!((x_ln_x_f64(0.0), x_ln_x_f64(1.0)), (0.0, 0.0));
    }

    fn exp_is_right_where_it_is_special<S: Simd>() {
        assert_eq!(exp::<S>(0.0), 1.0);
        assert_eq!(exp::<S>(-0.0), 1.0);
        assert_eq!(exp::<S>(f32::from_bits(1)), 1.0);
        assert_eq!(exp::<S>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<S>(f32::MIN), 0.0);
        assert_eq!(exp::<S>(f32::MAX), f32::INFINITY);
        assert_eq!(exp::<S>(f32::INFINITY), f32::INFINITY);
        for payload in [0x7fc0_0000, 0xffc0_0000, 0x7fc0_01ff, 0x7fff_ffff, 0xffc0_0081] {
            assert!(exp::<S>(f32::from_bits(payload)).is_nan());
        }
        // Rising at every step that is wider than the error.
        for i in -11_150..11_340 {
            let x = i as f32 / 128.0;
            assert!(exp::<S>(x) < exp::<S>(x + 1.0 / 128.0), "at {x}");
        }
    }

    #[test]
    fn exp_has_its_special_values() {
        exp_is_right_where_it_is_special::<Baseline>();
        exp_is_right_where_it_is_special::<Fused>();
    }

    /// The largest errors of value and slope over max(1, |x|), then their largest relative errors for x < -1 with |value| > 1e-30.
    fn errors(both: impl Fn(f32) -> (f32, f32), want: impl Fn(f64) -> (f64, f64)) -> [f64; 4] {
        let mut worst = [0f64; 4];
        for x in grid() {
            let (got, want) = (both(x), want(f64::from(x)));
            let (value, slope) = ((f64::from(got.0) - want.0).abs(), (f64::from(got.1) - want.1).abs());
            let tail = if x < -1.0 && want.0.abs() > 1e-30 { [value / want.0.abs(), slope / want.1.abs()] } else { [0.0; 2] };
            for (w, e) in worst.iter_mut().zip([value / scale(x), slope / scale(x), tail[0], tail[1]]) {
                assert!(e.is_finite(), "at {x}");
                *w = w.max(e);
            }
        }
        worst
    }

    #[test]
    fn gelu_errs_within_its_bounds() {
        let check = |got: [f64; 4], bound: [f64; 4]| assert!(got.iter().zip(bound).all(|(g, b)| *g <= b), "{got:?}");
        check(errors(gelu::<Baseline>, gelu_f64), [9.9e-8, 1.19e-7, 9.2e-6, 4.1e-6]);
        check(errors(gelu::<Fused>, gelu_f64), [8.5e-8, 1.02e-7, 9.2e-6, 4.1e-6]);
    }

    #[test]
    fn quick_gelu_errs_within_its_bounds() {
        let check = |got: [f64; 4], bound: [f64; 4]| assert!(got.iter().zip(bound).all(|(g, b)| *g <= b), "{got:?}");
        check(errors(quick_gelu::<Baseline, f32>, quick_gelu::<Baseline, f64>), [8.7e-8, 1.16e-7, 4.9e-6, 4.9e-6]);
        check(errors(quick_gelu::<Fused, f32>, quick_gelu::<Fused, f64>), [8.7e-8, 1.16e-7, 4.9e-6, 4.9e-6]);
    }

    /// Zero, the infinities, NaN, and a left tail that falls towards the minimum.
    fn is_right_where_it_is_special<T: Real>(both: impl Fn(T) -> (T, T), deepest: i32) {
        let at = |x: f64| {
            let (value, slope) = both(T::of(x));
            (value.f64(), slope.f64())
        };
        assert_eq!(at(0.0), (0.0, 0.5));
        assert_eq!(at(-0.0), (0.0, 0.5));
        assert_eq!(at(f64::INFINITY), (f64::INFINITY, 1.0));
        assert_eq!(at(1e30), (T::of(1e30).f64(), 1.0));
        for x in [-1e3, -1e30, f64::NEG_INFINITY] {
            assert_eq!(at(x), (0.0, 0.0));
        }
        assert!(at(f64::NAN).0.is_nan() && at(f64::NAN).1.is_nan());
        for i in -64 * deepest..-64 {
            let (here, next) = (at(f64::from(i) / 64.0), at(f64::from(i + 1) / 64.0));
            assert!(next.0 < here.0 && here.0 < 0.0 && here.1 < 0.0, "at {i} / 64: {here:?}, {next:?}");
        }
    }

    #[test]
    fn gelu_and_quick_gelu_have_their_special_values() {
        is_right_where_it_is_special(gelu::<Baseline>, 13);
        is_right_where_it_is_special(gelu::<Fused>, 13);
        is_right_where_it_is_special(gelu_f64, 36);
        is_right_where_it_is_special(quick_gelu::<Baseline, f32>, 50);
        is_right_where_it_is_special(quick_gelu::<Fused, f32>, 50);
        is_right_where_it_is_special(quick_gelu::<Baseline, f64>, 400);
        is_right_where_it_is_special(quick_gelu::<Fused, f64>, 400);
    }

    #[test]
    fn the_f64_forms_agree_with_known_digits() {
        let close = |got: f64, want: f64, x: f64| assert!((got / want - 1.0).abs() < 1e-13, "{got} for {want} at {x}");
        for (x, value, slope, quick_value, quick_slope) in KNOWN {
            let (g, q) = (gelu_f64(x), quick_gelu::<Baseline, f64>(x));
            close(g.0, value, x);
            close(g.1, slope, x);
            close(q.0, quick_value, x);
            close(q.1, quick_slope, x);
            let by_erf = 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2));
            assert!((g.0 - by_erf).abs() <= 1e-15 * x.abs());
        }
    }
}
