//! What can be wrong with a plan or a run of it.

/// An error of this crate, in one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Operands that do not fit an operation.
    #[error("{op}: {operand} has shape {found}, expected {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Which of its operands.
        operand: &'static str,
        /// The shape the operation needs.
        expected: String,
        /// The shape it was given.
        found: String,
    },
    /// A number of an operation out of its range.
    #[error("{op}: {why}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A parameter of a layout that the plan was not told about.
    #[error("{op}: the parameter belongs to a layout that was neither bound nor trained in this plan")]
    UnboundLayout {
        /// The operation.
        op: &'static str,
    },
    /// Parameters, gradients or an arena that are not the plan's.
    #[error("run of a plan: {what}: expected {expected}, found {found}")]
    Mismatch {
        /// What does not fit.
        what: &'static str,
        /// What the plan needs.
        expected: String,
        /// What it was given.
        found: String,
    },
    /// A device that is not there.
    #[error("device {device}: {why}")]
    Device {
        /// The device asked for.
        device: String,
        /// Why it cannot be used.
        why: String,
    },
    /// Kernels that do not compile.
    #[error("kernels {file}: {why}")]
    Kernel {
        /// The file.
        file: String,
        /// The compiler's first error.
        why: String,
    },
}
