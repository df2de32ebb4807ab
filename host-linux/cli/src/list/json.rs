//! The list as JSON, whose members `docs/json.md` describes.

use serde::Serialize;

use super::Listed;

/// The schema's name, with its version at the end.
const SCHEMA: &str = "vfio-assign/list/1";

/// The list.
#[derive(Serialize)]
pub(super) struct List {
    schema: &'static str,
    functions: Vec<Function>,
}

#[derive(Serialize)]
struct Function {
    address: String,
    name: String,
    vendor: String,
    device: String,
    class: String,
    class_name: String,
    driver: Option<String>,
    group: Option<u32>,
    readiness: &'static str,
    uses: Vec<String>,
    bars: Vec<Bar>,
    bar_total: u64,
    virtual_functions: Option<VirtualFunctions>,
    physical_function: Option<String>,
}

#[derive(Serialize)]
struct Bar {
    index: Option<u8>,
    kind: &'static str,
    size: u64,
    prefetchable: bool,
}

#[derive(Serialize)]
struct VirtualFunctions {
    active: u16,
    total: u16,
}

impl List {
    /// The list of these.
    pub(super) fn of(shown: &[Listed]) -> Self {
        Self { schema: SCHEMA, functions: shown.iter().map(Function::of).collect() }
    }
}

impl Function {
    fn of(one: &Listed) -> Self {
        let Listed { function, readiness, uses } = one;
        let bars = function.bars.iter().map(|bar| Bar {
            index: (bar.index < 6).then_some(bar.index),
            kind: match bar.index {
                6 => "rom",
                _ if bar.is_io() => "io",
                _ if bar.is_wide() => "memory64",
                _ => "memory32",
            },
            size: bar.size,
            prefetchable: bar.is_prefetchable(),
        });
        Self {
            address: function.bdf.to_string(),
            name: function.name(),
            vendor: format!("{:04x}", function.id.0),
            device: format!("{:04x}", function.id.1),
            class: format!("{:06x}", function.class),
            class_name: function.class_name(),
            driver: function.driver.clone(),
            group: function.group,
            readiness: readiness.id(),
            uses: uses.iter().map(ToString::to_string).collect(),
            bars: bars.collect(),
            bar_total: function.bar_total(),
            virtual_functions: function
                .virtual_functions
                .map(|(active, total)| VirtualFunctions { active, total }),
            physical_function: function.physical.map(|bdf| bdf.to_string()),
        }
    }
}
