// Why no native binary loads, and what to do, in the order in which it is worth trying.
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';

/** Packages of Debian and Ubuntu by the library that they hold. */
const libraryPackages: Record<string, string> = {
  'libdnnl.so.2': 'libdnnl2',
  'libgcc_s.so.1': 'libgcc-s1',
  'libgomp.so.1': 'libgomp1',
  'libstdc++.so.6': 'libstdc++6',
};

/**
 * The message of the error that ends the search for a native binary.
 *
 * @param root - folder of the package
 * @param file - the binary that did not load; undefined when none was found
 * @param error - what loading or searching threw
 */
export function explainLoadFailure(root: string, file: string | undefined, error: Error): string {
  const libc = libcOf();
  const platform = `${process.platform}-${process.arch}${libc === 'musl' ? ' with musl' : ''}`;
  const tried = file === undefined ? placesOf(root) : [`${file}: ${firstLine(error)}`];
  const fixes = [...fixesOf(root, file, error.message, libc), buildFix(root)];
  return [
    `[native] expected the native binary for ${platform}, found none that loads; tried:`,
    ...tried.map((line) => `  ${line}`),
    'What to do, one of:',
    ...fixes.map((fix, i) => `  ${i + 1}. ${fix}`),
  ].join('\n');
}

const firstLine = (error: Error) => error.message.split('\n')[0] ?? '';

function placesOf(root: string): string[] {
  const prebuilds = path.join(root, 'prebuilds');
  const platforms = existsSync(prebuilds) ? readdirSync(prebuilds).join(', ') : '';
  return [
    `${path.join(root, 'build', 'Release', 'hadal.node')}: not there`,
    `${prebuilds}: ${platforms === '' ? 'not there' : `only for ${platforms}${platforms.includes('linux') ? ' (glibc)' : ''}`}`,
  ];
}

/** Version of glibc, or musl; undefined elsewhere than on Linux. */
function libcOf(): string | undefined {
  if (process.platform !== 'linux') return undefined;
  const { header } = process.report.getReport() as { header?: { glibcVersionRuntime?: string } };
  return header?.glibcVersionRuntime ?? 'musl';
}

function fixesOf(root: string, file: string | undefined, message: string, libc: string | undefined): string[] {
  if (!existsSync(path.join(root, 'package.json'))) {
    return ['a bundler took hadal apart; keep it external, as in: esbuild --external:hadal'];
  }
  if (file === undefined) {
    return libc === 'musl' ? ['use a system with glibc (for containers: node:22-slim in place of node:22-alpine)'] : [];
  }
  const fixes: string[] = [];
  if (process.env.HADAL_NATIVE) fixes.push('correct the environment variable HADAL_NATIVE, or unset it');
  const library = /(lib[\w+.-]+): cannot open shared object file/.exec(message)?.[1];
  const packageName = libraryPackages[library ?? ''];
  if (packageName) fixes.push(`install ${library}, on Debian or Ubuntu: sudo apt-get install ${packageName}`);
  if (/version .(?:GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+. not found/.test(message)) {
    fixes.push(
      `use a newer system: prebuilt binaries ask for glibc 2.34 and the libstdc++ of GCC 11 (Debian 12, Ubuntu 22.04, RHEL 9, Amazon Linux 2023), here is glibc ${libc}`,
    );
  }
  return fixes;
}

function buildFix(root: string): string {
  const tools = 'needs cmake, make and g++; with oneDNN (libdnnl-dev) products of matrices are faster';
  if (!root.includes(`${path.sep}node_modules${path.sep}`)) return `build it: npm run build:native (${tools})`;
  return `build it in your project: npm install --no-save cmake-js@8 node-addon-api@8 && npm explore hadal -- npm run build:native (${tools})`;
}
