//! Attention by its definition, in double precision: queries and keys from the input of every block, whole matrices, every sum written out.

use fd_compute::{Arena, Cx, DType, Device, Params, Planner, StepKey};
use fd_model::{Model, ModelConfig, SwinAttention, SwinVersion, Taps};

/// One window's attention in one image.
pub struct Window {
    /// (row, column) of each patch in the map.
    pub places: Vec<(f64, f64)>,
    /// Tokens before the patches.
    pub special: usize,
    /// Are all of the window's tokens neighbours in the image?
    pub whole: bool,
    /// Side of the window, or columns of the grid.
    pub columns: usize,
    /// Of each head [N, N].
    pub heads: Vec<Vec<Vec<f64>>>,
}

/// What a layer is made of.
struct Layer {
    name: String,
    stage: usize,
    heads: usize,
    shifted: bool,
    /// [N, C]
    input: Vec<f64>,
    /// [H, n, n], if one is shared.
    bias: Option<Vec<f64>>,
}

/// The windows of every layer for one image [1, C, H, W].
pub fn attention(model: &Model, params: &Params, image: &[f32]) -> Vec<Vec<Window>> {
    layers(model, params, image).iter().map(|layer| windows(&model.config(), params, layer)).collect()
}

fn layers(model: &Model, params: &Params, image: &[f32]) -> Vec<Layer> {
    let config = model.config();
    let mut p = Planner::new();
    p.bind(params.layout());
    let images = p.input([1, config.in_chans(), config.img_size().0, config.img_size().1]);
    let f = model.plan(&mut p, images, Taps { blocks: true, attention: false }).unwrap();
    let plan = p.finish().unwrap();
    let mut arena = Arena::new(&plan, DType::F64);
    arena.write_f64(images, &image.iter().map(|v| f64::from(*v)).collect::<Vec<_>>());
    let sets = [params];
    plan.forward(&mut Cx { train: false, ..Cx::new(&Device::CPU, &sets, &mut arena, StepKey::default()) }).unwrap();
    let value = |act| arena.to_f64(act);
    let mut input = value(f.embedded);
    let (mut all, mut at) = (vec![], 0);
    let (depths, heads) = match &config {
        ModelConfig::Vit(c) => (vec![c.depth], vec![c.num_heads]),
        ModelConfig::Swin(c) => (c.depths.clone(), c.num_heads.clone()),
    };
    for (stage, &depth) in depths.iter().enumerate() {
        if stage > 0 {
            input = value(f.downsample[stage - 1]);
        }
        for i in 0..depth {
            let name = if config.kind() == "swin" { format!("layers.{stage}.blocks.{i}.") } else { format!("blocks.{i}.") };
            let bias = f.rel_pos_bias.get(stage).map(|&act| value(act));
            all.push(Layer { name, stage, heads: heads[stage], shifted: i % 2 == 1, input, bias });
            input = value(f.blocks[at]);
            at += 1;
        }
    }
    all
}

fn windows(config: &ModelConfig, params: &Params, layer: &Layer) -> Vec<Window> {
    let of = |name: &str| params.layout().find(&format!("{}{name}", layer.name)).map(|p| params.to_f64(p));
    let (map_h, map_w) = match config {
        ModelConfig::Vit(c) => c.grid(),
        ModelConfig::Swin(c) => c.map_of(layer.stage),
    };
    let (special, side, pre, eps) = match config {
        ModelConfig::Vit(c) => (usize::from(c.cls_token) + c.reg_tokens, None, true, c.ln_eps),
        ModelConfig::Swin(c) => (0, Some(c.window_size), c.version == SwinVersion::V1, c.ln_eps),
    };
    let tokens = map_h * map_w + special;
    let width = layer.input.len() / tokens;
    let normed: Vec<Vec<f64>> = layer
        .input
        .chunks(width)
        .map(|x| if pre { norm(x, &of("norm1.weight").unwrap(), &of("norm1.bias").unwrap(), eps) } else { x.to_vec() })
        .collect();
    let weight = of("attn.qkv.weight").unwrap();
    let bias = |part: usize, name: &str| of("attn.qkv.bias").map(|b| b[part * width..(part + 1) * width].to_vec()).or_else(|| of(name));
    let project = |part: usize, name: &str| -> Vec<Vec<f64>> {
        let bias = bias(part, name).unwrap_or_else(|| vec![0.0; width]);
        let row = |x: &Vec<f64>, o: usize| x.iter().zip(&weight[(part * width + o) * width..]).map(|(x, w)| x * w).sum::<f64>() + bias[o];
        normed.iter().map(|x| (0..width).map(|o| row(x, o)).collect()).collect()
    };
    let (q, k) = (project(0, "attn.q_bias"), project(1, "attn.k_bias"));
    let d = width / layer.heads;
    let cosine = matches!(config, ModelConfig::Swin(c) if c.attention == SwinAttention::Cosine);
    let scale = |h: usize| of("attn.logit_scale").map_or(1.0 / (d as f64).sqrt(), |s| s[h].min(100f64.ln()).exp());
    let similar = |h: usize, a: usize, b: usize| {
        let (x, y) = (&q[a][h * d..(h + 1) * d], &k[b][h * d..(h + 1) * d]);
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        scale(h) * if cosine { dot(x, y) / (dot(x, x) * dot(y, y)).sqrt() } else { dot(x, y) }
    };
    let table = of("attn.relative_position_bias_table");
    let shift = side.filter(|s| layer.shifted && *s < map_h.min(map_w)).map_or(0, |s| s / 2);
    let (tall, wide) = side.map_or((map_h, map_w), |s| (s, s));
    let mut all = vec![];
    for (top, left) in (0..map_h).step_by(tall).flat_map(|t| (0..map_w).step_by(wide).map(move |l| (t, l))) {
        // Places on the rolled map, and where they come from.
        let rolled: Vec<(usize, usize)> = (0..tall).flat_map(|r| (0..wide).map(move |c| (top + r, left + c))).collect();
        let places: Vec<(usize, usize)> = rolled.iter().map(|(r, c)| ((r + shift) % map_h, (c + shift) % map_w)).collect();
        // Rolled around an edge: such tokens do not see those that were not.
        let around: Vec<(bool, bool)> = rolled.iter().map(|(r, c)| (r + shift >= map_h, c + shift >= map_w)).collect();
        let members: Vec<usize> = (0..special).chain(places.iter().map(|(r, c)| special + r * map_w + c)).collect();
        let n = members.len();
        let added = |h: usize, i: usize, j: usize| {
            let mask = if i >= special && j >= special && around[i - special] != around[j - special] { -100.0 } else { 0.0 };
            let shared = layer.bias.as_ref().map_or(0.0, |b| b[(h * n + i) * n + j]);
            let own = table.as_ref().map_or(0.0, |t| {
                let ((qr, qc), (kr, kc)) = (rolled[i - special], rolled[j - special]);
                let row = (qr + tall - 1 - kr) * (2 * wide - 1) + qc + wide - 1 - kc;
                t[row * layer.heads + h]
            });
            mask + shared + own
        };
        let score = |h: usize, i: usize| (0..n).map(|j| similar(h, members[i], members[j]) + added(h, i, j)).collect::<Vec<_>>();
        let heads = (0..layer.heads).map(|h| (0..n).map(|i| softmax(&score(h, i))).collect()).collect();
        let whole = around.iter().all(|a| *a == around[0]);
        let places = places.iter().map(|(r, c)| (*r as f64, *c as f64)).collect();
        all.push(Window { places, special, whole, columns: wide, heads });
    }
    all
}

fn norm(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight.iter().zip(bias)).map(|(v, (w, b))| (v - mean) / (var + eps).sqrt() * w + b).collect()
}

fn softmax(s: &[f64]) -> Vec<f64> {
    let top = s.iter().copied().fold(f64::MIN, f64::max);
    let e: Vec<f64> = s.iter().map(|s| (s - top).exp()).collect();
    let total: f64 = e.iter().sum();
    e.iter().map(|e| e / total).collect()
}

/// A head's numbers, named as in `attention.csv`.
pub type Numbers = Vec<(&'static str, f64)>;

/// Of one layer, from all images' windows: the heads' numbers, the similarity, the averaged map [used, used] and that of patches.
pub struct Expected {
    pub heads: Vec<Numbers>,
    pub similarity: f64,
    pub map: Vec<Vec<f64>>,
    pub patches: Vec<Vec<f64>>,
    pub columns: usize,
}

/// What is done about special tokens: (dropped, renormalised).
pub fn expected(images: &[&Vec<Window>], (dropped, renormalised): (bool, bool), cls: bool, pixels: f64) -> Expected {
    let first = &images[0][0];
    let (special, heads) = (first.special, first.heads.len());
    let skip = if dropped { special } else { 0 };
    let used = |row: &[f64]| -> Vec<f64> {
        let total: f64 = row[skip..].iter().sum();
        row[skip..].iter().map(|v| if renormalised { v / total } else { *v }).collect()
    };
    let share = |row: &[f64]| -> Vec<f64> {
        let total: f64 = row.iter().sum();
        row.iter().map(|v| v / total).collect()
    };
    let windows: Vec<&Window> = images.iter().flat_map(|w| w.iter()).collect();
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let of_head = |h: usize| -> Numbers {
        let (mut distance, mut entropies, mut nmi, mut to_cls, mut to_registers) = (vec![], vec![], vec![], vec![], vec![]);
        let (mut cls_attention, mut cls_entropy) = (vec![], vec![]);
        for w in &windows {
            let a = &w.heads[h];
            for (q, from) in w.places.iter().enumerate() {
                let row = used(&a[special + q]);
                let reach = w
                    .places
                    .iter()
                    .enumerate()
                    .map(|(k, to)| row[special - skip + k] * pixels * ((from.0 - to.0).powi(2) + (from.1 - to.1).powi(2)).sqrt());
                distance.push(reach.sum());
                to_cls.push(a[special + q].first().copied().unwrap_or(0.0));
                to_registers.push(a[special + q][usize::from(cls)..special].iter().sum());
            }
            let rows: Vec<Vec<f64>> = a[skip..].iter().map(|row| share(&row[skip..])).collect();
            entropies.extend(rows.iter().map(|row| entropy(row)));
            let n = rows.len();
            let keys: Vec<f64> = (0..n).map(|k| mean(rows.iter().map(|row| row[k]).collect())).collect();
            // The information, term by term.
            let terms =
                rows.iter().flat_map(|row| row.iter().zip(&keys).filter(|(a, _)| **a > 0.0).map(|(a, k)| a / n as f64 * (a / k).ln()));
            nmi.push(terms.sum::<f64>() / ((n as f64).ln() * entropy(&keys)).sqrt());
            cls_attention.push(a[0][special..].iter().sum());
            cls_entropy.push(entropy(&share(&a[0][special..])));
        }
        let mut numbers = vec![("distance_px", mean(distance)), ("entropy", mean(entropies)), ("nmi", mean(nmi))];
        if cls {
            numbers.extend([("cls_attention", mean(cls_attention)), ("cls_entropy", mean(cls_entropy)), ("to_cls", mean(to_cls))]);
        }
        if special > usize::from(cls) {
            numbers.push(("to_registers", mean(to_registers)));
        }
        numbers
    };
    let flat = |windows: &[Window], h: usize| -> Vec<f64> {
        windows.iter().flat_map(|w| w.heads[h][skip..].iter().flat_map(|row| used(row)).collect::<Vec<_>>()).collect()
    };
    let cosine = |x: &[f64], y: &[f64]| {
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        dot(x, y) / (dot(x, x).sqrt() * dot(y, y).sqrt())
    };
    let alike = |windows: &Vec<Window>| {
        let maps: Vec<Vec<f64>> = (0..heads).map(|h| flat(windows, h)).collect();
        mean((0..heads).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| cosine(&maps[i], &maps[j])).collect())
    };
    let whole: Vec<&&Window> = windows.iter().filter(|w| w.whole).collect();
    let n = first.heads[0].len() - skip;
    let at = |q: usize, k: usize| mean(whole.iter().flat_map(|w| w.heads.iter().map(|a| used(&a[skip + q])[k])).collect());
    let map: Vec<Vec<f64>> = (0..n).map(|q| (0..n).map(|k| at(q, k)).collect()).collect();
    let patches = map[special - skip..].iter().map(|row| row[special - skip..].to_vec()).collect();
    Expected {
        heads: (0..heads).map(of_head).collect(),
        similarity: mean(images.iter().map(|i| alike(i)).collect()),
        map,
        patches,
        columns: first.columns,
    }
}

fn entropy(p: &[f64]) -> f64 {
    p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum()
}

/// (diagonal, column): what is left when each offset's, or each column's, mean is taken off.
pub fn patterns(map: &[Vec<f64>], columns: usize) -> (f64, f64) {
    let place = |i: usize| ((i / columns) as i64, (i % columns) as i64);
    let n = map.len();
    let all: Vec<(usize, usize, f64)> = (0..n).flat_map(|q| (0..n).map(move |k| (q, k))).map(|(q, k)| (q, k, map[q][k])).collect();
    let explained = |group: &dyn Fn(usize, usize) -> (i64, i64)| {
        let mut sums = std::collections::BTreeMap::<(i64, i64), (f64, f64)>::new();
        all.iter().for_each(|(q, k, v)| {
            let sum = sums.entry(group(*q, *k)).or_default();
            *sum = (sum.0 + v, sum.1 + 1.0);
        });
        let mean = all.iter().map(|(_, _, v)| v).sum::<f64>() / all.len() as f64;
        let left: f64 = all.iter().map(|(q, k, v)| (v - sums[&group(*q, *k)].0 / sums[&group(*q, *k)].1).powi(2)).sum();
        1.0 - left / all.iter().map(|(_, _, v)| (v - mean).powi(2)).sum::<f64>()
    };
    let offset = |q: usize, k: usize| (place(k).0 - place(q).0, place(k).1 - place(q).1);
    (explained(&offset), explained(&|_, k| (k as i64, 0)))
}
