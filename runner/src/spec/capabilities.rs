//! Which capabilities a container holds.

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::request::CapabilityName;

/// Docker's fourteen. Source: moby, `oci/caps/defaults.go`.
pub const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// What `profile=strict` takes from them: raw packets, device nodes, records for the audit log.
const NOT_STRICT: [Capability; 3] = [Capability::AuditWrite, Capability::Mknod, Capability::NetRaw];

/// The names in the kernel's order: a capability's number is its place. Source: capability.h.
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The capabilities of a set as `/proc/self/status` writes it: `CapBnd`, hexadecimal.
pub fn from_mask(mask: u64) -> Capabilities {
    let numbered = BY_NUMBER.iter().enumerate();
    numbered.filter(|(number, _)| mask >> number & 1 == 1).map(|(_, one)| *one).collect()
}

/// A set as bits, the reverse of [`from_mask`].
pub fn mask(set: &Capabilities) -> u64 {
    let numbered = BY_NUMBER.iter().enumerate();
    numbered.filter(|(_, one)| set.contains(one)).fold(0, |mask, (number, _)| mask | 1 << number)
}

impl FromStr for CapabilityName {
    type Err = ();

    /// Docker's spellings: with or without `CAP_`, in any case, or `ALL`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let upper = text.to_ascii_uppercase();
        if upper == "ALL" || upper == "CAP_ALL" {
            return Ok(Self::All);
        }
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        bare.parse::<Capability>().map(Self::One).map_err(|_| ())
    }
}

/// Docker's rules, in their order: everything with `--privileged`; `--cap-add ALL` without what is
/// dropped; after `--cap-drop ALL` only what is added; else the default, changed.
pub(super) fn held(
    available: &Capabilities,
    added: &[CapabilityName],
    dropped: &[CapabilityName],
    privileged: bool,
    strict: bool,
) -> Capabilities {
    let names = |list: &[CapabilityName]| -> Capabilities {
        let one = |name: &CapabilityName| match name {
            CapabilityName::One(capability) => Some(*capability),
            CapabilityName::All => None,
        };
        list.iter().filter_map(one).collect()
    };
    if privileged {
        available.clone()
    } else if added.contains(&CapabilityName::All) {
        available - &names(dropped)
    } else if dropped.contains(&CapabilityName::All) {
        names(added)
    } else {
        let default = DEFAULT.iter().filter(|one| !strict || !NOT_STRICT.contains(one));
        let default: Capabilities = default.copied().collect();
        &(&default - &names(dropped)) | &names(added)
    }
}

/// The sets of the first process. Inheritable and ambient stay empty: a program that is not root
/// gets nothing through them (CVE-2022-29162).
pub(super) fn sets(held: &Capabilities) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(held.clone()))
        .set_effective(Some(held.clone()))
        .set_permitted(Some(held.clone()))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_rules() {
        use Capability::{Chown, NetAdmin, NetRaw, SysAdmin, SysTime};
        let all = from_mask(u64::MAX);
        let name = |text: &str| text.parse::<CapabilityName>().unwrap();
        for (added, dropped, privileged, has, lacks) in [
            (&[][..], &[][..], false, &[Chown, NetRaw][..], &[SysAdmin][..]),
            (&["net_admin"], &["CAP_NET_RAW"], false, &[NetAdmin, Chown], &[NetRaw]),
            (&["ALL"], &["sys_time"], false, &[SysAdmin, Chown], &[SysTime]),
            (&["SYS_TIME"], &["all"], false, &[SysTime], &[Chown, NetRaw]),
            (&[], &["ALL"], true, &[SysAdmin, Chown], &[]),
        ] {
            let added: Vec<_> = added.iter().map(|text| name(text)).collect();
            let dropped: Vec<_> = dropped.iter().map(|text| name(text)).collect();
            let held = held(&all, &added, &dropped, privileged, false);
            assert!(has.iter().all(|one| held.contains(one)), "{added:?} {dropped:?}");
            assert!(!lacks.iter().any(|one| held.contains(one)), "{added:?} {dropped:?}");
        }
        assert_eq!(held(&all, &[], &[], false, false).len(), 14);
        assert_eq!(held(&all, &[], &[], false, true).len(), 11);
    }

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(from_mask(1 << 21).into_iter().collect::<Vec<_>>(), [Capability::SysAdmin]);
        assert_eq!(from_mask(u64::MAX).len(), 41);
        assert!("CAP_NONSENSE".parse::<CapabilityName>().is_err());
    }
}
