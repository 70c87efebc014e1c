//! What every operation is checked on: small plans around one operation, in the shapes in which models use it and in odd ones.

mod attention;
mod maps;
mod rows;

use std::sync::Arc;

use fd_compute::{Act, Distance, Error, Layout, Param, Plan, Planner};

/// A plan around one operation.
pub(super) struct Case {
    /// The operation.
    pub op: &'static str,
    /// Its shape and kind.
    pub name: String,
    params: Vec<(&'static str, Vec<usize>)>,
    describe: Box<Describe>,
}

type Describe = dyn Fn(&mut Planner, &[Param]) -> Result<Described, Error>;

/// What an input holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fill {
    /// Standard normal numbers; its gradient is compared.
    Differentiated,
    /// Standard normal numbers.
    Normal,
    /// Whole numbers below this.
    Index(usize),
    /// Rows that add up to 1.
    Probabilities,
}

/// Inputs and outputs of a plan, by name. The first output is the one that is differentiated.
#[derive(Default)]
pub(super) struct Described {
    inputs: Vec<(&'static str, Act, Fill)>,
    outputs: Vec<(&'static str, Act)>,
}

impl Described {
    /// Of one input, which is differentiated, to one output.
    fn plain(x: Act, y: Act) -> Self {
        Described::default().input("x", x, Fill::Differentiated).output("y", y)
    }

    fn input(mut self, name: &'static str, act: Act, fill: Fill) -> Self {
        self.inputs.push((name, act, fill));
        self
    }

    fn output(mut self, name: &'static str, act: Act) -> Self {
        self.outputs.push((name, act));
        self
    }
}

/// A case laid out.
pub(super) struct Built {
    pub layout: Arc<Layout>,
    pub plan: Plan,
    pub inputs: Vec<(&'static str, Act, Fill)>,
    pub outputs: Vec<(&'static str, Act)>,
    /// The loss that is differentiated.
    pub loss: Act,
    /// Elements of the first output: the root's gradient, so that gradients are of order one.
    pub elements: usize,
}

impl Case {
    fn new(
        op: &'static str,
        name: impl Into<String>,
        params: &[(&'static str, &[usize])],
        describe: impl Fn(&mut Planner, &[Param]) -> Result<Described, Error> + 'static,
    ) -> Case {
        let params = params.iter().map(|(name, shape)| (*name, shape.to_vec())).collect();
        Case { op, name: name.into(), params, describe: Box::new(describe) }
    }

    /// Describes it, with a loss behind it where the output is none.
    pub fn build(&self) -> Result<Built, Error> {
        let mut layout = Layout::builder();
        let params: Vec<Param> = self.params.iter().map(|(name, shape)| layout.add(*name, shape)).collect();
        let layout = layout.finish();
        let mut p = Planner::new();
        p.train(&layout);
        let Described { mut inputs, outputs } = (self.describe)(&mut p, &params)?;
        inputs.iter().filter(|(_, _, fill)| *fill == Fill::Differentiated).for_each(|(_, act, _)| p.want_grad(*act));
        let (_, first) = outputs[0];
        let elements = p.shape(first).len();
        let mut loss = first;
        if elements != 1 {
            let target = p.input(p.shape(first));
            inputs.push(("target", target, Fill::Normal));
            loss = p.feature_loss(first, target, Distance::Mse, None)?;
        }
        outputs.iter().for_each(|(_, act)| p.keep(*act));
        p.root(loss);
        Ok(Built { layout, plan: p.finish()?, inputs, outputs, loss, elements })
    }
}

/// Tokens of a model.
#[derive(Clone, Copy, Debug)]
struct Size {
    name: &'static str,
    batch: usize,
    tokens: usize,
    width: usize,
    heads: usize,
}

/// The plain ViTs' shapes and an odd one; small ones in their place.
fn sizes(quick: bool) -> Vec<Size> {
    let size = |name, batch, tokens, width, heads| Size { name, batch, tokens, width, heads };
    if quick {
        return vec![size("small", 2, 17, 64, 2), size("odd", 3, 7, 30, 3)];
    }
    vec![size("ViT-B", 3, 197, 768, 12), size("ViT-L", 2, 257, 1024, 16), size("odd", 3, 37, 70, 5)]
}

/// All cases, those of an operation one after the other.
pub(super) fn cases(quick: bool) -> Vec<Case> {
    [rows::cases(quick), attention::cases(quick), maps::cases(quick)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_operation_has_cases_that_use_it() {
        for quick in [false, true] {
            let all = cases(quick);
            let covered: BTreeSet<&str> = all.iter().map(|c| c.op).collect();
            assert_eq!(covered, fd_compute::ops::NAMES.iter().copied().collect(), "quick: {quick}");
            let mut names = BTreeSet::new();
            for case in &all {
                let built = case.build().unwrap_or_else(|e| panic!("{} {}: {e}", case.op, case.name));
                assert!(built.plan.op_names().any(|op| op == case.op), "{} is not in its case {}", case.op, case.name);
                assert!(names.insert((case.op, case.name.clone())), "{} {} twice", case.op, case.name);
            }
        }
    }
}
