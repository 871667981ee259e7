//! A policy as the OCI runtime configuration spells it, and Docker's files for `--security-opt`.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompFilterFlag, LinuxSeccompOperator,
};
use serde::Deserialize;

use super::table::TABLE;
use super::{Action, Architecture, Calls, Comparison, FLAG_SPEC_ALLOW, Filter, Operator, Rule};

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("the seccomp profile is not valid JSON of its kind")]
    Malformed(#[source] serde_json::Error),
    #[error("the seccomp profile uses SCMP_ACT_NOTIFY, which is not supported")]
    Notify,
    #[error("the seccomp profile compares argument {0}; a system call has six, counted from 0")]
    Argument(usize),
    #[error("the seccomp profile covers none of this machine's architectures")]
    NoArchitecture,
    #[error("the seccomp profile has an architecture that is unknown: {0}")]
    UnknownArchitecture(String),
}

pub(super) fn filter(host: Architecture, policy: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    let default = action(policy.default_action(), policy.default_errno_ret())?;
    let mut architectures = vec![host];
    for arch in policy.architectures().iter().flatten() {
        match Architecture::from_oci(*arch, host) {
            Some(known) if host.family().contains(&known) => architectures.push(known),
            _ => {}
        }
    }
    architectures.sort_unstable();
    architectures.dedup();
    let mut calls: Vec<Calls> = architectures
        .into_iter()
        .map(|architecture| Calls { architecture, rules: BTreeMap::new() })
        .collect();
    for entry in policy.syscalls().iter().flatten() {
        let action = action(entry.action(), entry.errno_ret())?;
        let rules = alternatives(action, entry.args().as_deref().unwrap_or_default())?;
        for name in entry.names() {
            // As libseccomp does, a name that is unknown here is passed over: profiles name calls
            // of other architectures and later kernels.
            let Some(numbers) = numbers_by_name().get(name.as_str()) else { continue };
            for calls in &mut calls {
                if let Some(number) = calls.architecture.number(numbers) {
                    add(calls.rules.entry(number).or_default(), &rules);
                }
            }
        }
    }
    Ok(Filter { default, calls, flags: flags(policy) })
}

/// Adds to the rules of one call. A rule without conditions stands in front of all that have some,
/// in whatever order they are written. Source: seccomp_rule_add(3), libseccomp's rule merging.
fn add(known: &mut Vec<Rule>, rules: &[Rule]) {
    for rule in rules {
        if rule.when.is_empty() {
            known.insert(0, rule.clone());
        } else {
            known.push(rule.clone());
        }
    }
}

/// The rules of one entry: one whose comparisons must all hold; but where an argument is compared
/// twice each comparison stands alone. Source: runc, `libcontainer/seccomp`, which inherits it
/// from Docker's first profiles.
fn alternatives(action: Action, args: &[LinuxSeccompArg]) -> Result<Vec<Rule>, SeccompError> {
    let when = args.iter().map(comparison).collect::<Result<Vec<_>, _>>()?;
    let repeats = when
        .iter()
        .enumerate()
        .any(|(at, one)| when[..at].iter().any(|other| other.argument == one.argument));
    if repeats {
        return Ok(when.into_iter().map(|one| Rule { action, when: vec![one] }).collect());
    }
    Ok(vec![Rule { action, when }])
}

fn comparison(arg: &LinuxSeccompArg) -> Result<Comparison, SeccompError> {
    if arg.index() > 5 {
        return Err(SeccompError::Argument(arg.index()));
    }
    let (operator, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (Operator::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (Operator::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (Operator::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (Operator::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (Operator::GreaterOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (Operator::Greater, arg.value()),
        // `value` is the mask and `valueTwo` what has to remain. Source: runtime-spec.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (Operator::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
        }
    };
    Ok(Comparison { argument: arg.index() as u8, operator, value })
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<Action, SeccompError> {
    let data = errno.unwrap_or(libc::EPERM as u32) as u16;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            Action::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
        LinuxSeccompAction::ScmpActTrap => Action::Trap,
        LinuxSeccompAction::ScmpActErrno => Action::Errno(data),
        LinuxSeccompAction::ScmpActTrace => Action::Trace(data),
        LinuxSeccompAction::ScmpActLog => Action::Log,
        LinuxSeccompAction::ScmpActAllow => Action::Allow,
        LinuxSeccompAction::ScmpActNotify => return Err(SeccompError::Notify),
    })
}

/// Source: `linux/seccomp.h`. TSYNC is left out: the process that loads the filter has one thread.
fn flags(policy: &LinuxSeccomp) -> u32 {
    match policy.flags() {
        None => FLAG_SPEC_ALLOW,
        Some(flags) => flags.iter().fold(0, |all, flag| {
            all | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => 2,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync
                | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
            }
        }),
    }
}

fn numbers_by_name() -> &'static HashMap<&'static str, &'static [u32; 5]> {
    static NUMBERS: OnceLock<HashMap<&str, &[u32; 5]>> = OnceLock::new();
    NUMBERS.get_or_init(|| TABLE.iter().map(|(name, numbers, _)| (*name, numbers)).collect())
}

/// What `--security-opt seccomp=FILE` holds: the OCI form, with Docker's conditions on top.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    arch_map: Vec<ArchMap>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    syscalls: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// The oldest files name one call each.
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Condition,
    #[serde(default)]
    excludes: Condition,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    // `minKernel` is passed over: every one that a profile names (4.8) lies below our floor.
}

/// Reads a profile file and settles its conditions for a container with `held` capabilities.
///
/// # Errors
/// [`SeccompError::Malformed`], [`SeccompError::UnknownArchitecture`].
pub fn read_profile(bytes: &[u8], held: &Capabilities) -> Result<LinuxSeccomp, SeccompError> {
    let profile: Profile = serde_json::from_slice(bytes).map_err(SeccompError::Malformed)?;
    let host = Architecture::HOST;
    let mut names = profile.architectures;
    for map in profile.arch_map {
        let this = arch(&map.architecture).ok().and_then(|a| Architecture::from_oci(a, host));
        if this == Some(host) {
            names.push(map.architecture);
            names.extend(map.sub_architectures.unwrap_or_default());
        }
    }
    let architectures = names.iter().map(|name| arch(name)).collect::<Result<Vec<_>, _>>()?;
    let mut syscalls = Vec::new();
    for entry in profile.syscalls {
        if !applies(&entry, held) {
            continue;
        }
        let mut call = oci_spec::runtime::LinuxSyscall::default();
        let mut names = entry.names;
        names.extend(entry.name);
        call.set_names(names).set_action(entry.action).set_errno_ret(entry.errno_ret);
        call.set_args(entry.args.filter(|args| !args.is_empty()));
        syscalls.push(call);
    }
    let mut policy = LinuxSeccomp::default();
    policy
        .set_default_action(profile.default_action)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures(Some(architectures))
        .set_flags(profile.flags)
        .set_syscalls(Some(syscalls));
    Ok(policy)
}

fn applies(entry: &Entry, held: &Capabilities) -> bool {
    let names: &[&str] = match Architecture::HOST {
        Architecture::Aarch64 | Architecture::Arm => &["arm64", "aarch64"],
        _ => &["amd64", "x86_64"],
    };
    let here = |arches: &[String]| arches.iter().any(|arch| names.contains(&arch.as_str()));
    let holds = |caps: &[String]| caps.iter().all(|name| holds(held, name));
    let includes = &entry.includes;
    let excludes = &entry.excludes;
    (includes.arches.is_empty() || here(&includes.arches))
        && (includes.caps.is_empty() || holds(&includes.caps))
        && !here(&excludes.arches)
        && (excludes.caps.is_empty() || !holds(&excludes.caps))
}

fn holds(held: &Capabilities, name: &str) -> bool {
    let bare = name.strip_prefix("CAP_").unwrap_or(name);
    bare.parse::<Capability>().is_ok_and(|capability| held.contains(&capability))
}

fn arch(name: &str) -> Result<Arch, SeccompError> {
    serde_json::from_value(serde_json::Value::String(name.to_owned()))
        .map_err(|_| SeccompError::UnknownArchitecture(name.to_owned()))
}
