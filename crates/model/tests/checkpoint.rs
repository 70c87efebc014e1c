//! Checkpoints: what is written is read back; what does not fit is refused by name, and nothing is changed.

use std::path::PathBuf;

use fd_compute::{DType, Layout, Params};
use fd_model::{Activation, Checkpoint, Head, Init, ModelError, Position, QkvBias, Tensor, Vit, VitConfig, initialise};
use safetensors::{Dtype, SafeTensors};

fn config(position: Position) -> VitConfig {
    VitConfig {
        img_size: (8, 8),
        patch_size: 4,
        in_chans: 1,
        embed_dim: 8,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 2.0,
        position,
        qkv_bias: QkvBias::Qv,
        layer_scale: Some(0.1),
        cls_token: true,
        activation: Activation::Gelu,
        ln_eps: 1e-6,
        head: Head::Features,
        num_classes: 0,
        drop_path_rate: 0.0,
        ..VitConfig::default()
    }
}

fn params(config: &VitConfig, seed: u64) -> Params {
    let mut layout = Layout::builder();
    Vit::declare(config, &mut layout, "encoder.").expect("a valid model");
    let mut params = Params::new(&layout.finish(), DType::F32);
    initialise(&mut params, "encoder.", &config.clone().into(), Init::Official, seed);
    params
}

fn file(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    folder.join(format!("{name}-{}.safetensors", std::process::id()))
}

#[test]
fn written_and_read_back() {
    let (config, path) = (config(Position::SharedRelative), file("round-trip"));
    let from = params(&config, 1);
    let mut checkpoint = Checkpoint::of(&from, "encoder.");
    checkpoint.metadata.insert("commit".into(), "abc".into());
    checkpoint.write(&path).expect("written");
    let read = Checkpoint::read(&path).expect("read");
    assert_eq!((&read.tensors, &read.metadata), (&checkpoint.tensors, &checkpoint.metadata));
    let mut to = params(&config, 2);
    read.load(&mut to, "encoder.").expect("the same model");
    assert_eq!(Checkpoint::of(&to, "encoder.").to_bytes().expect("bytes"), Checkpoint::of(&from, "encoder.").to_bytes().expect("bytes"));
    std::fs::remove_file(path).expect("removed");
}

/// Two tensors and twenty lines of metadata, put in from either end.
fn small(reversed: bool) -> Checkpoint {
    let mut lines: Vec<(String, String)> = (0..20).map(|i| (format!("key {i:02}"), format!("\"{i}\"\n"))).collect();
    if reversed {
        lines.reverse();
    }
    let of = |shape: &[usize], data: &[f32]| Tensor { shape: shape.to_vec(), data: data.to_vec() };
    let tensors = [("b".to_string(), of(&[2, 1], &[1.0, -0.5])), ("A".to_string(), of(&[], &[3.0]))];
    Checkpoint { source: "test".into(), tensors: tensors.into(), metadata: lines.into_iter().collect() }
}

#[test]
fn equal_contents_are_equal_bytes() {
    let (mut one, bytes) = (small(false), small(false).to_bytes().expect("bytes"));
    for i in 0..20 {
        assert!(bytes == small(i % 2 == 0).to_bytes().expect("bytes"), "attempt {i}");
    }
    let again = Checkpoint::from_bytes("test", &bytes).expect("parsed");
    assert_eq!(again, one);
    // By hand, so that it holds from one process to the next, and for every reader of the format.
    one.metadata.retain(|key, _| key.as_str() < "key 02");
    let header = r#"{"__metadata__":{"key 00":"\"0\"\n","key 01":"\"1\"\n"},"A":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"#
        .to_string()
        + r#""b":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]}}"#;
    let padded = header.len().next_multiple_of(8);
    let mut expected = (padded as u64).to_le_bytes().to_vec();
    expected.extend(format!("{header:padded$}").bytes());
    expected.extend([0, 0, 0x40, 0x40, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xbf]);
    assert_eq!(one.to_bytes().expect("bytes"), expected);
    assert!(SafeTensors::deserialize(&expected).is_ok());
    one.metadata.clear();
    assert!(!String::from_utf8_lossy(&one.to_bytes().expect("bytes")).contains("__metadata__"));
}

#[test]
fn half_precision_is_rounded_to_even_and_refused_beyond_its_range() {
    let (path, step) = (file("half"), 2f32.powi(-11));
    let values = [1.0, -0.0, 1.0 / 3.0, 1.0 + step, 1.0 + 3.0 * step, 65504.0, -65519.996, 2f32.powi(-24), 2f32.powi(-25)];
    let bits = [0x3c00u16, 0x8000, 0x3555, 0x3c00, 0x3c02, 0x7bff, 0xfbff, 0x0001, 0x0000];
    let mut checkpoint = small(false);
    checkpoint.tensors.insert("b".into(), Tensor { shape: vec![9], data: values.into() });
    checkpoint.write_f16(&path).expect("written");
    let bytes = std::fs::read(&path).expect("a file");
    let parsed = SafeTensors::deserialize(&bytes).expect("safetensors");
    let b = parsed.tensor("b").expect("there");
    assert_eq!((b.dtype(), b.shape()), (Dtype::F16, &[9][..]));
    assert_eq!(b.data(), bits.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    let read = Checkpoint::read(&path).expect("read");
    assert_eq!(read.tensors["b"].data[5..8], [65504.0, -65504.0, 2f32.powi(-24)]);
    assert_eq!(read.metadata, checkpoint.metadata);
    for wrong in [65520.0, -1e30, f32::INFINITY, f32::NAN] {
        checkpoint.tensors.get_mut("b").expect("there").data[3] = wrong;
        let error = checkpoint.write_f16(&path).expect_err("a refusal");
        assert!(
            matches!(&error, ModelError::Range { tensor, value, .. } if tensor == "b" && value.to_bits() == wrong.to_bits()),
            "{error}"
        );
        assert!(error.to_string().starts_with(&format!("{}: tensor `b` holds ", path.display())), "{error}");
    }
    assert_eq!(std::fs::read(&path).expect("still there"), bytes, "a refused write changes nothing");
    std::fs::remove_file(path).expect("removed");
}

#[test]
fn impossible_tensors_are_not_written() {
    let refused = |name: &str, shape: &[usize]| {
        let mut checkpoint = small(false);
        checkpoint.tensors.insert(name.into(), Tensor { shape: shape.to_vec(), data: vec![0.0; 6] });
        checkpoint.to_bytes().expect_err("a refusal").to_string()
    };
    assert_eq!(refused("c", &[2, 4]), "test: tensor `c` of shape [2, 4] holds 6 values");
    assert_eq!(refused("__metadata__", &[6]), "test: the name `__metadata__` is not for tensors");
}

/// Every prefix is refused; a flipped byte is refused, or at least read without a panic where it only changes a value.
#[test]
fn no_bytes_make_the_reader_panic() {
    let bytes = small(false).to_bytes().expect("bytes");
    for length in 0..bytes.len() {
        let error = Checkpoint::from_bytes("cut", &bytes[..length]).expect_err("a prefix").to_string();
        assert!(error.starts_with("cut: not a valid safetensors file: "), "{error}");
    }
    for at in 0..bytes.len() {
        for mask in [0x01, 0x04, 0x80, 0xff] {
            let mut flipped = bytes.clone();
            flipped[at] ^= mask;
            let read = Checkpoint::from_bytes("flipped", &flipped);
            assert!(read.is_err() || read.is_ok_and(|c| c != Checkpoint { source: "flipped".into(), ..small(false) }), "byte {at}");
        }
    }
}

#[test]
fn a_shared_table_becomes_one_table_a_block() {
    let mut checkpoint = Checkpoint::of(&params(&config(Position::SharedRelative), 1), "encoder.");
    let table = checkpoint.tensors["rel_pos_bias.relative_position_bias_table"].clone();
    checkpoint.shared_table_to_blocks(2);
    assert_eq!(checkpoint.tensors["blocks.1.attn.relative_position_bias_table"], table);
    checkpoint.load(&mut params(&config(Position::Relative), 3), "encoder.").expect("the fine-tuned model's names");
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_changes() {
    let config = config(Position::SharedRelative);
    let good = Checkpoint::of(&params(&config, 1), "encoder.");
    let refused = |change: &dyn Fn(&mut Checkpoint)| {
        let mut checkpoint = good.clone();
        change(&mut checkpoint);
        let mut target = params(&config, 2);
        let before = Checkpoint::of(&target, "").to_bytes().expect("bytes");
        let error = checkpoint.load(&mut target, "encoder.").expect_err("a refusal");
        assert_eq!(before, Checkpoint::of(&target, "").to_bytes().expect("bytes"), "changed by a refused load");
        error
    };
    let missing = refused(&|c| drop(c.tensors.remove("blocks.1.mlp.fc2.bias")));
    assert!(matches!(&missing, ModelError::Missing { tensor, .. } if tensor == "blocks.1.mlp.fc2.bias"), "{missing}");
    let unexpected = refused(&|c| drop(c.tensors.insert("head.weight".into(), c.tensors["norm.bias"].clone())));
    assert!(matches!(&unexpected, ModelError::Unexpected { tensor, .. } if tensor == "head.weight"), "{unexpected}");
    let shape = refused(&|c| c.tensors.get_mut("norm.bias").expect("there").shape = vec![4, 2]);
    assert!(shape.to_string().contains("`norm.bias` has shape [4, 2], the model needs [8]"), "{shape}");
}

#[test]
fn damaged_files_are_errors_of_one_line() {
    let path = file("damaged");
    let bytes = Checkpoint::of(&params(&config(Position::Absolute), 1), "").to_bytes().expect("bytes");
    let damaged: [&[u8]; 6] = [b"", b"short", &bytes[..8], &bytes[..bytes.len() / 2], &bytes[..bytes.len() - 1], &[0xff; 4096]];
    for damaged in damaged {
        std::fs::write(&path, damaged).expect("written");
        let error = Checkpoint::read(&path).expect_err("damaged").to_string();
        assert!(error.contains("damaged-") && !error.contains('\n'), "{error}");
    }
    std::fs::remove_file(&path).expect("removed");
    assert!(Checkpoint::read(&path).expect_err("gone").to_string().contains("cannot be read"));
}

#[test]
fn an_interrupted_write_leaves_nothing_behind() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("as-a-folder-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder where the file should be");
    let checkpoint = Checkpoint::of(&params(&config(Position::Absolute), 1), "");
    assert!(checkpoint.write(&folder).is_err());
    let left = std::fs::read_dir(folder.parent().expect("a parent")).expect("readable").flatten();
    let left: Vec<_> = left.filter(|f| f.file_name().to_string_lossy().starts_with("as-a-folder") && f.path() != folder).collect();
    assert!(left.is_empty(), "{left:?}");
    std::fs::remove_dir(folder).expect("removed");
}
