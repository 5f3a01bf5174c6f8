//! Distance kernels: pure functions over slices of `f32`, dispatched once to the widest instructions the
//! processor has (AVX-512 with and without VNNI, AVX2 with FMA, NEON, or plain scalar code).
//!
//! **Owns** all SIMD of the workspace, and with it the order in which floating point numbers are added.
//! **Must not know** what a document, a list or a file is. Nothing here allocates or fails; a wrong slice
//! length is a bug of the caller and panics.
//!
//! # The fixed order (rule R20)
//!
//! Every `f32` kernel gives the same bits on every processor, because all of them do this and nothing else:
//!
//! 1. There are [`LANES`] = 16 accumulators, all `+0.0`. Lane `l` takes the elements `i ≡ l (mod 16)` in
//!    increasing `i`, each by one fused multiply-add: `acc = fma(a[i], b[i], acc)` for the inner product,
//!    `t = a[i] - b[i]; acc = fma(t, t, acc)` for the squared distance.
//! 2. If the length is not a multiple of 16, both inputs are treated as padded with zeros to the next one.
//! 3. The lanes are added as a tree of halves: `l + (l + 8)`, then `+4`, `+2`, `+1`.
//!
//! The `f64` kernels use the same lanes and the same tree; whether they fuse a product of two `f32`, which is exact in
//! `f64`, makes no difference. The scalar code in `scalar.rs` spells the order out, and is the oracle of the others in the tests.
//!
//! # Example
//!
//! ```
//! let query = [1.0, 2.0, 2.0];
//! let rows = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0];
//! let mut products = [0.0; 2];
//! plimsoll_kernels::dot_rows(&query, &rows, &mut products);
//! assert_eq!(products, [1.0, 4.0]);
//! assert_eq!(plimsoll_kernels::l2_squared(&query, &[1.0, 0.0, 0.0]), 8.0);
//! ```

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
mod bounds;
mod codes;
mod dispatch;
mod float64;
mod integers;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod values;

pub use bounds::{dot_error, dot_underflow, l2_error};
pub use codes::{BLOCK, Estimate};
pub use dispatch::Kernels;
pub use values::{first_invalid, normalise_into, prefetch};

/// How many accumulators the fixed order has.
pub const LANES: usize = 16;

/// The inner product of two vectors of one length.
///
/// Cost: one fused multiply-add an element, 16 at a time; bound by its latency (a single chain), so use
/// [`dot_rows`] for many rows. Rounding: see [`dot_error`].
///
/// # Panics
/// When the lengths differ.
///
/// ```
/// assert_eq!(plimsoll_kernels::dot(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 32.0);
/// ```
#[inline]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    Kernels::detect().dot(a, b)
}

/// The squared Euclidean distance of two vectors of one length, by subtraction (no cancellation as in
/// |a|² − 2⟨a,b⟩ + |b|²). Rounding: see [`l2_error`].
///
/// # Panics
/// When the lengths differ.
///
/// ```
/// assert_eq!(plimsoll_kernels::l2_squared(&[0.0, 3.0], &[4.0, 0.0]), 25.0);
/// ```
#[inline]
pub fn l2_squared(a: &[f32], b: &[f32]) -> f32 {
    Kernels::detect().l2_squared(a, b)
}

/// The inner product of a vector with itself.
///
/// ```
/// assert_eq!(plimsoll_kernels::norm_squared(&[3.0, 4.0]), 25.0);
/// ```
#[inline]
pub fn norm_squared(a: &[f32]) -> f32 {
    Kernels::detect().dot(a, a)
}

/// The inner products of a query (d) with `out.len()` rows (n × d, contiguous), bit for bit those of [`dot`].
///
/// Cost: reads each row once; four rows advance together, so that the latency of the multiply-adds is hidden
/// and rows that come from main memory cost what reading them costs.
///
/// # Panics
/// When `rows.len() != out.len() * query.len()`.
///
/// ```
/// let mut out = [0.0; 2];
/// plimsoll_kernels::dot_rows(&[1.0, 1.0], &[1.0, 2.0, 3.0, 4.0], &mut out);
/// assert_eq!(out, [3.0, 7.0]);
/// ```
#[inline]
pub fn dot_rows(query: &[f32], rows: &[f32], out: &mut [f32]) {
    Kernels::detect().dot_rows(query, rows, out);
}

/// The squared distances of a query (d) to `out.len()` rows (n × d, contiguous), bit for bit those of
/// [`l2_squared`]. Cost as [`dot_rows`].
///
/// # Panics
/// When `rows.len() != out.len() * query.len()`.
///
/// ```
/// let mut out = [0.0; 2];
/// plimsoll_kernels::l2_squared_rows(&[1.0, 1.0], &[1.0, 2.0, 3.0, 4.0], &mut out);
/// assert_eq!(out, [1.0, 13.0]);
/// ```
#[inline]
pub fn l2_squared_rows(query: &[f32], rows: &[f32], out: &mut [f32]) {
    Kernels::detect().l2_squared_rows(query, rows, out);
}

/// All inner products of m queries with n rows, `out[i * n + j] = dot(query i, row j)` bit for bit.
///
/// Shapes: `queries` m × `dim`, `rows` n × `dim`, `out` m × n, all contiguous and row-major. Cost: m·n·d
/// multiply-adds near the processor's peak: a tile of accumulators stays in registers, a tile of queries in
/// the first-level and a panel of rows in the second-level cache (the blocking of Goto and van de Geijn,
/// "Anatomy of High-Performance Matrix Multiplication", 2008, without its packing, which would change nothing
/// here: rows are read along their length). One thread; callers split the queries.
///
/// # Panics
/// When the lengths don't fit together, or `dim` is 0 and a matrix isn't empty.
///
/// ```
/// let mut out = [0.0; 4];
/// plimsoll_kernels::dot_matrix(&[1.0, 0.0, 0.0, 1.0], &[5.0, 6.0, 7.0, 8.0], 2, &mut out);
/// assert_eq!(out, [5.0, 7.0, 6.0, 8.0]);
/// ```
#[inline]
pub fn dot_matrix(queries: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    Kernels::detect().dot_matrix(queries, rows, dim, out);
}

/// The inner product in `f64`: products exact, sums rounded at 2⁻⁵³. For last orderings and error checks.
///
/// # Panics
/// When the lengths differ.
///
/// ```
/// assert_eq!(plimsoll_kernels::dot_f64(&[1e8, 1.0], &[1e8, 1.0]), 1e16 + 1.0 - 1.0);
/// ```
#[inline]
pub fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    Kernels::detect().dot_f64(a, b)
}

/// The inner product in `f64`, and that of `b` with itself: the bits of two calls of [`dot_f64`], in one pass over `b`.
///
/// # Panics
/// When the lengths differ.
///
/// ```
/// assert_eq!(plimsoll_kernels::dot_and_square_f64(&[1.0, 2.0], &[3.0, 4.0]), (11.0, 25.0));
/// ```
#[inline]
pub fn dot_and_square_f64(a: &[f32], b: &[f32]) -> (f64, f64) {
    Kernels::detect().dot_and_square_f64(a, b)
}

/// The squared Euclidean distance in `f64`.
///
/// # Panics
/// When the lengths differ.
///
/// ```
/// assert_eq!(plimsoll_kernels::l2_squared_f64(&[0.0, 3.0], &[4.0, 0.0]), 25.0);
/// ```
#[inline]
pub fn l2_squared_f64(a: &[f32], b: &[f32]) -> f64 {
    Kernels::detect().l2_squared_f64(a, b)
}

/// The Walsh-Hadamard transform of `factors ∘ values`, in place and not normalised: with factors ±1/√n it is
/// orthogonal, and its inverse is the transform followed by the factors.
///
/// Cost: n log₂ n additions, 16 at a time. The same bits on every processor: each output is one tree of
/// additions, whatever their order in time.
///
/// # Panics
/// When the lengths differ, or are not a power of two of at least 16.
///
/// ```
/// let mut values = [0.0; 16];
/// values[1] = 1.0;
/// plimsoll_kernels::hadamard(&mut values, &[0.25; 16]);
/// assert_eq!(values[..4], [0.25, -0.25, 0.25, -0.25]);
/// ```
#[inline]
pub fn hadamard(values: &mut [f32], factors: &[f32]) {
    Kernels::detect().hadamard(values, factors);
}

/// Each pair (a, b) becomes (a + b, a − b) / √2: the sum or difference is rounded, and its product with the nearest `f32`
/// to √½.
///
/// # Panics
/// When the lengths differ.
///
/// ```
/// let (mut low, mut high) = ([1.0], [1.0]);
/// plimsoll_kernels::butterfly(&mut low, &mut high);
/// assert_eq!((low[0], high[0]), (2.0_f32.sqrt(), 0.0));
/// ```
#[inline]
pub fn butterfly(low: &mut [f32], high: &mut [f32]) {
    Kernels::detect().butterfly(low, high);
}

/// The largest sum of absolute values, (|a| + |b|) + (|c| + |d|), of the groups of four components of a finite vector.
///
/// # Panics
/// When the length is no multiple of 4.
///
/// ```
/// assert_eq!(plimsoll_kernels::largest_group(&[1.0, -1.0, 1.0, -1.0, 0.0, 3.0, 0.0, 0.0]), 4.0);
/// ```
#[inline]
pub fn largest_group(query: &[f32]) -> f32 {
    Kernels::detect().largest_group(query)
}

/// Makes the table of a finite query for [`scan_blocks`], and returns the sum of all its entries.
///
/// A component x adds, with y = x · `per_unit` rounded, max(y, 0) to the patterns that have its bit and max(y, 0) − y to
/// those that don't. An entry is the integer part of ((first + second) + ½) + (third + fourth), but at most 31, with each
/// operation rounded.
///
/// # Panics
/// When the length of the query is no multiple of 8, or that of the table another one than four times as much.
///
/// ```
/// let mut table = [0; 32];
/// plimsoll_kernels::sign_table(&[1.0, -2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 4.0], 3.0, &mut table);
/// assert_eq!(table[..4], [6, 9, 0, 3]);
/// assert_eq!((table[16], table[24]), (0, 12));
/// ```
#[inline]
pub fn sign_table(query: &[f32], per_unit: f32, table: &mut [u8]) -> u32 {
    Kernels::detect().sign_table(query, per_unit, table)
}

/// The largest absolute value of a finite vector, and the sum of all of them in the fixed order (with plain additions).
///
/// ```
/// assert_eq!(plimsoll_kernels::sizes(&[1.0, -4.0, 2.0]), (4.0, 7.0));
/// ```
#[inline]
pub fn sizes(values: &[f32]) -> (f32, f32) {
    Kernels::detect().sizes(values)
}

/// Rounds each product with `per_step` to the nearest integer, halves to the even one, within ±32,767, and returns the
/// sum of the absolute values of these integers, modulo 2³².
///
/// # Panics
/// When the lengths differ.
///
/// ```
/// let mut out = [0; 3];
/// assert_eq!(plimsoll_kernels::round_i16(&[0.5, -1.5, 1e9], 1.0, &mut out), 32_769);
/// assert_eq!(out, [0, -2, 32_767]);
/// ```
#[inline]
pub fn round_i16(values: &[f32], per_step: f32, out: &mut [i16]) -> u32 {
    Kernels::detect().round_i16(values, per_step, out)
}

/// Rounds each product with `per_step` to the nearest integer, halves to the even one, within ±127.
///
/// # Panics
/// When the lengths differ.
///
/// ```
/// let mut out = [0; 3];
/// plimsoll_kernels::round_i8(&[1.25, -0.5, 1e9], 1.0, &mut out);
/// assert_eq!(out, [1, 0, 127]);
/// ```
#[inline]
pub fn round_i8(values: &[f32], per_step: f32, out: &mut [i8]) {
    Kernels::detect().round_i8(values, per_step, out);
}

/// Estimates the distances of the vectors of a list of sign codes to a query, and says which of them are at most
/// `limit`: `lows` gets 32 estimates for each block of 32 vectors, and `masks` one mask (bit `v` for vector `v`).
///
/// A block is as many bytes of codes as `table` has, then what is added to the estimate of each vector, then what its
/// sum is multiplied by, both as 32 little-endian `f32` that need not be aligned. `next` is the list that will be scanned
/// after this one, or nothing: it is brought into the nearest cache meanwhile, as far as this list is long.
///
/// The codes are 16 bytes for each group of four dimensions: byte `b` has the four signs of vector `b` in its low bits
/// and those of vector `b + 16` in its high bits, the first dimension lowest. `table` has, for each group, what each of
/// the 16 patterns adds to a vector's sum: at most 31, so that eight entries fit in a byte (the "FastScan" of F. André,
/// A.-M. Kermarrec and N. Le Scouarnec, "Cache locality is not enough", VLDB 2015).
///
/// Cost: one shuffle for each 4 dimensions and 16 (NEON), 32 (AVX2) or 64 (AVX-512) vectors, with a mask, half a shift
/// and an addition each. The sums are exact and the rest is two fused multiply-adds and an addition: the same bits on
/// every processor.
///
/// # Panics
/// When the lengths don't fit together, or that of the table is no multiple of 64 or above 16,384 (4,096 dimensions).
///
/// ```
/// use plimsoll_kernels::{Estimate, scan_blocks};
/// let table: Vec<u8> = (0..64).map(|entry| entry % 16).collect(); // A pattern's worth is its number.
/// let mut block = vec![0x51; 64]; // Patterns 1 and 5, in all of four groups.
/// block.extend([0.0_f32.to_le_bytes(); 32].as_flattened());
/// block.extend([1.0_f32.to_le_bytes(); 32].as_flattened());
/// let estimate = Estimate { step: 0.5, shift: 0.0, base: 1.0 };
/// let (mut lows, mut masks) = ([0.0; 32], [0]);
/// scan_blocks(&table, &block, &[], &estimate, 10.0, &mut lows, &mut masks);
/// assert_eq!((lows[0], lows[16], masks[0]), (3.0, 11.0, 0x0000_ffff));
/// ```
#[inline]
pub fn scan_blocks(
    table: &[u8],
    blocks: &[u8],
    next: &[u8],
    estimate: &Estimate,
    limit: f32,
    lows: &mut [f32],
    masks: &mut [u32],
) {
    Kernels::detect().scan_blocks(table, blocks, next, estimate, limit, lows, masks);
}

/// The inner product of a row of 8-bit and a query of 16-bit integers, modulo 2³²: exact as long as
/// 128 · Σ|query| < 2³¹.
///
/// # Panics
/// When the lengths differ, or are no multiple of 16.
///
/// ```
/// assert_eq!(plimsoll_kernels::dot_i8(&[-2; 16], &[300; 16]), -9600);
/// ```
#[inline]
pub fn dot_i8(row: &[i8], query: &[i16]) -> i32 {
    Kernels::detect().dot_i8(row, query)
}

/// The wrapping sum of all bytes read as little-endian 64-bit words (the tail padded with zeros).
///
/// The plainest possible read of a slice, four wide loads at a time: benchmarks use it to learn what one core
/// can read in a second, which is the limit of every scan.
///
/// ```
/// assert_eq!(plimsoll_kernels::stream_sum(&[1, 0, 0, 0, 0, 0, 0, 0, 2]), 3);
/// ```
#[inline]
pub fn stream_sum(bytes: &[u8]) -> u64 {
    Kernels::detect().stream_sum(bytes)
}
