//! Medians and ratios, and the table that a run makes of them.

/// Samples of one quantity, in any unit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The nearest-rank quantile; NaN without samples.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * q).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

/// The median of the rounds' ratios: on a disk that is fast in one minute and slow in the next, two medians may come
/// from different minutes.
pub(crate) fn ratio_of_rounds(ours: &Samples, theirs: &Samples) -> f64 {
    Samples(ours.0.iter().zip(&theirs.0).map(|(ours, theirs)| ours / theirs).collect()).median()
}

/// Which way a ratio has to go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Goal::AtLeast(bound) => ratio >= bound,
            Goal::AtMost(bound) => ratio <= bound,
        }
    }
}

/// One comparison: ours beside what it is compared with, measured in the same run.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
    pub(crate) ratio: f64,
    pub(crate) goal: Goal,
}

/// The rows as a Markdown table; the goals are shown, not enforced, because machines are noisy.
pub(crate) fn table(title: &str, ours: &str, theirs: &str, rows: &[Row]) -> String {
    let mut table = format!("### {title}\n\n| work | {ours} | {theirs} | ratio | goal | |\n");
    table.push_str("| --- | ---: | ---: | ---: | ---: | --- |\n");
    for row in rows {
        let goal = match row.goal {
            Goal::AtLeast(bound) => format!("≥ {bound}"),
            Goal::AtMost(bound) => format!("≤ {bound}"),
        };
        let verdict = if row.goal.is_met(row.ratio) { "met" } else { "**missed**" };
        let Row { work, unit, ours, theirs, ratio, .. } = row;
        table.push_str(&format!(
            "| {work} | {ours:.1} {unit} | {theirs:.1} {unit} | {ratio:.2} | {goal} | {verdict} |\n"
        ));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples() {
        let samples = Samples(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((samples.median(), samples.quantile(1.0), samples.quantile(0.01)), (3.0, 5.0, 1.0));
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn ratios_are_those_of_single_rounds() {
        let (ours, theirs) = (Samples(vec![10.0, 24.0, 11.0]), Samples(vec![10.0, 24.0, 22.0]));
        assert_eq!(ratio_of_rounds(&ours, &theirs), 1.0);
    }
}
