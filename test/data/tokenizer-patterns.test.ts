import { describe, expect, test } from 'vitest';
import { patternProblem } from '../../src/data/tokenizer-patterns.js';

describe('patterns of published tokenizers pass', () => {
  test.each([
    ['GPT-2', String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`],
    [
      'Llama 3',
      String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
    ],
    [
      'DeepSeek-V3',
      String.raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
    ],
    [
      'GPT-4o',
      String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}]*[\p{Ll}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}]+[\p{Ll}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
    ],
    ['DeepSeek-LLM', String.raw`\s+$`],
    ['digits', String.raw`\p{N}{1,3}`],
    ['Chinese', '[一-龥぀-ゟ゠-ヿ]+'],
    ['Han', String.raw`[\p{Han}]+|[^\r\n]`],
  ])('%s', (_name, pattern) => {
    expect(patternProblem(pattern)).toBeNull();
  });
});

describe('patterns that a text can make endless are refused', () => {
  test.each([
    ['(a+)+b', 'repetitions within'],
    ['(a|aa)+$', 'repetitions within'],
    ['((a+)*)*c', 'repetitions within'],
    ['a*a*b', 'against each other'],
    ['a?a?a?a?a?a?a?a?a?a?a?a?a?b', 'too many ways'],
    ['(?:a?){40}b', 'too many ways'],
    ['(?:a{1,9}){9}b', 'too many ways'],
    ['a*b', 'looked at anew'],
    [String.raw`\s*[\r\n]+|\s+(?!\S)`, 'looked at anew'],
    [String.raw`(?=(a+))\1b`, 'backreference'],
    ['a+(?=b*c)|a+', 'against each other'],
    ['a|(?=b)', 'nothing at all'],
    ['a*', 'nothing at all'],
    ['a++b', 'Nothing to repeat'],
    ['(', 'Unterminated'],
  ])('%s', (pattern, why) => {
    expect(patternProblem(pattern)).toContain(why);
  });
});
