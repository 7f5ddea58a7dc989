//! Plots, as SVG.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::time::{PARTS, of_the_same_work};
use crate::configuration::Configuration;
use crate::figures::THROUGHPUT;
use crate::outage::{ALL, DETECTION, FIRST_REPLY, GO_LIVE};
use crate::record::Record;
use crate::statistics::figure;

/// Width in pixels.
const WIDTH: u32 = 1000;
/// Room for the names of bars, and for title and legend.
const NAMES: u32 = 270;
const TOP: u32 = 75;
/// Longer bars are cut: one that is very long would leave nothing to see of the others.
const LONGEST: f64 = 4.0;

/// A plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// The file's name, without a directory.
    pub(crate) name: &'static str,
    /// What it shows, in words.
    pub(crate) title: &'static str,
    pub(crate) svg: String,
}

/// What a colour means.
type Legend = (&'static str, RGBColor);

/// A bar of parts, one behind the other, and its name.
type Bar = (String, Vec<(f64, RGBColor)>);

/// What an outage consists of, in the order in which it happens.
const OUTAGE: [Legend; 3] = [
    (DETECTION, RGBColor(90, 90, 90)),
    (GO_LIVE, RGBColor(214, 99, 20)),
    (FIRST_REPLY, RGBColor(140, 190, 230)),
];

/// A configuration's colour: tellable apart without colours by their brightness too.
fn legend(configuration: Configuration) -> Legend {
    let colour = match configuration {
        Configuration::Qemu => RGBColor(90, 90, 90),
        Configuration::Alone => RGBColor(31, 119, 180),
        Configuration::Record => RGBColor(140, 190, 230),
        Configuration::LoggedReads => RGBColor(214, 99, 20),
        Configuration::DiskReads => RGBColor(250, 180, 110),
        Configuration::Colo => RGBColor(170, 60, 90),
        Configuration::AloneNested => RGBColor(70, 130, 80),
        Configuration::LoggedReadsNested => RGBColor(150, 190, 150),
        // They have no throughput of their own, and so no bars.
        Configuration::Joining | Configuration::Migration => RGBColor(228, 228, 228),
    };
    (configuration.title(), colour)
}

/// All plots for which something was measured.
#[must_use]
pub fn plots(record: &Record) -> Vec<Plot> {
    let configurations = record.configurations().into_iter();
    let configurations = configurations.filter(|one| !one.transfers());
    let configurations: Vec<_> = configurations.map(legend).collect();
    let parts = PARTS.map(|(name, colour, _)| (name, colour));
    let mut plots = Vec::new();
    let mut plot = |name, title, legend: &[Legend], row, bars: Vec<Bar>| {
        if !bars.is_empty() {
            let svg = stacks(title, legend, row, &bars).expect("a string takes all");
            plots.push(Plot { name, title, svg });
        }
    };
    let title = "throughput in proportion to ftvm alone, medians of the rounds' ratios";
    let bars = throughputs(record);
    plot("throughput.svg", title, &configurations, 8, bars);
    let title = "the work that ftvm alone does in a second, in seconds of the guest's host";
    plot("time.svg", title, &parts, 15, times(record));
    let title = "outages as the client sees them, each a bar, ms";
    plot("outages.svg", title, &OUTAGE, 15, outages(record));
    plots
}

fn throughputs(record: &Record) -> Vec<Bar> {
    let mut bars = Vec::new();
    for workload in record.workloads() {
        let mut name = workload.title();
        for configuration in record.configurations() {
            let alone = Configuration::Alone;
            if let Some(ratio) = record.ratio(configuration, alone, workload, THROUGHPUT) {
                let name = std::mem::take(&mut name).to_owned();
                bars.push((name, vec![(ratio.median, legend(configuration).1)]));
            }
        }
        if name.is_empty() {
            // Room between two workloads.
            bars.push((String::new(), Vec::new()));
        }
    }
    bars
}

fn times(record: &Record) -> Vec<Bar> {
    let mut bars = Vec::new();
    for workload in record.workloads() {
        let mut title = Some((format!("{workload}:"), Vec::new()));
        for configuration in record.configurations() {
            if let Some(parts) = of_the_same_work(record, configuration, workload) {
                let colours = PARTS.iter().map(|(_, colour, _)| *colour);
                bars.extend(title.take());
                let seconds = parts.into_iter().zip(colours).collect();
                bars.push((configuration.to_string(), seconds));
            }
        }
    }
    bars
}

/// The outages of which all is known, the shortest first.
fn outages(record: &Record) -> Vec<Bar> {
    let all = record.outages.iter().map(|outage| &outage.millis);
    let known = all.filter(|millis| millis.contains_key(ALL));
    let bar = known.filter_map(|millis| {
        let part = |(name, colour)| Some((*millis.get(name)? as f64, colour));
        let parts: Option<Vec<_>> = OUTAGE.into_iter().map(part).collect();
        Some((String::new(), parts?))
    });
    let mut bars: Vec<Bar> = bar.collect();
    bars.sort_by(|a, b| length(a).total_cmp(&length(b)));
    bars
}

fn length((_, parts): &Bar) -> f64 {
    parts.iter().map(|(length, _)| length).sum()
}

/// Bars from left to right, each so many pixels high.
fn stacks(
    title: &str,
    legend: &[Legend],
    row: u32,
    bars: &[Bar],
) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    let size = (WIDTH, TOP + bars.len() as u32 * row + 40);
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |size: u32| ("sans-serif", size).into_font();
    area.draw(&Text::new(title, (12, 12), font(18)))?;
    for (number, (name, colour)) in (0..).zip(legend) {
        let (x, y) = (12 + number % 4 * 245, 38 + number / 4 * 16);
        area.draw(&Rectangle::new([(x, y), (x + 12, y + 11)], colour.filled()))?;
        area.draw(&Text::new(*name, (x + 17, y), font(12)))?;
    }
    let longest = bars.iter().map(length).fold(0.0, f64::max);
    // Times and ratios near one; milliseconds are as long as they are.
    let right = match longest {
        100.0.. => longest,
        _ => longest.clamp(1.0, LONGEST),
    };
    let named = bars.iter().any(|(name, _)| !name.is_empty());
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .margin_top(TOP)
        .x_label_area_size(25)
        .y_label_area_size(if named { NAMES } else { 0 })
        .build_cartesian_2d(0.0..right * 1.05, bars.len() as f64..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_max_light_lines(1)
        .x_label_formatter(&|x| figure(*x))
        .draw()?;
    let words = |text: String, at: (f64, f64)| {
        let ending = Pos::new(HPos::Right, VPos::Center);
        let style = font(12).into_text_style(&area).pos(ending);
        EmptyElement::at(at) + Text::new(text, (-8, 0), style)
    };
    for (y, bar) in bars.iter().enumerate() {
        let y = y as f64;
        let mut left = 0.0;
        for (length, colour) in &bar.1 {
            let end = f64::min(left + length, right);
            let corners = [(left, y + 0.1), (end, y + 0.9)];
            chart.draw_series([Rectangle::new(corners, colour.filled())])?;
            left = end;
        }
        chart.draw_series([words(bar.0.clone(), (0.0, y + 0.5))])?;
        if length(bar) > right {
            let cut = format!("… {}", figure(length(bar)));
            chart.draw_series([words(cut, (right, y + 0.5))])?;
        }
    }
    area.present()?;
    drop(chart);
    drop(area);
    Ok(svg)
}
