//! Reading a capture: a line at a time, each with an error of its own.

use super::{Capture, CaptureError, CaptureProblem, CapturedInterrupts, INTERRUPTS, REGIONS};
use crate::addr::{Bdf, PageSize};
use crate::windows::MmapArea;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::IntErrorKind;
use core::str::{FromStr, SplitWhitespace};

/// The most areas of one region.
const AREAS: usize = 0x1_0000;

impl FromStr for Capture {
    type Err = CaptureError;

    fn from_str(text: &str) -> Result<Self, CaptureError> {
        let mut reader = Reader::new();
        let mut last = 1;
        for (number, line) in (1..).zip(text.lines()) {
            last = number;
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                reader.line(line).map_err(|problem| CaptureError { line: number, problem })?;
            }
        }
        reader.finish().map_err(|problem| CaptureError { line: last, problem })
    }
}

/// What has been read so far.
struct Reader {
    begun: bool,
    ended: bool,
    capture: Capture,
    /// The size that a `config` line gives.
    size: Option<usize>,
    /// Which regions and interrupts were told.
    told_regions: [bool; 7],
    told_interrupts: [bool; 5],
    /// The region that `area` lines belong to.
    region: Option<usize>,
}

impl Reader {
    fn new() -> Self {
        let capture = Capture {
            device: None,
            name: Box::default(),
            config: Vec::new(),
            page_size: PageSize::SIZE_4K,
            regions: Default::default(),
            interrupts: Default::default(),
            resettable: false,
            virtual_function: false,
        };
        Self {
            begun: false,
            ended: false,
            capture,
            size: None,
            told_regions: [false; 7],
            told_interrupts: [false; 5],
            region: None,
        }
    }

    fn line(&mut self, line: &str) -> Result<(), CaptureProblem> {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if !self.begun {
            self.begun = first == "capture" && words.next() == Some("1") && words.next().is_none();
            return if self.begun { Ok(()) } else { Err(CaptureProblem::NotACapture) };
        }
        if self.ended {
            return Err(CaptureProblem::AfterEnd);
        }
        if let Some(offset) = first.strip_suffix(':') {
            return self.bytes(offset, words);
        }
        match first {
            "config" => self.config(words),
            "page" => self.page(words),
            "region" => self.region(words),
            "area" => self.area(words),
            "interrupts" => self.interrupts(words),
            "end" => flag(&mut self.ended, "end", words),
            "reset" => flag(&mut self.capture.resettable, "reset", words),
            "virtual-function" => flag(&mut self.capture.virtual_function, "virtual-function", words),
            _ => self.device(first, line),
        }
    }

    /// The first line that lspci prints of a device: its address and its name.
    fn device(&mut self, first: &str, line: &str) -> Result<(), CaptureProblem> {
        let device: Bdf = first.parse().map_err(|_| CaptureProblem::UnknownLine(first.into()))?;
        if self.capture.device.is_some() {
            return Err(CaptureProblem::Twice("the device"));
        }
        self.capture.device = Some(device);
        self.capture.name = line.strip_prefix(first).unwrap_or_default().trim().into();
        Ok(())
    }

    /// Bytes of configuration space, as lspci prints them.
    fn bytes(&mut self, offset: &str, words: SplitWhitespace<'_>) -> Result<(), CaptureProblem> {
        let first = number(offset, 16, 4095, "offset in hexadecimal digits")? as usize;
        for (at, word) in words.enumerate() {
            if at == 16 {
                return Err(CaptureProblem::LongLine);
            }
            let byte = number(word, 16, 0xff, "byte in two hexadecimal digits")?;
            let offset = first + at;
            if offset > 4095 {
                return Err(CaptureProblem::TooLarge { word: word.into(), most: 4095 });
            }
            if self.capture.config.len() <= offset {
                self.capture.config.resize(offset + 1, 0);
            }
            self.capture.config[offset] = byte as u8;
        }
        Ok(())
    }

    fn config(&mut self, mut words: SplitWhitespace<'_>) -> Result<(), CaptureProblem> {
        let word = words.next().ok_or(CaptureProblem::Missing("the size of configuration space"))?;
        let size = match word {
            "256" => 256,
            "4096" => 4096,
            _ => return Err(wrong(word, "size of configuration space: 256 or 4096")),
        };
        if self.size.replace(size).is_some() {
            return Err(CaptureProblem::Twice("the size of configuration space"));
        }
        nothing_more(words)
    }

    fn page(&mut self, mut words: SplitWhitespace<'_>) -> Result<(), CaptureProblem> {
        let word = words.next().ok_or(CaptureProblem::Missing("the page size"))?;
        let size = PageSize::new(any_number(word, "page size in bytes")?);
        self.capture.page_size = size.ok_or_else(|| wrong(word, "page size in bytes"))?;
        nothing_more(words)
    }

    fn region(&mut self, mut words: SplitWhitespace<'_>) -> Result<(), CaptureProblem> {
        let word = words.next().ok_or(CaptureProblem::Missing("the region's name"))?;
        let index = REGIONS.iter().position(|name| *name == word);
        let index = index.ok_or_else(|| wrong(word, "region: bar0 to bar5, or rom"))?;
        if core::mem::replace(&mut self.told_regions[index], true) {
            return Err(CaptureProblem::Twice(REGIONS[index]));
        }
        let region = &mut self.capture.regions[index];
        let size = words.next().ok_or(CaptureProblem::Missing("the region's size"))?;
        region.size = any_number(size, "size in bytes")?;
        for word in words {
            match word {
                "read" => region.readable = true,
                "write" => region.writable = true,
                "mmap" => region.mappable = true,
                "sparse" => region.areas = Some(Vec::new()),
                "msix-mappable" => region.msix_mappable = true,
                _ => return Err(wrong(word, "flag of a region: read, write, mmap, sparse, msix-mappable")),
            }
        }
        self.region = Some(index);
        Ok(())
    }

    fn area(&mut self, mut words: SplitWhitespace<'_>) -> Result<(), CaptureProblem> {
        let region = self.region.map(|index| &mut self.capture.regions[index]);
        let region = region.filter(|region| region.mappable).ok_or(CaptureProblem::StrayArea)?;
        let mut value = |what| {
            let word = words.next().ok_or(CaptureProblem::Missing(what))?;
            any_number(word, "number of bytes")
        };
        let area = MmapArea { offset: value("the area's offset")?, size: value("the area's size")? };
        let areas = region.areas.get_or_insert_default();
        if areas.len() == AREAS {
            return Err(CaptureProblem::TooManyAreas(AREAS));
        }
        areas.push(area);
        nothing_more(words)
    }

    fn interrupts(&mut self, mut words: SplitWhitespace<'_>) -> Result<(), CaptureProblem> {
        let word = words.next().ok_or(CaptureProblem::Missing("the kind of interrupt"))?;
        let index = INTERRUPTS.iter().position(|name| *name == word);
        let index = index.ok_or_else(|| wrong(word, "kind of interrupt: intx, msi, msix, err, req"))?;
        if core::mem::replace(&mut self.told_interrupts[index], true) {
            return Err(CaptureProblem::Twice(INTERRUPTS[index]));
        }
        let count = words.next().ok_or(CaptureProblem::Missing("how many there are"))?;
        let count = number(count, 10, 2048, "number of interrupts")? as u16;
        let mut noresize = false;
        for word in words {
            match word {
                "noresize" => noresize = true,
                _ => return Err(wrong(word, "flag of interrupts: noresize")),
            }
        }
        self.capture.interrupts[index] = CapturedInterrupts { count, noresize };
        Ok(())
    }

    fn finish(mut self) -> Result<Capture, CaptureProblem> {
        if !self.begun {
            return Err(CaptureProblem::NotACapture);
        }
        if !self.ended {
            return Err(CaptureProblem::NoEnd);
        }
        let config = &mut self.capture.config;
        if config.is_empty() {
            return Err(CaptureProblem::NoConfig);
        }
        let size = self.size.unwrap_or(if config.len() > 256 { 4096 } else { 256 });
        config.resize(size, 0);
        Ok(self.capture)
    }
}

fn wrong(word: &str, expected: &'static str) -> CaptureProblem {
    CaptureProblem::Word { word: word.into(), expected }
}

fn nothing_more(mut words: SplitWhitespace<'_>) -> Result<(), CaptureProblem> {
    words.next().map_or(Ok(()), |word| Err(wrong(word, "end of the line")))
}

fn flag(flag: &mut bool, name: &'static str, words: SplitWhitespace<'_>) -> Result<(), CaptureProblem> {
    if core::mem::replace(flag, true) {
        return Err(CaptureProblem::Twice(name));
    }
    nothing_more(words)
}

/// A number of digits alone.
fn number(word: &str, radix: u32, most: u64, expected: &'static str) -> Result<u64, CaptureProblem> {
    let too_large = || CaptureProblem::TooLarge { word: word.into(), most };
    if !word.chars().all(|letter| letter.is_digit(radix)) {
        return Err(wrong(word, expected));
    }
    match u64::from_str_radix(word, radix) {
        Ok(value) if value <= most => Ok(value),
        Ok(_) => Err(too_large()),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => Err(too_large()),
        Err(_) => Err(wrong(word, expected)),
    }
}

/// A number that is hexadecimal if it begins with 0x.
fn any_number(word: &str, expected: &'static str) -> Result<u64, CaptureProblem> {
    match word.strip_prefix("0x") {
        Some(digits) => number(digits, 16, u64::MAX, expected),
        None => number(word, 10, u64::MAX, expected),
    }
}
