//! Durations (`1.5s`) and timestamps (RFC 3339) as protobuf's JSON writes them.

/// Seconds either way that a `google.protobuf.Duration` may hold: about 10,000 years.
const MAX_DURATION_S: i64 = 315_576_000_000;
/// 0001-01-01T00:00:00Z.
const FIRST_S: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z.
const LAST_S: i64 = 253_402_300_799;
const DAY_S: i64 = 86_400;

/// `-1.5s` -> seconds and nanoseconds, of one sign.
pub(super) fn parse_duration(text: &str) -> Option<(i64, i32)> {
    let number = text.strip_suffix('s')?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let (seconds, nanos) = (digits(whole)?, fraction_nanos(fraction)?);
    if seconds > MAX_DURATION_S {
        return None;
    }
    Some(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// The shortest of 0, 3, 6 or 9 digits of fraction that loses nothing.
pub(crate) fn format_duration(seconds: i64, nanos: i32) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    format!("{sign}{}{}s", seconds.unsigned_abs(), fraction(nanos.unsigned_abs()))
}

/// `2026-01-31T23:59:59.5+01:00` -> seconds since 1970 and nanoseconds.
pub(super) fn parse_timestamp(text: &str) -> Option<(i64, i32)> {
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let [year, month, day] = three(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = three(clock, ':', [2, 2, 2])?;
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let last_day = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=last_day).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(zone);
    let nanos = match fraction.strip_prefix('.') {
        Some(fraction) => fraction_nanos(fraction)?,
        None if fraction.is_empty() => 0,
        None => return None,
    };
    let offset_s = match zone {
        "Z" | "z" => 0,
        _ => {
            let (hours, minutes) = zone[1..].split_once(':')?;
            let (hours, minutes) = (two(hours)?, two(minutes)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3600 + minutes * 60) * if zone.starts_with('-') { -1 } else { 1 }
        }
    };
    let seconds = days(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second - offset_s;
    (FIRST_S..=LAST_S).contains(&seconds).then_some((seconds, nanos))
}

/// RFC 3339 in UTC; `None` outside of the years 1 to 9999.
pub(super) fn format_timestamp(seconds: i64, nanos: i32) -> Option<String> {
    if !(FIRST_S..=LAST_S).contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return None;
    }
    let (day, clock) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
    let (year, month, day) = date(day);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    let fraction = fraction(nanos.unsigned_abs());
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

fn fraction(nanos: u32) -> String {
    match nanos {
        0 => String::new(),
        n if n % 1_000_000 == 0 => format!(".{:03}", n / 1_000_000),
        n if n % 1_000 == 0 => format!(".{:06}", n / 1_000),
        n => format!(".{n:09}"),
    }
}

fn fraction_nanos(text: &str) -> Option<i32> {
    if text.is_empty() || text.len() > 9 {
        return None;
    }
    i32::try_from(digits(&format!("{text:0<9}"))?).ok()
}

fn digits(text: &str) -> Option<i64> {
    let all = !text.is_empty() && text.len() <= 18 && text.bytes().all(|b| b.is_ascii_digit());
    if all { text.parse().ok() } else { None }
}

fn two(text: &str) -> Option<i64> {
    if text.len() == 2 { digits(text) } else { None }
}

fn three(text: &str, separator: char, lens: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(separator);
    let mut out = [0; 3];
    for (slot, len) in out.iter_mut().zip(lens) {
        *slot = digits(parts.next().filter(|p| p.len() == len)?)?;
    }
    parts.next().is_none().then_some(out)
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar, with years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days`].
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written() {
        for (text, value) in [
            ("5s", (5, 0)),
            ("0.25s", (0, 250_000_000)),
            ("-1.000001s", (-1, -1_000)),
            ("-0.000000001s", (0, -1)),
            ("315576000000s", (MAX_DURATION_S, 0)),
        ] {
            assert_eq!(parse_duration(text), Some(value), "{text}");
            assert_eq!(parse_duration(&format_duration(value.0, value.1)), Some(value), "{text}");
        }
        for bad in [
            "",
            "s",
            "5",
            "5S",
            "5 s",
            " 5s",
            ".5s",
            "5.s",
            "1.0000000001s",
            "+5s",
            "5ms",
            "--5s",
            "0x5s",
            "315576000001s",
            "99999999999999999999s",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
        assert_eq!(format_duration(1, 500_000_000), "1.500s");
    }

    #[test]
    fn timestamps_are_read_and_written() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-11-20T01:02:03Z", 1_795_136_523),
            ("0001-01-01T00:00:00Z", FIRST_S),
            ("9999-12-31T23:59:59Z", LAST_S),
        ] {
            assert_eq!(parse_timestamp(text), Some((seconds, 0)), "{text}");
            assert_eq!(format_timestamp(seconds, 0).as_deref(), Some(text));
        }
        assert_eq!(parse_timestamp("1970-01-01T01:00:00.5+01:00"), Some((0, 500_000_000)));
        for bad in [
            "",
            "1970-01-01",
            "1970-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+1:00",
            "é970-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
    }
}
