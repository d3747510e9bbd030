//! Bar charts as SVG, drawn by hand: a library would bring more code than the charts have.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;

/// Bars of one unit, in groups.
#[derive(Debug)]
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) unit: &'static str,
    pub(crate) groups: Vec<Group>,
}

/// Bars that are compared with each other; they share a scale.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) bars: Vec<Bar>,
    /// A line across the bars: what cannot be beaten.
    pub(crate) limit: Option<f64>,
}

#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    /// Ours are drawn in another colour.
    pub(crate) is_ours: bool,
}

// Sizes in pixels.
const WIDTH: f64 = 760.0;
const LABEL_WIDTH: f64 = 190.0;
const BAR_WIDTH_MAX: f64 = WIDTH - LABEL_WIDTH - 90.0;
const LINE: f64 = 20.0;
const OURS: &str = "#c2410c";
const THEIRS: &str = "#94a3b8";

impl Bars {
    /// Writes the chart to the folder `plots`; what the page says of it, which is nothing if it has no bars.
    pub(crate) fn written(&self, plots: &Path, name: &str) -> Result<String> {
        if self.groups.is_empty() {
            return Ok(String::new());
        }
        std::fs::write(plots.join(format!("{name}.svg")), self.svg())?;
        Ok(format!("\n![{}](plots/{name}.svg)\n", self.title))
    }

    /// The chart as the text of an SVG file, on a white ground so that it can be read anywhere.
    fn svg(&self) -> String {
        let lines = self.groups.iter().map(|group| group.bars.len() + 2).sum::<usize>();
        let height = LINE * (lines as f64 + 2.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, 10.0, LINE * 1.2, "font-weight=\"bold\" font-size=\"15\"", &self.title);
        let mut y = LINE * 2.0;
        for group in &self.groups {
            y += LINE;
            text(&mut svg, 10.0, y, "font-weight=\"bold\"", &group.name);
            let top = y + LINE * 0.2;
            let max = group.bars.iter().map(|bar| bar.value).fold(group.limit.unwrap_or(0.0), f64::max);
            let scale = if max > 0.0 { BAR_WIDTH_MAX / max } else { 0.0 };
            for bar in &group.bars {
                y += LINE;
                let (width, colour) = (bar.value * scale, if bar.is_ours { OURS } else { THEIRS });
                text(&mut svg, 10.0, y, "", &bar.name);
                let (x, above) = (LABEL_WIDTH, y - LINE * 0.7);
                rectangle(&mut svg, (x, above, width.max(1.0), LINE * 0.85), colour);
                text(&mut svg, x + width + 6.0, y, "", &format!("{} {}", figures(bar.value), self.unit));
            }
            if let Some(limit) = group.limit {
                let x = LABEL_WIDTH + limit * scale;
                rectangle(&mut svg, (x, top, 1.5, y - top + LINE * 0.2), "black");
            }
            y += LINE;
        }
        svg + "</svg>\n"
    }
}

/// Three figures: what a noisy machine can promise.
pub(crate) fn figures(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn rectangle(svg: &mut String, (x, y, width, height): (f64, f64, f64, f64), colour: &str) {
    let shape = format!("x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"");
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "<rect {shape} fill=\"{colour}\"/>");
}

fn text(svg: &mut String, x: f64, y: f64, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{words}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_every_bar_and_escapes_names() {
        let bar = |name: &str, value| Bar { name: name.into(), value, is_ours: false };
        let group = Group { name: "100M".into(), bars: vec![bar("a<b", 1.0), bar("c", 250.0)], limit: Some(0.5) };
        let svg = Bars { title: "t & u".into(), unit: "s", groups: vec![group] }.svg();
        assert_eq!(svg.matches("<rect").count(), 4);
        assert!(svg.contains("a&lt;b") && svg.contains("t &amp; u") && svg.contains("250 s") && svg.contains("1.00 s"));
    }

    #[test]
    fn nothing_to_show_is_no_division_by_zero() {
        let group = Group { name: "g".into(), bars: Vec::new(), limit: None };
        assert!(!Bars { title: String::new(), unit: "s", groups: vec![group] }.svg().contains("NaN"));
    }
}
