//! The keeper as clients and devices meet it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use vfio_assign_core::{GuestAddr, Span};
use vfio_assign_linux::scripted::CallFault;
use vfio_assign_linux::{
    Backend, Errno as HostErrno, GuestMemory, GuestRegion, IrqKind, MappingObserver, MappingProgress,
    MemoryBacking,
};

use super::super::Means;
use super::super::testing::{TestHost, bdf};
use super::*;
use crate::control::{Ask, line};
use crate::machine::pci::SlotPlan;
use crate::machine::power::Stop;

/// How long a test waits for what is to come at once before it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A keeper without devices, a client of it, and what its machine is asked.
struct Kept {
    keeper: Keeper,
    client: UnixStream,
    asks: Receiver<Ask>,
    stops: Receiver<Stop>,
    _folder: tempfile::TempDir,
}

fn kept(plan: SlotPlan) -> Kept {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let server = Server::listen(&path).unwrap();
    let ((asks, asked), (stops, stopped)) = (channel(), channel());
    let (bus, _arrival) = PciBus::new(plan, |_| {}).unwrap();
    let mut keeper = Keeper {
        devices: Arc::new(Devices::new(Arc::clone(&bus))),
        bus,
        opener: None,
        control: Some(Control::new(server, MachineLine { asks, stops })),
        quit: Arc::new(Event::new().unwrap()),
    };
    let client = UnixStream::connect(&path).unwrap();
    keeper.serve();
    Kept { keeper, client, asks: asked, stops: stopped, _folder: folder }
}

/// The same, of a machine that has ended.
fn keeper() -> (tempfile::TempDir, Keeper, Receiver<Ask>, UnixStream) {
    let Kept { keeper, client, asks, _folder, .. } = kept(SlotPlan { devices: 0, hot_plug: 1 });
    (_folder, keeper, asks, client)
}

#[test]
fn what_a_client_that_left_asks_for_after_the_first_answer_is_not_done() {
    let (_folder, mut keeper, inbox, mut client) = keeper();
    client.write_all(b"{\"request\":\"status\"}\n{\"request\":\"pause\"}\n").unwrap();
    drop(client);
    keeper.serve();
    assert!(inbox.try_recv().is_err());
}

#[test]
fn nothing_is_done_after_the_end_of_the_machine() {
    let (_folder, mut keeper, inbox, mut client) = keeper();
    client.write_all(b"{\"request\":\"quit\"}\n{\"request\":\"pause\"}\n").unwrap();
    keeper.serve();
    drop(keeper);
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!((inbox.try_iter().count(), heard.lines().count()), (1, 1));
}

/// A keeper of one device, in a slot of bus 0.
fn kept_with_one(host: &TestHost) -> Kept {
    let kept = kept(SlotPlan { devices: 1, hot_plug: 0 });
    kept.keeper.devices.opening().put(FIRST_SLOT, host.device(None));
    kept
}

impl Kept {
    /// A client asks for this, and the machine does it.
    fn ask(&mut self, request: &Request) {
        self.client.write_all(&line(request)).unwrap();
        let Self { keeper, asks, stops, .. } = self;
        std::thread::scope(|scope| {
            scope.spawn(|| keeper.serve());
            let Ask { reply, .. } = asks.recv_timeout(PATIENCE).expect("the machine is asked");
            stops.recv_timeout(PATIENCE).expect("the machine is stopped for it");
            reply.send(Reply { answer: Answer::Done, files: Vec::new() }).ok().unwrap();
        });
    }

    fn devices(&self) -> usize {
        self.keeper.devices.there().len()
    }

    /// How many devices there are once the keeper has looked at them, which it has a reason for.
    fn devices_after_a_look(&mut self) -> usize {
        assert!(self.keeper.wait().unwrap().look);
        self.keeper.bus.look().clear();
        self.keeper.look();
        self.devices()
    }
}

fn save() -> Request {
    Request::Save { file: "state".into() }
}

#[test]
fn what_the_host_wants_back_is_taken_from_a_machine_that_is_paused() {
    let host = TestHost::new();
    let mut kept = kept_with_one(&host);
    kept.ask(&Request::Pause);
    kept.keeper.happened(bdf(), DeviceEvent::ReleaseRequest);
    assert_eq!(kept.devices(), 0);
}

#[test]
fn what_the_host_wants_back_of_a_machine_that_was_saved_is_taken_when_it_goes_on() {
    let host = TestHost::new();
    let mut kept = kept_with_one(&host);
    kept.ask(&Request::Pause);
    kept.ask(&save());
    kept.keeper.happened(bdf(), DeviceEvent::ReleaseRequest);
    assert_eq!(kept.devices_after_a_look(), 1);
    kept.ask(&Request::Resume);
    assert_eq!(kept.devices_after_a_look(), 0);
}

#[test]
fn a_guest_that_was_paused_when_the_host_wanted_a_device_back_is_asked_when_it_goes_on() {
    let host = TestHost::new();
    let mut kept = kept(SlotPlan { devices: 1, hot_plug: 1 });
    kept.keeper.devices.opening().put(FIRST_SLOT, host.device(None));
    kept.ask(&Request::Pause);
    kept.keeper.happened(bdf(), DeviceEvent::ReleaseRequest);
    let asked = |kept: &mut Kept| (kept.devices_after_a_look(), kept.keeper.bus.is_asked_back(FIRST_SLOT));
    assert_eq!(asked(&mut kept), (1, false));
    kept.ask(&Request::Resume);
    assert_eq!(asked(&mut kept), (1, true));
}

/// The keeper hears of an error that its device has died of.
fn die(host: &TestHost, kept: &mut Kept) {
    host.kernel.fail(0, CallFault::Errno(HostErrno::EIO));
    kept.keeper.happened(bdf(), DeviceEvent::Error);
}

#[test]
fn what_died_while_the_machine_was_paused_is_taken() {
    let host = TestHost::new();
    let mut kept = kept_with_one(&host);
    kept.ask(&Request::Pause);
    assert_eq!(kept.devices_after_a_look(), 1);
    die(&host, &mut kept);
    assert_eq!(kept.devices_after_a_look(), 0);
}

#[test]
fn what_died_after_the_machine_was_saved_is_taken_when_it_goes_on() {
    let host = TestHost::new();
    let mut kept = kept_with_one(&host);
    kept.ask(&Request::Pause);
    kept.ask(&save());
    kept.ask(&Request::Pause);
    die(&host, &mut kept);
    assert_eq!(kept.devices_after_a_look(), 1);
    kept.ask(&Request::Resume);
    assert_eq!(kept.devices_after_a_look(), 0);
}

#[test]
fn an_event_that_cannot_be_taken_is_no_longer_waited_for_and_the_others_are() {
    let host = TestHost::new();
    let kept = kept_with_one(&host);
    host.kernel.interrupt(0, IrqKind::Err, 0);
    host.kernel.fail(0, CallFault::Errno(HostErrno::EIO));
    assert_eq!(kept.keeper.wait().unwrap().events, []);
    for _ in 0..2 {
        host.kernel.interrupt(0, IrqKind::Req, 0);
        assert_eq!(kept.keeper.wait().unwrap().events, [(bdf(), DeviceEvent::ReleaseRequest)]);
    }
}

/// Notes at each step of a mapping whether a reset of others would wait.
#[derive(Default)]
struct WouldWait {
    devices: OnceLock<Arc<Devices>>,
    noted: Mutex<Vec<bool>>,
}

impl std::fmt::Debug for WouldWait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WouldWait")
    }
}

impl MappingObserver for WouldWait {
    fn mapping(&self, _: MappingProgress) {
        self.noted.lock().unwrap().extend(self.devices.get().map(|devices| devices.is_opening()));
    }
}

#[test]
fn a_reset_of_others_waits_while_a_device_is_added() {
    let (host, would_wait) = (TestHost::new(), Arc::new(WouldWait::default()));
    let mut kept = kept(SlotPlan { devices: 0, hot_plug: 1 });
    would_wait.devices.set(Arc::clone(&kept.keeper.devices)).ok().unwrap();
    let observer = Some(Arc::clone(&would_wait) as Arc<dyn MappingObserver>);
    let means = Means { sysfs: host.sysfs(), backend: Some(Backend::Group), observer, ..Means::default() };
    let opener = Opener::new(host.machine(), means, true).unwrap();
    let memory = GuestMemory::new(0x1000, MemoryBacking::Anonymous).unwrap();
    let guest = Span::from_size(GuestAddr::new(0), 0x1000).unwrap();
    // The first device has an address space made, in which this is mapped.
    opener.vm.add_memory(&[GuestRegion { guest, memory, offset: 0 }]).unwrap();
    kept.keeper.opener = Some(opener);
    would_wait.noted.lock().unwrap().clear();
    kept.keeper.add(&bdf().to_string()).unwrap();
    let mut noted = std::mem::take(&mut *would_wait.noted.lock().unwrap());
    noted.dedup();
    assert_eq!((noted, kept.devices()), (vec![true], 1));
    assert!(!kept.keeper.devices.is_opening());
}
