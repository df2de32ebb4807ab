//! A disk that is taken out while its guest reads: every access to it is answered by nobody from one moment to the next.

use super::{Scene, Stage};
use crate::driver::{self, VFIO};
use crate::l1::L1;
use crate::monitor::REPORT;
use crate::orders::Servant;
use crate::protocol::{End, Launch};
use crate::report::Report;
use crate::scenarios::Cause;
use std::time::Duration;

/// The port that the disk is behind, in L1.
const PORT: &str = "0000:00:04.0";
/// Capability id of PCI Express, and where Slot Control is in it.
const EXPRESS: u8 = 0x10;
const SLOT_CONTROL: usize = 0x18;
/// Power Indicator off, Power Controller off: QEMU then takes the device away.
const POWER_OFF: u16 = 0x0700;

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut scene = stage.set_behind_port(Duration::from_secs(1800))?;
    let device = driver::behind(&mut scene.l1, PORT)?;
    driver::bind(&mut scene.l1, &device, VFIO)?;
    let life = stage.start(&mut scene.l1, std::slice::from_ref(&device), 1, REPORT)?;
    let mut guest = Servant::new(life, &mut scene.l1)?;
    guest.order(&mut scene.l1, "endless 1")?;
    guest.life.until(&mut scene.l1, "round")?;
    stage.progress.step("the disk is taken out");
    take_out(&mut scene)?;
    // Nothing fails where the disk has gone: the guest reads ones. The monitor finds it out by looking.
    let gone = format!("{device}: the device is gone");
    guest.life.until_complaint(&mut scene.l1, &gone)?;
    guest.life.until(&mut scene.l1, "stopped")?;
    report.holds("removal: the monitor outlives the disk", guest.life.end.is_none(), "alive", "it ended");
    guest.begin(&mut scene.l1, "leave")?;
    let (_, end) = guest.life.until_end(&mut scene.l1)?;
    let well = format!("{:?}", End::Status(0));
    report.equal("removal: its guest goes on and leaves", well, format!("{end:?}"));
    let told = guest.life.stderr.matches(&gone).count();
    report.equal("removal: the monitor says once that it is gone", 1, told);
    report.detail(&guest.life.stderr);
    scene.strike(report, "removal", &["pciehp", "vfio-pci"])
}

/// Switches the slot's power off, as somebody does who pulls the card.
fn take_out(scene: &mut Scene) -> Result<(), Cause> {
    let config = scene.l1.read_bytes(&format!("/sys/bus/pci/devices/{PORT}/config"))?;
    let at = capability(&config, EXPRESS).unwrap_or_default() + SLOT_CONTROL;
    let word = config.get(at..at + 2).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]])) | POWER_OFF;
    let [low, high] = word.to_le_bytes();
    let file = format!("/sys/bus/pci/devices/{PORT}/config");
    let script =
        format!("printf '\\x{low:02x}\\x{high:02x}' | dd of={file} bs=2 seek={} conv=notrunc", at / 2);
    shell(&mut scene.l1, &script)
}

fn shell(l1: &mut L1, script: &str) -> Result<(), Cause> {
    let arguments = ["/bin/busybox", "sh", "-c", script].map(str::to_owned).into();
    Ok(crate::virtual_function::finish(l1, Launch { arguments, user: None })?)
}

/// Where a capability is.
fn capability(config: &[u8], id: u8) -> Option<usize> {
    let mut at = usize::from(*config.get(0x34)?) & !3;
    for _ in 0..48 {
        match config.get(at..at + 2)? {
            [found, _] if *found == id => return Some(at),
            [_, 0] => return None,
            pair => at = usize::from(pair[1]) & !3,
        }
    }
    None
}
