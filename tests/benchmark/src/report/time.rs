//! Where the time of the same work goes, under each configuration.

use std::collections::BTreeMap;
use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::plots::{Plot, heading};
use super::{figure, head, line};
use crate::configuration::Configuration;
use crate::record::Record;
use crate::sample::{Figures, Metric, Sample};
use crate::statistics::medians;
use crate::workload::Workload;

/// What the processor of the host that runs the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Guest,
    Vmm,
    Kernel,
    Devices,
    Log,
    Interrupts,
    Rest,
    Idle,
}

/// What was done in so many seconds.
pub(super) type Parts = BTreeMap<Part, f64>;

/// What the work that `ftvm` alone does in a second takes.
struct Row {
    workload: Workload,
    configuration: Configuration,
    parts: Parts,
}

/// Of one processor no more than this is told in a second: what is read is not read all at once.
const ONE_PROCESSOR: f64 = 1.05;

impl Part {
    pub(super) const ALL: [Self; 8] = [
        Self::Guest,
        Self::Vmm,
        Self::Kernel,
        Self::Devices,
        Self::Log,
        Self::Interrupts,
        Self::Rest,
        Self::Idle,
    ];

    /// By the name that the profile has.
    fn of(name: &str) -> Self {
        match name {
            "guest" => Self::Guest,
            "vCPU thread: VMM" => Self::Vmm,
            "vCPU thread: kernel" => Self::Kernel,
            // QEMU's main thread has all its devices.
            "tap" | "disk" | "disk-link" | "qemu-system-x86" => Self::Devices,
            "log-sender" | "log-acks" | "output-gate" | "disk-log" | "heartbeat" | "peer-watch" => {
                Self::Log
            }
            "host: interrupts" => Self::Interrupts,
            "host: idle" => Self::Idle,
            _ => Self::Rest,
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Vmm => "VMM on the guest's thread",
            Self::Kernel => "kernel on the guest's thread",
            Self::Devices => "network and disk threads",
            Self::Log => "log and output threads",
            Self::Interrupts => "interrupts",
            Self::Rest => "rest of the host",
            Self::Idle => "idle",
        }
    }

    fn colour(self) -> RGBColor {
        match self {
            Self::Guest => RGBColor(70, 130, 80),
            Self::Vmm => RGBColor(214, 99, 20),
            Self::Kernel => RGBColor(250, 180, 110),
            Self::Devices => RGBColor(31, 119, 180),
            Self::Log => RGBColor(140, 190, 230),
            Self::Interrupts => RGBColor(170, 60, 90),
            Self::Rest => RGBColor(150, 150, 150),
            Self::Idle => RGBColor(228, 228, 228),
        }
    }
}

/// What the host did in a second. Where it has several processors, those that idle say nothing.
fn parts(figures: &Figures) -> Option<Parts> {
    let profile = &figures.primary.as_ref()?.profile;
    if profile.is_empty() {
        return None;
    }
    let mut parts = Parts::new();
    for (name, share) in profile {
        *parts.entry(Part::of(name)).or_default() += share;
    }
    let told: f64 = parts.values().sum();
    if told > ONE_PROCESSOR {
        parts.remove(&Part::Idle);
    } else {
        *parts.entry(Part::Rest).or_default() += (1.0 - told).max(0.0);
    }
    Some(parts)
}

impl Record {
    /// What the host that runs the guest does for the work that is done in a second under
    /// `reference`, by rounds.
    pub(super) fn work(
        &self,
        configuration: Configuration,
        workload: Workload,
        reference: Configuration,
    ) -> BTreeMap<u32, Parts> {
        let rates = self.values(reference, workload, Metric::Throughput);
        let rates: BTreeMap<u32, f64> = rates.into_iter().collect();
        let work = |sample: &Sample| {
            let figures = sample.figures()?;
            let rate = figures.throughput.filter(|rate| *rate > 0.0)?;
            let scale = rates.get(&sample.round)? / rate;
            let parts = parts(figures)?.into_iter();
            let parts = parts.map(|(part, share)| (part, share * scale)).collect();
            Some((sample.round, parts))
        };
        self.of(configuration, workload).filter_map(work).collect()
    }

    fn time_rows(&self) -> Vec<Row> {
        let row = |workload: Workload, configuration: Configuration| {
            let rounds = self.work(configuration, workload, Configuration::Alone);
            let rounds: Vec<Parts> = rounds.into_values().collect();
            (!rounds.is_empty()).then(|| Row {
                workload,
                configuration,
                parts: medians(&rounds),
            })
        };
        let configurations = || self.configurations.iter().copied();
        let workloads = self.workloads.iter().copied();
        workloads
            .flat_map(|workload| configurations().filter_map(move |one| row(workload, one)))
            .collect()
    }

    pub(super) fn time_table(&self, text: &mut String) {
        let rows = self.time_rows();
        if rows.is_empty() {
            return;
        }
        text.push_str(
            "## Where the time goes\n\nFor the work that `ftvm` alone does in a second: what the \
             host that runs the guest does meanwhile, in seconds. Idle is a host that waits for its \
             client, for its disk, or for the backup.\n\n",
        );
        let mut titles = vec!["workload", "guest on", "together"];
        titles.extend(Part::ALL.map(Part::title));
        head(text, &titles);
        for row in rows {
            let names = [row.workload.to_string(), row.configuration.to_string()];
            let together = figure(row.parts.values().sum());
            let parts = Part::ALL.map(|part| row.parts.get(&part).map_or(0.0, |share| *share));
            let cells = names.into_iter().chain([together]);
            line(text, cells.chain(parts.map(figure)));
        }
        text.push('\n');
    }

    /// The same as a picture.
    pub(super) fn time_plot(&self) -> Option<Plot> {
        let rows = self.time_rows();
        let title = "the work that ftvm alone does in a second, in seconds";
        (!rows.is_empty()).then(|| Plot {
            name: "time.svg".to_owned(),
            title: title.to_owned(),
            svg: stacks(title, &rows).expect("drawing into a string does not fail"),
        })
    }
}

/// Width in pixels; what a row takes of the height.
const WIDTH: u32 = 1000;
const ROW: u32 = 17;
/// Room for the names of rows.
const NAMES: u32 = 270;
/// Room for title and legend.
const TOP: u32 = 70;
/// Longer bars are cut: one that is very long would leave nothing to see of the others.
const LONGEST: f64 = 4.0;

/// Bars from left to right, in groups with a heading.
fn stacks(title: &str, rows: &[Row]) -> Result<String, Box<dyn Error>> {
    let groups: Vec<&[Row]> = rows.chunk_by(|a, b| a.workload == b.workload).collect();
    let lines = (rows.len() + groups.len()) as u32;
    let mut svg = String::new();
    {
        let size = (WIDTH, TOP + lines * ROW + 40);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        area.fill(&WHITE)?;
        let font = |size: u32| ("sans-serif", size).into_font();
        heading(
            &area,
            title,
            Part::ALL.map(|part| (part.title(), part.colour())),
        )?;
        let together = rows.iter().map(|row| row.parts.values().sum());
        let right = together.fold(1.0, f64::max).min(LONGEST);
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .margin_top(TOP)
            .x_label_area_size(25)
            .y_label_area_size(NAMES)
            .build_cartesian_2d(0.0..right * 1.02, f64::from(lines)..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .x_max_light_lines(1)
            .x_label_formatter(&|x| figure(*x))
            .draw()?;
        let ending = Pos::new(HPos::Right, VPos::Center);
        let words = |text: String, at: (f64, f64), size: u32| {
            let style = font(size).into_text_style(&area).pos(ending);
            EmptyElement::at(at) + Text::new(text, (-8, 0), style)
        };
        let (mut bars, mut texts) = (Vec::new(), Vec::new());
        let mut y = 0.0;
        for group in groups {
            let heading = group[0].workload.title().to_owned();
            texts.push(words(heading, (0.0, y + 0.5), 14));
            y += 1.0;
            for row in group {
                let name = row.configuration.title().to_owned();
                texts.push(words(name, (0.0, y + 0.5), 12));
                let mut left = 0.0;
                for (part, share) in &row.parts {
                    let end = (left + share).min(right);
                    let corners = [(left, y + 0.12), (end, y + 0.88)];
                    bars.push(Rectangle::new(corners, part.colour().filled()));
                    left = end;
                }
                let together: f64 = row.parts.values().sum();
                if together > right {
                    let cut = format!("… {}", figure(together));
                    texts.push(words(cut, (right, y + 0.5), 12));
                }
                y += 1.0;
            }
        }
        chart.draw_series(bars)?;
        chart.draw_series(texts)?;
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::record::tests::record;
    use crate::sample::{HostFigures, Outcome};

    fn with_profiles(mut record: Record, profiles: &[&[(&str, f64)]]) -> Record {
        for (sample, profile) in record.samples.iter_mut().zip(profiles) {
            let Outcome::Measured { figures } = &mut sample.outcome else {
                panic!("measured");
            };
            let profile = profile
                .iter()
                .map(|(name, share)| (name.to_string(), *share));
            figures.primary = Some(HostFigures {
                profile: profile.collect(),
                ..HostFigures::default()
            });
        }
        record
    }

    pub(in crate::report) fn two() -> Record {
        use Configuration::{Alone, LoggedReads};
        with_profiles(
            record(&[
                (1, Alone, Workload::RedisSet, 400.0),
                (1, LoggedReads, Workload::RedisSet, 200.0),
            ]),
            &[
                &[("guest", 0.5), ("tap", 0.2), ("host: idle", 0.1)],
                &[
                    ("guest", 0.3),
                    ("log-acks", 0.1),
                    ("log-sender", 0.1),
                    ("host: idle", 0.5),
                ],
            ],
        )
    }

    #[test]
    fn what_half_as_fast_takes_twice_the_time() {
        let mut text = String::new();
        two().time_table(&mut text);
        // The rest of the host is what nobody told of.
        let alone =
            "| Redis SET | ftvm alone | 1.00 | 0.500 | 0 | 0 | 0.200 | 0 | 0 | 0.200 | 0.100 |";
        assert!(text.contains(alone), "{text}");
        let replicated = "| Redis SET | ftvm replicated | 2.00 | 0.600 | 0 | 0 | 0 | 0.400 | 0 |";
        assert!(text.contains(replicated), "{text}");
    }

    #[test]
    fn processors_that_idle_beside_the_guests_are_left_out() {
        let record = with_profiles(
            record(&[(1, Configuration::Alone, Workload::Compute, 40.0)]),
            &[&[("guest", 1.0), ("host: idle", 14.9)]],
        );
        let rows = record.time_rows();
        assert_eq!(rows[0].parts.get(&Part::Guest), Some(&1.0));
        assert!(
            !rows[0]
                .parts
                .get(&Part::Idle)
                .is_some_and(|idle| *idle > 0.0)
        );
    }

    #[test]
    fn the_picture_has_a_bar_for_every_part() {
        let plot = two().time_plot().expect("something to show");
        let RGBColor(r, g, b) = Part::Guest.colour();
        let guest = format!("#{r:02X}{g:02X}{b:02X}");
        // Two bars, and the legend.
        assert_eq!(plot.svg.matches(&guest).count(), 3, "{}", plot.svg);
        assert!(plot.svg.contains("ftvm replicated"));
    }

    #[test]
    fn without_a_profile_there_is_nothing_to_show() {
        let record = record(&[(1, Configuration::Alone, Workload::Compute, 40.0)]);
        assert_eq!(record.time_plot(), None);
        let mut text = String::new();
        record.time_table(&mut text);
        assert_eq!(text, "");
    }
}
