//! Base64 (RFC 4648, with padding): what both busybox and coreutils decode, so that a command of any form fits a line.

/// Encodes bytes as text of letters, digits, `+`, `/` and `=`.
pub(super) fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| group.get(at).copied().unwrap_or(0);
        let sextets = [
            byte(0) >> 2,
            byte(0) << 4 | byte(1) >> 4,
            byte(1) << 2 | byte(2) >> 6,
            byte(2),
        ];
        for (at, sextet) in sextets.into_iter().enumerate() {
            let known = at <= group.len();
            text.push(if known {
                char::from(ALPHABET[usize::from(sextet & 63)])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn the_vectors_of_rfc_4648_come_out_right() {
        let encoded = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| encode(text.as_bytes()));

        assert_eq!(
            encoded,
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]
        );
    }
}
