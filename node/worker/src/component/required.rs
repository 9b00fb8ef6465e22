//! What a component needs of the worker that runs it, and what a worker has.

use std::collections::BTreeSet;

use shoal_protocol::object::function::Grant;
use shoal_protocol::{Kind as ProblemKind, Problem};
use wasmparser::component_types::{ComponentDefinedType, ComponentEntityType, ComponentFuncTypeId, ComponentValType};
use wasmparser::types::{Types, TypesRef};
use wasmparser::{Parser, Payload, PrimitiveValType};

use super::{Invalid, Kind, inspect, validate};

/// The interfaces of WASI 0.2 that a worker offers, without their version; those of files and sockets are there and refuse.
/// Held against the linker by a test.
const WASI: [&str; 27] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];
/// The versions of WASI whose interfaces are offered: all of 0.2, which only ever adds to itself.
const WASI_VERSION: &str = "0.2.";

/// The interfaces of `shoal:function` and the grant that each needs.
const SHOAL: [(&str, Option<Grant>); 5] = [
    ("shoal:function/types", None),
    ("shoal:function/job", None),
    ("shoal:function/checkpoint", None),
    ("shoal:function/blob", Some(Grant::Blob)),
    ("shoal:function/kv", Some(Grant::Kv)),
];
/// The versions of `shoal:function` that are offered.
const SHOAL_VERSION: &str = "0.1.";

/// Imports that a sentence names. Why 8: whoever reads it fixes the first and tries again.
const NAMED_MAX: usize = 8;

/// How a component is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// It exports `wasi:cli/run`: arguments, standard input and output, an exit code.
    Command,
    /// It exports `run` of `shoal:function`: a payload in, a payload out.
    Function,
}

/// What a component needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirements {
    /// How it is run.
    pub world: World,
    /// What it must be granted.
    pub grants: BTreeSet<Grant>,
    /// Imports that no worker offers.
    pub unknown_imports: Vec<String>,
}

impl Requirements {
    /// Refuses what is not offered or not granted, with a sentence that names it and says what there is.
    pub fn check(&self, granted: &BTreeSet<Grant>) -> Result<(), Problem> {
        if !self.unknown_imports.is_empty() {
            let named: Vec<&str> = self.unknown_imports.iter().take(NAMED_MAX).map(String::as_str).collect();
            let more = self.unknown_imports.len().saturating_sub(named.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            return Err(Problem::new(
                ProblemKind::ImportNotGranted,
                format!(
                    "the component imports {}{more}, which workers do not offer; they offer wasi:cli/imports 0.2 and \
                     shoal:function/job, blob and kv 0.1",
                    named.join(", ")
                ),
            ));
        }
        let missing: Vec<&str> = self.grants.difference(granted).map(|grant| grant.text()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Problem::new(
            ProblemKind::ImportNotGranted,
            format!(
                "the component imports shoal:function/{}, which the function is not granted; grant {} or remove the import",
                missing.join(" and shoal:function/"),
                missing.join(", ")
            ),
        ))
    }
}

/// What the component of these bytes needs. Core modules are to be turned into components first.
pub fn required(bytes: &[u8]) -> Result<Requirements, Invalid> {
    if inspect(bytes) == Kind::CoreModule {
        return Err(Invalid::NoWorld("this is a core module, not yet a component".into()));
    }
    let types = validate(bytes)?;
    let Surface { imports, exports } = Surface::read(bytes)?;
    let mut grants = BTreeSet::new();
    let mut unknown_imports = Vec::new();
    for import in imports {
        match offered(&import) {
            Some(grant) => grants.extend(grant),
            None => unknown_imports.push(import),
        }
    }
    Ok(Requirements { world: world(&types, &exports)?, grants, unknown_imports })
}

/// The names at the outside of a component.
#[derive(Default)]
struct Surface {
    imports: Vec<String>,
    exports: Vec<String>,
}

impl Surface {
    fn read(bytes: &[u8]) -> Result<Self, Invalid> {
        let malformed = |error: wasmparser::Error| Invalid::Malformed(error.to_string());
        let mut surface = Self::default();
        let mut depth = 0usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(malformed)? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        let import = import.map_err(malformed)?;
                        // Types that are imported by name are part of an interface's signature, nothing to offer.
                        if !matches!(import.ty, wasmparser::ComponentTypeRef::Type(_)) {
                            surface.imports.push(import.name.name.to_string());
                        }
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        surface.exports.push(export.map_err(malformed)?.name.name.to_string());
                    }
                }
                _ => {}
            }
        }
        Ok(surface)
    }
}

/// Whether workers offer this import, and what grant it needs.
fn offered(import: &str) -> Option<Option<Grant>> {
    let (interface, version) = import.split_once('@')?;
    if WASI.contains(&interface) {
        return version.starts_with(WASI_VERSION).then_some(None);
    }
    let (_, grant) = SHOAL.iter().find(|(name, _)| *name == interface)?;
    version.starts_with(SHOAL_VERSION).then_some(*grant)
}

/// Every interface that is offered, at its first version.
#[cfg(test)]
pub(crate) fn offered_names() -> Vec<String> {
    let wasi = WASI.iter().map(|name| format!("{name}@{WASI_VERSION}0"));
    wasi.chain(SHOAL.iter().map(|(name, _)| format!("{name}@{SHOAL_VERSION}0"))).collect()
}

fn world(types: &Types, exports: &[String]) -> Result<World, Invalid> {
    if exports.iter().any(|export| export.starts_with("wasi:cli/run@0.2.")) {
        return Ok(World::Command);
    }
    let types = types.as_ref();
    match types.component_item_for_export("run").map(|item| item.ty) {
        Some(ComponentEntityType::Func(run)) if is_run(types, run) => Ok(World::Function),
        Some(_) => Err(Invalid::NoWorld(
            "the component exports run, but not as shoal:function has it: run: func(input: payload) -> result<payload, string>"
                .into(),
        )),
        None => {
            let named: Vec<&str> = exports.iter().take(NAMED_MAX).map(String::as_str).collect();
            let named = if named.is_empty() { "nothing".to_string() } else { named.join(", ") };
            Err(Invalid::NoWorld(format!(
                "the component exports {named}; a function exports wasi:cli/run@0.2 or run of shoal:function"
            )))
        }
    }
}

/// Whether this is `func(input: payload) -> result<payload, string>`.
fn is_run(types: TypesRef<'_>, run: ComponentFuncTypeId) -> bool {
    let Some(run) = types.get(run) else { return false };
    let [(_, input)] = &*run.params else { return false };
    let Some(ComponentValType::Type(result)) = run.result else { return false };
    let Some(ComponentDefinedType::Result { ok: Some(ok), err: Some(err), .. }) = types.get(result) else {
        return false;
    };
    !run.async_
        && is_payload(types, input)
        && is_payload(types, ok)
        && is_primitive(types, err, PrimitiveValType::String)
}

/// Whether this is `variant { bytes(list<u8>), blob(string) }`.
fn is_payload(types: TypesRef<'_>, ty: &ComponentValType) -> bool {
    let ComponentValType::Type(ty) = ty else { return false };
    let Some(ComponentDefinedType::Variant(variant)) = types.get(*ty) else { return false };
    let mut cases = variant.cases.iter().map(|(name, case)| (name.as_str(), case.ty));
    let (Some(("bytes", Some(ComponentValType::Type(bytes)))), Some(("blob", Some(blob))), None) =
        (cases.next(), cases.next(), cases.next())
    else {
        return false;
    };
    let is_list = matches!(types.get(bytes), Some(ComponentDefinedType::List { element, .. })
        if is_primitive(types, element, PrimitiveValType::U8));
    is_list && is_primitive(types, &blob, PrimitiveValType::String)
}

/// Whether this is the primitive, by itself or under a name.
fn is_primitive(types: TypesRef<'_>, ty: &ComponentValType, primitive: PrimitiveValType) -> bool {
    match ty {
        ComponentValType::Primitive(found) => *found == primitive,
        ComponentValType::Type(named) => {
            matches!(types.get(*named), Some(ComponentDefinedType::Primitive(found)) if *found == primitive)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{EXIT_WELL, wat};

    #[test]
    fn a_command_needs_no_grant() {
        let requirements = required(&wat(EXIT_WELL)).expect("requirements");
        assert_eq!(requirements.world, World::Command);
        assert_eq!(requirements.check(&BTreeSet::new()), Ok(()));
    }

    #[test]
    fn imports_are_granted_or_named() {
        let text = EXIT_WELL.replacen(
            "(component",
            r#"(component
                (import "wasi:http/outgoing-handler@0.2.0" (instance))
                (import "wasi:cli/stdin@0.3.0" (instance))
                (import "shoal:function/kv@0.1.0" (instance))
                (import "shoal:function/blob@0.1.0" (instance))
                (import "wasi:cli/exit@0.2.6" (instance))"#,
            1,
        );
        let requirements = required(&wat(&text)).expect("requirements");
        assert_eq!(requirements.grants, BTreeSet::from([Grant::Blob, Grant::Kv]));
        assert_eq!(requirements.unknown_imports, ["wasi:http/outgoing-handler@0.2.0", "wasi:cli/stdin@0.3.0"]);
        let refused = requirements.check(&requirements.grants).expect_err("unknown imports").detail;
        assert!(refused.contains("wasi:http/outgoing-handler@0.2.0") && refused.contains("they offer"), "{refused}");
        let known = Requirements { unknown_imports: Vec::new(), ..requirements };
        let refused = known.check(&BTreeSet::from([Grant::Blob])).expect_err("no kv").detail;
        assert!(refused.contains("shoal:function/kv") && !refused.contains("blob"), "{refused}");
        assert_eq!(known.check(&BTreeSet::from(Grant::ALL)), Ok(()));
    }

    #[test]
    fn a_component_must_export_something_to_run() {
        let error = required(&wat("(component)")).expect_err("no export").to_string();
        assert!(error.contains("exports nothing") && error.contains("wasi:cli/run"), "{error}");
        let other = r#"(component (core module $m (func (export "run")))
            (core instance $i (instantiate $m))
            (func (export "run") (canon lift (core func $i "run"))))"#;
        let error = required(&wat(other)).expect_err("another run").to_string();
        assert!(error.contains("func(input: payload)"), "{error}");
    }

    #[test]
    fn the_run_of_shoal_function_is_recognised() {
        let requirements = required(&wat(crate::tests::FUNCTION_ECHO)).expect("requirements");
        assert_eq!(requirements.world, World::Function);
        assert!(requirements.grants.is_empty() && requirements.unknown_imports.is_empty());
    }
}
