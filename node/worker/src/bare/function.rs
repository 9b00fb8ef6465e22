//! A function without worker and node: what `shoal bench` compares a job with.

use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker};

use crate::engine::Engine;
use crate::host::GuestPayload;

/// The name under which a function is exported.
const EXPORT: &str = "run";

/// Ticks of the engine's clock until a call is interrupted: never.
const TICKS_MAX: u64 = 1 << 62;

/// A compiled function. Its engine is the worker's: same code, same pool of instances. There is no host behind it: what
/// the function imports traps when it is called, so this runs only what needs nothing but its input.
pub struct Function {
    engine: Engine,
    ready: InstancePre<()>,
    run: ComponentExportIndex,
}

impl Function {
    /// Compiles a component for `shoal:function`, for so many calls at once.
    ///
    /// # Errors
    /// In words, when it is none, or when the machine has no room for the instances.
    pub fn new(component: &[u8], slots: u32) -> Result<Self, String> {
        let engine = Engine::new(slots).map_err(|error| error.to_string())?;
        Self::compile(engine, component).map_err(|error| format!("{error:#}"))
    }

    fn compile(engine: Engine, component: &[u8]) -> wasmtime::Result<Self> {
        let component = Component::new(engine.wasm(), component)?;
        let mut linker = Linker::new(engine.wasm());
        linker.define_unknown_imports_as_traps(&component)?;
        let missing = || wasmtime::Error::msg(format!("it exports no function `{EXPORT}`"));
        let run = component.get_export_index(None, EXPORT).ok_or_else(missing)?;
        Ok(Self { ready: linker.instantiate_pre(&component)?, engine, run })
    }

    /// Runs a fresh instance on these bytes. Nothing interrupts it. Blocks; may be called by several threads.
    ///
    /// # Errors
    /// In words, when it traps, says that it failed, or returns a blob.
    pub fn call(&self, input: Vec<u8>) -> Result<Vec<u8>, String> {
        match self.call_here(GuestPayload::Bytes(input)).map_err(|error| format!("{error:#}"))? {
            Ok(GuestPayload::Bytes(bytes)) => Ok(bytes),
            Ok(GuestPayload::Blob(id)) => Err(format!("it returned the blob {id}, and there are none here")),
            Err(why) => Err(why),
        }
    }

    fn call_here(&self, input: GuestPayload) -> wasmtime::Result<Result<GuestPayload, String>> {
        let mut store = Store::new(self.engine.wasm(), ());
        // The engine's clock goes for a second after its start, although nothing says that it is running.
        store.set_epoch_deadline(TICKS_MAX);
        let instance = self.ready.instantiate(&mut store)?;
        let run =
            instance.get_typed_func::<(&GuestPayload,), (Result<GuestPayload, String>,)>(&mut store, &self.run)?;
        run.call(&mut store, (&input,)).map(|(returned,)| returned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{EXIT_WELL, FUNCTION_ECHO, wat};

    #[test]
    fn several_threads_get_what_the_function_returns() {
        let function = Function::new(&wat(FUNCTION_ECHO), 2).expect("a function");
        std::thread::scope(|scope| {
            for thread in 0..2u8 {
                let function = &function;
                scope.spawn(move || {
                    for n in 0..50u8 {
                        assert_eq!(function.call(vec![thread, n]), Ok(vec![thread, n]));
                    }
                });
            }
        });
    }

    #[test]
    fn a_long_call_is_not_interrupted() {
        // Some hundred million turns, over several ticks of the clock, before it returns its input.
        let turns = "(local $turns i32) (loop $again
            (br_if $again (i32.lt_u (local.tee $turns (i32.add (local.get $turns) (i32.const 1))) (i32.const 200000000))))";
        let slow =
            FUNCTION_ECHO.replacen("(i32.store8 (i32.const 0)", &format!("{turns} (i32.store8 (i32.const 0)"), 1);
        assert_ne!(slow, FUNCTION_ECHO);
        let function = Function::new(&wat(&slow), 1).expect("a function");
        assert_eq!(function.call(b"sea".to_vec()), Ok(b"sea".to_vec()));
    }

    #[test]
    fn what_is_no_function_is_refused_in_words() {
        let refused = |bytes: &[u8]| Function::new(bytes, 1).err().unwrap_or_default();
        assert!(refused(&wat(EXIT_WELL)).contains("no function `run`"), "{}", refused(&wat(EXIT_WELL)));
        assert!(!refused(b"(module)").is_empty());
    }
}
