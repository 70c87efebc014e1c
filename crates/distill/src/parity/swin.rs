//! What only Swin transformers have: stages, and buffers of windows.

use fd_compute::Windows;
use fd_model::{Features, SwinConfig, SwinPosition, relative_coordinates, relative_index};

use super::Stop;
use super::checks::Checks;

/// The official names of what a forward pass computes: `out.layer{s}.block{i}` and so on, with our values.
pub(super) fn named(config: &SwinConfig, f: &Features) -> Vec<(String, fd_compute::Act)> {
    let mut named = vec![];
    let blocks = config.depths.iter().enumerate().flat_map(|(s, depth)| (0..*depth).map(move |i| (s, i)));
    for (at, (s, i)) in blocks.enumerate() {
        named.extend(f.blocks.get(at).map(|act| (format!("out.layer{s}.block{i}"), *act)));
        named.extend(f.attention.get(at).map(|act| (format!("out.layer{s}.attn{i}"), *act)));
    }
    named.extend(f.downsample.iter().enumerate().map(|(s, act)| (format!("out.layer{s}.downsample"), *act)));
    named.extend(f.rel_pos_bias.iter().enumerate().map(|(s, act)| (format!("out.layer{s}.rel_pos_bias"), *act)));
    named
}

/// Relative indices, coordinates and shift masks of every block, or of every stage where blocks share them.
pub(super) fn compare_buffers(checks: &mut Checks, prefix: &str, config: &SwinConfig) -> Result<(), Stop> {
    let names: Vec<&str> = checks.below(prefix).collect();
    for rest in names {
        let Some((stage, block, what)) = place(rest) else { continue };
        let Some(depth) = config.depths.get(stage).filter(|depth| block.is_none_or(|b| b < **depth)) else { continue };
        let (map, name) = (config.map_of(stage), format!("{prefix}{rest}"));
        let (side, n) = (config.window_of(map), config.window_of(map).pow(2));
        match what {
            "relative_position_index" => {
                let index: Vec<f64> = relative_index((side, side), false).into_iter().map(f64::from).collect();
                checks.compare(&name, &[n, n], &index)?;
            }
            "relative_coords_table" if config.position == SwinPosition::Mlp => {
                let coordinates = relative_coordinates(config, stage);
                checks.compare(&name, &[1, 2 * side - 1, 2 * side - 1, 2], &coordinates)?;
            }
            "attn_mask" if block.is_some_and(|b| b % 2 == 1) && side < map.0.min(map.1) => {
                let windows = Windows::new(map, side, config.window_size / 2)?;
                checks.compare(&name, &[windows.count(), n, n], &mask(&windows))?;
            }
            _ => return Err(Stop::Failed(format!("`{name}`: {depth} blocks of windows of {side} have no such buffer"))),
        }
    }
    Ok(())
}

/// `layers.{s}.blocks.{i}.attn.<what>`, `layers.{s}.blocks.{i}.attn_mask`, `layers.{s}.rel_pos_bias.<what>`.
fn place(name: &str) -> Option<(usize, Option<usize>, &str)> {
    let (stage, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    let stage = stage.parse().ok()?;
    if let Some(what) = rest.strip_prefix("rel_pos_bias.") {
        return Some((stage, None, what));
    }
    let (block, what) = rest.strip_prefix("blocks.")?.split_once('.')?;
    Some((stage, block.parse().ok(), what.strip_prefix("attn.").unwrap_or(what)))
}

/// -100 for every pair of tokens of different regions.
fn mask(windows: &Windows) -> Vec<f64> {
    let n = windows.tokens();
    let of = |window: usize| {
        let regions = windows.regions(window).to_vec();
        (0..n * n).map(move |i| if regions.is_empty() || regions[i / n] == regions[i % n] { 0.0 } else { -100.0 })
    };
    (0..windows.count()).flat_map(of).collect()
}
