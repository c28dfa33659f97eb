import { basename, relative, sep } from 'node:path';

/** How this process was called, to be called again: a package's command, an installed one, or a checkout's file. */
export function invocation(script: string = process.argv[1] ?? '', directory: string = process.cwd()): string {
  if (script.includes(`node_modules${sep}`)) return 'npx hadal';
  return basename(script) === 'hadal' ? 'hadal' : `node ${quoted(relative(directory, script))}`;
}

/** A word that a shell takes as it is. */
export function quoted(word: string): string {
  return /^[\w./+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
