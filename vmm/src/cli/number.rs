//! Numbers on the command line.

use std::ops::RangeInclusive;

/// A parser for a whole number in `range`: digits and nothing else. What the standard library takes
/// beside them, a sign, is a mistake here.
pub(super) fn number(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |word| {
        let number = digits(word);
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| expected(&range))
    }
}

fn digits(word: &str) -> Option<u64> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| word.parse().ok())?
}

fn expected(range: &RangeInclusive<u64>) -> String {
    if *range.end() == u64::MAX {
        format!("give a whole number, at least {}", range.start())
    } else {
        format!("give a whole number, {} to {}", range.start(), range.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_in_their_range_are_taken_and_nothing_else() {
        let parse = number(10..=600);
        assert_eq!(parse("10"), Ok(10));
        assert_eq!(parse("0600"), Ok(600));
        let wrong = [
            "", "9", "601", "+20", "-20", " 20", "20 ", "2e1", "0x20", "20ms", "1_0",
        ];
        for word in wrong {
            let error = parse(word).expect_err(word);
            assert_eq!(error, "give a whole number, 10 to 600", "{word}");
        }
        let error = number(4..=u64::MAX)("99999999999999999999").expect_err("too large");
        assert_eq!(error, "give a whole number, at least 4");
    }
}
