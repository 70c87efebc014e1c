//! Mixup, CutMix and soft targets.

mod support;

use fd_data::{Mix, MixConfig, MixKey, Mixed};
use support::message;

const SHAPE: [usize; 4] = [6, 2, 10, 8];
const LABELS: [u32; 6] = [0, 1, 2, 3, 3, 0];

fn config() -> MixConfig {
    MixConfig { mixup_alpha: 0.8, cutmix_alpha: 1.0, prob: 1.0, switch_prob: 0.5, label_smoothing: 0.1 }
}

/// Sample i is filled with 10^i, so that a mixture tells its parts.
fn images() -> Vec<f32> {
    (0..6).flat_map(|i| vec![10f32.powi(i); 160]).collect()
}

fn mix(config: MixConfig, first: u64) -> (Vec<f32>, Vec<f32>, Mixed) {
    let (mut images, mut targets) = (images(), vec![f32::NAN; 6 * 5]);
    let key = MixKey { seed: 4, epoch: 2, first };
    let mixed = Mix::new(config).unwrap().mix(&mut images, SHAPE, &LABELS, 5, key, &mut targets).unwrap();
    (images, targets, mixed)
}

#[test]
fn targets_follow_the_pixels_and_sum_to_one() {
    let (mut cuts, mut lambdas) = (0, Vec::new());
    for first in 0..400 {
        let (images, targets, mixed) = mix(config(), first);
        assert!((0.0..=1.0).contains(&mixed.lambda));
        for (i, row) in targets.chunks(5).enumerate() {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            let share = |label: usize| (row[label] - 0.02) / 0.9;
            let (own, partner) = (LABELS[i] as usize, LABELS[5 - i] as usize);
            if own != partner {
                assert!((share(own) - mixed.lambda).abs() < 1e-5 && (share(partner) - 1.0 + mixed.lambda).abs() < 1e-5);
            }
            let sample = &images[i * 160..][..160];
            let (a, b) = (10f32.powi(i as i32), 10f32.powi(5 - i as i32));
            if mixed.cut.is_some() {
                let kept = sample.iter().filter(|&&v| v == a).count() as f32 / 160.0;
                assert!((kept - mixed.lambda).abs() < 1e-6 && sample.iter().all(|&v| v == a || v == b));
            } else {
                let expected = a * mixed.lambda + b * (1.0 - mixed.lambda);
                assert!(sample.iter().all(|&v| (v - expected).abs() <= 1e-5 * expected));
            }
        }
        cuts += usize::from(mixed.cut.is_some());
        lambdas.push(f64::from(mixed.lambda));
    }
    assert!((160..240).contains(&cuts), "{cuts} of 400");
    assert!(lambdas.iter().any(|&l| l < 0.1) && lambdas.iter().any(|&l| l > 0.9));
}

#[test]
fn mixing_depends_on_its_key_only() {
    assert_eq!(mix(config(), 64), mix(config(), 64));
    assert_ne!(mix(config(), 64).2, mix(config(), 65).2);
}

#[test]
fn kinds_can_be_turned_off() {
    let all = |config: MixConfig| (0..40).map(move |first| mix(config.clone(), first).2);
    assert!(all(MixConfig { cutmix_alpha: 0.0, ..config() }).all(|m| m.cut.is_none() && m.lambda < 1.0));
    assert!(all(MixConfig { mixup_alpha: 0.0, ..config() }).all(|m| m.cut.is_some()));
    for off in [MixConfig { prob: 0.0, ..config() }, MixConfig { mixup_alpha: 0.0, cutmix_alpha: 0.0, ..config() }] {
        let (unchanged, targets, mixed) = mix(off, 0);
        assert_eq!((unchanged, mixed), (images(), Mixed { lambda: 1.0, cut: None }));
        assert!(targets.iter().zip([0.92, 0.02, 0.02, 0.02, 0.02]).all(|(t, expected)| (t - expected).abs() < 1e-6));
    }
}

#[test]
fn the_middle_of_an_odd_batch_is_its_own_partner() {
    let plain = Mix::new(MixConfig { cutmix_alpha: 0.0, label_smoothing: 0.0, ..config() }).unwrap();
    let (mut images, mut targets) = ([1.0, 2.0, 5.0], [0.0; 9]);
    let key = MixKey { seed: 0, epoch: 0, first: 0 };
    let lambda = plain.mix(&mut images, [3, 1, 1, 1], &[0, 1, 2], 3, key, &mut targets).unwrap().lambda;
    assert_eq!(images[1], 2.0);
    assert!((images[0] - (lambda + 5.0 * (1.0 - lambda))).abs() < 1e-6);
    assert!((targets[4] - 1.0).abs() < 1e-6);
}

#[test]
fn wrong_shapes_labels_and_settings_are_refused() {
    let mixer = Mix::new(config()).unwrap();
    let key = MixKey { seed: 0, epoch: 0, first: 0 };
    let run = |values: usize, labels: &[u32], targets: usize| {
        message(mixer.mix(&mut vec![0.0; values], [2, 1, 2, 2], labels, 3, key, &mut vec![0.0; targets]))
    };
    assert_eq!(run(7, &[0, 1], 6), "values of the batch to mix: expected 8, found 7");
    assert_eq!(run(8, &[0], 6), "labels of the batch to mix: expected 2, found 1");
    assert_eq!(run(8, &[0, 1], 5), "soft targets: expected 6, found 5");
    assert_eq!(run(8, &[0, 3], 6), "batch to mix: label 1 out of range: expected less than 3, found 3");
    let empty = mixer.mix(&mut [], [0, 1, 2, 2], &[], 0, key, &mut []);
    assert!(empty.is_ok());
    assert_eq!(message(Mix::new(MixConfig { prob: 2.0, ..config() })), "prob: expected a probability, found 2.0");
    assert_eq!(message(Mix::new(MixConfig { mixup_alpha: -1.0, ..config() })), "mixup_alpha: expected 0 or more, found -1.0");
    let text = "mixup_alpha = 0.8\ncutmix_alpha = 1.0\nprob = 1.0\nswitch_prob = 0.5";
    assert!(toml::from_str::<MixConfig>(text).is_err());
    assert!(toml::from_str::<MixConfig>(&format!("{text}\nlabel_smoothing = 0.1")).is_ok());
}
