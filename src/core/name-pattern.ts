/**
 * A test whether a name fits a pattern: `*` stands for any characters, dots included, and `{a,b}` for one of several.
 *
 * @param pattern - `model.layers.{0,1}.mlp.*`, compared with the whole name
 */
export function matcherOf(pattern: string): (name: string) => boolean {
  const source = pattern
    .split(/(\*|\{[^{}]*\})/)
    .map((part) => {
      if (part === '*') return '.*';
      if (part.startsWith('{') && part.endsWith('}'))
        return `(?:${part.slice(1, -1).split(',').map(literal).join('|')})`;
      return literal(part);
    })
    .join('');
  const expression = new RegExp(`^${source}$`, 's');
  return (name) => expression.test(name);
}

const literal = (text: string): string => text.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&');
