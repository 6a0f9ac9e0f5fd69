//! A component as a list of sections, with its core modules read.

use std::collections::BTreeMap;

use wasmparser::{
    CanonicalFunction, ComponentAlias, ComponentExternalKind, ComponentOuterAliasKind, ComponentTypeRef,
    Encoding, ExternalKind, Instance, Parser, Payload,
};

use super::{Refusal, module::Module};

/// A component's sections in order, and how many things of each kind they define.
pub(super) struct Outline<'a> {
    pub(super) sections: Vec<Section<'a>>,
    pub(super) counts: Counts,
    /// Instances that it imports: name and index.
    pub(super) imported: Vec<(&'a str, u32)>,
    /// Its instantiated modules: index of the module, then of its instance.
    pub(super) instantiated: BTreeMap<u32, u32>,
    /// Index of its export `setup`.
    pub(super) setup: Option<u32>,
}

/// A section of a component.
pub(super) enum Section<'a> {
    Module(Module<'a>),
    Other { id: u8, data: &'a [u8] },
}

/// Sizes of the index spaces that what is appended goes on in.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) modules: u32,
    pub(super) core_instances: u32,
    pub(super) core_funcs: u32,
    pub(super) core_memories: u32,
    pub(super) funcs: u32,
    pub(super) types: u32,
    instances: u32,
}

impl Counts {
    fn define(&mut self, kind: ComponentExternalKind) {
        match kind {
            ComponentExternalKind::Module => self.modules += 1,
            ComponentExternalKind::Func => self.funcs += 1,
            ComponentExternalKind::Type => self.types += 1,
            ComponentExternalKind::Instance => self.instances += 1,
            ComponentExternalKind::Value | ComponentExternalKind::Component => {}
        }
    }
}

impl<'a> Outline<'a> {
    pub(super) fn read(wasm: &'a [u8]) -> Result<Self, Refusal> {
        let mut outline = Self {
            sections: Vec::new(),
            counts: Counts::default(),
            imported: Vec::new(),
            instantiated: BTreeMap::new(),
            setup: None,
        };
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload?;
            match &payload {
                Payload::Version { encoding, .. } => {
                    depth += 1;
                    if depth == 1 && *encoding != Encoding::Component {
                        return Err(Refusal::new("it is a core module"));
                    }
                }
                Payload::End(_) => depth -= 1,
                Payload::ModuleSection { unchecked_range, .. } if depth == 1 => {
                    let module = Module::read(part(wasm, unchecked_range)?)?;
                    outline.sections.push(Section::Module(module));
                    outline.counts.modules += 1;
                }
                Payload::ModuleSection { .. } => {
                    return Err(Refusal::new("a component inside of it has modules of its own"));
                }
                payload if depth == 1 => outline.other(wasm, payload)?,
                _ => {}
            }
        }
        outline.check()?;
        Ok(outline)
    }

    /// The modules that run, with their index.
    pub(super) fn modules(&self) -> impl Iterator<Item = (u32, &Module<'a>)> {
        let modules = self.sections.iter().filter_map(|section| match section {
            Section::Module(module) => Some(module),
            Section::Other { .. } => None,
        });
        (0..).zip(modules).filter(|(index, _)| self.instantiated.contains_key(index))
    }

    /// The instance imported by a name that begins so.
    pub(super) fn import(&self, start: &str) -> Option<u32> {
        self.imported.iter().find(|(name, _)| name.starts_with(start)).map(|(_, index)| *index)
    }

    fn check(&self) -> Result<(), Refusal> {
        let defined = self.sections.iter().filter(|section| matches!(section, Section::Module(_))).count();
        if defined != self.counts.modules as usize {
            return Err(Refusal::new("it takes modules from outside"));
        }
        self.modules().try_for_each(|(_, module)| module.check())
    }

    fn other(&mut self, wasm: &'a [u8], payload: &Payload<'a>) -> Result<(), Refusal> {
        if let Some((id, range)) = payload.as_section() {
            self.sections.push(Section::Other { id, data: part(wasm, &range)? });
        }
        match payload {
            Payload::ComponentTypeSection(types) => self.counts.types += types.count(),
            Payload::ComponentImportSection(imports) => {
                for import in imports.clone() {
                    let import = import?;
                    if let ComponentTypeRef::Instance(_) = import.ty {
                        self.imported.push((import.name.name, self.counts.instances));
                    }
                    self.counts.define(import.ty.kind());
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases.clone() {
                    self.alias(&alias?);
                }
            }
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions.clone() {
                    match function? {
                        CanonicalFunction::Lift { .. } => self.counts.funcs += 1,
                        _ => self.counts.core_funcs += 1,
                    }
                }
            }
            Payload::InstanceSection(instances) => {
                for instance in instances.clone() {
                    if let Instance::Instantiate { module_index, .. } = instance?
                        && self.instantiated.insert(module_index, self.counts.core_instances).is_some()
                    {
                        return Err(Refusal::new("it instantiates a module twice"));
                    }
                    self.counts.core_instances += 1;
                }
            }
            Payload::ComponentInstanceSection(instances) => self.counts.instances += instances.count(),
            Payload::ComponentExportSection(exports) => {
                for export in exports.clone() {
                    let export = export?;
                    if export.name.name == "setup" {
                        self.setup = Some(export.index);
                    }
                    self.counts.define(export.kind);
                }
            }
            Payload::ComponentStartSection { .. } => return Err(Refusal::new("it has a start function")),
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        match alias {
            ComponentAlias::InstanceExport { kind, .. } => self.counts.define(*kind),
            ComponentAlias::CoreInstanceExport { kind: ExternalKind::Func, .. } => {
                self.counts.core_funcs += 1
            }
            ComponentAlias::CoreInstanceExport { kind: ExternalKind::Memory, .. } => {
                self.counts.core_memories += 1;
            }
            ComponentAlias::CoreInstanceExport { .. } => {}
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, .. } => self.counts.types += 1,
            ComponentAlias::Outer { kind: ComponentOuterAliasKind::CoreModule, .. } => {
                self.counts.modules += 1
            }
            ComponentAlias::Outer { .. } => {}
        }
    }
}

fn part<'a>(wasm: &'a [u8], range: &std::ops::Range<u64>) -> Result<&'a [u8], Refusal> {
    let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
    wasm.get(range).ok_or_else(|| Refusal::new("a section lies outside of it"))
}
