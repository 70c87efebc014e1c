//! The kernels' sources, in the binary: they are compiled where they run.

/// A file of kernels.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its path below `src/ops`.
    pub name: &'static str,
    /// What is in it.
    pub text: &'static str,
}

impl Source {
    /// The texts of its headers, one after the other: what it is compiled from, beside its own.
    pub fn headers(&self) -> String {
        let included = |name: &str| name == "kx.h" || self.text.contains(&format!("#include \"{name}\""));
        HEADERS.iter().filter(|(name, _)| included(name)).map(|(_, text)| *text).collect()
    }
}

macro_rules! sources {
    ($($name:literal),* $(,)?) => { &[$(Source { name: $name, text: include_str!(concat!("../ops/", $name)) }),*] };
}

/// The headers that kernels include: `kx.h`, which all do, and what several files share.
pub const HEADERS: &[(&str, &str)] =
    &[("kx.h", include_str!("../ops/kx.h")), ("attention_tiles.h", include_str!("../ops/attention_tiles.h"))];

/// All files of kernels, in order.
pub const SOURCES: &[Source] = sources![
    "activation.cu",
    "attention.cu",
    "attention_bf16.cu",
    "attention_bf16_backward.cu",
    "attention_rows.cu",
    "batch_norm.cu",
    "channel_affine.cu",
    "control.cu",
    "convert.cu",
    "feature_loss.cu",
    "gather.cu",
    "l2_normalise.cu",
    "layer_norm.cu",
    "linear.cu",
    "logit_loss.cu",
    "optim.cu",
    "patch_merge.cu",
    "patchify.cu",
    "pool.cu",
    "product.cu",
    "relative_bias.cu",
    "residual.cu",
    "rows.cu",
    "sparse.cu",
    "tokens.cu",
    "weighted_sum.cu",
];

#[cfg(test)]
mod tests {
    use super::SOURCES;
    use crate::cuda::libraries::Files;
    use std::path::Path;

    /// The files below a folder that end with `.cu`.
    fn kernels(files: &Files, folder: &Path) -> Vec<String> {
        let entries = files.entries(folder).unwrap();
        let (folders, entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(|path| path.is_dir());
        let own = entries.into_iter().filter(|path| path.extension().is_some_and(|e| e == "cu")).map(|path| path.display().to_string());
        own.chain(folders.iter().flat_map(|folder| kernels(files, folder))).collect()
    }

    #[test]
    fn every_file_of_kernels_is_in_the_binary() {
        let ops = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ops");
        let mut there: Vec<String> = kernels(&Files::here(), &ops);
        there.iter_mut().for_each(|path| *path = path[ops.to_str().unwrap().len() + 1..].to_string());
        there.sort();
        assert_eq!(SOURCES.iter().map(|s| s.name).collect::<Vec<_>>(), there, "cuda/sources.rs lists the files of kernels in order");
    }
}
