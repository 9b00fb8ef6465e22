;; Grows a table until the host says no, and fails then: a limit on memory alone would not stop it.
(component
  (core module $program
    (table $table 0 funcref)
    (func (export "run") (result i32)
      (loop $again
        (br_if $again (i32.ge_s (table.grow $table (ref.null func) (i32.const 100000)) (i32.const 0))))
      (i32.const 1))
  )
  (core instance $instance (instantiate $program))
  (func $run (result (result)) (canon lift (core func $instance "run")))
  (instance $entry (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $entry))
)
