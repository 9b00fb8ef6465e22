;; Imports an interface that no host has.
(component
  (import "acme:weather/forecast@1.0.0" (instance (export "today" (func (result u32)))))
  (core module $program
    (func (export "run") (result i32) (i32.const 0))
  )
  (core instance $instance (instantiate $program))
  (func $run (result (result)) (canon lift (core func $instance "run")))
  (instance $entry (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $entry))
)
