// Writes the pages and the JSON schema that are made from the code: npm run docs:generate.
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const { generatedDocs } = await import(path.join(root, 'dist', 'cli', 'generated-docs.js'));

for (const [name, text] of Object.entries(generatedDocs())) {
  const file = path.join(root, 'docs', name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, text);
  console.log(path.relative(process.cwd(), file));
}
