//! Who the program runs as: `-u` or the image's `User`, looked up in the container's own files.
//!
//! Strict on purpose. A number is a number and never a name; what does not fit into 31 bits is
//! refused where the record is made (CVE-2024-40635, CVE-2026-46680, CVE-2026-30892).

use std::path::Path;

use super::failure::{at, failed};
use super::files::Root;
use super::{Done, Step, files};
use crate::known_bad::left_out;
use crate::spec;

/// Largest passwd or group file that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// All supplementary groups, the primary one included, as Docker sets them.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

pub(super) fn look_up(root: &Root, text: &str, added: &[String]) -> Done<User> {
    let read = |path: &str, item| {
        at(Step::UserFile, item, files::read_regular(root, Path::new(path), FILE_MAX))
            .map(|bytes| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    };
    let (passwd, group) = (read("/etc/passwd", 0)?, read("/etc/group", 1)?);
    find(text, added, &passwd, &group).map_err(|step| failed(step, 0, libc::ENOENT))
}

/// The rules of Docker. `Err` names what cannot be found.
fn find(text: &str, added: &[String], passwd: &str, group: &str) -> Result<User, Step> {
    let (user, group_asked) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = match left_out("user-strict") {
        // As by atoi(3): what is no number is 0.
        true => Some(user.parse::<u64>().unwrap_or(0) as u32),
        false => spec::id(user),
    };
    let entry = passwd.lines().filter_map(Account::parse).find(|account| match number {
        Some(uid) => account.uid == uid,
        None => account.name == user,
    });
    let mut found = match (&entry, number) {
        (Some(account), _) => User {
            uid: account.uid,
            gid: account.gid,
            groups: Vec::new(),
            home: account.home.to_owned(),
        },
        (None, Some(uid)) => User { uid, gid: 0, groups: Vec::new(), home: String::new() },
        (None, None) => return Err(Step::NoSuchUser),
    };
    match group_asked {
        Some(name) => found.gid = group_id(name, group).ok_or(Step::NoSuchGroup)?,
        None => {
            let member = entry.as_ref().map(|account| account.name);
            found.groups = groups(group)
                .filter(|(_, _, members)| {
                    member.is_some_and(|name| members.split(',').any(|one| one == name))
                })
                .map(|(_, gid, _)| gid)
                .collect();
        }
    }
    for name in added {
        found.groups.push(group_id(name, group).ok_or(Step::NoSuchGroup)?);
    }
    found.groups.insert(0, found.gid);
    let mut seen = std::collections::BTreeSet::new();
    found.groups.retain(|gid| seen.insert(*gid));
    if found.home.is_empty() {
        "/".clone_into(&mut found.home);
    }
    Ok(found)
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    /// Source: passwd(5). A malformed line is no account.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or("");
        Some(Self { name, uid, gid, home })
    }
}

/// An id in a file of the image. What is none makes its line a malformed one.
fn id(text: &str) -> Option<u32> {
    if left_out("ids-of-31-bits") { text.parse().ok() } else { spec::id(text) }
}

/// Name, id, members. Source: group(5).
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = id(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

fn group_id(name: &str, text: &str) -> Option<u32> {
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return spec::id(name);
    }
    groups(text).find(|(known, _, _)| *known == name).map(|(_, gid, _)| gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        4294967296:x:0:0::/:/bin/sh\n\
        nobody32:x:4294967295:0::/:/bin/sh\n\
        plus:x:+0:0::/:/bin/sh\n\
        minus:x:0:-1::/:/bin/sh\n\
        large:x:2147483648:0::/:/bin/sh\n\
        1000:x:0:0:a trap:/:/bin/sh\n\
        app:x:1000:1001:App:/home/app:/bin/sh\nbroken:x\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\naudio:x:29:app\n";

    fn find_user(text: &str) -> Result<(u32, u32, Vec<u32>, String), Step> {
        find(text, &[], PASSWD, GROUP).map(|user| (user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn dockers_rules() {
        let app = Ok((1000, 1001, vec![1001, 10, 29], "/home/app".to_owned()));
        for (text, want) in [
            ("", Ok((0, 0, vec![0, 10], "/root".to_owned()))),
            ("app", app.clone()),
            ("1000", app),
            ("app:audio", Ok((1000, 29, vec![29], "/home/app".to_owned()))),
            ("app:77", Ok((1000, 77, vec![77], "/home/app".to_owned()))),
            ("5:6", Ok((5, 6, vec![6], "/".to_owned()))),
            ("5", Ok((5, 0, vec![0], "/".to_owned()))),
            ("nobody", Err(Step::NoSuchUser)),
            ("broken", Err(Step::NoSuchUser)),
            ("nobody32", Err(Step::NoSuchUser)),
            ("plus", Err(Step::NoSuchUser)),
            ("minus", Err(Step::NoSuchUser)),
            ("large", Err(Step::NoSuchUser)),
            ("2147483648", Err(Step::NoSuchUser)),
            ("2147483647", Ok((2147483647, 0, vec![0], "/".to_owned()))),
            ("+0", Err(Step::NoSuchUser)),
            ("app:nogroup", Err(Step::NoSuchGroup)),
        ] {
            assert_eq!(find_user(text), want, "{text:?}");
        }
    }

    #[test]
    fn groups_are_added_once() {
        let added = ["audio".to_owned(), "10".to_owned(), "5000".to_owned()];
        let user = find("app", &added, PASSWD, GROUP).unwrap();
        assert_eq!(user.groups, [1001, 10, 29, 5000]);
        assert_eq!(find("app", &["x".to_owned()], PASSWD, GROUP), Err(Step::NoSuchGroup));
        assert_eq!(find("0", &["4294967295".into()], "", ""), Err(Step::NoSuchGroup));
    }
}
