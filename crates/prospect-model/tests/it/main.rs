//! Tests against software that this crate must agree with.

#[cfg(test)]
mod transformers;
