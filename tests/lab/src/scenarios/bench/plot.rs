//! The plots beside the table: how far each monitor's guest is when, and every ratio on one scale.

use super::kept::Kept;
use super::row::{Row, median, spread};
use std::fmt::Write as _;

/// The rows of the first plot.
pub(super) const START: &str = "seconds from the monitor's start";

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// How wide the names are.
const NAMES: f64 = 430.0;
const LINE: f64 = 20.0;
/// Told apart by people who see few colours, and on paper: ours, QEMU's, and what else there is.
const COLOURS: [&str; 3] = ["#1b9e77", "#7570b3", "#bdb9dd"];
const WORSE: &str = "#d95f02";

/// Their names in docs/, and what is in them.
pub(super) fn all(kept: &Kept) -> Vec<(String, String)> {
    let rows: Vec<&Row> = kept.parts.iter().flat_map(|part| &part.rows).collect();
    vec![("performance-start.svg".into(), start(&rows)), ("performance-ratios.svg".into(), ratios(&rows))]
}

/// Bars with a line from the lowest to the highest figure.
fn start(rows: &[&Row]) -> String {
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.group == START).collect();
    let longest = rows.iter().flat_map(|row| row.ours.iter().chain(&row.theirs)).copied().fold(0.0, f64::max);
    let scale = (WIDTH - MARGIN - NAMES - 60.0) / if longest > 0.0 { longest } else { 1.0 };
    let mut canvas = Canvas::new("How far a guest is, in seconds from its monitor's start");
    let mut others: Vec<&str> = Vec::new();
    let mut name = "";
    for row in &rows {
        let mut bar = |who: usize, values: &[f64]| {
            let (low, high) = spread(values);
            let at = canvas.at;
            canvas.rectangle(NAMES, at + 3.0, median(values) * scale, 12.0, COLOURS[who.min(2)]);
            canvas.line(NAMES + low * scale, NAMES + high * scale, at + 9.0);
            canvas.text(NAMES + high * scale + 6.0, at + 13.0, &format!("{:.2}", median(values)));
            canvas.at += 16.0;
        };
        if row.name != name {
            bar(0, &row.ours);
        }
        let other = others.iter().position(|other| *other == row.beside).unwrap_or_else(|| {
            others.push(&row.beside);
            others.len() - 1
        });
        bar(1 + other, &row.theirs);
        if row.name != name {
            name = &row.name;
            let at = canvas.at - 32.0;
            canvas.text(MARGIN, at + 13.0, name);
        }
    }
    canvas.at += 10.0;
    for (who, other) in ["vfio-assign"].into_iter().chain(others).enumerate() {
        let at = canvas.at;
        canvas.rectangle(MARGIN, at, 14.0, 14.0, COLOURS[who.min(2)]);
        canvas.text(MARGIN + 22.0, at + 12.0, other);
        canvas.at += LINE;
    }
    canvas.finish()
}

/// A point for each ratio with a line where it is likely to be, on a scale on which twice and half are equally far from
/// one.
fn ratios(rows: &[&Row]) -> String {
    let mut canvas = Canvas::new("Ours beside theirs: left of 1× ours is better, right of it theirs");
    let place =
        |ratio: f64| NAMES + (ratio.clamp(0.001, 10.0).log10() + 3.0) / 4.0 * (WIDTH - MARGIN - NAMES - 70.0);
    let top = canvas.at + 6.0;
    canvas.at += LINE;
    let mut group = "";
    for row in rows {
        let Some(ratio) = row.ratio() else { continue };
        if row.group != group {
            group = &row.group;
            let at = canvas.at;
            canvas.strong(MARGIN, at + 13.0, group);
            canvas.at += LINE;
        }
        let one_way = |ratio: f64| if row.more_is_better { 1.0 / ratio } else { ratio };
        let better = one_way(ratio);
        let ends = row.interval().map_or_else(|| spread(&row.ratios()), |it| (it.low, it.high));
        let (low, high) = spread(&[ends.0, ends.1].map(one_way));
        let at = canvas.at;
        let same =
            |other: &&&Row| other.name == row.name && other.group == row.group && other.beside == row.beside;
        // Time and instructions of one thing.
        let unit =
            if rows.iter().filter(same).count() > 1 { format!(", {}", row.unit) } else { String::new() };
        canvas.text(MARGIN + 12.0, at + 13.0, &format!("{}{unit}, beside {}", row.name, row.beside));
        canvas.line(place(low), place(high), at + 9.0);
        let colour = if better <= 1.0 { COLOURS[0] } else { WORSE };
        canvas.rectangle(place(better) - 4.0, at + 5.0, 8.0, 8.0, colour);
        canvas.text(place(high.max(better)) + 10.0, at + 13.0, &format!("{better:.2}"));
        canvas.at += LINE;
    }
    let bottom = canvas.at;
    for power in -3..=1 {
        let ratio = 10f64.powi(power);
        canvas.rule(place(ratio), top + 12.0, bottom, power == 0);
        canvas.text(place(ratio) - 12.0, top + 6.0, &format!("{ratio}×"));
    }
    canvas.finish()
}

/// A picture being drawn, from top to bottom.
struct Canvas {
    body: String,
    at: f64,
}

impl Canvas {
    fn new(title: &str) -> Self {
        let mut canvas = Self { body: String::new(), at: 52.0 };
        canvas.put("title", MARGIN, 32.0, title);
        canvas
    }

    fn text(&mut self, x: f64, y: f64, text: &str) {
        self.put("about", x, y, text);
    }

    fn strong(&mut self, x: f64, y: f64, text: &str) {
        self.put("group", x, y, text);
    }

    fn put(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(self.body, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
    }

    fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>",
            width.max(1.0)
        );
    }

    fn line(&mut self, from: f64, to: f64, y: f64) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#222\"/>"
        );
    }

    fn rule(&mut self, x: f64, from: f64, to: f64, strong: bool) {
        let colour = if strong { "#222" } else { "#ccc" };
        let _ = writeln!(
            self.body,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from:.1}\" y2=\"{to:.1}\" stroke=\"{colour}\"/>"
        );
    }

    fn finish(self) -> String {
        let height = self.at + MARGIN;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} \
             {height}\">\n<style>text {{ font-family: 'DejaVu Sans', Arial, sans-serif; fill: #222; font-size: 12px }} \
             .title {{ font-size: 18px; font-weight: bold }} .group {{ font-weight: bold }}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}</svg>\n",
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_median() {
        let row = Row::new(START, "digest", "s").ours(vec![1.0]).beside("QEMU", vec![2.0]);
        let plot = start(&[&row]);
        assert!(plot.contains("width=\"223.0\"") && plot.contains("width=\"446.0\""), "{plot}");
    }

    #[test]
    fn more_of_what_is_better_is_on_the_left() {
        let row = Row::new("g", "IOPS", "/s").ours(vec![20.0]).beside("QEMU", vec![10.0]).more_is_better();
        assert!(ratios(&[&row]).contains(">0.50<"));
    }
}
