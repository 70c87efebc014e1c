//! Position tables of other grids and windows. Items are called `{pos,vit_rpb,swin_rpb}.{A}to{B}`, A and B sides of grids or windows
//! (`AxB` where they are rectangular), and `.cls` or `.nocls` after that where the name says whether there are rows of CLS. Each has
//! tensors `.in` and `.out` and, where `f32_dev` is known of it, `.out_f32`: PyTorch's own f32.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use fd_model::{bicubic, geometric_positions, remap_relative_table};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::Stop;
use super::checks::{Checks, EXACT, tolerance};
use super::kind::{self, case_options};

case_options! {
    /// What was interpolated.
    Options {
        #[serde(rename = "scipy")]
        _scipy: Option<IgnoredAny>,
        items: BTreeMap<String, Value>,
    }
}

/// Absolute positions [1, extra + h · w, C].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Positions {
    f32_dev: Option<f64>,
    method: Option<String>,
}

/// A relative table [(2h - 1)(2w - 1) + extra, heads].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    f32_dev: Option<f64>,
    q: Option<f64>,
    src_positions: Option<Vec<f64>>,
    dst_positions: Option<Vec<f64>>,
    extra_tokens: Option<usize>,
    /// How far two ways into FITPACK are apart.
    #[serde(rename = "RectBivariateSpline_max_diff")]
    spline_dev: Option<f64>,
    #[serde(rename = "keys_out")]
    _keys_out: Option<IgnoredAny>,
}

/// An item's name, taken apart.
struct Item<'a> {
    name: &'a str,
    from: (usize, usize),
    to: (usize, usize),
    /// Are there rows of CLS, if the name says so?
    cls: Option<bool>,
}

pub(super) fn run(checks: &mut Checks) -> Result<(), Stop> {
    let options: Options = kind::options(&checks.golden().json)?;
    for (name, value) in &options.items {
        let unknown = || Stop::Unknown(format!("the item `{name}`"));
        let mut parts = name.split('.');
        let (what, sizes) = (parts.next(), parts.next());
        let (from, to) = sizes.and_then(|text| text.split_once("to")).ok_or_else(unknown)?;
        let (from, to) = (sides(from).ok_or_else(unknown)?, sides(to).ok_or_else(unknown)?);
        let cls = match (parts.next(), parts.next()) {
            (None, None) => None,
            (Some("cls"), None) => Some(true),
            (Some("nocls"), None) => Some(false),
            _ => return Err(unknown()),
        };
        let item = Item { name, from, to, cls };
        match what {
            Some("pos") => positions(checks, &item, &kind::options(value)?)?,
            Some("vit_rpb" | "swin_rpb") => table(checks, &item, &kind::options(value)?)?,
            _ => return Err(unknown()),
        }
    }
    Ok(())
}

/// `7` is 7 x 7, `4x6` is 4 high and 6 wide.
fn sides(text: &str) -> Option<(usize, usize)> {
    let side = |text: &str| Some(usize::from(text.parse::<NonZeroU16>().ok()?.get()));
    let (h, w) = text.split_once('x').unwrap_or((text, text));
    Some((side(h)?, side(w)?))
}

fn positions(checks: &mut Checks, item: &Item, options: &Positions) -> Result<(), Stop> {
    options.method.as_deref().map_or(Ok(()), method)?;
    let Item { name, from, to, .. } = *item;
    let ([batch, rows, width], values) = checks.input::<3>(&format!("{name}.in"))?;
    let extra = item.extra(rows, |(h, w)| h * w)?;
    let shape = [1, extra + to.0 * to.1, width];
    checks.require(batch == 1, || format!("`{name}.in` has {batch} tables"));
    if batch != 1 || !fits(checks, name, &shape)? {
        return Ok(());
    }
    let found = bicubic(from, to, extra).apply(values, width);
    compare(checks, name, &shape, &found, options.f32_dev, tolerance(options.f32_dev.unwrap_or(0.0)))
}

/// How positions were resized: ours is the one way that we know.
fn method(text: &str) -> Result<(), Stop> {
    let known = ["bicubic a=-0.75", "align_corners=False", "no antialias", "cls row kept"];
    let other = text.split([',', ';']).map(str::trim).find(|clause| !known.contains(clause));
    other.map_or(Ok(()), |clause| Err(Stop::Unknown(format!("`method` is {text:?}: {clause:?}"))))
}

fn table(checks: &mut Checks, item: &Item, options: &Table) -> Result<(), Stop> {
    let Item { name, from, to, .. } = *item;
    let ([rows, heads], values) = checks.input::<2>(&format!("{name}.in"))?;
    let offsets = |(h, w): (usize, usize)| (2 * h - 1) * (2 * w - 1);
    let extra = item.extra(rows, offsets)?;
    let said = options.extra_tokens.unwrap_or(extra);
    checks.require(said == extra, || format!("`{name}.in` has {extra} extra rows, `extra_tokens` is {said}"));
    axis(checks, item, options)?;
    let shape = [offsets(to) + extra, heads];
    if !fits(checks, name, &shape)? {
        return Ok(());
    }
    let found = remap_relative_table(values, heads, from, to, extra);
    let dev = options.f32_dev.or(options.spline_dev).unwrap_or(0.0);
    compare(checks, name, &shape, &found, options.f32_dev, tolerance(dev))
}

/// The JSON's numbers of an axis.
fn axis(checks: &mut Checks, item: &Item, options: &Table) -> Result<(), Stop> {
    let Item { name, from, to, .. } = *item;
    let Table { q, src_positions, dst_positions, .. } = options;
    if q.is_none() && src_positions.is_none() && dst_positions.is_none() {
        return Ok(());
    }
    if from.0 != from.1 || to.0 != to.1 {
        return Err(Stop::Unknown(format!("`{name}`: `q` and positions of a window that is not square")));
    }
    let (ratio, source) = geometric_positions(from.0, to.0);
    let last = to.0 as f64 - 1.0;
    let targets: Vec<f64> = (0..2 * to.0 - 1).map(|i| i as f64 - last).collect();
    for (key, found, expected) in [
        ("q", &[ratio][..], q.as_ref().map(std::slice::from_ref)),
        ("src_positions", &source, src_positions.as_deref()),
        ("dst_positions", &targets, dst_positions.as_deref()),
    ] {
        if let Some(expected) = expected {
            checks.compare_numbers(&format!("{name}.{key}"), found, expected, |_| EXACT);
        }
    }
    Ok(())
}

impl Item<'_> {
    /// Rows that are not of the grid or window.
    fn extra(&self, rows: usize, own: impl Fn((usize, usize)) -> usize) -> Result<usize, Stop> {
        let Item { name, from, cls, .. } = self;
        let wrong = |what: &str| Stop::Failed(format!("`{name}.in` has {rows} rows, {} of them its {from:?}: {what}", own(*from)));
        let extra = rows.checked_sub(own(*from)).ok_or_else(|| wrong("too few"))?;
        match cls {
            Some(cls) if *cls != (extra > 0) => Err(wrong("the name says otherwise")),
            _ => Ok(extra),
        }
    }
}

/// Has `.out` this shape? Asked before anything is made of a size that only a name has.
fn fits(checks: &mut Checks, name: &str, shape: &[usize]) -> Result<bool, Stop> {
    let (expected, _) = checks.tensor(&format!("{name}.out"))?;
    checks.require(expected == shape, || format!("`{name}.out` has shape {expected:?}, ours {shape:?}"));
    Ok(expected == shape)
}

/// `.out`, and `.out_f32`: what `f32_dev` is the error of has to be there.
fn compare(checks: &mut Checks, name: &str, shape: &[usize], found: &[f64], dev: Option<f64>, within: f64) -> Result<(), Stop> {
    checks.compare_within(&format!("{name}.out"), shape, found, within)?;
    let narrow = format!("{name}.out_f32");
    if dev.is_some() || checks.has(&narrow) { checks.compare_within(&narrow, shape, found, within) } else { Ok(()) }
}
