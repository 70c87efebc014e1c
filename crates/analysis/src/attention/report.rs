//! What is found, as figures read it and as files say it.

use std::path::PathBuf;

use fd_model::{ModelConfig, Statistics};
use serde::{Deserialize, Serialize};

use super::Conventions;
use crate::Error;
use crate::images::DataNote;

/// The attention of one or more models on the same images (`attention.json`; the paper's section 4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttentionReport {
    /// What was done about tokens that are no patches.
    pub conventions: Conventions,
    /// The same in words.
    pub in_words: String,
    /// The images.
    pub data: DataNote,
    /// Model by model.
    pub models: Vec<ModelAttention>,
}

/// One model's attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelAttention {
    /// What outputs call it.
    pub label: String,
    /// Its weights.
    pub file: PathBuf,
    /// SHA-256 of that file.
    pub sha256: String,
    /// The architecture, the images' size included.
    pub model: ModelConfig,
    /// How images were normalised.
    pub normalise: Statistics,
    /// Images of a forward pass.
    pub batch: usize,
    /// The instruction set.
    pub simd: String,
    /// Layer by layer.
    pub layers: Vec<LayerAttention>,
}

/// One layer's attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerAttention {
    /// The layer, from 0, over all stages.
    pub layer: usize,
    /// The stage, from 0; of a ViT 0.
    pub stage: usize,
    /// Rows and columns of the map.
    pub map: (usize, usize),
    /// Side of the windows, in tokens; none where all tokens see each other.
    pub window: Option<usize>,
    /// By how many tokens the windows are shifted.
    pub shift: usize,
    /// Pixels from one token to the next.
    pub pixels: usize,
    /// Mean over images of the heads' mean pairwise cosine; none of a single head.
    pub similarity: Option<f64>,
    /// R² of the averaged map as a function of (dx, dy); none of a constant map.
    pub diagonal: Option<f64>,
    /// Share of the averaged map's variance that lies between columns; none of a constant map.
    pub column: Option<f64>,
    /// Head by head.
    pub heads: Vec<HeadAttention>,
}

/// One head's attention: means over images and queries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadAttention {
    /// The head, from 0.
    pub head: usize,
    /// Average attention distance, in pixels of the image as the model sees it.
    pub distance_px: f64,
    /// Entropy of a query's attention, in nats; rows are divided by their sums.
    pub entropy: f64,
    /// Normalised mutual information of query and key, 0 to 1; none of a single token.
    pub nmi: Option<f64>,
    /// Share of the CLS query's attention that goes to patches; none without a CLS token.
    pub cls_attention: Option<f64>,
    /// Entropy of that attention among the patches, in nats.
    pub cls_entropy: Option<f64>,
    /// Share of the patch queries' attention that goes to the CLS token.
    pub to_cls: Option<f64>,
    /// Share of the patch queries' attention that goes to registers; none without registers.
    pub to_registers: Option<f64>,
}

impl LayerAttention {
    /// Mean of the heads' distances, in pixels.
    pub fn distance_px(&self) -> f64 {
        self.mean(|h| h.distance_px)
    }

    /// Their standard deviation (over the heads there are).
    pub fn distance_spread(&self) -> f64 {
        let mean = self.distance_px();
        self.mean(|h| (h.distance_px - mean).powi(2)).sqrt()
    }

    /// Mean of something over the heads.
    pub fn mean(&self, of: impl Fn(&HeadAttention) -> f64) -> f64 {
        self.heads.iter().map(of).sum::<f64>() / self.heads.len() as f64
    }

    /// Mean NMI; none of single tokens.
    pub fn nmi(&self) -> Option<f64> {
        self.heads.iter().map(|h| h.nmi).sum::<Option<f64>>().map(|sum| sum / self.heads.len() as f64)
    }
}

impl AttentionReport {
    /// A row a head: `model,layer,head,distance_px,…`; what there is not is empty.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn heads_csv(&self) -> Result<Vec<u8>, Error> {
        let head = ["model", "layer", "head", "distance_px", "entropy", "nmi", "cls_attention", "cls_entropy", "to_cls", "to_registers"];
        let rows = self.layers().flat_map(|(label, layer)| layer.heads.iter().map(move |head| (label, layer.layer, head)));
        let rows = rows.map(|(label, layer, h)| {
            let numbers = [Some(h.distance_px), Some(h.entropy), h.nmi, h.cls_attention, h.cls_entropy, h.to_cls, h.to_registers];
            [label.to_string(), layer.to_string(), h.head.to_string()].into_iter().chain(numbers.map(number)).collect()
        });
        self.csv(&head, rows)
    }

    /// A row a layer.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn layers_csv(&self) -> Result<Vec<u8>, Error> {
        let head = [
            "model",
            "layer",
            "stage",
            "heads",
            "window",
            "shift",
            "pixels",
            "distance_px",
            "distance_spread",
            "similarity",
            "diagonal",
            "column",
            "entropy",
            "nmi",
        ];
        let rows = self.layers().map(|(label, l)| {
            let counts = [l.layer, l.stage, l.heads.len()].map(|n| n.to_string());
            let window = [l.window.map(|w| w.to_string()).unwrap_or_default(), l.shift.to_string(), l.pixels.to_string()];
            let entropy = Some(l.mean(|h| h.entropy));
            let numbers =
                [Some(l.distance_px()), Some(l.distance_spread()), l.similarity, l.diagonal, l.column, entropy, l.nmi()].map(number);
            std::iter::once(label.to_string()).chain(counts).chain(window).chain(numbers).collect()
        });
        self.csv(&head, rows)
    }

    fn layers(&self) -> impl Iterator<Item = (&str, &LayerAttention)> {
        self.models.iter().flat_map(|m| m.layers.iter().map(|l| (m.label.as_str(), l)))
    }

    /// Every row ends with the conventions, so that no number is read without them.
    fn csv(&self, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Result<Vec<u8>, Error> {
        let fail = |e: &dyn std::fmt::Display| Error::Usage(format!("CSV: {e}"));
        let conventions = [self.conventions.special_tokens.name().to_string(), self.conventions.renormalised.to_string()];
        let mut out = csv::Writer::from_writer(vec![]);
        out.write_record(head.iter().chain(&["special_tokens", "renormalised"])).map_err(|e| fail(&e))?;
        for row in rows {
            out.write_record(row.iter().chain(&conventions)).map_err(|e| fail(&e))?;
        }
        out.into_inner().map_err(|e| fail(&e))
    }

    /// A line a layer, for people.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n", self.in_words);
        for model in &self.models {
            text += &format!("\n{}\nlayer  distance/px (spread)  similarity  diagonal  column  entropy    nmi\n", model.label);
            for l in &model.layers {
                let shown = |value: Option<f64>, digits: usize| value.map_or("–".into(), |v| format!("{v:.digits$}"));
                text += &format!(
                    "{:5}  {:11.2} ({:6.2})  {:>10}  {:>8}  {:>6}  {:7.3}  {:>5}\n",
                    l.layer,
                    l.distance_px(),
                    l.distance_spread(),
                    shown(l.similarity, 4),
                    shown(l.diagonal, 4),
                    shown(l.column, 4),
                    l.mean(|h| h.entropy),
                    shown(l.nmi(), 3)
                );
            }
        }
        text
    }
}

fn number(value: Option<f64>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}
