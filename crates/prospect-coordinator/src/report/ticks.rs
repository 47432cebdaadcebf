//! Round numbers on axes, and numbers as people write them.

/// Round values inside a range, and how to write them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ticks {
    pub(super) values: Vec<f64>,
    /// Distance between two neighbours.
    pub(super) distance: f64,
}

impl Ticks {
    /// At most about `count` multiples of 1, 2 or 5 times a power of ten.
    pub(super) fn new(low: f64, high: f64, count: usize) -> Self {
        let rough = (high - low) / count.max(1) as f64;
        let power = 10_f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999);
        Self::multiples(low, high, factor.unwrap_or(10.0) * power)
    }

    /// As [`Ticks::new`], whole numbers only.
    pub(super) fn whole(low: f64, high: f64, count: usize) -> Self {
        let ticks = Self::new(low, high, count);
        if ticks.distance < 1.0 { Self::multiples(low, high, 1.0) } else { ticks }
    }

    fn multiples(low: f64, high: f64, distance: f64) -> Self {
        let slack = 1e-9;
        let first = (low / distance - slack).ceil() as i64;
        let last = (high / distance + slack).floor() as i64;
        // Dividing by a whole number keeps 0.3 from becoming 0.30000000000000004.
        let per_unit = (1.0 / distance).round();
        let value = |idx: i64| {
            if distance < 1.0 { idx as f64 / per_unit } else { idx as f64 * distance }
        };
        Self { values: (first..=last).map(value).collect(), distance }
    }

    /// All labels with the same number of decimals, so that they differ.
    pub(super) fn label(&self, value: f64) -> String {
        let largest = self.values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        if value == 0.0 {
            return "0".to_owned();
        }
        if !(1e-3..1e7).contains(&largest) {
            let digits = (largest.log10().floor() - self.distance.log10().floor()).max(0.0);
            return scientific(value, digits as usize);
        }
        let decimals = (-(self.distance * 1.0001).log10().floor()).max(0.0) as usize;
        grouped(value, decimals)
    }
}

/// A number with about four significant digits.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e12).contains(&size) {
        scientific(value, 2)
    } else if size >= 1000.0 || value.fract() == 0.0 {
        grouped(value, 0)
    } else {
        let decimals = (3.0 - size.log10().floor()).clamp(0.0, 5.0);
        grouped(value, decimals as usize)
    }
}

/// A duration in words: `1 h 02 min 03 s`.
pub(super) fn duration(seconds: f64) -> String {
    if seconds.is_nan() || seconds < 0.0 {
        return "unknown".to_owned();
    }
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest} s"),
        (0, _) => format!("{minutes} min {rest:02} s"),
        _ => format!("{} h {minutes:02} min {rest:02} s", grouped(hours as f64, 0)),
    }
}

/// A whole number with thousands set apart.
pub(super) fn count(number: u64) -> String {
    group_digits(&number.to_string())
}

fn scientific(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) if mantissa.contains('.') => {
            format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
    .replace('-', "−")
}

fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let sign = if value < 0.0 { "−" } else { "" };
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{point}{fraction}", group_digits(whole))
}

fn group_digits(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
