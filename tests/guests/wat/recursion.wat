;; Calls itself until the stack is full.
(component
  (core module $program
    (func $deeper (param i64) (result i64)
      (i64.add (i64.const 1) (call $deeper (local.get 0))))
    (func (export "run") (result i32)
      (i32.wrap_i64 (call $deeper (i64.const 0))))
  )
  (core instance $instance (instantiate $program))
  (func $run (result (result)) (canon lift (core func $instance "run")))
  (instance $entry (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $entry))
)
