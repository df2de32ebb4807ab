//! Texts with numbers in them. One function makes them all: with a `write!` for each, what errors and findings say
//! would take more room than what the interrupts do.

use core::fmt::{self, Write};

/// A text, and the numbers that go into it.
pub(crate) type Said = (&'static str, [u64; 3]);

/// Writes a text, with the next of the numbers for each mark in it:
///
/// | mark | |
/// |---|---|
/// | `%d` | decimal |
/// | `%x` | hexadecimal after 0x |
/// | `%2`, `%3`, `%8` | the same, with so many digits at least |
/// | `%b` | the [`number`](crate::BarIndex::number) of a BAR, as its name |
pub(crate) fn say(f: &mut fmt::Formatter<'_>, (text, [a, b, c]): Said) -> fmt::Result {
    say_one_by_one(f, text, a, b, c)
}

// As many arguments as registers: each text is then a few instructions.
#[inline(never)]
fn say_one_by_one(f: &mut fmt::Formatter<'_>, text: &str, a: u64, b: u64, c: u64) -> fmt::Result {
    let (mut number, mut next) = (a, b);
    let mut said = 0;
    for (place, mark) in text.as_bytes().windows(2).enumerate() {
        if let [b'%', mark] = mark {
            f.write_str(text.get(said..place).unwrap_or(""))?;
            say_number(f, *mark, number)?;
            (number, next) = (next, c);
            said = place.saturating_add(2);
        }
    }
    f.write_str(text.get(said..).unwrap_or(""))
}

fn say_number(f: &mut fmt::Formatter<'_>, mark: u8, number: u64) -> fmt::Result {
    let least = match mark {
        b'b' if number == 6 => return f.write_str("ROM"),
        b'b' => {
            f.write_str("BAR")?;
            return decimal(f, number);
        }
        b'd' => return decimal(f, number),
        b'2' => 2,
        b'3' => 3,
        b'8' => 8,
        _ => 1,
    };
    f.write_str("0x")?;
    hexadecimal(f, number, least)
}

/// A number in decimal.
// `write!` would bring all of its ways to format a number: the core is to be small.
pub(crate) fn decimal(f: &mut fmt::Formatter<'_>, number: u64) -> fmt::Result {
    if number > 9 {
        decimal(f, number / 10)?;
    }
    digit(f, number % 10)
}

/// A number in hexadecimal, of at least so many digits.
pub(crate) fn hexadecimal(f: &mut fmt::Formatter<'_>, number: u64, least: u8) -> fmt::Result {
    if number > 15 || least > 1 {
        hexadecimal(f, number.wrapping_shr(4), least.saturating_sub(1))?;
    }
    digit(f, number & 15)
}

fn digit(f: &mut fmt::Formatter<'_>, digit: u64) -> fmt::Result {
    f.write_char(u32::try_from(digit).ok().and_then(|digit| char::from_digit(digit, 16)).unwrap_or('?'))
}

/// A number of things in memory, as it goes into a text.
pub(crate) fn count(things: usize) -> u64 {
    u64::try_from(things).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};

    struct Text(Said);

    impl fmt::Display for Text {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            say(f, self.0)
        }
    }

    fn said(text: &'static str, numbers: [u64; 3]) -> String {
        Text((text, numbers)).to_string()
    }

    #[test]
    fn numbers_go_in_where_the_marks_are() {
        assert_eq!(said("%d of %x: %b", [10, 0x1f, 3]), "10 of 0x1f: BAR3");
    }

    #[test]
    fn hexadecimal_numbers_have_so_many_digits_at_least() {
        assert_eq!(said("%2 %3 %8", [1, 2, 0x1_0000_0003]), "0x01 0x002 0x100000003");
    }

    #[test]
    fn numbers_of_any_size_are_written() {
        let most = u64::MAX;
        assert_eq!(said("%d %x %d", [most, most, 0]), std::format!("{most} {most:#x} 0"));
    }

    #[test]
    fn numbers_have_as_many_digits_as_they_need() {
        assert_eq!(said("%d %d %d", [0, 9, 10]), "0 9 10");
        assert_eq!(said("%x %x %x", [0, 15, 16]), "0x0 0xf 0x10");
        assert_eq!(said("%2 %2", [15, 0x100, 0]), "0x0f 0x100");
    }

    #[test]
    fn the_rom_is_no_bar_with_a_number() {
        assert_eq!(said("%b", [6, 0, 0]), "ROM");
    }

    #[test]
    fn text_without_marks_is_as_it_is() {
        assert_eq!(said("", [1; 3]), "");
        assert_eq!(said("as it is %", [1; 3]), "as it is %");
    }
}
