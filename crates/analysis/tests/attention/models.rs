//! Small models with weights that make heads choose, and a folder to run the binary in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fd_compute::{DType, Layout, Params, Stream};
use fd_model::{Checkpoint, Model, ModelConfig, Position, QkvBias, Statistics, SwinConfig, VitConfig};

/// A ViT of 9 x 9 patches: more rows than a chunk has.
pub fn absolute() -> ModelConfig {
    let sizes = VitConfig { img_size: (36, 36), patch_size: 4, embed_dim: 12, depth: 2, num_heads: 3, ..VitConfig::default() };
    VitConfig { position: Position::Absolute, qkv_bias: QkvBias::Full, layer_scale: None, mlp_ratio: 2.0, ..sizes }.into()
}

fn vit(change: impl FnOnce(&mut VitConfig)) -> ModelConfig {
    let ModelConfig::Vit(mut config) = absolute() else { unreachable!() };
    config.img_size = (16, 24);
    change(&mut config);
    config.into()
}

/// The paper's student, on a grid that is not square.
pub fn student() -> ModelConfig {
    vit(|c| (c.position, c.qkv_bias, c.layer_scale) = (Position::SharedRelative, QkvBias::Qv, Some(0.1)))
}

/// A relative bias for every block, no CLS token.
pub fn without_cls() -> ModelConfig {
    vit(|c| (c.position, c.cls_token) = (Position::Relative, false))
}

pub fn with_registers() -> ModelConfig {
    vit(|c| c.reg_tokens = 3)
}

/// Maps of 16 x 16 and 8 x 8 tokens, windows of 4, every second block shifted.
pub fn swin() -> ModelConfig {
    let sizes =
        SwinConfig { img_size: (32, 32), patch_size: 2, embed_dim: 8, depths: vec![2, 2], num_heads: vec![2, 4], ..SwinConfig::default() };
    SwinConfig { window_size: 4, mlp_ratio: 2.0, ..sizes }.into()
}

/// The same of version 2: cosine attention, one position MLP a stage.
pub fn swin_v2() -> ModelConfig {
    let ModelConfig::Swin(c) = swin() else { unreachable!() };
    let (depths, num_heads) = (c.depths.clone(), c.num_heads.clone());
    let options = SwinConfig { shared_position: true, rpe_hidden_dim: 16, init_norm: 1.0, ..SwinConfig::version_2() };
    SwinConfig { img_size: c.img_size, patch_size: 2, embed_dim: 8, depths, num_heads, window_size: 4, mlp_ratio: 2.0, ..options }.into()
}

/// A model's weights, in f32 and in double precision the same.
pub fn weights(config: &ModelConfig, seed: u64) -> (Model, Params) {
    let mut layout = Layout::builder();
    let model = Model::declare(config, &mut layout, "").unwrap();
    let layout = layout.finish();
    let mut params = Params::new(&layout, DType::F64);
    for p in layout.iter() {
        let (name, shape) = (layout.name(p), layout.shape(p));
        let mut random = Stream::named(seed, name);
        let columns = shape[1..].iter().product::<usize>() as f64;
        let (mean, spread) = match name.rsplit('.').next() {
            _ if name.contains("norm") => (f64::from(u8::from(name.ends_with("weight"))), 0.1),
            Some("logit_scale") => (2.0, 0.5),
            Some("weight") => (0.0, 1.5 / columns.sqrt()),
            _ => (0.0, 0.7),
        };
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| f64::from((mean + spread * random.normal()) as f32)).collect();
        params.set(p, &values);
    }
    (model, params)
}

/// A folder of one test, with five photographs in `photos`.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("attention-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures/images");
        std::fs::create_dir_all(path.join("photos")).unwrap();
        for image in ["astronaut.png", "china.png", "flower.png", "jpeg420.jpg", "jpeggray.jpg"] {
            std::fs::copy(images.join(image), path.join("photos").join(image)).unwrap();
        }
        Scratch(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a model as our own files are; its weights in double precision.
    pub fn model(&self, name: &str, config: &ModelConfig, seed: u64) -> (Model, Params) {
        let (model, params) = weights(config, seed);
        let file = Checkpoint::of(&params, "").described(config, Some(&Statistics::imagenet())).unwrap();
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        file.write(&self.path(name)).unwrap();
        (model, params)
    }

    pub fn analyze(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_analyze"));
        command.args(args).current_dir(&self.0).env_remove("RUST_LOG").stdin(Stdio::null()).output().unwrap()
    }

    /// What a command that succeeds prints.
    pub fn says(&self, args: &[&str]) -> String {
        let output = self.analyze(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The last line on standard error of a command that is refused.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.analyze(args);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true), "{args:?}: {err}");
        err.lines().last().unwrap_or_default().to_string()
    }

    /// The rows of a CSV: column to value.
    pub fn csv(&self, name: &str) -> Vec<BTreeMap<String, String>> {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        let mut lines = text.lines().map(|l| l.split(',').map(String::from).collect::<Vec<_>>());
        let head = lines.next().unwrap();
        lines.map(|row| head.iter().cloned().zip(row).collect()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
