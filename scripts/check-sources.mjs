// Two gates over every tracked file: none is too long, none bears marks of unfinished work or of one person's machine.
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));

const lineLimits = [
  { files: /\.(?:ts|mts|mjs|cjs|js)$/, lines: 500 },
  { files: /^native\/.*\.(?:h|cpp|cu|cuh)$/, lines: 700 },
];

// Spelt with brackets, so that this file does not find itself.
const marks = [
  { what: 'mark of unfinished work', pattern: /\b(?:TOD[O]|FIXM[E])\b/ },
  { what: 'test that shuts out the others', pattern: /\b(?:it|test|describe)[.]only\b/ },
  { what: 'path of one machine', pattern: /(?:^|[\s"'`(=:])\/(?:wor[k]|roo[t]|hom[e]|User[s]|tmp\/hada[l])\// },
];

const complaints = [];
for (const file of execFileSync('git', ['ls-files', '-z'], { cwd: root, encoding: 'utf8' }).split('\0')) {
  if (file === '' || file === 'package-lock.json' || !existsSync(path.join(root, file))) continue;
  const text = readFileSync(path.join(root, file), 'utf8');
  if (text.includes('\0')) continue; // binary
  const lines = text.split('\n');
  const limit = lineLimits.find(({ files }) => files.test(file))?.lines ?? Number.POSITIVE_INFINITY;
  if (lines.length - 1 > limit)
    complaints.push(`${file}: expected at most ${limit} lines, got ${lines.length - 1}; make it two files`);
  lines.forEach((line, index) => {
    for (const { what, pattern } of marks) {
      const found = pattern.exec(line);
      if (found) complaints.push(`${file}:${index + 1}: ${what}: ${found[0].trim()}`);
    }
  });
}
for (const complaint of complaints) console.error(complaint);
process.exitCode = complaints.length > 0 ? 1 : 0;
