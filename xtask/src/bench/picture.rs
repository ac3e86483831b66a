//! The picture: how latencies are distributed, and throughput against the number of containers.
//!
//! Plain SVG of two charts side by side. Colours follow the reader's light or dark ground where the
//! viewer says which it is, and are readable on both where it does not.

use super::stats::{percentile, ratio};

/// What there is to draw; an empty part is left out.
#[derive(Default)]
pub struct Picture {
    /// Latencies by name, nanoseconds.
    pub latency: Vec<(String, Vec<u64>)>,
    /// Containers, and million records per second.
    pub throughput: Vec<(u64, f64)>,
}

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 260.0;
/// Around the plotting area, for labels.
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 44.0;
const TOP: f64 = 52.0;
const RIGHT: f64 = 28.0;
/// Classes of [`STYLE`], in the order of the curves.
const CURVES: [&str; 3] = ["floor", "ours", "peer"];
const STYLE: &str = "<style>
text { fill: #59636e } .floor { stroke: #818b98 } .ours { stroke: #0969da } .peer { stroke: #bc4c00 }
path, circle { fill: none; stroke-width: 2 } .grid { stroke: #818b98; stroke-opacity: .35; stroke-width: 1 }
tspan.floor { fill: #6e7781 } tspan.ours { fill: #0969da } tspan.peer { fill: #bc4c00 }
tspan.floor, tspan.ours, tspan.peer { stroke: none } circle.ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
text { fill: #9198a1 } .ours { stroke: #4493f8 } .peer { stroke: #f0883e }
tspan.floor { fill: #9198a1 } tspan.ours { fill: #4493f8 } tspan.peer { fill: #f0883e } circle.ours { fill: #4493f8 }
}
</style>
";
/// Points of a curve.
const POINTS: usize = 100;

impl Picture {
    pub fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n{STYLE}",
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
        let ends = |per_mille| {
            let each = self.latency.iter();
            each.map(move |(_, values)| percentile(&mut values.clone(), per_mille))
        };
        let (low, high) = (ends(0).min().unwrap_or(0), ends(990).max().unwrap_or(0));
        let decade = |ns| ratio(ns, 1_000).max(1.0).log10();
        let chart = Chart {
            title: "Share of records that another process has read",
            across: "µs after the kernel's time stamp",
            x: (decade(low).floor(), decade(high).ceil().max(3.0)),
            y: (0.0, 100.0),
        };
        let mut svg = chart.frame(
            &decades(chart.x),
            &[(0.0, "0"), (50.0, "50 %"), (99.0, "99 %")],
        );
        let mut legend = String::new();
        for ((name, values), class) in self.latency.iter().zip(CURVES) {
            let mut values = values.clone();
            let middle = short(percentile(&mut values, 500));
            legend.extend([format!(
                "<tspan dx=\"10\" class=\"{class}\">{name} {middle}</tspan>"
            )]);
            let points: Vec<(f64, f64)> = (0..=POINTS)
                .map(|point| {
                    let ns = percentile(&mut values, point * 1000 / POINTS);
                    let share = ratio(point as u64, POINTS as u64) * 100.0;
                    (ratio(ns, 1_000).max(0.1).log10(), share)
                })
                .collect();
            svg += &chart.curve(&points, class);
        }
        svg.extend([format!(
            "<text x=\"{LEFT}\" y=\"38\">half after:{legend}</text>\n"
        )]);
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
            y: (0.0, (most * 1.2).ceil().max(2.0)),
        };
        let bar = [(0.0, "0"), (1.5, "1.5"), (chart.y.1, "")];
        let mut svg = chart.frame(&decades(chart.x), &bar);
        let points: Vec<(f64, f64)> = self
            .throughput
            .iter()
            .map(|(containers, rate)| (ratio(*containers, 1).max(1.0).log10(), *rate))
            .collect();
        let [_, class, _] = CURVES;
        svg += &chart.curve(&points, class);
        for ((x, y), (_, rate)) in points.iter().zip(&self.throughput) {
            let (x, y) = chart.place(*x, *y);
            svg.extend([format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" class=\"{class}\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{rate:.2}</text>\n",
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
            "<text x=\"{LEFT}\" y=\"18\" font-size=\"14\">{}</text>\n",
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
            svg.extend([format!("<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" class=\"grid\"/><text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")]);
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

    fn curve(&self, points: &[(f64, f64)], class: &str) -> String {
        let mut path = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let (x, y) = self.place(*x, *y);
            path.extend([format!(
                "{}{x:.1} {y:.1}",
                if index == 0 { "M" } else { "L" }
            )]);
        }
        format!("<path d=\"{path}\" class=\"{class}\"/>\n")
    }
}

/// A moment, short.
fn short(ns: u64) -> String {
    let us = ratio(ns, 1_000);
    if us < 1_000.0 {
        format!("{us:.0} µs")
    } else {
        format!("{:.0} ms", us / 1_000.0)
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
                ("minimal reader".to_owned(), (5_000..15_000).collect()),
                ("tracer".to_owned(), (7_000..90_000).collect()),
                ("docker events".to_owned(), (7_000_000..7_090_000).collect()),
            ],
            throughput: vec![(10, 2.0), (100, 1.9), (1_000, 1.8), (10_000, 1.5)],
        };
        let svg = picture.svg();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert!(svg.len() < 20_000 && !svg.contains("NaN"), "{}", svg.len());
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
    }
}
