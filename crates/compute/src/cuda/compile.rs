//! From a source to what a device runs.

use super::{Cache, HEADERS, Nvrtc, Source};
use crate::Error;

/// The oldest compute capability that kernels run on, times ten: the first with bf16 and asynchronous copies.
const OLDEST: u32 = 80;

/// What is compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A device's own code, by its architecture: `90a`.
    Cubin(String),
    /// PTX for this architecture and all that follow, which the driver compiles when it loads it.
    Ptx(u32),
}

impl Target {
    /// The best that a compiler which knows `architectures` can do for a compute capability, both times ten. The error says why there is
    /// none.
    pub fn of(capability: u32, architectures: &[u32]) -> Result<Target, String> {
        let in_words = |c: u32| format!("{}.{}", c / 10, c % 10);
        if capability < OLDEST {
            return Err(format!(
                "its compute capability {} is older than {}, which the kernels need",
                in_words(capability),
                in_words(OLDEST)
            ));
        }
        let Some(best) = architectures.iter().copied().filter(|a| (OLDEST..=capability).contains(a)).max() else {
            return Err(format!("this NVRTC compiles for nothing that compute capability {} runs", in_words(capability)));
        };
        Ok(match best {
            // Hopper's matrix instructions have an architecture of their own, which runs on no other.
            90 if capability == 90 => Target::Cubin("90a".into()),
            // Code runs on later devices of its generation, PTX on all.
            best if best / 10 == capability / 10 => Target::Cubin(best.to_string()),
            best => Target::Ptx(best),
        })
    }
}

/// As in the compiler's options.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Cubin(architecture) => write!(f, "sm_{architecture}"),
            Target::Ptx(architecture) => write!(f, "compute_{architecture}"),
        }
    }
}

impl Nvrtc {
    /// Compiles a file of kernels, with `more` options than the usual ones.
    pub fn kernels(&self, source: &Source, target: &Target, more: &[&str]) -> Result<super::Built, Error> {
        let options: Vec<String> = options(target).into_iter().chain(more.iter().map(|o| o.to_string())).collect();
        let built = self.compile(source.name, source.text, HEADERS, &options, matches!(target, Target::Cubin(_)));
        let why = |log: String| {
            format!("does not compile for {target} with NVRTC {}.{}: {}", self.version().0, self.version().1, first_error(&log))
        };
        built.map_err(|log| Error::Kernel { file: source.name.into(), why: why(log) })
    }
}

/// What the driver loads for a file of kernels: from the cache, else compiled and put there.
pub fn compiled(nvrtc: &Nvrtc, cache: &Cache, source: &Source, target: &Target) -> Result<Vec<u8>, Error> {
    let key = Cache::key(&[nvrtc.identity(), source.name, source.text, &source.headers(), &options(target).join("\n")]);
    if let Some(image) = cache.load(&key) {
        return Ok(image);
    }
    let image = nvrtc.kernels(source, target, &[])?.image;
    cache.store(&key, &image);
    Ok(image)
}

/// Rounding is IEEE's throughout: nothing here allows fast mathematics.
fn options(target: &Target) -> Vec<String> {
    // Lambdas are functions without a word of where they run: on the device.
    vec!["--std=c++17".into(), "--device-as-default-execution-space".into(), format!("--gpu-architecture={target}")]
}

/// The line of a log that says what is wrong.
fn first_error(log: &str) -> &str {
    let mut lines = log.lines().map(str::trim).filter(|l| !l.is_empty());
    let first = lines.clone().next().unwrap_or("no reason given");
    lines.find(|l| l.contains("error")).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_target_for_a_device() {
        let known = [75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121];
        let of = |capability, known: &[u32]| Target::of(capability, known).map(|t| t.to_string());
        for (capability, target) in [
            (80, "sm_80"),
            (86, "sm_86"),
            (88, "sm_87"),
            (89, "sm_89"),
            (90, "sm_90a"),
            (100, "sm_100"),
            (120, "sm_120"),
            (130, "compute_121"),
        ] {
            assert_eq!(of(capability, &known).unwrap(), target);
        }
        // Older compilers: code of the same generation, else PTX, and never of what is Hopper's alone.
        assert_eq!(of(103, &[80, 90, 100]).unwrap(), "sm_100");
        assert_eq!(of(100, &[80, 89, 90]).unwrap(), "compute_90");
        assert_eq!(of(90, &[70, 80, 86]).unwrap(), "compute_86");
        assert_eq!(of(75, &known).unwrap_err(), "its compute capability 7.5 is older than 8.0, which the kernels need");
        assert!(of(80, &[86, 90]).unwrap_err().contains("nothing that compute capability 8.0 runs"));
    }

    #[test]
    fn the_line_of_a_log_that_counts() {
        let log =
            "\nconvert.cu(1): warning #177-D: unused\n\nconvert.cu(3): error: identifier \"x\" is undefined\nconvert.cu(4): error: y\n";
        assert_eq!(first_error(log), "convert.cu(3): error: identifier \"x\" is undefined");
        assert_eq!((first_error("odd\nthings"), first_error("")), ("odd", "no reason given"));
    }
}
