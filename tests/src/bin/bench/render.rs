//! Puts results into the documentation: what is between two marks of `benchmarks.md`, and the chart beside it.

use std::fs;
use std::path::Path;

use crate::failure::Failure;
use crate::results::Report;
use crate::session::write;
use crate::{chart, table};

const BEGIN: &str = "<!-- figures: written by bench --render -->\n";
const END: &str = "<!-- end of figures -->\n";

/// Reads `results` and writes into `docs`.
pub(crate) fn render(results: &Path, docs: &Path) -> Result<(), Failure> {
    let read = |path: &Path| fs::read_to_string(path).map_err(Failure::while_doing(format!("read {}", path.display())));
    let report: Report = serde_json::from_str(&read(results)?)
        .map_err(Failure::while_doing(format!("understand {}", results.display())))?;
    let page = docs.join("benchmarks.md");
    let text = replaced(&read(&page)?, &figures(&report))
        .ok_or_else(|| Failure::Unfit(format!("{} has no place for figures", page.display())))?;
    write(&page, &text)?;
    write(&docs.join("benchmarks.svg"), &chart::svg(&report))
}

fn figures(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "Measured on {}: {} ({} processors), {} GiB of memory, Linux {}, {}; {}. Base {} MiB, {} rounds of {} ms for each \
         rate.\n\n```sh\n{}\n```\n\n![Ratios](benchmarks.svg)\n\n{}",
        machine.date,
        machine.processor,
        machine.processors,
        machine.memory_gib,
        machine.kernel,
        machine.file_system,
        machine.programs.join("; "),
        report.base_mib,
        report.rounds,
        report.window_ms,
        report.command,
        table::markdown(report)
    )
}

/// `page` with `figures` between the marks.
fn replaced(page: &str, figures: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{figures}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_figures_are_replaced() {
        let page = format!("head\n{BEGIN}old\n{END}tail\n");

        let once = replaced(&page, "new").expect("the page has both marks");
        let twice = replaced(&once, "new").expect("and still has");

        assert_eq!(once, format!("head\n{BEGIN}\nnew\n{END}tail\n"));
        assert_eq!(once, twice);
        assert_eq!(replaced("no marks", "new"), None);
    }
}
