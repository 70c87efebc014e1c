//! How alike the layers of teachers and students are.

use fd_distill::features::Fitting;
use fd_distill::progress::Progress;

use super::attention::asked;
use super::{Chapter, Plots, named, picture, student};
use crate::Error;
use crate::similarity::cka::Estimator;
use crate::similarity::{Images, RowsOf, SimilarityOptions, similarity, write};

impl Plots<'_> {
    /// CKA and what layers' features are like: a teacher and its first student together.
    pub(super) fn similarity(&mut self) -> Result<Chapter, Error> {
        let mut chapter = Chapter {
            heading: "How alike layers are".into(),
            prose: vec![
                "Linear CKA between every two layers of a teacher and its student, and the effective rank of what layers hold, before and after \
                 tokens are whitened."
                    .into(),
            ],
            ..Chapter::default()
        };
        let pairs = self.run.teachers.iter().filter_map(|t| Some((t.name.clone(), t.before.clone(), t.after.first()?.clone())));
        for (teacher, before, (seed, after)) in pairs.collect::<Vec<_>>() {
            let options = SimilarityOptions {
                models: vec![(teacher.clone(), asked(before)), (student(&teacher, 0, seed), asked(after))],
                data: Images::Spec(self.run.images().clone()),
                images: Some(self.options.images),
                seed: self.options.seed,
                rows: RowsOf::Mean,
                estimator: Estimator::Exact,
                layers: vec![],
                batch: 64,
                fitting: self.run.config.data.evaluation_crop.map_or(Fitting::Stretch, Fitting::Crop),
                probe: None,
                ridge: 0.01,
                device: self.options.device,
            };
            let report = similarity(&options, &mut Progress::silent())?;
            let files = write(&report, &self.options.out.join(named("similarity", &teacher)))?;
            for (figure, what) in
                [("cka_figure", "linear CKA"), ("layers_figure", "effective rank and the largest channel, layer by layer")]
            {
                let of: Vec<_> = files.iter().filter(|f| f.file_stem().is_some_and(|s| s == figure)).cloned().collect();
                chapter.pictures.push(picture(&of, format!("{teacher} and {teacher} + FD: {what}."))?);
            }
            self.written.extend(files);
        }
        Ok(chapter)
    }
}
