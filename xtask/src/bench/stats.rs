//! Medians, percentiles, ratios.

/// A quotient, for people and bars: the precision of a float is more than enough.
#[expect(
    clippy::cast_precision_loss,
    reason = "measured values are far below 2^53, and their last digits mean nothing"
)]
pub fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b.max(1) as f64
}

/// The value below which `per_mille` of a thousand lie; 0 of nothing. Sorts.
pub fn percentile(values: &mut [u64], per_mille: usize) -> u64 {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    values.get(last * per_mille / 1000).copied().unwrap_or(0)
}

pub fn median(values: &mut [u64]) -> u64 {
    percentile(values, 500)
}

/// Nanoseconds as microseconds.
pub fn micros(ns: u64) -> String {
    format!("{:.1} µs", ratio(ns, 1_000))
}

/// KiB as MB.
pub fn megabytes(kib: u64) -> String {
    format!("{:.1} MB", ratio(kib * 1024, 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_many() {
        assert_eq!(percentile(&mut [], 500), 0);
        assert_eq!(median(&mut [3, 1, 2]), 2);
        let mut many: Vec<u64> = (1..=1001).rev().collect();
        assert_eq!(percentile(&mut many, 990), 991);
        assert_eq!(micros(12_345), "12.3 µs");
    }
}
