//! Whole steps of feature distillation: how many images a second, in how much memory; and PyTorch's, if its script is given.

use std::io::Write;

use fd_compute::DType;

use super::Job;
use super::record::Record;
use super::report::{Line, Steps};
use super::torch;
use crate::Error;
use crate::bench::{BenchOptions, Preset, fd_step};

/// A preset, its batch, the element type.
type Wanted = (Preset, usize, DType);

const ALL: [Wanted; 6] = [
    (Preset::VitB, 128, DType::Bf16),
    (Preset::Mini, 128, DType::Bf16),
    (Preset::Tiny, 64, DType::Bf16),
    (Preset::VitB, 256, DType::Bf16),
    (Preset::VitL, 64, DType::Bf16),
    (Preset::VitB, 128, DType::F32),
];
const QUICK: [Wanted; 1] = [(Preset::Mini, 2, DType::Bf16)];

pub(super) fn run(job: &Job, record: &mut Record<impl Write>) -> Result<(), Error> {
    let mut measured = vec![];
    for &wanted in if job.quick() { &QUICK[..] } else { &ALL[..] } {
        let (preset, batch, dtype) = wanted;
        if job.left() < super::LEAST {
            record.skip(&format!("{} batch {batch} {}", preset.name(), dtype.name()), "the time is over")?;
            continue;
        }
        match ours(job, wanted, record)? {
            Some(steps) => measured.push((preset, steps)),
            None => continue,
        }
    }
    let Some(script) = &job.options.torch else { return Ok(()) };
    // Ours first, whatever becomes of the others; then preset by preset, all variants of each.
    for (preset, steps) in measured.into_iter().filter(|(_, s)| s.dtype == DType::Bf16.name()) {
        torch::compare(job, script, preset, steps, record)?;
    }
    Ok(())
}

/// Measures ours; half the batch where the device does not have the memory.
fn ours(job: &Job, (preset, wanted, dtype): Wanted, record: &mut Record<impl Write>) -> Result<Option<Steps>, Error> {
    let (warmup, steps) = if job.quick() { (1, 2) } else { (5, 30) };
    let mut batch = wanted;
    loop {
        let options = BenchOptions { preset, batch: Some(batch), steps, warmup, recompute: false, device: job.device(dtype) };
        match fd_step(&options).and_then(|line| parse(&line)) {
            Ok(ours) => {
                let steps = Steps { preset: preset.name().into(), batch, dtype: dtype.name().into(), ours, torch: vec![] };
                record.steps(steps.clone())?;
                return Ok(Some(steps));
            }
            Err(e) if e.to_string().contains("of device memory were refused") && batch > 1 => {
                record.skip(&format!("{} batch {batch} {}", preset.name(), dtype.name()), &e.to_string())?;
                batch /= 2;
            }
            Err(e) => {
                record.holds(preset.name(), &format!("batch {batch}"), dtype, Err(e.to_string()))?;
                return Ok(None);
            }
        }
    }
}

/// The line of JSON that a benchmark has printed.
pub(super) fn parse(line: &str) -> Result<Line, Error> {
    serde_json::from_str(line).map_err(|e| Error::Usage(format!("not the line of a benchmark: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fd_compute::Device;

    #[test]
    fn our_own_line_is_read() {
        let options = BenchOptions { preset: Preset::Mini, batch: Some(1), steps: 1, warmup: 0, recompute: false, device: Device::CPU };
        let line = parse(&fd_step(&options).unwrap()).unwrap();
        assert!(line.images_per_second > 0.0 && line.gflops > 0.0 && line.engine.starts_with("fd-"), "{line:?}");
        assert!(parse("Traceback").is_err());
    }
}
