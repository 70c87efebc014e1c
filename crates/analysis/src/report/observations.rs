//! Which of the paper's observations (its section 4) hold in a run: from numbers to sentences.
//!
//! A number is known as its values over seeds. Two of them differ where their ranges do not meet; where they do, nothing is shown. That is
//! stricter than a test with few seeds could be, and needs no assumption; with one seed each it says what this run gave and no more.

mod spread;
#[cfg(test)]
mod tests;

use spread::Spread;

/// Whether an observation is there in this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It is.
    Holds,
    /// The opposite is.
    DoesNotHold,
    /// Seeds differ by as much, or there are no numbers to tell by.
    NotShown,
}

impl Verdict {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Verdict::Holds => "holds",
            Verdict::DoesNotHold => "does not hold",
            Verdict::NotShown => "not shown",
        }
    }

    /// Of both together: holds where both do, does not where one does not.
    fn and(self, other: Verdict) -> Verdict {
        use Verdict::{DoesNotHold, Holds, NotShown};
        match (self, other) {
            (DoesNotHold, _) | (_, DoesNotHold) => DoesNotHold,
            (Holds, Holds) => Holds,
            _ => NotShown,
        }
    }

    /// Is `second` above `first` (or below, where the paper has it fall)?
    fn of(first: &Spread, second: &Spread, expected: Expected) -> Verdict {
        let (lower, upper) = if expected == Expected::Rise { (first, second) } else { (second, first) };
        if upper.low > lower.high {
            Verdict::Holds
        } else if upper.high < lower.low {
            Verdict::DoesNotHold
        } else {
            // Also where a number is NaN.
            Verdict::NotShown
        }
    }
}

/// A statement of the paper about one teacher, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// What the paper observes.
    pub claim: String,
    /// Of which teacher.
    pub of: String,
    /// Is it so here?
    pub verdict: Verdict,
    /// The numbers, and what follows.
    pub sentence: String,
}

/// How a teacher was trained, as far as the paper distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TeacherKind {
    /// By telling images (or images and captions) apart: DINO, EsViT, CLIP.
    Contrastive,
    /// By filling in what is hidden: MAE.
    Masked,
    /// Otherwise, as by labels.
    Other,
}

/// A model before or after feature distillation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The teacher.
    Before,
    /// Its student.
    After,
}

/// What was measured of one model of one seed.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelNumbers {
    /// The teacher that it is, or is of.
    pub teacher: String,
    /// How that was trained.
    pub kind: TeacherKind,
    /// Teacher or student.
    pub stage: Stage,
    /// The layers in order; may be empty.
    pub layers: Vec<LayerNumbers>,
    /// Of the fine-tuned model, if that was measured.
    pub flatness: Option<Flatness>,
}

/// One layer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerNumbers {
    /// Average attention distance of every head, in pixels.
    pub distances: Vec<f64>,
    /// Mean cosine between heads.
    pub similarity: Option<f64>,
    /// Diagonal score of the averaged map.
    pub diagonal: Option<f64>,
}

/// What a step of some radius in weight space costs, a mean over directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flatness {
    /// Increase of the loss.
    pub loss_increase: f64,
    /// Decrease of the accuracy, in points.
    pub accuracy_drop: f64,
}

/// All that is judged. A model is there once a seed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// Teachers and students.
    pub models: Vec<ModelNumbers>,
    /// The radius of every [`Flatness`].
    pub radius: f64,
    /// Students that differ in their positions only.
    pub positions: Option<Positions>,
}

/// Students of one teacher that differ in their positions only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Positions {
    /// With absolute positions.
    pub absolute: Vec<ModelNumbers>,
    /// With a relative bias that all blocks share.
    pub shared: Vec<ModelNumbers>,
}

/// Where the paper has a number go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Rise,
    Fall,
}

impl Expected {
    fn words(self) -> [&'static str; 2] {
        if self == Expected::Rise { ["rises", "falls"] } else { ["falls", "rises"] }
    }
}

/// A number of a model that the paper says something about.
struct Measure {
    claim: &'static str,
    /// What it is about, in a word or two.
    aspect: &'static str,
    expected: Expected,
    /// What the number is; `{half}` are the layers of the deeper half, `{radius}` the radius.
    words: &'static str,
    unit: &'static str,
    of: fn(&ModelNumbers) -> Option<f64>,
}

const MEASURES: [Measure; 5] = [
    Measure {
        claim: "After feature distillation, the heads of the deeper layers look at more different distances",
        aspect: "distances of heads",
        expected: Expected::Rise,
        words: "standard deviation of the heads' attention distances, mean over layers {half}",
        unit: " px",
        of: distance_spread,
    },
    Measure {
        claim: "Heads of the deeper layers become less alike",
        aspect: "similarity of heads",
        expected: Expected::Fall,
        words: "cosine similarity between heads, mean over layers {half}",
        unit: "",
        of: |m| mean(deeper(&m.layers).iter().filter_map(|l| l.similarity)),
    },
    Measure {
        claim: "Averaged attention maps become more diagonal",
        aspect: "diagonals",
        expected: Expected::Rise,
        words: "diagonal score (share of an averaged map that relative positions explain), mean over all layers",
        unit: "",
        of: |m| mean(m.layers.iter().filter_map(|l| l.diagonal)),
    },
    Measure {
        claim: "The loss landscape of the fine-tuned model becomes flatter",
        aspect: "loss landscape",
        expected: Expected::Fall,
        words: "mean increase of the loss at radius {radius}",
        unit: "",
        of: |m| m.flatness.map(|f| f.loss_increase),
    },
    Measure {
        claim: "The accuracy landscape of the fine-tuned model becomes flatter",
        aspect: "accuracy landscape",
        expected: Expected::Fall,
        words: "mean loss of accuracy at radius {radius}",
        unit: " points",
        of: |m| m.flatness.map(|f| f.accuracy_drop),
    },
];

const MASKED: &str = "A masked autoencoder has these properties already and changes less than contrastive teachers";
const SHARED: &str = "A shared relative position bias lets the deeper heads' distances spread out more than absolute positions do";

/// Every statement that there are numbers for, in the paper's order.
pub fn observe(evidence: &Evidence) -> Vec<Observation> {
    let teachers = Teacher::all(&evidence.models);
    let mut found = vec![];
    for measure in &MEASURES {
        let others = teachers.iter().filter(|t| t.kind != TeacherKind::Masked);
        found.extend(others.filter_map(|t| t.changes(measure, evidence.radius)));
    }
    for masked in teachers.iter().filter(|t| t.kind == TeacherKind::Masked) {
        found.extend(MEASURES.iter().filter_map(|m| masked.against(&teachers, m, evidence.radius)));
    }
    found.extend(evidence.positions.as_ref().and_then(positions));
    found
}

/// How many hold.
pub fn summary(observations: &[Observation]) -> String {
    let count = |verdict| observations.iter().filter(|o| o.verdict == verdict).count();
    let (all, [yes, no, open]) = (observations.len(), [Verdict::Holds, Verdict::DoesNotHold, Verdict::NotShown].map(count));
    let statements = if all == 1 { "statement" } else { "statements" };
    format!("Of {all} {statements} about this run: holds {yes}, does not hold {no}, not shown {open}.")
}

/// What is known of a teacher and its students.
struct Teacher<'a> {
    name: &'a str,
    kind: TeacherKind,
    before: Vec<&'a ModelNumbers>,
    after: Vec<&'a ModelNumbers>,
}

impl<'a> Teacher<'a> {
    /// In the order in which they come.
    fn all(models: &'a [ModelNumbers]) -> Vec<Teacher<'a>> {
        let mut teachers: Vec<Teacher> = vec![];
        for model in models {
            if !teachers.iter().any(|t| t.name == model.teacher) {
                let of = |stage| models.iter().filter(|m| m.teacher == model.teacher && m.stage == stage).collect();
                teachers.push(Teacher { name: &model.teacher, kind: model.kind, before: of(Stage::Before), after: of(Stage::After) });
            }
        }
        teachers
    }

    /// A number before and after, if there are both.
    fn both(&self, measure: &Measure) -> Option<(Spread, Spread)> {
        let of = |models: &[&ModelNumbers]| Spread::of(models.iter().filter_map(|m| (measure.of)(m)));
        Some((of(&self.before)?, of(&self.after)?))
    }

    /// Does a number move as in the paper?
    fn changes(&self, measure: &Measure, radius: f64) -> Option<Observation> {
        let (before, after) = self.both(measure)?;
        let verdict = Verdict::of(&before, &after, measure.expected);
        let numbers = format!("{} before, {} after", before.shown(measure.unit), after.shown(measure.unit));
        let sentence = format!(
            "{}: {numbers}{}",
            capitalised(&measure.named(self.before[0], radius)),
            ending(verdict, measure.expected, &[&before, &after])
        );
        Some(Observation { claim: measure.claim.into(), of: self.name.into(), verdict, sentence })
    }

    /// Is a masked autoencoder where contrastive teachers are led to, and does it change less?
    fn against(&self, teachers: &[Teacher], measure: &Measure, radius: f64) -> Option<Observation> {
        let (before, after) = self.both(measure)?;
        let change = after.distance_from(&before);
        let contrastive = teachers.iter().filter(|t| t.kind == TeacherKind::Contrastive);
        // Where they were, and by how much they changed.
        let others: Vec<(&str, [Spread; 2])> =
            contrastive.filter_map(|t| t.both(measure).map(|(b, a)| (t.name, [b.clone(), a.distance_from(&b)]))).collect();
        let against = |(_, [there, their_change]): &(&str, [Spread; 2])| {
            Verdict::of(there, &before, measure.expected).and(Verdict::of(&change, their_change, Expected::Rise))
        };
        let verdict = others.iter().map(against).reduce(Verdict::and)?;
        let list =
            |i: usize| others.iter().map(|(name, s)| format!("{} of {name}", s[i].shown(measure.unit))).collect::<Vec<_>>().join(", ");
        let words = capitalised(&measure.named(self.before[0], radius));
        let (here, change) = (before.shown(measure.unit), change.shown(measure.unit));
        let sentence = format!("{words}: {here} before, against {}; it changes by {change}, against {}.", list(0), list(1));
        let of = format!("{}, {}", self.name, measure.aspect);
        Some(Observation { claim: MASKED.into(), of, verdict, sentence })
    }
}

impl Measure {
    /// What the number is, of a model.
    fn named(&self, model: &ModelNumbers, radius: f64) -> String {
        let depth = model.layers.len();
        let half = format!("{} to {depth} of {depth}", depth / 2 + 1);
        self.words.replace("{half}", &half).replace("{radius}", &radius.to_string())
    }
}

/// The positions' ablation.
fn positions(positions: &Positions) -> Option<Observation> {
    let of = |models: &[ModelNumbers]| Spread::of(models.iter().filter_map(distance_spread));
    let (measure, absolute, shared) = (&MEASURES[0], of(&positions.absolute)?, of(&positions.shared)?);
    let verdict = Verdict::of(&absolute, &shared, measure.expected);
    let words = capitalised(&measure.named(&positions.shared[0], 0.0));
    let [a, s] = [&absolute, &shared].map(|spread| spread.shown(measure.unit));
    let end = ending(verdict, measure.expected, &[&absolute, &shared]);
    let sentence = format!("{words}: {a} with absolute positions, {s} with the shared bias{end}");
    Some(Observation { claim: SHARED.into(), of: positions.shared[0].teacher.clone(), verdict, sentence })
}

/// What follows from two numbers.
fn ending(verdict: Verdict, expected: Expected, spreads: &[&Spread]) -> String {
    let [paper, opposite] = expected.words();
    let alone = if spreads.iter().all(|s| s.count == 1) { " One seed: how much another would differ is not known." } else { "" };
    match verdict {
        Verdict::Holds => format!("; it {paper}, as in the paper.{alone}"),
        Verdict::DoesNotHold => format!("; it {opposite}, in the paper it {paper}.{alone}"),
        Verdict::NotShown if spreads.iter().any(|s| !s.mean.is_finite()) => "; there is a number that is not finite.".into(),
        Verdict::NotShown if alone.is_empty() => "; the ranges over seeds meet.".into(),
        Verdict::NotShown => format!("; there is no difference.{alone}"),
    }
}

/// The deeper half of the layers; of an odd number, the larger half.
fn deeper(layers: &[LayerNumbers]) -> &[LayerNumbers] {
    &layers[layers.len() / 2..]
}

/// Mean over the deeper half of the standard deviation over heads of their distances. Layers of one head have none.
fn distance_spread(model: &ModelNumbers) -> Option<f64> {
    let deviation = |l: &LayerNumbers| {
        let mean = mean(l.distances.iter().copied())?;
        (l.distances.len() > 1).then_some(())?;
        Some(self::mean(l.distances.iter().map(|d| (d - mean).powi(2)))?.sqrt())
    };
    mean(deeper(&model.layers).iter().filter_map(deviation))
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), v| (sum + v, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
