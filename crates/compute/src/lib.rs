//! Planner, executor and fused transformer operations, forward and backward.
//!
//! Model code is written once, forward only, against a [`Planner`]; that yields a [`Plan`], which knows every buffer's place in one
//! [`Arena`] and runs any number of times, forward and backward, in f32 or (to prove the f32 right) in f64. The crate knows nothing
//! of vision transformers, files or data.
//!
//! ```
//! use fd_compute::{Arena, Cx, Device, DType, Grads, Layout, Params, Planner, StepKey};
//!
//! let mut layout = Layout::builder();
//! let weight = layout.add("weight", &[2, 3]);
//! let layout = layout.finish();
//!
//! let mut p = Planner::new();
//! p.train(&layout);
//! let x = p.input([4, 3]);
//! let target = p.input([4, 2]);
//! let y = p.linear(x, weight, fd_compute::Bias::None)?;
//! let loss = p.feature_loss(y, target, fd_compute::Distance::Mse, None)?;
//! p.root(loss);
//! let plan = p.finish()?;
//!
//! let params = Params::new(&layout, DType::F32);
//! let mut grads = Grads::new(&layout, DType::F32);
//! let mut arena = Arena::new(&plan, DType::F32);
//! arena.write::<f32>(target, &[1.0; 8]);
//! let sets = [&params];
//! let mut cx = Cx::new(&Device::CPU, &sets, &mut arena, StepKey::default());
//! plan.forward(&mut cx)?;
//! assert_eq!(cx.arena.scalar(loss), 1.0);
//! plan.backward(&mut cx, &mut grads)?;
//! # Ok::<(), fd_compute::Error>(())
//! ```

mod arena;
pub mod cuda;
mod device;
mod error;
mod exec;
mod gemm;
mod layout;
pub mod ops;
pub mod optim;
mod params;
mod plan;
mod planner;
mod profile;
mod random;
mod real;
pub mod reduce;
mod schedule;
mod shape;
pub mod simd;

pub use arena::Arena;
pub use device::{DType, Device, DeviceChoice};
pub use error::Error;
pub use exec::{Cx, StepKey};
#[doc(hidden)]
pub use gemm::inside_gemm_library;
pub use gemm::{Mat, MatMut, Operands, Product, Start, Threads, matmul};
pub use layout::{Layout, LayoutBuilder, Param};
pub use ops::{Activation, Bias, Distance, DropPath, Pooling, Scores, Span, Sparse, Windows};
pub use params::{Grads, Params};
pub use plan::{Act, Cost, Plan};
pub use planner::Planner;
pub use profile::{Pass, StepCost};
pub use random::{Stream, uniform};
pub use real::Real;
pub use shape::Shape;
