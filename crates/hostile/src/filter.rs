//! Any bytes as the text of a filter.

use plimsoll::{Filter, FilterError, limits};

/// A filter whose canonical text reads back as the same filter, or an error that lies in the text.
pub(crate) fn filter(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match Filter::parse(&text) {
        Ok(filter) => {
            assert_eq!(filter.check(), Ok(()));
            assert_eq!(filter.check_fields(|_| true), Ok(()));
            assert!(filter.fields().is_sorted_by(|left, right| left < right));
            let canonical = filter.to_string();
            if canonical.len() > limits::MAX_FILTER_BYTES {
                let error = FilterError::TooLong { bytes: canonical.len() };
                assert_eq!(Filter::parse(&canonical), Err(error));
            } else {
                let again = Filter::parse(&canonical).unwrap();
                assert_eq!(again, filter);
                assert_eq!(again.to_string(), canonical);
            }
        }
        Err(FilterError::Syntax { position, .. }) => assert!(text.is_char_boundary(position)),
        Err(error) => {
            use FilterError::{TooDeep, TooLong, TooManyTests};
            assert!(matches!(error, TooLong { .. } | TooDeep | TooManyTests), "{error}");
        }
    }
}
