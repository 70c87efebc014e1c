//! Analyses of trained transformers: attention, landscapes, figures.
