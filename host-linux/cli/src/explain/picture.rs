//! The plan as a picture: each BAR to scale, what is mapped, trapped and emulated of it, and why.

use std::fmt::Write as _;

use super::plan::{BarPlan, Piece, Plan};
use crate::display::size;

/// Colours of how parts are treated: told apart by people who see few colours, and on paper.
const COLOURS: [(&str, &str, &str); 3] = [
    ("mapped", "#1b9e77", "the guest reaches the device without leaving guest mode"),
    ("trapped", "#e6ab02", "an access leaves guest mode and goes on to the device"),
    ("emulated", "#7570b3", "an access leaves guest mode and is answered here"),
];

const WIDTH: u64 = 960;
const MARGIN: u64 = 24;
const BAR: u64 = WIDTH - 2 * MARGIN;
const HEIGHT: u64 = 36;
const LINE: u64 = 20;
/// A part that is narrower than this cannot be seen.
const LEAST: f64 = 3.0;

/// The picture, as SVG.
pub(super) fn picture(plan: &Plan) -> String {
    let mut body = String::new();
    let device = plan.device.as_deref().map_or_else(String::new, |device| format!("{device} "));
    text(&mut body, MARGIN, 34, "title", &format!("{device}{}", plan.name));
    let interrupts = plan.interrupts.iter().filter(|line| line.offered);
    let interrupts: Vec<String> =
        interrupts.map(|line| format!("{} with {}", line.kind, count(line.vectors))).collect();
    let interrupts = if interrupts.is_empty() { "no interrupts".into() } else { interrupts.join(", ") };
    let about = format!("{}, {}:{}; {interrupts}", plan.class_name, plan.vendor, plan.device_id);
    text(&mut body, MARGIN, 56, "about", &about);
    let mut at = 80;
    for bar in &plan.bars {
        at = one(&mut body, bar, plan.page_size, at);
    }
    at += 4;
    for (word, colour, meaning) in COLOURS {
        rectangle(&mut body, MARGIN as f64, at, 14.0, 14, colour);
        text(&mut body, MARGIN + 22, at + 12, "reason", &format!("{word}: {meaning}"));
        at += LINE;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{0}\" viewBox=\"0 0 {WIDTH} {0}\">\n\
         <style>text {{ font-family: 'DejaVu Sans', Arial, sans-serif; fill: #222 }} .title {{ font-size: 20px; \
         font-weight: bold }} .about {{ font-size: 14px }} .bar {{ font-size: 15px; font-weight: bold }} .reason, \
         .edge {{ font-size: 13px }} .edge {{ fill: #555 }}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n",
        at + 12
    )
}

fn count(vectors: u16) -> String {
    if vectors == 1 { "1 vector".into() } else { format!("{vectors} vectors") }
}

/// Draws a BAR, and says what its parts are; returns where the next one goes.
fn one(body: &mut String, bar: &BarPlan, page_size: u64, mut at: u64) -> u64 {
    let prefetchable = if bar.prefetchable { ", prefetchable" } else { "" };
    let about = format!("{}: {}, {}{prefetchable}", bar.name, size(bar.size), bar.kind);
    text(body, MARGIN, at + 14, "bar", &about);
    at += 24;
    for (piece, (start, width)) in bar.pieces.iter().zip(places(&bar.pieces, bar.size)) {
        rectangle(body, MARGIN as f64 + start, at, width, HEIGHT, colour(piece));
    }
    at += HEIGHT + 6;
    for piece in &bar.pieces {
        rectangle(body, MARGIN as f64, at, 14.0, 14, colour(piece));
        let range = format!("{:#x} to {:#x}, {}", piece.first, piece.last, size(piece.size()));
        text(body, MARGIN + 22, at + 12, "edge", &range);
        let large = piece.page_size.filter(|page| *page > page_size);
        let pages = large.map_or_else(String::new, |page| format!(", by pages of {}", size(page)));
        let why = format!("{}: {}{pages}", piece.treatment, piece.reason);
        text(body, MARGIN + 330, at + 12, "reason", &why);
        at += LINE;
    }
    at + 16
}

/// Where parts begin and how wide they are: to scale, but for those that would not be seen, which take from the others.
fn places(pieces: &[Piece], bytes: u64) -> Vec<(f64, f64)> {
    let exact = |piece: &Piece| piece.size() as f64 / bytes as f64 * BAR as f64;
    let narrow = pieces.iter().filter(|piece| exact(piece) < LEAST).count() as f64 * LEAST;
    let wide: f64 = pieces.iter().map(exact).filter(|width| *width >= LEAST).sum();
    let scale = if wide > 0.0 { (BAR as f64 - narrow).max(0.0) / wide } else { 1.0 };
    let mut at = 0.0;
    let place = |piece: &Piece| {
        let width = exact(piece);
        let width = if width < LEAST { LEAST } else { width * scale };
        let start = at;
        at += width;
        (start, width)
    };
    pieces.iter().map(place).collect()
}

fn colour(piece: &Piece) -> &'static str {
    let found = COLOURS.iter().find(|(word, ..)| *word == piece.treatment);
    found.map_or("#999", |(_, colour, _)| colour)
}

fn rectangle(body: &mut String, x: f64, y: u64, width: f64, height: u64, colour: &str) {
    let _infallible = writeln!(
        body,
        "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\" stroke=\"#fff\" \
         stroke-width=\"0.5\"/>"
    );
}

fn text(body: &mut String, x: u64, y: u64, class: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _infallible = writeln!(body, "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{what}</text>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(first: u64, last: u64) -> Piece {
        Piece { first, last, treatment: "mapped".into(), reason: String::new(), page_size: None }
    }

    #[test]
    fn what_would_not_be_seen_takes_from_the_others() {
        let places = places(&[piece(0, 0xfff), piece(0x1000, 0xffff_ffff)], 1 << 32);
        assert_eq!(places, [(0.0, LEAST), (LEAST, BAR as f64 - LEAST)]);
    }
}
