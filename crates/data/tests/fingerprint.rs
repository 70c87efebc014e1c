//! Fingerprints: equal for equal data, another for any change of them.

mod support;

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use fd_data::{FashionMnist, Folder, Idx, Source, Subset};
use support::{Numbered, TempDir, message};

fn idx(dims: [u32; 3], pixels: &[u8], labels: Option<&[u8]>) -> [u8; 32] {
    let file = |header: &[u32], values: &[u8]| [header.iter().flat_map(|w| w.to_be_bytes()).collect(), values.to_vec()].concat();
    let labels = labels.map(|l| file(&[0x0801, l.len() as u32], l));
    let images = file(&[0x0803, dims[0], dims[1], dims[2]], pixels);
    Idx::from_bytes("x", &images, labels.as_deref(), None).unwrap().fingerprint().unwrap()
}

#[test]
fn extents_pixels_and_labels_count_and_names_do_not() {
    let pixels: Vec<u8> = (0..24).collect();
    let good = idx([3, 2, 4], &pixels, Some(&[0, 1, 1]));
    assert_eq!(good, idx([3, 2, 4], &pixels, Some(&[0, 1, 1])));
    let mut seen = HashSet::from([good]);
    for at in [0, 7, 23] {
        let mut changed = pixels.clone();
        changed[at] ^= 1;
        assert!(seen.insert(idx([3, 2, 4], &changed, Some(&[0, 1, 1]))), "pixel {at}");
    }
    for (dims, labels) in [
        ([3, 4, 2], Some(&[0, 1, 1][..])),
        ([3, 2, 4], Some(&[0, 1, 0])),
        ([3, 2, 4], Some(&[0, 0, 1])),
        ([3, 2, 4], Some(&[0, 0, 0])),
        ([3, 2, 4], None),
        ([2, 3, 4], Some(&[0, 1])),
        ([4, 2, 3], Some(&[0, 1, 1, 1])),
    ] {
        assert!(seen.insert(idx(dims, &pixels, labels)), "{dims:?} {labels:?}");
    }
}

#[test]
fn the_embedded_halves_have_theirs() {
    let [train, test] = [FashionMnist::train().unwrap(), FashionMnist::test().unwrap()].map(|half| half.fingerprint().unwrap());
    assert_ne!(train, test);
    assert_eq!(FashionMnist::test().unwrap().fingerprint().unwrap(), test);
    let hex = test.map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(hex, "fa751b9655465eacf1015d5b738b5fbb18bb19ea5162ba293be60a5474b6797d", "caches made by an earlier build would be lost");
}

#[test]
fn folders_go_by_relative_path_size_and_label() {
    let of = |files: &[(&str, &[u8])], channels| {
        let dir = TempDir::new("fingerprint");
        files.iter().for_each(|(name, bytes)| drop(dir.write(name, bytes)));
        Folder::open(dir.path(), channels).unwrap().fingerprint().unwrap()
    };
    let good: &[(&str, &[u8])] = &[("a/1.png", b"12"), ("a/2.png", b"3"), ("b/1.png", b"4")];
    let mut seen = HashSet::from([of(good, 3)]);
    assert!(!seen.insert(of(good, 3)));
    assert!(!seen.insert(of(&[("b/1.png", b"4"), ("a/2.png", b"3"), ("a/1.png", b"xy")], 3)), "neither order nor contents");
    assert!(!seen.insert(of(&[good, &[("a/notes.txt", b"?")]].concat(), 3)), "nor other files");
    assert!(seen.insert(of(good, 1)), "channels");
    for (changed, what) in [
        (&[("a/1.png", &b"123"[..]), ("a/2.png", b"3"), ("b/1.png", b"4")][..], "size"),
        (&[("a/1.png", b"12"), ("a/3.png", b"3"), ("b/1.png", b"4")], "name"),
        (&[("a/1.png", b"12"), ("b/1.png", b"3"), ("b/2.png", b"4")], "class"),
        (&[("a/1.png", b"12"), ("a/2/2.png", b"3"), ("b/1.png", b"4")], "depth"),
        (&[("a/1.png", b"12"), ("a/2.png", b"3"), ("c/1.png", b"4")], "class's name"),
        (&[("a/1.png", b"12"), ("b/1.png", b"4")], "count"),
        (&[("1.png", b"12"), ("2.png", b"3"), ("3.png", b"4")], "labels"),
    ] {
        assert!(seen.insert(of(changed, 3)), "{what}");
    }
}

#[test]
fn folders_keep_theirs_when_moved_and_name_a_lost_file() {
    let dir = TempDir::new("fingerprint-moved");
    dir.write("old/a/1.png", b"12");
    let old = Folder::open(&dir.path().join("old"), 3).unwrap();
    let before = old.fingerprint().unwrap();
    fs::rename(dir.path().join("old"), dir.path().join("new")).unwrap();
    assert_eq!(Folder::open(&dir.path().join("new"), 3).unwrap().fingerprint().unwrap(), before);
    assert!(message(old.fingerprint()).contains("1.png: cannot be read: "));
}

#[test]
fn subsets_are_named_by_the_whole_and_their_indices() {
    let of = |len, indices: &[usize]| {
        let source: Arc<dyn Source> = Arc::new(Numbered::new(len));
        Subset::new(source, indices.to_vec()).unwrap().fingerprint().unwrap()
    };
    let mut seen = HashSet::from([Numbered::new(9).fingerprint().unwrap(), of(9, &[0, 1, 2])]);
    assert_eq!(seen.len(), 2);
    assert!(!seen.insert(of(9, &[0, 1, 2])));
    for (len, indices) in [(9, &[0, 2, 1][..]), (9, &[0, 1]), (9, &[0, 1, 2, 2]), (8, &[0, 1, 2]), (9, &[])] {
        assert!(seen.insert(of(len, indices)), "{indices:?} of {len}");
    }
    let unreadable = Subset::new(Arc::new(Numbered { bad: Some(4), ..Numbered::new(9) }), vec![1]).unwrap();
    assert_eq!(message(unreadable.fingerprint()), "numbered 4: undecodable image: bad on purpose");
}
