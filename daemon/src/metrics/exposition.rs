//! Prometheus' text format, version 0.0.4: families of samples, each after one line of help and one of its type.
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>

use std::fmt::Write;

/// A text that grows by families.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

/// One family of an [`Exposition`]; without a sample nothing is written of it.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    is_empty: bool,
}

impl Exposition {
    /// What only grows while the daemon runs; its name ends in `_total`.
    pub(super) fn counter(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        debug_assert!(name.ends_with("_total"), "{name} is a counter");
        self.family(name, help, "counter")
    }

    /// What goes up and down.
    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str) -> Family<'_> {
        debug_assert!(!name.ends_with("_total"), "{name} is no counter");
        self.family(name, help, "gauge")
    }

    fn family(&mut self, name: &'static str, help: &'static str, kind: &'static str) -> Family<'_> {
        Family { text: &mut self.text, name, help, kind, is_empty: true }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// A sample without labels.
    pub(super) fn is(mut self, value: u64) {
        self.add(&[], value);
    }

    /// A sample; no two of a family have the same labels.
    pub(super) fn add(&mut self, labels: &[(&'static str, &str)], value: u64) {
        let Family { text, name, help, kind, is_empty } = self;
        if std::mem::take(is_empty) {
            text.push_str(&format!("# HELP {name} {}\n# TYPE {name} {kind}\n", escaped(help, false)));
        }
        text.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(text, "{open}{label}=\"{}\"", escaped(value, true));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(text, "{close} {value}");
    }
}

/// A backslash and the end of a line are written as `\\` and `\n`; in a label's value a quote as `\"`.
fn escaped(text: &str, is_quoted: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if is_quoted => escaped.push_str("\\\""),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_they_are_read() {
        let mut to = Exposition::default();
        to.gauge("icbd_a_bytes", "Of a \"\\\"\nand more.").is(u64::MAX);
        let mut family = to.counter("icbd_b_total", "B.");
        family.add(&[("source", "a\\b\"c\nd{},=é")], 0);
        family.add(&[("source", ""), ("more", "x")], 1);
        let _ = to.gauge("icbd_c", "Without a sample.");
        let expected = r#"# HELP icbd_a_bytes Of a "\\"\nand more.
# TYPE icbd_a_bytes gauge
icbd_a_bytes 18446744073709551615
# HELP icbd_b_total B.
# TYPE icbd_b_total counter
icbd_b_total{source="a\\b\"c\nd{},=é"} 0
icbd_b_total{source="",more="x"} 1
"#;
        assert_eq!(to.into_text(), expected);
    }
}
