//! Rules: a union of grants. What no rule grants is denied; none takes away what another gives.

use std::collections::BTreeMap;

use super::pattern::Pattern;
use super::{Action, Subject};

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everybody: nobody loses a right by logging in.
    Anonymous,
    /// Every user of the htpasswd file.
    Users,
    User(String),
    Group(String),
}

/// `{who, may, in}`
#[derive(Clone, Debug)]
pub struct Rule {
    pub who: Vec<Who>,
    pub may: Vec<Action>,
    /// Those that exclude stand among them.
    pub patterns: Vec<Pattern>,
    /// As it was written, for explanations.
    pub text: String,
}

impl Rule {
    fn is_about(&self, subject: &Subject, groups: &BTreeMap<String, Vec<String>>) -> bool {
        self.who.iter().any(|who| match (who, subject) {
            (Who::Anonymous, _) => true,
            (_, Subject::Anonymous) => false,
            (Who::Users, Subject::User(_)) => true,
            (Who::User(name), Subject::User(user)) => name == user,
            (Who::Group(name), Subject::User(user)) => {
                groups.get(name).is_some_and(|members| members.contains(user))
            }
        })
    }

    fn covers(&self, repository: &str, subject: &Subject) -> bool {
        let user = match subject {
            Subject::Anonymous => None,
            Subject::User(name) => Some(name.as_str()),
        };
        let any = |excludes: bool| {
            let mut all = self.patterns.iter().filter(|one| one.excludes == excludes);
            all.any(|one| one.covers(repository, user))
        };
        any(false) && !any(true)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub groups: BTreeMap<String, Vec<String>>,
    pub rules: Vec<Rule>,
}

/// All that a subject may do in one repository, and by which rules (numbered from 0).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    pub actions: Vec<Action>,
    pub by: Vec<usize>,
}

impl Rules {
    /// Every user that is named.
    pub fn users(&self) -> Vec<&str> {
        let named = self.rules.iter().flat_map(|rule| &rule.who).filter_map(|who| match who {
            Who::User(name) => Some(name.as_str()),
            _ => None,
        });
        let members = self.groups.values().flatten().map(String::as_str);
        let mut all: Vec<&str> = named.chain(members).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    pub fn grants(&self, subject: &Subject, repository: &str) -> Grants {
        let mut grants = Grants::default();
        for (number, rule) in self.rules.iter().enumerate() {
            if rule.is_about(subject, &self.groups) && rule.covers(repository, subject) {
                grants.actions.extend(&rule.may);
                grants.by.push(number);
            }
        }
        grants.actions.sort_unstable();
        grants.actions.dedup();
        grants
    }
}

/// Whether something is granted, and what to say if not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Granted,
    /// A sentence: `ann may pull from web/shop, not push`.
    Denied(String),
}

/// All that `subject` may do in `repository`, which need not be there. Without rules users may do
/// everything, and others nothing.
pub fn grants(rules: Option<&Rules>, subject: &Subject, repository: &str) -> Grants {
    const ALL: [Action; 4] = [Action::Pull, Action::Create, Action::Overwrite, Action::Delete];
    match (rules, subject) {
        (Some(rules), _) => rules.grants(subject, repository),
        (None, Subject::Anonymous) => Grants::default(),
        (None, Subject::User(_)) => Grants { actions: ALL.to_vec(), by: Vec::new() },
    }
}

/// The decision on `action`.
pub fn decide(
    rules: Option<&Rules>,
    subject: &Subject,
    repository: &str,
    action: Action,
) -> Decision {
    let granted = grants(rules, subject, repository).actions;
    if granted.contains(&action) {
        return Decision::Granted;
    }
    let wanted = action.verb();
    // Of what may be done the widest is said, which holds the others.
    let most = [Action::Create, Action::Delete, Action::Pull];
    Decision::Denied(match most.into_iter().find(|one| granted.contains(one)) {
        Some(most) => {
            let (verb, preposition) = (most.verb(), most.preposition());
            format!("{subject} may {verb} {preposition} {repository}, not {wanted}")
        }
        None => format!("{subject} may not {wanted} {} {repository}", action.preposition()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(who: &[Who], may: &[Action], patterns: &[&str]) -> Rule {
        let patterns = patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        Rule { who: who.to_vec(), may: may.to_vec(), patterns, text: String::new() }
    }

    #[test]
    fn the_union_of_what_rules_grant() {
        let push = [Action::Pull, Action::Create, Action::Overwrite];
        let rules = Rules {
            groups: BTreeMap::from([("web".to_owned(), vec!["ann".to_owned()])]),
            rules: vec![
                rule(&[Who::Anonymous], &[Action::Pull], &["public/**"]),
                rule(&[Who::Group("web".into())], &push, &["web/**", "!web/prod/**"]),
                rule(&[Who::Users], &push, &["home/${user}/**"]),
                rule(&[Who::User("dan".into())], &[Action::Pull, Action::Delete], &["**"]),
            ],
        };
        let user = |name: &str| Subject::User(name.to_owned());
        let said = |subject: &Subject, repository: &str, action| match decide(
            Some(&rules),
            subject,
            repository,
            action,
        ) {
            Decision::Granted => "yes".to_owned(),
            Decision::Denied(said) => said,
        };
        for (subject, repository, action, want) in [
            (Subject::Anonymous, "public/a", Action::Pull, "yes"),
            (Subject::Anonymous, "web/a", Action::Pull, "anonymous may not pull from web/a"),
            (user("ann"), "public/a", Action::Pull, "yes"),
            (user("ann"), "public/a", Action::Create, "ann may pull from public/a, not push"),
            (user("ann"), "web/a", Action::Overwrite, "yes"),
            (user("ann"), "web/a", Action::Delete, "ann may push to web/a, not delete"),
            (user("ann"), "web/prod/a", Action::Pull, "ann may not pull from web/prod/a"),
            (user("bob"), "web/a", Action::Create, "bob may not push to web/a"),
            (user("bob"), "home/bob/x", Action::Create, "yes"),
            (user("bob"), "home/ann/x", Action::Pull, "bob may not pull from home/ann/x"),
            (user("dan"), "web/prod/a", Action::Delete, "yes"),
        ] {
            assert_eq!(said(&subject, repository, action), want);
        }
    }
}
