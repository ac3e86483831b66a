//! The picture: how latencies are distributed, and throughput against the number of containers.
//!
//! Plain SVG of two charts side by side, readable on light and dark ground.

use super::stats::{percentile, ratio};

/// What there is to draw; an empty part is left out.
#[derive(Default)]
pub struct Picture {
    /// Latencies by name, nanoseconds.
    pub latency: Vec<(&'static str, Vec<u64>)>,
    /// Containers, and million records per second.
    pub throughput: Vec<(u64, f64)>,
}

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 260.0;
/// Around the plotting area, for labels.
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 44.0;
const TOP: f64 = 34.0;
const RIGHT: f64 = 16.0;
const COLOURS: [&str; 2] = ["#8a8f98", "#1f77d0"];
/// Points of a curve.
const POINTS: usize = 100;

impl Picture {
    pub fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#808790\">\n",
            2.0 * WIDTH
        );
        if !self.latency.is_empty() {
            svg += &self.latencies();
        }
        if !self.throughput.is_empty() {
            let chart = self.throughputs();
            svg.extend([format!(
                "<g transform=\"translate({WIDTH} 0)\">\n{chart}</g>\n"
            )]);
        }
        svg + "</svg>\n"
    }

    /// The share of records that had arrived after so long; time on a logarithmic scale.
    fn latencies(&self) -> String {
        let values = self.latency.iter().flat_map(|(_, values)| values);
        let low = values.clone().copied().filter(|ns| *ns > 0).min();
        let chart = Chart {
            title: "Kernel time stamp to another process, 500 events/s",
            across: "µs",
            x: (
                ratio(low.unwrap_or(1_000), 1_000).max(1.0).log10().floor(),
                4.0,
            ),
            y: (0.0, 100.0),
        };
        let mut svg = chart.frame(
            &decades(chart.x),
            &[(0.0, "0"), (50.0, "50 %"), (99.0, "99 %")],
        );
        for (index, ((name, values), colour)) in self.latency.iter().zip(COLOURS).enumerate() {
            let mut values = values.clone();
            let points: Vec<(f64, f64)> = (0..=POINTS)
                .map(|point| {
                    let ns = percentile(&mut values, point * 1000 / POINTS);
                    let share = ratio(point as u64, POINTS as u64) * 100.0;
                    (ratio(ns, 1_000).max(0.1).log10(), share)
                })
                .collect();
            svg += &chart.curve(&points, colour);
            svg += &chart.name(index, name, colour);
        }
        svg
    }

    fn throughputs(&self) -> String {
        let most = self
            .throughput
            .iter()
            .map(|(_, rate)| *rate)
            .fold(1.0, f64::max);
        let chart = Chart {
            title: "Replay to JSON on one core, million records/s",
            across: "containers",
            x: (1.0, 4.0),
            y: (0.0, (most * 1.2).ceil()),
        };
        let bar = [(0.0, "0"), (1.5, "1.5"), (chart.y.1, "")];
        let mut svg = chart.frame(&decades(chart.x), &bar);
        let points: Vec<(f64, f64)> = self
            .throughput
            .iter()
            .map(|(containers, rate)| (ratio(*containers, 1).max(1.0).log10(), *rate))
            .collect();
        let [_, colour] = COLOURS;
        svg += &chart.curve(&points, colour);
        for ((x, y), (_, rate)) in points.iter().zip(&self.throughput) {
            let (x, y) = chart.place(*x, *y);
            svg.extend([format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{rate:.2}</text>\n",
                y - 8.0
            )]);
        }
        svg
    }
}

struct Chart {
    title: &'static str,
    across: &'static str,
    /// Ranges; of the logarithm where the scale is one.
    x: (f64, f64),
    y: (f64, f64),
}

impl Chart {
    fn place(&self, x: f64, y: f64) -> (f64, f64) {
        let part = |value: f64, (low, high): (f64, f64)| {
            ((value - low) / (high - low).max(f64::EPSILON)).clamp(0.0, 1.0)
        };
        (
            LEFT + part(x, self.x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - part(y, self.y) * (HEIGHT - BOTTOM - TOP),
        )
    }

    fn frame(&self, across: &[(f64, String)], up: &[(f64, &str)]) -> String {
        let mut svg = format!(
            "<text x=\"{LEFT}\" y=\"18\" font-size=\"13\">{}</text>\n",
            self.title
        );
        let (left, bottom) = self.place(self.x.0, self.y.0);
        let (right, top) = self.place(self.x.1, self.y.1);
        let mut line = |x1: f64, y1: f64, x2: f64, y2: f64, text: &str, anchor: &str| {
            let (x, y) = if anchor == "end" {
                (x1 - 6.0, y1 + 4.0)
            } else {
                (x1, y1 + 16.0)
            };
            svg.extend([format!("<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"#808790\" stroke-opacity=\".35\"/><text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")]);
        };
        for (value, text) in across {
            let (x, _) = self.place(*value, 0.0);
            line(x, bottom, x, top, text, "middle");
        }
        for (value, text) in up {
            let (_, y) = self.place(0.0, *value);
            line(left, y, right, y, text, "end");
        }
        svg.extend([format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            f64::midpoint(left, right),
            HEIGHT - 8.0,
            self.across
        )]);
        svg
    }

    fn curve(&self, points: &[(f64, f64)], colour: &str) -> String {
        let mut path = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let (x, y) = self.place(*x, *y);
            path.extend([format!(
                "{}{x:.1} {y:.1}",
                if index == 0 { "M" } else { "L" }
            )]);
        }
        format!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n")
    }

    fn name(&self, index: usize, name: &str, colour: &str) -> String {
        let (x, _) = self.place(self.x.1, 0.0);
        let y = HEIGHT - BOTTOM - 34.0 + 16.0 * ratio(index as u64, 1);
        format!(
            "<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"{colour}\">{name}</text>\n",
            x - 6.0
        )
    }
}

/// Marks at the powers of ten.
fn decades((low, high): (f64, f64)) -> Vec<(f64, String)> {
    let mut marks = Vec::new();
    let mut mark = low;
    while mark <= high {
        marks.push((mark, format!("{}", 10_f64.powf(mark))));
        mark += 1.0;
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_small_and_whole() {
        let picture = Picture {
            latency: vec![
                ("floor", (5_000..15_000).collect()),
                ("tracer", (7_000..90_000).collect()),
            ],
            throughput: vec![(10, 2.0), (100, 1.9), (1_000, 1.8), (10_000, 1.5)],
        };
        let svg = picture.svg();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.len() < 20_000 && !svg.contains("NaN"), "{}", svg.len());
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    }
}
