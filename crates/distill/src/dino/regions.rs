//! Matching of regions (EsViT; Li et al., *Efficient Self-supervised Vision Transformers for Representation Learning*, 2022): every region
//! of a student's view learns what the teacher says of the region of another view that is most like it, by the cosine of the backbone's
//! features.

use rayon::prelude::*;

/// The regions of several views of a batch, one view behind the other: [B, n] rows each.
#[derive(Clone, Debug, Default)]
pub(super) struct Regions {
    /// The backbone's features, a row of C values a region.
    features: Vec<f32>,
    /// Unit-length vectors of the head.
    pub vectors: Vec<f32>,
    /// Where each view begins, in rows, and the regions n of an image in it.
    views: Vec<(usize, usize)>,
    rows: usize,
}

impl Regions {
    /// Adds the views of a group [views, B, n].
    pub fn push(&mut self, (features, vectors, n): (&[f32], &[f32], usize), views: usize, batch: usize) {
        self.features.extend_from_slice(features);
        self.vectors.extend_from_slice(vectors);
        for _ in 0..views {
            self.views.push((self.rows, n));
            self.rows += batch * n;
        }
    }

    fn width(&self) -> usize {
        self.features.len() / self.rows.max(1)
    }

    /// Targets [rows, K] of these (a student's) regions: over the teacher's views in `others`, one list a view of ours, the sum of the
    /// probabilities of the most alike region, divided by the view's n.
    pub fn targets(&self, teacher: &Regions, probabilities: &[f32], others: &[Vec<usize>], k: usize, batch: usize) -> Vec<f32> {
        let mut all = vec![0.0; self.rows * k];
        for (&(start, n), others) in self.views.iter().zip(others) {
            let rows = &mut all[start * k..(start + batch * n) * k];
            rows.par_chunks_mut(n * k).enumerate().for_each(|(image, rows)| {
                for &view in others {
                    let (first, m) = teacher.views[view];
                    let first = first + image * m;
                    for (i, row) in rows.chunks_exact_mut(k).enumerate() {
                        let j = first + most_alike(self.feature(start + image * n + i), teacher, first, m);
                        row.iter_mut().zip(&probabilities[j * k..(j + 1) * k]).for_each(|(t, p)| *t += p / n as f32);
                    }
                }
            });
        }
        all
    }

    fn feature(&self, row: usize) -> &[f32] {
        let c = self.width();
        &self.features[row * c..(row + 1) * c]
    }
}

/// Which of a teacher's `m` regions from row `first` on has the greatest cosine with a feature; the first of equals.
fn most_alike(feature: &[f32], teacher: &Regions, first: usize, m: usize) -> usize {
    let cosine = |j: usize| {
        let other = teacher.feature(first + j);
        let dot: f32 = feature.iter().zip(other).map(|(a, b)| a * b).sum();
        // The length of the feature itself is the same for all.
        dot / other.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-12)
    };
    let mut best = (0, f32::NEG_INFINITY);
    for j in 0..m {
        let now = cosine(j);
        best = if now > best.1 { (j, now) } else { best };
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_learns_of_the_one_most_like_it() {
        let (mut student, mut teacher) = (Regions::default(), Regions::default());
        // Two images, two regions each; features of two values; one view of the student, two of the teacher.
        student.push((&[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, -1.0, 0.0], &[0.0; 4], 2), 1, 2);
        let view = [0.0, 3.0, 2.0, 0.1, 5.0, 4.0, -1.0, 1.0];
        teacher.push((&[view, view].concat(), &[0.0; 8], 2), 2, 2);
        // The teacher's probabilities say which row they are of.
        let p: Vec<f32> = (0..8).flat_map(|row| [row as f32, 1.0]).collect();
        let of_first = student.targets(&teacher, &p, &[vec![0]], 2, 2);
        assert_eq!(of_first, [1.0, 0.0, 2.0, 3.0].into_iter().flat_map(|row| [row / 2.0, 0.5]).collect::<Vec<f32>>());
        let of_both = student.targets(&teacher, &p, &[vec![0, 1]], 2, 2);
        assert_eq!(of_both, [1.0, 0.0, 2.0, 3.0].into_iter().flat_map(|row| [(2.0 * row + 4.0) / 2.0, 1.0]).collect::<Vec<f32>>());
    }
}
