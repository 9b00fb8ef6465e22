"""A `wasi:cli/command` that knows nothing of Shoal: see ../README.md for what it does."""

import sys

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import environment


class Run(exports.Run):
    def run(self) -> None:
        arguments = environment.get_arguments()[1:]
        text = sys.stdin.read()
        print("arguments:", *arguments)
        sys.stdout.write(text.upper())
        sys.stdout.flush()
        print(f"read {len(text)} characters", file=sys.stderr, flush=True)
        if arguments[:1] == ["fail"]:
            raise Err(None)
