//! Time patterns: strftime with `%s` (epoch seconds), `%3f` (fraction of a second) and `%E3S`.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};
use time::{OffsetDateTime, UtcOffset};

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Box<[Item]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Literal(Box<str>),
    /// A conversion of strftime in the C locale.
    Field(char),
    /// This many digits of the fraction of the second.
    Fraction(u8),
    /// Seconds with this many digits of fraction.
    Seconds(u8),
    /// The offset with a colon.
    OffsetColon,
    /// The default: `2016-04-15T20:17:00.310Z`.
    IsoUtc,
}

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
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Pattern {
    /// What `%START_TIME%` without argument prints.
    pub(super) fn iso_utc() -> Self {
        Self([Item::IsoUtc].into())
    }

    /// What `%START_TIME_LOCAL%` without argument prints.
    pub(super) fn iso_local() -> Self {
        Self::compile("%Y-%m-%dT%H:%M:%E3S%z").expect("INVARIANT: the pattern is a constant that compiles")
    }

    /// Compiles a pattern; the error is the byte offset of the conversion that is not known.
    pub(super) fn compile(pattern: &str) -> Result<Self, (usize, String)> {
        let mut items = Vec::new();
        let mut literal = String::new();
        let mut chars = pattern.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c != '%' {
                literal.push(c);
                continue;
            }
            let unknown = |text: String| (at, format!("{text} is not a time conversion"));
            let item = match chars.next().map(|(_, c)| c) {
                Some('%') => {
                    literal.push('%');
                    continue;
                }
                Some('f') => Item::Fraction(9),
                Some(digit @ '1'..='9') => match chars.next() {
                    Some((_, 'f')) => Item::Fraction(digit as u8 - b'0'),
                    _ => return Err(unknown(format!("`%{digit}`"))),
                },
                Some('E') => match (chars.next().map(|(_, c)| c), chars.peek().map(|(_, c)| *c)) {
                    (Some('z'), _) => Item::OffsetColon,
                    (Some(digit @ '0'..='9'), Some('S')) => {
                        chars.next();
                        Item::Seconds(digit as u8 - b'0')
                    }
                    (Some(digit @ '0'..='9'), Some('f')) => {
                        chars.next();
                        Item::Fraction(digit as u8 - b'0')
                    }
                    (Some('*'), Some('S')) => {
                        chars.next();
                        Item::Seconds(9)
                    }
                    (Some('*'), Some('f')) => {
                        chars.next();
                        Item::Fraction(9)
                    }
                    (Some('4'), Some('Y')) => {
                        chars.next();
                        Item::Field('Y')
                    }
                    _ => return Err(unknown("`%E`".into())),
                },
                Some(field) if "aAbBcCdDeFgGhHIjklmMnprRsStTuUVwWxXyYzZ".contains(field) => {
                    Item::Field(field)
                }
                Some(other) => return Err(unknown(format!("`%{other}`"))),
                None => return Err((at, "`%` at the end of a time pattern".into())),
            };
            if !literal.is_empty() {
                items.push(Item::Literal(std::mem::take(&mut literal).into()));
            }
            items.push(item);
        }
        if !literal.is_empty() {
            items.push(Item::Literal(literal.into()));
        }
        Ok(Self(items.into()))
    }

    /// Appends `at` in the given zone.
    pub(super) fn render(&self, at: SystemTime, offset: UtcOffset, out: &mut Vec<u8>) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        // Years past 9999 do not happen; the epoch stands in for them.
        let date = OffsetDateTime::from_unix_timestamp(seconds)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
            .checked_to_offset(offset)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let nanos = since.subsec_nanos();
        for item in &self.0 {
            match item {
                Item::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Item::Field(field) => write_field(*field, &date, seconds, out),
                Item::Fraction(digits) => write_fraction(nanos, *digits, out),
                Item::Seconds(digits) => {
                    pad(u32::from(date.second()), 2, b'0', out);
                    if *digits > 0 {
                        out.push(b'.');
                        write_fraction(nanos, *digits, out);
                    }
                }
                Item::OffsetColon => write_offset(&date, true, out),
                Item::IsoUtc => {
                    write_date(&date, out);
                    out.push(b'T');
                    write_time(&date, out);
                    out.push(b'.');
                    write_fraction(nanos, 3, out);
                    out.push(b'Z');
                }
            }
        }
    }
}

fn write_field(field: char, date: &OffsetDateTime, epoch_seconds: i64, out: &mut Vec<u8>) {
    let weekday = usize::from(date.weekday().number_days_from_sunday());
    let month = usize::from(u8::from(date.month())) - 1;
    let hour12 = match date.hour() % 12 {
        0 => 12,
        hour => hour,
    };
    let year = date.year().unsigned_abs();
    let text = |text: &str, out: &mut Vec<u8>| out.extend_from_slice(text.as_bytes());
    match field {
        'a' => text(&DAYS[weekday][..3], out),
        'A' => text(DAYS[weekday], out),
        'b' | 'h' => text(&MONTHS[month][..3], out),
        'B' => text(MONTHS[month], out),
        'c' => {
            for part in ['a', ' ', 'b', ' ', 'e', ' ', 'T', ' ', 'Y'] {
                match part {
                    ' ' => out.push(b' '),
                    part => write_field(part, date, epoch_seconds, out),
                }
            }
        }
        'C' => pad(year / 100, 2, b'0', out),
        'd' => pad(u32::from(date.day()), 2, b'0', out),
        'D' | 'x' => {
            pad(u32::from(u8::from(date.month())), 2, b'0', out);
            out.push(b'/');
            pad(u32::from(date.day()), 2, b'0', out);
            out.push(b'/');
            pad(year % 100, 2, b'0', out);
        }
        'e' => pad(u32::from(date.day()), 2, b' ', out),
        'F' => write_date(date, out),
        'g' => pad(date.to_iso_week_date().0.unsigned_abs() % 100, 2, b'0', out),
        'G' => pad(date.to_iso_week_date().0.unsigned_abs(), 4, b'0', out),
        'H' => pad(u32::from(date.hour()), 2, b'0', out),
        'I' => pad(u32::from(hour12), 2, b'0', out),
        'j' => pad(u32::from(date.ordinal()), 3, b'0', out),
        'k' => pad(u32::from(date.hour()), 2, b' ', out),
        'l' => pad(u32::from(hour12), 2, b' ', out),
        'm' => pad(u32::from(u8::from(date.month())), 2, b'0', out),
        'M' => pad(u32::from(date.minute()), 2, b'0', out),
        'n' => out.push(b'\n'),
        'p' => text(if date.hour() < 12 { "AM" } else { "PM" }, out),
        'r' => {
            pad(u32::from(hour12), 2, b'0', out);
            let _ = write!(out, ":{:02}:{:02} ", date.minute(), date.second());
            write_field('p', date, epoch_seconds, out);
        }
        'R' => {
            pad(u32::from(date.hour()), 2, b'0', out);
            out.push(b':');
            pad(u32::from(date.minute()), 2, b'0', out);
        }
        's' => text(itoa::Buffer::new().format(epoch_seconds), out),
        'S' => pad(u32::from(date.second()), 2, b'0', out),
        't' => out.push(b'\t'),
        'T' | 'X' => write_time(date, out),
        'u' => pad(u32::from(date.weekday().number_from_monday()), 1, b'0', out),
        'U' => pad(u32::from(date.sunday_based_week()), 2, b'0', out),
        'V' => pad(u32::from(date.iso_week()), 2, b'0', out),
        'w' => pad(weekday as u32, 1, b'0', out),
        'W' => pad(u32::from(date.monday_based_week()), 2, b'0', out),
        'y' => pad(year % 100, 2, b'0', out),
        'Y' => pad(year, 4, b'0', out),
        'z' => write_offset(date, false, out),
        // Zone names are not known to a process; UTC is, others are written as their offset.
        'Z' if date.offset().is_utc() => text("UTC", out),
        'Z' => write_offset(date, false, out),
        _ => {}
    }
}

fn write_date(date: &OffsetDateTime, out: &mut Vec<u8>) {
    pad(date.year().unsigned_abs(), 4, b'0', out);
    out.push(b'-');
    pad(u32::from(u8::from(date.month())), 2, b'0', out);
    out.push(b'-');
    pad(u32::from(date.day()), 2, b'0', out);
}

fn write_time(date: &OffsetDateTime, out: &mut Vec<u8>) {
    pad(u32::from(date.hour()), 2, b'0', out);
    out.push(b':');
    pad(u32::from(date.minute()), 2, b'0', out);
    out.push(b':');
    pad(u32::from(date.second()), 2, b'0', out);
}

fn write_offset(date: &OffsetDateTime, colon: bool, out: &mut Vec<u8>) {
    let (hours, minutes, _) = date.offset().as_hms();
    out.push(if date.offset().is_negative() { b'-' } else { b'+' });
    pad(u32::from(hours.unsigned_abs()), 2, b'0', out);
    if colon {
        out.push(b':');
    }
    pad(u32::from(minutes.unsigned_abs()), 2, b'0', out);
}

fn write_fraction(nanos: u32, digits: u8, out: &mut Vec<u8>) {
    let digits = u32::from(digits.min(9));
    pad(nanos / 10_u32.pow(9 - digits), digits as usize, b'0', out);
}

fn pad(number: u32, width: usize, fill: u8, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(number);
    for _ in text.len()..width {
        out.push(fill);
    }
    out.extend_from_slice(text.as_bytes());
}
