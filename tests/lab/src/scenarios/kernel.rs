//! Builds L1's own kernel, if that has not been done, and holds the library's layouts against its headers.

use super::{Cause, Failure, named};
use crate::bench::BenchError;
use crate::build;
use crate::packages::Cache;
use crate::progress::Progress;
use crate::report::Report;
use crate::uapi;

/// Runs it.
pub(crate) fn run(progress: &Progress) -> Result<Report, Failure> {
    named("kernel", carry_through(progress))
}

fn carry_through(progress: &Progress) -> Result<Report, Cause> {
    let cache = Cache::open().map_err(BenchError::from)?;
    let kernel = build::kernel(&cache, progress).map_err(BenchError::from)?;
    progress.step("compiling a probe of its headers");
    let layouts = uapi::layouts();
    let complaints = uapi::complaints(&layouts, &kernel.headers)?;
    let offsets: usize = layouts.iter().map(|layout| layout.fields.len()).sum();
    let mut report = Report::new("kernel");
    let name = format!("{} structures and {offsets} offsets are as the kernel's headers say", layouts.len());
    report.holds(&name, complaints.is_empty(), "no complaint from gcc", complaints);
    report.figure("bytes", std::fs::metadata(&kernel.image)?.len());
    report.figure("image", kernel.image.display().to_string());
    progress.clear();
    println!("  {}", kernel.image.display());
    Ok(report)
}
