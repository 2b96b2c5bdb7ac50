//! Figures as they come, the table of them, and the JSON beside it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use demo::checks;
use machines::json::{Number, Value};

/// One figure beside its floor.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// What came out, with its unit.
    pub measured: f64,
    /// The floor of the same run, in the same unit; `None` where the goal is absolute.
    pub floor: Option<f64>,
    /// The unit of both.
    pub unit: &'static str,
    /// The goal in words.
    pub goal: String,
    /// Whether it was reached; `None` for a figure without a goal.
    pub reached: Option<bool>,
}

/// All figures of a run, by section.
#[derive(Debug, Default)]
pub struct Report {
    sections: BTreeMap<&'static str, Vec<Figure>>,
}

impl Report {
    /// Adds a figure and prints it.
    pub fn add(&mut self, section: &'static str, figure: Figure) {
        println!("  {}: {}{}", figure.name, shown(figure.measured, figure.unit), verdict(&figure));
        self.sections.entry(section).or_default().push(figure);
    }

    /// Prints the table.
    pub fn print(&self) {
        let mut rows = Vec::new();
        for figure in self.sections.values().flatten() {
            rows.push(vec![
                figure.name.clone(),
                shown(figure.measured, figure.unit),
                figure.floor.map_or_else(|| "-".into(), |floor| shown(floor, figure.unit)),
                ratio(figure).map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")),
                figure.goal.clone(),
                word(figure),
            ]);
        }
        print!("{}", checks::table(&["figure", "measured", "floor", "ratio", "goal", "result"], &rows));
    }

    /// Writes one JSON file a section into `folder`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        for (section, figures) in &self.sections {
            let path = folder.join(format!("{section}.json"));
            let list = Value::Array(figures.iter().map(json).collect());
            std::fs::write(&path, format!("{list}\n")).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

fn ratio(figure: &Figure) -> Option<f64> {
    figure.floor.filter(|floor| *floor > 0.0).map(|floor| figure.measured / floor)
}

fn word(figure: &Figure) -> String {
    figure.reached.map_or_else(|| "-".into(), |reached| String::from(if reached { "PASS" } else { "MISS" }))
}

fn verdict(figure: &Figure) -> String {
    let ratio = ratio(figure).map_or_else(String::new, |ratio| format!(", {ratio:.2} of the floor"));
    format!("{ratio} {}", word(figure).replace('-', ""))
}

fn shown(value: f64, unit: &str) -> String {
    let digits = if value.abs() >= 1000.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}

fn json(figure: &Figure) -> Value {
    let number = |x: f64| Number::from_f64((x * 1000.0).round() / 1000.0).map_or(Value::Null, Value::Number);
    let mut members = BTreeMap::from([
        ("figure".to_owned(), Value::from(figure.name.as_str())),
        ("measured".to_owned(), number(figure.measured)),
        ("unit".to_owned(), Value::from(figure.unit)),
        ("goal".to_owned(), Value::from(figure.goal.as_str())),
    ]);
    if let Some(floor) = figure.floor {
        members.insert("floor".into(), number(floor));
    }
    if let Some(ratio) = ratio(figure) {
        members.insert("ratio".into(), number(ratio));
    }
    if let Some(reached) = figure.reached {
        members.insert("reached".into(), Value::from(reached));
    }
    Value::Object(members)
}

/// The value below which `part` percent of the sorted times lie; 0 for none.
#[must_use]
pub fn percentile(sorted: &[f64], part: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * part / 100).copied().unwrap_or(0.0)
}

/// The middle one of some figures.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    percentile(&figures, 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_sorted_times() {
        let times: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 99), percentile(&[], 50)), (50.0, 99.0, 0.0));
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn a_figure_is_written_with_its_ratio() {
        let figure = Figure {
            name: "a".into(),
            measured: 3.0,
            floor: Some(2.0),
            unit: "us",
            goal: "at most twice".into(),
            reached: Some(true),
        };
        let text = json(&figure).to_text();
        assert!(text.contains("\"ratio\":1.5") && text.contains("\"reached\":true"), "{text}");
    }
}
