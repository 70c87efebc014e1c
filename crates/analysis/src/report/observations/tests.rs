use super::*;

/// Four layers of four heads whose distances lie `spread` around 10 px in the deeper half, and closely in the other.
fn model(teacher: &str, kind: TeacherKind, stage: Stage, spread: f64) -> ModelNumbers {
    let layer = |d: f64| LayerNumbers { distances: vec![10.0 - d, 10.0 + d, 10.0 - d, 10.0 + d], ..LayerNumbers::default() };
    let layers = vec![layer(0.1), layer(0.1), layer(spread - 0.5), layer(spread + 0.5)];
    ModelNumbers { teacher: teacher.into(), kind, stage, layers, flatness: None }
}

/// A teacher with such spreads before and after, a model a seed.
fn teacher(name: &str, kind: TeacherKind, before: &[f64], after: &[f64]) -> Vec<ModelNumbers> {
    let of = |stage, spreads: &[f64]| spreads.iter().map(|s| model(name, kind, stage, *s)).collect::<Vec<_>>();
    [of(Stage::Before, before), of(Stage::After, after)].concat()
}

fn judged(models: Vec<ModelNumbers>) -> Vec<Observation> {
    observe(&Evidence { models, radius: 0.5, positions: None })
}

fn one(models: Vec<ModelNumbers>) -> Observation {
    let mut all = judged(models);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

const DINO: (&str, TeacherKind) = ("DINO", TeacherKind::Contrastive);

#[test]
fn distances_that_spread_out_after_distillation() {
    let found = one(teacher(DINO.0, DINO.1, &[3.0], &[5.0, 5.5, 6.0]));
    assert_eq!((found.verdict, found.of.as_str()), (Verdict::Holds, "DINO"));
    assert_eq!(
        found.sentence,
        "Standard deviation of the heads' attention distances, mean over layers 3 to 4 of 4: 3.00 px before, \
         5.50 px (5.00 to 6.00, 3 seeds) after; it rises, as in the paper."
    );
    let found = one(teacher(DINO.0, DINO.1, &[3.0, 3.2], &[2.0, 2.5]));
    assert_eq!(found.verdict, Verdict::DoesNotHold);
    assert!(found.sentence.ends_with("; it falls, in the paper it rises."), "{}", found.sentence);
}

#[test]
fn what_seeds_leave_open_is_not_shown() {
    let found = one(teacher(DINO.0, DINO.1, &[3.0, 4.0], &[3.9, 6.0]));
    assert_eq!(found.verdict, Verdict::NotShown);
    assert!(found.sentence.ends_with("; the ranges over seeds meet."), "{}", found.sentence);
    // Ranges that touch, too; and a mean says nothing if one seed of many lies on the other side.
    assert_eq!(one(teacher(DINO.0, DINO.1, &[3.0, 4.0], &[4.0, 6.0])).verdict, Verdict::NotShown);
    assert_eq!(one(teacher(DINO.0, DINO.1, &[3.0], &[9.0, 9.0, 9.0, 2.9])).verdict, Verdict::NotShown);
    let broken = one(teacher(DINO.0, DINO.1, &[3.0], &[5.0, f64::NAN]));
    assert_eq!(broken.verdict, Verdict::NotShown);
    assert!(broken.sentence.ends_with("not finite."), "{}", broken.sentence);
}

#[test]
fn one_seed_is_said_to_be_one() {
    let found = one(teacher(DINO.0, DINO.1, &[3.0], &[5.0]));
    assert_eq!(found.verdict, Verdict::Holds);
    assert!(found.sentence.ends_with("in the paper. One seed: how much another would differ is not known."), "{}", found.sentence);
    assert!(one(teacher(DINO.0, DINO.1, &[3.0], &[3.0])).sentence.contains("no difference"));
}

#[test]
fn the_spread_is_that_of_the_deeper_half() {
    let mut models = teacher(DINO.0, DINO.1, &[3.0], &[3.5]);
    // Deviations of 2.5 and 3.5: the shallow layers' 0.1 are not in the mean.
    assert_eq!(distance_spread(&models[0]), Some(3.0));
    models[0].layers.remove(0);
    assert_eq!(distance_spread(&models[0]), Some(3.0), "two of three");
    models[0].layers.remove(0);
    assert_eq!(distance_spread(&models[0]), Some(3.5), "one of two");
    models[0].layers.iter_mut().for_each(|l| l.distances.truncate(1));
    assert_eq!(distance_spread(&models[0]), None);
    assert!(judged(models).is_empty(), "nothing is said without numbers");
}

/// Sets what is no distance, in all layers but the first two where `deep`.
fn with(mut models: Vec<ModelNumbers>, set: impl Fn(&mut LayerNumbers, Stage)) -> Vec<ModelNumbers> {
    for m in &mut models {
        let stage = m.stage;
        m.layers.iter_mut().for_each(|l| {
            l.distances.clear();
            set(l, stage);
        });
    }
    models
}

#[test]
fn heads_that_differ_more_are_a_fall_of_similarity() {
    let numbers = |before, after| {
        with(teacher("labels", TeacherKind::Other, &[1.0], &[1.0, 1.0]), move |l, stage| {
            l.similarity = Some(if stage == Stage::Before { before } else { after });
        })
    };
    let found = one(numbers(0.9, 0.7));
    assert_eq!(found.verdict, Verdict::Holds);
    assert!(
        found.sentence.ends_with("layers 3 to 4 of 4: 0.900 before, 0.700 (0.700 to 0.700, 2 seeds) after; it falls, as in the paper.")
    );
    assert_eq!(one(numbers(0.7, 0.9)).verdict, Verdict::DoesNotHold);
    assert_eq!(one(numbers(0.7, 0.7)).verdict, Verdict::NotShown);
}

#[test]
fn diagonals_are_those_of_all_layers_that_have_one() {
    let mut models = with(teacher(DINO.0, DINO.1, &[1.0], &[1.0, 1.0]), |l, stage| {
        l.diagonal = Some(if stage == Stage::Before { 0.2 } else { 0.6 });
    });
    models[0].layers[0].diagonal = None;
    let found = one(models.clone());
    assert_eq!(found.verdict, Verdict::Holds);
    assert!(found.sentence.contains("0.200 before, 0.600"), "{}", found.sentence);
    models[1].layers[0].diagonal = Some(-1.4);
    assert_eq!(one(models).verdict, Verdict::NotShown);
}

#[test]
fn loss_and_accuracy_are_judged_apart() {
    let mut models = teacher(DINO.0, DINO.1, &[1.0, 1.0], &[1.0, 1.0]);
    for (i, m) in models.iter_mut().enumerate() {
        m.layers.clear();
        let (loss_increase, accuracy_drop) = [(1.0, 5.0), (1.2, 6.0), (0.5, 5.5), (0.6, 7.0)][i];
        m.flatness = Some(Flatness { loss_increase, accuracy_drop });
    }
    let found = judged(models);
    assert_eq!(found.iter().map(|o| o.verdict).collect::<Vec<_>>(), [Verdict::Holds, Verdict::NotShown]);
    assert!(
        found[0].sentence.starts_with("Mean increase of the loss at radius 0.5: 1.10 (1.00 to 1.20, 2 seeds) before"),
        "{}",
        found[0].sentence
    );
    assert!(found[1].sentence.contains("5.50 points (5.00 to 6.00, 2 seeds) before"), "{}", found[1].sentence);
}

#[test]
fn a_masked_autoencoder_is_held_against_every_contrastive_teacher() {
    let dino = || teacher(DINO.0, DINO.1, &[3.0], &[5.0, 6.0]);
    let mae = |before: f64, after: &[f64]| teacher("MAE", TeacherKind::Masked, &[before], after);
    let verdict = |models: Vec<Vec<ModelNumbers>>| {
        let mut found: Vec<_> = judged(models.concat()).into_iter().filter(|o| o.claim == MASKED).collect();
        assert!(found.len() <= 1 && found.iter().all(|o| o.of == "MAE, distances of heads"));
        found.pop()
    };
    let holds = verdict(vec![dino(), mae(5.5, &[5.6, 5.8])]).unwrap();
    assert_eq!(holds.verdict, Verdict::Holds);
    assert!(
        holds
            .sentence
            .contains(": 5.50 px before, against 3.00 px of DINO; it changes by 0.200 px (0.100 to 0.300, 2 seeds), against 2.50 px"),
        "{}",
        holds.sentence
    );
    // It has it, but changes as much; it changes less, but has it not; one of two teachers is enough against it.
    assert_eq!(verdict(vec![dino(), mae(5.5, &[5.6, 8.0])]).unwrap().verdict, Verdict::NotShown);
    assert_eq!(verdict(vec![dino(), mae(2.5, &[2.6, 2.7])]).unwrap().verdict, Verdict::DoesNotHold);
    let clip = teacher("CLIP", TeacherKind::Contrastive, &[7.0], &[9.0]);
    assert_eq!(verdict(vec![dino(), clip, mae(5.5, &[5.6, 5.8])]).unwrap().verdict, Verdict::DoesNotHold);
    // Labels are no contrastive teacher, and without one there is nothing to compare with.
    assert_eq!(verdict(vec![teacher("labels", TeacherKind::Other, &[1.0], &[2.0]), mae(5.5, &[5.6])]), None);
}

#[test]
fn positions_are_compared_where_they_were_ablated() {
    let of = |spreads: &[f64]| teacher(DINO.0, DINO.1, &[], spreads);
    let positions = |absolute: &[f64], shared: &[f64]| {
        let positions = Some(Positions { absolute: of(absolute), shared: of(shared) });
        observe(&Evidence { positions, ..Evidence::default() })
    };
    let found = positions(&[3.0, 3.5], &[4.0, 4.5]);
    assert_eq!((found[0].verdict, found[0].claim.as_str()), (Verdict::Holds, SHARED));
    assert!(found[0].sentence.contains("3.25 px (3.00 to 3.50, 2 seeds) with absolute positions, 4.25 px"), "{}", found[0].sentence);
    assert_eq!(positions(&[4.0], &[3.0])[0].verdict, Verdict::DoesNotHold);
    assert_eq!(positions(&[3.0, 4.0], &[3.5])[0].verdict, Verdict::NotShown);
    assert!(positions(&[], &[3.5]).is_empty());
}

#[test]
fn a_summary_counts() {
    let models = [teacher(DINO.0, DINO.1, &[3.0], &[5.0]), teacher("labels", TeacherKind::Other, &[3.0], &[2.0])].concat();
    assert_eq!(summary(&judged(models)), "Of 2 statements about this run: holds 1, does not hold 1, not shown 0.");
}
