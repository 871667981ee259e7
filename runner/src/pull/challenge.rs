//! `WWW-Authenticate`, as registries send it.

/// `Bearer realm="…",service="…",scope="…"`. Source: distribution-spec, token authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    pub(crate) scope: Option<String>,
}

/// How a registry wants to be told who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Bearer(Bearer),
    Basic,
}

/// What the headers ask for; a token where there is a choice. None where nothing is known.
pub(crate) fn challenge<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        if let Some(bearer) = bearer(header) {
            return Some(Challenge::Bearer(bearer));
        }
        let scheme = header.split_whitespace().next().unwrap_or_default();
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
    }
    basic
}

/// Reads one header; none where it is no Bearer challenge or names no realm.
fn bearer(header: &str) -> Option<Bearer> {
    let (scheme, rest) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    let mut rest = rest.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = value(after)?;
        match key.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    Some(Bearer { realm: realm?, service, scope })
}

/// A quoted string or a token, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return Some((text[..end].trim().to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let full = bearer(
            r#"Bearer realm="https://auth.x/token",service="x",scope="repository:a/b:pull,push""#,
        )
        .unwrap();
        assert_eq!(full.realm, "https://auth.x/token");
        assert_eq!(full.service.as_deref(), Some("x"));
        assert_eq!(full.scope.as_deref(), Some("repository:a/b:pull,push"));
        assert_eq!(bearer("bearer realm=x, error=\"y\"").unwrap().realm, "x");
        for text in ["", "Basic realm=\"x\"", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"x"]
        {
            assert_eq!(bearer(text), None, "{text}");
        }
        let of = |headers: &[&'static str]| challenge(headers.iter().copied());
        assert_eq!(of(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert!(matches!(of(&["basic realm=x", "Bearer realm=x"]), Some(Challenge::Bearer(_))));
        assert_eq!(of(&["Negotiate"]), None);
    }
}
