//! When structure should change: a new index generation, a list to split, a list to merge.
//!
//! The limits follow LIRE (Y. Xu et al., "SPFresh", SOSP 2023) around the target list of 150 rows.

use crate::kmeans::{MIN_INDEXED_ROWS, TARGET_LIST_ROWS};

/// A list with more live rows is split.
pub const SPLIT_ABOVE: usize = 2 * TARGET_LIST_ROWS;
/// A list with fewer live rows is merged into its neighbours.
pub const MERGE_BELOW: usize = TARGET_LIST_ROWS / 4;
/// Drift of the mean, see [`mean_drift`], beyond which the centroids no longer fit the data.
pub const MAX_DRIFT: f64 = 0.25;

/// What to do with a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListAction {
    /// Nothing.
    Keep,
    /// Cut it in two.
    Split,
    /// Give its rows to their next nearest lists and retire it.
    Merge,
}

/// What to do with a list of `rows` live rows and this radius. Lists of radius 0 hold one vector many times:
/// no cut makes them better.
///
/// ```
/// use plimsoll_index::policy::{ListAction, list_action};
/// assert_eq!(list_action(301, 0.5), ListAction::Split);
/// assert_eq!(list_action(301, 0.0), ListAction::Keep);
/// assert_eq!(list_action(36, 0.5), ListAction::Merge);
/// ```
pub fn list_action(rows: usize, radius: f32) -> ListAction {
    if rows > SPLIT_ABOVE && radius > 0.0 {
        ListAction::Split
    } else if rows < MERGE_BELOW {
        ListAction::Merge
    } else {
        ListAction::Keep
    }
}

/// Whether a new index generation is worth training: at the first crossing of 4,096 rows (`rows_at_training`
/// is 0 before there are lists), when the rows have doubled since, or when the mean has drifted (see
/// [`mean_drift`]; 0 if unknown). A collection that shrank keeps its lists: merging takes care of it.
///
/// ```
/// use plimsoll_index::policy::should_retrain;
/// assert!(!should_retrain(4095, 0, 0.0) && should_retrain(4096, 0, 0.0));
/// assert!(!should_retrain(9999, 5000, 0.0) && should_retrain(10_000, 5000, 0.0));
/// assert!(should_retrain(5000, 5000, 0.3));
/// ```
pub fn should_retrain(rows_now: usize, rows_at_training: usize, drift: f64) -> bool {
    if rows_now < MIN_INDEXED_ROWS {
        return false;
    }
    rows_at_training == 0 || rows_now / 2 >= rows_at_training || drift > MAX_DRIFT
}

/// How far the mean of the rows has moved since training, |new − old|², as a share of their variance (the mean
/// squared distance of a row to its mean). Rows without variance drift infinitely when they move at all.
///
/// # Panics
/// When the means have different lengths.
pub fn mean_drift(old_mean: &[f32], new_mean: &[f32], variance: f64) -> f64 {
    let moved = plimsoll_kernels::l2_squared_f64(old_mean, new_mean);
    if moved > 0.0 { moved / variance.max(0.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_a_share_of_the_variance() {
        assert_eq!(mean_drift(&[0.0, 0.0], &[3.0, 4.0], 100.0), 0.25);
        assert_eq!(mean_drift(&[1.0], &[1.0], 0.0), 0.0);
        assert_eq!(mean_drift(&[1.0], &[2.0], 0.0), f64::INFINITY);
    }

    #[test]
    fn the_limits_of_a_list_are_exclusive() {
        assert_eq!([37, 150, 300].map(|rows| list_action(rows, 1.0)), [ListAction::Keep; 3]);
        assert_eq!(list_action(0, 0.0), ListAction::Merge);
    }
}
