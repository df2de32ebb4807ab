//! A host about which the optimiser knows nothing.

use core::hint::black_box;
use vfio_assign_core::host::{
    Events, GuestRange, GuestWindows, HostError, InterruptHost, InterruptKind, MappedWindow, Message,
    PhysicalFunction, Step,
};
use vfio_assign_core::{BarIndex, ConfigOffset, Decoder, PhysBarOffset, VectorIndex, Width};

/// Every answer may be any answer.
pub(crate) struct Opaque;

/// Something went wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrong;

fn answer<T>(value: T) -> Result<T, Wrong> {
    black_box(Ok(value))
}

impl HostError for Opaque {
    type Error = Wrong;
}

impl PhysicalFunction for Opaque {
    #[inline(never)]
    fn config_read(&mut self, offset: ConfigOffset, width: Width) -> Result<u32, Wrong> {
        black_box((offset, width));
        answer(0)
    }

    #[inline(never)]
    fn config_write(&mut self, offset: ConfigOffset, width: Width, value: u32) -> Result<(), Wrong> {
        black_box((offset, width, value));
        answer(())
    }

    #[inline(never)]
    fn bar_read(&mut self, bar: BarIndex, offset: PhysBarOffset, width: Width) -> Result<u64, Wrong> {
        black_box((bar, offset, width));
        answer(0)
    }

    #[inline(never)]
    fn bar_write(
        &mut self,
        bar: BarIndex,
        offset: PhysBarOffset,
        width: Width,
        value: u64,
    ) -> Result<(), Wrong> {
        black_box((bar, offset, width, value));
        answer(())
    }

    #[inline(never)]
    fn reset(&mut self) -> Result<(), Wrong> {
        answer(())
    }
}

impl GuestWindows for Opaque {
    #[inline(never)]
    fn map(&mut self, window: MappedWindow) -> Result<(), Wrong> {
        black_box(window);
        answer(())
    }

    #[inline(never)]
    fn unmap(&mut self, window: MappedWindow) -> Result<(), Wrong> {
        black_box(window);
        answer(())
    }

    #[inline(never)]
    fn trap(&mut self, bar: BarIndex, range: GuestRange, decoder: &Decoder) -> Result<(), Wrong> {
        black_box((bar, range, decoder));
        answer(())
    }

    #[inline(never)]
    fn untrap(&mut self, bar: BarIndex, range: GuestRange, decoder: &Decoder) -> Result<(), Wrong> {
        black_box((bar, range, decoder));
        answer(())
    }
}

impl InterruptHost for Opaque {
    #[inline(never)]
    fn fewer(error: &Wrong) -> Option<u16> {
        black_box(error);
        black_box(Some(3))
    }

    #[inline(never)]
    fn unmask_intx(&mut self) -> Result<(), Wrong> {
        answer(())
    }

    #[inline(never)]
    fn enable(&mut self, kind: InterruptKind) -> Result<(), Wrong> {
        black_box(kind);
        answer(())
    }

    #[inline(never)]
    fn wire(
        &mut self,
        kind: InterruptKind,
        first: VectorIndex,
        last: VectorIndex,
        wanted: &dyn Fn(VectorIndex) -> bool,
    ) -> Result<(), Wrong> {
        black_box(kind);
        black_box((wanted(first), wanted(last)));
        answer(())
    }

    #[inline(never)]
    fn disable(&mut self, kind: InterruptKind) -> Result<(), Wrong> {
        black_box(kind);
        answer(())
    }

    #[inline(never)]
    fn release(&mut self, kind: InterruptKind) -> Result<(), Wrong> {
        black_box(kind);
        answer(())
    }

    #[inline(never)]
    fn route(&mut self, kind: InterruptKind, vector: VectorIndex, message: Message) -> Result<(), Wrong> {
        black_box(kind);
        black_box((vector, message));
        answer(())
    }

    #[inline(never)]
    fn commit_routes(&mut self) -> Result<(), Wrong> {
        answer(())
    }

    #[inline(never)]
    fn arm(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), Wrong> {
        black_box(kind);
        black_box(vector);
        answer(())
    }

    #[inline(never)]
    fn disarm(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), Wrong> {
        black_box(kind);
        black_box(vector);
        answer(())
    }

    #[inline(never)]
    fn signal(&mut self, kind: InterruptKind, vector: VectorIndex) -> Result<(), Wrong> {
        black_box(kind);
        black_box(vector);
        answer(())
    }

    #[inline(never)]
    fn poll_pending(&mut self, kind: InterruptKind, first: VectorIndex, mask: u64) -> Result<u64, Wrong> {
        black_box(kind);
        black_box((first, mask));
        answer(0)
    }

    #[inline(never)]
    fn take_pending(&mut self, kind: InterruptKind, first: VectorIndex, mask: u64) -> Result<u64, Wrong> {
        black_box(kind);
        black_box((first, mask));
        answer(0)
    }
}

impl Events for Opaque {
    #[inline(never)]
    fn step_failed(&mut self, step: Step, error: &Wrong) {
        black_box((step, error));
    }

    #[inline(never)]
    fn step_done(&mut self, step: Step) {
        black_box(step);
    }
}
