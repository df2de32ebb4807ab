//! Hosts made of files: sysfs, proc and device files in a folder, from a few lines of text.
//!
//! A line is one of:
//!
//! | line | what it makes |
//! |---|---|
//! | `file PATH TEXT` | a file; `\n` in the text begins a new line, `\t` is a tab |
//! | `ones PATH COUNT` | a file of bytes whose bits are all ones |
//! | `mode PATH OCTAL` | who may use a file |
//! | `link PATH TARGET` | a link to another path of the host |
//! | `folder PATH` | an empty folder |
//! | `remove PATH` | takes a file, link or folder away again |
//! | `function BDF VENDOR:DEVICE CLASS WORD…` | a PCI function; `below=BDF`, `driver=NAME`, `group=NUMBER`, `bars=SIZE,…` with `i` in front for ports and `w` for 64 bits, `config=CAPTURE` for its configuration space |
//! | `driver BDF NAME` | another driver for a function; `none` for none |
//! | `disk BDF NAME NUMBER` | a disk of a function |
//! | `interface BDF NAME` | a network interface of a function |
//!
//! Empty lines and lines that begin with `#` do not count.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use vfio_assign_core::fake::Capture;

/// A host in a folder of its own.
pub(crate) struct Tree(tempfile::TempDir);

impl Tree {
    /// The host of these lines.
    pub(crate) fn new(lines: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        tree.apply(lines);
        tree
    }

    /// The host of `hosts/good.host`, in which the NVMe disk at 04:00.0 could be given to a guest at once.
    pub(crate) fn good() -> Self {
        Self::new(include_str!("../hosts/good.host"))
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    /// Where a path of the host is.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Carries out lines.
    pub(crate) fn apply(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            self.line(line);
        }
    }

    fn line(&self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (first, more) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "file" => self.file(first, &more.replace("\\n", "\n").replace("\\t", "\t")),
            "ones" => fs::write(self.at(first), vec![0xff; more.parse().unwrap()]).unwrap(),
            "mode" => {
                let mode = u32::from_str_radix(more, 8).unwrap();
                fs::set_permissions(self.at(first), fs::Permissions::from_mode(mode)).unwrap();
            }
            "link" => self.link(first, more),
            "folder" => fs::create_dir_all(self.at(first)).unwrap(),
            "remove" => self.remove(first),
            "function" => self.function(first, more),
            "driver" => self.driver(first, more),
            "disk" => {
                let (name, number) = more.split_once(' ').unwrap();
                let folder = format!("{}/block/{name}", self.real(first));
                self.file(&format!("{folder}/dev"), number);
                self.link(&format!("/sys/dev/block/{number}"), &folder);
                self.link(&format!("/sys/class/block/{name}"), &folder);
                self.file(&format!("/dev/{name}"), "");
            }
            "interface" => {
                let folder = format!("{}/net/{more}", self.real(first));
                self.file(&format!("{folder}/operstate"), "up");
                self.link(&format!("/sys/class/net/{more}"), &folder);
            }
            _ => panic!("`{line}` is no line of a host"),
        }
    }

    fn file(&self, path: &str, text: &str) {
        let at = self.at(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, format!("{text}\n")).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let at = self.at(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        if at.symlink_metadata().is_ok() {
            fs::remove_file(&at).unwrap();
        }
        symlink(self.at(target), at).unwrap();
    }

    fn remove(&self, path: &str) {
        let at = self.at(path);
        let found = at.symlink_metadata().unwrap_or_else(|error| panic!("{path}: {error}"));
        if found.is_dir() { fs::remove_dir_all(at).unwrap() } else { fs::remove_file(at).unwrap() }
    }

    /// Where a function really is.
    fn real(&self, bdf: &str) -> String {
        let link = self.at(&format!("/sys/bus/pci/devices/{bdf}"));
        let real = fs::read_link(&link).unwrap_or_else(|error| panic!("{bdf}: {error}"));
        format!("/{}", real.strip_prefix(self.root()).unwrap().display())
    }

    fn function(&self, bdf: &str, words: &str) {
        let mut words = words.split(' ');
        let (vendor, device) = words.next().unwrap().split_once(':').unwrap();
        let class = words.next().unwrap();
        let words: Vec<(&str, &str)> = words.map(|word| word.split_once('=').unwrap()).collect();
        let word = |name: &str| words.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let parent = word("below").map_or_else(|| "/sys/devices/pci0000:00".into(), |bdf| self.real(bdf));
        let folder = format!("{parent}/{bdf}");
        for (name, text) in [
            ("vendor", format!("0x{vendor}")),
            ("device", format!("0x{device}")),
            ("class", format!("0x{class}")),
            ("driver_override", "(null)".into()),
            ("power_state", "D0".into()),
            ("d3cold_allowed", "1".into()),
            ("reset_method", "flr bus".into()),
            ("resource", resource(word("bars").unwrap_or(""))),
        ] {
            self.file(&format!("{folder}/{name}"), &text);
        }
        self.file(&format!("{folder}/reset"), "");
        let mut config = vec![0; 256];
        let id = [vendor, device].map(|id| u16::from_str_radix(id, 16).unwrap().to_le_bytes());
        config[..4].copy_from_slice(&id.concat());
        if let Some(name) = word("config") {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/captures").join(name);
            let capture: Capture = fs::read_to_string(path).unwrap().parse().unwrap();
            config = capture.config;
        }
        fs::write(self.at(&format!("{folder}/config")), config).unwrap();
        self.link(&format!("/sys/bus/pci/devices/{bdf}"), &folder);
        if let Some(number) = word("group") {
            let group = format!("/sys/kernel/iommu_groups/{number}");
            self.file(&format!("{group}/type"), "DMA-FQ");
            self.file(
                &format!("{group}/reserved_regions"),
                "0x00000000fee00000 0x00000000feefffff msi\\n".trim_end_matches("\\n"),
            );
            self.link(&format!("{group}/devices/{bdf}"), &folder);
            self.link(&format!("{folder}/iommu_group"), &group);
            self.link(&format!("{folder}/iommu"), "/sys/class/iommu/dmar0");
        }
        self.driver(bdf, word("driver").unwrap_or("none"));
    }

    fn driver(&self, bdf: &str, name: &str) {
        let folder = self.real(bdf);
        let link = format!("{folder}/driver");
        if self.at(&link).symlink_metadata().is_ok() {
            self.remove(&link);
        }
        if self.at(&format!("{folder}/vfio-dev")).exists() {
            self.remove(&format!("{folder}/vfio-dev"));
        }
        if name == "none" {
            return;
        }
        let driver = format!("/sys/bus/pci/drivers/{name}");
        self.file(&format!("{driver}/unbind"), "");
        self.link(&link, &driver);
        if name == "vfio-pci" {
            fs::create_dir_all(self.at(&format!("{folder}/vfio-dev/vfio0"))).unwrap();
            self.file(&format!("{folder}/vfio-dev/vfio0/dev"), "511:0");
            let group = fs::read_link(self.at(&format!("{folder}/iommu_group")));
            let group = group.ok().map(|group| group.file_name().unwrap().to_string_lossy().into_owned());
            if let Some(group) = group {
                self.file(&format!("/dev/vfio/{group}"), "");
            }
        }
    }
}

/// sysfs's table of resources for BARs such as `w0x4000,-,i32`.
fn resource(bars: &str) -> String {
    let (mut lines, mut next) = (String::new(), 0x1_0000_0000u64);
    for index in 0..7 {
        let bar = bars.split(',').nth(index).filter(|bar| !bar.is_empty() && *bar != "-");
        let Some(bar) = bar else {
            lines.push_str("0x0000000000000000 0x0000000000000000 0x0000000000000000\n");
            continue;
        };
        let (flags, digits) = match bar.split_at(1) {
            ("w", digits) => (0x14_220c, digits),
            ("i", digits) => (0x4_0101, digits),
            ("u", digits) => (0x2014_220c, digits),
            _ => (0x4_0200, bar),
        };
        let size = match digits.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).unwrap(),
            None => digits.parse().unwrap(),
        };
        let first = if bar.starts_with('u') { 0 } else { next.next_multiple_of(size) };
        next = next.max(first + size);
        lines.push_str(&format!("{first:#018x} {:#018x} {flags:#018x}\n", first + size - 1));
    }
    lines.trim_end().into()
}
