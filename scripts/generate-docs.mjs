// Writes the pages, the JSON schema and the interfaces that are made from the code: npm run docs:generate.
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const { generatedFiles } = await import(path.join(root, 'dist', 'cli', 'generated-files.js'));

for (const [name, text] of Object.entries(generatedFiles())) {
  const file = path.join(root, name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, text);
  console.log(path.relative(process.cwd(), file));
}
