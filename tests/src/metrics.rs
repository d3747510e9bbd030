//! A strict reader of Prometheus' text format: what it does not know, or knows to be bad manners, is an error.
//!
//! It shares nothing with the writer. The rules are those of the format's description (version 0.0.4) and of
//! `promtool check metrics`: help and type once and before the samples, all lines of a family together, no series twice,
//! base units, `_total` for counters and for nothing else.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};

use crate::get;

/// What a server told at one moment: every series with its value.
#[derive(Debug, Default)]
pub struct Metrics {
    series: BTreeMap<Series, f64>,
    /// By family: whether it is a counter.
    families: BTreeMap<String, bool>,
}

/// A name and its labels.
type Series = (String, BTreeMap<String, String>);

/// Ends of names that are no base units.
const BAD_UNITS: [&str; 8] = ["ms", "milliseconds", "minutes", "hours", "kib", "mib", "kilobytes", "bits"];

impl Metrics {
    /// Asks `server` and reads all it says.
    pub fn of(server: SocketAddr) -> Result<Metrics> {
        let answer = get(server, "/metrics")?;
        ensure!(answer.status == 200, "status {}", answer.status);
        let media = answer.header("content-type").context("no content type")?;
        ensure!(media == "text/plain; version=0.0.4; charset=utf-8", "content type {media}");
        Metrics::read(std::str::from_utf8(&answer.body)?)
    }

    pub fn read(text: &str) -> Result<Metrics> {
        ensure!(text.ends_with('\n') && !text.contains('\r'), "lines end in a newline each");
        let mut metrics = Metrics::default();
        // The family that the lines at hand are of, and its help as long as its type has not come.
        let (mut current, mut helped) = (String::new(), None);
        for line in text.lines() {
            metrics.line(line, &mut current, &mut helped).with_context(|| format!("in line {line:?}"))?;
        }
        ensure!(helped.is_none(), "help without a type at the end");
        Ok(metrics)
    }

    /// The value of one series.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(label, value)| (label.to_string(), value.to_string())).collect();
        self.series.get(&(name.to_owned(), labels)).copied()
    }

    /// Fails if a counter that was told `before` is gone or went back.
    pub fn grew_since(&self, before: &Metrics) -> Result<()> {
        for (series, old) in before.series.iter().filter(|((name, _), _)| before.families[name]) {
            let new = self.series.get(series).with_context(|| format!("{series:?} is gone"))?;
            ensure!(new >= old, "{series:?} went from {old} to {new}");
        }
        Ok(())
    }

    fn line(&mut self, line: &str, current: &mut String, helped: &mut Option<String>) -> Result<()> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').context("no help")?;
            ensure!(!help.trim().is_empty() && is_escaped(help, "\\n"), "a bad help");
            ensure!(helped.replace(name.to_owned()).is_none(), "help after help");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("no type")?;
            ensure!(helped.take().as_deref() == Some(name), "a type without help before it");
            let is_counter = match kind {
                "counter" => true,
                "gauge" => false,
                kind => bail!("type {kind}"),
            };
            check_name(name, is_counter)?;
            ensure!(self.families.insert(name.to_owned(), is_counter).is_none(), "{name} comes twice");
            *current = name.to_owned();
        } else {
            ensure!(!line.starts_with('#') && helped.is_none(), "neither help, type nor sample");
            let (series, value) = sample(line)?;
            ensure!(series.0 == *current, "not of the family {current}");
            ensure!(value.is_finite() && value >= 0.0, "{value}");
            ensure!(self.series.insert(series, value).is_none(), "the series comes twice");
        }
        Ok(())
    }
}

fn check_name(name: &str, is_counter: bool) -> Result<()> {
    ensure!(is_name(name) && name.starts_with("icbd_"), "{name} is no name of ours");
    ensure!(name.ends_with("_total") == is_counter, "{name}: `_total` is for counters, and for each of them");
    let mut words: Vec<&str> = name.trim_end_matches("_total").split('_').collect();
    let last = words.pop().unwrap_or_default();
    ensure!(!BAD_UNITS.contains(&last), "{name}: {last} is no base unit");
    ensure!(!words.contains(&"bytes") && !words.contains(&"seconds"), "{name}: the unit comes last");
    Ok(())
}

fn is_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

/// Whether each backslash in `text` is followed by one or by a character of `known`.
fn is_escaped(text: &str, known: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\\' && !chars.next().is_some_and(|next| known.contains(next)) {
            return false;
        }
    }
    true
}

/// `name{label="value",…} value`
fn sample(line: &str) -> Result<(Series, f64)> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").context("no label")?;
            ensure!(is_name(label) && !label.starts_with("__"), "label {label:?}");
            let (value, after) = quoted(after)?;
            ensure!(labels.insert(label.to_owned(), value).is_none(), "label {label} comes twice");
            rest = after;
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').context("labels without an end")?;
    }
    let value = rest.strip_prefix(' ').context("no space before the value")?;
    Ok(((name.to_owned(), labels), value.parse().with_context(|| format!("value {value:?}"))?))
}

/// A label's value up to its closing quote, and what comes after that.
fn quoted(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, '\\')) => value.push('\\'),
                Some((_, '"')) => value.push('"'),
                Some((_, 'n')) => value.push('\n'),
                other => bail!("escape {other:?}"),
            },
            c => value.push(c),
        }
    }
    bail!("a value without an end")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_is_strict() {
        let good = "# HELP icbd_a_total A \\\\ and\\nmore.\n# TYPE icbd_a_total counter\nicbd_a_total{x=\"1\\\"\\n\",y=\"\"} 3\n";
        let metrics = Metrics::read(good).unwrap();
        assert_eq!(metrics.value("icbd_a_total", &[("x", "1\"\n"), ("y", "")]), Some(3.0));
        let family =
            |name: &str, kind: &str, samples: &str| format!("# HELP {name} A.\n# TYPE {name} {kind}\n{samples}\n");
        assert!(Metrics::read(&family("icbd_a", "gauge", "icbd_a 1")).is_ok());
        for bad in [
            "icbd_a 1\n".to_owned(),
            "# TYPE icbd_a gauge\nicbd_a 1\n".to_owned(),
            family("icbd_a", "counter", "icbd_a 1"),
            family("icbd_a_total", "gauge", "icbd_a_total 1"),
            family("icbd_a_ms", "gauge", "icbd_a_ms 1"),
            family("icbd_bytes_a", "gauge", "icbd_bytes_a 1"),
            family("icbd_a", "gauge", "icbd_a 1\nicbd_a 1"),
            family("icbd_a", "gauge", "icbd_a{x=\"1\",x=\"1\"} 1"),
            family("icbd_a", "gauge", "icbd_a{x=\"\\q\"} 1"),
            family("icbd_a", "gauge", "icbd_a{x=\"1\" 1"),
            family("icbd_a", "gauge", "icbd_a  1"),
            family("icbd_a", "gauge", "icbd_a NaN"),
            family("icbd_a", "gauge", "icbd_b 1"),
            family("icbd_a", "gauge", "\nicbd_a 1"),
            family("icbd_a", "gauge", "icbd_a 1").repeat(2),
        ] {
            assert!(Metrics::read(&bad).is_err(), "{bad}");
        }
    }
}
