/** The programs of the README and of the project's docs/clients.md, as TypeScript. */

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

import ts from "typescript";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const programsOf = (path) => [...readFileSync(path, "utf8").matchAll(/^```js\n(.*?)^```/gms)].map(([, text]) => text);

/** What the compiler says of each program, by its name; they are read as files beside this one. */
function complaints(programs) {
  const { config } = ts.readConfigFile(here("tsconfig.json"), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent({ ...config, files: [], include: [] }, ts.sys, here("."));
  options.skipLibCheck = true;
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile, getSourceFile } = host;
  host.fileExists = (name) => programs.has(name) || fileExists(name);
  host.readFile = (name) => programs.get(name) ?? readFile(name);
  host.getSourceFile = (name, version, ...rest) =>
    programs.has(name) ? ts.createSourceFile(name, programs.get(name), version) : getSourceFile(name, version, ...rest);
  const program = ts.createProgram([...programs.keys()], options, host);
  const said = new Map([...programs.keys()].map((name) => [name, []]));
  for (const { file, messageText } of ts.getPreEmitDiagnostics(program)) {
    said.get(file.fileName).push(ts.flattenDiagnosticMessageText(messageText, "\n"));
  }
  return said;
}

test("every program that the documents show is right, as strict TypeScript", { timeout: 20_000 }, () => {
  const documents = ["../README.md", "../../../docs/clients.md"].map(here).filter(existsSync);
  const texts = documents.flatMap(programsOf);
  assert.ok(texts.length >= 3);
  const programs = new Map(texts.map((text, number) => [here(`program${number}.mts`), text]));
  const wrong = here("wrong.mts");
  programs.set(wrong, `${texts[0]}\nfor await (const update of client.subscribe({ pubkeys })) update.changed;\n`);
  const said = complaints(programs);
  assert.match(said.get(wrong).join(), /'changed' does not exist/);
  said.delete(wrong);
  assert.deepEqual([...said.values()].flat(), []);
});
