//! What `analyze similarity` found, as JSON and as tables.

use fd_distill::Error;
use fd_distill::asked::Opened;
use serde::{Deserialize, Serialize};

use super::cka::Estimator;
use super::extract::Encoder;
use super::statistics::{LayerSums, MASSIVE, RANK_TOLERANCE, Statistics, TokenSums};
use super::{RowsOf, Running, SimilarityOptions, Sources};

/// Everything that was found, with what it was found on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimilarityReport {
    /// How the numbers are defined.
    pub conventions: Conventions,
    /// The images.
    pub data: DataReport,
    /// Draws the images where they are not all.
    pub seed: u64,
    /// The models, in the order of everything below.
    pub models: Vec<ModelReport>,
    /// Every layer of every model.
    pub features: Vec<FeatureReport>,
    /// Every two layers, both ways round.
    pub cka: Vec<Pair>,
    /// The probes, where there are some.
    pub probe: Option<ProbeReport>,
}

/// How the numbers are defined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conventions {
    /// What a row is.
    pub rows: RowsOf,
    /// The same in words.
    pub rows_text: String,
    /// How CKA is computed.
    pub estimator: Estimator,
    /// The same in words.
    pub estimator_text: String,
    /// Images of a forward pass, and of a minibatch.
    pub batch: usize,
    /// Rows (exact) or batches (minibatch) in the CKA.
    pub cka_seen: usize,
    /// The statistics in words.
    pub statistics: String,
    /// How images get the model's size.
    pub fitting: String,
    /// The instruction set.
    pub simd: String,
}

/// The images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataReport {
    /// A path, or the data set's own name.
    pub name: String,
    /// How many.
    pub images: usize,
    /// SHA-256 that names them.
    pub fingerprint: String,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelReport {
    /// What it is called.
    pub label: String,
    /// Its file.
    pub file: String,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Where in the file.
    pub at: String,
    /// The architecture.
    pub config: fd_model::ModelConfig,
    /// Statistics that its images are normalised with.
    pub normalise: fd_model::Statistics,
}

/// A layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureReport {
    /// Of which model.
    pub model: String,
    /// `embedded`, `blocks.N` or `norm`.
    pub layer: String,
    /// Channels.
    pub width: usize,
    /// Rows that the covariance is of.
    pub rows: usize,
    /// Tokens that the statistics of tokens and channels are of.
    pub tokens: usize,
    /// As the features are.
    pub plain: Statistics,
    /// After a LayerNorm without affine part, token by token.
    pub whitened: Statistics,
    /// Accuracy of the layer's probe, in percent.
    pub probe: Option<f64>,
}

/// Two layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The first's model.
    pub model_a: String,
    /// The first's name.
    pub layer_a: String,
    /// The second's model.
    pub model_b: String,
    /// The second's name.
    pub layer_b: String,
    /// Their CKA; none where their rows are not as many, or one does not vary.
    pub cka: Option<f64>,
}

/// The probes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeReport {
    /// What was fitted, in words.
    pub method: String,
    /// λ.
    pub ridge: f64,
    /// Training images.
    pub train: DataReport,
    /// Classes.
    pub classes: usize,
}

fn data(sources: &[std::sync::Arc<dyn fd_data::Source>]) -> Result<DataReport, Error> {
    let first = &sources[0];
    let fingerprint = first.fingerprint()?.iter().map(|b| format!("{b:02x}")).collect();
    Ok(DataReport { name: first.name().to_string(), images: first.len(), fingerprint })
}

pub(super) fn report(
    options: &SimilarityOptions,
    opened: &[Opened],
    encoders: &[Encoder],
    sources: &Sources,
    sums: &Running,
) -> Result<SimilarityReport, Error> {
    let model = |((label, asked), opened): (&(String, fd_distill::asked::Asked), &Opened)| -> Result<ModelReport, Error> {
        let (file, at) = (asked.file.display().to_string(), opened.found().root.clone());
        let (config, normalise) = (opened.model.clone(), opened.normalise.clone());
        Ok(ModelReport { label: label.clone(), file, sha256: opened.sha256()?, at, config, normalise })
    };
    let models = options.models.iter().zip(opened).map(model).collect::<Result<Vec<_>, _>>()?;
    let probe = match &sources.train {
        Some(train) => Some(ProbeReport {
            method: "ridge regression from features of mean 0 and variance 1 (of the training rows) to one-hot classes; the greatest wins"
                .into(),
            ridge: options.ridge,
            train: data(train)?,
            classes: train[0].num_classes(),
        }),
        None => None,
    };
    let names: Vec<(&str, &str)> = encoders.iter().flat_map(|e| e.layers.iter().map(|l| (e.label.as_str(), l.name.as_str()))).collect();
    Ok(SimilarityReport {
        conventions: conventions(options, sums),
        data: data(&sources.data)?,
        seed: options.seed,
        models,
        features: features(&names, sums, sources.data[0].len()),
        cka: pairs(&names, &sums.cka.finish()),
        probe,
    })
}

fn conventions(options: &SimilarityOptions, sums: &Running) -> Conventions {
    let statistics = format!(
        "effective rank: exp of the entropy of the normalised eigenvalues of the covariance of the rows; rank: eigenvalues above \
         {RANK_TOLERANCE:e} of the greatest, condition: greatest over least of those; whitened: every token less its mean over its standard \
         deviation (LayerNorm without affine part, eps {:e}) before rows are made of tokens; token mean and variance over channels, biased; \
         massive channels: root mean square over tokens above {MASSIVE} times the median channel's",
        fd_distill::WHITEN_EPS
    );
    Conventions {
        rows: options.rows,
        rows_text: options.rows.describe().into(),
        estimator: options.estimator,
        estimator_text: options.estimator.describe().into(),
        batch: options.batch,
        cka_seen: sums.cka.seen(),
        statistics,
        fitting: match options.fitting {
            fd_distill::features::Fitting::Crop(share) => format!("crop {share}"),
            fd_distill::features::Fitting::Stretch => "stretch".into(),
        },
        simd: fd_compute::simd::level().name().into(),
    }
}

fn features(names: &[(&str, &str)], sums: &Running, images: usize) -> Vec<FeatureReport> {
    use rayon::prelude::*;
    let tokens: Vec<&[TokenSums; 2]> = sums.tokens.iter().flatten().collect();
    let finish = |(layer, tokens): (&[LayerSums; 2], &&[TokenSums; 2])| [layer[0].finish(&tokens[0]), layer[1].finish(&tokens[1])];
    let statistics: Vec<[Statistics; 2]> = sums.layers.par_iter().zip(&tokens).map(finish).collect();
    let row = |(i, (&(model, layer), [plain, whitened])): (usize, (&(&str, &str), [Statistics; 2]))| FeatureReport {
        model: model.into(),
        layer: layer.into(),
        width: tokens[i][0].width(),
        rows: sums.layers[i][0].rows(),
        tokens: tokens[i][0].tokens(),
        plain,
        whitened,
        probe: sums.probes.as_ref().map(|_| 100.0 * sums.hits[i] as f64 / images.max(1) as f64),
    };
    names.iter().zip(statistics).enumerate().map(row).collect()
}

fn pairs(names: &[(&str, &str)], matrix: &[Option<f64>]) -> Vec<Pair> {
    let n = names.len();
    let pair = |(i, cka): (usize, &Option<f64>)| {
        let ((model_a, layer_a), (model_b, layer_b)) = (names[i / n], names[i % n]);
        Pair { model_a: model_a.into(), layer_a: layer_a.into(), model_b: model_b.into(), layer_b: layer_b.into(), cka: *cka }
    };
    matrix.iter().enumerate().map(pair).collect()
}

impl SimilarityReport {
    /// `model_a,layer_a,model_b,layer_b,cka`; an empty field where there is none.
    ///
    /// # Errors
    /// None in practice.
    pub fn cka_csv(&self) -> Result<String, Error> {
        let head = ["model_a", "layer_a", "model_b", "layer_b", "cka"].map(String::from).to_vec();
        let row = |p: &Pair| vec![p.model_a.clone(), p.layer_a.clone(), p.model_b.clone(), p.layer_b.clone(), number(p.cka)];
        crate::figures::csv(head, self.cka.iter().map(row))
    }

    /// A line a layer: `model,layer,width,rows,tokens,probe`, then the statistics before whitening, and after it under `whitened_`.
    ///
    /// # Errors
    /// None in practice.
    pub fn features_csv(&self) -> Result<String, Error> {
        let mut head: Vec<String> = ["model", "layer", "width", "rows", "tokens", "probe"].map(String::from).to_vec();
        for prefix in ["", "whitened_"] {
            head.extend(STATISTICS.map(|name| format!("{prefix}{name}")));
        }
        let row = |f: &FeatureReport| {
            let counts = [f.width, f.rows, f.tokens].map(|n| n.to_string());
            let mut row: Vec<String> = [f.model.clone(), f.layer.clone()].into_iter().chain(counts).chain([number(f.probe)]).collect();
            [&f.plain, &f.whitened].iter().for_each(|s| row.extend(values(s)));
            row
        };
        crate::figures::csv(head, self.features.iter().map(row))
    }

    /// The whole report.
    ///
    /// # Errors
    /// None in practice.
    pub fn json(&self) -> Result<String, Error> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Usage(format!("similarity.json: {e}")))?;
        Ok(text + "\n")
    }
}

const STATISTICS: [&str; 12] = [
    "effective_rank",
    "participation_ratio",
    "rank",
    "condition",
    "top_component",
    "top_channel",
    "massive_channels",
    "largest_channel",
    "token_mean",
    "token_mean_sd",
    "token_variance",
    "token_variance_sd",
];

/// In the order of [`STATISTICS`].
fn values(s: &Statistics) -> [String; 12] {
    [
        s.effective_rank.to_string(),
        s.participation_ratio.to_string(),
        s.rank.to_string(),
        number(s.condition),
        s.top_component.to_string(),
        s.top_channel.to_string(),
        s.massive_channels.to_string(),
        number(s.largest_channel),
        s.token_mean.to_string(),
        s.token_mean_sd.to_string(),
        s.token_variance.to_string(),
        s.token_variance_sd.to_string(),
    ]
}

fn number(value: Option<f64>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}
