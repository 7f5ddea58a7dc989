//! Plots, as SVG.

use std::error::Error;

use clap::ValueEnum as _;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::time::{Part, of_the_same_work};
use crate::condition::Axis;
use crate::configuration::Configuration;
use crate::metric::{self, Metric};
use crate::outage::Outage;
use crate::record::Record;
use crate::schedule;
use crate::statistics::figure;

/// Width in pixels.
const WIDTH: u32 = 1000;
/// Room for the names of bars, and for title and legend.
const NAMES: u32 = 270;
const TOP: u32 = 75;
/// Longer bars are cut: one that is very long would leave nothing to see of the others.
const LONGEST: f64 = 4.0;
/// The height of a panel of growth.
const PANEL: u32 = 290;

/// A plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// The file's name, without a directory.
    pub(crate) name: String,
    /// What it shows, in words.
    pub(crate) title: String,
    pub(crate) svg: String,
}

/// What a colour means.
type Legend = (&'static str, RGBColor);

/// A bar of parts, one behind the other, and its name.
type Bar = (String, Vec<(f64, RGBColor)>);

/// What of time is drawn.
const TIME: [(Part, Legend); 8] = [
    (Part::Guest, ("guest", RGBColor(70, 130, 80))),
    (
        Part::Vmm,
        ("VMM on the guest's thread", RGBColor(214, 99, 20)),
    ),
    (
        Part::Kernel,
        ("kernel on the guest's thread", RGBColor(250, 180, 110)),
    ),
    (
        Part::Devices,
        ("network and disk threads", RGBColor(31, 119, 180)),
    ),
    (
        Part::Log,
        ("log and output threads", RGBColor(140, 190, 230)),
    ),
    (Part::Interrupts, ("interrupts", RGBColor(170, 60, 90))),
    (Part::Rest, ("rest of the host", RGBColor(150, 150, 150))),
    (Part::Idle, ("idle", RGBColor(228, 228, 228))),
];

/// A part of an outage, in milliseconds.
pub(super) type OutagePart = fn(&Outage) -> Option<u64>;

/// What an outage consists of, in the order in which it happens.
pub(super) const OUTAGE: [(OutagePart, Legend); 3] = [
    (
        |outage| outage.detect_ms,
        ("detection", RGBColor(90, 90, 90)),
    ),
    (
        |outage| outage.go_live_ms,
        ("claim, rest of the log, going live", RGBColor(214, 99, 20)),
    ),
    (
        |outage| outage.first_reply_ms,
        ("from there to the first reply", RGBColor(140, 190, 230)),
    ),
];

/// A configuration's colour: tellable apart without colours by their brightness too.
fn legend(configuration: Configuration) -> Legend {
    let colour = match configuration {
        Configuration::Qemu => RGBColor(90, 90, 90),
        Configuration::Alone => RGBColor(31, 119, 180),
        Configuration::Beside => RGBColor(100, 160, 120),
        Configuration::Record => RGBColor(140, 190, 230),
        Configuration::LoggedReads => RGBColor(214, 99, 20),
        Configuration::DiskReads => RGBColor(250, 180, 110),
        Configuration::Colo => RGBColor(170, 60, 90),
    };
    (configuration.title(), colour)
}

/// All plots of which there is something to show.
#[must_use]
pub fn plots(record: &Record) -> Vec<Plot> {
    let mut all = Vec::new();
    let mut add = |name: &str, title: &str, legend: &[Legend], row, bars: &[Bar]| {
        if !bars.is_empty() {
            all.push(Plot {
                name: format!("{name}.svg"),
                title: title.to_owned(),
                svg: stacks(title, legend, row, bars).expect("a string takes all"),
            });
        }
    };
    let legends: Vec<Legend> = record
        .configurations
        .iter()
        .map(|one| legend(*one))
        .collect();
    let title = "throughput in proportion to ftvm alone, medians of the rounds' ratios";
    add("throughput", title, &legends, 9, &throughputs(record));
    let title = "the work that ftvm alone does in a second, in seconds of the guest's host";
    add(
        "time",
        title,
        &TIME.map(|(_, legend)| legend),
        15,
        &times(record),
    );
    let title = "outages as the client sees them, each a bar, ms";
    add(
        "outages",
        title,
        &OUTAGE.map(|(_, legend)| legend),
        15,
        &outages(record),
    );
    all.extend(
        Axis::value_variants()
            .iter()
            .filter_map(|axis| growth(record, *axis)),
    );
    all
}

fn throughputs(record: &Record) -> Vec<Bar> {
    let mut bars = Vec::new();
    for workload in &record.workloads {
        let mut name = workload.title();
        for configuration in &record.configurations {
            let alone = Configuration::Alone;
            let ratio = record.ratio(*configuration, alone, *workload, metric::THROUGHPUT);
            if let Some(ratio) = ratio {
                let name = std::mem::take(&mut name).to_owned();
                bars.push((name, vec![(ratio.median, legend(*configuration).1)]));
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
    for workload in &record.workloads {
        let all = record.configurations.iter();
        let all = all.map(|one| (one, of_the_same_work(record, *one, *workload)));
        let all: Vec<_> = all.filter(|(_, parts)| !parts.is_empty()).collect();
        if !all.is_empty() {
            bars.push((format!("{workload}:"), Vec::new()));
        }
        bars.extend(all.into_iter().map(|(configuration, parts)| {
            let parts = TIME
                .map(|(part, (_, colour))| (parts.get(&part).copied().unwrap_or_default(), colour));
            (configuration.to_string(), parts.to_vec())
        }));
    }
    bars
}

/// The outages of which all is known, the shortest first.
fn outages(record: &Record) -> Vec<Bar> {
    let known = |outage: &Outage| {
        let parts = OUTAGE.map(|(of, (_, colour))| Some((of(outage)? as f64, colour)));
        outage.outage_ms?;
        Some((
            String::new(),
            parts.into_iter().collect::<Option<Vec<_>>>()?,
        ))
    };
    let mut bars: Vec<Bar> = record.outages.iter().filter_map(known).collect();
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
    {
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
        let right = if longest > 100.0 {
            longest
        } else {
            longest.clamp(1.0, LONGEST)
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
        let ending = Pos::new(HPos::Right, VPos::Center);
        let words = |text: String, at: (f64, f64)| {
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
    }
    Ok(svg)
}

/// How figures go along an axis, a panel for each, if anything but the usual condition was measured.
fn growth(record: &Record, axis: Axis) -> Option<Plot> {
    let panels = [
        (schedule::GROWTH.unit(), metric::THROUGHPUT),
        (metric::LATENCY_P50.title, metric::LATENCY_P50),
        (metric::LAG_P99.title, metric::LAG_P99),
        (metric::CHANNEL.title, metric::CHANNEL),
    ];
    let (name, words, _) = axis.about();
    let title = format!("{}: {words}", schedule::GROWTH);
    let on = |one: &Configuration| record.growth(axis, *one, metric::THROUGHPUT).len() > 1;
    let grown: Vec<_> = record.configurations.iter().copied().filter(on).collect();
    (!grown.is_empty()).then(|| Plot {
        name: format!("growth-{name}.svg"),
        svg: curves(record, axis, &title, &panels, &grown).expect("a string takes all"),
        title,
    })
}

/// Panels, two in a row, with one legend: that of the first.
fn curves(
    record: &Record,
    axis: Axis,
    title: &str,
    panels: &[(&str, Metric)],
    configurations: &[Configuration],
) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, 2 * PANEL + 30)).into_drawing_area();
        area.fill(&WHITE)?;
        let area = area.titled(title, ("sans-serif", 18))?;
        for (number, ((title, metric), area)) in
            panels.iter().zip(area.split_evenly((2, 2))).enumerate()
        {
            let curve = |configuration: &Configuration| {
                let points = record.growth(axis, *configuration, *metric).into_iter();
                let points = points.map(|(at, summary)| (at, summary.median));
                (legend(*configuration), points.collect::<Vec<_>>())
            };
            let curves: Vec<_> = configurations.iter().map(curve).collect();
            let points = curves.iter().flat_map(|(_, points)| points);
            let (right, top) = points.fold((0.0, 0.0), |(right, top), (x, y)| {
                (f64::max(right, *x), f64::max(top, *y))
            });
            let above = |most: f64| if most > 0.0 { most * 1.05 } else { 1.0 };
            let mut chart = ChartBuilder::on(&area)
                .caption(title, ("sans-serif", 14))
                .margin(8)
                .x_label_area_size(25)
                .y_label_area_size(55)
                .build_cartesian_2d(0.0..above(right), 0.0..above(top))?;
            chart
                .configure_mesh()
                .x_label_formatter(&|x| figure(*x))
                .y_label_formatter(&|y| figure(*y))
                .draw()?;
            for ((name, colour), points) in curves {
                let style = colour.stroke_width(2);
                chart
                    .draw_series(LineSeries::new(points, style).point_size(3))?
                    .label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], style));
            }
            if number == 0 {
                chart
                    .configure_series_labels()
                    .position(SeriesLabelPosition::LowerRight)
                    .background_style(WHITE.mix(0.8))
                    .border_style(BLACK)
                    .draw()?;
            }
        }
        area.present()?;
    }
    Ok(svg)
}
