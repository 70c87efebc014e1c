//! What heads attend to before and after, and across positions.

use std::path::PathBuf;

use fd_distill::asked::Asked;
use fd_distill::features::Fitting;
use fd_distill::progress::Progress;
use fd_distill::table::Kind;
use fd_model::{Allow, Checkpoint};

use super::{Chapter, Plots, named, run, student};
use crate::Error;
use crate::attention::{Analysis, AttentionOptions, Conventions, LayerAttention, LayerShape, ModelAttention, analyse, write};
use crate::figures::{
    Caption, DotPanel, HeadDots, HeatAxis, HeatMaps, HeatPanel, Line, LinePanel, Lines, OverlayPanel, Overlays, Photograph, Scale,
};
use crate::images::{Choice, Origin};
use crate::report::observations::{Evidence, LayerNumbers, ModelNumbers, Positions, Stage, TeacherKind};
use crate::report::{Explorer, ExplorerImage, ExplorerLayer, ExplorerModel, SpecialTokens};

/// What is beside an encoder in its file: what it was pretrained with.
const BESIDE: [&str; 3] = ["head.*", "decoder*", "mask_token"];

/// An encoder of a run.
pub(super) fn asked(file: PathBuf) -> Asked {
    let names = BESIDE.map(String::from).to_vec();
    Asked { file, allow: Allow { names, interpolate: false }, ..Asked::default() }
}

impl Plots<'_> {
    fn analyse(&self, models: Vec<(String, Asked)>, explore: usize) -> Result<Analysis, Error> {
        let options = AttentionOptions {
            models,
            images: Choice {
                data: Origin::Spec(self.run.images().clone()),
                size: Some(self.options.images),
                seed: Some(self.options.seed),
                fitting: self.run.config.data.evaluation_crop.map_or(Fitting::Stretch, Fitting::Crop),
            },
            conventions: Conventions::default(),
            layers: None,
            batch: None,
            head_maps: false,
            keep_images: explore,
            device: self.options.device,
        };
        analyse(&options, &mut Progress::silent(), |_, _| {})
    }

    /// Figures of every teacher and its students, and the explorer of the first ones.
    pub(super) fn attention(&mut self, evidence: &mut Evidence) -> Result<(Vec<Chapter>, Option<Explorer>), Error> {
        let mut models = vec![];
        for t in &self.run.teachers {
            models.push((t.name.clone(), asked(t.before.clone())));
            models.extend(t.after.iter().enumerate().map(|(i, (seed, file))| (student(&t.name, i, *seed), asked(file.clone()))));
        }
        let analysis = self.analyse(models, self.options.explore)?;
        self.written.extend(write(&self.options.out.join("attention"), &analysis)?);
        let found = self.run.teachers.iter().flat_map(|t| {
            let of = |label: &str, stage| find(&analysis, label).map(|m| numbers(m, (&t.name, t.kind), stage));
            let after = t.after.iter().enumerate().filter_map(move |(i, (seed, _))| of(&student(&t.name, i, *seed), Stage::After));
            of(&t.name, Stage::Before).into_iter().chain(after).collect::<Vec<_>>()
        });
        evidence.models = found.collect();
        let mut chapters = vec![self.heads(&analysis)?];
        chapters.push(self.maps(&analysis)?);
        let explorer = analysis.kept.as_ref().map(|kept| explorer(&analysis, kept)).transpose()?;
        Ok((chapters, explorer))
    }

    /// Distances, head by head, and how alike heads are.
    fn heads(&mut self, analysis: &Analysis) -> Result<Chapter, Error> {
        let words = analysis.report.in_words.clone();
        let mut chapter = Chapter {
            heading: "What heads attend to".into(),
            prose: vec![format!(
                "One dot a head: the mean distance between a patch and what it attends to. Before is the teacher, after its student of the first \
                 seed. {words}."
            )],
            ..Chapter::default()
        };
        let teachers: Vec<(String, Vec<String>)> = self.teachers_and_students();
        for (teacher, students) in &teachers {
            let pair = [teacher, &students[0]];
            let panels = pair.iter().filter_map(|label| find(analysis, label)).map(|m| DotPanel {
                title: m.label.clone(),
                layers: m.layers.iter().map(|l| l.heads.iter().map(|h| h.distance_px).collect()).collect(),
            });
            let (quantity, layers) = ("attention distance (pixels)".to_string(), "layer".to_string());
            let dots = HeadDots { panels: panels.collect(), quantity, layers, columns: 2 };
            let caption = self.caption(models_of(analysis, &pair), self.options.images, format!("{words}."));
            chapter.pictures.push(self.draw(&named("distance", teacher), &dots, &caption)?);
        }
        let over_layers = |title: &str, y: &str, of: &dyn Fn(&LayerAttention) -> Option<f64>| {
            let panel = |(teacher, students): &(String, Vec<String>)| LinePanel {
                title: teacher.clone(),
                x: "layer".into(),
                y: y.into(),
                names: self.layer_names(analysis, teacher),
                range: Some((0.0, 1.0)),
                lines: vec![line(analysis, "before", std::slice::from_ref(teacher), of), line(analysis, "after FD", students, of)],
                ..LinePanel::default()
            };
            (title.to_string(), Lines { panels: teachers.iter().map(panel).collect(), columns: 3 })
        };
        let figures = [
            over_layers("head-similarity", "cosine similarity of heads", &|l| l.similarity),
            over_layers("diagonal", "diagonal score (R²)", &|l| l.diagonal),
            over_layers("column", "column score", &|l| l.column),
        ];
        let all: Vec<&String> = teachers.iter().map(|(teacher, _)| teacher).collect();
        for (name, figure) in figures {
            let notes = format!("Lines: mean over seeds; bands: least to greatest. {words}.");
            let caption = self.caption(models_of(analysis, &all), self.options.images, notes);
            chapter.pictures.push(self.draw(&name, &figure, &caption)?);
        }
        Ok(chapter)
    }

    /// Averaged maps, head by layer, and attention over a photograph.
    fn maps(&mut self, analysis: &Analysis) -> Result<Chapter, Error> {
        let mut chapter = Chapter {
            heading: "Attention maps".into(),
            prose: vec![
                "Averaged over images and heads: a row is a query, a column a key. Diagonals are relative positions, columns fixed places. In the \
                 grids of layers and heads a cell is a head's attention distance; over the photograph, the attention of the framed patch, mean over \
                 heads."
                    .into(),
            ],
            ..Chapter::default()
        };
        for (teacher, students) in self.teachers_and_students() {
            let pair = [&teacher, &students[0]];
            let found: Vec<&ModelAttention> = pair.iter().filter_map(|label| find(analysis, label)).collect();
            let caption = |notes: &str| self.caption(models_of(analysis, &pair), self.options.images, notes.into());
            let (of_maps, of_heads) = (caption("Mean over images and heads; each map has colours of its own."), caption(""));
            let query = Caption { images: 1, ..caption("The first image; the framed patch asks; mean over heads, rows renormalised.") };
            let (maps, heads) = (averages(analysis, &found), head_grids(&found));
            let over = analysis.kept.as_ref().map(|kept| overlays(kept, &found));
            chapter.pictures.push(self.draw(&named("maps", &teacher), &maps, &of_maps)?);
            chapter.pictures.push(self.draw(&named("heads", &teacher), &heads, &of_heads)?);
            if let Some(over) = over.filter(|o| o.panels.len() > 2) {
                chapter.pictures.push(self.draw(&named("photograph", &teacher), &over, &query)?);
            }
        }
        Ok(chapter)
    }

    /// The students of a sweep over positions.
    pub(super) fn positions(&mut self, evidence: &mut Evidence) -> Result<Chapter, Error> {
        let dir = self.options.positions.clone().unwrap_or_default();
        let students: Vec<_> = run::models(&dir)?.into_iter().filter(|m| m.kind == Kind::After && m.column.is_none()).collect();
        let label = |m: &fd_distill::table::MadeModel| format!("{}, seed {}", m.row, m.seed.unwrap_or(0));
        let models = students.iter().map(|m| (label(m), asked(dir.join(&m.file)))).collect();
        let analysis = self.analyse(models, 0)?;
        let of = |end: &str| {
            let row = |m: &&fd_distill::table::MadeModel| m.row.rsplit(' ').next() == Some(end);
            let numbers = |m| {
                let teacher = m_teacher(m);
                find(&analysis, &label(m)).map(|found| numbers(found, (&teacher, TeacherKind::Other), Stage::After))
            };
            students.iter().filter(row).filter_map(numbers).collect::<Vec<ModelNumbers>>()
        };
        evidence.positions = Some(Positions { absolute: of("absolute"), shared: of("shared-relative") });
        let mut firsts: Vec<&fd_distill::table::MadeModel> = vec![];
        for model in &students {
            if firsts.iter().all(|m| m.row != model.row) {
                firsts.push(model);
            }
        }
        let panels = firsts.iter().filter_map(|m| find(&analysis, &label(m))).map(|m| DotPanel {
            title: m.label.clone(),
            layers: m.layers.iter().map(|l| l.heads.iter().map(|h| h.distance_px).collect()).collect(),
        });
        let (quantity, layers) = ("attention distance (pixels)".to_string(), "layer".to_string());
        let dots = HeadDots { panels: panels.collect(), quantity, layers, columns: 3 };
        let caption = self.caption(dir.display().to_string(), self.options.images, analysis.report.in_words.clone());
        let picture = self.draw("positions", &dots, &caption)?;
        let prose = vec!["Students of one teacher that differ in their positions only.".into()];
        Ok(Chapter { heading: "Across positions".into(), prose, pictures: vec![picture] })
    }

    /// Layers count from 1 in figures.
    fn layer_names(&self, analysis: &Analysis, label: &str) -> Vec<String> {
        (1..=find(analysis, label).map_or(0, |m| m.layers.len())).map(|i| i.to_string()).collect()
    }

    fn teachers_and_students(&self) -> Vec<(String, Vec<String>)> {
        let students = |t: &run::Taught| t.after.iter().enumerate().map(|(i, (seed, _))| student(&t.name, i, *seed)).collect();
        self.run.teachers.iter().map(|t| (t.name.clone(), students(t))).collect()
    }
}

fn m_teacher(model: &fd_distill::table::MadeModel) -> String {
    model.teacher.clone().unwrap_or_default()
}

fn find<'a>(analysis: &'a Analysis, label: &str) -> Option<&'a ModelAttention> {
    analysis.report.models.iter().find(|m| m.label == label)
}

/// Labels with the beginnings of their files' SHA-256.
fn models_of(analysis: &Analysis, labels: &[&String]) -> String {
    let named = labels.iter().filter_map(|label| find(analysis, label));
    named.map(|m| format!("{} (SHA-256 {}…)", m.label, m.sha256.get(..8).unwrap_or(""))).collect::<Vec<_>>().join(", ")
}

fn numbers(model: &ModelAttention, (teacher, kind): (&str, TeacherKind), stage: Stage) -> ModelNumbers {
    let layer = |l: &LayerAttention| LayerNumbers {
        distances: l.heads.iter().map(|h| h.distance_px).collect(),
        similarity: l.similarity,
        diagonal: l.diagonal,
    };
    ModelNumbers { teacher: teacher.into(), kind, stage, layers: model.layers.iter().map(layer).collect(), flatness: None }
}

/// A number a layer, mean over models, with the band between the least and the greatest.
fn line(analysis: &Analysis, label: &str, models: &[String], of: &dyn Fn(&LayerAttention) -> Option<f64>) -> Line {
    let found: Vec<&ModelAttention> = models.iter().filter_map(|m| find(analysis, m)).collect();
    let depth = found.iter().map(|m| m.layers.len()).min().unwrap_or(0);
    let (mut points, mut band) = (vec![], vec![]);
    for i in 0..depth {
        let values: Vec<f64> = found.iter().map(|m| of(&m.layers[i]).unwrap_or(f64::NAN)).collect();
        points.push((i as f64, values.iter().sum::<f64>() / values.len() as f64));
        band.push((values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
    }
    Line { label: label.into(), points, band: if found.len() > 1 { band } else { vec![] } }
}

/// A row a model, a column a layer.
fn averages(analysis: &Analysis, models: &[&ModelAttention]) -> HeatMaps {
    let columns = models.iter().map(|m| m.layers.len()).max().unwrap_or(1);
    let mut panels = vec![];
    for m in models {
        for i in 0..columns {
            let map = m.layers.get(i).and_then(|l| analysis.maps.tensors.get(&format!("{}/{}/map", m.label, l.layer)));
            panels.push(map.map_or(HeatPanel::default(), |map| HeatPanel {
                title: format!("layer {}", i + 1),
                rows: map.shape[0],
                columns: map.shape[1],
                values: map.data.iter().map(|v| f64::from(*v)).collect(),
                row_axis: HeatAxis { label: if i == 0 { "query".into() } else { String::new() }, names: vec![] },
                column_axis: HeatAxis { label: "key".into(), names: vec![] },
                mark: None,
            }));
        }
    }
    let (row_names, quantity) = (models.iter().map(|m| m.label.clone()).collect(), "attention".to_string());
    HeatMaps { panels, columns, row_names, quantity, scale: Scale::Each, upwards: false, square: true }
}

/// Attention distance by layer and head; heads that a layer does not have are crossed out.
fn head_grids(models: &[&ModelAttention]) -> HeatMaps {
    let panel = |m: &&ModelAttention| {
        let heads = m.layers.iter().map(|l| l.heads.len()).max().unwrap_or(1);
        let row = |l: &LayerAttention| (0..heads).map(|h| l.heads.get(h).map_or(f64::NAN, |h| h.distance_px)).collect::<Vec<_>>();
        let numbered = |n: usize| (1..=n).map(|i| i.to_string()).collect();
        HeatPanel {
            title: m.label.clone(),
            rows: m.layers.len(),
            columns: heads,
            values: m.layers.iter().flat_map(row).collect(),
            row_axis: HeatAxis { label: "layer".into(), names: numbered(m.layers.len()) },
            column_axis: HeatAxis { label: "head".into(), names: numbered(heads) },
            mark: None,
        }
    };
    let quantity = "attention distance (pixels)".to_string();
    let panels: Vec<HeatPanel> = models.iter().map(panel).collect();
    HeatMaps { columns: panels.len().max(1), panels, row_names: vec![], quantity, scale: Scale::Common, upwards: false, square: false }
}

/// The first image, and what its middle patch attends to in every layer.
fn overlays(kept: &Checkpoint, models: &[&ModelAttention]) -> Overlays {
    let mut panels = vec![];
    for m in models {
        let Some(photograph) = kept.tensors.get(&format!("{}/image/0", m.label)).map(photograph) else { continue };
        panels.push(OverlayPanel { title: m.label.clone(), photograph: photograph.clone(), ..OverlayPanel::default() });
        let shapes = LayerShape::of(&m.model).unwrap_or_default();
        for (layer, shape) in m.layers.iter().zip(&shapes) {
            let Some(a) = kept.tensors.get(&format!("{}/{}/0", m.label, layer.layer)) else { continue };
            let (rows, columns) = shape.map;
            let query = (rows / 2, columns / 2);
            let values = of_query(&a.data, shape, query.0 * columns + query.1);
            let title = format!("layer {}", layer.layer + 1);
            panels.push(OverlayPanel { title, photograph: photograph.clone(), grid: shape.map, values, query: Some(query) });
        }
    }
    let columns = 1 + models.iter().map(|m| m.layers.len()).max().unwrap_or(0);
    Overlays { panels, columns, quantity: "share of the attention".into(), scale: Scale::Each, opacity: 0.6 }
}

/// What a patch attends to over the map: mean over heads, patches only, of sum 1. Outside its window nothing.
fn of_query(a: &[f32], shape: &LayerShape, query: usize) -> Vec<f64> {
    let (n, total) = (shape.patches(), shape.total());
    let mut map = vec![0.0; shape.map.0 * shape.map.1];
    let members = |window: usize| shape.windows.as_ref().map(|w| w.members(window));
    let inside = |window: usize| members(window).map_or(Some(query), |m| m.iter().position(|token| *token as usize == query));
    let Some((window, row)) = (0..shape.count()).find_map(|w| Some((w, inside(w)?))) else { return map };
    for head in 0..shape.heads {
        let at = ((window * shape.heads + head) * total + shape.special + row) * total + shape.special;
        for (key, value) in a[at..at + n].iter().enumerate() {
            let token = members(window).map_or(key, |m| m[key] as usize);
            map[token] += f64::from(*value);
        }
    }
    let sum: f64 = map.iter().sum();
    map.iter_mut().for_each(|v| *v /= sum.max(f64::MIN_POSITIVE));
    map
}

fn photograph(image: &fd_model::Tensor) -> Photograph {
    let [height, width, channels] = [0, 1, 2].map(|i| image.shape.get(i).copied().unwrap_or(1));
    let rgb = image.data.chunks_exact(channels.max(1)).flat_map(|p| [0, 1, 2].map(|c| p[c.min(channels - 1)] as u8)).collect();
    Photograph { width, height, rgb }
}

/// Everything that was kept, as the page's explorer reads it. Only models that see images of the first one's size are in it.
fn explorer(analysis: &Analysis, kept: &Checkpoint) -> Result<Explorer, Error> {
    let first = analysis.report.models.first().ok_or_else(|| Error::Usage("attention explorer: no model".into()))?;
    let mut images = vec![];
    while let Some(image) = kept.tensors.get(&format!("{}/image/{}", first.label, images.len())) {
        let pixels: Vec<u8> = image.data.iter().map(|v| *v as u8).collect();
        let name = kept.metadata.get(&format!("image {}", images.len())).cloned().unwrap_or_default();
        let size = (image.shape[1], image.shape[0], image.shape[2]);
        images.push(ExplorerImage::new(&format!("image {name}"), size, &pixels)?);
    }
    let mut models = vec![];
    // Further seeds would make the page large and say little more.
    let alike = |m: &&ModelAttention| m.model.img_size() == first.model.img_size() && !m.label.contains(" + FD, seed ");
    for m in analysis.report.models.iter().filter(alike) {
        let mut layers = vec![];
        for (layer, shape) in m.layers.iter().zip(LayerShape::of(&m.model)?) {
            let windows = shape.windows.as_ref().map(|w| (0..w.count()).map(|i| w.members(i).to_vec()).collect());
            let special = SpecialTokens { cls: shape.cls, registers: shape.special - usize::from(shape.cls) };
            let mut shown = ExplorerLayer::new(&(layer.layer + 1).to_string(), shape.heads, shape.map, special, windows)?;
            for i in 0..images.len() {
                let a = kept.tensors.get(&format!("{}/{}/{i}", m.label, layer.layer));
                shown.push(a.map_or(&[][..], |a| &a.data))?;
            }
            layers.push(shown);
        }
        models.push(ExplorerModel { label: m.label.clone(), layers });
    }
    Ok(Explorer::new(images, models)?)
}
