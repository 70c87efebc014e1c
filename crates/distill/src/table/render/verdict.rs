//! Differences in words, held against their intervals.

use crate::statistics::{Interval, Summary};
use crate::table::{Column, Comparison, GainDifference, Kind, TableResult};

/// What an interval shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Raised,
    Lowered,
    NotShown,
}

impl Effect {
    fn of(interval: Interval) -> Effect {
        match interval {
            i if i.low > 0.0 => Effect::Raised,
            i if i.high < 0.0 => Effect::Lowered,
            _ => Effect::NotShown,
        }
    }
}

impl TableResult {
    /// A sentence a column in which these rows were compared: raised, lowered or left, by how much, and whether that shows an effect.
    pub(super) fn sentences(&self, comparison: &Comparison) -> Vec<String> {
        let sentence = |(i, interval): (usize, &Option<Interval>)| {
            let interval = (*interval)?;
            let mean = |row| Some(Summary::of(&self.cell(row, i)?.accuracy)?.mean);
            let ends = mean(comparison.from).zip(mean(comparison.to)).map_or(String::new(), |(a, b)| format!(" ({a:.2} → {b:.2})"));
            let size = format!("{:.2}", interval.mean.abs());
            let change = match interval.mean {
                _ if size == "0.00" => "left as it was".to_string(),
                mean if mean > 0.0 => format!("raised by {size} points"),
                _ => format!("lowered by {size} points"),
            };
            let shown = if Effect::of(interval) == Effect::NotShown { "; the interval contains zero: no effect shown" } else { "" };
            Some(format!("{}: {change}{ends}, 95 % interval {}{shown}.", self.columns.get(i)?.title, ends_of(interval)))
        };
        comparison.differences.iter().enumerate().filter_map(sentence).collect()
    }

    /// A sentence for every distilled encoder that was compared with its teacher: does distillation help the main measure, the first column?
    pub fn verdicts(&self) -> Vec<String> {
        (0..self.rows.len()).filter(|&row| self.rows[row].kind == Kind::After).filter_map(|row| self.verdict(row)).collect()
    }

    fn verdict(&self, after: usize) -> Option<String> {
        let against = |kind| {
            let of_kind = |c: &&Comparison| self.rows.get(c.from).is_some_and(|r| r.kind == kind && r.teacher == self.rows[after].teacher);
            let comparison = self.comparisons.iter().filter(|c| c.to == after).find(of_kind)?;
            Some((self.rows[comparison.from].name.as_str(), (*comparison.differences.first()?)?))
        };
        let (own, trained_on) = (against(Kind::Before)?, against(Kind::TrainedOn));
        let conclusion = match (Effect::of(own.1), trained_on.map(|t| Effect::of(t.1))) {
            (Effect::NotShown, _) => "no effect of FD is shown",
            (Effect::Lowered, _) => "FD harms",
            (Effect::Raised, Some(Effect::Raised)) => "FD helps",
            (Effect::Raised, Some(Effect::NotShown)) => "FD is not shown to help more than training on",
            (Effect::Raised, Some(Effect::Lowered)) => "FD helps less than training on",
            (Effect::Raised, None) => "FD helps; whether training on would help as much was not measured",
        };
        let relations: Vec<String> = std::iter::once(own).chain(trained_on).map(relation).collect();
        let (name, title) = (&self.rows[after].name, &self.columns.first()?.title);
        Some(format!("{name}, {title}: {}: {conclusion}.", relations.join(", ")))
    }
}

impl TableResult {
    /// A sentence for every comparison of gains and column.
    pub fn verdicts_on_gains(&self) -> Vec<String> {
        let sentence = |gain: &GainDifference, column: &Column, interval: Interval| {
            let said = match Effect::of(interval) {
                Effect::Raised => "gains more",
                Effect::Lowered => "gains less",
                Effect::NotShown => "is not shown to gain more or less",
            };
            format!("{}, {}: {said} by FD than {} ({}).", gain.of, column.title, gain.against, difference(interval))
        };
        let of = |gain| move |(column, interval): (_, &Option<Interval>)| Some(sentence(gain, column, (*interval)?));
        self.gains.iter().flat_map(|gain| self.columns.iter().zip(&gain.differences).filter_map(of(gain))).collect()
    }
}

fn relation((name, interval): (&str, Interval)) -> String {
    let is = match Effect::of(interval) {
        Effect::Raised => "better than",
        Effect::Lowered => "worse than",
        Effect::NotShown => "not shown to differ from",
    };
    format!("{is} {name} ({})", difference(interval))
}

/// `+0.45 [-0.20, +1.08]`.
pub(super) fn difference(interval: Interval) -> String {
    format!("{} {}", signed(interval.mean), ends_of(interval))
}

fn ends_of(interval: Interval) -> String {
    format!("[{}, {}]", signed(interval.low), signed(interval.high))
}

/// With its sign and two decimals; what rounds to zero is `+0.00`.
fn signed(value: f64) -> String {
    let text = format!("{value:+.2}");
    if text == "-0.00" { "+0.00".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{comparison, odd, small};
    use super::*;

    /// The verdict for these intervals against the teacher and the teacher trained on.
    fn verdict(own: [f64; 3], trained_on: Option<[f64; 3]>) -> String {
        let mut table = small();
        table.comparisons = vec![comparison("", 0, 2, &[Some(own)]), comparison("", 1, 2, &[trained_on])];
        let [verdict] = &table.verdicts()[..] else { panic!("{:?}", table.verdicts()) };
        verdict.clone()
    }

    #[test]
    fn verdicts_weigh_both_comparisons() {
        let (up, down, flat) = ([1.0, 0.5, 1.5], [-1.0, -1.5, -0.5], [0.2, -0.3, 0.7]);
        let expected = "DINO + FD, fine-tune, 6,000 labels: better than DINO (+1.00 [+0.50, +1.50]), \
                        not shown to differ from DINO trained on (+0.20 [-0.30, +0.70]): FD is not shown to help more than training on.";
        assert_eq!(verdict(up, Some(flat)), expected);
        for (own, trained_on, end) in [
            (up, Some(up), ": FD helps."),
            (up, Some(down), ", worse than DINO trained on (-1.00 [-1.50, -0.50]): FD helps less than training on."),
            (up, None, ": FD helps; whether training on would help as much was not measured."),
            (flat, Some(up), ": no effect of FD is shown."),
            (down, Some(down), ": FD harms."),
        ] {
            assert!(verdict(own, trained_on).ends_with(end), "{}", verdict(own, trained_on));
        }
    }

    #[test]
    fn only_an_encoder_and_its_own_teacher_make_a_verdict() {
        let mut table = small();
        table.rows[0].teacher = Some("another".into());
        assert_eq!(table.verdicts(), Vec::<String>::new());
        let mut table = small();
        table.comparisons.clear();
        assert_eq!(table.verdicts(), Vec::<String>::new());
    }

    #[test]
    fn sentences_say_what_an_interval_shows() {
        let mut table = small();
        let sentences = |table: &TableResult| table.sentences(&table.comparisons[0]);
        assert_eq!(
            sentences(&table),
            [
                "fine-tune, 6,000 labels: raised by 1.75 points (86.50 → 88.25), 95 % interval [+0.90, +2.61].",
                "linear probe: lowered by 0.25 points (84.25 → 84.00), 95 % interval [-1.00, +0.50]; the interval contains zero: no effect shown.",
            ]
        );
        table.comparisons = vec![comparison("", 0, 2, &[Some([-0.001, -0.003, 0.0]), Some([-0.5, -0.8, -0.2])])];
        let [same, lowered] = &sentences(&table)[..] else { panic!() };
        assert!(same.contains(": left as it was (86.50 → 88.25), 95 % interval [+0.00, +0.00]; the interval contains zero"), "{same}");
        assert!(lowered.ends_with("lowered by 0.50 points (84.25 → 84.00), 95 % interval [-0.80, -0.20]."), "{lowered}");
    }

    #[test]
    fn gains_are_compared_in_words() {
        let mut table = small();
        let interval = |mean, low, high| Some(Interval { mean, low, high });
        let (of, against) = ("MAE".into(), "DINO and CLIP".into());
        let differences = vec![interval(-0.5, -0.9, -0.1), interval(0.2, -0.3, 0.7)];
        table.gains = vec![GainDifference { label: "FD's gain: MAE against DINO, CLIP".into(), of, against, differences }];
        assert_eq!(
            table.verdicts_on_gains(),
            [
                "MAE, fine-tune, 6,000 labels: gains less by FD than DINO and CLIP (-0.50 [-0.90, -0.10]).",
                "MAE, linear probe: is not shown to gain more or less by FD than DINO and CLIP (+0.20 [-0.30, +0.70]).",
            ]
        );
        assert!(table.markdown().contains("| FD's gain: MAE against DINO, CLIP | "), "{}", table.markdown());
        assert!(table.comparisons_csv().contains("\"FD's gain: MAE against DINO, CLIP\",linear-probe,0.2,-0.3,0.7"));
    }

    #[test]
    fn odd_tables_claim_nothing() {
        for table in odd() {
            let sentences: Vec<String> = table.comparisons.iter().flat_map(|c| table.sentences(c)).chain(table.verdicts()).collect();
            assert!(sentences.iter().all(|s| !s.contains("FD helps") && !s.contains("FD harms")), "{sentences:?}");
        }
    }
}
