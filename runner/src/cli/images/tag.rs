//! `rrun tag`

use shared::ImageRef;

use crate::cli::flags::{Arguments, FlagsEnd};
use crate::cli::{Globals, Verb};
use crate::failure::Failure;

pub(crate) const TAG: Verb = Verb {
    names: &["tag", "image tag"],
    operands: "IMAGE NAME[:TAG]",
    operands_min: 2,
    operands_max: 2,
    about: "Give an image a further name",
    details: "",
    flags: &[],
    flags_end: FlagsEnd::AtDashes,
    run,
};

fn run(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let text = &arguments.operands[1];
    let target: ImageRef = text
        .parse()
        .map_err(|error| Failure::new(format!("{text} names no image")).because(&error))?;
    if target.digest.is_some() {
        return Err(
            Failure::new(format!("{text}: a tag is given, a digest is what it is")).exits(1)
        );
    }
    globals
        .store()?
        .tag_image(&arguments.operands[0], &target)
        .map_err(|error| Failure::from(error).exits(1))?;
    Ok(0)
}
