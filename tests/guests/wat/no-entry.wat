;; A component that exports nothing which could be run.
(component
  (core module $program (func (export "answer") (result i32) (i32.const 42)))
  (core instance $instance (instantiate $program))
  (func (export "answer") (result u32) (canon lift (core func $instance "answer")))
)
