//! One plain vision transformer: everything between the images and its tokens or logits, the losses, every gradient.

use fd_compute::{Arena, Cx, DType, Device, Grads, Layout, Params, Planner, Pooling, StepKey};
use fd_model::goldens::Part;
use fd_model::{QkvBias, Taps, Vit, VitConfig};
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
    }
}

impl Options {
    /// Holds what the JSON says twice against the configuration.
    fn agree(&self, config: &VitConfig) -> Result<(), Stop> {
        if let Some(dim) = self.head_dim.filter(|&d| d != config.head_dim()) {
            return Err(Stop::Unknown(format!("`head_dim` is {dim}, not embed_dim / num_heads")));
        }
        if let Some(bias) = &self.qkv_bias
            && !(bias.starts_with("full") && config.qkv_bias == QkvBias::Full)
        {
            return Err(Stop::Unknown(format!("`qkv_bias` is {bias:?}")));
        }
        no_drop_path(config)
    }
}

/// The golden numbers are without drop path.
pub(super) fn no_drop_path(config: &VitConfig) -> Result<(), Stop> {
    if config.drop_path_rate == 0.0 {
        return Ok(());
    }
    Err(Stop::Unknown(format!("`drop_path_rate` is {}: random masks are not PyTorch's", config.drop_path_rate)))
}

pub(super) fn run(checks: &mut Checks) -> Result<(), Stop> {
    let config = checks.golden().config(Part::Model)?;
    let options: Options = kind::options(&checks.golden().json)?;
    options.agree(&config)?;
    let wanted = options.loss.as_deref().map(|text| Wanted::parse(text, config.num_classes)).transpose()?;

    let mut layout = Layout::builder();
    let vit = Vit::declare(&config, &mut layout, "")?;
    let params = checks.params(&layout.finish(), "w.")?;
    let images = checks.input::<4>("in.image")?;
    checks.compare_index("buf.", &config)?;
    compare_features(checks, &vit, &params, images)?;
    wanted.map_or(Ok(()), |wanted| compare_training(checks, &vit, &params, &wanted, images))
}

/// Forward alone, every value tapped.
fn compare_features(checks: &mut Checks, vit: &Vit, params: &Params, (shape, pixels): ([usize; 4], &[f64])) -> Result<(), Stop> {
    let mut p = Planner::new();
    p.bind(params.layout());
    let images = p.input(shape);
    let f = vit.plan(&mut p, images, Taps { blocks: true, attention: true })?;
    let has_cls = vit.config().cls_token && checks.has("out.cls");
    let cls = if has_cls { Some(p.pool(f.map(), Pooling::Token(0))?) } else { None };
    cls.iter().for_each(|&act| p.keep(act));
    let plan = p.finish()?;
    let mut arena = Arena::new(&plan, DType::F32);
    arena.write_f64(images, pixels);
    plan.forward(&mut Cx::new(&Device::Cpu, &[params], &mut arena, StepKey::default()))?;

    let mut named = vec![("out.patch_embed".to_owned(), Some(f.patch_embed)), ("out.rel_pos_bias".to_owned(), f.rel_pos_bias)];
    for (i, (&block, &attention)) in f.blocks.iter().zip(&f.attention).enumerate() {
        named.extend([(format!("out.attn{i}"), Some(attention)), (format!("out.block{i}"), Some(block))]);
    }
    let last = [("tokens_prenorm", Some(f.prenorm)), ("tokens", f.tokens), ("cls", cls), ("pooled", f.pooled), ("logits", f.logits)];
    named.extend(last.map(|(name, act)| (format!("out.{name}"), act)));
    for (name, act) in named {
        act.map_or(Ok(()), |act| checks.compare_value(&name, &plan, &arena, act))?;
    }
    Ok(())
}

/// The plan that trains: loss and gradients.
fn compare_training(
    checks: &mut Checks,
    vit: &Vit,
    params: &Params,
    wanted: &Wanted,
    (shape, pixels): ([usize; 4], &[f64]),
) -> Result<(), Stop> {
    let mut p = Planner::new();
    p.train(params.layout());
    let images = p.input(shape);
    let features = vit.plan(&mut p, images, Taps::default())?;
    let (loss, target) = wanted.plan(&mut p, &features, vit.config().cls_token)?;
    p.root(loss);
    features.logits.iter().for_each(|&logits| p.keep(logits));
    let plan = p.finish()?;
    let mut arena = Arena::new(&plan, DType::F32);
    arena.write_f64(images, pixels);
    arena.write_f64(target, &wanted.target(checks, plan.shape(target))?);
    let sets = [params];
    let mut cx = Cx::new(&Device::Cpu, &sets, &mut arena, StepKey::default());
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
    compare_gradients(checks, &grads)
}

/// `g.*` of every parameter; a key bias has none in theory.
pub(super) fn compare_gradients(checks: &mut Checks, grads: &Grads) -> Result<(), Stop> {
    let layout = grads.layout();
    for p in layout.iter() {
        let name = format!("g.{}", layout.name(p));
        match name.ends_with(".k_bias") {
            true => checks.compare_zero(&name, layout.shape(p), &grads.to_f64(p))?,
            false => checks.compare(&name, layout.shape(p), &grads.to_f64(p))?,
        }
    }
    Ok(())
}
