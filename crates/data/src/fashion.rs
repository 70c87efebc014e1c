//! Fashion-MNIST, embedded: the data set on which everything in this project runs without a download.
//!
//! 28 x 28 grey photographs of clothing in ten classes (Zalando Research, MIT licence in `assets/fashion-mnist`). The test set is
//! complete (10,000); of the training set the first 600 images of each class are kept, in their original order (6,000).

use crate::error::Result;
use crate::idx::Idx;

/// The ten classes in label order.
pub const FASHION_MNIST_CLASSES: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];

/// The embedded data set: a name for its two halves.
#[derive(Clone, Copy, Debug)]
pub struct FashionMnist;

impl FashionMnist {
    /// The 6,000 training images, 600 a class.
    ///
    /// # Errors
    /// None in practice: only if the embedded files are damaged.
    pub fn train() -> Result<Idx> {
        load(
            "fashion-mnist train",
            include_bytes!("../assets/fashion-mnist/train-images-idx3-ubyte.gz"),
            include_bytes!("../assets/fashion-mnist/train-labels-idx1-ubyte.gz"),
        )
    }

    /// The 10,000 test images, 1,000 a class.
    ///
    /// # Errors
    /// None in practice: only if the embedded files are damaged.
    pub fn test() -> Result<Idx> {
        load(
            "fashion-mnist test",
            include_bytes!("../assets/fashion-mnist/t10k-images-idx3-ubyte.gz"),
            include_bytes!("../assets/fashion-mnist/t10k-labels-idx1-ubyte.gz"),
        )
    }
}

fn load(name: &str, images: &[u8], labels: &[u8]) -> Result<Idx> {
    let classes = FASHION_MNIST_CLASSES;
    Ok(Idx::from_bytes(name, images, Some(labels), Some(classes.len()))?.named(&classes))
}
