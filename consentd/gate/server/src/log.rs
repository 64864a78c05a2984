//! The log: JSON lines on stderr in the form of the daemon's. No line has an identifier of a person.

use std::fmt::Write;

use crate::clock::wall_ms;

const DAY_S: u64 = 86_400;

/// Write a line. *message*: what happened; it has no text of a caller.
pub fn log(level: &str, message: &str) {
    eprintln!("{}", line(wall_ms(), level, message));
}

fn line(now_ms: u64, level: &str, message: &str) -> String {
    let (now_s, ms) = (now_ms / 1_000, now_ms % 1_000);
    let (year, month, day) = date(now_s / DAY_S);
    let (hour, minute, second) = (now_s % DAY_S / 3_600, now_s % 3_600 / 60, now_s % 60);
    let mut text = format!(
        "{{\"time\": \"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z\", \
         \"level\": \"{level}\", \"logger\": \"gate\", \"message\": \""
    );
    for letter in message.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            ' '.. => text.push(letter),
            _ => {
                let _ = write!(text, "\\u{:04x}", letter as u32);
            }
        }
    }
    text.push_str("\"}");
    text
}

/// Return the year, the month and the day of a day since 1970.
fn date(mut day: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for days in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn lines_are_json_with_the_time_in_utc() {
        let expected = "{\"time\": \"2024-02-29T23:59:59.007Z\", \"level\": \"info\", \"logger\": \"gate\", \
                        \"message\": \"a \\\"b\\\" \\\\ \\u000a\"}";
        assert_eq!(line(1_709_251_199_007, "info", "a \"b\" \\ \n"), expected);
        assert!(line(1_735_689_600_000, "info", "").contains("2025-01-01T00:00:00.000Z"));
        assert!(line(0, "info", "").contains("1970-01-01T00:00:00.000Z"));
    }
}
