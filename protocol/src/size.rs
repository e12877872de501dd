//! Sizes as people write them: `512M`, `10G`, `4096`.

/// Reads a size in bytes: a whole number, with a binary suffix (K, M, G, T, also as KiB) if any.
///
/// # Errors
/// What is wrong with it, for the person who wrote it.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let suffix = text.get(digits.len()..).unwrap_or_default();
    let shift = match suffix.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => {
            return Err("give a number, with K, M, G or T behind it if you like (512M, 10G)".into());
        }
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "give a whole number that is not negative, such as 512M or 10G")?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "that is more than anything holds".into())
}

/// A size for a person to read.
#[must_use]
pub fn show(bytes: u64) -> String {
    for (shift, suffix) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let whole = bytes >> shift;
        if whole > 0 {
            let rest = bytes & !(u64::MAX << shift);
            let tenths = rest.saturating_mul(10) >> shift;
            return if tenths == 0 {
                format!("{whole} {suffix}")
            } else {
                format!("{whole}.{tenths} {suffix}")
            };
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("512M"), Ok(512 << 20));
        assert_eq!(parse("10g"), Ok(10 << 30));
        assert_eq!(parse("2TiB"), Ok(2 << 40));
        assert_eq!(parse("0"), Ok(0));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "M", "-1", "1.5G", "10X", "1 G", "99999999T", "1GG"] {
            parse(text).expect_err(text);
        }
    }

    #[test]
    fn sizes_are_shown_short() {
        assert_eq!(show(0), "0 bytes");
        assert_eq!(show(1 << 30), "1 GiB");
        assert_eq!(show((1 << 30) + (1 << 29)), "1.5 GiB");
    }
}
