//! A disk that is taken out while its guest reads: every access to it is answered by nobody from one moment to the
//! next, or fails.

use super::{Scene, Stage};
use crate::account::Account;
use crate::driver::{self, VFIO};
use crate::l1::L1;
use crate::monitor::REPORT;
use crate::orders::Servant;
use crate::protocol::{End, Launch, Request};
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

/// Runs it: nothing fails where the disk has gone, the guest reads ones. The monitor finds it out by looking.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut act = Act::begin("removal", stage)?;
    act.take_out(stage)?;
    act.carry_on(report)?;
    act.end(report)
}

/// The same where `KVM_RUN` does fail: somebody else who holds the device turns its decoding off, so the kernel takes
/// the registers out of the monitor's mappings, and the guest touches them before the monitor next looks.
pub(super) fn run_unmapped(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut act = Act::begin("unmapped", stage)?;
    // A driver whose request nobody answers touches nothing for half a minute.
    act.guest.order(&mut act.scene.l1, "poll 1")?;
    act.guest.life.until(&mut act.scene.l1, "polling")?;
    act.take_out(stage)?;
    act.scene.l1.ask(Request::StopDecoding { process: act.guest.life.process() })?;
    act.carry_on(report)?;
    let account: Account = serde_json::from_str(&act.scene.l1.read(REPORT)?).unwrap_or_default();
    let faults = account.exits.get("fault").copied().unwrap_or_default();
    report.holds("unmapped: KVM_RUN fails with EFAULT", faults > 0, "at least once", faults);
    report.detail(&format!("KVM_RUN failed {faults} times with EFAULT"));
    act.end(report)
}

/// A disk behind a port whose guest reads it.
struct Act {
    part: &'static str,
    scene: Scene,
    guest: Servant,
    device: String,
}

impl Act {
    fn begin(part: &'static str, stage: &Stage<'_>) -> Result<Self, Cause> {
        let mut scene = stage.set_behind_port(Duration::from_secs(1800))?;
        let device = driver::behind(&mut scene.l1, PORT)?;
        driver::bind(&mut scene.l1, &device, VFIO)?;
        let life = stage.start(&mut scene.l1, std::slice::from_ref(&device), 1, REPORT)?;
        let mut guest = Servant::new(life, &mut scene.l1)?;
        guest.order(&mut scene.l1, "endless 1")?;
        guest.life.until(&mut scene.l1, "round")?;
        Ok(Self { part, scene, guest, device })
    }

    fn take_out(&mut self, stage: &Stage<'_>) -> Result<(), Cause> {
        stage.progress.step("the disk is taken out");
        take_out(&mut self.scene)
    }

    /// The monitor says what has become of the disk, the guest goes on without it and leaves.
    fn carry_on(&mut self, report: &mut Report) -> Result<(), Cause> {
        let (part, guest, l1) = (self.part, &mut self.guest, &mut self.scene.l1);
        let gone = format!("{}: the device is gone", self.device);
        guest.life.until_complaint(l1, &gone)?;
        guest.life.until(l1, "stopped")?;
        let alive = guest.life.end.is_none();
        report.holds(&format!("{part}: the monitor outlives the disk"), alive, "alive", "it ended");
        guest.begin(l1, "leave")?;
        let (_, end) = guest.life.until_end(l1)?;
        let well = format!("{:?}", End::Status(0));
        report.equal(&format!("{part}: its guest goes on and leaves"), well, format!("{end:?}"));
        let told = guest.life.stderr.matches(&gone).count();
        report.equal(&format!("{part}: the monitor says once that it is gone"), 1, told);
        report.detail(&guest.life.stderr);
        Ok(())
    }

    fn end(self, report: &mut Report) -> Result<(), Cause> {
        self.scene.strike(report, self.part, &["pciehp", "vfio-pci"])
    }
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
