/** Builds `dist`. Where another project installs this folder npm brings no compiler, so that is fetched first. */

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";

const COMPILER = "node_modules/typescript/bin/tsc";
const { npm_execpath: npm } = process.env;

/** Run a Node.js program; this one ends as it does, where it fails. */
function run(program, ...options) {
  const { status } = spawnSync(process.execPath, [program, ...options], { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}

if (!existsSync(COMPILER)) {
  if (!npm) {
    console.error("TypeScript is not here; run `npm ci` in this folder");
    process.exit(1);
  }
  // What the installing npm was told (--global, --omit=dev) is not meant for the compiler.
  run(npm, "ci", "--ignore-scripts", "--no-global", "--include=dev", "--prefer-offline", "--no-audit", "--no-fund");
}
run(COMPILER);
