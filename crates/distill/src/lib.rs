//! Feature distillation: objectives, trainers, configuration, tables.
