//! All cuts of one link and of two in one picture.

use std::fmt::Write as _;
use std::time::Duration;

use super::case::Cut;
use super::outcome::{Outcome, seconds};

/// The side of a cell, in pixels.
const CELL: usize = 22;
/// What the names of cuts take, at the left and above.
const NAMES: usize = 190;
/// The legend below.
const LEGEND: usize = 70;

/// Colours, each for times up to its own, and how the legend calls it.
const COLOURS: [(Duration, &str, &str); 5] = [
    (Duration::from_millis(150), "#e9eef2", "nothing to notice"),
    (Duration::from_secs(1), "#a9cfe8", "up to 1 s"),
    (Duration::from_secs(3), "#4f94c8", "up to 3 s"),
    (Duration::from_secs(10), "#f2b84b", "up to 10 s"),
    (Duration::MAX, "#c8442b", "until it was healed"),
];

fn colour(time: Duration) -> &'static str {
    let (.., colour, _) = COLOURS
        .into_iter()
        .find(|(up_to, ..)| time <= *up_to)
        .expect("the last one is for all");
    colour
}

/// The picture as SVG. Below the diagonal is the longest time without a reply, above it that without
/// protection; on the diagonal is the former, of one cut alone.
pub(super) fn draw(cuts: &[(Cut, Outcome)], pairs: &[([Cut; 2], Outcome)]) -> String {
    let side = NAMES + cuts.len() * CELL;
    let (width, height) = (side + 10, side + LEGEND);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" font-family=\"DejaVu Sans, Verdana, Helvetica, Arial, \
         sans-serif\" font-size=\"11\">\n<title>Every cut of one link and of two</title>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    let place = |cut: &Cut| {
        let number = cuts.iter().position(|(known, _)| known == cut);
        NAMES + number.expect("it is one of them") * CELL
    };
    let mut cell = |column: usize, row: usize, time: Duration, told: String| {
        let side = CELL - 1;
        let fill = colour(time);
        let _ = writeln!(
            svg,
            "<rect x=\"{column}\" y=\"{row}\" width=\"{side}\" height=\"{side}\" fill=\"{fill}\">\
             <title>{told}</title></rect>"
        );
    };
    for (cut, outcome) in cuts {
        let at = place(cut);
        let told = format!("{cut}: no reply for {}", seconds(outcome.silence));
        cell(at, at, outcome.silence, told);
    }
    for ([one, other], outcome) in pairs {
        let (first, second) = (place(one), place(other));
        let silence = seconds(outcome.silence);
        let told = format!("{one}, and {other}: no reply for {silence}");
        cell(first, second, outcome.silence, told);
        let unprotected = seconds(outcome.unprotected);
        let told = format!("{one}, and {other}: not protected for {unprotected}");
        cell(second, first, outcome.unprotected, told);
    }
    for (cut, _) in cuts {
        let middle = place(cut) + CELL / 2 + 3;
        let end = NAMES - 6;
        let _ = writeln!(
            svg,
            "<text x=\"{end}\" y=\"{middle}\" text-anchor=\"end\">{cut}</text>\n\
             <text transform=\"translate({middle} {end}) rotate(-90)\">{cut}</text>"
        );
    }
    for (number, (_, fill, name)) in COLOURS.into_iter().enumerate() {
        let (left, top) = (NAMES + number * 118, side + 14);
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{top}\" width=\"12\" height=\"12\" fill=\"{fill}\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            left + 16,
            top + 10
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{NAMES}\" y=\"{}\">lower left: the longest time without a reply; upper right: the time \
         without protection</text>\n</svg>",
        side + 48
    );
    svg
}
