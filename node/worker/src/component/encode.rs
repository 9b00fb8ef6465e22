//! Core modules become components.
//!
//! Three kinds of module do: one made by a binding generator for `wasm32-unknown-unknown`, which carries its world in a
//! custom section; a program for `wasm32-wasip1`, by the adapter that wasmtime publishes; and a mix of both.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as WASIP1, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER as COMMAND_ADAPTER,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER as REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use super::{Invalid, Kind, inspect, validate};

/// Custom sections whose names start like this hold the world that a binding generator built against.
const WORLD_SECTION: &str = "component-type";
/// What a program for `wasm32-wasip1` exports.
const PROGRAM_START: &str = "_start";
/// Causes of an encoder's error that are told. Why 4: the last says what is wrong, those before say where.
const CAUSES_MAX: usize = 4;

/// The component of these bytes: themselves if they are one, else what the core module becomes. The same bytes always
/// become the same component.
pub fn componentize(bytes: &[u8]) -> Result<Vec<u8>, Invalid> {
    validate(bytes)?;
    if inspect(bytes) == Kind::Component {
        return Ok(bytes.to_vec());
    }
    let module = Module::read(bytes)?;
    if !module.has_world && !module.imports_wasip1 {
        return Err(Invalid::NotAComponent(
            "it was built neither for wasm32-wasip1 nor with bindings of a WIT world (such as shoal:function)".into(),
        ));
    }
    // The encoder is made for what compilers emit and asserts where it should refuse; the bytes here are anybody's.
    let encoded = catch_unwind(AssertUnwindSafe(|| module.encode(bytes)))
        .map_err(|_| Invalid::NotAComponent("its world contradicts its imports and exports".into()))?;
    let component = encoded.map_err(|error| Invalid::NotAComponent(sentence(&error)))?;
    validate(&component).map_err(|error| Invalid::NotAComponent(error.to_string()))?;
    Ok(component)
}

/// What decides how a core module is wrapped.
#[derive(Debug, Default)]
struct Module {
    has_world: bool,
    imports_wasip1: bool,
    is_program: bool,
}

impl Module {
    fn read(bytes: &[u8]) -> Result<Self, Invalid> {
        let mut module = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(malformed)? {
                Payload::CustomSection(section) => module.has_world |= section.name().starts_with(WORLD_SECTION),
                Payload::ImportSection(imports) => {
                    for import in imports.into_imports() {
                        module.imports_wasip1 |= import.map_err(malformed)?.module == WASIP1;
                    }
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        module.is_program |= export.map_err(malformed)?.name == PROGRAM_START;
                    }
                }
                _ => {}
            }
        }
        Ok(module)
    }

    fn encode(&self, bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut encoder = ComponentEncoder::default().module(bytes)?;
        if self.imports_wasip1 {
            let adapter = if self.is_program { COMMAND_ADAPTER } else { REACTOR_ADAPTER };
            encoder = encoder.adapter(WASIP1, adapter)?;
        }
        encoder.encode()
    }
}

fn malformed(error: wasmparser::Error) -> Invalid {
    Invalid::Malformed(error.to_string())
}

fn sentence(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().take(CAUSES_MAX).map(ToString::to_string).collect();
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::{World, required};
    use crate::tests::wat;

    const PROGRAM: &str = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start")))"#;

    #[test]
    fn a_program_for_wasip1_becomes_a_command_always_the_same() {
        let module = wat(PROGRAM);
        let component = componentize(&module).expect("a component");
        assert_eq!(inspect(&component), Kind::Component);
        assert_eq!(componentize(&module).expect("again"), component);
        assert_eq!(componentize(&component).expect("as it is"), component);
        let requirements = required(&component).expect("requirements");
        assert_eq!(requirements.world, World::Command);
        assert!(requirements.grants.is_empty() && requirements.unknown_imports.is_empty(), "{requirements:?}");
    }

    #[test]
    fn a_module_without_a_world_is_refused() {
        for text in ["(module)", r#"(module (import "env" "f" (func)))"#] {
            let error = componentize(&wat(text)).expect_err(text);
            assert!(matches!(&error, Invalid::NotAComponent(why) if why.contains("wasm32-wasip1")), "{error}");
        }
    }

    #[test]
    fn an_import_that_nobody_offers_is_named() {
        let module = PROGRAM.replace("(memory", r#"(import "env" "host_call" (func)) (memory"#);
        let error = componentize(&wat(&module)).expect_err("env.host_call").to_string();
        assert!(error.contains("env"), "{error}");
    }

    #[test]
    fn a_forged_world_section_is_an_error() {
        let module = r#"(module (@custom "component-type:x" "\00\01\02") (func (export "run")))"#;
        assert!(matches!(componentize(&wat(module)), Err(Invalid::NotAComponent(_))));
    }
}
