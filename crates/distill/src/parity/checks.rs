//! What of a case has been used and compared, and how well it agreed.

use std::collections::BTreeSet;

use fd_compute::{Arena, Device, Layout, Params, Plan};
use fd_model::goldens::{Golden, GoldenModel};
use fd_model::{ModelConfig, relative_index};

use super::Stop;

/// A tolerance is at least this.
const LEAST: f64 = 5e-6;
/// Numbers that Python computed in double precision and we do too.
pub(super) const EXACT: f64 = 1e-12;
/// Largest value that counts as zero where theory says zero.
const ZERO: f64 = 1e-6;

/// A group of tensors of one case and the one of them that agrees worst.
#[derive(Clone, Debug)]
pub struct Row {
    /// Such as `out.block*`.
    pub group: String,
    /// How many were compared.
    pub compared: usize,
    /// Those that are not within their tolerance.
    pub failed: usize,
    /// Name of the worst.
    pub worst: String,
    /// Its error, relative to its largest value.
    pub error: f64,
    /// Its tolerance.
    pub tolerance: f64,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Row { group, compared, failed, worst, error, tolerance } = self;
        let verdict = if *failed == 0 { "PASS" } else { "FAIL" };
        write!(f, "{group:<40} {compared:>4}  worst {error:.1e} of {tolerance:.1e}  {verdict}  {worst}")
    }
}

/// Collects the comparisons of one case.
pub(super) struct Checks<'a> {
    golden: &'a Golden,
    device: Device,
    used: BTreeSet<&'a str>,
    rows: Vec<Row>,
    failures: Vec<String>,
}

impl<'a> Checks<'a> {
    pub fn new(golden: &'a Golden, device: Device) -> Self {
        Checks { golden, device, used: BTreeSet::new(), rows: vec![], failures: vec![] }
    }

    /// Where the case runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// A plan's memory there.
    pub fn arena(&self, plan: &Plan) -> Result<Arena, Stop> {
        Ok(Arena::on(&self.device, plan)?)
    }

    /// The case. What is read from its tensors here does not count as used.
    pub fn golden(&self) -> &'a Golden {
        self.golden
    }

    pub fn has(&self, name: &str) -> bool {
        self.golden.tensors.contains_key(name)
    }

    /// The names of tensors that start with `prefix`, without it.
    pub fn below(&self, prefix: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let prefix = prefix.to_owned();
        self.golden.tensors.keys().filter_map(move |name| name.strip_prefix(&prefix))
    }

    /// Shape and values of a tensor, which is then accounted for.
    pub fn tensor(&mut self, name: &str) -> Result<(&'a [usize], &'a [f64]), Stop> {
        let Some((key, (shape, values))) = self.golden.tensors.get_key_value(name) else {
            return Err(Stop::Failed(format!("tensor `{name}` is missing")));
        };
        if values.is_empty() {
            return Err(Stop::Failed(format!("tensor `{name}` is empty: {shape:?}")));
        }
        self.used.insert(key);
        Ok((shape, values))
    }

    /// An input of a known rank.
    pub fn input<const RANK: usize>(&mut self, name: &str) -> Result<([usize; RANK], &'a [f64]), Stop> {
        let (shape, values) = self.tensor(name)?;
        let shape = shape.try_into().map_err(|_| Stop::Failed(format!("`{name}` has shape {shape:?}, expected {RANK} extents")))?;
        Ok((shape, values))
    }

    /// Parameters with the values of `<prefix><name>`.
    pub fn params(&mut self, layout: &std::sync::Arc<Layout>, prefix: &str) -> Result<Params, Stop> {
        let mut params = Params::new(layout, fd_compute::DType::F32);
        for p in layout.iter() {
            let name = format!("{prefix}{}", layout.name(p));
            let (shape, values) = self.tensor(&name)?;
            if shape != layout.shape(p) {
                return Err(Stop::Failed(format!("`{name}` has shape {shape:?}, the model needs {:?}", layout.shape(p))));
            }
            params.set(p, values);
        }
        Ok(params)
    }

    /// The parameters of a model, whose names in the layout have `ours` before them, from the tensors that the case calls by other names.
    pub fn params_of(&mut self, layout: &std::sync::Arc<Layout>, ours: &str, model: &GoldenModel) -> Result<Params, Stop> {
        let mut params = Params::new(layout, fd_compute::DType::F32);
        for p in layout.iter() {
            let name = layout.name(p).strip_prefix(ours).unwrap_or(layout.name(p));
            let (name, foreign) = model.foreign(&self.golden.case, name)?;
            let (shape, values) = self.tensor(&name)?;
            let expected = foreign.shape(layout.shape(p)).unwrap_or_default();
            if shape != expected {
                return Err(Stop::Failed(format!("`{name}` has shape {shape:?}, the model needs {expected:?}")));
            }
            params.set(p, &foreign.to_ours(values.to_vec(), layout.shape(p)));
        }
        Ok(params)
    }

    /// Ten times what PyTorch's f32 does.
    pub fn tolerance(&self, name: &str) -> f64 {
        self.golden.json["f32_dev"][name].as_f64().map_or(LEAST, tolerance)
    }

    /// Something that has to be so.
    pub fn require(&mut self, so: bool, otherwise: impl FnOnce() -> String) {
        if !so {
            self.failures.push(otherwise());
        }
    }

    /// The values to compare with; none (and a failure) where the shape is another.
    fn expected(&mut self, name: &str, shape: &[usize], found: &[f64]) -> Result<Option<&'a [f64]>, Stop> {
        let (expected_shape, expected) = self.tensor(name)?;
        if expected_shape == shape && expected.len() == found.len() {
            return Ok(Some(expected));
        }
        self.failures.push(format!("`{name}` has shape {expected_shape:?}, ours {shape:?}"));
        Ok(None)
    }

    /// Compares a tensor with what we found.
    pub fn compare(&mut self, name: &str, shape: &[usize], found: &[f64]) -> Result<(), Stop> {
        self.compare_by(name, "", shape, found)
    }

    /// The same, in a group of its own: `by` says who found it.
    pub fn compare_by(&mut self, name: &str, by: &str, shape: &[usize], found: &[f64]) -> Result<(), Stop> {
        let Some(expected) = self.expected(name, shape, found)? else { return Ok(()) };
        let tolerance = self.tolerance(name.strip_suffix(".f64").unwrap_or(name));
        self.record(format!("{}{by}", group(name)), name, error(found, expected, 1e-4), tolerance);
        Ok(())
    }

    /// The same with a tolerance that the JSON gives elsewhere than in `f32_dev`, in a group of its own.
    pub fn compare_within(&mut self, name: &str, shape: &[usize], found: &[f64], tolerance: f64) -> Result<(), Stop> {
        let Some(expected) = self.expected(name, shape, found)? else { return Ok(()) };
        self.record(name.to_owned(), name, error(found, expected, 1e-4), tolerance);
        Ok(())
    }

    /// A value of a plan, if the case has it.
    pub fn compare_value(&mut self, name: &str, plan: &Plan, arena: &Arena, act: fd_compute::Act) -> Result<(), Stop> {
        if self.has(name) { self.compare(name, plan.shape(act).dims(), &arena.to_f64(act)) } else { Ok(()) }
    }

    /// A scalar, in f32 and f64 where it is there in f64.
    pub fn compare_scalar(&mut self, name: &str, by: &str, found: f64) -> Result<(), Stop> {
        self.compare_by(name, by, &[1], &[found])?;
        let wide = format!("{name}.f64");
        if self.has(&wide) { self.compare_by(&wide, by, &[1], &[found]) } else { Ok(()) }
    }

    /// A gradient that is exactly zero in theory: both sides are rounding errors.
    pub fn compare_zero(&mut self, name: &str, shape: &[usize], found: &[f64]) -> Result<(), Stop> {
        let Some(expected) = self.expected(name, shape, found)? else { return Ok(()) };
        let zeros = vec![0.0; found.len()];
        let off = error(found, &zeros, 1.0).max(error(expected, &zeros, 1.0));
        self.record(format!("{} = 0", group(name)), name, off, ZERO);
        Ok(())
    }

    /// Numbers of the JSON, relative to each one's size.
    pub fn compare_numbers(&mut self, key: &str, found: &[f64], expected: &[f64], tolerance: impl Fn(usize) -> f64) {
        if found.len() != expected.len() {
            self.failures.push(format!("`{key}` has {} numbers, expected {}", expected.len(), found.len()));
            return;
        }
        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
            self.record(key.to_owned(), &format!("{key}[{i}]"), error(&[*f], &[*e], f64::MIN_POSITIVE), tolerance(i));
        }
    }

    /// The constants of a model whose buffers are called `<prefix>...`: relative indices, coordinates, shift masks.
    pub fn compare_buffers(&mut self, prefix: &str, config: &ModelConfig) -> Result<(), Stop> {
        match config {
            ModelConfig::Vit(c) => {
                let index: Vec<f64> = relative_index(c.grid(), c.cls_token).into_iter().map(f64::from).collect();
                for rest in self.below(prefix).filter(|name| name.ends_with("relative_position_index")) {
                    self.compare(&format!("{prefix}{rest}"), &[c.tokens(), c.tokens()], &index)?;
                }
                Ok(())
            }
            ModelConfig::Swin(c) => super::swin::compare_buffers(self, prefix, c),
        }
    }

    fn record(&mut self, group: String, name: &str, error: f64, tolerance: f64) {
        let at = self.rows.iter().position(|r| r.group == group).unwrap_or_else(|| {
            self.rows.push(Row { group, compared: 0, failed: 0, worst: String::new(), error: 0.0, tolerance });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at];
        row.compared += 1;
        // Written so that a NaN fails.
        let within = error <= tolerance;
        row.failed += usize::from(!within);
        if row.worst.is_empty() || error.is_nan() || error / tolerance > row.error / row.tolerance {
            (row.worst, row.error, row.tolerance) = (name.to_owned(), error, tolerance);
        }
        if !within {
            self.failures.push(format!("`{name}` is {error:.3e} off, tolerance {tolerance:.1e}"));
        }
    }

    /// The comparisons and what failed: of a run to its end also what the case has and nobody asked for, and what it should have.
    pub fn finish(mut self, whole: bool) -> (Vec<Row>, Vec<String>) {
        if whole {
            let forgotten = self.golden.tensors.keys().filter(|name| !self.used.contains(name.as_str()));
            self.failures.extend(forgotten.map(|name| format!("`{name}` is not checked")));
            let promised = self.golden.json["f32_dev"].as_object().into_iter().flat_map(|dev| dev.keys());
            let missing = promised.filter(|name| !self.golden.tensors.contains_key(*name));
            self.failures.extend(missing.map(|name| format!("`{name}` is missing: it is in `f32_dev`")));
            if self.rows.is_empty() {
                self.failures.push("nothing in it was compared".into());
            }
        }
        (self.rows, self.failures)
    }
}

/// The tolerance for what PyTorch's f32 is `dev` off.
pub(super) fn tolerance(dev: f64) -> f64 {
    (10.0 * dev).max(LEAST)
}

/// max|found - expected| / max(max|expected|, floor); NaN if anything is.
pub(super) fn error(found: &[f64], expected: &[f64], floor: f64) -> f64 {
    // `f64::max` would lose a NaN.
    let largest = |m: f64, x: f64| if m.is_nan() || x <= m { m } else { x };
    let scale = expected.iter().map(|e| e.abs()).fold(floor, largest);
    found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, largest) / scale
}

/// Tensors that are printed together: `g.blocks.*.attn`, `out.block*`, `p5.*`, `map.ln.*`.
fn group(name: &str) -> String {
    let name = name.strip_suffix(".f64").unwrap_or(name);
    let parts: Vec<&str> = name.split('.').collect();
    if let Some(at) = parts.iter().position(|&p| p == "blocks" || p == "layers").filter(|_| parts[0] == "g") {
        let part = parts.get(at + 2).unwrap_or(&"*");
        return format!("{}.*.{part}", parts[..=at].join("."));
    }
    let numbered = parts[0].len() > 1 && parts[0][1..].bytes().all(|b| b.is_ascii_digit());
    match parts.as_slice() {
        [first, _, ..] if numbered || *first == "buf" => format!("{first}.*"),
        ["out", rest] if rest.ends_with(|c: char| c.is_ascii_digit()) => {
            format!("out.{}*", rest.trim_end_matches(|c: char| c.is_ascii_digit()))
        }
        ["g", .., _, "weight" | "bias"] => format!("{}.*", parts[..parts.len() - 1].join(".")),
        [first, second, _, ..] if *first != "g" => format!("{first}.{second}.*"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_names() {
        let pairs = [
            ("g.encoder.blocks.11.attn.qkv.weight", "g.encoder.blocks.*.attn"),
            ("g.norm.weight", "g.norm.*"),
            ("g.cls_token", "g.cls_token"),
            ("out.block12", "out.block*"),
            ("p5.blocks.0.gamma_1", "p5.*"),
            ("map.ln.smoothl1_b2.grad", "map.ln.*"),
            ("logits.softce.loss", "logits.softce.*"),
            ("out.tokens", "out.tokens"),
            ("hard.loss.f64", "hard.loss"),
        ];
        for (name, expected) in pairs {
            assert_eq!(group(name), expected);
        }
    }

    #[test]
    fn an_error_is_relative_to_the_largest_value_and_keeps_nan() {
        assert_eq!(error(&[1.0, 2.5], &[1.0, 2.0], 1e-4), 0.25);
        assert_eq!(error(&[1e-5], &[0.0], 1e-4), 0.1);
        assert!(error(&[f64::NAN, 0.0], &[0.0, 0.0], 1e-4).is_nan() && error(&[0.0], &[f64::NAN], 1e-4).is_nan());
    }
}
