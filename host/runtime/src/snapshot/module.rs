//! A core module: its sections, what of it can change while it runs, and the module written anew with
//! other sections in their place.

use std::collections::BTreeMap;

use wasm_encoder::{
    CodeSection, ConstExpr, DataSection, ElementSection, ExportKind, ExportSection, FunctionSection,
    GlobalSection, MemorySection, RawSection, Section, SectionId, TypeSection,
    reencode::{Reencode, RoundtripReencoder},
};
use wasmparser::{
    BinaryReader, CodeSectionReader, CompositeInnerType, DataKind, DataSectionReader, ElementSectionReader,
    Encoding, ExportSectionReader, FunctionSectionReader, GlobalSectionReader, GlobalType,
    MemorySectionReader, MemoryType, Operator, Parser, Payload, TypeRef, TypeSectionReader, ValType,
};

use super::{
    Refusal,
    handles::{self, Effect},
    state::{ModuleState, PAGE_BYTES},
};

/// What is known of a core module.
pub(super) struct Module<'a> {
    bytes: &'a [u8],
    sections: Vec<(u8, &'a [u8])>,
    types: u32,
    functions: u32,
    globals_imported: u32,
    memories_imported: u32,
    /// Those that it defines, in order.
    memories: Vec<MemoryType>,
    globals: Vec<GlobalType>,
    /// Imported functions that change what handles it holds.
    pub(super) effects: BTreeMap<u32, Effect>,
    /// What can't be copied: an instruction or a kind of memory or global.
    obstacle: Option<String>,
}

/// Names of the exports that a probed module has beside its own.
pub(super) fn memory_name(index: usize) -> String {
    format!("dormouse:memory-{index}")
}

pub(super) fn global_name(index: usize) -> String {
    format!("dormouse:global-{index}")
}

pub(super) fn handle_name(index: u32) -> String {
    format!("dormouse:handle-{index}")
}

impl<'a> Module<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let mut module = Self {
            bytes,
            sections: Vec::new(),
            types: 0,
            functions: 0,
            globals_imported: 0,
            memories_imported: 0,
            memories: Vec::new(),
            globals: Vec::new(),
            effects: BTreeMap::new(),
            obstacle: None,
        };
        let mut signatures = Vec::new();
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            if let Some((id, range)) = payload.as_section() {
                let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
                let data =
                    bytes.get(range).ok_or_else(|| Refusal::new("a section lies outside of its module"))?;
                module.sections.push((id, data));
            }
            match payload {
                Payload::Version { encoding: Encoding::Component, .. } => {
                    return Err(Refusal::new("a component stands in a module's place"));
                }
                Payload::TypeSection(types) => {
                    for group in types {
                        signatures.extend(group?.into_types().map(|ty| match ty.composite_type.inner {
                            CompositeInnerType::Func(function) => {
                                let are_i32 = function
                                    .params()
                                    .iter()
                                    .chain(function.results())
                                    .all(|ty| *ty == ValType::I32);
                                are_i32.then(|| (function.params().len(), function.results().len()))
                            }
                            _ => None,
                        }));
                    }
                    module.types = u32::try_from(signatures.len())?;
                }
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        let import = import?;
                        module.import(import.module, import.name, import.ty, &signatures)?;
                    }
                }
                Payload::FunctionSection(functions) => module.functions += functions.count(),
                Payload::MemorySection(memories) => {
                    module.memories = memories.into_iter().collect::<Result<_, _>>()?;
                }
                Payload::GlobalSection(globals) => {
                    module.globals = globals
                        .into_iter()
                        .map(|global| global.map(|global| global.ty))
                        .collect::<Result<_, _>>()?;
                }
                Payload::CodeSectionEntry(body) if module.obstacle.is_none() => {
                    for operator in body.get_operators_reader()? {
                        if let Some(name) = changes_a_table(&operator?) {
                            module.obstacle = Some(format!("its code has the instruction `{name}`"));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(module)
    }

    /// Refuses what has state that can't be copied.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let refuse = |reason: &str| Err(Refusal::new(reason));
        if let Some(obstacle) = &self.obstacle {
            return refuse(obstacle);
        }
        if self
            .memories
            .iter()
            .any(|memory| memory.memory64 || memory.shared || memory.page_size_log2.is_some())
        {
            return refuse("it has a 64-bit or shared memory, or one of uncommon pages");
        }
        let is_plain = |ty| matches!(ty, ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64);
        if self.globals.iter().any(|global| global.mutable && !is_plain(global.content_type)) {
            return refuse("it has a global of a vector or a reference");
        }
        Ok(())
    }

    /// The memories that it defines.
    pub(super) fn memories(&self) -> impl Iterator<Item = (usize, MemoryType)> {
        self.memories.iter().copied().enumerate()
    }

    /// The globals that it defines and that can change.
    pub(super) fn variables(&self) -> impl Iterator<Item = (usize, GlobalType)> {
        self.globals.iter().copied().enumerate().filter(|(_, global)| global.mutable)
    }

    /// The module as it is.
    pub(super) fn as_it_is(&self) -> RawSection<'a> {
        RawSection { id: wasm_encoder::ComponentSectionId::CoreModule as u8, data: self.bytes }
    }

    /// The module with exports of its memories and variables, and of the globals of [`handles`] where it
    /// has imports that change what it holds.
    pub(super) fn probed(&self) -> Result<Vec<u8>, Refusal> {
        let mut written = Sections::of(self);
        let first_global = self.globals_imported + u32::try_from(self.globals.len())?;
        let (note, mut next) = (self.functions, self.functions + 1);
        let mut redirect = Redirect(BTreeMap::new());
        let (mut types, mut functions, mut code) =
            (TypeSection::new(), FunctionSection::new(), CodeSection::new());
        for import in self.effects.keys() {
            redirect.0.insert(*import, next);
            next += 1;
        }
        if !self.effects.is_empty() {
            if let Some(section) = self.section(SectionId::Type) {
                redirect.parse_type_section(&mut types, TypeSectionReader::new(section)?)?;
            }
            if let Some(section) = self.section(SectionId::Function) {
                redirect.parse_function_section(&mut functions, FunctionSectionReader::new(section)?)?;
            }
            if let Some(section) = self.section(SectionId::Code) {
                redirect.parse_code_section(&mut code, CodeSectionReader::new(section)?)?;
            }
            types.ty().function(handles::i32s(2), []);
            functions.function(self.types);
            code.function(&handles::note(first_global));
            for (ty, (import, effect)) in (self.types + 1..).zip(&self.effects) {
                let (params, results) = effect.shape();
                types.ty().function(handles::i32s(params), handles::i32s(results));
                functions.function(ty);
                code.function(&effect.wrapper(*import, note, first_global));
            }
            let mut globals = GlobalSection::new();
            if let Some(section) = self.section(SectionId::Global) {
                redirect.parse_global_section(&mut globals, GlobalSectionReader::new(section)?)?;
            }
            let counter = wasm_encoder::GlobalType {
                val_type: wasm_encoder::ValType::I32,
                mutable: true,
                shared: false,
            };
            (0..handles::GLOBALS).for_each(|_| _ = globals.global(counter, &ConstExpr::i32_const(0)));
            if let Some(section) = self.section(SectionId::Element) {
                let mut elements = ElementSection::new();
                redirect.parse_element_section(&mut elements, ElementSectionReader::new(section)?)?;
                written.set(elements);
            }
            written.set(types);
            written.set(functions);
            written.set(globals);
            written.set(code);
        }
        let mut exports = ExportSection::new();
        if let Some(section) = self.section(SectionId::Export) {
            redirect.parse_export_section(&mut exports, ExportSectionReader::new(section)?)?;
        }
        for (index, _) in self.memories() {
            let at = self.memories_imported + u32::try_from(index)?;
            exports.export(&memory_name(index), ExportKind::Memory, at);
        }
        for (index, _) in self.variables() {
            let at = self.globals_imported + u32::try_from(index)?;
            exports.export(&global_name(index), ExportKind::Global, at);
        }
        if !self.effects.is_empty() {
            for index in 0..handles::GLOBALS {
                exports.export(&handle_name(index), ExportKind::Global, first_global + index);
            }
        }
        written.set(exports);
        Ok(written.finish())
    }

    /// The module with this state to start with, and without a start function.
    pub(super) fn with(&self, state: &ModuleState) -> Result<Vec<u8>, Refusal> {
        let mut written = Sections::of(self);
        let mut same = RoundtripReencoder;
        written.remove(SectionId::Start);
        if let Some(section) = self.section(SectionId::Memory) {
            let mut memories = MemorySection::new();
            for (memory, image) in MemorySectionReader::new(section)?.into_iter().zip(&state.memories) {
                let mut memory = same.memory_type(memory?)?;
                memory.minimum = memory.minimum.max(image.bytes / PAGE_BYTES);
                memories.memory(memory);
            }
            written.set(memories);
        }
        if let Some(section) = self.section(SectionId::Global) {
            let mut globals = GlobalSection::new();
            for (index, global) in GlobalSectionReader::new(section)?.into_iter().enumerate() {
                let global = global?;
                match state.globals.get(&index) {
                    Some(&bits) => {
                        globals
                            .global(same.global_type(global.ty)?, &constant(global.ty.content_type, bits)?);
                    }
                    None => same.parse_global(&mut globals, global)?,
                }
            }
            written.set(globals);
        }
        written.set(self.data(state)?);
        if self.section(SectionId::DataCount).is_some() {
            let count = self.segments()?
                + u32::try_from(state.memories.iter().map(|m| m.parts.len()).sum::<usize>())?;
            written.set(wasm_encoder::DataCountSection { count });
        }
        Ok(written.finish())
    }

    /// The data segments: those that instantiation would copy are empty, for the state has what they held;
    /// their numbers stay.
    fn data(&self, state: &ModuleState) -> Result<DataSection, Refusal> {
        let mut data = DataSection::new();
        if let Some(section) = self.section(SectionId::Data) {
            for segment in DataSectionReader::new(section)? {
                let segment = segment?;
                match segment.kind {
                    DataKind::Active { .. } => data.passive([]),
                    DataKind::Passive => data.passive(segment.data.iter().copied()),
                };
            }
        }
        for (memory, image) in (self.memories_imported..).zip(&state.memories) {
            for (at, bytes) in &image.parts {
                let at = ConstExpr::i32_const(u32::try_from(*at)?.cast_signed());
                data.active(memory, &at, bytes.iter().copied());
            }
        }
        Ok(data)
    }

    fn segments(&self) -> Result<u32, Refusal> {
        let Some(section) = self.section(SectionId::Data) else { return Ok(0) };
        Ok(DataSectionReader::new(section)?.count())
    }

    fn section(&self, id: SectionId) -> Option<BinaryReader<'a>> {
        let (_, data) = self.sections.iter().find(|(found, _)| *found == u8::from(id))?;
        Some(BinaryReader::new(data, 0))
    }

    fn import(
        &mut self,
        module: &str,
        name: &str,
        ty: TypeRef,
        signatures: &[Option<(usize, usize)>],
    ) -> Result<(), Refusal> {
        match ty {
            TypeRef::Func(signature) | TypeRef::FuncExact(signature) => {
                if let Some(effect) = Effect::of(module, name) {
                    if signatures.get(signature as usize).copied().flatten() != Some(effect.shape()) {
                        return Err(Refusal::new(format!("its import `{name}` has an unknown shape")));
                    }
                    self.effects.insert(self.functions, effect);
                }
                self.functions += 1;
            }
            TypeRef::Global(_) => self.globals_imported += 1,
            TypeRef::Memory(_) => self.memories_imported += 1,
            TypeRef::Table(_) | TypeRef::Tag(_) => {}
        }
        Ok(())
    }
}

/// Sends what calls an import to its wrapper.
struct Redirect(BTreeMap<u32, u32>);

impl Reencode for Redirect {
    type Error = std::convert::Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, wasm_encoder::reencode::Error> {
        Ok(self.0.get(&function).copied().unwrap_or(function))
    }
}

/// The sections of a module being written, by their place in it.
struct Sections<'a> {
    placed: BTreeMap<usize, Box<dyn Section + 'a>>,
    custom: Vec<RawSection<'a>>,
}

/// The order of sections in a module.
const ORDER: [SectionId; 13] = [
    SectionId::Type,
    SectionId::Import,
    SectionId::Function,
    SectionId::Table,
    SectionId::Memory,
    SectionId::Tag,
    SectionId::Global,
    SectionId::Export,
    SectionId::Start,
    SectionId::Element,
    SectionId::DataCount,
    SectionId::Code,
    SectionId::Data,
];

impl<'a> Sections<'a> {
    fn of(module: &Module<'a>) -> Self {
        let mut sections = Self { placed: BTreeMap::new(), custom: Vec::new() };
        for &(id, data) in &module.sections {
            let section = RawSection { id, data };
            match place(id) {
                Some(place) => _ = sections.placed.insert(place, Box::new(section)),
                None => sections.custom.push(section),
            }
        }
        sections
    }

    fn set(&mut self, section: impl Section + 'a) {
        let place = place(section.id()).expect("only sections with a place are written");
        self.placed.insert(place, Box::new(section));
    }

    fn remove(&mut self, id: SectionId) {
        if let Some(place) = place(id.into()) {
            self.placed.remove(&place);
        }
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = wasm_encoder::Module::HEADER.to_vec();
        self.placed.values().for_each(|section| section.append_to(&mut bytes));
        self.custom.iter().for_each(|section| section.append_to(&mut bytes));
        bytes
    }
}

fn place(id: u8) -> Option<usize> {
    ORDER.iter().position(|known| u8::from(*known) == id)
}

fn constant(ty: ValType, bits: u64) -> Result<ConstExpr, Refusal> {
    Ok(match ty {
        ValType::I32 => ConstExpr::i32_const(bits as i32),
        ValType::I64 => ConstExpr::i64_const(bits.cast_signed()),
        ValType::F32 => ConstExpr::f32_const(f32::from_bits(bits as u32).into()),
        ValType::F64 => ConstExpr::f64_const(f64::from_bits(bits).into()),
        ValType::V128 | ValType::Ref(_) => {
            return Err(Refusal::new("it has a global of a vector or a reference"));
        }
    })
}

/// The name of an instruction after which tables or segments are no longer what instantiation made them.
fn changes_a_table(operator: &Operator<'_>) -> Option<&'static str> {
    Some(match operator {
        Operator::TableSet { .. } => "table.set",
        Operator::TableGrow { .. } => "table.grow",
        Operator::TableFill { .. } => "table.fill",
        Operator::TableCopy { .. } => "table.copy",
        Operator::TableInit { .. } => "table.init",
        Operator::ElemDrop { .. } => "elem.drop",
        Operator::DataDrop { .. } => "data.drop",
        _ => return None,
    })
}
