import { readFileSync } from 'node:fs';

/** Version of hadal. Its root is `../../` from src/core/ and from dist/core/. */
export const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};
