//! Files with names and shapes that nobody meant: whatever stands in them, recognising and refusing them ends, and never with a panic.

use std::collections::BTreeMap;

use fd_compute::Stream;
use fd_model::{Allow, Import, PRESETS, preset};
use fd_weights::WeightFile;
use serde_json::{Value, json};

use crate::{cases, fact, folder};

/// Names and shapes of a file.
type Listing = BTreeMap<String, Vec<u64>>;

/// Files to make: `FD_MUTATIONS=200000 cargo test --release -p fd-model --test elsewhere mutate` for a long run.
fn count() -> u64 {
    std::env::var("FD_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(1500)
}

fn below(random: &mut Stream, n: usize) -> usize {
    ((random.uniform() * n as f64) as usize).min(n.saturating_sub(1))
}

/// A safetensors file of zeros.
fn bytes(listing: &Listing) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0u64;
    for (name, shape) in listing {
        let values = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).unwrap_or(u64::MAX);
        // What would be large is left out, unless it is large and empty.
        if values > 1 << 16 {
            continue;
        }
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * values] }));
        end += 4 * values;
    }
    let text = Value::Object(header).to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes.resize(bytes.len() + end as usize, 0);
    bytes
}

/// One change: a name, a number in a name, an extent; a tensor lost, doubled or from another file.
fn change(listing: &mut Listing, others: &[Listing], random: &mut Stream) {
    let Some(name) = listing.keys().nth(below(random, listing.len())).cloned() else { return };
    let shape = listing[&name].clone();
    let huge = [0u64, 1, 2, 3, 7, 4096, 65_536, 1 << 31, 1 << 40, u64::MAX >> 1];
    match below(random, 7) {
        0 => drop(listing.remove(&name)),
        1 => {
            let number = ["0", "1", "9", "1023", "1024", "99999999999", "18446744073709551615", "18446744073709551616", "-1", ""];
            let renamed: String = name.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
            let renamed = renamed.replacen('#', number[below(random, number.len())], 1).replace('#', "0");
            listing.insert(renamed, shape);
        }
        2 => {
            let mut shape = shape;
            if !shape.is_empty() {
                let at = below(random, shape.len());
                shape[at] = huge[below(random, huge.len())];
                // A tensor without values may be of any size otherwise.
                if below(random, 3) == 0 {
                    let zero = below(random, shape.len());
                    shape[zero] = 0;
                }
            }
            listing.insert(name, shape);
        }
        3 => {
            let prefixes = ["teacher.", "encoder.", "module.", "..", "layers.3.blocks.2.", "blocks.0."];
            listing.insert(format!("{}{name}", prefixes[below(random, prefixes.len())]), shape);
        }
        4 => {
            let mut shape = shape;
            if below(random, 2) == 0 {
                shape.push(huge[below(random, 6)])
            } else {
                _ = shape.pop()
            }
            listing.insert(name, shape);
        }
        5 => {
            let other = &others[below(random, others.len())];
            let some = other.iter().skip(below(random, other.len())).take(1 + below(random, 8));
            listing.extend(some.map(|(n, s)| (n.clone(), s.clone())));
        }
        _ => {
            let of = listing.values().nth(below(random, listing.len())).cloned().unwrap_or_default();
            listing.insert(name, of);
        }
    }
}

#[test]
fn names_and_shapes_that_nobody_meant() {
    let listing = |case: String| {
        let file = WeightFile::open(&folder().join(fact(&case)["weights"].as_str().unwrap())).unwrap();
        file.entries().iter().map(|(n, e)| (n.clone(), e.shape.iter().map(|d| *d as u64).collect())).collect::<Listing>()
    };
    let seeds: Vec<Listing> = cases().into_iter().map(listing).collect();
    let (mut opened, mut models, mut fitted) = (0, 0, 0);
    for run in 0..count() {
        let mut random = Stream::new(&[7, run]);
        let mut listing = seeds[below(&mut random, seeds.len())].clone();
        (0..1 + below(&mut random, 6)).for_each(|_| change(&mut listing, &seeds, &mut random));
        let Ok(file) = WeightFile::from_bytes("mutant", bytes(&listing)) else { continue };
        opened += 1;
        let import = Import::of(file);
        let asked = preset(PRESETS[below(&mut random, PRESETS.len())]).unwrap();
        let _ = import.choose(None).map_err(|e| e.to_string());
        for found in import.models() {
            models += 1;
            let (_, _) = (found.summary(), found.statistics());
            let allow = Allow { names: vec!["*".into()], interpolate: below(&mut random, 2) == 0 };
            for config in [&found.config, &asked] {
                if let Ok(fit) = import.fit(found, config, &Allow::default()) {
                    let _ = (fit.report(), fit.check().map_err(|e| e.to_string()));
                    fitted += usize::from(fit.checkpoint().is_ok());
                }
                if let Ok(fit) = import.fit(found, config, &allow) {
                    let _ = (fit.report(), fit.verify().map_err(|e| e.to_string()));
                }
            }
        }
    }
    println!("{} files: {opened} opened, {models} models, {fitted} fit", count());
    assert!(opened > count() / 4 && models as u64 > count() / 4 && fitted > 0);
}
