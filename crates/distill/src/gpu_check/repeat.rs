//! Runs that must agree bit for bit: the same steps twice, and passes as graphs against passes operation by operation.

use std::io::Write;

use fd_compute::{DType, Device};

use super::Job;
use super::record::Record;
use crate::Error;
use crate::bench::{FdStep, Preset};

/// How a step is started.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// As training does it: the first time kernel by kernel, then recorded, then as a graph.
    Passes,
    /// Operation by operation.
    Profiled,
}

/// Losses, and every parameter's values and moments after the last step.
type State = (Vec<u64>, Vec<(String, Vec<u64>)>);

pub(super) fn run(job: &Job, record: &mut Record<impl Write>) -> Result<(), Error> {
    // A graph is recorded in the second step and started from then on.
    let (batch, steps) = if job.quick() { (2, 3) } else { (128, 4) };
    for dtype in [DType::F32, DType::Bf16] {
        let device = job.device(dtype);
        let state = |way| state(batch, steps, way, device);
        let first = match state(Way::Passes) {
            Ok(first) => first,
            Err(e) => {
                record.holds("mini", "three steps", dtype, Err(e.to_string()))?;
                continue;
            }
        };
        for (case, way) in [("the same steps again", Way::Passes), ("graphs and single operations", Way::Profiled)] {
            let result = state(way).map_err(|e| e.to_string()).and_then(|other| agree(&first, &other));
            record.holds("mini", case, dtype, result)?;
        }
    }
    Ok(())
}

fn state(batch: usize, steps: usize, way: Way, device: Device) -> Result<State, Error> {
    let (student, teacher, _) = Preset::Mini.models()?;
    let mut step = FdStep::new(&student, &teacher, batch, false, device)?;
    let one = |i| match way {
        Way::Passes => step.run(i),
        Way::Profiled => Ok(step.profile(i)?.loss),
    };
    let losses = (0..steps).map(one).collect::<Result<Vec<f64>, Error>>()?;
    Ok((losses.into_iter().map(f64::to_bits).collect(), step.bits()))
}

fn agree(first: &State, other: &State) -> Result<String, String> {
    if let Some(i) = first.0.iter().zip(&other.0).position(|(a, b)| a != b) {
        return Err(format!("the loss of step {i} differs: {} and {}", f64::from_bits(first.0[i]), f64::from_bits(other.0[i])));
    }
    if first.0.iter().any(|l| !f64::from_bits(*l).is_finite()) {
        return Err("a loss that is no number".into());
    }
    let differs = first.1.iter().zip(&other.1).find(|(a, b)| a.1 != b.1);
    match differs {
        Some(((name, a), (_, b))) => {
            let n = a.iter().zip(b).filter(|(a, b)| a != b).count();
            Err(format!("{name}: {n} of {} values and moments differ", a.len()))
        }
        None => Ok(format!("equal bits: {} losses, {} tensors and their moments", first.0.len(), first.1.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_that_differs_is_found() {
        let state = |way| state(2, 2, way, Device::CPU).unwrap();
        let first = state(Way::Passes);
        assert!(agree(&first, &state(Way::Profiled)).is_ok());
        let mut other = first.clone();
        other.1[3].1[0] ^= 1;
        assert!(agree(&first, &other).unwrap_err().starts_with(&first.1[3].0));
        other.0[1] ^= 1;
        assert!(agree(&first, &other).unwrap_err().contains("step 1"));
    }
}
