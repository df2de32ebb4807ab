//! The ACPI tables: processors, interrupt controllers, the PCI root with its windows, power-off and reset.
//!
//! ACPI 6.5, chapters 5 (tables), 6.2 (resources) and 16 (sleeping); PCI Firmware 3.3, 4.1.2 (MCFG).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, IO, If,
    Interrupt, Local, Memory32Fixed, Method, Name, NotEqual, Or, Package, PackageBuilder, Path,
    ResourceTemplate, Return, Scope, Store, Uuid,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::layout::{
    ACPI_TABLES, ACPI_TABLES_END, BUSES, ECAM, ECAM_SIZE, IO_APIC, LOCAL_APIC, MemoryLayout, PM1_CONTROL,
    PM1_EVENT, PORT_WINDOW, RESET_PORT, SCI_GSI, SERIAL_GSI, SERIAL_PORTS, WINDOW_32, intx_gsi,
};
use super::power::{RESET_VALUE, SLEEP_TYPE_OFF};
use crate::help::Help;

const OEM: [u8; 6] = *b"VFIOAS";
const OEM_TABLE: [u8; 8] = *b"VFIOASGN";
const REVISION: u32 = 1;
/// FADT IA-PC boot flags: no VGA, no ASPM, no CMOS clock; and no bit for a keyboard controller.
const BOOT_FLAGS: u16 = 1 << 2 | 1 << 4 | 1 << 5;
/// The last PCI bus.
const LAST_BUS: u8 = (BUSES - 1) as u8;
/// Alignment that any table is content with (FACS asks for most).
const ALIGNMENT: usize = 64;

/// What the tables say about this machine.
pub(crate) struct Description<'a> {
    /// Processors, with APIC ids from 0 on.
    pub(crate) cpus: u8,
    /// RAM and the 64-bit window.
    pub(crate) layout: &'a MemoryLayout,
    /// Slots of the PCI bus that may hold a function with an INTx pin, or lead to one.
    pub(crate) slots: Vec<u8>,
    /// Whether slots are for hot-plug.
    pub(crate) hot_plug: bool,
}

/// The tables do not fit into the area that firmware has for them.
#[derive(Debug, thiserror::Error)]
#[error("the ACPI tables have {size} bytes, there is room for {room}")]
pub(crate) struct AcpiTooLarge {
    size: usize,
    room: usize,
}

impl Help for AcpiTooLarge {
    fn help(&self) -> Option<String> {
        Some("give the guest fewer processors or devices".into())
    }
}

/// All tables as they lie in memory from [`ACPI_TABLES`] on, where the root pointer stands.
pub(crate) fn tables(machine: &Description<'_>) -> Result<Vec<u8>, AcpiTooLarge> {
    let mut area = Area { bytes: vec![0; Rsdp::len().next_multiple_of(ALIGNMENT)] };
    let facs = area.add(&FACS::new());
    let dsdt = area.add(&dsdt(machine));
    let fadt = area.add(&fadt(facs, dsdt));
    let madt = area.add(&madt(machine.cpus));
    let mcfg = area.add(&mcfg());
    let mut root = XSDT::new(OEM, OEM_TABLE, REVISION);
    for table in [fadt, madt, mcfg] {
        root.add_entry(table);
    }
    let root = area.add(&root);
    let mut pointer = Vec::new();
    Rsdp::new(OEM, root).to_aml_bytes(&mut pointer);
    area.bytes[..pointer.len()].copy_from_slice(&pointer);
    let room = (ACPI_TABLES_END - ACPI_TABLES) as usize;
    let size = area.bytes.len();
    if size > room { Err(AcpiTooLarge { size, room }) } else { Ok(area.bytes) }
}

/// The tables so far.
struct Area {
    bytes: Vec<u8>,
}

impl Area {
    /// Appends a table and gives its guest address.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        let address = ACPI_TABLES + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        address
    }
}

fn fadt(facs: u64, dsdt: u64) -> impl Aml {
    let port = |width: u8, size, port: u16| GAS::new(Space::SystemIo, width, 0, size, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, REVISION)
        .firmware_ctrl_32(facs as u32)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.dsdt = (dsdt as u32).into();
    fadt.sci_int = SCI_GSI.into();
    fadt.pm1a_evt_blk = u32::from(PM1_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(32, AccessSize::WordAccess, PM1_EVENT);
    fadt.pm1a_cnt_blk = u32::from(PM1_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(16, AccessSize::WordAccess, PM1_CONTROL);
    // No C2 and C3: latencies above the limits say so.
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.iapc_boot_arch = BOOT_FLAGS.into();
    fadt.reset_reg = port(8, AccessSize::ByteAccess, RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

fn madt(cpus: u8) -> impl Aml {
    let mut madt = MADT::new(OEM, OEM_TABLE, REVISION, LocalInterruptController::Address(LOCAL_APIC));
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IO_APIC, 0));
    madt
}

fn mcfg() -> impl Aml {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, REVISION);
    mcfg.add_ecam(ECAM, 0, 0, LAST_BUS);
    mcfg
}

fn dsdt(machine: &Description<'_>) -> Sdt {
    let mut body = Vec::new();
    let off: Package<'_> = Package::new(vec![&SLEEP_TYPE_OFF, &SLEEP_TYPE_OFF, &0_u8, &0_u8]);
    Name::new("_S5_".into(), &off).to_aml_bytes(&mut body);
    Scope::new("_SB_".into(), vec![&PciRoot(machine), &Reserved, &SerialPort]).to_aml_bytes(&mut body);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, REVISION);
    dsdt.append_slice(&body);
    dsdt
}

/// `\_SB.PCI0`.
struct PciRoot<'a>(&'a Description<'a>);

impl Aml for PciRoot<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        use AddressSpaceCacheable::{NotCacheable, PreFetchable};
        let window_64 = &self.0.layout.window_64;
        let buses = AddressSpace::<u16>::new_bus_number(0, LAST_BUS.into());
        let config = IO::new(0xcf8, 0xcf8, 1, 8);
        let ports = AddressSpace::<u16>::new_io(*PORT_WINDOW.start(), *PORT_WINDOW.end(), None);
        let low = (*WINDOW_32.start() as u32, *WINDOW_32.end() as u32);
        let low = AddressSpace::<u32>::new_memory(NotCacheable, true, low.0, low.1, None);
        let high =
            AddressSpace::<u64>::new_memory(PreFetchable, true, *window_64.start(), *window_64.end(), None);
        let resources = ResourceTemplate::new(vec![&buses, &config, &ports, &low, &high]);
        Device::new(
            Path::new("PCI0"),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
                &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
                &Name::new("_UID".into(), &0_u8),
                &Name::new("_SEG".into(), &0_u8),
                &Name::new("_BBN".into(), &0_u8),
                &Name::new("_CRS".into(), &resources),
                &Name::new("_PRT".into(), &Routing(&self.0.slots)),
                &OperatingSystemCapabilities { hot_plug: self.0.hot_plug },
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// `_OSC`: what the guest's kernel may control by itself. PCI Firmware 3.3, 4.5.1; ACPI 6.5, 6.2.11.
///
/// The PCI Express capability is what every device has and serves, hot-plug what ports do where there are any. Ports here
/// have no power management events and no error reporting.
struct OperatingSystemCapabilities {
    hot_plug: bool,
}

/// The interface of PCI host bridges.
const HOST_BRIDGE_INTERFACE: &str = "33db4d5b-1ff7-401c-9657-7441c03dd766";
/// Control field: PCI Express native hot-plug.
const HOT_PLUG: u8 = 1 << 0;
/// Control field: the PCI Express capability structure.
const EXPRESS_CAPABILITY: u8 = 1 << 4;
/// Status: some of what was asked for is not granted.
const MASKED: u8 = 1 << 4;
/// Status: another interface.
const UNKNOWN_INTERFACE: u8 = 1 << 2;

impl Aml for OperatingSystemCapabilities {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let (interface, buffer, granted) = (Arg(0), Arg(3), Local(0));
        let ours = EXPRESS_CAPABILITY | if self.hot_plug { HOT_PLUG } else { 0 };
        let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
        Method::new(
            "_OSC".into(),
            4,
            // It makes names, so only one caller at a time.
            true,
            vec![
                &CreateDWordField::new(&status, &buffer, &0_u8),
                &If::new(
                    &Equal::new(&interface, &Uuid::new(HOST_BRIDGE_INTERFACE)),
                    vec![
                        &CreateDWordField::new(&control, &buffer, &8_u8),
                        &And::new(&granted, &control, &ours),
                        &If::new(
                            &NotEqual::new(&granted, &control),
                            vec![&Or::new(&status, &status, &MASKED)],
                        ),
                        &Store::new(&control, &granted),
                    ],
                ),
                &Else::new(vec![&Or::new(&status, &status, &UNKNOWN_INTERFACE)]),
                &Return::new(&buffer),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// `_PRT`: each pin of each slot to an interrupt line.
struct Routing<'a>(&'a [u8]);

impl Aml for Routing<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let mut table = PackageBuilder::new();
        for &slot in self.0 {
            for pin in 0..4 {
                let address = u32::from(slot) << 16 | 0xffff;
                table.add_element(&Package::new(vec![&address, &pin, &0_u8, &intx_gsi(slot, pin)]));
            }
        }
        table.to_aml_bytes(sink);
    }
}

/// The configuration space, so that nobody else is given its addresses.
struct Reserved;

impl Aml for Reserved {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let ecam = Memory32Fixed::new(true, ECAM as u32, ECAM_SIZE as u32);
        let pm1 = IO::new(PM1_EVENT, PM1_EVENT, 1, 6);
        Device::new(
            Path::new("RES0"),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
                &Name::new("_UID".into(), &0_u8),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ecam, &pm1])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The serial port.
struct SerialPort;

impl Aml for SerialPort {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        let start = *SERIAL_PORTS.start();
        let ports = IO::new(start, start, 1, 8);
        let line = Interrupt::new(true, true, false, false, SERIAL_GSI);
        Device::new(
            Path::new("COM1"),
            vec![
                &Name::new("_HID".into(), &EISAName::new("PNP0501")),
                &Name::new("_UID".into(), &0_u8),
                &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&ports, &line])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::layout::MIB;

    fn area() -> Vec<u8> {
        let layout = MemoryLayout::new(512 * MIB, 40).unwrap();
        tables(&Description { cpus: 2, layout: &layout, slots: vec![0, 1, 2], hot_plug: false }).unwrap()
    }

    fn quad(bytes: &[u8]) -> u64 {
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    /// The table at a guest address.
    fn table(area: &[u8], address: u64) -> &[u8] {
        let start = (address - ACPI_TABLES) as usize;
        let length = u32::from_le_bytes(area[start + 4..start + 8].try_into().unwrap()) as usize;
        &area[start..start + length]
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    /// XSDT first, then the tables it lists, then the DSDT.
    fn all(area: &[u8]) -> Vec<&[u8]> {
        let root = table(area, quad(&area[24..32]));
        let listed: Vec<&[u8]> = root[36..].chunks(8).map(|entry| table(area, quad(entry))).collect();
        let dsdt = table(area, quad(&listed[0][140..148]));
        std::iter::once(root).chain(listed).chain(std::iter::once(dsdt)).collect()
    }

    #[test]
    fn the_root_pointer_stands_first_with_both_checksums_right() {
        let area = area();
        assert_eq!((&area[..8], sum(&area[..20]), sum(&area[..36])), (&b"RSD PTR "[..], 0, 0));
    }

    #[test]
    fn every_table_is_found_from_the_root_pointer() {
        let area = area();
        let names: Vec<&[u8]> = all(&area).iter().map(|table| &table[..4]).collect();
        assert_eq!(names, [b"XSDT", b"FACP", b"APIC", b"MCFG", b"DSDT"]);
    }

    #[test]
    fn every_table_sums_to_zero() {
        let area = area();
        let sums: Vec<u8> = all(&area).iter().map(|table| sum(table)).collect();
        assert_eq!(sums, [0; 5]);
    }

    #[test]
    fn the_processor_table_lists_each_processor() {
        let area = area();
        let local_apics = all(&area)[2][44..].chunks(8).filter(|entry| entry[..2] == [0, 8]).count();
        assert_eq!(local_apics, 2);
    }

    #[test]
    fn the_guest_is_granted_the_express_capability_and_nothing_else() {
        let mut method = Vec::new();
        OperatingSystemCapabilities { hot_plug: false }.to_aml_bytes(&mut method);
        assert!(grants(&method, EXPRESS_CAPABILITY));
    }

    #[test]
    fn where_slots_are_for_hot_plug_the_guest_is_granted_that_too() {
        let mut method = Vec::new();
        OperatingSystemCapabilities { hot_plug: true }.to_aml_bytes(&mut method);
        assert!(grants(&method, EXPRESS_CAPABILITY | HOT_PLUG));
    }

    /// And (CDW3, controls, Local0), as ACPI 6.5, 20.2 encodes it.
    fn grants(method: &[u8], controls: u8) -> bool {
        let masked = [&[0x7b][..], b"CDW3", &[0x0a, controls, 0x60]].concat();
        method.windows(masked.len()).any(|bytes| bytes == masked)
    }

    #[test]
    fn tables_of_the_largest_machine_fit() {
        let layout = MemoryLayout::new(512 * MIB, 40).unwrap();
        let machine = Description { cpus: 254, layout: &layout, slots: (0..32).collect(), hot_plug: true };
        assert!(tables(&machine).is_ok());
    }
}
