//! `-v`, `--mount` and `--tmpfs`.

use crate::failure::Failure;
use crate::spec::{BindRecursion, MountKind, MountRequest, clean_target};

const PROPAGATIONS: [&str; 6] = ["rprivate", "private", "rshared", "shared", "rslave", "slave"];

/// `[SOURCE:]TARGET[:OPTIONS]`. A source with a slash or a dot in front is a directory of the
/// host; another one is a volume; without one it is a volume without a name.
pub(super) fn volume(text: &str) -> Result<MountRequest, Failure> {
    let wrong = |why: &str| Failure::new(format!("--volume={text}: {why}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] if target.starts_with('/') => (source, target, ""),
        // `TARGET:ro` is no form of Docker's either, but its error names nothing.
        [source, target, options] => (source, target, options),
        [_, _] => return Err(wrong("the target is not absolute")),
        _ => return Err(wrong("it is [SOURCE:]TARGET[:OPTIONS]")),
    };
    if parts.len() > 1 && source.is_empty() {
        return Err(wrong("the source is empty"));
    }
    let target = clean_target(target).map_err(|error| wrong(&error.to_string()))?;
    let is_path = source.starts_with(['/', '.', '~']);
    let mut read_only = false;
    let mut propagation = None;
    let mut populate = true;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => read_only = true,
            "rw" => read_only = false,
            "nocopy" if !is_path => populate = false,
            // Labels of SELinux, which is not here, and hints for Docker Desktop.
            "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            other if is_path && PROPAGATIONS.contains(&other) => {
                propagation = Some(other.to_owned());
            }
            other => return Err(wrong(&format!("there is no option {other:?}"))),
        }
    }
    let kind = if is_path {
        let source = host_path(source).map_err(|error| wrong(&error))?;
        MountKind::Bind { source, propagation, recursion: BindRecursion::Enabled }
    } else {
        let name = if source.is_empty() { None } else { Some(volume_name(source)?) };
        MountKind::Volume { name, populate }
    };
    Ok(MountRequest { target, kind, read_only })
}

/// The name of a volume. Source: moby, `volume/validate`.
pub(super) fn volume_name(text: &str) -> Result<String, Failure> {
    let mut bytes = text.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let goes_on = bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if !starts || !goes_on || text.len() < 2 || text.len() > 255 {
        return Err(Failure::new(format!(
            "{text:?} cannot be a volume: its name has letters, digits, _ . and -, at least two"
        ))
        .hint("a directory of the host needs a path: ./DIR or /DIR"));
    }
    Ok(text.to_owned())
}

fn host_path(text: &str) -> Result<String, String> {
    let absolute = std::path::absolute(text).map_err(|error| error.to_string())?;
    let absolute = absolute.into_os_string().into_string();
    let absolute = absolute.map_err(|_| "the directory's name is not UTF-8".to_owned())?;
    clean_target(&absolute).map_err(|error| error.to_string())
}

/// `type=bind,source=…,target=…,readonly`.
pub(super) fn mount(text: &str) -> Result<MountRequest, Failure> {
    let wrong = |why: &str| Failure::new(format!("--mount={text}: {why}"));
    let mut kind = "volume";
    let (mut source, mut target) = (None, None);
    let (mut read_only, mut populate) = (false, true);
    let mut propagation = None;
    let mut recursion = BindRecursion::Enabled;
    let mut options = Vec::new();
    for field in fields(text).map_err(|why| wrong(&why))? {
        let (name, value) = match field.split_once('=') {
            Some((name, value)) => (name.trim().to_ascii_lowercase(), Some(value.to_owned())),
            None => (field.trim().to_ascii_lowercase(), None),
        };
        let needed = || value.clone().ok_or_else(|| wrong(&format!("{name} needs a value")));
        let switch = || match value.as_deref().map(crate::cli::flags::truth) {
            None => Ok(true),
            Some(Some(value)) => Ok(value),
            Some(None) => Err(wrong(&format!("{name} takes true or false"))),
        };
        match name.as_str() {
            "type" => {
                kind = match needed()?.as_str() {
                    "bind" => "bind",
                    "volume" => "volume",
                    "tmpfs" => "tmpfs",
                    other => return Err(wrong(&format!("there is no type {other:?}"))),
                }
            }
            "source" | "src" => source = Some(needed()?),
            "target" | "destination" | "dst" => target = Some(needed()?),
            "readonly" | "ro" => read_only = switch()?,
            "volume-nocopy" => populate = !switch()?,
            "bind-propagation" => {
                let value = needed()?;
                if !PROPAGATIONS.contains(&value.as_str()) {
                    return Err(wrong(&format!("there is no propagation {value:?}")));
                }
                propagation = Some(value);
            }
            "bind-recursive" => {
                recursion = match needed()?.as_str() {
                    "enabled" | "readonly" => BindRecursion::Enabled,
                    "disabled" => BindRecursion::Disabled,
                    "writable" => BindRecursion::Writable,
                    other => return Err(wrong(&format!("bind-recursive has no {other:?}"))),
                }
            }
            "bind-nonrecursive" if switch()? => recursion = BindRecursion::Disabled,
            "bind-nonrecursive" | "consistency" => {}
            "tmpfs-size" => {
                let bytes = crate::cli::values::size("mount tmpfs-size", &needed()?)?;
                options.push(format!("size={bytes}"));
            }
            "tmpfs-mode" => {
                let mode = needed()?;
                if u32::from_str_radix(&mode, 8).is_err() {
                    return Err(wrong("tmpfs-mode takes an octal number"));
                }
                options.push(format!("mode={mode}"));
            }
            other => return Err(wrong(&format!("there is no field {other:?}"))),
        }
    }
    let target = target.ok_or_else(|| wrong("it needs a target"))?;
    let target = clean_target(&target).map_err(|error| wrong(&error.to_string()))?;
    let kind = match (kind, source) {
        ("bind", Some(source)) if source.starts_with(['/', '.']) => {
            let source = host_path(&source).map_err(|error| wrong(&error))?;
            MountKind::Bind { source, propagation, recursion }
        }
        ("bind", Some(_)) => return Err(wrong("the source is no path: /DIR or ./DIR")),
        ("bind", None) => return Err(wrong("a bind needs a source")),
        ("tmpfs", Some(_)) => return Err(wrong("a tmpfs has no source")),
        ("tmpfs", None) => MountKind::Tmpfs { options },
        (_, Some(name)) => MountKind::Volume { name: Some(volume_name(&name)?), populate },
        (_, None) => MountKind::Volume { name: None, populate },
    };
    Ok(MountRequest { target, kind, read_only })
}

/// Comma-separated; a field that begins with a double quote ends with one, may hold commas, and has
/// `""` for a quote of its own. Source: RFC 4180, which Docker reads it by.
fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let mut field = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let (inside, after) = quoted.split_once('"').ok_or("a quote is not closed")?;
                field.push_str(inside);
                match after.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        quoted = after;
                    }
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            field.push_str(&rest[..end]);
            rest = &rest[end..];
            if field.contains('"') {
                return Err(format!("a quote stands inside of {field}: quote the whole field"));
            }
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.is_empty() => return Ok(fields),
            None => return Err(format!("{rest:?} follows a closing quote")),
        }
    }
}

/// Options that a tmpfs takes. Source: docker run(1), tmpfs(5).
const TMPFS_OPTIONS: [&str; 18] = [
    "rw",
    "ro",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "sync",
    "async",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
];

/// `TARGET[:OPTIONS]`
pub(super) fn tmpfs(text: &str) -> Result<MountRequest, Failure> {
    let wrong = |why: &str| Failure::new(format!("--tmpfs={text}: {why}"));
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = clean_target(target).map_err(|error| wrong(&error.to_string()))?;
    let mut all = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let name = option.split('=').next().unwrap_or(option);
        let has_value = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge"]
            .contains(&name)
            && option.len() > name.len() + 1;
        if !has_value && !TMPFS_OPTIONS.contains(&option) {
            return Err(wrong(&format!("there is no option {option:?}")));
        }
        all.push(option.to_owned());
    }
    let kind = MountKind::Tmpfs { options: all };
    Ok(MountRequest { target, kind, read_only: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str) -> MountKind {
        let recursion = BindRecursion::Enabled;
        MountKind::Bind { source: source.into(), propagation: None, recursion }
    }

    fn named(name: &str) -> MountKind {
        MountKind::Volume { name: Some(name.into()), populate: true }
    }

    #[test]
    fn volumes() {
        let anonymous = MountKind::Volume { name: None, populate: true };
        for (text, target, kind, read_only) in [
            ("/data", "/data", anonymous, false),
            ("/src:/data", "/data", bind("/src"), false),
            ("/src/../x//:/a/./b/", "/a/b", bind("/x"), false),
            ("/src:/data:ro", "/data", bind("/src"), true),
            ("/src:/data:ro,z", "/data", bind("/src"), true),
            ("db:/data", "/data", named("db"), false),
            ("db:/data:ro", "/data", named("db"), true),
        ] {
            let got = volume(text).unwrap();
            assert_eq!(got, MountRequest { target: target.into(), kind, read_only }, "{text}");
        }
        for text in [
            "",
            ":",
            "data",
            "/src:data",
            ":/data",
            "/a:/b:nonsense",
            "a:/data",
            "a/b:/data",
            "/a:/b:ro:rw",
            "db:/data:rshared",
            "/a:/b:nocopy",
        ] {
            assert!(volume(text).is_err(), "{text:?}");
        }
        assert!(volume("./x:/data").is_ok_and(|asked| match asked.kind {
            MountKind::Bind { source, .. } => source.starts_with('/') && source.ends_with("/x"),
            _ => false,
        }));
    }

    #[test]
    fn mounts() {
        for (text, target, kind, read_only) in [
            ("type=bind,source=/s,target=/t", "/t", bind("/s"), false),
            ("type=bind,src=/s,dst=/t,readonly", "/t", bind("/s"), true),
            ("type=bind,src=/s,dst=/t,ro=false", "/t", bind("/s"), false),
            ("source=db,target=/t", "/t", named("db"), false),
            (r#"type=bind,"src=/a,b",dst=/t"#, "/t", bind("/a,b"), false),
            (r#"type=bind,"src=/a""b"",",dst=/t"#, "/t", bind("/a\"b\","), false),
            (
                "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770",
                "/t",
                MountKind::Tmpfs { options: vec!["size=1048576".into(), "mode=1770".into()] },
                false,
            ),
        ] {
            let got = mount(text).unwrap();
            assert_eq!(got, MountRequest { target: target.into(), kind, read_only }, "{text}");
        }
        for text in [
            "",
            "type=bind,source=/s",
            "type=bind,target=/t",
            "type=nonsense,target=/t",
            "type=tmpfs,source=x,target=/t",
            "target=t",
            "type=bind,source=s,target=/t",
            "source=db,target=/t,readonly=maybe",
            "source=db,target=/t,colour=red",
            "type=bind,source=/s,target=/t,bind-propagation=x",
            "type=tmpfs,dst=/t,tmpfs-mode=9",
            r#"type=bind,"src=/s,dst=/t"#,
            r#"type=bind,src="/s",dst=/t"#,
            r#"type=bind,"src=/s"x,dst=/t"#,
        ] {
            assert!(mount(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn tmpfs_options() {
        for text in ["/run", "/run:size=64m,mode=1777", "/run:rw,exec", "/run:"] {
            assert!(tmpfs(text).is_ok(), "{text}");
        }
        for text in ["run", "/run:size", "/run:size=", "/run:bind", "/run:lowerdir=/etc"] {
            assert!(tmpfs(text).is_err(), "{text}");
        }
    }
}
