//! Plots, as SVG.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::condition::Axis;
use crate::configuration::Configuration;
use crate::record::Record;
use crate::sample::Metric;
use crate::schedule;
use crate::workload::Workload;

/// Its size in pixels.
const SIZE: (u32, u32) = (1000, 420);
/// Room for the names of workloads.
const NAMES: u32 = 70;
/// The part of a workload's room that its bars fill together.
const FILLED: f64 = 0.8;

/// What of growth is drawn.
const GROWING: [Metric; 4] = [
    Metric::Throughput,
    Metric::LatencyP50,
    Metric::LagP99,
    Metric::ChannelMbit,
];
/// The height of one of its panels, and of the title above them.
const PANEL: u32 = 290;
const TITLE: u32 = 30;

/// A plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plot {
    /// The file's name, without a directory.
    pub name: String,
    /// What it shows, in words.
    pub title: String,
    /// The file.
    pub svg: String,
}

/// A configuration's colour: tellable apart without colours by their brightness too.
fn colour(configuration: Configuration) -> RGBColor {
    match configuration {
        Configuration::Qemu => RGBColor(90, 90, 90),
        Configuration::Alone => RGBColor(31, 119, 180),
        Configuration::Beside => RGBColor(100, 160, 120),
        Configuration::Record => RGBColor(140, 190, 230),
        Configuration::LoggedReads => RGBColor(214, 99, 20),
        Configuration::DiskReads => RGBColor(250, 180, 110),
        Configuration::Colo => RGBColor(170, 60, 90),
    }
}

/// The bars of one workload, a value for each configuration that has one.
struct Group {
    name: &'static str,
    bars: Vec<(Configuration, f64)>,
}

/// A metric along an axis, a curve for each configuration.
struct Panel {
    title: &'static str,
    curves: Vec<(Configuration, Vec<(f64, f64)>)>,
}

impl Record {
    /// All plots of which there is something to show.
    #[must_use]
    pub fn plots(&self) -> Vec<Plot> {
        let ratios = |to: Configuration| {
            self.groups(move |record, configuration, workload| {
                let ratio = record.ratio(configuration, to, workload, Metric::Throughput)?;
                (configuration != to).then_some(ratio.median)
            })
        };
        let medians = |metric: Metric| {
            self.groups(move |record, configuration, workload| {
                Some(record.summary(configuration, workload, metric)?.median)
            })
        };
        [
            (
                "to-qemu",
                "throughput in proportion to QEMU with KVM",
                ratios(Configuration::Qemu),
            ),
            (
                "to-alone",
                "throughput in proportion to ftvm alone",
                ratios(Configuration::Alone),
            ),
            ("latency", "median latency, ms", medians(Metric::LatencyP50)),
            ("log", "log, Mbit/s", medians(Metric::LogMbit)),
            ("hold", "output hold p99, ms", medians(Metric::HoldP99)),
            ("lag", "backup's lag p99, ms", medians(Metric::LagP99)),
            (
                "cpu",
                "processor time of the VMM, s/s",
                medians(Metric::PrimaryCpu),
            ),
        ]
        .into_iter()
        .filter(|(_, _, groups)| !groups.is_empty())
        .map(|(name, title, groups)| Plot {
            name: format!("{name}.svg"),
            title: title.to_owned(),
            svg: bars(title, &groups).expect("drawing into a string does not fail"),
        })
        .chain(self.time_plot())
        .chain(self.outage_plot())
        .chain(
            Axis::ALL
                .into_iter()
                .filter_map(|axis| self.growth_plot(axis)),
        )
        .collect()
    }

    /// How figures go along an axis, a panel for each.
    fn growth_plot(&self, axis: Axis) -> Option<Plot> {
        let panel = |metric: Metric| {
            let curve = |configuration: &Configuration| {
                let points = self.growth(axis, *configuration, metric);
                let points: Vec<_> = points.into_iter().map(|(at, s)| (at, s.median)).collect();
                // The usual condition alone is no growth.
                (points.len() > 1).then_some((*configuration, points))
            };
            let title = match metric {
                Metric::Throughput => schedule::GROWTH.unit(),
                other => other.title(),
            };
            Panel {
                title,
                curves: self.configurations.iter().filter_map(curve).collect(),
            }
        };
        let panels = GROWING.map(panel);
        let title = format!("{}: {}", schedule::GROWTH, axis.title());
        (!panels[0].curves.is_empty()).then(|| Plot {
            name: format!("growth-{}.svg", axis.name()),
            svg: curves(&title, &panels).expect("drawing into a string does not fail"),
            title,
        })
    }

    fn groups(&self, value: impl Fn(&Self, Configuration, Workload) -> Option<f64>) -> Vec<Group> {
        let group = |workload: &Workload| {
            let bar = |configuration: &Configuration| {
                let value = value(self, *configuration, *workload)?;
                Some((*configuration, value))
            };
            let bars: Vec<_> = self.configurations.iter().filter_map(bar).collect();
            (!bars.is_empty()).then_some(Group {
                name: workload.name(),
                bars,
            })
        };
        self.workloads.iter().filter_map(group).collect()
    }
}

fn bars(title: &str, groups: &[Group]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let values = groups.iter().flat_map(|group| &group.bars);
        let most = values.map(|(_, value)| *value).fold(0.0, f64::max);
        let top = if most > 0.0 { most * 1.1 } else { 1.0 };
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(NAMES)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..groups.len() as f64, 0.0..top)?;
        // The names stand in the middle of each workload's room.
        let name = |x: &f64| {
            let in_the_middle = (x.fract() - 0.5).abs() < 1e-6;
            let group = groups.get(*x as usize).filter(|_| in_the_middle);
            group.map_or(String::new(), |group| group.name.to_owned())
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(2 * groups.len() + 1)
            .x_label_formatter(&name)
            .y_label_formatter(&|y| super::figure(*y))
            .draw()?;
        for configuration in Configuration::ALL {
            let bars: Vec<_> = groups
                .iter()
                .enumerate()
                .flat_map(|(place, group)| bar(place, group, configuration, top))
                .collect();
            if bars.is_empty() {
                continue;
            }
            let style = colour(configuration).filled();
            let bars = bars
                .into_iter()
                .map(|[from, to]| Rectangle::new([from, to], style));
            chart
                .draw_series(bars)?
                .label(configuration.title())
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}

/// Panels under one another's title, two in a row, with one legend: that of the first.
fn curves(title: &str, panels: &[Panel; 4]) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let size = (SIZE.0, 2 * PANEL + TITLE);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let area = area.titled(title, ("sans-serif", 18))?;
        for (number, (panel, area)) in panels.iter().zip(area.split_evenly((2, 2))).enumerate() {
            let points = || panel.curves.iter().flat_map(|(_, points)| points);
            let right = points().map(|(x, _)| *x).fold(0.0, f64::max);
            let top = points().map(|(_, y)| *y).fold(0.0, f64::max);
            let above = |most: f64| if most > 0.0 { most * 1.05 } else { 1.0 };
            let mut chart = ChartBuilder::on(&area)
                .caption(panel.title, ("sans-serif", 14))
                .margin(8)
                .x_label_area_size(25)
                .y_label_area_size(55)
                .build_cartesian_2d(0.0..above(right), 0.0..above(top))?;
            chart
                .configure_mesh()
                .x_label_formatter(&|x| super::figure(*x))
                .y_label_formatter(&|y| super::figure(*y))
                .draw()?;
            for (configuration, points) in &panel.curves {
                let style = colour(*configuration).stroke_width(2);
                chart
                    .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
                    .label(configuration.title())
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

/// The title above a plot of stacked bars, and what their colours mean, four in a line.
pub(super) fn heading(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    colours: impl IntoIterator<Item = (&'static str, RGBColor)>,
) -> Result<(), Box<dyn Error>> {
    let font = |size: u32| ("sans-serif", size).into_font();
    area.draw(&Text::new(title, (12, 12), font(18)))?;
    for (number, (name, colour)) in (0..).zip(colours) {
        let (x, y) = (12 + number % 4 * 240, 36 + number / 4 * 15);
        area.draw(&Rectangle::new([(x, y), (x + 12, y + 11)], colour.filled()))?;
        area.draw(&Text::new(name, (x + 17, y), font(12)))?;
    }
    Ok(())
}

/// The corners of a configuration's bar among its workload's.
fn bar(
    place: usize,
    group: &Group,
    configuration: Configuration,
    top: f64,
) -> Option<[(f64, f64); 2]> {
    let (number, (_, value)) = group
        .bars
        .iter()
        .enumerate()
        .find(|(_, (of, _))| *of == configuration)?;
    let width = FILLED / group.bars.len() as f64;
    let left = place as f64 + (1.0 - FILLED) / 2.0 + number as f64 * width;
    Some([(left, 0.0), (left + width * 0.92, value.min(top))])
}

#[cfg(test)]
mod tests {
    use super::super::super::record::tests::record;
    use super::*;

    #[test]
    fn there_is_a_bar_for_every_value_and_a_name_for_every_workload() {
        use Configuration::{Alone, LoggedReads, Qemu};
        let record = record(&[
            (1, Qemu, Workload::RedisSet, 400.0),
            (1, Alone, Workload::RedisSet, 380.0),
            (1, LoggedReads, Workload::RedisSet, 300.0),
            (1, Qemu, Workload::Compute, 10.0),
            (1, Alone, Workload::Compute, 9.0),
        ]);
        let plots = record.plots();
        let names: Vec<_> = plots.iter().map(|plot| plot.name.as_str()).collect();
        assert_eq!(names, ["to-qemu.svg", "to-alone.svg"]);
        let svg = &plots[0].svg;
        for name in ["redis-set", "compute", "ftvm replicated"] {
            assert!(svg.contains(name), "{name}: {svg}");
        }
        let RGBColor(r, g, b) = colour(Alone);
        let colour = format!("#{r:02X}{g:02X}{b:02X}");
        // Two bars, and one in the legend.
        assert_eq!(svg.matches(&colour).count(), 3, "{svg}");
    }

    #[test]
    fn nothing_measured_is_no_plot() {
        assert_eq!(record(&[]).plots(), []);
    }
}
