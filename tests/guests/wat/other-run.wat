;; Exports `run`, but of another type than the world `shoal:function` says.
(component
  (core module $program (func (export "run") (result i32) (i32.const 42)))
  (core instance $instance (instantiate $program))
  (func (export "run") (result u32) (canon lift (core func $instance "run")))
)
