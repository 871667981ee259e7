//! Lists as tables, JSON lines or templates: one way for every verb that lists.

use std::borrow::Cow;

use serde_json::Value;

use super::template::{Labels, Template};
use crate::cli::print;
use crate::failure::Failure;
use crate::visible::in_one_line;

/// The key of a row under which its labels stand for `{{.Label "name"}}`; it is not shown otherwise.
pub(crate) const LABEL: &str = "Label";

/// A column: the field's name in templates, and the heading of its table.
pub(crate) type Column = (&'static str, &'static str);

/// What a list can show.
pub(crate) struct Listing {
    /// Every field that a template may name.
    pub(crate) fields: &'static [Column],
    /// The fields of the table, where no format is asked for.
    pub(crate) shown: Vec<&'static str>,
}

impl Listing {
    /// Prints rows, each an object of strings with all of the fields, and [`LABEL`] where there are
    /// labels.
    ///
    /// `format` is `--format`: nothing or `table` for the table, `json`, `table TEMPLATE`, or a
    /// template.
    ///
    /// # Errors
    /// A template that cannot be read or names a field that there is not.
    pub(crate) fn print(&self, rows: &[Value], format: Option<&str>) -> Result<(), Failure> {
        print(&self.text(rows, format)?)
    }

    fn text(&self, rows: &[Value], format: Option<&str>) -> Result<String, Failure> {
        let default = || {
            let fields = self.shown.iter().map(|name| format!("{{{{.{name}}}}}"));
            fields.collect::<Vec<_>>().join("\t")
        };
        let (template, table) = match format.unwrap_or("table") {
            "json" => {
                let rows = rows.iter().map(|row| without_labels(row).0);
                return Ok(rows.map(|row| format!("{row}\n")).collect());
            }
            "table" | "" => (default(), true),
            format => match format.strip_prefix("table ") {
                Some(template) => (template.to_owned(), true),
                None => (format.to_owned(), false),
            },
        };
        let template = template.replace("\\t", "\t").replace("\\n", "\n");
        let wrong = |why: String| Failure::new(format!("--format {template:?}: {why}")).exits(1);
        let parsed = Template::parse(&template).map_err(wrong)?;
        let mut lines = Vec::with_capacity(rows.len() + 1);
        if table {
            let headings: serde_json::Map<String, Value> = self
                .fields
                .iter()
                .map(|(name, heading)| ((*name).to_owned(), Value::from(*heading)))
                .collect();
            let headings = Value::Object(headings);
            lines.push(parsed.render_row(&headings, Some(Labels::Heading)).map_err(wrong)?);
        }
        for row in rows {
            // A line end or tab of somebody's would be a row or a column of its own.
            let row = if table { Cow::Owned(in_one_line_each(row)) } else { Cow::Borrowed(row) };
            let (row, labels) = without_labels(&row);
            let labels = labels.as_ref().map(Labels::Of);
            lines.push(parsed.render_row(&row, labels).map_err(wrong)?);
        }
        Ok(if table {
            align(&lines)
        } else {
            lines.iter().map(|line| line.clone() + "\n").collect()
        })
    }
}

/// A row, and apart from it the map under [`LABEL`].
fn without_labels(row: &Value) -> (Value, Option<serde_json::Map<String, Value>>) {
    let mut row = row.clone();
    let labels = row.as_object_mut().and_then(|row| row.remove(LABEL));
    let labels = labels.and_then(|labels| labels.as_object().cloned());
    (row, labels)
}

/// A row whose words stand in one line each.
fn in_one_line_each(row: &Value) -> Value {
    let line = |value: &Value| match value {
        Value::String(text) => Value::from(in_one_line(text).into_owned()),
        other => in_one_line_each(other),
    };
    match row {
        Value::Object(cells) => {
            cells.iter().map(|(name, value)| (name.clone(), line(value))).collect()
        }
        other => other.clone(),
    }
}

/// Pads tab-separated cells, as Docker does: columns of at least ten, at least three spaces between
/// them, none at the end of a line.
fn align(lines: &[String]) -> String {
    const GAP: usize = 3;
    const WIDTH_MIN: usize = 10;
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> =
        (0..columns).map(|column| WIDTH_MIN.max(width(column).unwrap_or(0) + GAP)).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                let pad = widths[column] - cell.chars().count();
                text.extend(std::iter::repeat_n(' ', pad));
            }
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

/// Prints the array that `inspect` answers, or each of its values by a template.
///
/// # Errors
/// A template that cannot be read or filled in.
pub(crate) fn print_inspected(values: &[Value], format: Option<&str>) -> Result<(), Failure> {
    match format {
        None | Some("json" | "") => {
            let text = if format == Some("json") {
                serde_json::to_string(values)
            } else {
                to_string_by_four(values)
            };
            let text = text.map_err(|error| Failure::new("inspect").because(&error))?;
            print(&(text + "\n"))
        }
        Some(format) => {
            let wrong = |why: String| Failure::new(format!("--format {format:?}: {why}")).exits(1);
            let template = Template::parse(format).map_err(wrong)?;
            for value in values {
                print(&(template.render(value).map_err(wrong)? + "\n"))?;
            }
            Ok(())
        }
    }
}

/// Docker indents by four.
fn to_string_by_four(values: &[Value]) -> serde_json::Result<String> {
    use serde::Serialize;
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    values.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_json_and_templates() {
        let listing =
            Listing { fields: &[("ID", "IMAGE ID"), ("Size", "SIZE")], shown: vec!["ID", "Size"] };
        let rows = [json!({ "ID": "abc", "Size": "1.2MB" }), json!({ "ID": "d", "Size": "3B" })];
        let text = |format| listing.text(&rows, format).unwrap();
        assert_eq!(text(None), "IMAGE ID   SIZE\nabc        1.2MB\nd          3B\n");
        assert_eq!(text(Some("{{.ID}}")), "abc\nd\n");
        assert_eq!(
            text(Some("table {{.Size}}\\t{{.ID}}")),
            "SIZE      IMAGE ID\n1.2MB     abc\n3B        d\n"
        );
        assert_eq!(text(Some("json")).lines().count(), 2);
        assert!(listing.text(&rows, Some("{{.Nope}}")).is_err());
    }
}
