//! The proleptic Gregorian calendar, in days since 2000-01-01.

/// Days from 0000-03-01 to 2000-01-01.
const EPOCH: i64 = 730_425;
/// Days in 400 years.
const CYCLE: i64 = 146_097;

/// Year, month (1–12) and day of month (1–31) of a day since 2000-01-01. Years run from March, so that the leap day
/// comes last (Howard Hinnant, "chrono-compatible low-level date algorithms").
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH;
    let cycle = days.div_euclid(CYCLE);
    let day_of_cycle = days.rem_euclid(CYCLE);
    let year_of_cycle =
        (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (cycle * 400 + year_of_cycle + i64::from(month <= 2), month, day)
}

/// Days since 2000-01-01 of a date; month 1–12, day 1–31.
pub const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let cycle = year.div_euclid(400);
    let year_of_cycle = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    cycle * CYCLE + year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year - EPOCH
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_every_day_of_five_centuries() {
        // The obvious calendar: add one day at a time from 1700-01-01, 300 years with 72 leap days before 2000.
        let mut days = -(300 * 365 + 72 + 1) + 1;
        let (mut year, mut month, mut day) = (1700, 1, 1);
        while year < 2200 {
            assert_eq!(civil_from_days(days), (year, month, day));
            assert_eq!(days_from_civil(year, month, day), days);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + i64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            days += 1;
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
    }
}
