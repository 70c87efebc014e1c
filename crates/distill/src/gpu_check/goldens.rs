//! Golden numbers of the official classes, embedded: what `distill parity` compares, on the device, in f32.

use std::io::Write;
use std::path::Path;

use fd_compute::DType;
use fd_model::goldens::Golden;

use super::Job;
use super::record::{Record, Worst};
use crate::Error;
use crate::parity::{Verdict, compare_golden};

macro_rules! golden {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/goldens/", $name, ".json")) as &[u8],
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/goldens/", $name, ".safetensors")) as &[u8],
        )
    };
}

/// The paper's student with all gradients, Swin and Swin v2 on odd maps with all gradients, losses and normalisations, a fine-tuning's AdamW,
/// five steps of a distillation.
const EMBEDDED: [(&str, &[u8], &[u8]); 6] = [
    golden!("a_vit_shared_rpb"),
    golden!("o1_swin_v1_odd_rectangle"),
    golden!("o3_swin_v2_odd_rectangle"),
    golden!("j_variants"),
    golden!("l3_adamw_finetune_swinv2"),
    golden!("n_fd_train5"),
];

pub(super) fn run(job: &Job, record: &mut Record<impl Write>) -> Result<(), Error> {
    for (name, json, tensors) in EMBEDDED {
        if job.left().is_zero() {
            record.skip(name, "the time is over")?;
            continue;
        }
        let file = |ending: &str| format!("{name}.{ending}");
        let (json_file, tensor_file) = (file("json"), file("safetensors"));
        let golden = Golden::parse(name, (Path::new(&json_file), json), (Path::new(&tensor_file), tensors))?;
        let case = compare_golden(&golden, job.device(DType::F32));
        let result = match case.verdict {
            Verdict::Unknown(why) => Err(Error::Usage(why)),
            // What failed without a number: a device's error, a tensor that was forgotten.
            Verdict::Failed(whys) if case.rows.iter().all(|r| r.failed == 0) => Err(Error::Usage(whys.join("; "))),
            _ => {
                let mut worst = Worst::default();
                case.rows.iter().for_each(|r| worst.see(&r.worst, r.error, r.tolerance));
                Ok(worst)
            }
        };
        record.check("golden", name, DType::F32, result)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fd_compute::Device;

    #[test]
    fn embedded_cases_are_small_and_hold_on_the_cpu() {
        let bytes: usize = EMBEDDED.iter().map(|(_, json, tensors)| json.len() + tensors.len()).sum();
        assert!(bytes < 2_300_000, "{bytes} bytes of goldens in the binary");
        for (name, json, tensors) in EMBEDDED {
            let golden = Golden::parse(name, (Path::new("json"), json), (Path::new("tensors"), tensors)).unwrap();
            assert_eq!(compare_golden(&golden, Device::CPU).verdict, Verdict::Passed, "{name}");
        }
    }
}
