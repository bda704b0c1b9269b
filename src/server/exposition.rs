//! Prometheus' text format, version 0.0.4: what `/metrics` answers.

use std::fmt::Write as _;

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of metrics. Each family is written once, with all its samples.
#[derive(Debug, Default)]
pub struct Page(String);

/// One family of a page.
pub struct Family<'a> {
    page: &'a mut String,
    name: &'static str,
}

impl Page {
    /// A family of values that go up and down.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// A family of counts; its name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// A family of histograms.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "histogram", help)
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}", escaped(help, false));
        Family { page: &mut self.0, name }
    }
}

impl Family<'_> {
    /// A value with labels.
    pub fn value(&mut self, labels: &[(&str, &str)], value: f64) -> &mut Self {
        self.sample("", labels, &[], value)
    }

    /// A whole number with labels.
    pub fn count(&mut self, labels: &[(&str, &str)], value: u64) -> &mut Self {
        self.value(labels, value as f64)
    }

    /// A value that may not have been measured: then there is no sample.
    pub fn measured(&mut self, value: Option<f64>) -> &mut Self {
        if let Some(value) = value {
            self.value(&[], value);
        }
        self
    }

    /// A histogram: the upper bound and the count of each bucket, then all observations and their sum.
    pub fn observed(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl IntoIterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) -> &mut Self {
        let mut below = 0;
        for (bound, inside) in buckets {
            below += inside;
            self.sample("_bucket", labels, &[("le", &bound.to_string())], below as f64);
        }
        self.sample("_bucket", labels, &[("le", "+Inf")], count as f64);
        self.sample("_sum", labels, &[], sum);
        self.sample("_count", labels, &[], count as f64)
    }

    fn sample(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        more: &[(&str, &str)],
        value: f64,
    ) -> &mut Self {
        let labels: Vec<String> = labels
            .iter()
            .chain(more)
            .map(|(key, text)| format!("{key}=\"{}\"", escaped(text, true)))
            .collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.page, "{}{suffix} {value}", self.name),
            false => writeln!(self.page, "{}{suffix}{{{}}} {value}", self.name, labels.join(",")),
        };
        self
    }
}

fn escaped(text: &str, quoted: bool) -> String {
    let text = text.replace('\\', r"\\").replace('\n', r"\n");
    if quoted { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_have_help_type_and_samples() {
        let mut page = Page::default();
        page.gauge("a_ratio", "A share\nof \\ all.").value(&[], 0.25).measured(None).measured(Some(2.0));
        page.counter("b_total", "Counts.").count(&[("reason", "said \"no\"\n"), ("x", "1")], 3);
        let expected = "# HELP a_ratio A share\\nof \\\\ all.\n# TYPE a_ratio gauge\na_ratio 0.25\na_ratio 2\n\
                        # HELP b_total Counts.\n# TYPE b_total counter\n\
                        b_total{reason=\"said \\\"no\\\"\\n\",x=\"1\"} 3\n";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn buckets_add_up() {
        let mut page = Page::default();
        page.histogram("h", "Times.").observed(&[("m", "a")], [(0.5, 1), (1.0, 2)], 4, 7.5);
        let expected = "# HELP h Times.\n# TYPE h histogram\nh_bucket{m=\"a\",le=\"0.5\"} 1\n\
                        h_bucket{m=\"a\",le=\"1\"} 3\nh_bucket{m=\"a\",le=\"+Inf\"} 4\nh_sum{m=\"a\"} 7.5\n\
                        h_count{m=\"a\"} 4\n";
        assert_eq!(page.into_text(), expected);
    }
}
