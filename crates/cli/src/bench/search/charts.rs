//! Charts of a run, as SVG files: queries per second and codes scanned, against recall. Seconds are those of the processor,
//! so that a busy machine does not change a chart much.

use std::fs;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;

use super::Report;
use crate::error::CliError;

const SIZE: (u32, u32) = (640, 400);
const COLOUR: RGBColor = RGBColor(31, 90, 160);
/// The recalls that are marked.
const RECALL_MARKS: [f64; 11] = [0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999];
const FONT: &str = "sans-serif";

/// A chart: a file and what its axes are. Points are of (recall, value).
struct Chart<'a> {
    file: &'a str,
    heading: &'a str,
    value: &'a str,
    points: Vec<(f64, f64)>,
}

/// Draws the charts of a run into a directory, which is created.
pub(super) fn draw(report: &Report, title: Option<&str>, dir: &Path) -> Result<(), CliError> {
    fs::create_dir_all(dir).map_err(|error| CliError::file(dir, &error))?;
    let points = |value: fn(&super::Summary) -> f64| -> Vec<(f64, f64)> {
        let points = report.settings.iter().filter_map(|setting| Some((setting.recall?, value(setting))));
        // An exact search scans no codes, and its place is not on the curve.
        points.filter(|(recall, value)| *recall < 1.0 && *value > 0.0).collect()
    };
    let charts = [
        Chart {
            file: "qps.svg",
            heading: "queries per processor second, one at a time",
            value: "QPS",
            points: points(|setting| setting.qps / setting.cpu_over_wall.min(1.0)),
        },
        Chart {
            file: "codes.svg",
            heading: "sign codes scanned a query",
            value: "codes",
            points: points(|setting| setting.touched.codes),
        },
    ];
    for chart in &charts {
        if chart.points.is_empty() {
            let what = "no setting has a recall below 1 and codes: there is no curve to draw";
            return Err(CliError::failed("empty", what));
        }
        let path = dir.join(chart.file);
        let svg = chart.svg(title.unwrap_or_default(), report.k);
        let svg = svg.map_err(|what| CliError::failed("other", format!("{}: {what}", path.display())))?;
        fs::write(&path, svg).map_err(|error| CliError::file(&path, &error))?;
    }
    Ok(())
}

impl Chart<'_> {
    fn svg(&self, title: &str, k: usize) -> Result<String, String> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        self.plot(&area, title, k).map_err(|error| error.to_string())?;
        area.present().map_err(|error| error.to_string())?;
        drop(area);
        Ok(svg)
    }

    fn plot<'a>(
        &self,
        area: &DrawingArea<SVGBackend<'a>, Shift>,
        title: &str,
        k: usize,
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
        area.fill(&WHITE)?;
        let heading = self.heading;
        let caption = if title.is_empty() { heading.to_owned() } else { format!("{title}: {heading}") };
        let points: Vec<(f64, f64)> =
            self.points.iter().map(|&(recall, value)| (place(recall), value.log10())).collect();
        let mut chart = ChartBuilder::on(area)
            .caption(caption, (FONT, 15))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d(
                Axis::around(points.iter().map(|point| point.0), RECALL_MARKS.map(place).to_vec(), recall_at),
                Axis::around(points.iter().map(|point| point.1), value_marks(), value_at),
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(format!("recall@{k}"))
            .y_desc(self.value)
            .label_style((FONT, 13))
            .axis_desc_style((FONT, 14))
            .draw()?;
        chart.draw_series(LineSeries::new(points.clone(), COLOUR.stroke_width(2)))?;
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, COLOUR.filled())))?;
        Ok(())
    }
}

/// Where a recall stands: every tenth of the misses is as wide as the one before, so that what costs most is seen.
fn place(recall: f64) -> f64 {
    -(1.0 - recall).log10()
}

/// The recall of a place, in as few digits as say it.
fn recall_at(place: f64) -> String {
    let text = format!("{:.4}", 1.0 - 10_f64.powf(-place));
    text.trim_end_matches('0').to_owned()
}

/// The value of a logarithm.
fn value_at(place: f64) -> String {
    format!("{:.0}", 10_f64.powf(place))
}

/// 1, 2 and 5 times every power of ten up to a billion, as logarithms.
fn value_marks() -> Vec<f64> {
    (0..9).flat_map(|power| [1.0, 2.0, 5.0].map(|digit: f64| f64::from(power) + digit.log10())).collect()
}

/// An axis of logarithms: where it begins and ends, which places are marked, and what stands there.
struct Axis {
    places: Range<f64>,
    marks: Vec<f64>,
    label: fn(f64) -> String,
}

impl Axis {
    /// From the mark before all of some places to the one behind them.
    fn around(places: impl Iterator<Item = f64>, marks: Vec<f64>, label: fn(f64) -> String) -> Self {
        let (first, last) = places.fold((f64::INFINITY, f64::NEG_INFINITY), |(first, last), place| {
            (first.min(place), last.max(place))
        });
        let before = marks.iter().copied().filter(|mark| *mark < first).max_by(f64::total_cmp);
        let behind = marks.iter().copied().filter(|mark| *mark > last).min_by(f64::total_cmp);
        let (start, end) = (before.unwrap_or(first), behind.unwrap_or(last));
        let marks = marks.into_iter().filter(|mark| (start..=end).contains(mark)).collect();
        Self { places: start..end, marks, label }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.places.start) / (self.places.end - self.places.start);
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.places.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        value.to_string()
    }

    fn format_ext(&self, value: &f64) -> String {
        (self.label)(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_its_points_and_the_marks_around_them() {
        let points = vec![(0.85, 30_000.0), (0.96, 12_000.0), (0.991, 6000.0)];
        let chart = Chart { file: "qps.svg", heading: "queries per second", value: "QPS", points };
        let svg = chart.svg("set", 10).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3);
        for text in ["set: queries per second", "recall@10", "0.8", "0.95", "0.995", "5000", "50000"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text}: {svg}");
        }
        assert!(!svg.contains("\n0.999\n") && !svg.contains("\n2000\n"));
    }
}
