//! A configuration to start from: a teacher of the user's, a folder of the user's, the paper's recipe; commented, and it runs.

use std::fmt::Write as _;
use std::path::PathBuf;

use fd_data::{Folder, Source};
use fd_model::{ModelConfig, Statistics};

use crate::Error;
use crate::asked::Asked;

/// What is known.
#[derive(Clone, Debug)]
pub struct StarterOptions {
    /// The teacher.
    pub asked: Asked,
    /// The folder of images.
    pub data: PathBuf,
    /// Where the configuration goes, for the command in its head.
    pub out: Option<PathBuf>,
}

/// Images a step of a starting configuration, where there are as many.
const BATCH: usize = 32;
/// Epochs of the paper's short recipe, and of its warm-up.
const EPOCHS: (usize, usize) = (100, 10);

/// The configuration's text.
///
/// # Errors
/// A file that is no teacher (in words: what is missing), a folder without images.
pub fn starter(options: &StarterOptions) -> Result<String, Error> {
    let opened = options.asked.open()?;
    let fit = opened.fit()?;
    fit.check()?;
    let teacher = opened.model.clone();
    let folder = Folder::open(&options.data, teacher.in_chans())?;
    let student = teacher.student();
    student.check().map_err(|e| Error::Usage(format!("the student of such a teacher: {e}")))?;
    let batch = BATCH.min(folder.len());
    // The paper's rates are for 512 images a step.
    let rate = |base: f64| format!("{:e}", base * batch as f64 / 512.0);
    let file = options.out.as_ref().map_or("fd.toml".into(), |p| p.display().to_string());
    let mut text = format!(
        "# Feature distillation (arXiv 2205.14141) on {} images of {}; the teacher is {}.\n#\n\
         #     distill run {file}                                   # trains; stop it when you like, the same command goes on\n\
         #     distill plan {file} --tflops 0.2                     # what it costs, at 0.2 TFLOP/s (about two cores)\n\
         #     distill run {file} --set distil.recipe.epochs=2 --set distil.recipe.warmup_epochs=0.5    # any key can be set so\n\
         #     distill convert runs/fd/weights/teacher-student-seed0.safetensors student.safetensors --to timm\n#\n\
         # `distill config` explains every key. What the teacher's file does not say and is assumed:\n",
        folder.len(),
        folder.name(),
        opened.found().summary(),
    );
    if opened.found().assumed.is_empty() {
        text.push_str("# nothing.\n");
    }
    opened.found().assumed.iter().for_each(|line| _ = writeln!(text, "# {line}"));
    let quoted = |s: &str| toml::Value::String(s.to_string()).to_string();
    let path = |p: &PathBuf| quoted(&p.display().to_string());
    let Statistics { mean, std } = &opened.normalise;
    let _ = write!(
        text,
        "\nname = \"fd\"\nseeds = [0]\ninit = \"official\"\n\
         # Nothing is measured, so images need no labels. With labels: columns, [data] test, [[fine_tune]], [probe] and [knn] as in\n\
         # experiments/tables/main.toml.\ncolumns = []\n\n[data]\n\
         train = {{ kind = \"folder\", path = {}, channels = {} }}\ntrain_per_class = 0\n\
         # The teacher's: both models see the same view.\nnormalise = {{ mean = {mean:?}, std = {std:?} }}\n\
         # Threads that prepare images ahead.\nworkers = 1\n\n",
        path(&options.data),
        teacher.in_chans(),
    );
    text.push_str("# The paper's student of such a teacher: ");
    text.push_str(match &student {
        ModelConfig::Vit(_) => "one relative position bias for all blocks, query and value biases, LayerScale.\n",
        ModelConfig::Swin(_) => "the Swin v2 of its sizes.\n",
    });
    let _ = writeln!(text, "[student]\n{}", table(&student)?);
    let _ = write!(text, "[[teachers]]\nname = \"teacher\"\nseed = 0\nweights = {}\n", path(&options.asked.file));
    if let Some(key) = &options.asked.key {
        let _ = writeln!(text, "# The model in that file.\nkey = {}", quoted(key));
    }
    if fit.rows().iter().any(|(row, _)| matches!(row, fd_model::Row::Interpolated(_))) {
        text.push_str("# Its positions are for images of another size.\ninterpolate = true\n");
    }
    if !options.asked.allow.names.is_empty() {
        let names: Vec<String> = options.asked.allow.names.iter().map(|n| quoted(n)).collect();
        let _ = writeln!(text, "allow = [{}]", names.join(", "));
    }
    let _ = writeln!(text, "\n[teachers.model]\n{}", table(&teacher)?);
    let (epochs, warmup) = EPOCHS;
    let _ = write!(
        text,
        "[distil]\n# \"Asymmetric drop path\": none for the teacher, some for the student (0.2 or 0.3 for 300 epochs).\n\
         teacher_drop_path_rate = 0.0\nstudent_drop_path_rate = 0.1\nengine = \"fused\"\n\
         # What meets the teacher's width: a linear layer a token.\nprojector = {{ kind = \"linear\" }}\n\
         # The teacher's feature map, whitened by a LayerNorm without affine part, under a smooth L1 loss.\n\
         objective = {{ target = \"map\", normalisation = \"layer-norm\", loss = {{ kind = \"smooth-l1\", beta = 2.0 }} }}\n\
         # Less memory, the same bits: keep of the student's blocks only what they read.\nrecompute = false\n\
         # The paper's short recipe; its rates are 3e-4 and 5e-6 for 512 images a step.\n\
         recipe = {{ epochs = {epochs}, warmup_epochs = {warmup}.0, batch = {batch}, accumulate = 1, lr = {}, warmup_lr = {}, min_lr = {}, \
         weight_decay = 0.05, layer_decay = 1.0, betas = [0.9, 0.999], clip_grad = 3.0, skip_nonfinite = 10 }}\n\
         # The view that both see (crop_scale from 0.08 for 300 epochs).\n\
         views = {{ crop_scale = [0.67, 1.0], crop_ratio = [0.75, 1.3333333333333333], interpolation = \"bilinear\", flip = 0.5, erase = 0.0 }}\n",
        rate(3e-4),
        rate(5e-7),
        rate(5e-6),
    );
    Ok(text)
}

/// A model's keys, one a line.
fn table(model: &ModelConfig) -> Result<String, Error> {
    toml::to_string(model).map_err(|e| Error::Usage(format!("a model's description: {e}")))
}
