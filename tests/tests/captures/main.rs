//! Functions made from the captures in `tests/captures`: devices as they are, not as tests make them up.

mod linux;

use vfio_assign_core::fake::{Capture, CaptureError, FakeHost, Shape};
use vfio_assign_core::{
    AssignedFunction, BarIndex, BarKind, BusMastering, Finding, GuestAddr, Treatment, Vector, Window,
};
use vfio_assign_tests::{Rig, bar};

const NVME: &str = include_str!("../../captures/nvme.capture");
const E1000E: &str = include_str!("../../captures/e1000e.capture");
const EDU: &str = include_str!("../../captures/edu.capture");
const ALL: [&str; 3] = [NVME, E1000E, EDU];

fn capture(text: &str) -> Capture {
    text.parse().expect("a capture")
}

fn rig(text: &str) -> Rig {
    Rig::new(&capture(text).shape())
}

fn pieces(rig: &Rig, index: u8) -> Vec<String> {
    let pieces = rig.function.explain_bar(bar(index));
    pieces.map(|piece| format!("{} {}", piece.span, piece.treatment)).collect()
}

#[test]
fn nvme_has_65_vectors_and_a_window_over_its_registers() {
    let rig = rig(NVME);
    assert_eq!(rig.findings, []);
    assert_eq!(rig.function.msix().map(|msix| msix.count()), Some(65));
    let expected = [
        "0x0..=0x1fff mapped",
        "0x2000..=0x240f emulated",
        "0x2410..=0x2fff trapped",
        "0x3000..=0x300f emulated",
        "0x3010..=0x3fff trapped",
    ];
    assert_eq!(pieces(&rig, 0), expected);
}

#[test]
fn e1000e_has_msix_in_a_bar_of_its_own() {
    let rig = rig(E1000E);
    let msix = rig.function.msix().expect("MSI-X");
    assert_eq!((msix.count(), msix.layout().table.bar, msix.layout().pba.bar), (5, bar(3), bar(3)));
    let kinds: Vec<_> =
        rig.function.bars().iter().map(|(bar, found)| (bar, found.kind, found.size)).collect();
    let memory = BarKind::Memory32 { prefetchable: false };
    let expected = [
        (bar(0), memory, 0x2_0000),
        (bar(1), memory, 0x2_0000),
        (bar(2), BarKind::Io, 0x20),
        (bar(3), memory, 0x4000),
        (BarIndex::ROM, BarKind::Rom, 0x4_0000),
    ];
    assert_eq!((rig.findings.as_slice(), kinds.as_slice()), (&[][..] as &[Finding], &expected[..]));
    assert_eq!(pieces(&rig, 0), ["0x0..=0x1ffff mapped"]);
}

#[test]
fn edu_has_no_msix_and_is_mapped_whole() {
    let mut rig = rig(EDU);
    assert!(rig.function.msix().is_none());
    rig.config_write(0x10, 4, 0xe000_0000);
    rig.config_write(4, 2, 6);
    assert_eq!(rig.windows(), [(0, 0xe000_0000, 0xe00f_ffff)]);
    assert_eq!(rig.host.seen_at(GuestAddr::new(0xe000_0004)).map(|(bar, _)| bar), Some(bar(0)));
}

#[test]
fn a_guest_finds_the_ids_and_the_sizes() {
    for (text, id) in [(NVME, 0x0010_1b36), (E1000E, 0x10d3_8086), (EDU, 0x11e8_1234)] {
        let mut rig = rig(text);
        assert_eq!(rig.config_read(0, 4), id);
        let size = rig.function.bars().get(bar(0)).expect("BAR 0").size;
        rig.config_write(0x10, 4, 0xffff_ffff);
        assert_eq!(rig.config_read(0x10, 4) & !0xf, !(size - 1) & 0xffff_fff0, "{id:#x}");
    }
}

#[test]
fn a_state_goes_from_one_function_of_a_capture_to_another() {
    for text in ALL {
        let mut old = rig(text);
        old.config_write(0x10, 4, 0xe000_0000);
        old.config_write(4, 2, 6);
        old.function.stop(BusMastering::Kept, &mut old.host);
        let mut state = vec![0; old.function.saved_size()];
        old.function.save(&mut state).expect("a function that is stopped");
        let mut new = rig(text);
        assert_eq!(new.function.restore(&state), Ok(()));
        new.settle();
        assert_eq!(new.windows(), old.windows());
    }
}

#[test]
fn a_host_can_be_made_from_a_capture() {
    let capture = capture(EDU);
    let shape = Shape::from(&capture);
    let mut host = FakeHost::new(&shape);
    let (vectors, windows) = ([Vector::RESET; 0], [Window::default(); 4]);
    let function = AssignedFunction::new(&shape.description(), vectors, windows, |_| {});
    let mut function = function.expect("a device that can be assigned");
    function.attach(&mut host);
    let mapped = function.explain_bar(bar(0)).all(|piece| piece.treatment == Treatment::Mapped);
    assert!(mapped && host.calls_made() > 0);
}

/// All captures that ship, with their names.
fn corpus() -> Vec<(String, String)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let entries = std::fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let captures = entries.filter(|path| path.extension().is_some_and(|extension| extension == "capture"));
    let named = |path: std::path::PathBuf| {
        (path.display().to_string(), std::fs::read_to_string(&path).expect("a text"))
    };
    captures.map(named).collect()
}

#[test]
fn what_is_written_reads_as_the_same() {
    for (name, text) in corpus() {
        let capture = capture(&text);
        assert_eq!(capture.to_string().parse(), Ok(capture), "{name}");
    }
}

#[test]
fn every_device_of_the_corpus_comes_and_goes() {
    let corpus = corpus();
    assert!(corpus.len() >= 15);
    for (name, text) in corpus {
        let mut rig = rig(&text);
        for (bar, found) in rig.function.bars().iter().collect::<Vec<_>>() {
            let pieces: Vec<_> = rig.function.explain_bar(bar).collect();
            let covered: u64 = pieces.iter().map(|piece| piece.span.size()).sum();
            assert_eq!(covered, found.size, "{name}: {bar:?}");
        }
        rig.config_write(4, 2, 6);
        rig.function.detach(&mut rig.host);
        assert_eq!((rig.host.held(), rig.host.interrupts_on()), ((0, 0, 0), false), "{name}");
    }
}

/// Where a text is no capture: the line, if it is one of the text's.
fn error_line(text: &str) -> Option<usize> {
    let error: CaptureError = text.parse::<Capture>().err()?;
    assert!(error.line >= 1 && error.line <= text.lines().count().max(1), "{error}");
    assert!(error.to_string().starts_with(&format!("line {}: ", error.line)));
    Some(error.line)
}

#[test]
fn every_truncation_is_an_error_with_a_line() {
    for text in ALL {
        // All but the last line's end is needed.
        let whole = text.trim_end().len();
        let not_noticed: Vec<usize> = (0..whole).filter(|end| error_line(&text[..*end]).is_none()).collect();
        assert_eq!(not_noticed, []);
    }
}

#[test]
fn every_byte_that_is_another_is_a_capture_or_an_error_with_a_line() {
    for text in ALL {
        for at in 0..text.len() {
            for other in ['\0', ' ', '\n', '0', 'g', '-', ':', '9', 'é'] {
                let _ = error_line(&format!("{}{other}{}", &text[..at], &text[at + 1..]));
            }
        }
    }
}

#[test]
fn the_example_of_the_document_is_a_capture() {
    let document = include_str!("../../../docs/captures.md");
    let example = document.split("```").nth(1).expect("an example");
    let rig = rig(example);
    assert_eq!((rig.function.msix().map(|msix| msix.count()), &rig.findings[..]), (Some(65), &[][..]));
}
