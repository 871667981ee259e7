//! Other people's chains. One of theirs that drops what it does not know (Docker's FORWARD, ufw's)
//! is not overruled by an accept of ours: every table is asked. So two rules of ours stand at the
//! head of such a chain, known by what they do. They open nothing: our own table decides.

use std::io;
use std::process::{Command, Stdio};

use super::netlink::{Socket, attribute, attributes, text_of};
use super::nft::{self, FORWARD, Load, R0, Rule};
use super::table::Table;

const REMARK: &str = "rrun: filtered in inet rrun";

/// Every bridge's name begins so, in every store.
pub(super) const PREFIX: &str = "rrun";

/// A chain of another program's that forwarded packets come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) name: String,
    pub(super) drops: bool,
}

/// What could not be opened, for a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Closed(pub(super) String);

/// Lets packets of our networks pass through chains that drop by policy.
///
/// # Errors
/// When the kernel cannot be asked.
pub(super) fn open(table: &mut Table) -> io::Result<Vec<Closed>> {
    let Table { socket, name: own } = table;
    let mut closed = Vec::new();
    for chain in chains(socket, own)?.into_iter().filter(|chain| chain.drops) {
        if !ours(socket, &chain)?.is_empty() {
            continue;
        }
        let rules = [Load::InInterface, Load::OutInterface].map(|what| {
            let rule = Rule::new().load(what, R0).is(R0, PREFIX.as_bytes()).accept();
            rule.into(chain.family, &chain.table, &chain.name, 0, Some(REMARK))
        });
        if let Err(error) = socket.batch(rules.to_vec()) {
            let Chain { table, name, .. } = &chain;
            closed.push(Closed(format!("chain {name} of table {table} drops: {}", error.error)));
        }
    }
    closed.extend(legacy());
    Ok(closed)
}

/// Takes our rules out of other programs' chains.
///
/// # Errors
/// When the kernel cannot be asked, or refuses.
pub(super) fn close(own: &str) -> io::Result<()> {
    let mut socket = Socket::netfilter()?;
    for chain in chains(&mut socket, own)? {
        let remove = |handle: u64| {
            nft::message(nft::DELRULE, 0, chain.family)
                .text(nft::RULE_TABLE, &chain.table)
                .text(nft::RULE_CHAIN, &chain.name)
                .attribute(nft::RULE_HANDLE, &handle.to_be_bytes())
        };
        let rules: Vec<_> = ours(&mut socket, &chain)?.into_iter().map(remove).collect();
        match socket.batch(rules) {
            // Its owner has just removed it, or lets nobody else in, and so none of ours.
            Err(batch)
                if !matches!(batch.error.raw_os_error(), Some(libc::ENOENT | libc::EPERM)) =>
            {
                return Err(batch.into());
            }
            _ => {}
        }
    }
    if has_legacy() {
        for rule in LEGACY_RULES {
            while run_legacy("-D", rule) {}
        }
    }
    Ok(())
}

/// The base chains of other tables at the hook of forwarded packets.
fn chains(socket: &mut Socket, own: &str) -> io::Result<Vec<Chain>> {
    let mut all = Vec::new();
    socket.dump(nft::message(nft::GETCHAIN, 0, 0), |payload| {
        let Some((head, rest)) = payload.split_at_checked(4) else { return };
        let text = |kind| attribute(rest, kind).map(text_of).unwrap_or_default().to_owned();
        let big = |bytes: Option<&[u8]>| bytes?.try_into().ok().map(u32::from_be_bytes);
        let hook = attribute(rest, nft::CHAIN_HOOK);
        let hook = hook.and_then(|hook| big(attribute(hook, nft::HOOK_NUMBER)));
        let chain = Chain {
            family: head[0],
            table: text(nft::CHAIN_TABLE),
            name: text(nft::CHAIN_NAME),
            drops: big(attribute(rest, nft::CHAIN_POLICY)) == Some(nft::DROP.cast_unsigned()),
        };
        let is_ip = matches!(chain.family, nft::INET | nft::IPV4 | nft::IPV6);
        if is_ip && hook == Some(FORWARD) && !(chain.family == nft::INET && chain.table == own) {
            all.push(chain);
        }
    })?;
    Ok(all)
}

/// The handles of the rules in a chain that are ours: an interface `rrun*`, accept. A comment does
/// not tell: iptables-restore writes another one, and adds a counter.
fn ours(socket: &mut Socket, chain: &Chain) -> io::Result<Vec<u64>> {
    let ask = nft::message(nft::GETRULE, 0, chain.family)
        .text(nft::RULE_TABLE, &chain.table)
        .text(nft::RULE_CHAIN, &chain.name);
    let mut handles = Vec::new();
    socket.dump(ask, |payload| {
        let rest = payload.get(4..).unwrap_or_default();
        let Some(list) = attribute(rest, nft::RULE_EXPRESSIONS) else { return };
        let handle = attribute(rest, nft::RULE_HANDLE).and_then(|value| value.try_into().ok());
        if let (true, Some(handle)) = (is_ours(list), handle) {
            handles.push(u64::from_be_bytes(handle));
        }
    })?;
    Ok(handles)
}

fn is_ours(list: &[u8]) -> bool {
    let (mut names_us, mut accepts) = (false, false);
    for (_, expression) in attributes(list) {
        let name = attribute(expression, nft::EXPRESSION_NAME).map(text_of).unwrap_or_default();
        let data = attribute(expression, nft::EXPRESSION_DATA).unwrap_or_default();
        match name {
            "cmp" => {
                let value = attribute(data, nft::CMP_DATA);
                let value = value.and_then(|value| attribute(value, nft::DATA_VALUE));
                names_us |= value == Some(PREFIX.as_bytes());
            }
            "immediate" => {
                let value = attribute(data, nft::IMMEDIATE_DATA);
                let verdict = value.and_then(|value| attribute(value, nft::DATA_VERDICT));
                let code = verdict.and_then(|verdict| attribute(verdict, nft::VERDICT_CODE));
                accepts |= code == Some(&nft::ACCEPT.to_be_bytes()[..]);
            }
            "meta" | "counter" | "match" => {}
            _ => return false,
        }
    }
    names_us && accepts
}

const LEGACY_RULES: [&str; 2] = ["-i", "-o"];

/// Rules of the old kind (xtables) are not nf_tables', and only their own program writes them.
fn has_legacy() -> bool {
    std::fs::read_to_string("/proc/net/ip_tables_names")
        .is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

fn legacy() -> Option<Closed> {
    if !has_legacy() {
        return None;
    }
    let shown = program().args(["-w", "-S", "FORWARD"]).output();
    let Ok(shown) = shown else {
        return Some(Closed("the host has legacy iptables rules, and no iptables-legacy".into()));
    };
    if !String::from_utf8_lossy(&shown.stdout).starts_with("-P FORWARD DROP") {
        return None;
    }
    let opened = LEGACY_RULES.iter().all(|rule| run_legacy("-C", rule) || run_legacy("-I", rule));
    (!opened).then(|| Closed("the FORWARD chain of the legacy iptables drops".into()))
}

/// A launcher has no environment to look programs up by.
fn program() -> Command {
    let mut program = Command::new("iptables-legacy");
    program.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    program
}

fn run_legacy(verb: &str, direction: &str) -> bool {
    let remark = ["-m", "comment", "--comment", REMARK, "-j", "ACCEPT"];
    program()
        .args(["-w", verb, "FORWARD", direction, "rrun+"])
        .args(remark)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
