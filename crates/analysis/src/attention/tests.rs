//! Closed forms of one layer's sums.

use fd_compute::Stream;
use fd_model::{ModelConfig, SwinConfig, VitConfig};

use super::*;

/// The first layer of a ViT of 3 x 4 patches of 8 pixels and three heads, and a CLS token if asked for.
fn shape(cls_token: bool) -> LayerShape {
    let config = VitConfig { img_size: (24, 32), patch_size: 8, embed_dim: 12, num_heads: 3, cls_token, ..VitConfig::default() };
    LayerShape::of(&config.into()).unwrap().remove(0)
}

/// The means of attention [images, H, N, N] given as a function of (image, head, query, key).
fn means(shape: &LayerShape, conventions: Conventions, images: usize, f: impl Fn(usize, usize, usize, usize) -> f64) -> Means {
    let n = shape.total();
    let each = shape.count() * shape.heads * n * n;
    let p: Vec<f32> = (0..images * each).map(|i| f(i / each, i / (n * n) % shape.heads, i / n % n, i % n) as f32).collect();
    let mut tally = Tally::new(shape.clone(), Arc::new(Distances::new(shape)), conventions, false);
    // One image, then the rest: batches do not matter.
    tally.add(&p[..each]);
    tally.add(&p[each..]);
    tally.means()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * b.abs().max(1.0)
}

#[test]
fn attention_to_oneself_reaches_nowhere() {
    let found = means(&shape(false), Conventions::default(), 2, |_, _, q, k| f64::from(u8::from(q == k)));
    for head in &found.heads {
        assert_eq!((head.distance, head.entropy), (0.0, 0.0));
        assert!(near(head.mutual_information, 1.0), "{head:?}");
    }
    assert!(near(found.similarity.unwrap(), 1.0), "all heads are alike");
    assert!(near(Patterns::of(&found.maps, (3, 4)).unwrap().diagonal, 1.0));
}

#[test]
fn even_attention_reaches_the_grid_s_mean_distance() {
    let place = |i: usize| ((i / 4) as f64, (i % 4) as f64);
    let pairs = (0..144).map(|i| (place(i / 12), place(i % 12)));
    let mean = pairs.map(|(q, k)| 8.0 * (q.0 - k.0).hypot(q.1 - k.1)).sum::<f64>() / 144.0;
    let found = means(&shape(false), Conventions::default(), 2, |_, _, _, _| 1.0 / 12.0);
    assert!(found.heads.iter().all(|h| near(h.distance, mean) && near(h.entropy, 12f64.ln()) && near(h.mutual_information, 0.0)));
    assert_eq!(Patterns::of(&found.maps, (3, 4)), None, "a constant map has no pattern");
}

#[test]
fn half_of_the_attention_on_the_cls_token() {
    // Patches give half to the CLS token, a quarter to the next patch, a quarter to themselves; the CLS token looks at patch 2 alone.
    let f = |_, _, q: usize, k: usize| match (q, k) {
        (0, k) => f64::from(u8::from(k == 3)),
        (_, 0) => 0.5,
        (q, k) if k == q || k == q % 12 + 1 => 0.25,
        _ => 0.0,
    };
    let of = |special_tokens, renormalised| means(&shape(true), Conventions { special_tokens, renormalised }, 3, f);
    let (dropped, plain, kept) = (of(SpecialTokens::Dropped, true), of(SpecialTokens::Dropped, false), of(SpecialTokens::Kept, false));
    // Nine steps of 8 pixels, two to the beginning of the next row, one from the last patch to the first.
    let steps = 9.0 * 8.0 + 2.0 * 8.0 * 10f64.sqrt() + 8.0 * 13f64.sqrt();
    for (found, share) in [(&dropped, 0.5), (&plain, 0.25), (&kept, 0.25)] {
        for head in &found.heads {
            assert!(near(head.distance, share * steps / 12.0), "{head:?}");
            assert!(near(head.to_cls, 0.5) && near(head.cls_attention, 1.0) && near(head.cls_entropy, 0.0));
        }
    }
    assert!(near(dropped.heads[0].entropy, 2f64.ln()) && near(plain.heads[0].entropy, 2f64.ln()));
    assert!(near(kept.heads[0].entropy, 12.0 / 13.0 * 1.5 * 2f64.ln()));
    assert_eq!((dropped.maps.len(), kept.maps.len()), (144, 169));
    assert!(near(dropped.maps[1], 0.5) && near(plain.maps[1], 0.25) && near(kept.maps[13], 0.5));
    assert_eq!((dropped.cls[2], dropped.cls[3], dropped.cls.len()), (1.0, 0.0, 36));
}

#[test]
fn patterns_of_averaged_maps() {
    // Rows that do not sum to one, as they are.
    let conventions = Conventions { special_tokens: SpecialTokens::Dropped, renormalised: false };
    let offset = |q: usize, k: usize| ((k / 4 + 3 - q / 4) * 8 + k % 4 + 4 - q % 4) as f64;
    let toeplitz = means(&shape(false), conventions, 2, |i, h, q, k| 0.1 + 0.01 * (offset(q, k) * (1.0 + h as f64) + i as f64).sin());
    let found = Patterns::of(&toeplitz.maps, (3, 4)).unwrap();
    assert!(near(found.diagonal, 1.0) && found.column < 0.9, "{found:?}");
    let columns = means(&shape(false), conventions, 2, |_, h, _, k| 0.1 + 0.01 * (k as f64 * (1.0 + h as f64)).sin());
    let found = Patterns::of(&columns.maps, (3, 4)).unwrap();
    assert!(near(found.column, 1.0) && found.diagonal < 0.9, "{found:?}");
}

#[test]
fn heads_that_never_meet_are_not_alike() {
    let apart = means(&shape(false), Conventions::default(), 2, |_, h, q, k| f64::from(u8::from(k == (q + h) % 12)));
    assert_eq!(apart.similarity, Some(0.0));
    // A row that is all CLS has nothing left: it adds nothing, and breaks nothing.
    let nothing = means(&shape(true), Conventions::default(), 2, |_, _, _, k| f64::from(u8::from(k == 0)));
    assert!(nothing.similarity.is_none() && nothing.heads.iter().all(|h| (h.distance, h.entropy, h.to_cls) == (0.0, 0.0, 1.0)));
}

#[test]
fn windows_average_where_their_tokens_are_neighbours() {
    let config =
        SwinConfig { img_size: (32, 32), depths: vec![2], num_heads: vec![2], window_size: 4, embed_dim: 8, ..SwinConfig::default() };
    let shapes = LayerShape::of(&ModelConfig::from(config)).unwrap();
    let (plain, shifted) = (&shapes[0], &shapes[1]);
    // Uniform inside windows of 4 x 4 patches of 4 pixels.
    let place = |i: usize| ((i / 4) as f64, (i % 4) as f64);
    let pairs = (0..256).map(|i| (place(i / 16), place(i % 16)));
    let mean = pairs.map(|(q, k)| 4.0 * (q.0 - k.0).hypot(q.1 - k.1)).sum::<f64>() / 256.0;
    let even = |shape| means(shape, Conventions::default(), 2, |_, _, _, _| 1.0 / 16.0).heads[0].distance;
    assert!(near(even(plain), mean) && even(shifted) > 1.5 * mean, "a shift brings opposite edges together: {}", even(shifted));
    // With what the mask allows alone, nobody reaches farther than a window.
    let windows = shifted.windows.clone().unwrap();
    let n = 16;
    let mut p = vec![];
    for window in 0..4 {
        let regions = if windows.regions(window).is_empty() { vec![0; n] } else { windows.regions(window).to_vec() };
        for (_, q) in (0..2).flat_map(|h| (0..n).map(move |q| (h, q))) {
            let seen = regions.iter().filter(|r| **r == regions[q]).count() as f32;
            p.extend(regions.iter().map(|r| if *r == regions[q] { 1.0 / seen } else { 0.0 }));
        }
    }
    let mut tally = Tally::new(shifted.clone(), Arc::new(Distances::new(shifted)), Conventions::default(), false);
    tally.add(&p);
    let found = tally.means();
    assert!(found.heads[0].distance < mean && found.heads[0].distance > 0.3 * mean);
    assert!(found.maps.iter().all(|v| near(*v, 1.0 / 16.0)), "the one whole window's map");
}

#[test]
fn bits_do_not_depend_on_threads_or_batches() {
    let config = VitConfig { img_size: (72, 72), patch_size: 8, embed_dim: 12, num_heads: 3, ..VitConfig::default() };
    let shape = LayerShape::of(&config.into()).unwrap().remove(0);
    let mut random = Stream::new(&[9]);
    let p: Vec<f32> = (0..4 * 3 * 82 * 82).map(|_| (random.uniform() / 41.0) as f32).collect();
    let run = |threads: usize, batch: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut tally = Tally::new(shape.clone(), Arc::new(Distances::new(&shape)), Conventions::default(), true);
        pool.install(|| p.chunks(batch * 3 * 82 * 82).for_each(|p| tally.add(p)));
        let found = tally.means();
        (found.heads, found.similarity, found.maps, found.cls)
    };
    let one = run(1, 4);
    assert!(one == run(3, 4) && one == run(2, 1) && one == run(2, 3));
}
