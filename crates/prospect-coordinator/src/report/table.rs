//! The tables of the report: metrics, and what happened.

use super::journal::{Event, FIRST, Journal};
use super::markup::escape;
use super::series::{Point, Series, Table};
use super::ticks::{count, short};

/// Which values of a metric are good ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    Lower,
    Higher,
    /// Neither: the metric tells no success.
    Neither,
}

/// First, last and best values of every metric.
pub(super) fn metrics(train: &Table, eval: &Table) -> String {
    let rows = |part: &str, table: &Table| {
        table.all.iter().filter_map(|series| row(part, series)).collect::<String>()
    };
    let rows = rows("train", train) + &rows("eval", eval);
    if rows.is_empty() {
        return "<p class=\"none\">No metrics were recorded.</p>".to_owned();
    }
    format!(
        "<div class=\"scroll\"><table><thead><tr><th>Metric</th><th>Rows</th><th class=\"number\">First</th>\
         <th class=\"number\">Last</th><th class=\"number\">Best</th><th class=\"number\">at step</th>\
         <th class=\"number\">Lowest</th><th class=\"number\">Highest</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

/// The journal's events.
pub(super) fn events(journal: &Journal) -> String {
    if journal.events.is_empty() {
        return "<p class=\"none\">No events were recorded.</p>".to_owned();
    }
    let mut rows: Vec<String> = journal.events.iter().map(event).collect();
    if journal.num_left_out > 0 {
        let number = count(journal.num_left_out as u64);
        let gap = format!(
            "<tr><td class=\"none\" colspan=\"5\">{number} events are left out here; see journal.jsonl</td></tr>"
        );
        rows.insert(FIRST, gap);
    }
    format!(
        "<div class=\"scroll tall\"><table><thead><tr><th class=\"number\">#</th><th>Time</th>\
         <th class=\"number\">Step</th><th>Event</th><th>Message</th></tr></thead><tbody>{}</tbody></table></div>",
        rows.concat()
    )
}

fn row(part: &str, series: &Series) -> Option<String> {
    let (first, last) = (series.points.first()?, series.points.last()?);
    let by_value = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
    let lowest = series.points.iter().min_by(by_value)?;
    // The earliest of several equal ones, as with the lowest.
    let highest = series.points.iter().rev().max_by(by_value)?;
    let best = match better(&series.key) {
        Better::Lower => Some(lowest),
        Better::Higher => Some(highest),
        Better::Neither => None,
    };
    let (best, at_step) = best
        .map(|point| (short(point.1), count(point.0)))
        .unwrap_or_else(|| ("–".to_owned(), "–".to_owned()));
    let numbers = [short(first.1), short(last.1), best, at_step, short(lowest.1), short(highest.1)];
    let cells: String =
        numbers.iter().map(|number| format!("<td class=\"number\">{number}</td>")).collect();
    Some(format!(
        "<tr><td><code>{}</code></td><td class=\"part\">{part}</td>{cells}</tr>",
        escape(&series.key)
    ))
}

fn event(event: &Event) -> String {
    format!(
        "<tr><td class=\"number\">{}</td><td class=\"time\">{}</td><td class=\"number\">{}</td>\
         <td><code>{}</code></td><td>{}</td></tr>",
        escape(&event.sequence),
        escape(&event.time),
        escape(&event.step),
        escape(&event.kind),
        escape(&event.message)
    )
}

fn better(key: &str) -> Better {
    match key {
        "loss" | "rewards/rejected" | "step_seconds" | "peak_memory_bytes" => Better::Lower,
        "rewards/chosen" | "rewards/margins" | "rewards/accuracies" | "tokens_per_second"
        | "mfu" => Better::Higher,
        _ => Better::Neither,
    }
}
