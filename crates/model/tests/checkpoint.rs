//! Checkpoints: what is written is read back; what does not fit is refused by name, and nothing is changed.

use std::path::PathBuf;

use fd_compute::{DType, Layout, Params};
use fd_model::{Activation, Checkpoint, Head, Init, ModelError, Position, QkvBias, Vit, VitConfig, initialise};

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
    }
}

fn params(config: &VitConfig, seed: u64) -> Params {
    let mut layout = Layout::builder();
    Vit::declare(config, &mut layout, "encoder.").expect("a valid model");
    let mut params = Params::new(&layout.finish(), DType::F32);
    initialise(&mut params, "encoder.", config, Init::Official, seed);
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
