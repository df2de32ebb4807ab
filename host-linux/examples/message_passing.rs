//! A host that answers later: what the core asks of it are messages on a channel, and so are its answers.
//!
//! Two functions, the device side that both send their steps to, and two guests are five tasks on one thread. The
//! device side answers when it likes, here the youngest step first; meanwhile nobody blocks, for an operation that
//! waits is a function that has a step under way, and nothing else. Steps leave as plain data: they could as well go
//! to another process or privilege level.

use futures::channel::{mpsc, oneshot};
use futures::executor::block_on;
use futures::future::{join5, poll_fn};
use futures::{SinkExt, StreamExt};
use std::error::Error;
use std::task::Poll;
use vfio_assign_core::fake::{FakeHost, Shape};
use vfio_assign_core::host::{GuestWindows, InterruptHost, Outcome, PhysicalFunction, Step};
use vfio_assign_core::{
    Access, AssignedFunction, Begin, Bytes, Completion, Decoder, GuestAddr, Target, Vector, VectorIndex,
    Window,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;
type Function = AssignedFunction<Vec<Vector>, Vec<Window>>;

/// Vectors of each function.
const VECTORS: u16 = 8;

/// A step on its way to the device side, with what that has to know besides.
struct Effect {
    /// Which function's.
    function: usize,
    step: Step,
    /// The vectors that [`Step::Wire`] is to wire.
    wanted: Vec<VectorIndex>,
    /// What vCPUs are to read after [`Step::Trap`] and [`Step::Untrap`].
    decoder: Decoder,
    /// Where the answer goes.
    done: oneshot::Sender<Outcome>,
}

/// What a function's task is asked.
enum Request {
    /// The guest accesses it: what is read, or nothing.
    Access(Access, oneshot::Sender<Bytes>),
    /// The assignment ends.
    Detach(oneshot::Sender<Bytes>),
}

/// Serves one function: an access at a time, for each as many steps as it takes.
async fn serve(
    number: usize,
    mut function: Function,
    mut requests: mpsc::Receiver<Request>,
    mut effects: mpsc::Sender<Effect>,
) -> Result<Function> {
    let begun = function.begin_attach();
    carry_through(number, &mut function, begun, &mut effects).await?;
    while let Some(request) = requests.next().await {
        let (begun, answer) = match request {
            Request::Access(access, answer) => (function.begin(access), answer),
            Request::Detach(answer) => (function.begin_detach(), answer),
        };
        let bytes = carry_through(number, &mut function, begun, &mut effects).await?;
        answer.send(bytes).map_err(|_| "the guest has gone")?;
    }
    Ok(function)
}

/// Sends each step, waits for its outcome and tells the function: the loop that `drive` is for a synchronous host.
async fn carry_through(
    number: usize,
    function: &mut Function,
    begun: Begin,
    effects: &mut mpsc::Sender<Effect>,
) -> Result<Bytes> {
    let mut completion = match begun {
        Begin::Done(bytes) => return Ok(bytes),
        Begin::Steps => Completion::Steps,
        Begin::Busy => return Err("a function serves one request at a time".into()),
    };
    while let Some((token, step)) = function.next_step() {
        let (done, outcome) = oneshot::channel();
        let wanted = wanted(function, step);
        let effect = Effect { function: number, step, wanted, decoder: *function.decoder(), done };
        effects.send(effect).await?;
        completion = function.complete(token, outcome.await?);
    }
    match completion {
        Completion::Done(bytes) => Ok(bytes),
        Completion::Steps | Completion::Stale => Err("an operation has no end".into()),
    }
}

/// The vectors that a step is to wire.
fn wanted(function: &Function, step: Step) -> Vec<VectorIndex> {
    let Step::Wire { kind, first, last } = step else { return Vec::new() };
    let range = (first.get()..=last.get()).filter_map(VectorIndex::new);
    range.filter(|vector| function.wants_event(kind, *vector)).collect()
}

/// The device side: takes what has been sent, and answers the youngest first. Returns the devices, and how often
/// several steps were under way at once.
async fn device_side(
    mut hosts: [FakeHost; 2],
    mut effects: mpsc::Receiver<Effect>,
) -> Result<([FakeHost; 2], u32)> {
    let mut together = 0;
    let mut waiting = Vec::new();
    while let Some(effect) = effects.next().await {
        waiting.push(effect);
        // The others' turn, as if the device were slow: what they send comes to what is waiting.
        yield_now().await;
        while let Ok(effect) = effects.try_recv() {
            waiting.push(effect);
        }
        together += u32::from(waiting.len() > 1);
        for effect in waiting.drain(..).rev() {
            let host = &mut hosts[effect.function];
            let outcome = act(host, &effect);
            if let (Step::Arm { vector, .. }, true) = (effect.step, outcome.is_done()) {
                // The device interrupts: its event is armed, so that it needs no function to reach the guest.
                host.raise(vector);
            }
            effect.done.send(outcome).map_err(|_| "the function has gone")?;
        }
    }
    Ok((hosts, together))
}

/// Does one thing to a device.
fn act(host: &mut FakeHost, effect: &Effect) -> Outcome {
    let done = |result: std::result::Result<(), _>| result.map(|()| Outcome::Done);
    let result = match effect.step {
        Step::ReadConfig { offset, width } => {
            host.config_read(offset, width).map(|value| Outcome::Value(value.into()))
        }
        Step::ReadBar { bar, offset, width } => host.bar_read(bar, offset, width).map(Outcome::Value),
        Step::PollPending { kind, first, mask } => host.poll_pending(kind, first, mask).map(Outcome::Value),
        Step::TakePending { kind, first, mask } => host.take_pending(kind, first, mask).map(Outcome::Value),
        Step::WriteConfig { offset, width, value } => done(host.config_write(offset, width, value)),
        Step::WriteBar { bar, offset, width, value } => done(host.bar_write(bar, offset, width, value)),
        Step::ResetFunction => done(host.reset()),
        Step::Map(window) => done(host.map(window)),
        Step::Unmap(window) => done(host.unmap(window)),
        Step::Trap { bar, range } => done(host.trap(bar, range, &effect.decoder)),
        Step::Untrap { bar, range } => done(host.untrap(bar, range, &effect.decoder)),
        Step::EnableInterrupts { kind } => done(host.enable(kind)),
        Step::DisableInterrupts { kind } => done(host.disable(kind)),
        Step::ReleaseVectors { kind } => done(host.release(kind)),
        Step::Wire { kind, first, last } => {
            done(host.wire(kind, first, last, &|vector| effect.wanted.contains(&vector)))
        }
        Step::Route { kind, vector, message } => done(host.route(kind, vector, message)),
        Step::CommitRoutes => done(host.commit_routes()),
        Step::Arm { kind, vector } => done(host.arm(kind, vector)),
        Step::Disarm { kind, vector } => done(host.disarm(kind, vector)),
        Step::Signal { kind, vector } => done(host.signal(kind, vector)),
        Step::UnmaskIntx => done(host.unmask_intx()),
        // A step that this host does not know yet is one that it cannot do.
        _ => Ok(Outcome::Failed),
    };
    result.unwrap_or_else(|error| {
        // An outcome has no room for the reason: who knows it, says it.
        eprintln!("function {}: {:?}: {error}", effect.function, effect.step);
        FakeHost::fewer(&error).map_or(Outcome::Failed, Outcome::Fewer)
    })
}

/// Lets the other tasks go on.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// A guest's driver: places its BAR, gives vector 0 a message, and turns MSI-X on. Returns who the device is.
async fn guest(mut requests: mpsc::Sender<Request>, bar: u32, msix: u32) -> Result<Bytes> {
    let config = |offset, value: u32| (Target::Config(offset), value);
    let table = |offset| Target::Memory(GuestAddr::new(u64::from(bar) + 0x2000 + offset));
    let writes = [
        config(0x10, bar),
        config(0x04, 0x6),
        (table(0), 0xfee0_0000),
        (table(8), 0x41),
        (table(12), 0),
        config(msix, 0x8000_0000),
    ];
    for (target, value) in writes {
        let data = Bytes::from_slice(&value.to_le_bytes());
        ask(&mut requests, |answer| Request::Access(Access::Write { target, data }, answer)).await?;
    }
    let read = Access::Read { target: Target::Config(0), size: 4 };
    let id = ask(&mut requests, |answer| Request::Access(read, answer)).await?;
    ask(&mut requests, Request::Detach).await?;
    Ok(id)
}

async fn ask(
    requests: &mut mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<Bytes>) -> Request,
) -> Result<Bytes> {
    let (answer, bytes) = oneshot::channel();
    requests.send(request(answer)).await?;
    Ok(bytes.await?)
}

fn main() -> Result<()> {
    let shape = Shape::nvme(VECTORS);
    let make = || {
        let vectors = vec![Vector::RESET; usize::from(VECTORS)];
        AssignedFunction::new(&shape.description(), vectors, vec![Window::default(); 4], |_| {})
    };
    let functions = [make()?, make()?];
    let msix = functions[0].msix().ok_or("no MSI-X")?.layout().capability.get().into();
    let [first, second] = functions;

    let (effects, steps) = mpsc::channel(0);
    let (to_first, of_first) = mpsc::channel(0);
    let (to_second, of_second) = mpsc::channel(0);
    let hosts = [FakeHost::new(&shape), FakeHost::new(&shape)];
    let (first, second, one, other, devices) = block_on(join5(
        serve(0, first, of_first, effects.clone()),
        serve(1, second, of_second, effects),
        guest(to_first, 0xc000_0000, msix),
        guest(to_second, 0xc000_0000, msix),
        device_side(hosts, steps),
    ));
    let (hosts, together) = devices?;
    let found = [one?, other?];
    println!("the guests find {found:?}");
    if found.iter().any(|id| *id.as_slice() != shape.config[..4]) {
        return Err("a guest finds another device than its own".into());
    }
    println!("steps of both functions were under way at once {together} times");
    for (function, mut host) in [first?, second?].into_iter().zip(hosts) {
        let delivered = host.take_delivered();
        println!("{} steps, interrupts {delivered:?}", host.calls_made());
        let taken_back = host.windows().is_empty() && host.held() == (0, 0, 0);
        if delivered.len() != 1 || !taken_back || function.is_quarantined() {
            return Err("a guest has seen something else, or something still stands in the host".into());
        }
    }
    if together > 0 { Ok(()) } else { Err("one function waited for the other".into()) }
}

#[test]
fn two_guests_are_served_by_one_thread_and_a_host_that_answers_later() {
    main().unwrap();
}
