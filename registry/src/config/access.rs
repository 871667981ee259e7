//! `access`: what users and strangers may do.

use std::collections::BTreeMap;

use super::ConfigError;
use super::file::{Access, AccessRule, File};
use super::load::nearest;
use crate::auth::{Action, Pattern, Rule, Rules, Who};

/// Reads the section. `users`: there are accounts besides. `None`: users may do everything, and
/// without accounts everybody.
pub(super) fn settings(file: &File, users: bool) -> Result<Option<Rules>, ConfigError> {
    let Some(rules) = file.access.as_ref().map(rules).transpose()? else { return Ok(None) };
    let is_known = |who: &Who| *who != Who::Anonymous;
    if !users && rules.rules.iter().flat_map(|rule| &rule.who).any(is_known) {
        let what =
            "names users, and there are none: add auth.htpasswd, or grant to anonymous alone";
        return refuse("access.rules", what);
    }
    Ok(Some(rules))
}

fn refuse<T>(key: &'static str, what: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Value { key, what: what.into() })
}

fn rules(access: &Access) -> Result<Rules, ConfigError> {
    for (key, given) in [
        ("access.immutable", &access.immutable),
        ("access.workloads", &access.workloads),
        ("access.certificates", &access.certificates),
    ] {
        if given.is_some() {
            return refuse(key, "is not supported yet: leave it out");
        }
    }
    let Some(rules) = &access.rules else {
        return refuse("access.rules", "is missing: without a rule nobody may do anything");
    };
    if rules.is_empty() {
        return refuse("access.rules", "is empty: nobody may do anything");
    }
    let rules = rules.iter().enumerate().map(|(at, rule)| read_rule(at + 1, rule, &access.groups));
    Ok(Rules { groups: access.groups.clone(), rules: rules.collect::<Result<_, _>>()? })
}

fn read_rule(
    number: usize,
    rule: &AccessRule,
    groups: &BTreeMap<String, Vec<String>>,
) -> Result<Rule, ConfigError> {
    let wrong = |what: String| refuse("access.rules", format!("rule {number}: {what}"));
    if rule.tags.is_some() {
        return wrong("tags is not supported yet: leave it out".into());
    }
    for (name, list) in [("who", &rule.who), ("may", &rule.may), ("in", &rule.within)] {
        if list.is_empty() {
            return wrong(format!("{name} is missing"));
        }
    }
    let mut who = Vec::new();
    for text in &rule.who {
        who.push(match read_who(text, groups) {
            Ok(who) => who,
            Err(what) => return wrong(what),
        });
    }
    let mut may = Vec::new();
    for word in &rule.may {
        match word.as_str() {
            "pull" => may.push(Action::Pull),
            "push" => may.extend([Action::Pull, Action::Create, Action::Overwrite]),
            "delete" => may.extend([Action::Pull, Action::Delete]),
            "create" => {
                let what = "create, which moves no tag, is not supported yet: there is push";
                return wrong(what.into());
            }
            other => return wrong(format!("may {other:?}: there is pull, push and delete")),
        }
    }
    let mut patterns = Vec::new();
    for text in &rule.within {
        match Pattern::parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => return wrong(format!("in {error}")),
        }
    }
    if patterns.iter().all(|pattern| pattern.excludes) {
        return wrong("in holds nothing that is not excluded".into());
    }
    let [who_text, may_text, in_text] =
        [&rule.who, &rule.may, &rule.within].map(|list| list.join(", "));
    Ok(Rule { who, may, patterns, text: format!("{who_text} may {may_text} in {in_text}") })
}

fn read_who(text: &str, groups: &BTreeMap<String, Vec<String>>) -> Result<Who, String> {
    Ok(match text.split_once(':') {
        None if text == "anonymous" => Who::Anonymous,
        None if text == "users" => Who::Users,
        None if text.is_empty() => return Err("who is empty".into()),
        None => Who::User(text.to_owned()),
        Some(("user", name)) if !name.is_empty() => Who::User(name.to_owned()),
        Some(("group", name)) if groups.contains_key(name) => Who::Group(name.to_owned()),
        Some(("group", name)) => {
            let near = nearest(name, groups.keys().map(String::as_str));
            let near =
                near.map_or_else(String::new, |near| format!(": did you mean group:{near}?"));
            return Err(format!("there is no group {name:?}{near}"));
        }
        Some((kind @ ("robot" | "workload" | "certificate"), _)) => {
            return Err(format!("who {text:?}: {kind}s are not supported yet"));
        }
        Some(_) => {
            return Err(format!("who {text:?}: there is anonymous, users, NAME, group:NAME"));
        }
    })
}

/// As the file says it.
pub(super) fn shown(rules: &Rules) -> Access {
    Access {
        groups: rules.groups.clone(),
        rules: Some(rules.rules.iter().map(shown_rule).collect()),
        ..Access::default()
    }
}

fn shown_rule(rule: &Rule) -> AccessRule {
    let who = rule.who.iter().map(|who| match who {
        Who::Anonymous => "anonymous".to_owned(),
        Who::Users => "users".to_owned(),
        Who::User(name) => format!("user:{name}"),
        Who::Group(name) => format!("group:{name}"),
    });
    let pushes = rule.may.contains(&Action::Create);
    let deletes = rule.may.contains(&Action::Delete);
    let may = [("pull", !pushes && !deletes), ("push", pushes), ("delete", deletes)];
    AccessRule {
        who: who.collect(),
        may: may.iter().filter(|(_, given)| *given).map(|(word, _)| (*word).to_owned()).collect(),
        within: rule.patterns.iter().map(ToString::to_string).collect(),
        tags: None,
    }
}
