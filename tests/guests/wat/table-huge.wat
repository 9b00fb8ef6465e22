;; Wants a table of ten million references before it starts: 80 MB that no memory limit counts by itself.
(component
  (core module $program
    (table 10000000 funcref)
    (func (export "run") (result i32) (i32.const 0))
  )
  (core instance $instance (instantiate $program))
  (func $run (result (result)) (canon lift (core func $instance "run")))
  (instance $entry (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $entry))
)
