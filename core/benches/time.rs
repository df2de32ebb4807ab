//! The time that the machines take: `cargo bench -p vfio-assign-core --bench time`. A word behind `--` picks cases.

mod cases;

use cases::Measure;
use criterion::{BatchSize, Criterion};

/// Criterion, which runs each case until its time is known well enough.
struct Time(Criterion);

impl Measure for Time {
    fn case<S, R>(
        &mut self,
        group: &str,
        name: &str,
        mut prepare: impl FnMut() -> S,
        mut run: impl FnMut(&mut S) -> R,
    ) {
        let mut group = self.0.benchmark_group(group);
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(&mut prepare, &mut run, BatchSize::LargeInput);
        });
        group.finish();
    }

    fn repeat<R>(&mut self, group: &str, name: &str, mut run: impl FnMut() -> R) {
        let mut group = self.0.benchmark_group(group);
        group.bench_function(name, |bencher| bencher.iter(&mut run));
        group.finish();
    }
}

fn main() {
    let mut time = Time(Criterion::default().configure_from_args());
    cases::measure(&mut time);
    time.0.final_summary();
}
