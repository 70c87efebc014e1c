//! The main job: teachers, distillation and evaluation, as one table.

mod result;

pub use result::{Row, TableResult};
