//! Chooses the widest kernels the processor can run, once, and checks slice lengths on the way in.
//!
//! Owns the table of function pointers and the only calls through it. A table enters the list of usable ones
//! only after run-time detection of every feature its functions are compiled with: that, together with the
//! length checks here, is what the unsafe functions behind the table rely on.

use std::sync::OnceLock;

use crate::codes::{BLOCK, Estimate, FACTORS};
use crate::scalar;

/// See [`Kernels::scan_blocks`].
type ScanBlocks = unsafe fn(&[u8], &[u8], &[u8], &Estimate, f32, &mut [f32], &mut [u32]);

/// The functions of one instruction set. All are unsafe for two reasons: the processor must have the
/// instructions, and slice lengths must agree as [`Kernels`] checks them.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) l2_squared: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) dot_rows: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub(crate) l2_squared_rows: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub(crate) dot_matrix: unsafe fn(&[f32], &[f32], usize, &mut [f32]),
    pub(crate) dot_f64: unsafe fn(&[f32], &[f32]) -> f64,
    pub(crate) dot_and_square_f64: unsafe fn(&[f32], &[f32]) -> (f64, f64),
    pub(crate) l2_squared_f64: unsafe fn(&[f32], &[f32]) -> f64,
    pub(crate) hadamard: unsafe fn(&mut [f32], &[f32]),
    pub(crate) butterfly: unsafe fn(&mut [f32], &mut [f32]),
    pub(crate) largest_group: unsafe fn(&[f32]) -> f32,
    pub(crate) sign_table: unsafe fn(&[f32], f32, &mut [u8]) -> u32,
    pub(crate) sizes: unsafe fn(&[f32]) -> (f32, f32),
    pub(crate) round_i16: unsafe fn(&[f32], f32, &mut [i16]) -> u32,
    pub(crate) round_i8: unsafe fn(&[f32], f32, &mut [i8]),
    pub(crate) scan_blocks: ScanBlocks,
    pub(crate) dot_i8: unsafe fn(&[i8], &[i16]) -> i32,
    pub(crate) stream_sum: unsafe fn(&[u8]) -> u64,
}

/// One implementation of all dispatched kernels.
///
/// The free functions of this crate use [`Kernels::detect`]; tests and benchmarks pick others by hand.
///
/// ```
/// use plimsoll_kernels::Kernels;
/// let (a, b) = ([0.1_f32; 100], [0.7_f32; 100]);
/// for kernels in Kernels::available() {
///     assert_eq!(kernels.dot(&a, &b).to_bits(), Kernels::scalar().dot(&a, &b).to_bits());
/// }
/// ```
#[derive(Clone, Copy)]
pub struct Kernels {
    table: &'static Table,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.name())
    }
}

fn usable_tables() -> Vec<&'static Table> {
    let mut tables: Vec<&'static Table> = vec![&scalar::TABLE];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            tables.push(&crate::avx2::TABLE);
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                tables.push(&crate::avx512::TABLE);
                if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("gfni") {
                    tables.push(&crate::avx512vnni::TABLE);
                }
            }
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        if std::arch::is_aarch64_feature_detected!("neon") {
            tables.push(&crate::neon::TABLE);
        }
    }
    tables
}

/// The last usable table that does not exceed `ceiling`; every one counts as lower than an unknown name.
fn choose(tables: &[&'static Table], ceiling: Option<&str>) -> &'static Table {
    let rank = |name: &str| match name {
        "scalar" => 0,
        "avx2" | "neon" => 1,
        "avx512" => 2,
        _ => 3,
    };
    let highest = ceiling.map_or(usize::MAX, rank);
    tables.iter().rev().find(|table| rank(table.name) <= highest).copied().unwrap_or(&scalar::TABLE)
}

impl Kernels {
    /// The portable kernels: plain Rust, the oracle of all others. Slow where `f32::mul_add` is a library call.
    pub fn scalar() -> Self {
        Self { table: &scalar::TABLE }
    }

    /// The widest kernels this processor can run, found at the first call.
    ///
    /// The environment variable `PLIMSOLL_CPU` (`scalar`, `avx2`, `avx512`, `avx512vnni`), read once, sets a ceiling;
    /// other values are ignored.
    #[inline]
    pub fn detect() -> Self {
        static DETECTED: OnceLock<&'static Table> = OnceLock::new();
        let table = DETECTED.get_or_init(|| {
            let ceiling = std::env::var("PLIMSOLL_CPU").ok();
            choose(&usable_tables(), ceiling.as_deref())
        });
        Self { table }
    }

    /// All kernels this processor can run, the scalar ones first and the widest last.
    pub fn available() -> Vec<Self> {
        usable_tables().into_iter().map(|table| Self { table }).collect()
    }

    /// `scalar`, `avx2`, `avx512`, `avx512vnni` or `neon`.
    pub fn name(self) -> &'static str {
        self.table.name
    }

    /// See [`dot`](crate::dot).
    #[inline]
    pub fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        assert_pair(a, b);
        // SAFETY: the table was detected usable; the lengths agree.
        unsafe { (self.table.dot)(a, b) }
    }

    /// See [`l2_squared`](crate::l2_squared).
    #[inline]
    pub fn l2_squared(self, a: &[f32], b: &[f32]) -> f32 {
        assert_pair(a, b);
        // SAFETY: the table was detected usable; the lengths agree.
        unsafe { (self.table.l2_squared)(a, b) }
    }

    /// See [`dot_rows`](crate::dot_rows).
    #[inline]
    pub fn dot_rows(self, query: &[f32], rows: &[f32], out: &mut [f32]) {
        assert_rows(query, rows, out);
        // SAFETY: the table was detected usable; `rows` holds one row of the query's length for each output.
        unsafe { (self.table.dot_rows)(query, rows, out) }
    }

    /// See [`l2_squared_rows`](crate::l2_squared_rows).
    #[inline]
    pub fn l2_squared_rows(self, query: &[f32], rows: &[f32], out: &mut [f32]) {
        assert_rows(query, rows, out);
        // SAFETY: the table was detected usable; `rows` holds one row of the query's length for each output.
        unsafe { (self.table.l2_squared_rows)(query, rows, out) }
    }

    /// See [`dot_matrix`](crate::dot_matrix).
    #[inline]
    pub fn dot_matrix(self, queries: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
        if dim == 0 || queries.is_empty() || rows.is_empty() {
            assert!(
                out.is_empty() && (dim > 0 || queries.is_empty() && rows.is_empty()),
                "dot_matrix: nothing to multiply ({} and {} values of dimension {dim}) for {} outputs",
                queries.len(),
                rows.len(),
                out.len()
            );
            return;
        }
        assert!(
            queries.len().is_multiple_of(dim)
                && rows.len().is_multiple_of(dim)
                && (queries.len() / dim).checked_mul(rows.len() / dim) == Some(out.len()),
            "dot_matrix: {} query values and {} row values of dimension {dim} don't fit {} outputs",
            queries.len(),
            rows.len(),
            out.len()
        );
        // SAFETY: the table was detected usable; both matrices are whole rows of `dim` values, none is empty,
        // and `out` has an element for each pair.
        unsafe { (self.table.dot_matrix)(queries, rows, dim, out) }
    }

    /// See [`dot_f64`](crate::dot_f64).
    #[inline]
    pub fn dot_f64(self, a: &[f32], b: &[f32]) -> f64 {
        assert_pair(a, b);
        // SAFETY: the table was detected usable; the lengths agree.
        unsafe { (self.table.dot_f64)(a, b) }
    }

    /// See [`dot_and_square_f64`](crate::dot_and_square_f64).
    #[inline]
    pub fn dot_and_square_f64(self, a: &[f32], b: &[f32]) -> (f64, f64) {
        assert_pair(a, b);
        // SAFETY: the table was detected usable; the lengths agree.
        unsafe { (self.table.dot_and_square_f64)(a, b) }
    }

    /// See [`l2_squared_f64`](crate::l2_squared_f64).
    #[inline]
    pub fn l2_squared_f64(self, a: &[f32], b: &[f32]) -> f64 {
        assert_pair(a, b);
        // SAFETY: the table was detected usable; the lengths agree.
        unsafe { (self.table.l2_squared_f64)(a, b) }
    }

    /// See [`hadamard`](crate::hadamard).
    #[inline]
    pub fn hadamard(self, values: &mut [f32], factors: &[f32]) {
        let len = values.len();
        assert!(
            len.is_power_of_two() && len >= crate::LANES && factors.len() == len,
            "hadamard: {len} values and {} factors are not one power of two of at least 16",
            factors.len()
        );
        // SAFETY: the table was detected usable; the lengths are as they must be.
        unsafe { (self.table.hadamard)(values, factors) }
    }

    /// See [`scan_blocks`](crate::scan_blocks).
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "they are of five kinds, and each caller has them apart")]
    pub fn scan_blocks(
        self,
        table: &[u8],
        blocks: &[u8],
        next: &[u8],
        estimate: &Estimate,
        limit: f32,
        lows: &mut [f32],
        masks: &mut [u32],
    ) {
        assert!(
            table.len().is_multiple_of(64) && table.len() <= 64 * 256,
            "scan_blocks: a table of {} bytes",
            table.len()
        );
        assert!(
            masks.len().checked_mul(table.len() + FACTORS) == Some(blocks.len())
                && masks.len().checked_mul(BLOCK) == Some(lows.len()),
            "scan_blocks: {} bytes, {} estimates and {} masks, for a table of {} bytes",
            blocks.len(),
            lows.len(),
            masks.len(),
            table.len()
        );
        // SAFETY: the table was detected usable; the lengths agree, and that of the table is a multiple of 64 and not
        // too long.
        unsafe { (self.table.scan_blocks)(table, blocks, next, estimate, limit, lows, masks) }
    }

    /// See [`butterfly`](crate::butterfly).
    #[inline]
    pub fn butterfly(self, low: &mut [f32], high: &mut [f32]) {
        assert_pair(low, high);
        // SAFETY: the table was detected usable; the lengths agree.
        unsafe { (self.table.butterfly)(low, high) }
    }

    /// See [`largest_group`](crate::largest_group).
    #[inline]
    pub fn largest_group(self, query: &[f32]) -> f32 {
        assert!(query.len().is_multiple_of(4), "largest_group: {} components", query.len());
        // SAFETY: the table was detected usable; any whole groups will do.
        unsafe { (self.table.largest_group)(query) }
    }

    /// See [`sign_table`](crate::sign_table).
    #[inline]
    pub fn sign_table(self, query: &[f32], per_unit: f32, table: &mut [u8]) -> u32 {
        assert!(
            query.len().is_multiple_of(8) && query.len().checked_mul(4) == Some(table.len()),
            "sign_table: {} entries for {} components",
            table.len(),
            query.len()
        );
        // SAFETY: the table was detected usable; there are four entries for each component, a multiple of 8.
        unsafe { (self.table.sign_table)(query, per_unit, table) }
    }

    /// See [`sizes`](crate::sizes).
    #[inline]
    pub fn sizes(self, values: &[f32]) -> (f32, f32) {
        // SAFETY: the table was detected usable; any slice will do.
        unsafe { (self.table.sizes)(values) }
    }

    /// See [`round_i16`](crate::round_i16).
    #[inline]
    pub fn round_i16(self, values: &[f32], per_step: f32, out: &mut [i16]) -> u32 {
        assert!(values.len() == out.len(), "round_i16: {} values into {}", values.len(), out.len());
        // SAFETY: the table was detected usable; the lengths agree.
        unsafe { (self.table.round_i16)(values, per_step, out) }
    }

    /// See [`round_i8`](crate::round_i8).
    #[inline]
    pub fn round_i8(self, values: &[f32], per_step: f32, out: &mut [i8]) {
        assert!(values.len() == out.len(), "round_i8: {} values into {}", values.len(), out.len());
        // SAFETY: the table was detected usable; the lengths agree.
        unsafe { (self.table.round_i8)(values, per_step, out) }
    }

    /// See [`dot_i8`](crate::dot_i8).
    #[inline]
    pub fn dot_i8(self, row: &[i8], query: &[i16]) -> i32 {
        assert!(
            row.len() == query.len() && row.len().is_multiple_of(16),
            "dot_i8: {} and {} components",
            row.len(),
            query.len()
        );
        // SAFETY: the table was detected usable; the lengths agree, and are multiples of 16.
        unsafe { (self.table.dot_i8)(row, query) }
    }

    /// See [`stream_sum`](crate::stream_sum).
    #[inline]
    pub fn stream_sum(self, bytes: &[u8]) -> u64 {
        // SAFETY: the table was detected usable; any slice will do.
        unsafe { (self.table.stream_sum)(bytes) }
    }
}

#[inline]
fn assert_pair(a: &[f32], b: &[f32]) {
    assert!(a.len() == b.len(), "vectors of different lengths: {} and {}", a.len(), b.len());
}

#[inline]
fn assert_rows(query: &[f32], rows: &[f32], out: &[f32]) {
    assert!(
        out.len().checked_mul(query.len()) == Some(rows.len()),
        "{} row values are not {} rows of the query's dimension {}",
        rows.len(),
        out.len(),
        query.len()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_lowers_the_choice_and_unknown_names_do_not() {
        let tables = usable_tables();
        assert_eq!(choose(&tables, Some("scalar")).name, "scalar");
        assert!(!choose(&tables, Some("avx2")).name.starts_with("avx512"));
        assert_ne!(choose(&tables, Some("avx512")).name, "avx512vnni");
        let widest = tables.last().unwrap().name;
        assert_eq!(choose(&tables, None).name, widest);
        assert_eq!(choose(&tables, Some("abacus")).name, widest);
    }

    #[test]
    fn scalar_is_always_available_and_first() {
        assert_eq!(Kernels::available()[0].name(), "scalar");
    }
}
