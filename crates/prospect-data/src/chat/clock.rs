//! `strftime` for the few templates that print a date. The time is an argument
//! and the zone is UTC.

const WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const SECONDS_PER_DAY: i64 = 86_400;

/// Formats seconds since 1970 as C's `strftime` does in the C locale.
///
/// # Errors
/// The directive that is not known.
pub(super) fn strftime(seconds: i64, format: &str) -> Result<String, char> {
    let (days, time) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
    let (year, month, day) = date(days);
    let weekday = days.rem_euclid(7) as usize;
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut directive = letters.next().ok_or('%')?;
        let unpadded = directive == '-';
        if unpadded {
            directive = letters.next().ok_or('-')?;
        }
        let two = |number: i64| if unpadded { number.to_string() } else { format!("{number:02}") };
        out.push_str(&match directive {
            'd' => two(day),
            'm' => two(month),
            'H' => two(hour),
            'I' => two((hour + 11) % 12 + 1),
            'M' => two(minute),
            'S' => two(second),
            'y' => two(year.rem_euclid(100)),
            'Y' => year.to_string(),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'B' => MONTHS[month as usize - 1].to_owned(),
            'b' | 'h' => MONTHS[month as usize - 1][..3].to_owned(),
            'A' => WEEKDAYS[weekday].to_owned(),
            'a' => WEEKDAYS[weekday][..3].to_owned(),
            'j' => {
                let number = days - days_before_year(year) + 1;
                if unpadded { number.to_string() } else { format!("{number:03}") }
            }
            'F' => format!("{year}-{month:02}-{day:02}"),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            '%' => "%".to_owned(),
            other => return Err(other),
        });
    }
    Ok(out)
}

/// Days from 1970 to the first day of `year`.
fn days_before_year(year: i64) -> i64 {
    let past = year - 1;
    let leap_days = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    (year - 1970) * 365 + leap_days(past) - leap_days(1969)
}

/// Year, month and day of a day counted from 1970, in the Gregorian calendar.
fn date(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days.div_euclid(366);
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut left = days - days_before_year(year);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}
