#!/usr/bin/env python3
"""Fits the coefficients of crates/compute/src/simd/math.rs and prints them as Rust; needs numpy.

    python3 tools/fit_math.py

Both fits are minimax in (weighted) relative error, by Lawson's iteration: least squares on a dense grid, in which every point's weight is
multiplied by its last error until the largest errors are level. The rational one is linear in its coefficients once the
denominator of the pass before is put under its residual. The coefficients are then rounded to f32 one at a time, in rising
order, and those not yet rounded are fitted again, so that later ones take up the rounding of earlier ones.
"""

import math

import numpy as np

EXP_DEGREE = 6
MILLS_NUM, MILLS_DEN = 3, 4
MILLS_SLACK = 500
A_MAX = 13.25
PASSES = 400


def lawson(columns, target, residual_scale, error, fixed):
    """Minimax fit of sum(c_i columns_i) to target; fixed: {i: value}. Returns (largest error, c)."""
    free = [i for i in range(columns.shape[1]) if i not in fixed]
    c = np.zeros(columns.shape[1])
    for i, value in fixed.items():
        c[i] = value
    rest = target - columns @ c
    weight = np.ones(len(target))
    best = (math.inf, c.copy())
    last = None
    for k in range(PASSES if free else 1):
        if free:
            scale = np.sqrt(weight) * residual_scale(last)
            m = columns[:, free] * scale[:, None]
            norm = np.linalg.norm(m, axis=0)
            c[free] = np.linalg.lstsq(m / norm, rest * scale, rcond=None)[0] / norm
        e = np.abs(error(c))
        if e.max() < best[0]:
            best = (e.max(), c.copy())
        last = c.copy()
        if k >= 10:  # first let the denominator settle
            weight *= e / e.max() + 1e-3
            weight /= weight.mean()
    return best


def fit(name, order, *problem):
    """Fits, rounds to f32 in the given order with refits between, and returns the coefficients."""
    exact, c = lawson(*problem, {})
    fixed = {}
    for i in order:
        fixed[i] = float(np.float32(c[i]))
        worst, c = lawson(*problem, fixed)
    print(f"// {name}: largest weighted error {exact:.2e}, after rounding the coefficients {worst:.2e}")
    return c


def rust(name, values):
    print(f"const {name}: [f32; {len(values)}] = [{', '.join(str(np.float32(v)) for v in values)}];")


def fit_exp():
    # 2 e^r on [-ln 2, 0]; the constant term is held at 2.
    r = -math.log(2) * 0.5 * (1 - np.cos(np.linspace(0, np.pi, 2001)))
    want = 2 * np.exp(r)
    columns = np.stack([r**i for i in range(1, EXP_DEGREE + 1)], axis=1)
    problem = columns, want - 2, lambda _: 1 / want, lambda c: (2 + columns @ c) / want - 1
    c = fit("2 e^r", range(EXP_DEGREE), *problem)
    rust("EXP", [2.0, *c])


def fit_mills():
    # e^(a²/2) Φ(-a) on [0, A_MAX] as 1/2 - a N(a) / D(a) with D(0) = 1.
    a = A_MAX * (1 - np.cos(np.linspace(0, np.pi / 2, 2001)))
    want = np.array([0.5 * math.erfc(x / math.sqrt(2)) * math.exp(x * x / 2) for x in a])
    # Level errors of Φ(-a) itself, but in the tail a relative error of at most MILLS_SLACK times that at 0.
    gauss = np.exp(-a * a / 2)
    size = np.minimum(0.5 / gauss, MILLS_SLACK * want)
    n, d = range(MILLS_NUM + 1), range(1, MILLS_DEN + 1)
    columns = np.stack([a ** (i + 1) for i in n] + [(want - 0.5) * a**i for i in d], axis=1)
    split = MILLS_NUM + 1

    def den(c):
        return 1 + sum(c[split + i - 1] * a**i for i in d) if c is not None else 1.0

    def error(c):
        return (0.5 - columns[:, :split] @ c[:split] / den(c) - want) / size

    order = sorted(range(columns.shape[1]), key=lambda i: i if i < split else i - split + 0.5)
    c = fit("Mills", order, columns, 0.5 - want, lambda c: 1 / (size * den(c)), error)
    rust("MILLS_NUM", c[:split])
    rust("MILLS_DEN", [1.0, *c[split:]])
    e = np.abs(error(c) * size)
    print(f"// Mills: largest error of Φ(-a) {(e * gauss).max():.2e}, largest relative error {(e / want).max():.2e}")


if __name__ == "__main__":
    fit_exp()
    fit_mills()
