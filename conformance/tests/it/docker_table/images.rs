//! The images of the table, built by the Docker engine from one Debian system.

use std::fs;

use anyhow::Result;
use conformance::world::World;

/// Tags of `table`.
pub(crate) const TAGS: [&str; 6] = ["plain", "entry", "hollow", "shell", "settings", "nothing"];

const PLAIN: &str = "RUN echo sailor:x:1234:1234::/home/sailor:/bin/sh >> /etc/passwd \
    && echo crew:x:1300:sailor >> /etc/group && echo watch:x:1301:sailor,daemon >> /etc/group \
    && printf '#!/no/such/interpreter\\n' > /usr/local/bin/bad-interpreter \
    && echo 'echo ran without a first line' > /usr/local/bin/not-a-program \
    && cp /usr/bin/id /usr/local/bin/setuid-id && chmod 4755 /usr/local/bin/setuid-id \
    && ln -s ../nowhere/at-all /etc/dangling && mkdir -m 700 /private \
    && chmod +x /usr/local/bin/bad-interpreter /usr/local/bin/not-a-program";

const ENTRY: &str = "ENTRYPOINT [\"/bin/echo\", \"entry\"]\nCMD [\"and\", \"command\"]";

const HOLLOW: &str = "ENTRYPOINT [\"\"]\nCMD [\"/bin/echo\", \"command\"]";

const SHELL: &str = "CMD echo shell $((40 + 2))";

const SETTINGS: &str = "ENV COLOUR=blue GREETING=\"two words\"\n\
    RUN mkdir /data && echo kept > /data/file && chown -R 33:33 /data && chmod 750 /data\n\
    VOLUME /data\nUSER 33:60\nWORKDIR /srv/work";

const NOTHING: &str = "ENTRYPOINT []\nCMD []";

pub(crate) fn push(world: &World) -> Result<()> {
    let debian = world.push_debian()?;
    let context = world.directory().join("table-context");
    fs::create_dir_all(&context)?;
    let plain = world.build("table:plain", &context, &format!("FROM {debian}\n{PLAIN}\n"))?;
    for (tag, lines) in [
        ("entry", ENTRY),
        ("hollow", HOLLOW),
        ("shell", SHELL),
        ("settings", SETTINGS),
        ("nothing", NOTHING),
    ] {
        world.build(&format!("table:{tag}"), &context, &format!("FROM {plain}\n{lines}\n"))?;
    }
    for tag in TAGS {
        world.engine().docker_ok(&[
            "push",
            "--quiet",
            &world.reference(&format!("table:{tag}")),
        ])?;
    }
    Ok(())
}
