// A `wasi:cli/command` that knows nothing of Shoal: see ../README.md for what it does.

import { getArguments } from "wasi:cli/environment@0.2.12";
import { getStdin } from "wasi:cli/stdin@0.2.12";
import { getStdout } from "wasi:cli/stdout@0.2.12";
import { getStderr } from "wasi:cli/stderr@0.2.12";

// What one blocking write may take, as `wasi:io/streams` says.
const WRITE_LEN_MAX = 4096;

function readAll(stream) {
  const chunks = [];
  for (;;) {
    try {
      chunks.push(stream.blockingRead(65536n));
    } catch (error) {
      if (error.payload?.tag === "closed") break;
      throw error;
    }
  }
  const bytes = new Uint8Array(chunks.reduce((length, chunk) => length + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return new TextDecoder().decode(bytes);
}

function writeAll(stream, text) {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length; at += WRITE_LEN_MAX) {
    stream.blockingWriteAndFlush(bytes.subarray(at, at + WRITE_LEN_MAX));
  }
}

export const run = {
  run() {
    const given = getArguments().slice(1);
    const text = readAll(getStdin());
    const output = getStdout();
    writeAll(output, ["arguments:", ...given].join(" ") + "\n");
    writeAll(output, text.toUpperCase());
    writeAll(getStderr(), `read ${[...text].length} characters\n`);
    if (given[0] === "fail") throw undefined;
  },
};
