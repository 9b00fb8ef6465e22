;; A core module that says nothing about its world and has no `_start`: it cannot become anything that runs.
(module
  (func (export "answer") (result i32) (i32.const 42))
)
