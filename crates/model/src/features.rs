//! What an encoder's forward pass hands out.

use fd_compute::{Act, Planner};

/// What to keep of a forward pass beside its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taps {
    /// Every block's output and the values before and after the final norm.
    pub blocks: bool,
    /// Every block's attention probabilities [B, H, N, N] ([B W, H, n, n] of W windows of n tokens), computed beside it. They are not kept:
    /// watch them go by ([`Plan::forward_watching`](fd_compute::Plan::forward_watching)), one block's in memory at a time, or keep them.
    pub attention: bool,
}

/// Handles to what a forward pass computes. Without [`Taps`] only the result may be read.
#[derive(Clone, Debug)]
pub struct Features {
    /// Rows and columns of the feature map.
    pub grid: (usize, usize),
    /// Is the map's first token a CLS token?
    pub cls: bool,
    /// Patch embeddings [B, n, C], before CLS token and positions.
    pub patch_embed: Act,
    /// The tokens as the first block reads them [B, N, C].
    pub embedded: Act,
    /// Shared relative position biases [H, n, n]: the ViT's one, or one a stage.
    pub rel_pos_bias: Vec<Act>,
    /// Output of each block [B, N, C], stage after stage.
    pub blocks: Vec<Act>,
    /// Output of each patch merging [B, N / 4, 2C].
    pub downsample: Vec<Act>,
    /// Attention probabilities of each block, if tapped; to be watched or kept.
    pub attention: Vec<Act>,
    /// Tokens [B, N, C] before the final norm.
    pub prenorm: Act,
    /// Tokens after `norm` (not with the ViT's mean-pool head, nor of a stage before the last); register tokens left out.
    pub tokens: Option<Act>,
    /// The projected CLS token (CLIP's image embedding) [B, D].
    pub projected: Option<Act>,
    /// What the classifier reads [B, C].
    pub pooled: Option<Act>,
    /// Logits [B, classes].
    pub logits: Option<Act>,
}

impl Features {
    pub(crate) fn new(grid: (usize, usize), cls: bool, patch_embed: Act, embedded: Act) -> Features {
        Features {
            grid,
            cls,
            patch_embed,
            embedded,
            rel_pos_bias: vec![],
            blocks: vec![],
            downsample: vec![],
            attention: vec![],
            prenorm: embedded,
            tokens: None,
            projected: None,
            pooled: None,
            logits: None,
        }
    }

    /// What the encoder hands out: tokens after `norm`, or before it where there is none.
    pub fn map(&self) -> Act {
        self.tokens.unwrap_or(self.prenorm)
    }

    pub(crate) fn keep(&self, p: &mut Planner, taps: Taps) {
        if taps.blocks {
            let ends = [self.patch_embed, self.embedded, self.prenorm].into_iter().chain(self.tokens);
            let ends = ends.chain(self.projected).chain(self.pooled).chain(self.logits);
            let lists = self.rel_pos_bias.iter().chain(&self.blocks).chain(&self.downsample);
            ends.chain(lists.copied()).for_each(|act| p.keep(act));
        }
    }
}
