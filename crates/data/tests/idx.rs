//! IDX files: what is read, and what each kind of damage is called.

mod support;

use fd_data::{FashionMnist, Idx, Source};
use support::{TempDir, gzip, message};

/// Three images of 2 x 4.
fn images() -> Vec<u8> {
    let header = [0x0803u32, 3, 2, 4].map(u32::to_be_bytes).concat();
    header.into_iter().chain(0..24).collect()
}

fn labels(values: &[u8]) -> Vec<u8> {
    let header = [0x0801u32, values.len() as u32].map(u32::to_be_bytes).concat();
    [header, values.to_vec()].concat()
}

fn read(images: &[u8], labels: &[u8]) -> fd_data::Result<Idx> {
    Idx::from_bytes("x", images, Some(labels), None)
}

#[test]
fn raw_and_gzip_files_read_alike_whatever_their_names() {
    let dir = TempDir::new("idx-alike");
    let raw = dir.write("a.gz", &images());
    let zipped = dir.write("b", &gzip(&images()));
    let classes = dir.write("c", &gzip(&labels(&[1, 0, 3])));
    for path in [&raw, &zipped] {
        let idx = Idx::open(path, Some(&classes), None).unwrap();
        assert_eq!((idx.len(), idx.size(), idx.channels(), idx.num_classes()), (3, [2, 4], 1, 4));
        assert_eq!(idx.image(2).unwrap().data.as_ref(), (16..24).collect::<Vec<u8>>());
        assert_eq!([0, 1, 2, 3].map(|i| idx.label(i)), [Some(1), Some(0), Some(3), None]);
        assert_eq!(idx.class_names(), ["0", "1", "2", "3"]);
        assert!(message(idx.image(3)).ends_with("no sample 3: expected an index less than 3"));
    }
    let unlabelled = Idx::open(&raw, None, None).unwrap();
    assert_eq!((unlabelled.label(0), unlabelled.num_classes()), (None, 0));
}

#[test]
fn a_missing_file_is_named() {
    let dir = TempDir::new("idx-missing");
    let raw = dir.write("here", &images());
    let absent = dir.path().join("absent");
    assert!(message(Idx::open(&absent, None, None)).contains("absent: cannot be read: "));
    assert!(message(Idx::open(&raw, Some(&absent), None)).contains("absent: cannot be read: "));
    assert!(message(Idx::open(dir.path(), None, None)).contains("cannot be read: "));
}

#[test]
fn every_kind_of_damage_has_its_message() {
    let (good, ok) = (images(), labels(&[0, 1, 2]));
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    let longer = |bytes: &[u8]| [bytes, &[0]].concat();
    let cases = [
        (read(&changed(3, 1), &ok), "x: wrong magic number: expected 0x00000803, found 0x00000801"),
        (read(&good, &good), "x labels: wrong magic number: expected 0x00000801, found 0x00000803"),
        (read(b"GIF8", &ok), "x: wrong magic number: expected 0x00000803, found 0x47494638"),
        (read(&[], &ok), "x: truncated: expected 16 bytes, found 0"),
        (read(&good[..9], &ok), "x: truncated: expected 16 bytes, found 9"),
        (read(&good[..39], &ok), "x: truncated: expected 40 bytes, found 39"),
        (read(&good, &ok[..10]), "x labels: truncated: expected 11 bytes, found 10"),
        (read(&longer(&good), &ok), "x: trailing bytes: expected 40 bytes, found more"),
        (read(&good, &longer(&ok)), "x labels: trailing bytes: expected 11 bytes, found more"),
        (read(&good, &labels(&[0, 1])), "x labels: expected 3 labels (one an image of x), found 2"),
        (Idx::from_bytes("x", &good, Some(&labels(&[0, 7, 2])), Some(3)), "x labels: label 1 out of range: expected less than 3, found 7"),
        (read(&changed(11, 0), &ok), "x: impossible dimensions: expected at least 1 x 1 pixels and an addressable size, found [3, 0, 4]"),
    ];
    for (result, expected) in cases {
        assert_eq!(message(result), expected);
    }
}

#[test]
fn damage_inside_gzip_has_its_message_too() {
    let (good, ok) = (gzip(&images()), labels(&[0, 1, 2]));
    let flipped = |from_end: usize| {
        let mut bytes = good.clone();
        let at = bytes.len() - from_end;
        bytes[at] ^= 0x55;
        bytes
    };
    assert_eq!(message(read(&gzip(&images()[..30]), &ok)), "x: truncated: expected 40 bytes, found 30");
    assert_eq!(message(read(&gzip(&[images(), vec![0]].concat()), &ok)), "x: trailing bytes: expected 40 bytes, found more");
    // The last eight bytes are checksum and length.
    for broken in [flipped(8), flipped(1), [good.clone(), b"garbage".to_vec()].concat()] {
        assert!(message(read(&broken, &ok)).starts_with("x: corrupt gzip stream: "));
    }
    for cut in [3, 12, good.len() - 3] {
        let text = message(read(&good[..cut], &ok));
        assert!(text.starts_with("x: truncated: ") || text.starts_with("x: corrupt gzip stream: "), "{text}");
    }
}

/// A header may announce anything: memory follows what arrives, and decompression stops one byte past what was announced.
#[test]
fn forged_sizes_cost_nothing() {
    let forged = |dims: [u32; 3], body: &[u8]| {
        let header = [0x0803, dims[0], dims[1], dims[2]].map(u32::to_be_bytes).concat();
        [header, body.to_vec()].concat()
    };
    let huge = message(Idx::from_bytes("x", &forged([u32::MAX; 3], &[0; 9]), None, None));
    assert!(huge.starts_with("x: impossible dimensions: "), "{huge}");
    let big = message(Idx::from_bytes("x", &forged([1 << 20, 1 << 10, 1 << 10], &[0; 9]), None, None));
    assert_eq!(big, "x: truncated: expected 1099511627792 bytes, found 25");
    let bomb = gzip(&forged([1, 1, 1], &vec![0; 50 << 20]));
    assert_eq!(message(Idx::from_bytes("x", &bomb, None, None)), "x: trailing bytes: expected 17 bytes, found more");
    assert_eq!(Idx::from_bytes("x", &forged([0, 28, 28], &[]), None, None).unwrap().len(), 0);
}

#[test]
fn fashion_mnist_is_what_it_should_be() {
    let (train, test) = (FashionMnist::train().unwrap(), FashionMnist::test().unwrap());
    assert_eq!((train.len(), test.len(), train.size(), train.channels()), (6_000, 10_000, [28, 28], 1));
    for (source, per_class) in [(&train, 600), (&test, 1_000)] {
        for class in 0..10 {
            assert_eq!((0..source.len()).filter(|&i| source.label(i) == Some(class)).count(), per_class);
        }
        assert_eq!((source.num_classes(), source.class_names()[9].as_str()), (10, "Ankle boot"));
    }
    // Known of the original: the first training image is a boot; mean and deviation are those used to normalise.
    assert_eq!(train.label(0), Some(9));
    let values: Vec<f64> = (0..6_000).flat_map(|i| train.image(i).unwrap().data.into_owned()).map(|v| f64::from(v) / 255.0).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    assert!((mean - 0.286).abs() < 3e-3 && (std - 0.353).abs() < 3e-3, "{mean} {std}");
}
