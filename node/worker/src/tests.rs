//! Guests in text form that unit tests share.

/// A command that succeeds at once.
pub(crate) const EXIT_WELL: &str = r#"(component
    (core module $m (func (export "run") (result i32) i32.const 0))
    (core instance $i (instantiate $m))
    (func $run (result (result)) (canon lift (core func $i "run")))
    (component $shim
        (import "f" (func $f (result (result))))
        (export "run" (func $f)))
    (instance $s (instantiate $shim (with "f" (func $run))))
    (export "wasi:cli/run@0.2.0" (instance $s)))"#;

/// A function that returns its input.
pub(crate) const FUNCTION_ECHO: &str = r#"(component
    (import "shoal:function/types@0.1.0" (instance $types
        (type $payload (variant (case "bytes" (list u8)) (case "blob" string)))
        (export "payload" (type (eq $payload)))))
    (alias export $types "payload" (type $payload))
    (core module $m
        (memory (export "memory") 1)
        (global $next (mut i32) (i32.const 4096))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            global.get $next
            local.set $at
            (global.set $next (i32.add (i32.add (local.get $at) (local.get 3)) (i32.const 16)))
            (local.get $at))
        (func (export "run") (param $case i32) (param $at i32) (param $len i32) (result i32)
            (i32.store8 (i32.const 0) (i32.const 0))
            (i32.store8 (i32.const 4) (local.get $case))
            (i32.store (i32.const 8) (local.get $at))
            (i32.store (i32.const 12) (local.get $len))
            (i32.const 0)))
    (core instance $i (instantiate $m))
    (func (export "run") (param "input" $payload) (result (result $payload (error string)))
        (canon lift (core func $i "run") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#;

/// The bytes of a guest in text form.
pub(crate) fn wat(text: &str) -> Vec<u8> {
    match wat::parse_str(text) {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("a guest of a test is malformed: {error}"),
    }
}
