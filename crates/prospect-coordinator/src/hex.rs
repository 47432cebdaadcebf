//! Bytes and numbers as hexadecimal digits.

/// Two lower-case digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bits of a number, 16 digits.
pub(crate) fn bits(number: f64) -> String {
    format!("{:016x}", number.to_bits())
}
