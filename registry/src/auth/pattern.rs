//! Patterns of repository names: `*` within a component, `**` for whole components or none.

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    #[error("{0:?} is empty, or has an empty component")]
    Empty(String),
    #[error("{0:?} holds {1:?}: there are * and **, and nothing else is special")]
    Letter(String, char),
    #[error("{0:?} holds ** beside other letters: it stands for whole components")]
    Stars(String),
}

/// A pattern, by its components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    components: Vec<Component>,
    /// `!` stood before it.
    pub excludes: bool,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Component {
    /// `**`
    Any,
    /// `${user}`: whoever asks.
    User,
    /// Literal pieces with a `*` between each two.
    Pieces(Vec<String>),
}

impl Pattern {
    /// Reads `web/**`, `!web/prod/*`, `home/${user}/**`.
    ///
    /// # Errors
    /// See [`InvalidPattern`].
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let (excludes, body) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let components =
            body.split('/').map(|part| component(text, part)).collect::<Result<_, _>>()?;
        Ok(Self { components, excludes, text: text.to_owned() })
    }

    /// Whether it covers `name`, where `user` asks. Linear in both but for `**`, of which there are
    /// few.
    pub fn covers(&self, name: &str, user: Option<&str>) -> bool {
        let parts: Vec<&str> = name.split('/').collect();
        // Which of the components may stand before each place in the name.
        let mut reached = vec![false; parts.len() + 1];
        reached[0] = true;
        for component in &self.components {
            let mut next = vec![false; parts.len() + 1];
            let mut open = false;
            for at in 0..=parts.len() {
                match component {
                    Component::Any => {
                        open |= reached[at];
                        next[at] = open;
                    }
                    Component::User => {
                        next[at] = at > 0 && reached[at - 1] && user == Some(parts[at - 1]);
                    }
                    Component::Pieces(pieces) => {
                        next[at] = at > 0 && reached[at - 1] && matches(pieces, parts[at - 1]);
                    }
                }
            }
            reached = next;
        }
        reached[parts.len()]
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn component(whole: &str, part: &str) -> Result<Component, InvalidPattern> {
    match part {
        "" => return Err(InvalidPattern::Empty(whole.to_owned())),
        "**" => return Ok(Component::Any),
        "${user}" => return Ok(Component::User),
        _ => {}
    }
    let strange = |c: &char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "._-*".contains(*c));
    if let Some(letter) = part.chars().find(strange) {
        return Err(InvalidPattern::Letter(whole.to_owned(), letter));
    }
    if part.contains("**") {
        return Err(InvalidPattern::Stars(whole.to_owned()));
    }
    Ok(Component::Pieces(part.split('*').map(str::to_owned).collect()))
}

/// Whether the literal pieces stand in `text` in this order, the first at its beginning and the last
/// at its end.
fn matches(pieces: &[String], text: &str) -> bool {
    let [first, middle @ .., last] = pieces else {
        return pieces.first().is_some_and(|only| only == text);
    };
    let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
    for piece in middle {
        let Some(at) = rest.find(piece.as_str()) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_covered() {
        for (pattern, yes, no) in [
            ("web", &["web"][..], &["web/a", "we", "webb"][..]),
            ("web/**", &["web", "web/a", "web/a/b"], &["webb", "a/web"]),
            ("**", &["a", "a/b/c"], &[]),
            ("web/*", &["web/a"], &["web", "web/a/b"]),
            ("*/shop", &["web/shop"], &["shop", "a/b/shop"]),
            ("**/shop", &["shop", "web/shop", "a/b/shop"], &["shop/a"]),
            ("a*b", &["ab", "axb", "abab"], &["a", "b", "ba", "abc"]),
            ("a*b*", &["ab", "axbx"], &["ba"]),
            ("a/**/z", &["a/z", "a/b/z", "a/b/c/z"], &["a", "z", "a/z/b"]),
            ("home/${user}/**", &["home/ann", "home/ann/x"], &["home/bob", "home"]),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            for name in yes {
                assert!(pattern.covers(name, Some("ann")), "{pattern} {name}");
            }
            for name in no {
                assert!(!pattern.covers(name, Some("ann")), "{pattern} {name}");
            }
        }
        assert!(!Pattern::parse("home/${user}").unwrap().covers("home/ann", None));
        for wrong in ["", "a//b", "/a", "a/", "A", "a?", "[a]", "a**", "!", "${claim:x}", "a b"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        /// The same as a regular expression that says the same.
        #[test]
        fn as_a_regular_expression(
            pattern in "(\\*\\*|[ab*]{1,3})(/(\\*\\*|[ab*]{1,3})){0,3}",
            name in "[ab]{1,3}(/[ab]{1,3}){0,3}",
        ) {
            let Ok(ours) = Pattern::parse(&pattern) else { return Ok(()) };
            let parts = pattern.split('/').map(|part| match part {
                "**" => "([^/]+/)*".to_owned(),
                part => part.replace('*', "[^/]*") + "/",
            });
            let expression = format!("^{}$", parts.collect::<String>());
            let theirs = regex::Regex::new(&expression).unwrap();
            proptest::prop_assert_eq!(ours.covers(&name, None), theirs.is_match(&format!("{name}/")));
        }
    }
}
