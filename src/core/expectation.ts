// How messages put what a schema wants and what was there instead.
import { inspect } from 'node:util';
import type { z } from 'zod';

/** What the schema wants, for a message. */
export function expectationOf(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return (
        { int: 'a whole number', number: 'a number', string: 'a text' }[issue.expected as string] ?? issue.expected
      );
    case 'too_small':
      return `${issue.inclusive ? 'at least' : 'more than'} ${issue.minimum}${issue.origin === 'array' ? ' of them' : ''}`;
    case 'too_big':
      return `${issue.inclusive ? 'at most' : 'less than'} ${issue.maximum}`;
    case 'not_multiple_of':
      return `a multiple of ${issue.divisor}`;
    case 'invalid_value':
      return issue.values.map(shown).join(' or ');
    default:
      return issue.message;
  }
}

/** A value as a message shows it, whatever it is: in one line. */
export function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  const options = { depth: 1, breakLength: Number.POSITIVE_INFINITY };
  const text = typeof value === 'string' ? JSON.stringify(value) : inspect(value, options).replaceAll(/\s*\n\s*/g, ' ');
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}
