//! One plot: curves over steps, drawn as SVG, with the same values as JSON for
//! the pointer.

use serde_json::{Value, json};

use super::markup::escape;
use super::series::Point;
use super::ticks::{Ticks, short};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 604.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 252.0;
/// Curves with fewer points than this show each of them.
const FEW_POINTS: usize = 60;

/// What a plot shows.
#[derive(Debug)]
pub(super) struct Plot {
    pub(super) title: &'static str,
    /// What the curves mean, in a sentence.
    pub(super) note: &'static str,
    /// Quantity and unit of the vertical axis.
    pub(super) axis: &'static str,
    /// Range of the vertical axis; that of the values when absent.
    pub(super) range: Option<(f64, f64)>,
    pub(super) curves: Vec<Curve>,
    pub(super) band: Option<Band>,
}

/// One curve.
#[derive(Debug)]
pub(super) struct Curve {
    pub(super) name: &'static str,
    /// Class that gives it its colour.
    pub(super) colour: &'static str,
    pub(super) style: Style,
    pub(super) points: Vec<Point>,
    /// The same without its noise; empty where there are too few points.
    pub(super) smooth: Vec<Point>,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Solid,
    Dashed,
    /// Dashed, and a mark at each value.
    Marked,
}

/// The area between two curves over the same steps.
#[derive(Debug)]
pub(super) struct Band {
    pub(super) name: &'static str,
    pub(super) colour: &'static str,
    pub(super) low: Vec<Point>,
    pub(super) high: Vec<Point>,
}

/// From values to places on the page.
struct Scale {
    steps: (f64, f64),
    values: (f64, f64),
}

impl Plot {
    /// The plot as an HTML `figure`.
    pub(super) fn render(&self) -> String {
        let scale = self.scale();
        format!(
            "<figure class=\"plot\"><figcaption><h3>{title}</h3><p>{note}</p>{legend}</figcaption>\
             <div class=\"canvas\"><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title} over steps\">\
             {axes}{band}{curves}</svg></div>\
             <script type=\"application/json\">{data}</script></figure>\n",
            title = escape(self.title),
            note = escape(self.note),
            legend = self.legend(),
            axes = self.axes(&scale),
            band = self.band.as_ref().map(|band| band.render(&scale)).unwrap_or_default(),
            curves = self.curves.iter().map(|curve| curve.render(&scale)).collect::<String>(),
            data = self.data(&scale).to_string().replace('<', "\\u003c"),
        )
    }

    fn scale(&self) -> Scale {
        let band = self.band.iter().flat_map(|band| band.low.iter().chain(&band.high));
        let points = || self.curves.iter().flat_map(|curve| &curve.points).chain(band.clone());
        let bounds = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
        };
        let mut steps = bounds(&mut points().map(|point| point.0 as f64));
        if steps.0 == steps.1 {
            steps = (steps.0 - 1.0, steps.1 + 1.0);
        }
        let (low, high) = bounds(&mut points().map(|point| point.1));
        // A constant is shown in the middle, at a distance from its neighbours.
        let margin = if high > low {
            (high - low) * 0.06
        } else if low == 0.0 {
            1.0
        } else {
            low.abs() * 0.2
        };
        Scale { steps, values: self.range.unwrap_or((low - margin, high + margin)) }
    }

    fn legend(&self) -> String {
        let entry = |class: &str, colour: &str, name: &str| {
            format!("<li class=\"{class} {colour}\"><i></i>{}</li>", escape(name))
        };
        let curves = self.curves.iter();
        let curves = curves.map(|curve| entry(curve.style.class(), curve.colour, curve.name));
        let band = self.band.iter().map(|band| entry("band", band.colour, band.name));
        format!("<ul class=\"legend\">{}</ul>", curves.chain(band).collect::<String>())
    }

    fn axes(&self, scale: &Scale) -> String {
        let mut svg = String::new();
        let values = Ticks::new(scale.values.0, scale.values.1, 5);
        for &value in &values.values {
            let y = scale.y(value);
            let class = if value == 0.0 { "grid zero" } else { "grid" };
            svg += &format!(
                "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick end\" x=\"{x}\" y=\"{text_y:.1}\">{label}</text>",
                x = LEFT - 8.0,
                text_y = y + 4.0,
                label = values.label(value),
            );
        }
        let steps = Ticks::whole(scale.steps.0, scale.steps.1, 7);
        for &step in &steps.values {
            let x = scale.x(step);
            svg += &format!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>\
                 <text class=\"tick middle\" x=\"{x:.1}\" y=\"{y}\">{label}</text>",
                y = BOTTOM + 18.0,
                label = steps.label(step),
            );
        }
        let (middle_x, middle_y) = ((LEFT + RIGHT) / 2.0, (TOP + BOTTOM) / 2.0);
        svg += &format!(
            "<path class=\"frame\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/>\
             <text class=\"axis middle\" x=\"{middle_x}\" y=\"{y}\">optimizer step</text>\
             <text class=\"axis middle\" transform=\"translate(14 {middle_y}) rotate(-90)\">{axis}</text>",
            y = HEIGHT - 10.0,
            axis = escape(self.axis),
        );
        svg
    }

    /// Everything that the script needs to find the values under the pointer.
    fn data(&self, scale: &Scale) -> Value {
        let curve = |curve: &Curve| {
            let points: Vec<Value> =
                curve.points.iter().map(|point| json!([point.0, rounded(point.1)])).collect();
            json!({"name": curve.name, "colour": curve.colour, "points": points})
        };
        json!({
            "box": [LEFT, RIGHT, TOP, BOTTOM],
            "steps": [scale.steps.0, scale.steps.1],
            "values": [scale.values.0, scale.values.1],
            "curves": self.curves.iter().map(curve).collect::<Vec<_>>(),
        })
    }
}

impl Curve {
    fn render(&self, scale: &Scale) -> String {
        let (colour, style) = (self.colour, self.style.class());
        let raw = if self.smooth.is_empty() { "" } else { " raw" };
        let mut svg = format!(
            "<polyline class=\"curve {style} {colour}{raw}\" points=\"{}\"/>",
            scale.places(&self.points)
        );
        if !self.smooth.is_empty() {
            let places = scale.places(&self.smooth);
            svg +=
                &format!("<polyline class=\"curve smooth {style} {colour}\" points=\"{places}\"/>");
        }
        if self.style == Style::Marked || self.points.len() < FEW_POINTS {
            let radius = match self.style {
                _ if self.points.len() == 1 => 4.5,
                Style::Marked => 3.4,
                Style::Solid | Style::Dashed => 2.4,
            };
            for point in &self.points {
                svg += &format!(
                    "<circle class=\"mark {style} {colour}{raw}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\">\
                     <title>{name}, step {step}: {value}</title></circle>",
                    x = scale.x(point.0 as f64),
                    y = scale.y(point.1),
                    name = escape(self.name),
                    step = point.0,
                    value = short(point.1),
                );
            }
        }
        svg
    }
}

impl Band {
    fn render(&self, scale: &Scale) -> String {
        let back: Vec<Point> = self.high.iter().rev().copied().collect();
        let (there, back) = (scale.places(&self.low), scale.places(&back));
        format!("<polygon class=\"band {}\" points=\"{there} {back}\"/>", self.colour)
    }
}

impl Style {
    fn class(self) -> &'static str {
        match self {
            Self::Solid => "solid",
            Self::Dashed => "dashed",
            Self::Marked => "marked",
        }
    }
}

impl Scale {
    fn x(&self, step: f64) -> f64 {
        LEFT + (step - self.steps.0) / (self.steps.1 - self.steps.0) * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - (value - self.values.0) / (self.values.1 - self.values.0) * (BOTTOM - TOP)
    }

    fn places(&self, points: &[Point]) -> String {
        let place = |point: &Point| format!("{:.1},{:.1}", self.x(point.0 as f64), self.y(point.1));
        points.iter().map(place).collect::<Vec<_>>().join(" ")
    }
}

/// The value with six significant digits, which is all that a reader can use.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}
