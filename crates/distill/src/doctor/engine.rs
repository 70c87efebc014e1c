//! A small calculation by the engine, at the instruction set in force, held to the same by hand.

use fd_compute::{Arena, Bias, Cx, DType, Device, Layout, Params, Planner, StepKey};

/// Odd sizes: whole registers and what is left over.
const ROWS: usize = 5;
const FROM: usize = 37;
const TO: usize = 19;

/// What the engine gets wrong; none: nothing.
pub(super) fn fault() -> Option<String> {
    match worst() {
        Err(e) => Some(e.to_string()),
        Ok(worst) if worst < 1e-5 => None,
        Ok(worst) => Some(format!("a linear layer is off by {worst:e}")),
    }
}

/// The largest error of a linear layer whose values are small multiples of 1/16.
fn worst() -> Result<f64, fd_compute::Error> {
    let value = |i: usize, j: usize| ((i * 7 + j * 3) % 17) as f64 / 16.0 - 0.5;
    let (mut layout, mut p) = (Layout::builder(), Planner::new());
    let (weight, bias) = (layout.add("weight", &[TO, FROM]), layout.add("bias", &[TO]));
    let layout = layout.finish();
    p.bind(&layout);
    let x = p.input([ROWS, FROM]);
    let y = p.linear(x, weight, Bias::Full(bias))?;
    p.keep(y);
    let plan = p.finish()?;
    let mut params = Params::new(&layout, DType::F32);
    params.set(weight, &(0..TO * FROM).map(|i| value(i / FROM, i % FROM)).collect::<Vec<_>>());
    params.set(bias, &(0..TO).map(|i| value(i, 1)).collect::<Vec<_>>());
    let mut arena = Arena::new(&plan, DType::F32);
    arena.value_mut::<f32>(x).iter_mut().enumerate().for_each(|(i, x)| *x = value(i % FROM, i / FROM) as f32);
    let sets = [&params];
    plan.forward(&mut Cx::new(&Device::CPU, &sets, &mut arena, StepKey::default()))?;
    let by_hand = |row: usize, to: usize| value(to, 1) + (0..FROM).map(|k| value(k, row) * value(to, k)).sum::<f64>();
    let errors = arena.value::<f32>(y).iter().enumerate().map(|(i, y)| (f64::from(*y) - by_hand(i / TO, i % TO)).abs());
    // A number that is none is no small error.
    Ok(errors.fold(0.0, |worst: f64, e| if e.is_nan() { f64::INFINITY } else { worst.max(e) }))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_engine_calculates() {
        assert_eq!(super::fault(), None);
    }
}
