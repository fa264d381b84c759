//! Small plots: bars for a terminal, and SVG.

use crate::tally::Series;
use std::fmt::Write;
use std::time::Duration;

const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Folds a series into so many columns over a length of time; each is a rate for a second.
fn columns(series: &Series, length: Duration, count: usize) -> Vec<f64> {
    let (width, counts) = series.buckets();
    let length = length.as_nanos().max(1) as f64;
    let mut columns = vec![0.0; count];
    let column = length / count as f64;
    for (bucket, amount) in (0u32..).zip(counts) {
        // A bucket that lies in several columns is spread over them.
        let (from, to) = (f64::from(bucket) * width as f64, (f64::from(bucket) + 1.0) * width as f64);
        let to = to.min(length);
        let mut at = (from / column) as usize;
        while at < count && (at as f64) * column < to {
            let inside = to.min((at as f64 + 1.0) * column) - from.max(at as f64 * column);
            if inside > 0.0 {
                columns[at] += *amount as f64 * inside / (to - from);
            }
            at += 1;
        }
    }
    columns.iter().map(|amount| amount * 1e9 / column).collect()
}

/// One line of bars, and the rate for a second that the highest stands for.
pub fn bars(series: &Series, length: Duration, count: usize) -> (String, f64) {
    let columns = columns(series, length, count.max(1));
    let most = columns.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| {
        if most <= 0.0 || *value <= 0.0 {
            return ' ';
        }
        // What is there is seen, however little it is.
        BARS[((value / most * 8.0).ceil() as usize).clamp(1, 8)]
    };
    (columns.iter().map(bar).collect(), most)
}

/// Letters that mean something in SVG, escaped.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A panel for each series, one below the other: a name, the second series over the first where there is one, and
/// the time below.
pub fn svg(title: &str, length: Duration, panels: &[(String, &Series, Option<&Series>)]) -> String {
    const WIDTH: usize = 960;
    const LEFT: usize = 70;
    const PANEL: usize = 110;
    const HEIGHT: usize = 70;
    let full = 60 + panels.len() * PANEL;
    let plot = WIDTH - LEFT - 20;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{full}\" viewBox=\"0 0 {WIDTH} {full}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>",
        escaped(title)
    );
    for (n, (name, first, second)) in panels.iter().enumerate() {
        let top = 50 + n * PANEL;
        let bottom = top + HEIGHT;
        let series: Vec<(Vec<f64>, &str)> = [(Some(*first), "#2a6fb0"), (*second, "#c0392b")]
            .into_iter()
            .filter_map(|(series, colour)| Some((columns(series?, length, plot / 2), colour)))
            .collect();
        let most = series.iter().flat_map(|(columns, _)| columns).copied().fold(0.0, f64::max);
        let _ = writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"{}\">{}</text>\n<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#666\">{}/s</text>\n\
             <path d=\"M{LEFT} {top}V{bottom}H{}\" fill=\"none\" stroke=\"#999\"/>",
            top - 5,
            escaped(name),
            LEFT - 6,
            top + 10,
            rate(most),
            LEFT + plot
        );
        for (columns, colour) in series {
            let mut path = String::new();
            for (at, value) in columns.iter().enumerate() {
                let y = bottom as f64 - if most > 0.0 { value / most * HEIGHT as f64 } else { 0.0 };
                let _ = write!(path, "{}{} {y:.1}", if at == 0 { "M" } else { "L" }, LEFT + at * 2);
            }
            let _ = writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\"/>");
        }
        for quarter in 0..=4 {
            let at = length.mul_f64(quarter as f64 / 4.0);
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" font-size=\"10\" fill=\"#666\">{}</text>",
                LEFT + plot * quarter / 4,
                bottom + 12,
                settings::show_duration(Duration::from_secs(at.as_secs()))
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

/// A rate in few digits.
fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 10.0 => format!("{rate:.0}"),
        rate if rate >= 0.1 => format!("{rate:.1}"),
        rate => format!("{rate:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_when_it_happened() {
        let mut series = Series::default();
        for second in 0..10 {
            series.count(second * 1_000_000_000, if second < 5 { 8 } else { 1 });
        }
        let (line, most) = bars(&series, Duration::from_secs(20), 20);
        assert_eq!(line, "█████▁▁▁▁▁          ");
        assert!((most - 8.0).abs() < 1e-9);
    }

    #[test]
    fn nothing_is_plotted_of_nothing() {
        assert_eq!(bars(&Series::default(), Duration::ZERO, 3), ("   ".into(), 0.0));
    }

    #[test]
    fn svg_escapes_names() {
        let series = Series::default();
        let text = svg("a<b", Duration::from_secs(60), &[("x & y".into(), &series, None)]);
        assert!(text.contains("a&lt;b") && text.contains("x &amp; y") && text.ends_with("</svg>\n"));
    }
}
