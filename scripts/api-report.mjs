// The public API as text: every export of every entry point with its signatures, members and types. A test compares it
// with test/api/api-report.md, so that no change of the API goes unnoticed. `--write` renews that file.
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const reportFile = path.join(root, 'test', 'api', 'api-report.md');

/** Entry points with types, by their name in package.json's exports. */
function entryPoints() {
  const { exports } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));
  return Object.entries(exports)
    .filter(([, target]) => target.types !== undefined)
    .map(([name, { types }]) => ({
      name: path.posix.join('hadal', name),
      file: path.join(root, types.replace(/^\.\/dist\//, 'src/').replace(/\.d\.ts$/, '.ts')),
    }));
}

export function apiReport() {
  const entries = entryPoints();
  const { config } = ts.readConfigFile(path.join(root, 'tsconfig.json'), ts.sys.readFile);
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, root);
  const program = ts.createProgram(
    entries.map(({ file }) => file),
    options,
  );
  const checker = program.getTypeChecker();
  const lines = ['# The public API', '', 'Written by `node scripts/api-report.mjs --write`.', ''];
  for (const { name, file } of entries) {
    const source = /** @type {ts.SourceFile} */ (program.getSourceFile(file));
    const module = /** @type {ts.Symbol} */ (checker.getSymbolAtLocation(source));
    const symbols = checker.getExportsOfModule(module).sort((a, b) => (a.name < b.name ? -1 : 1));
    lines.push(`## ${name}`, '', '```ts', ...symbols.flatMap((symbol) => declared(checker, symbol)), '```', '');
  }
  return lines.join('\n').replaceAll(/"[^"]*"(?: \| "[^"]*")+/g, sorted);
}

/** The members of a union of texts in an order that does not depend on what the compiler met first. */
const sorted = (union) => union.split(' | ').sort().join(' | ');

const format = ts.TypeFormatFlags.NoTruncation | ts.TypeFormatFlags.UseAliasDefinedOutsideCurrentScope;

function declared(checker, exported) {
  const symbol = exported.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
  const declaration = symbol.declarations[0];
  const typeText = (type, flags = format) => checker.typeToString(type, declaration, flags);
  if (symbol.flags & ts.SymbolFlags.Function) {
    const type = checker.getTypeOfSymbolAtLocation(symbol, declaration);
    return type
      .getCallSignatures()
      .map((signature) => `function ${symbol.name}${checker.signatureToString(signature, declaration, format)}`);
  }
  if (symbol.flags & ts.SymbolFlags.Variable)
    return [`const ${symbol.name}: ${typeText(checker.getTypeOfSymbolAtLocation(symbol, declaration))}`];
  const type = checker.getDeclaredTypeOfSymbol(symbol);
  if (symbol.flags & ts.SymbolFlags.TypeAlias && !(type.flags & ts.TypeFlags.Object))
    return [`type ${symbol.name} = ${typeText(type, format | ts.TypeFormatFlags.InTypeAlias)}`];
  const kind = symbol.flags & ts.SymbolFlags.Class ? 'class' : 'type';
  const members = checker
    .getPropertiesOfType(type)
    .filter((member) => isPublic(member))
    .map((member) => memberText(checker, member, declaration));
  return [`${kind} ${symbol.name} {`, ...members.sort().map((member) => `  ${member}`), '}'];
}

function isPublic(member) {
  if (member.name.startsWith('__#') || member.name.startsWith('#')) return false;
  const declaration = member.declarations?.[0] ?? member.valueDeclaration;
  if (!declaration) return true; // of a mapped type
  const isInternal = ts.getJSDocTags(declaration).some(({ tagName }) => tagName.text === 'internal');
  return (
    !isInternal && !(ts.getCombinedModifierFlags(declaration) & (ts.ModifierFlags.Private | ts.ModifierFlags.Protected))
  );
}

function memberText(checker, member, place) {
  const type = checker.getTypeOfSymbolAtLocation(member, place);
  const [made] = member.declarations ?? []; // none of a mapped type
  const isReadonly = made && ts.getCombinedModifierFlags(made) & ts.ModifierFlags.Readonly;
  const name = member.name.startsWith('__@') ? `[Symbol.${member.name.slice(3).replace(/@\d+$/, '')}]` : member.name;
  const optional = member.flags & ts.SymbolFlags.Optional ? '?' : '';
  return `${isReadonly ? 'readonly ' : ''}${name}${optional}: ${checker.typeToString(type, place, format)}`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv.includes('--write')) writeFileSync(reportFile, apiReport());
  else process.stdout.write(apiReport());
}
