// Usage: node build.mjs WIT_FOLDER OUTPUT. Turns app.js into a component of the world wasi:cli/command.

import { readFile, writeFile } from "node:fs/promises";
import { componentize } from "@bytecodealliance/componentize-js";

const [witPath, output] = process.argv.slice(2);
const source = await readFile(new URL("app.js", import.meta.url), "utf8");
// The features of the JavaScript runtime that the program does not use need imports of their own.
const { component } = await componentize(source, {
  witPath,
  worldName: "wasi:cli/command@0.2.12",
  disableFeatures: ["http", "fetch-event"],
});
await writeFile(output, component);
