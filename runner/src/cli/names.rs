//! Names for containers that were given none.

const FIRST: [&str; 64] = [
    "able", "amber", "ample", "azure", "bold", "brave", "breezy", "bright", "brisk", "broad",
    "calm", "candid", "clear", "clever", "cool", "coral", "crisp", "deep", "eager", "early",
    "fair", "fleet", "fresh", "gentle", "glad", "golden", "grand", "green", "happy", "hardy",
    "honest", "jolly", "keen", "kind", "lively", "loyal", "lucid", "merry", "mild", "neat",
    "nimble", "noble", "open", "patient", "plain", "proud", "quick", "quiet", "rapid", "ready",
    "salty", "sharp", "silver", "smooth", "snug", "solid", "steady", "still", "sunny", "swift",
    "trim", "true", "warm", "wise",
];

const SECOND: [&str; 64] = [
    "anchor",
    "barge",
    "bay",
    "beacon",
    "berth",
    "boom",
    "bosun",
    "bow",
    "breeze",
    "bridge",
    "brig",
    "buoy",
    "cable",
    "canal",
    "cape",
    "cargo",
    "clipper",
    "coast",
    "compass",
    "cove",
    "crew",
    "current",
    "cutter",
    "deck",
    "dock",
    "dory",
    "ferry",
    "fjord",
    "fleet",
    "galley",
    "gull",
    "harbour",
    "haven",
    "helm",
    "hull",
    "island",
    "jetty",
    "kayak",
    "keel",
    "ketch",
    "lagoon",
    "lantern",
    "lighthouse",
    "lock",
    "mast",
    "mole",
    "mooring",
    "oar",
    "pier",
    "pilot",
    "port",
    "quay",
    "raft",
    "reef",
    "rudder",
    "sail",
    "schooner",
    "shoal",
    "sloop",
    "sound",
    "spar",
    "tide",
    "tug",
    "wharf",
];

/// Two words and four hex digits: one in 270 million, so that nothing has to be asked before a
/// name is taken.
pub(super) fn random() -> String {
    let id = crate::random::id();
    let number = |from: usize, to: usize| usize::from_str_radix(&id[from..to], 16).unwrap_or(0);
    format!("{}_{}_{}", FIRST[number(0, 4) % 64], SECOND[number(4, 8) % 64], &id[8..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_names_and_differ() {
        let names: std::collections::BTreeSet<String> = (0..100).map(|_| random()).collect();
        assert!(names.len() > 90);
        for name in &names {
            assert!(crate::cli::values::container_name(name).is_ok(), "{name}");
        }
    }
}
