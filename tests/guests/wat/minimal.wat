;; The smallest command that succeeds: no input, no output, exit code 0. The others differ from it in one point.
(component
  (core module $program
    (func (export "run") (result i32) (i32.const 0))
  )
  (core instance $instance (instantiate $program))
  (func $run (result (result)) (canon lift (core func $instance "run")))
  (instance $entry (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $entry))
)
