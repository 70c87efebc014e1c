//! One layer's sums over images. Attention comes in as the forward pass computes it, a batch at a time, and is gone after that.
//!
//! A window's rows are cut into chunks of a fixed size, summed on all threads, and the chunks are added in order: the bits do not depend on
//! how many threads there are. Elements are read in single precision, a row's sum is one; whatever is summed over rows is double.

use std::sync::Arc;

use fd_compute::reduce::{add_scaled, dot, sum, x_ln_x};
use rayon::prelude::*;

use super::Conventions;
use super::score::{mutual_information, similarity};
use super::shape::{Distances, LayerShape};

/// Rows of a chunk.
const CHUNK: usize = 64;

/// Sums of one head; means, once they are divided by what they count.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct HeadSums {
    /// Σ A d over patch queries.
    pub distance: f64,
    /// Entropies of rows.
    pub entropy: f64,
    /// Of windows.
    pub mutual_information: f64,
    /// What patch queries give to the CLS token.
    pub to_cls: f64,
    /// And to registers.
    pub to_registers: f64,
    /// What the CLS query gives to patches.
    pub cls_attention: f64,
    /// Entropy of that among the patches.
    pub cls_entropy: f64,
}

/// What a chunk of rows adds up to.
struct Part {
    heads: Vec<HeadSums>,
    /// Sums of the rows as distributions [H, used].
    keys: Vec<f64>,
    /// Scalar products of the heads' rows [H, H], upper triangle.
    gram: Vec<f64>,
    /// The CLS row's attention to patches [H, n], where the chunk has it.
    cls: Vec<f64>,
}

/// The sums of one layer.
#[derive(Debug)]
pub(super) struct Tally {
    pub shape: LayerShape,
    distances: Arc<Distances>,
    conventions: Conventions,
    images: usize,
    heads: Vec<HeadSums>,
    similarity: Option<f64>,
    /// Sums of the maps [G, used, used]: of all heads together, or of each.
    maps: Vec<f64>,
    /// Maps added up in each.
    added: usize,
    /// The CLS row's attention to patches [H, n].
    cls: Vec<f64>,
}

/// A layer's means.
#[derive(Debug)]
pub(super) struct Means {
    pub heads: Vec<HeadSums>,
    pub similarity: Option<f64>,
    /// [G, used, used].
    pub maps: Vec<f64>,
    /// [H, n]; empty without a CLS token.
    pub cls: Vec<f64>,
}

impl Tally {
    pub fn new(shape: LayerShape, distances: Arc<Distances>, conventions: Conventions, each_head: bool) -> Tally {
        let used = shape.total() - conventions.skip(shape.special);
        let maps = vec![0.0; if each_head { shape.heads } else { 1 } * used * used];
        let cls = vec![0.0; if shape.cls { shape.heads * shape.patches() } else { 0 }];
        let heads = vec![HeadSums::default(); shape.heads];
        Tally { distances, conventions, images: 0, heads, similarity: Some(0.0), maps, added: 0, cls, shape }
    }

    /// Tokens that are left out in front.
    fn skip(&self) -> usize {
        self.conventions.skip(self.shape.special)
    }

    /// Rows and columns of a map.
    fn used(&self) -> usize {
        self.shape.total() - self.skip()
    }

    /// Adds the attention of some images [B W, H, N, N].
    pub fn add(&mut self, p: &[f32]) {
        let (heads, total, used, windows) = (self.shape.heads, self.shape.total(), self.used(), self.shape.count());
        let unit = heads * total * total;
        let mut scales = vec![0.0; p.len() / unit * used * heads];
        let by_window = scales.chunks_mut(used * heads).zip(p.chunks_exact(unit)).enumerate();
        let chunks = by_window.flat_map(|(u, (scales, p))| {
            scales.chunks_mut(CHUNK * heads).enumerate().map(move |(c, scales)| (p, u % windows, c * CHUNK, scales))
        });
        let chunks: Vec<_> = chunks.collect();
        let parts: Vec<Part> = chunks.into_par_iter().map(|(p, window, first, scales)| self.part(p, window, first, scales)).collect();
        let mut parts = parts.into_iter();
        for _ in 0..p.len() / unit / windows {
            let mut gram = vec![0.0; heads * heads];
            for _ in 0..windows {
                self.add_window(parts.by_ref().take(used.div_ceil(CHUNK)), &mut gram);
            }
            self.similarity = self.similarity.zip(similarity(&gram, heads)).map(|(all, one)| all + one);
            self.images += 1;
        }
        self.add_maps(p, &scales);
    }

    /// A chunk of a window's rows; writes what each is multiplied by [rows, H].
    fn part(&self, p: &[f32], window: usize, first: usize, scales: &mut [f64]) -> Part {
        let (heads, total, used, skip) = (self.shape.heads, self.shape.total(), self.used(), self.skip());
        let (special, cls) = (self.shape.special, usize::from(self.shape.cls));
        let row = |h: usize, query: usize| &p[(h * total + query) * total..][..total];
        let mut part =
            Part { heads: vec![HeadSums::default(); heads], keys: vec![0.0; heads * used], gram: vec![0.0; heads * heads], cls: vec![] };
        if first == 0 && cls == 1 {
            part.cls = vec![0.0; heads * self.shape.patches()];
            for (h, (sums, to)) in part.heads.iter_mut().zip(part.cls.chunks_exact_mut(self.shape.patches())).enumerate() {
                let patches = &row(h, 0)[special..];
                let mass = f64::from(sum(patches));
                (sums.cls_attention, sums.cls_entropy) = (mass, row_entropy(patches, mass));
                add_scaled(to, self.conventions.scale(mass), patches);
            }
        }
        for (i, scales) in scales.chunks_exact_mut(heads).enumerate() {
            let query = skip + first + i;
            for (h, (sums, scale)) in part.heads.iter_mut().zip(scales.iter_mut()).enumerate() {
                let row = row(h, query);
                let mass = f64::from(sum(&row[skip..]));
                *scale = self.conventions.scale(mass);
                sums.entropy += row_entropy(&row[skip..], mass);
                add_scaled(&mut part.keys[h * used..][..used], inverse(mass), &row[skip..]);
                if let Some(patch) = query.checked_sub(special) {
                    sums.distance += *scale * f64::from(dot(&row[special..], self.distances.row(window, patch)));
                    sums.to_cls += f64::from(sum(&row[..cls]));
                    sums.to_registers += f64::from(sum(&row[cls..special]));
                }
            }
            for (i, j) in (0..heads).flat_map(|i| (i..heads).map(move |j| (i, j))) {
                let product = dot(&row(i, query)[skip..], &row(j, query)[skip..]);
                part.gram[i * heads + j] += scales[i] * scales[j] * f64::from(product);
            }
        }
        part
    }

    /// Adds a window's chunks, in order.
    fn add_window(&mut self, parts: impl Iterator<Item = Part>, gram: &mut [f64]) {
        let (heads, used) = (self.shape.heads, self.used());
        let (mut keys, mut entropies) = (vec![0.0; heads * used], vec![0.0; heads]);
        for part in parts {
            add(&mut keys, &part.keys);
            add(gram, &part.gram);
            add(&mut self.cls[..part.cls.len()], &part.cls);
            for ((all, own), entropy) in self.heads.iter_mut().zip(&part.heads).zip(&mut entropies) {
                all.distance += own.distance;
                all.entropy += own.entropy;
                *entropy += own.entropy;
                all.to_cls += own.to_cls;
                all.to_registers += own.to_registers;
                all.cls_attention += own.cls_attention;
                all.cls_entropy += own.cls_entropy;
            }
        }
        for ((all, keys), entropy) in self.heads.iter_mut().zip(keys.chunks_exact_mut(used)).zip(entropies) {
            keys.iter_mut().for_each(|k| *k /= used as f64);
            all.mutual_information += mutual_information(keys, entropy / used as f64, used).unwrap_or(f64::NAN);
        }
    }

    /// Adds the maps of those windows whose tokens lie side by side.
    fn add_maps(&mut self, p: &[f32], scales: &[f64]) {
        let (heads, total, used, skip) = (self.shape.heads, self.shape.total(), self.used(), self.skip());
        let (unit, windows) = (heads * total * total, self.shape.count());
        let of_each = if self.maps.len() == used * used { heads } else { 1 };
        let whole: Vec<usize> = (0..p.len() / unit).filter(|u| self.shape.whole(u % windows)).collect();
        self.maps.par_chunks_mut(used).enumerate().for_each(|(at, sums)| {
            let (group, query) = (at / used, at % used);
            for &u in &whole {
                for h in group * of_each..(group + 1) * of_each {
                    let row = &p[u * unit + (h * total + skip + query) * total..][skip..total];
                    add_scaled(sums, scales[(u * used + query) * heads + h], row);
                }
            }
        });
        self.added += whole.len() * of_each;
    }

    /// The means over the images so far.
    pub fn means(mut self) -> Means {
        let images = self.images.max(1) as f64;
        let windows = images * self.shape.count() as f64;
        let (queries, rows) = (windows * self.shape.patches() as f64, windows * self.used() as f64);
        for sums in &mut self.heads {
            for (sum, count) in [
                (&mut sums.distance, queries),
                (&mut sums.entropy, rows),
                (&mut sums.mutual_information, windows),
                (&mut sums.to_cls, queries),
                (&mut sums.to_registers, queries),
                (&mut sums.cls_attention, images),
                (&mut sums.cls_entropy, images),
            ] {
                *sum /= count;
            }
        }
        let (added, similarity) = (self.added.max(1) as f64, self.similarity.map(|s| s / images));
        self.maps.iter_mut().for_each(|v| *v /= added);
        self.cls.iter_mut().for_each(|v| *v /= images);
        Means { heads: self.heads, similarity, maps: self.maps, cls: self.cls }
    }
}

/// y += x.
fn add(y: &mut [f64], x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

/// 1 / x; 0 of nothing.
fn inverse(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// Entropy, in nats, of a row once it is divided by its sum.
fn row_entropy(row: &[f32], mass: f64) -> f64 {
    if mass == 0.0 { 0.0 } else { (mass.ln() - f64::from(x_ln_x(row)) / mass).max(0.0) }
}
