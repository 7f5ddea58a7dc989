//! Which machine this is, whatever name it was given.

use std::fs;

use disk_server::views::Text;

/// Where that is, the best first: machine-id(5), and what the firmware has.
const PLACES: [&str; 2] = ["/etc/machine-id", "/sys/class/dmi/id/product_uuid"];

/// The number of this machine; empty if it has none.
pub(super) fn number() -> Text {
    let read = PLACES
        .iter()
        .filter_map(|place| fs::read_to_string(place).ok());
    let mut numbers = read.map(|text| text.trim().to_owned());
    Text::cut(&numbers.find(|text| is_number(text)).unwrap_or_default())
}

/// Whether that is one: before its first boot a system says `uninitialized`, and firmware without one has zeros.
fn is_number(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
    text.chars().all(is_part) && text.chars().any(|c| c != '0' && c != '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_no_number_is_none() {
        for text in ["", "uninitialized", "00000000-0000-0000-0000-000000000000"] {
            assert!(!is_number(text), "{text}");
        }
        for text in [
            "b08dfa6083e7567a1921a715000001fb",
            "4C4C4544-0042-4410-8031-B4C04F4D3332",
        ] {
            assert!(is_number(text), "{text}");
        }
    }
}
