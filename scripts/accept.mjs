// Long acceptance runs: `npm run accept -- <name> [arguments]` runs scripts/accept/<name>.mjs.
import { existsSync, readdirSync } from 'node:fs';

const folder = new URL('accept/', import.meta.url);
const names = existsSync(folder)
  ? readdirSync(folder)
      .filter((file) => file.endsWith('.mjs'))
      .map((file) => file.slice(0, -'.mjs'.length))
  : [];
const [name] = process.argv.splice(2, 1);
if (name !== undefined && names.includes(name)) {
  await import(new URL(`${name}.mjs`, folder).href);
} else {
  console.error(
    `accept: expected one of: ${names.join(', ') || '(there are none)'}${name === undefined ? '' : `; got ${name}`}`,
  );
  process.exitCode = 2;
}
