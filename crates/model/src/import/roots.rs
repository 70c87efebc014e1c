//! Where models stand in a file.

use fd_weights::WeightFile;

/// A tensor that a model has for sure, and one that has to stand beside it.
const MARKS: [(&str, Option<&str>); 4] = [
    ("patch_embed.proj.weight", None),
    ("conv1.weight", Some("class_embedding")),
    ("vision_model.embeddings.patch_embedding.weight", None),
    ("embeddings.patch_embeddings.projection.weight", None),
];

/// What stands before the names of each model: `teacher.backbone.`, or nothing.
pub(super) fn find(file: &WeightFile) -> Vec<String> {
    let entries = file.entries();
    let root = |name: &String| {
        MARKS.iter().find_map(|(mark, beside)| {
            let root = name.strip_suffix(mark)?;
            let whole = root.is_empty() || root.ends_with('.');
            (whole && beside.is_none_or(|b| entries.contains_key(&format!("{root}{b}")))).then(|| root.to_string())
        })
    };
    let mut roots: Vec<String> = entries.keys().filter_map(root).collect();
    roots.sort();
    roots.dedup();
    roots
}
