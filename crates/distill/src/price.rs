//! What a distillation, or a whole table, would cost: floating-point operations, memory, days.
//!
//! Every number is counted from the plan that a run would execute, at the batch that it would have: operations from their shapes, memory
//! from the arena that the planner lays out and from the parameters that a layout lists. Plans and layouts are descriptions, so that
//! nothing of the size of a model or of its activations is allocated: three billion parameters are priced in milliseconds, on any
//! machine, and a plan that no machine can hold is priced like any other.
//!
//! - A multiply-add is two operations. The optimiser's own arithmetic, some twenty operations a parameter and step, is left out.
//! - Memory is that of f32, in which the engine computes: parameters, gradients, AdamW's two moments, and the arena of activations with
//!   their gradients and scratch. Prepared batches of images and the process itself come on top.

mod fleet;
mod imagined;
mod overview;
mod pair;
mod step;
mod table;

pub use fleet::{Fleet, Rate};
pub use imagined::{Imagined, published};
pub use overview::{Overview, OverviewRow, overview};
pub use pair::{DROP_PATH, Pair, PairPrice, Schedule, Side, Variant};
pub use step::{Flops, Memory, Split, StepPrice};
pub use table::{TablePrice, TableStage};
