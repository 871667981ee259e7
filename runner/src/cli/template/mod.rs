//! The part of Go's text/template that people write after `--format`.
//!
//! `{{.A.B}}`, `{{json .A}}`, pipes, parentheses, variables, `range` (with `else`, `break`, `continue`
//! and `$key, $value :=`), `if`/`else if`/`else`, `with`/`else with`, `{{-` and `-}}`; Go's functions
//! and Docker's (`functions.rs`); of lists, `.Label "name"`. What Go would take for an error is one:
//! `eq` of a number and a text, an element that is not there.
//! Source: pkg.go.dev/text/template, and Docker's `docker inspect --format` reference.

mod functions;
mod parse;
mod printf;

use serde_json::Value;

use self::functions::call;

/// A template that has been read.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

/// Why a template cannot be read, or not be filled in.
pub(crate) type Error = String;

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Print(Pipe),
    If(Vec<(Pipe, Vec<Node>)>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range {
        names: Vec<String>,
        over: Pipe,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `$x := …`, or with `true` `$x = …`, of a variable that there is.
    Set(String, Pipe, bool),
    Break,
    Continue,
}

/// Commands, each getting the value of the one before as its last argument.
type Pipe = Vec<Vec<Term>>;

#[derive(Clone, Debug)]
enum Term {
    /// `.A.B` of the current value; none is `.` itself.
    Field(Vec<String>),
    /// `$x.A`
    Variable(String, Vec<String>),
    Literal(Value),
    Function(String),
    /// `(pipe).A`
    Nested(Pipe, Vec<String>),
}

/// Fields whose own fields are anybody's words.
const MAPS: [&str; 11] = [
    "Annotations",
    "ExposedPorts",
    "Labels",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Fields that are lists: where there is none JSON has `null`, and Docker's templates an empty one.
const LISTS: [&str; 25] = [
    "Aliases",
    "Args",
    "Binds",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DNSNames",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "OnBuild",
    "SecurityOpt",
    "Shell",
    "Ulimits",
    "VolumesFrom",
];

/// Rounds of a `range` over a number: more than anybody means.
const RANGE_MAX: u64 = 1_000_000;

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        parse::nodes(text).map(|nodes| Self { nodes })
    }

    /// Fills it in. A field that `data` lacks is an error, as with Docker: a script should not go
    /// on with a word that was misspelled. A label that is not there is `<no value>`.
    pub(crate) fn render(&self, data: &Value) -> Result<String, Error> {
        self.render_row(data, None)
    }

    /// The same for a row of a list, with what `.Label "name"` answers.
    pub(crate) fn render_row(
        &self,
        data: &Value,
        labels: Option<Labels<'_>>,
    ) -> Result<String, Error> {
        let mut state = State { variables: vec![("$".into(), data.clone())], labels };
        let mut out = String::new();
        state.nodes(&self.nodes, data, &mut out)?;
        Ok(out)
    }
}

/// What `.Label "name"` stands for in a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Labels<'a> {
    /// The heading of its column: the name's last part.
    Heading,
    Of(&'a serde_json::Map<String, Value>),
}

impl Labels<'_> {
    fn get(self, name: &str) -> String {
        match self {
            Self::Heading => {
                let last = name.rsplit('.').next().unwrap_or(name);
                last.replace(['-', '_'], " ")
            }
            Self::Of(map) => map.get(name).and_then(Value::as_str).unwrap_or_default().to_owned(),
        }
    }
}

struct State<'a> {
    variables: Vec<(String, Value)>,
    labels: Option<Labels<'a>>,
}

/// How a list of nodes came to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Through,
    Break,
    Continue,
}

impl State<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<Flow, Error> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipe) => match self.pipe(pipe, dot)? {
                    Value::Null => out.push_str(nothing(pipe)),
                    value => out.push_str(&shown(&value)),
                },
                Node::Set(name, pipe, is_new) => {
                    let value = self.pipe(pipe, dot)?;
                    self.set(name, value, *is_new)?;
                }
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
                Node::If(branches, otherwise) => {
                    let mut chosen = otherwise;
                    for (condition, nodes) in branches {
                        if truth(&self.pipe(condition, dot)?) {
                            chosen = nodes;
                            break;
                        }
                    }
                    let flow = self.scope(chosen, dot, out)?;
                    if flow != Flow::Through {
                        return Ok(flow);
                    }
                }
                Node::With(pipe, nodes, otherwise) => {
                    let value = self.pipe(pipe, dot)?;
                    let (nodes, dot) =
                        if truth(&value) { (nodes, &value) } else { (otherwise, dot) };
                    let flow = self.scope(nodes, dot, out)?;
                    if flow != Flow::Through {
                        return Ok(flow);
                    }
                }
                Node::Range { names, over, body, otherwise } => {
                    let over = self.pipe(over, dot)?;
                    self.range(names, &over, (body, otherwise), dot, out)?;
                }
            }
        }
        Ok(Flow::Through)
    }

    fn set(&mut self, name: &str, value: Value, is_new: bool) -> Result<(), Error> {
        if is_new {
            self.variables.push((name.to_owned(), value));
            return Ok(());
        }
        let known = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        known.ok_or_else(|| format!("{name} is not set"))?.1 = value;
        Ok(())
    }

    /// Variables that are set inside are gone afterwards.
    fn scope(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<Flow, Error> {
        let known = self.variables.len();
        let result = self.nodes(nodes, dot, out);
        self.variables.truncate(known);
        result
    }

    fn range(
        &mut self,
        names: &[String],
        over: &Value,
        (body, otherwise): (&[Node], &[Node]),
        dot: &Value,
        out: &mut String,
    ) -> Result<(), Error> {
        let numbers: Vec<Value>;
        let items: Vec<(Value, &Value)> = match over {
            Value::Array(items) => {
                items.iter().enumerate().map(|(at, item)| (Value::from(at), item)).collect()
            }
            Value::Object(map) => {
                map.iter().map(|(key, item)| (Value::from(key.as_str()), item)).collect()
            }
            Value::Null => Vec::new(),
            Value::Number(count) => {
                let count = count.as_u64().unwrap_or(0).min(RANGE_MAX);
                numbers = (0..count).map(Value::from).collect();
                numbers.iter().map(|number| (number.clone(), number)).collect()
            }
            other => return Err(format!("range can't iterate over {}", shown(other))),
        };
        if items.is_empty() {
            return self.scope(otherwise, dot, out).map(drop);
        }
        for (key, item) in items {
            let known = self.variables.len();
            match names {
                [value] => self.variables.push((value.clone(), item.clone())),
                [name, value] => {
                    self.variables.push((name.clone(), key));
                    self.variables.push((value.clone(), item.clone()));
                }
                _ => {}
            }
            let result = self.nodes(body, item, out);
            self.variables.truncate(known);
            if result? == Flow::Break {
                break;
            }
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, Error> {
        let mut last = None;
        for command in pipe {
            last = Some(self.command(command, last, dot)?);
        }
        Ok(last.unwrap_or(Value::Null))
    }

    fn command(
        &mut self,
        command: &[Term],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, Error> {
        let (first, rest) = command.split_first().ok_or("an empty command")?;
        if let (Some(labels), Term::Field(path), None) = (self.labels, first, &piped)
            && let ([method], [argument]) = (&path[..], rest)
            && method == "Label"
        {
            let name = self.term(argument, dot)?;
            let name = name.as_str().ok_or("Label takes a name")?;
            return Ok(Value::from(labels.get(name)));
        }
        if let Term::Function(name) = first {
            if name == "and" || name == "or" {
                return self.first_that_decides(name == "or", rest, piped, dot);
            }
            let mut arguments = Vec::new();
            for term in rest {
                arguments.push(self.term(term, dot)?);
            }
            arguments.extend(piped);
            return call(name, &arguments);
        }
        if !rest.is_empty() || piped.is_some() {
            return Err("only functions take arguments".into());
        }
        self.term(first, dot)
    }

    /// `or` answers the first that is true, `and` the first that is not, else the last; what comes
    /// after it is not looked at.
    fn first_that_decides(
        &mut self,
        wanted: bool,
        terms: &[Term],
        piped: Option<Value>,
        dot: &Value,
    ) -> Result<Value, Error> {
        let mut last = None;
        for term in terms {
            let value = self.term(term, dot)?;
            if truth(&value) == wanted {
                return Ok(value);
            }
            last = Some(value);
        }
        piped.or(last).ok_or_else(|| "and and or need something to look at".into())
    }

    fn term(&mut self, term: &Term, dot: &Value) -> Result<Value, Error> {
        match term {
            Term::Literal(value) => Ok(value.clone()),
            Term::Field(path) => self.walk(dot, path),
            Term::Variable(name, path) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                // By reference: `$` is everything, and stands in a loop over a list of an image's.
                let (_, value) = known.ok_or_else(|| format!("{name} is not set"))?;
                self.walk(value, path)
            }
            Term::Nested(pipe, path) => {
                let value = self.pipe(pipe, dot)?;
                self.walk(&value, path)
            }
            Term::Function(name) => call(name, &[]),
        }
    }

    fn walk(&self, from: &Value, path: &[String]) -> Result<Value, Error> {
        let mut value = from;
        for (place, name) in path.iter().enumerate() {
            let of = place.checked_sub(1).map(|before| path[before].as_str());
            value = match value.get(name) {
                Some(value) => value,
                None if of.is_some_and(|of| MAPS.contains(&of)) => return Ok(Value::Null),
                None => return Err(format!("there is no field .{}", path.join("."))),
            };
        }
        Ok(value.clone())
    }
}

/// How a field is shown that holds nothing: Go knows of what type it is.
fn nothing(pipe: &Pipe) -> &'static str {
    let [command] = &pipe[..] else { return "<nil>" };
    let [Term::Field(path) | Term::Variable(_, path) | Term::Nested(_, path)] = &command[..] else {
        return "<nil>";
    };
    match &path[..] {
        [.., map, _] if MAPS.contains(&map.as_str()) => "<no value>",
        [.., name] if LISTS.contains(&name.as_str()) => "[]",
        [.., name] if MAPS.contains(&name.as_str()) => "map[]",
        _ => "<nil>",
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => *truth,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As Go's `%v` prints it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" "))
        }
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key}:{}", shown(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str) -> Result<String, Error> {
        let data = json!({
            "Id": "sha256:0123", "Size": 12, "Tags": ["a", "b"], "Empty": [], "On": true,
            "Config": { "Env": ["A=1", "B=2"], "Labels": { "x.y": "z" }, "Cmd": null,
                "Volumes": null },
        });
        Template::parse(template)?.render(&data)
    }

    #[test]
    fn what_people_write() {
        for (template, want) in [
            ("{{.Id}}", "sha256:0123"),
            ("a {{ .Size }} b", "a 12 b"),
            ("{{.Config.Env}}", "[A=1 B=2]"),
            ("{{json .Config.Labels}}", r#"{"x.y":"z"}"#),
            ("{{.Config.Labels}}", "map[x.y:z]"),
            ("{{index .Config.Labels \"x.y\"}}", "z"),
            ("{{index .Tags 1}}", "b"),
            ("{{range .Tags}}<{{.}}>{{end}}", "<a><b>"),
            ("{{range $i, $t := .Tags}}{{$i}}={{$t}} {{end}}", "0=a 1=b "),
            ("{{range .Empty}}x{{else}}none{{end}}", "none"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            ("{{if .On}}yes{{else}}no{{end}}", "yes"),
            ("{{if .Empty}}a{{else if .On}}b{{else}}c{{end}}", "b"),
            ("{{with .Config}}{{.Cmd}} {{json .Cmd}}{{end}}", "[] null"),
            ("{{join .Tags \",\"}}", "a,b"),
            ("{{.Id | upper}}", "SHA256:0123"),
            ("{{len .Tags}}", "2"),
            ("{{(index .Tags 0) | printf \"%-3s|\"}}", "a  |"),
            ("{{printf \"%.3s %d %q\" .Id .Size .Id}}", "sha 12 \"sha256:0123\""),
            ("{{eq .Size 12}} {{ne .Id \"x\"}} {{not .On}}", "true true false"),
            ("{{and .On .Size}} {{or .Empty .Id}}", "12 sha256:0123"),
            ("{{$x := .Id}}{{$x}}", "sha256:0123"),
            ("{{range .Tags}}{{$.Size}}{{end}}", "1212"),
            ("a  {{- .Size -}}  b", "a12b"),
            ("{{/* comment */}}x", "x"),
            ("{{.Config.Labels.nothing}}", "<no value>"),
            ("{{if .Config.Labels.nothing}}a{{else}}b{{end}}", "b"),
            ("{{with .Config.Cmd}}a{{else with .Size}}{{.}}{{end}}", "12"),
            ("{{$x := 1}}{{range .Tags}}{{$x = .}}{{end}}{{$x}}", "b"),
            ("{{range .Tags}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a"),
            ("{{range .Tags}}{{if eq . \"a\"}}{{continue}}{{end}}{{.}}{{end}}", "b"),
            ("{{range 3}}{{.}}{{end}}", "012"),
            ("{{or .On .Nothing}} {{and .Empty .Nothing}}", "true []"),
            ("{{.Config.Cmd}} {{.Config.Volumes}}", "[] map[]"),
            ("{{\"}}\"}}", "}}"),
        ] {
            assert_eq!(render(template).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn labels_of_a_row() {
        let labels = json!({ "a.b-c": "d" });
        let template = Template::parse("{{.Label \"a.b-c\"}}|{{.Label \"x\"}}").unwrap();
        let of = labels.as_object().map(Labels::Of);
        assert_eq!(template.render_row(&json!({}), of).unwrap(), "d|");
        let heading = template.render_row(&json!({}), Some(Labels::Heading)).unwrap();
        assert_eq!(heading, "b c|x");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for template in [
            "{{",
            "{{.Id",
            "{{end}}",
            "{{if .On}}",
            "{{range .Tags}}x",
            "{{nope .Id}}",
            "{{(.Id}}",
            "{{.Id .Size}}",
            "{{}}",
            "{{range .On}}{{end}}",
            "{{$x}}",
            "{{.Id.Foo}}",
            "{{len}}",
            "{{\"a}}",
            "{{|}}",
            "{{else}}",
            "{{.Nothing}}",
            "{{.Config.Nothing}}",
            "{{.Config.Cmd.Nothing}}",
            "{{eq .On \"true\"}}",
            "{{lt .Id 3}}",
            "{{index .Tags 2}}",
            "{{index .Tags \"a\"}}",
            "{{slice .Tags 1 5}}",
            "{{$x = 1}}",
            "{{break}}",
            "{{.Label \"x\"}}",
            "{{call .Id}}",
        ] {
            assert!(render(template).is_err(), "{template}");
        }
    }
}
