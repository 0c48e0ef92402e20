//! Draws the samples.

use std::error::Error as StdError;

use linchpin::{Error, Kind, Result};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::{DRAIN, Sample, rates};

const ARRIVAL: RGBColor = RGBColor(214, 96, 77);
const DRAINED: RGBColor = RGBColor(33, 102, 172);
const BACKLOG: RGBColor = RGBColor(146, 197, 222);

/// Arrival and drain per second above, what waits in the topic below.
pub(crate) fn draw(samples: &[Sample], file: &str) -> Result<()> {
    plot(samples, file).map_err(|e| {
        Error::new(Kind::Config, format!("can't draw {file}: {e}"))
            .help("name a file in a folder that is there")
    })?;
    println!("drawn into {file}");
    Ok(())
}

fn plot(samples: &[Sample], file: &str) -> Result<(), Box<dyn StdError>> {
    let root = SVGBackend::new(file, (860, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let (above, below) = root.split_vertically(340);
    let end = samples.last().map_or(1.0, |sample| sample.seconds);
    draw_rates(&above, samples, end)?;
    draw_backlog(&below, samples, end)?;
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw_rates(area: &Area<'_>, samples: &[Sample], end: f64) -> Result<(), Box<dyn StdError>> {
    // Each rate holds between two samples.
    let steps = |pick: fn((f64, f64)) -> f64| {
        let step = |pair: &[Sample]| {
            let rate = rates(pair).map(pick).unwrap_or_default();
            pair.iter().map(|sample| (sample.seconds, rate)).collect::<Vec<_>>()
        };
        samples.windows(2).flat_map(step).collect::<Vec<_>>()
    };
    let (arrival, drain) = (steps(|(arrival, _)| arrival), steps(|(_, drain)| drain));
    let mut chart = ChartBuilder::on(area);
    let title = format!("A tenfold burst, drained at {DRAIN} orders per second");
    chart.caption(title, ("sans-serif", 20)).margin(12).x_label_area_size(24).y_label_area_size(64);
    let mut chart = chart.build_cartesian_2d(0.0..end, 0.0..top(arrival.iter().chain(&drain)))?;
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT).y_label_formatter(&whole).y_desc("orders per second").draw()?;
    for (name, color, line) in [("arrival", ARRIVAL, arrival), ("drain", DRAINED, drain)] {
        let series = chart.draw_series(LineSeries::new(line, color.stroke_width(2)))?;
        let key = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2));
        series.label(name).legend(key);
    }
    let mut legend = chart.configure_series_labels();
    legend.position(SeriesLabelPosition::UpperRight).background_style(WHITE).border_style(BLACK.mix(0.3));
    legend.draw()?;
    Ok(())
}

fn draw_backlog(area: &Area<'_>, samples: &[Sample], end: f64) -> Result<(), Box<dyn StdError>> {
    let backlog = samples.iter().map(|s| (s.seconds, s.arrived.saturating_sub(s.drained) as f64));
    let backlog: Vec<_> = backlog.collect();
    let mut chart = ChartBuilder::on(area);
    chart.margin(12).x_label_area_size(40).y_label_area_size(64);
    let mut chart = chart.build_cartesian_2d(0.0..end, 0.0..top(backlog.iter()))?;
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT).y_labels(5).y_label_formatter(&whole);
    mesh.x_desc("seconds").y_desc("backlog").draw()?;
    chart.draw_series(AreaSeries::new(backlog, 0.0, BACKLOG.mix(0.6)).border_style(DRAINED))?;
    Ok(())
}

/// Room for the highest point.
fn top<'a>(points: impl Iterator<Item = &'a (f64, f64)>) -> f64 {
    points.map(|(_, y)| *y).fold(1.0, f64::max) * 1.1
}

fn whole(n: &f64) -> String {
    format!("{n:.0}")
}
