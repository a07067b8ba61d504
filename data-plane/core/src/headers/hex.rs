//! Hex digits without a formatter: ids are written for every request.

/// Both digits of each byte.
const PAIRS: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (mut pairs, mut byte) = ([[0; 2]; 256], 0);
    while byte < pairs.len() {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// The digits of a byte, in lower case.
pub(super) fn digits(byte: u8) -> [u8; 2] {
    PAIRS[usize::from(byte)]
}

/// Writes two digits for each byte; `text` is twice as long as `bytes`.
pub(crate) fn write(bytes: &[u8], text: &mut [u8]) {
    for (byte, place) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        place.copy_from_slice(&digits(*byte));
    }
}
