//! What a table says: accuracies of every row and seed.

use serde::{Deserialize, Serialize};

/// One line of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What is evaluated, such as `supervised teacher`, `supervised teacher + FD`, `random start (student architecture)`.
    pub name: String,
    /// A control keeps the others honest: it was neither pretrained nor distilled.
    pub control: bool,
    /// Top-1 accuracy in percent after fine-tuning, one a seed; empty where it does not apply (raw pixels).
    pub fine_tune: Vec<f64>,
    /// Top-1 accuracy in percent of a linear probe on average-pooled patch tokens, one a seed; empty where it does not apply.
    pub probe: Vec<f64>,
}

/// A finished table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableResult {
    /// Name of the table, such as `mini`.
    pub name: String,
    /// The data in words, such as `Fashion-MNIST, 6,000 training and 10,000 test images`.
    pub data: String,
    /// Test images: the accuracies' binomial error follows from it.
    pub test_images: usize,
    /// The seeds, in the order of the accuracies.
    pub seeds: Vec<u64>,
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// Wall-clock seconds of the whole table.
    pub seconds: f64,
}
