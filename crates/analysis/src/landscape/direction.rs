//! Directions in the space of a model's weights: Gaussian, and rescaled filter by filter to the weights' own size (Li et al.,
//! *Visualizing the loss landscape of neural nets*, 2018).
//!
//! A network with normalisation computes the same when a filter's weights are multiplied and what follows is divided, so a step of
//! unit length means little: d_f ← d_f / |d_f| · |θ_f| makes it a step relative to each filter f. A filter is one output row of a
//! matrix. Numbers depend on (seed, axis, the tensor's name) only: models that are compared move along the same Gaussian
//! directions, each rescaled to its own weights.

use std::fmt::{self, Display};
use std::str::FromStr;

use fd_compute::{Layout, Param, Params, Stream};
use fd_distill::Error;
use serde::{Deserialize, Serialize};

/// Which tensors move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Tensors {
    /// Every one.
    All,
    /// Matrices and kernels: no vectors (norms, biases, scales), no tokens, no position tables.
    Matrices,
    /// Those with a name that one of these patterns fits; `*` stands for anything.
    Named(Vec<String>),
}

impl FromStr for Tensors {
    type Err = String;

    fn from_str(text: &str) -> Result<Tensors, String> {
        match text {
            "all" => Ok(Tensors::All),
            "matrices" => Ok(Tensors::Matrices),
            _ => {
                let patterns: Vec<String> = text.split(',').map(|p| p.trim().to_string()).collect();
                let empty = patterns.iter().any(String::is_empty);
                if empty { Err("expected all, matrices, or names such as blocks.*.mlp.*".into()) } else { Ok(Tensors::Named(patterns)) }
            }
        }
    }
}

impl TryFrom<String> for Tensors {
    type Error = String;

    fn try_from(text: String) -> Result<Tensors, String> {
        text.parse()
    }
}

impl Display for Tensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tensors::All => f.write_str("all"),
            Tensors::Matrices => f.write_str("matrices"),
            Tensors::Named(patterns) => f.write_str(&patterns.join(",")),
        }
    }
}

impl From<Tensors> for String {
    fn from(tensors: Tensors) -> String {
        tensors.to_string()
    }
}

impl Tensors {
    /// Those of a layout, in its order.
    ///
    /// # Errors
    /// A pattern that fits none.
    pub fn of(&self, layout: &Layout) -> Result<Vec<Param>, Error> {
        if let Tensors::Named(patterns) = self
            && let Some(none) = patterns.iter().find(|p| !layout.iter().any(|t| fits(p, layout.name(t))))
        {
            return Err(Error::Usage(format!("no tensor of the model is called `{none}`")));
        }
        let chosen = |p: &Param| match self {
            Tensors::All => true,
            Tensors::Matrices => is_matrix(layout.name(*p), layout.shape(*p)),
            Tensors::Named(patterns) => patterns.iter().any(|pattern| fits(pattern, layout.name(*p))),
        };
        Ok(layout.iter().filter(chosen).collect())
    }
}

fn is_matrix(name: &str, shape: &[usize]) -> bool {
    let table = name.ends_with("relative_position_bias_table") || name.ends_with("pos_embed") || name.ends_with("_token");
    !table && shape.len() > 1 && shape[1..].iter().any(|n| *n > 1)
}

/// Does a name fit a pattern in which `*` stands for anything?
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name
            .strip_prefix(start)
            .is_some_and(|name| name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| fits(rest, &name[at..]))),
    }
}

/// What is rescaled together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// An output row of a matrix; a vector is one filter; each token's position is one.
    Row,
    /// An input column of a matrix.
    Column,
    /// A whole tensor.
    Tensor,
    /// Nothing is rescaled: a step is one in every weight's own units.
    None,
}

/// How directions are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Which tensors move; the others stay.
    pub tensors: Tensors,
    /// What is rescaled together.
    pub filter: Filter,
    /// Of the random numbers.
    pub seed: u64,
}

/// A direction: values for each tensor that moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// In the layout's order, each as long as its tensor.
    pub parts: Vec<(Param, Vec<f32>)>,
}

impl Direction {
    /// The direction called `axis` for these weights; if asked, orthogonal to another, filter by filter: so the whole of it is, and each
    /// filter still has the size of its weights. (A filter of one weight has no orthogonal direction and stays.)
    ///
    /// # Errors
    /// Tensors that the model does not have.
    pub fn new(recipe: &Recipe, weights: &Params, axis: &str, orthogonal_to: Option<&Direction>) -> Result<Direction, Error> {
        let layout = weights.layout();
        let chosen = recipe.tensors.of(layout)?;
        let part = |(i, p): (usize, Param)| {
            let theta = weights.get::<f32>(p);
            let mut stream = Stream::named(recipe.seed, &format!("landscape.{axis}.{}", layout.name(p)));
            let mut d: Vec<f64> = theta.iter().map(|_| stream.normal()).collect();
            let groups = Groups::of(recipe.filter, layout.shape(p));
            if let Some(other) = orthogonal_to {
                groups.project_out(&mut d, &other.parts[i].1);
            }
            if recipe.filter != Filter::None {
                groups.rescale(&mut d, theta);
            }
            (p, d.into_iter().map(|x| x as f32).collect())
        };
        Ok(Direction { parts: chosen.into_iter().enumerate().map(part).collect() })
    }
}

/// Which filter each value of a tensor belongs to, seen as a matrix `[rows, cols]`.
#[derive(Clone, Copy, Debug)]
struct Groups {
    filter: Filter,
    rows: usize,
    cols: usize,
}

impl Groups {
    fn of(filter: Filter, shape: &[usize]) -> Groups {
        let all: usize = shape.iter().product();
        let rows = match shape {
            [] | [_] => 1,
            // Tables [1, N, C] have a row for each of N.
            [1, .., cols] => all / (*cols).max(1),
            [rows, ..] => *rows,
        };
        Groups { filter, rows, cols: all / rows.max(1) }
    }

    fn count(self) -> usize {
        match self.filter {
            Filter::Row => self.rows,
            Filter::Column => self.cols,
            Filter::Tensor | Filter::None => 1,
        }
    }

    fn at(self, i: usize) -> usize {
        match self.filter {
            Filter::Row => i / self.cols,
            Filter::Column => i % self.cols,
            Filter::Tensor | Filter::None => 0,
        }
    }

    /// Σ a b of each filter.
    fn products(self, a: &[f64], b: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut sums = vec![0.0; self.count()];
        a.iter().zip(b).enumerate().for_each(|(i, (a, b))| sums[self.at(i)] += a * b);
        sums
    }

    fn rescale(self, d: &mut [f64], theta: &[f32]) {
        let theta: Vec<f64> = theta.iter().map(|x| f64::from(*x)).collect();
        let (own, wanted) = (self.products(d, d.iter().copied()), self.products(&theta, theta.iter().copied()));
        let factors: Vec<f64> = own.iter().zip(&wanted).map(|(own, wanted)| if *own > 0.0 { (wanted / own).sqrt() } else { 0.0 }).collect();
        d.iter_mut().enumerate().for_each(|(i, d)| *d *= factors[self.at(i)]);
    }

    fn project_out(self, d: &mut [f64], other: &[f32]) {
        let other: Vec<f64> = other.iter().map(|x| f64::from(*x)).collect();
        let (along, own) = (self.products(d, other.iter().copied()), self.products(&other, other.iter().copied()));
        // One number has nothing left; rounding would leave a direction.
        let single = d.len() == self.count();
        let share = |(along, own): (&f64, &f64)| if *own > 0.0 { along / own } else { 0.0 };
        let shares: Vec<f64> = along.iter().zip(&own).map(share).collect();
        d.iter_mut().zip(&other).enumerate().for_each(|(i, (d, o))| *d = if single { 0.0 } else { *d - shares[self.at(i)] * o });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fd_compute::DType;

    const SHAPES: [(&str, &[usize]); 6] = [
        ("cls_token", &[1, 1, 8]),
        ("pos_embed", &[1, 5, 8]),
        ("norm.weight", &[8]),
        ("blocks.0.attn.relative_position_bias_table", &[9, 2]),
        ("blocks.0.mlp.fc1.weight", &[16, 8]),
        ("patch_embed.proj.weight", &[8, 1, 2, 2]),
    ];

    fn weights(shapes: &[(&str, &[usize])], scale: f64) -> Params {
        let mut layout = Layout::builder();
        shapes.iter().for_each(|(name, shape)| _ = layout.add(*name, shape));
        let layout = layout.finish();
        let mut params = Params::new(&layout, DType::F32);
        for p in layout.iter() {
            let mut stream = Stream::named(9, layout.name(p));
            let n: usize = layout.shape(p).iter().product();
            params.set(p, &(0..n).map(|i| scale * stream.normal() * (1 + i % 3) as f64).collect::<Vec<_>>());
        }
        params
    }

    fn recipe(tensors: &str, filter: Filter) -> Recipe {
        Recipe { tensors: tensors.parse().unwrap(), filter, seed: 4 }
    }

    fn norm(values: impl Iterator<Item = f32>) -> f64 {
        values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
    }

    #[test]
    fn every_filter_has_the_norm_of_its_weights() {
        let weights = weights(&SHAPES, 0.3);
        for (filter, of) in [
            (Filter::Row, (|i, cols| i / cols) as fn(usize, usize) -> usize),
            (Filter::Column, |i, cols| i % cols),
            (Filter::Tensor, |_, _| 0),
        ] {
            let d = Direction::new(&recipe("all", filter), &weights, "a", None).unwrap();
            assert_eq!(d.parts.len(), SHAPES.len());
            for ((p, d), cols) in d.parts.iter().zip([8, 8, 8, 2, 8, 4]) {
                let theta = weights.get::<f32>(*p);
                for f in 0..d.len() {
                    let member = |i: &usize| of(*i, cols) == f;
                    let own = norm((0..d.len()).filter(member).map(|i| d[i]));
                    let wanted = norm((0..d.len()).filter(member).map(|i| theta[i]));
                    assert!((own - wanted).abs() <= 1e-6 * wanted, "{filter:?} {f}: {own} {wanted}");
                }
            }
        }
        let plain = Direction::new(&recipe("all", Filter::None), &weights, "a", None).unwrap();
        assert!((norm(plain.parts[4].1.iter().copied()) / 128f64.sqrt() - 1.0).abs() < 0.15, "of unit variance");
    }

    #[test]
    fn a_filter_of_zeros_stays() {
        let mut weights = weights(&SHAPES, 1.0);
        let p = weights.layout().find("blocks.0.mlp.fc1.weight").unwrap();
        let mut theta = weights.to_f64(p);
        theta[8..16].fill(0.0);
        weights.set(p, &theta);
        let d = Direction::new(&recipe("matrices", Filter::Row), &weights, "a", None).unwrap();
        let d = &d.parts.iter().find(|(q, _)| *q == p).unwrap().1;
        assert!(d[8..16].iter().all(|x| *x == 0.0) && d[16..24].iter().all(|x| *x != 0.0));
    }

    #[test]
    fn the_second_axis_is_orthogonal_in_every_filter_and_keeps_its_norm() {
        let weights = weights(&SHAPES, 0.3);
        for filter in [Filter::Row, Filter::Column, Filter::Tensor] {
            let recipe = recipe("all", filter);
            let a = Direction::new(&recipe, &weights, "a", None).unwrap();
            let free = Direction::new(&recipe, &weights, "b", None).unwrap();
            let b = Direction::new(&recipe, &weights, "b", Some(&a)).unwrap();
            let cosine = |x: &Direction, y: &Direction| {
                let dot = |x: &Direction, y: &Direction| -> f64 {
                    let all = x.parts.iter().zip(&y.parts).flat_map(|(x, y)| x.1.iter().zip(&y.1));
                    all.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
                };
                dot(x, y) / (dot(x, x) * dot(y, y)).sqrt()
            };
            assert!(cosine(&a, &b).abs() < 1e-7 && cosine(&a, &free).abs() > 1e-3, "{filter:?}");
            let (_, of_b) = &b.parts[4];
            let theta = weights.get::<f32>(b.parts[4].0);
            let whole = norm(of_b.iter().copied()) / norm(theta.iter().copied());
            assert!((whole - 1.0).abs() < 1e-6, "{filter:?} {whole}");
        }
        let recipe = recipe("pos_embed", Filter::Tensor);
        let a = Direction::new(&recipe, &weights, "a", None).unwrap();
        assert_eq!(a.parts.len(), 1);
    }

    #[test]
    fn models_that_are_compared_move_alike() {
        let (first, second) = (weights(&SHAPES, 0.3), weights(&SHAPES[2..], 2.0));
        let recipe = recipe("matrices", Filter::Tensor);
        let (a, b) = (Direction::new(&recipe, &first, "a", None).unwrap(), Direction::new(&recipe, &second, "a", None).unwrap());
        assert_eq!(a.parts.len(), 2);
        for ((_, a), (_, b)) in a.parts.iter().zip(&b.parts) {
            let ratio = a[0] / b[0];
            a.iter().zip(b).for_each(|(a, b)| assert!((a / b / ratio - 1.0).abs() < 1e-5));
        }
        let other = Direction::new(&Recipe { seed: 5, ..recipe }, &first, "a", None).unwrap();
        assert_ne!(a, other);
    }

    #[test]
    fn tensors_are_chosen_by_kind_and_by_name() {
        let weights = weights(&SHAPES, 1.0);
        let chosen = |text: &str| -> Vec<&str> {
            let layout = weights.layout();
            text.parse::<Tensors>().unwrap().of(layout).unwrap().into_iter().map(|p| layout.name(p)).collect()
        };
        assert_eq!(chosen("matrices"), ["blocks.0.mlp.fc1.weight", "patch_embed.proj.weight"]);
        assert_eq!(chosen("all").len(), 6);
        assert_eq!(chosen("*.mlp.*, norm.weight"), ["norm.weight", "blocks.0.mlp.fc1.weight"]);
        assert_eq!(chosen("*pos*e*"), ["pos_embed", "blocks.0.attn.relative_position_bias_table"]);
        let none = "blocks.7*,norm.weight".parse::<Tensors>().unwrap().of(weights.layout()).unwrap_err().to_string();
        assert_eq!(none, "no tensor of the model is called `blocks.7*`");
        assert!("a,,b".parse::<Tensors>().is_err());
    }
}
