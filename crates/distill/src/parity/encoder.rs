//! One encoder: everything between the images and its tokens or logits, the losses, every gradient.

use fd_compute::{Cx, DType, Grads, Layout, Params, Planner, Pooling, StepKey};
use fd_model::goldens::GoldenModel;
use fd_model::goldens::Part;
use fd_model::{Coordinates, Model, ModelConfig, QkvBias, SwinAttention, SwinConfig, SwinPosition, Taps, VitConfig};
use serde::de::IgnoredAny;

use super::Stop;
use super::checks::Checks;
use super::kind::{self, case_options};
use super::losses::{self, Wanted};

case_options! {
    /// How the model was built; what the class says of itself.
    Options {
        #[serde(rename = "cls")]
        _cls: IgnoredAny,
        #[serde(rename = "kwargs")]
        _kwargs: IgnoredAny,
        #[serde(rename = "ln_eps")]
        _ln_eps: Option<IgnoredAny>,
        #[serde(rename = "gelu")]
        _gelu: Option<IgnoredAny>,
        head_dim: Option<usize>,
        qkv_bias: Option<String>,
        loss: Option<String>,
        conv1_bias: Option<bool>,
        attn_mask_value: Option<f64>,
        normalize_eps: Option<f64>,
        rpe_hidden_dim: Option<usize>,
        attn_type: Option<String>,
        #[serde(rename = "rpe_output_type")]
        _rpe_output_type: Option<IgnoredAny>,
        relative_coords_table_type: Option<String>,
        #[serde(rename = "logit_scale")]
        _logit_scale: Option<IgnoredAny>,
    }
}

impl Options {
    /// Holds what the JSON says twice against the configuration.
    fn agree(&self, config: &ModelConfig) -> Result<(), Stop> {
        let bias = match config {
            ModelConfig::Vit(c) => {
                self.agree_vit(c)?;
                c.qkv_bias
            }
            ModelConfig::Swin(c) => {
                self.agree_swin(c)?;
                c.qkv_bias
            }
        };
        if let Some(said) = &self.qkv_bias
            && !(said.starts_with("full") && bias == QkvBias::Full || said.starts_with("none") && bias == QkvBias::None)
        {
            return Err(Stop::Unknown(format!("`qkv_bias` is {said:?}")));
        }
        no_drop_path(config)
    }

    fn agree_vit(&self, c: &VitConfig) -> Result<(), Stop> {
        if let Some(dim) = self.head_dim.filter(|&d| d != c.head_dim()) {
            return Err(Stop::Unknown(format!("`head_dim` is {dim}, not embed_dim / num_heads")));
        }
        if let Some(bias) = self.conv1_bias.filter(|&b| b != c.patch_bias) {
            return Err(Stop::Unknown(format!("`conv1_bias` is {bias}")));
        }
        Ok(())
    }

    fn agree_swin(&self, c: &SwinConfig) -> Result<(), Stop> {
        if let Some(value) = self.attn_mask_value.filter(|&v| v != -100.0) {
            return Err(Stop::Unknown(format!("`attn_mask_value` is {value}, ours -100")));
        }
        if let Some(eps) = self.normalize_eps.filter(|&e| e != 1e-12) {
            return Err(Stop::Unknown(format!("`normalize_eps` is {eps}, ours 1e-12")));
        }
        if let Some(dim) = self.rpe_hidden_dim.filter(|&d| d != c.rpe_hidden_dim) {
            return Err(Stop::Unknown(format!("`rpe_hidden_dim` is {dim}, the arguments say {}", c.rpe_hidden_dim)));
        }
        let cosine = c.attention == SwinAttention::Cosine;
        if let Some(kind) = self.attn_type.as_deref().filter(|kind| (*kind == "cosine_mh") != cosine) {
            return Err(Stop::Unknown(format!("`attn_type` is {kind:?}, the arguments say otherwise")));
        }
        let coordinates = match (c.position, c.coordinates) {
            (SwinPosition::Table, _) => "none",
            (SwinPosition::Mlp, Coordinates::Linear) => "linear",
            (SwinPosition::Mlp, Coordinates::Norm8Log) => "norm8_log",
        };
        if let Some(kind) = self.relative_coords_table_type.as_deref().filter(|kind| !kind.starts_with(coordinates)) {
            return Err(Stop::Unknown(format!("`relative_coords_table_type` is {kind:?}, the arguments say {coordinates:?}")));
        }
        Ok(())
    }
}

/// The golden numbers are without drop path.
pub(super) fn no_drop_path(config: &ModelConfig) -> Result<(), Stop> {
    let rate = match config {
        ModelConfig::Vit(c) => c.drop_path_rate,
        ModelConfig::Swin(c) => c.drop_path_rate,
    };
    if rate == 0.0 {
        return Ok(());
    }
    Err(Stop::Unknown(format!("`drop_path_rate` is {rate}: random masks are not PyTorch's")))
}

pub(super) fn run(checks: &mut Checks) -> Result<(), Stop> {
    let golden = checks.golden().config(Part::Model)?;
    let config = &golden.config;
    let options: Options = kind::options(&checks.golden().json)?;
    options.agree(config)?;
    let wanted = options.loss.as_deref().map(|text| Wanted::parse(text, config.num_classes())).transpose()?;

    let mut layout = Layout::builder();
    let model = Model::declare(config, &mut layout, "")?;
    let params = checks.params_of(&layout.finish(), "", &golden)?;
    let images = checks.input::<4>("in.image")?;
    checks.compare_buffers("buf.", config)?;
    compare_features(checks, &model, &params, images)?;
    wanted.map_or(Ok(()), |wanted| compare_training(checks, (&model, &golden), &params, &wanted, images))
}

/// Forward alone, every value tapped.
fn compare_features(checks: &mut Checks, model: &Model, params: &Params, (shape, pixels): ([usize; 4], &[f64])) -> Result<(), Stop> {
    let mut p = Planner::new();
    p.bind(params.layout());
    let images = p.input(shape);
    let f = model.plan(&mut p, images, Taps { blocks: true, attention: true })?;
    f.attention.iter().for_each(|&map| p.keep(map));
    let cls = if f.cls && checks.has("out.cls") { Some(p.pool(f.map(), Pooling::Token(0))?) } else { None };
    let mean = if checks.has("out.gap") { Some(p.pool(f.map(), Pooling::Mean { skip: usize::from(f.cls) })?) } else { None };
    cls.iter().chain(&mean).for_each(|&act| p.keep(act));
    let plan = p.finish()?;
    let mut arena = checks.arena(&plan)?;
    arena.write_f64(images, pixels);
    plan.forward(&mut Cx::new(&checks.device(), &[params], &mut arena, StepKey::default()))?;

    let mut named = vec![("out.patch_embed".to_owned(), f.patch_embed), ("out.ln_pre".to_owned(), f.embedded)];
    match model.config() {
        ModelConfig::Vit(_) => {
            named.extend(f.rel_pos_bias.iter().map(|act| ("out.rel_pos_bias".to_owned(), *act)));
            for (i, (&block, &attention)) in f.blocks.iter().zip(&f.attention).enumerate() {
                named.extend([(format!("out.attn{i}"), attention), (format!("out.block{i}"), block)]);
            }
        }
        ModelConfig::Swin(c) => named.extend(super::swin::named(&c, &f)),
    }
    let last = [
        ("tokens_prenorm", Some(f.prenorm)),
        ("tokens", f.tokens),
        ("cls", cls),
        ("gap", mean),
        ("image_embed", f.projected),
        ("pooled", f.pooled),
        ("logits", f.logits),
    ];
    named.extend(last.into_iter().filter_map(|(name, act)| Some((format!("out.{name}"), act?))));
    named.into_iter().try_for_each(|(name, act)| checks.compare_value(&name, &plan, &arena, act))
}

/// The plan that trains: loss and gradients.
fn compare_training(
    checks: &mut Checks,
    (model, golden): (&Model, &GoldenModel),
    params: &Params,
    wanted: &Wanted,
    (shape, pixels): ([usize; 4], &[f64]),
) -> Result<(), Stop> {
    let mut p = Planner::new();
    p.train(params.layout());
    let images = p.input(shape);
    let features = model.plan(&mut p, images, Taps::default())?;
    let (loss, target) = wanted.plan(&mut p, &features, features.cls)?;
    p.root(loss);
    features.logits.iter().for_each(|&logits| p.keep(logits));
    let plan = p.finish()?;
    let mut arena = checks.arena(&plan)?;
    arena.write_f64(images, pixels);
    arena.write_f64(target, &wanted.target(checks, plan.shape(target))?);
    let sets = [params];
    let device = checks.device();
    let mut cx = Cx::new(&device, &sets, &mut arena, StepKey::default());
    plan.forward(&mut cx)?;
    checks.compare_scalar("loss", "", cx.arena.scalar(loss))?;
    if let (Wanted::Classes(losses), Some(logits)) = (wanted, features.logits) {
        losses::compare_logit_losses(checks, losses, plan.shape(logits), &cx.arena.to_f64(logits))?;
    }
    if checks.below("g.").next().is_none() {
        return Ok(());
    }
    let mut grads = Grads::new(params.layout(), DType::F32);
    plan.backward(&mut cx, &mut grads)?;
    for p in grads.layout().iter() {
        let (name, foreign) = golden.foreign(&checks.golden().case, grads.layout().name(p))?;
        let shape = grads.layout().shape(p);
        let values = foreign.to_theirs(grads.to_f64(p), shape);
        compare_gradient(checks, &name.replacen(&golden.prefix, "g.", 1), &foreign.shape(shape).unwrap_or_default(), &values)?;
    }
    Ok(())
}

/// `g.*` of every parameter.
pub(super) fn compare_gradients(checks: &mut Checks, grads: &Grads) -> Result<(), Stop> {
    let layout = grads.layout();
    layout.iter().try_for_each(|p| compare_gradient(checks, &format!("g.{}", layout.name(p)), layout.shape(p), &grads.to_f64(p)))
}

/// One gradient; a key bias has none in theory.
fn compare_gradient(checks: &mut Checks, name: &str, shape: &[usize], found: &[f64]) -> Result<(), Stop> {
    match name.ends_with(".k_bias") {
        true => checks.compare_zero(name, shape, found),
        false => checks.compare(name, shape, found),
    }
}
