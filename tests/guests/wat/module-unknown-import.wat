;; A core module that imports from a place that is neither WASI nor a world's interface: it cannot become a component.
(module
  (import "env" "open_the_door" (func))
  (func (export "_start"))
)
