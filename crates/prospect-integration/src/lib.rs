//! Tests of the whole; all of them are in `tests/it`.
