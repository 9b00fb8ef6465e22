;; A function that waits for 50 ms in its host and does nothing else: `shoal bench --only share` runs it. A program for
;; wasm32-wasip1. `wait.wasm` beside it is this text; a test of the node compares both.
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; A subscription: the clock that never steps, 50,000,000 ns from now.
  (data (i32.const 16) "\01\00\00\00")
  (data (i32.const 24) "\80\f0\fa\02\00\00\00\00")
  (func (export "_start")
    (if (call 0 (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)) (then unreachable))))
