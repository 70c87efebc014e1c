//! How kernels share rows among threads, and what several operations start: copies of gradients, totals of losses.

use crate::Error;
use crate::cuda::{Grid, Kernel, Kind, Ptr, Run, args};
use crate::plan::Deliver;

/// How the threads of a block share rows: `kx::Team`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Teams {
    /// Threads that share a row: a power of two up to 32, or the whole block.
    pub lanes: usize,
    /// Threads of a block.
    pub block: u32,
    /// Vectors of eight that a thread has of its row in registers; 0 where it reads element by element.
    pub vectors: usize,
}

impl Teams {
    /// Shared memory for the sums of a team that is a block, three at once, and for the sum of a block.
    pub const SHARED: usize = 3 * 32 * size_of::<f32>();

    /// For rows of so many columns, and kernels that keep up to four vectors a thread.
    pub fn of(cols: usize) -> Teams {
        Teams::with(cols, [3, 4])
    }

    /// For kernels with an instance for each of these numbers of vectors a thread: the one that leaves the fewest places of a row empty.
    pub fn with(cols: usize, vectors: [usize; 2]) -> Teams {
        const MOST: usize = 256;
        let lanes = |vectors: usize| match cols.div_ceil(8 * vectors) {
            n if n <= 32 => n.next_power_of_two(),
            n => n.next_multiple_of(32),
        };
        let fitting = vectors.into_iter().filter(|v| cols.is_multiple_of(8) && lanes(*v) <= MOST);
        match fitting.min_by_key(|v| v * lanes(*v)) {
            Some(vectors) => {
                let lanes = lanes(vectors);
                Teams { lanes, block: if lanes > 32 { lanes } else { MOST } as u32, vectors }
            }
            None => {
                let lanes = cols.next_multiple_of(32).min(MOST);
                Teams { lanes, block: lanes as u32, vectors: 0 }
            }
        }
    }

    /// Rows that a block has at a time.
    pub fn count(&self) -> usize {
        self.block as usize / self.lanes
    }

    /// The kernel for such rows: `registers` holds a row in registers, `any` takes every width.
    pub fn kernel(&self, file: &'static str, registers: &'static str, any: &'static str, kind: Kind) -> Kernel {
        Kernel::of(file, if self.vectors > 0 { registers } else { any }, kind)
    }
}

/// Columns of a matrix in tiles, rows in chunks: how column sums are shared among blocks of 256 threads. By shape only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiles {
    /// Vectors (of eight columns, or of one) of a tile; a row of it is as many threads.
    pub width: usize,
    pub tiles: usize,
    /// Rows that a block adds up.
    pub chunk: usize,
    pub chunks: usize,
}

impl Tiles {
    /// Threads of a block.
    pub const BLOCK: u32 = 256;
    /// Shared memory of a block: eight sums a thread.
    pub const SHARED: usize = 256 * 8 * size_of::<f32>();

    /// Enough blocks to fill a large device.
    pub fn of(rows: usize, cols: usize) -> Tiles {
        let vectors = if cols.is_multiple_of(8) { cols / 8 } else { cols };
        let tiles = vectors.div_ceil(32);
        let width = vectors.div_ceil(tiles);
        let abreast = Self::BLOCK as usize / width;
        let chunk = (rows * tiles).div_ceil(1056).next_multiple_of(abreast).max(2 * abreast);
        Tiles { width, tiles, chunk, chunks: rows.div_ceil(chunk) }
    }

    pub fn grid(&self) -> Grid {
        Grid(self.tiles as u32, self.chunks as u32, 1)
    }
}

/// Starts `to` = `from`, or += `from`, as `how` says; the types may differ.
pub(crate) fn start_deliver(run: &mut Run, how: Deliver, to: Ptr, from: Ptr, len: usize) -> Result<(), Error> {
    let add = match how {
        Deliver::Set => false,
        Deliver::Add => true,
        Deliver::Skip | Deliver::InPlace => return Ok(()),
    };
    if !add && to.kind == from.kind {
        return run.copy(to, from, len);
    }
    let name = match (from.kind, to.kind) {
        (Kind::F32, Kind::F32) => "rows_deliver_f32",
        (Kind::Bf16, Kind::Bf16) => "rows_deliver_bf16",
        (Kind::Bf16, Kind::F32) => "rows_deliver_bf16_f32",
        (Kind::F32, Kind::Bf16) => "rows_deliver_f32_bf16",
    };
    run.launch(Kernel::plain("rows", name), Grid::cover(len, 2048), 256, 0, &args![from, to, len as u64, add])
}

/// Starts `out` = `scale` times the sum of `part` [n] (f32), in double precision.
pub(crate) fn start_total(run: &mut Run, part: Ptr, n: usize, scale: f64, out: Ptr) -> Result<(), Error> {
    run.launch(Kernel::plain("rows", "rows_total"), Grid::line(1), 256, 256 * size_of::<f64>(), &args![part, out, n, scale])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_cover_their_rows() {
        for cols in (1..200).chain([384, 768, 1000, 1024, 1280, 1408, 1536, 2048, 3072, 4096, 8192, 8200, 20000]) {
            for t in [Teams::of(cols), Teams::with(cols, [2, 3])] {
                assert!(t.block.is_multiple_of(32) && t.block <= 256 && (t.block as usize).is_multiple_of(t.lanes), "{cols}: {t:?}");
                assert!(if t.lanes > 32 { t.lanes == t.block as usize } else { t.lanes.is_power_of_two() }, "{cols}: {t:?}");
                assert!(t.vectors == 0 || cols.is_multiple_of(8) && t.lanes * t.vectors * 8 >= cols, "{cols}: {t:?}");
            }
            for rows in [1, 7, 1000, 50432] {
                let tiles = Tiles::of(rows, cols);
                let vector = if cols.is_multiple_of(8) { 8 } else { 1 };
                assert!(tiles.width * tiles.tiles * vector >= cols && tiles.width <= 32, "{cols}: {tiles:?}");
                assert!(tiles.chunk * tiles.chunks >= rows && tiles.chunk * (tiles.chunks - 1) < rows, "{cols}: {tiles:?}");
            }
        }
        let teams = |t: Teams| (t.lanes, t.vectors);
        assert_eq!([96, 512, 768, 1024, 1536].map(|cols| teams(Teams::of(cols))), [(4, 3), (16, 4), (32, 3), (32, 4), (64, 3)]);
        assert_eq!([96, 512, 768, 1024].map(|cols| teams(Teams::with(cols, [2, 3]))), [(4, 3), (32, 2), (32, 3), (64, 2)]);
    }
}
