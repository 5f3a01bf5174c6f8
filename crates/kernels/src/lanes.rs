//! The SIMD kernels, written once over an abstract set of [`LANES`] accumulators.
//!
//! Each instruction set implements [`Lanes`] in its own module and instantiates the functions here with
//! [`kernel_table!`], under `#[target_feature]`; everything is inlined into those instances. Differences
//! between instances are the registers and the shape of the register tile, never the order of additions.

use crate::LANES;
use crate::values::prefetch_line;

/// The 16 accumulators of the fixed order, in however many registers they take.
///
/// # Safety
/// Every method may be called only on a processor with the instructions of the implementation.
pub(crate) trait Lanes: Copy {
    /// All lanes `+0.0`.
    unsafe fn zero() -> Self;
    /// The 16 values at `source`, which need not be aligned and must be readable.
    unsafe fn load(source: *const f32) -> Self;
    /// The first `count` < 16 values at `source`, the other lanes zero. Reads only those values.
    unsafe fn load_head(source: *const f32, count: usize) -> Self;
    /// Stores the 16 values at `target`, which need not be aligned and must be writable.
    unsafe fn store(self, target: *mut f32);
    /// `self + other`, lane by lane.
    unsafe fn add(self, other: Self) -> Self;
    /// `self * other`, lane by lane.
    unsafe fn mul(self, other: Self) -> Self;
    /// The Walsh-Hadamard transform of the 16 values: lanes `l` and `l + h`, for h = 1, 2, 4 and 8 in this order,
    /// become their sum and their difference.
    unsafe fn hadamard(self) -> Self;
    /// `self - other`, lane by lane.
    unsafe fn sub(self, other: Self) -> Self;
    /// `self * factor + sum`, lane by lane, rounded once.
    unsafe fn fma(self, factor: Self, sum: Self) -> Self;
    /// The sum of the lanes in the tree of halves.
    unsafe fn sum(self) -> f32;
    /// Four sums at once, each in the tree of halves.
    unsafe fn sum4(four: [Self; 4]) -> [f32; 4];
}

/// What is done with a pair of elements.
pub(crate) trait Step {
    /// `sum` with the pair's term added, by one fused multiply-add.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn add<L: Lanes>(a: L, b: L, sum: L) -> L;
}

/// Adds the product.
pub(crate) struct Product;
/// Adds the square of the difference.
pub(crate) struct Square;

impl Step for Product {
    #[inline(always)]
    unsafe fn add<L: Lanes>(a: L, b: L, sum: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe { a.fma(b, sum) }
    }
}

impl Step for Square {
    #[inline(always)]
    unsafe fn add<L: Lanes>(a: L, b: L, sum: L) -> L {
        // SAFETY: passed on to the caller.
        unsafe {
            let difference = a.sub(b);
            difference.fma(difference, sum)
        }
    }
}

/// The accumulators of all pairs of M vectors `a` and N vectors `b`, before their final sums: the one loop
/// everything else is made of. With `AHEAD` it prefetches what follows the N vectors in memory, which is the
/// next tile when they are consecutive rows.
///
/// # Safety
/// As for [`Lanes`]; every pointer must have `dim` readable values behind it.
#[inline(always)]
unsafe fn tile<L: Lanes, S: Step, const M: usize, const N: usize, const AHEAD: bool>(
    a: [*const f32; M],
    b: [*const f32; N],
    dim: usize,
) -> [[L; N]; M] {
    // SAFETY: all loads are at `at + 16 <= dim` or of the `dim - at` values that remain; prefetches may go
    // anywhere; the instructions are the caller's promise.
    unsafe {
        let mut sums = [[L::zero(); N]; M];
        let mut at = 0;
        while at + LANES <= dim {
            let mut columns = [L::zero(); N];
            for n in 0..N {
                columns[n] = L::load(b[n].add(at));
                if AHEAD {
                    prefetch_line(b[n].wrapping_add(N * dim + at));
                }
            }
            for m in 0..M {
                let left = L::load(a[m].add(at));
                for n in 0..N {
                    sums[m][n] = S::add(left, columns[n], sums[m][n]);
                }
            }
            at += LANES;
        }
        if at < dim {
            for n in 0..N {
                let column = L::load_head(b[n].add(at), dim - at);
                for m in 0..M {
                    let left = L::load_head(a[m].add(at), dim - at);
                    sums[m][n] = S::add(left, column, sums[m][n]);
                }
            }
        }
        sums
    }
}

/// The final sums of one row of a tile.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn finish<L: Lanes, const N: usize>(sums: [L; N], out: &mut [f32]) {
    // SAFETY: the instructions are the caller's promise.
    unsafe {
        if N == 4 {
            out[..4].copy_from_slice(&L::sum4([sums[0], sums[1], sums[2], sums[3]]));
        } else {
            for n in 0..N {
                out[n] = sums[n].sum();
            }
        }
    }
}

/// One pair.
///
/// # Safety
/// As for [`Lanes`]; the slices must have one length.
#[inline(always)]
pub(crate) unsafe fn pair<L: Lanes, S: Step>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: both pointers have `a.len()` values behind them.
    unsafe {
        let [[sum]] = tile::<L, S, 1, 1, false>([a.as_ptr()], [b.as_ptr()], a.len());
        sum.sum()
    }
}

/// The pointers to N consecutive rows.
#[inline(always)]
fn consecutive<const N: usize>(rows: &[f32], first: usize, dim: usize) -> [*const f32; N] {
    let mut pointers = [rows.as_ptr(); N];
    for (n, pointer) in pointers.iter_mut().enumerate() {
        *pointer = rows[(first + n) * dim..][..dim].as_ptr();
    }
    pointers
}

/// One vector against consecutive rows, four at a time.
///
/// # Safety
/// As for [`Lanes`]; `rows` must hold `out.len()` rows of `query.len()` values.
#[inline(always)]
pub(crate) unsafe fn one_to_rows<L: Lanes, S: Step>(query: &[f32], rows: &[f32], out: &mut [f32]) {
    const N: usize = 4;
    let dim = query.len();
    let (fours, rest) = out.as_chunks_mut::<N>();
    for (index, out) in fours.iter_mut().enumerate() {
        let pointers = consecutive::<N>(rows, index * N, dim);
        // SAFETY: `consecutive` checked that each pointer has `dim` values behind it.
        unsafe {
            let [sums] = tile::<L, S, 1, N, true>([query.as_ptr()], pointers, dim);
            finish(sums, out);
        }
    }
    let first = fours.len() * N;
    for (index, out) in rest.iter_mut().enumerate() {
        // SAFETY: both slices have `dim` values.
        *out = unsafe { pair::<L, S>(query, &rows[(first + index) * dim..][..dim]) };
    }
}

/// How many bytes of rows a panel of [`many_to_rows`] may have: they should stay in the second-level cache
/// of any current processor together with the tile of queries.
const PANEL_BYTES: usize = 192 << 10;

/// All vectors of one matrix against all rows of another, in register tiles of M × N.
///
/// # Safety
/// As for [`Lanes`]; `dim > 0`, both matrices must be whole rows of `dim` values, and `out` must have one
/// element for each pair.
#[inline(always)]
pub(crate) unsafe fn many_to_rows<L: Lanes, S: Step, const M: usize, const N: usize>(
    queries: &[f32],
    rows: &[f32],
    dim: usize,
    out: &mut [f32],
) {
    let (n_queries, n_rows) = (queries.len() / dim, rows.len() / dim);
    let panel = (PANEL_BYTES / (4 * dim)).next_multiple_of(N).max(N);
    for begin in (0..n_rows).step_by(panel) {
        let end = n_rows.min(begin + panel);
        let mut query = 0;
        while query < n_queries {
            let block = if n_queries - query >= M { M } else { 1 };
            // SAFETY: the rows `query..query + block` and `begin..end` exist, by the loop conditions.
            unsafe {
                if block == M {
                    strip::<L, S, M, N>(queries, query, rows, begin..end, dim, out);
                } else {
                    strip::<L, S, 1, N>(queries, query, rows, begin..end, dim, out);
                }
            }
            query += block;
        }
    }
}

/// M vectors against a range of rows.
///
/// # Safety
/// As for [`many_to_rows`]; vectors `query..query + M` and all rows of the range must exist.
#[inline(always)]
unsafe fn strip<L: Lanes, S: Step, const M: usize, const N: usize>(
    queries: &[f32],
    query: usize,
    rows: &[f32],
    range: std::ops::Range<usize>,
    dim: usize,
    out: &mut [f32],
) {
    let n_rows = rows.len() / dim;
    let a = consecutive::<M>(queries, query, dim);
    let mut row = range.start;
    while row < range.end {
        // SAFETY: `consecutive` checked that each pointer has `dim` values behind it.
        unsafe {
            if range.end - row >= N {
                let sums = tile::<L, S, M, N, false>(a, consecutive::<N>(rows, row, dim), dim);
                for m in 0..M {
                    finish(sums[m], &mut out[(query + m) * n_rows + row..][..N]);
                }
                row += N;
            } else {
                let sums = tile::<L, S, M, 1, false>(a, consecutive::<1>(rows, row, dim), dim);
                for m in 0..M {
                    finish(sums[m], &mut out[(query + m) * n_rows + row..][..1]);
                }
                row += 1;
            }
        }
    }
}

/// Four registers that are in this order, and become the transform of them: two levels at once.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn hadamard_of_4<L: Lanes>([a, b, c, d]: [L; 4]) -> [L; 4] {
    // SAFETY: passed on to the caller.
    unsafe {
        let (ab, ba, cd, dc) = (a.add(b), a.sub(b), c.add(d), c.sub(d));
        [ab.add(cd), ba.add(dc), ab.sub(cd), ba.sub(dc)]
    }
}

/// The Walsh-Hadamard transform of `factors ∘ values`, in place.
///
/// # Safety
/// As for [`Lanes`]; the slices must have one length, a power of two and at least [`LANES`].
#[inline(always)]
pub(crate) unsafe fn hadamard<L: Lanes>(values: &mut [f32], factors: &[f32]) {
    let len = values.len();
    let (values, factors) = (values.as_mut_ptr(), factors.as_ptr());
    // Two levels at a time, so that each value is loaded half as often. No closures here: they would be functions
    // without the instructions.
    // SAFETY: every offset is a multiple of 16 below `len`, which is one, too.
    unsafe {
        let mut half = LANES;
        if len < 4 * LANES {
            for at in (0..len).step_by(LANES) {
                L::load(values.add(at)).mul(L::load(factors.add(at))).hadamard().store(values.add(at));
            }
        } else {
            for block in (0..len).step_by(4 * LANES) {
                let mut four = [L::zero(); 4];
                for (n, register) in four.iter_mut().enumerate() {
                    let at = block + n * LANES;
                    *register = L::load(values.add(at)).mul(L::load(factors.add(at))).hadamard();
                }
                for (n, register) in hadamard_of_4(four).into_iter().enumerate() {
                    register.store(values.add(block + n * LANES));
                }
            }
            half *= 4;
        }
        while half * 2 < len {
            for block in (0..len).step_by(4 * half) {
                for at in (block..block + half).step_by(LANES) {
                    let mut four = [L::zero(); 4];
                    for (n, register) in four.iter_mut().enumerate() {
                        *register = L::load(values.add(at + n * half));
                    }
                    for (n, register) in hadamard_of_4(four).into_iter().enumerate() {
                        register.store(values.add(at + n * half));
                    }
                }
            }
            half *= 4;
        }
        if half < len {
            for at in (0..half).step_by(LANES) {
                let (a, b) = (L::load(values.add(at)), L::load(values.add(at + half)));
                a.add(b).store(values.add(at));
                a.sub(b).store(values.add(at + half));
            }
        }
    }
}

/// Defines `scan_blocks` for an instruction set, from the `sign_sums` and `estimates` of its module.
macro_rules! scan_kernel {
    ($features:tt) => {
        /// As the scalar `scan_blocks`: the estimates of a block after the sums of the next one, because the long chain of
        /// instructions that makes one of the other would hold these up.
        ///
        /// # Safety
        /// The lengths must agree, and that of the table be a multiple of 64; no table entry is above 31.
        #[target_feature(enable = $features)]
        unsafe fn scan_blocks(
            table: &[u8],
            blocks: &[u8],
            next: &[u8],
            estimate: &$crate::codes::Estimate,
            limit: f32,
            lows: &mut [f32],
            masks: &mut [u32],
        ) {
            use $crate::codes::{BLOCK, FACTORS, ahead};
            let len = table.len() + FACTORS;
            let (lows, _) = lows.as_chunks_mut::<BLOCK>();
            let count = masks.len();
            let mut sums = [[0; BLOCK]; 2];
            // Lists are short: dividing into chunks would take as long as a part of a block.
            let mut estimate_of = |block: usize, sums: &[u16; BLOCK]| {
                if let Some(factors) = blocks[block * len + table.len()..].first_chunk() {
                    masks[block] = estimates(sums, factors, estimate, limit, &mut lows[block]);
                }
            };
            for block in 0..count {
                let at = block * len;
                let ahead = ahead(blocks, next, at);
                // SAFETY: the features are enabled here; the codes are as long as the table.
                unsafe { sign_sums(table, &blocks[at..at + table.len()], ahead, &mut sums[block % 2]) };
                if block > 0 {
                    estimate_of(block - 1, &sums[(block - 1) % 2]);
                }
            }
            if count > 0 {
                estimate_of(count - 1, &sums[(count - 1) % 2]);
            }
        }
    };
}

pub(crate) use scan_kernel;

/// Instantiates all kernels for one implementation of [`Lanes`], and puts them in `TABLE`.
///
/// `kernel_table!(name, features, lanes, doubles, M, N)`: M × N is the register tile of `dot_matrix`. The module has its own
/// `sign_sums`, `estimates`, `largest_group`, `sign_table`, `dot_i8` and `stream_sum`.
macro_rules! kernel_table {
    ($name:literal, $features:tt, $lanes:ty, $doubles:ty, $m:literal, $n:literal) => {
        pub(crate) static TABLE: $crate::dispatch::Table = $crate::dispatch::Table {
            name: $name,
            dot,
            l2_squared,
            dot_rows,
            l2_squared_rows,
            dot_matrix,
            dot_f64,
            dot_and_square_f64,
            l2_squared_f64,
            hadamard,
            butterfly,
            scan_blocks,
            largest_group,
            sign_table,
            sizes,
            round_i16,
            round_i8,
            dot_i8,
            stream_sum,
        };

        #[target_feature(enable = $features)]
        unsafe fn dot(a: &[f32], b: &[f32]) -> f32 {
            // SAFETY: the features are enabled here; the lengths are the caller's promise.
            unsafe { $crate::lanes::pair::<$lanes, $crate::lanes::Product>(a, b) }
        }

        #[target_feature(enable = $features)]
        unsafe fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
            // SAFETY: the features are enabled here; the lengths are the caller's promise.
            unsafe { $crate::lanes::pair::<$lanes, $crate::lanes::Square>(a, b) }
        }

        #[target_feature(enable = $features)]
        unsafe fn dot_rows(query: &[f32], rows: &[f32], out: &mut [f32]) {
            // SAFETY: the features are enabled here; the lengths are the caller's promise.
            unsafe { $crate::lanes::one_to_rows::<$lanes, $crate::lanes::Product>(query, rows, out) }
        }

        #[target_feature(enable = $features)]
        unsafe fn l2_squared_rows(query: &[f32], rows: &[f32], out: &mut [f32]) {
            // SAFETY: the features are enabled here; the lengths are the caller's promise.
            unsafe { $crate::lanes::one_to_rows::<$lanes, $crate::lanes::Square>(query, rows, out) }
        }

        #[target_feature(enable = $features)]
        unsafe fn dot_matrix(queries: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
            // SAFETY: the features are enabled here; the lengths are the caller's promise.
            unsafe {
                $crate::lanes::many_to_rows::<$lanes, $crate::lanes::Product, $m, $n>(
                    queries, rows, dim, out,
                );
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn hadamard(values: &mut [f32], factors: &[f32]) {
            // SAFETY: the features are enabled here; the length is the caller's promise.
            unsafe { $crate::lanes::hadamard::<$lanes>(values, factors) }
        }

        $crate::lanes::scan_kernel!($features);

        #[target_feature(enable = $features)]
        fn butterfly(low: &mut [f32], high: &mut [f32]) {
            $crate::integers::butterfly(low, high)
        }

        #[target_feature(enable = $features)]
        fn sizes(values: &[f32]) -> (f32, f32) {
            $crate::integers::sizes(values)
        }

        #[target_feature(enable = $features)]
        fn round_i16(values: &[f32], per_step: f32, out: &mut [i16]) -> u32 {
            $crate::integers::round_i16(values, per_step, out)
        }

        #[target_feature(enable = $features)]
        fn round_i8(values: &[f32], per_step: f32, out: &mut [i8]) {
            $crate::integers::round_i8(values, per_step, out)
        }

        #[target_feature(enable = $features)]
        unsafe fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
            // SAFETY: the features are enabled; the caller vouches for the lengths.
            unsafe { $crate::float64::dot::<$doubles>(a, b) }
        }

        #[target_feature(enable = $features)]
        unsafe fn dot_and_square_f64(a: &[f32], b: &[f32]) -> (f64, f64) {
            // SAFETY: the features are enabled; the caller vouches for the lengths.
            unsafe { $crate::float64::dot_and_square::<$doubles>(a, b) }
        }

        #[target_feature(enable = $features)]
        unsafe fn l2_squared_f64(a: &[f32], b: &[f32]) -> f64 {
            // SAFETY: the features are enabled; the caller vouches for the lengths.
            unsafe { $crate::float64::l2_squared::<$doubles>(a, b) }
        }
    };
}

pub(crate) use kernel_table;
