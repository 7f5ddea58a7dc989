//! How long the guest was away when its host was killed.

use std::error::Error;
use std::fmt::Write as _;

use plotters::prelude::*;

use super::plots::{Plot, heading};
use super::{head, line, summary};
use crate::outage::Outage;
use crate::record::Record;
use crate::statistics::Summary;

/// A part of an outage.
type Part = fn(&Outage) -> Option<u64>;

/// What an outage consists of, in the order in which it happens.
const PARTS: [(&str, Part, RGBColor); 3] = [
    ("detection", |outage| outage.detect_ms, RGBColor(90, 90, 90)),
    (
        "claim, rest of the log, going live",
        |outage| outage.go_live_ms,
        RGBColor(214, 99, 20),
    ),
    (
        "from there to the first reply",
        |outage| outage.first_reply_ms,
        RGBColor(140, 190, 230),
    ),
];

/// Width of the plot in pixels; room for title and legend; what an outage takes of the height.
const WIDTH: u32 = 1000;
const TOP: u32 = 60;
const ROW: u32 = 16;

impl Record {
    pub(super) fn outage_table(&self, text: &mut String) {
        text.push_str("## Outage on failover\n\n");
        if self.outages.is_empty() {
            text.push_str("No host was killed in this run.\n\n");
            return;
        }
        let failed = self.outages.iter().filter(|outage| outage.reason.is_some());
        let lost: u64 = self.outages.iter().map(|outage| outage.lost).sum();
        let _ = writeln!(
            text,
            "{} kills of the primary's host; {} did not go well; {lost} acknowledged requests were \
             lost. In milliseconds:\n",
            self.outages.len(),
            failed.clone().count()
        );
        head(text, &["", "median", "shortest", "longest"]);
        let all: (&str, Part) = ("all of it, as the client sees it", |outage| {
            outage.outage_ms
        });
        let parts = PARTS.map(|(name, part, _)| (name, part));
        for (name, part) in parts.into_iter().chain([all]) {
            let values: Vec<u64> = self.outages.iter().filter_map(part).collect();
            let bounds = [values.iter().min(), values.iter().max()];
            let bounds = bounds.map(|bound| bound.map_or("–".to_owned(), u64::to_string));
            let median = summary(Summary::of(values.iter().map(|value| *value as f64)));
            line(text, [name.to_owned(), median].into_iter().chain(bounds));
        }
        text.push('\n');
        for outage in failed {
            let _ = writeln!(text, "- {}", outage.reason.as_deref().unwrap_or_default());
        }
    }

    /// A bar for each outage of which all is known, the shortest first.
    pub(super) fn outage_plot(&self) -> Option<Plot> {
        let known = |outage: &Outage| {
            let parts = PARTS.map(|(_, part, _)| part(outage));
            let parts: Option<Vec<u64>> = parts.into_iter().collect();
            parts.filter(|_| outage.outage_ms.is_some())
        };
        let mut outages: Vec<Vec<u64>> = self.outages.iter().filter_map(known).collect();
        outages.sort_by_key(|parts| parts.iter().sum::<u64>());
        let title = "outages as the client sees them, each a bar, ms";
        (!outages.is_empty()).then(|| Plot {
            name: "outages.svg".to_owned(),
            title: title.to_owned(),
            svg: stacks(title, &outages).expect("drawing into a string does not fail"),
        })
    }
}

fn stacks(title: &str, outages: &[Vec<u64>]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let size = (WIDTH, TOP + outages.len() as u32 * ROW + 50);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        heading(&area, title, PARTS.map(|(name, _, colour)| (name, colour)))?;
        let longest = outages.last().map_or(1, |parts| parts.iter().sum::<u64>());
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .margin_top(TOP)
            .x_label_area_size(25)
            .build_cartesian_2d(0.0..longest as f64 * 1.02, outages.len() as f64..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_label_formatter(&|x| super::figure(*x))
            .draw()?;
        for (row, parts) in outages.iter().enumerate() {
            let mut left = 0.0;
            for ((_, _, colour), part) in PARTS.into_iter().zip(parts) {
                let end = left + *part as f64;
                let corners = [(left, row as f64 + 0.1), (end, row as f64 + 0.9)];
                chart.draw_series([Rectangle::new(corners, colour.filled())])?;
                left = end;
            }
        }
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::record;

    fn outage(parts: [u64; 3]) -> Outage {
        Outage {
            detect_ms: Some(parts[0]),
            go_live_ms: Some(parts[1]),
            first_reply_ms: Some(parts[2]),
            outage_ms: Some(parts.iter().sum()),
            ..Outage::default()
        }
    }

    #[test]
    fn every_outage_has_a_bar_of_its_parts() {
        let mut record = record(&[]);
        assert_eq!(record.outage_plot(), None);
        record.outages = vec![outage([500, 30, 20]), outage([510, 10, 5])];
        // Of one that did not go well there is nothing to draw.
        record.outages.push(Outage {
            reason: Some("it did not come back".to_owned()),
            ..Outage::default()
        });
        let plot = record.outage_plot().expect("two bars");
        for (name, _, RGBColor(r, g, b)) in PARTS {
            let colour = format!("#{r:02X}{g:02X}{b:02X}");
            // Two bars and the legend.
            assert_eq!(plot.svg.matches(&colour).count(), 3, "{name}: {}", plot.svg);
        }
        let mut text = String::new();
        record.outage_table(&mut text);
        assert!(
            text.contains("| detection | 505 ± 5.00 | 500 | 510 |"),
            "{text}"
        );
        assert!(text.contains("1 did not go well") && text.contains("it did not come back"));
    }
}
