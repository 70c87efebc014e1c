//! One table at several points of its keys, and the answer to a question: `experiments/sweeps/*.toml`.

mod config;
mod expand;
mod figure;
mod render;
mod result;

pub use config::{Axis, AxisPoint, Label, Order, Selection, Skip, SweepConfig, TEACHER_AXIS};
pub use expand::{MOST_POINTS, Point, expand};
pub use result::{Comparison, PointResult, SweepResult, Verdict};
