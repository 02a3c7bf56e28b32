//! Plots for docs/plots: SVG with its text as text, so that they are the same on every machine.

use std::error::Error;
use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// A name for the legend, and points (x, y).
pub type Series<'a> = (&'a str, Vec<(f64, f64)>);

/// Width and height, pixels.
const SIZE: (u32, u32) = (760, 460);
/// Told apart without telling red from green (Okabe and Ito's palette).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
];

/// Draws a line with dots for each series into the SVG file `path`. Fails if there is nothing to draw,
/// a value isn't finite, or one on a logarithmic axis isn't above 0.
#[allow(dead_code, reason = "not every benchmark draws lines")]
pub fn lines(
    path: &str,
    title: &str,
    x_label: &str,
    y_label: &str,
    series: &[Series],
    log_x: bool,
    log_y: bool,
) -> Result<(), Box<dyn Error>> {
    draw(path, [title, x_label, y_label], series, [log_x, log_y], true)
}

/// The same, with dots alone.
#[allow(dead_code, reason = "not every benchmark draws dots")]
pub fn scatter(
    path: &str,
    title: &str,
    x_label: &str,
    y_label: &str,
    series: &[Series],
    log_x: bool,
    log_y: bool,
) -> Result<(), Box<dyn Error>> {
    draw(path, [title, x_label, y_label], series, [log_x, log_y], false)
}

fn draw(
    path: &str,
    [title, x_label, y_label]: [&str; 3],
    series: &[Series],
    [log_x, log_y]: [bool; 2],
    lines: bool,
) -> Result<(), Box<dyn Error>> {
    let points = || series.iter().flat_map(|(_, points)| points);
    let x = Axis::over(points().map(|point| point.0).collect(), log_x, true)?;
    let y = Axis::over(points().map(|point| point.1).collect(), log_y, false)?;
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 22))
        .margin(10)
        .x_label_area_size(45)
        .y_label_area_size(70)
        .build_cartesian_2d(x, y)?;
    let label = |value: &f64| text(*value);
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(x_label)
        .y_desc(y_label)
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .label_style(("sans-serif", 16))
        .draw()?;
    for ((name, points), colour) in series.iter().zip(COLOURS.into_iter().cycle()) {
        let dots = points.iter().map(|point| Circle::new(*point, 4, colour.filled()));
        chart
            .draw_series(dots)?
            .label(*name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
        if lines {
            chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        }
    }
    if series.len() > 1 {
        chart
            .configure_series_labels()
            .position(if lines { SeriesLabelPosition::UpperLeft } else { SeriesLabelPosition::UpperRight })
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .label_font(("sans-serif", 16))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

/// A number with thousands set apart, and as few decimals as tell it.
fn text(value: f64) -> String {
    if value.abs() < 1_000.0 {
        return format!("{}", (value * 1e6).round() / 1e6);
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A linear or logarithmic axis that says where its labels are.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<f64>,
}

impl Axis {
    /// `measured`: values that are few are where the labels are.
    fn over(mut values: Vec<f64>, log: bool, measured: bool) -> Result<Self, Box<dyn Error>> {
        if let Some(bad) = values.iter().find(|value| !value.is_finite() || (log && **value <= 0.0)) {
            return Err(format!("{bad} can't be drawn on this axis").into());
        }
        values.sort_by(f64::total_cmp);
        values.dedup();
        let (Some(low), Some(high)) = (values.first().copied(), values.last().copied()) else {
            return Err("a plot without points".into());
        };
        if log {
            let (low, high) = (low / 1.15, high * 1.15);
            let far = |pair: &[f64]| pair[1] / pair[0] > 1.4;
            let few = measured && values.len() <= 12 && values.windows(2).all(far);
            let ticks = if few { values } else { log_ticks(low, high) };
            return Ok(Self { low, high, log, ticks });
        }
        // From 0, unless that would waste half of the plot.
        let low = if low >= 0.0 && low < high / 2.0 { 0.0 } else { low - (high - low).max(1.0) * 0.05 };
        let high = high + (high - low).max(1.0) * 0.05;
        Ok(Self { low, high, log, ticks: linear_ticks(low, high) })
    }

    fn scaled(&self, value: f64) -> f64 {
        if self.log { value.ln() } else { value }
    }
}

/// Some six round numbers.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let first = (low / step).ceil();
    (0..20).map(|at| (first + f64::from(at)) * step).take_while(|tick| *tick <= high).collect()
}

/// Powers of ten, with 2 and 5 times these on a short axis.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = (high / low).log10();
    let factors: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let first = low.log10().floor();
    (0..40)
        .flat_map(|at| factors.iter().map(move |factor| factor * 10f64.powf(first + f64::from(at))))
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

impl Ranged for Axis {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let range = self.scaled(self.low)..self.scaled(self.high);
        RangedCoordf64::from(range).map(&self.scaled(*value), limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        text(*value)
    }
}
