//! Tens of power cuts and kills under a mixed load, and collection at full speed: nothing
//! acknowledged is lost, nothing torn is served, no delete is undone. `make torture` does the same
//! by the thousand.

use std::time::Duration;

use anyhow::{Result, ensure};
use conformance::torture::disk::{self, FileSystem};
use conformance::torture::{self, Campaign, Crash, Tally, Target, race, report};

fn campaign(target: Target, crash: Crash, file_system: FileSystem, crashes: usize) -> Campaign {
    Campaign { target, crash, file_system, crashes, seed: 1, until_loss: false }
}

fn survives(campaign: &Campaign) -> Result<Tally> {
    let tally = torture::run(campaign)?;
    eprintln!("{campaign:?}\n{tally:?}");
    ensure!(tally.broken() == 0, "{}", tally.examples.join("\n"));
    ensure!(tally.acknowledged.total() > 20 * tally.crashes as u64, "hardly any load: {tally:?}");
    Ok(tally)
}

#[test]
fn the_rig_loses_what_nobody_synced() -> Result<()> {
    disk::control(FileSystem::Ext4)?;
    disk::control(FileSystem::Xfs)
}

#[test]
fn power_cuts_lose_nothing_on_ext4() -> Result<()> {
    survives(&campaign(Target::roadstead(), Crash::PowerCut, FileSystem::Ext4, 15)).map(drop)
}

#[test]
fn power_cuts_lose_nothing_on_xfs() -> Result<()> {
    survives(&campaign(Target::roadstead(), Crash::PowerCut, FileSystem::Xfs, 15)).map(drop)
}

#[test]
fn kills_lose_nothing() -> Result<()> {
    let tally = survives(&campaign(Target::roadstead(), Crash::Kill, FileSystem::Ext4, 10))?;
    ensure!(tally.uploads.resumed > 0, "no upload was interrupted: {tally:?}");
    Ok(())
}

#[test]
fn collection_stops_nobody_and_breaks_nothing() -> Result<()> {
    let race = race::run(&Target::roadstead(), Duration::from_secs(10), 1, false)?;
    ensure!(race.refused + race.broken == 0, "{race:?}");
    ensure!(race.left == Some(0), "deleted space stays: {race:?}");
    ensure!(race.reused > 50 && race.deleted > 50, "hardly any load: {race:?}");
    Ok(())
}

/// The rig and the clients' log see what they are there to see.
#[test]
fn a_sync_that_is_left_out_is_noticed() -> Result<()> {
    for (left_out, _, crash) in report::KNOWN_BAD_CRASH {
        let kinds: &[FileSystem] = match crash {
            Crash::PowerCut => &[FileSystem::Ext4, FileSystem::Xfs],
            Crash::Kill => &[FileSystem::Ext4],
        };
        for &file_system in kinds {
            let mut campaign = campaign(Target::known_bad(left_out)?, crash, file_system, 40);
            campaign.until_loss = true;
            let tally = torture::run(&campaign)?;
            eprintln!("{left_out} on {}: {:?}", file_system.name(), tally.examples.first());
            ensure!(tally.losses() > 0, "{left_out}: survived {} crashes", tally.crashes);
        }
    }
    Ok(())
}

#[test]
fn collection_without_grace_or_rescue_is_noticed() -> Result<()> {
    for (left_out, _) in report::KNOWN_BAD_RACES {
        let race = race::run(&Target::known_bad(left_out)?, Duration::from_secs(60), 1, true)?;
        eprintln!("{left_out}: {:?} {:?}", race.took, race.examples.first());
        ensure!(race.refused + race.broken > 0, "{left_out}: nobody noticed: {race:?}");
    }
    Ok(())
}

/// The same load breaks images of a registry whose collection must not run beside pushes.
#[test]
fn the_peers_collection_breaks_images() -> Result<()> {
    let race = race::run(&Target::docker_registry(), Duration::from_secs(60), 1, true)?;
    ensure!(race.refused + race.broken > 0, "the race is no race: {race:?}");
    Ok(())
}
