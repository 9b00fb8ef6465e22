;; A command that writes "tick 0001", "tick 0002", ... to its log, one every 50 ms, until it is stopped.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; The line, and where it stands.
  (data (i32.const 16) "tick 0000\n")
  (data (i32.const 0) "\10\00\00\00\0a\00\00\00")
  ;; A subscription to the monotonic clock, in so many nanoseconds from now: 50 ms.
  (data (i32.const 80) "\01\00\00\00")
  (data (i32.const 88) "\80\f0\fa\02\00\00\00\00")
  (func $count (local $digit i32)
    (local.set $digit (i32.const 24))
    (block $done
      (loop $carry
        (br_if $done (i32.lt_u (local.get $digit) (i32.const 21)))
        (if (i32.eq (i32.load8_u (local.get $digit)) (i32.const 57))
          (then
            (i32.store8 (local.get $digit) (i32.const 48))
            (local.set $digit (i32.sub (local.get $digit) (i32.const 1)))
            (br $carry))
          (else
            (i32.store8 (local.get $digit) (i32.add (i32.load8_u (local.get $digit)) (i32.const 1))))))))
  (func (export "_start")
    (loop $again
      (call $count)
      (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
      (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 12)))
      (br $again))))
