// Completion scripts for shells, from the tree of commands. What a value is follows from the option's description: the
// names it must be one of, else its placeholder (<dir>, <path>, <file>, …).
import type { Argument, Command, Option } from 'commander';

/** What stands in a place: one of some names, a path, or what nobody can guess. */
type Value = readonly string[] | 'file' | 'directory' | 'other';

interface Word {
  readonly name: string;
  readonly description: string;
}

interface OptionWords {
  readonly names: readonly string[];
  readonly description: string;
  /** null: a switch. */
  readonly value: Value | null;
  readonly isVariadic: boolean;
}

interface CommandWords {
  /** The words that lead to it: `/tokenizer/train`. */
  readonly path: string;
  readonly commands: readonly Word[];
  readonly options: readonly OptionWords[];
  readonly operand: Value;
}

/** The script for one shell. */
export function completionScript(shell: 'bash' | 'zsh' | 'fish', program: Command): string {
  const commands = commandsBelow(program, '');
  return { bash: bashScript, zsh: zshScript, fish: fishScript }[shell](commands);
}

function commandsBelow(command: Command, path: string): CommandWords[] {
  const help = command.createHelp();
  const visible = help.visibleCommands(command);
  const words = {
    path,
    commands: visible.map((sub) => ({ name: sub.name(), description: firstSentence(sub.description()) })),
    options: help.visibleOptions(command).map((option) => ({
      names: [option.short, option.long].filter((name) => name != null),
      description: firstSentence(option.description),
      value: option.required || option.optional ? valueKindOf(option, option.flags) : null,
      isVariadic: option.variadic,
    })),
    operand: command.registeredArguments.map((argument) => valueKindOf(argument, argument.name()))[0] ?? 'other',
  };
  return [words, ...visible.flatMap((sub) => commandsBelow(sub, `${path}/${sub.name()}`))];
}

function valueKindOf({ argChoices, parseArg }: Option | Argument, placeholder: string): Value {
  const choices = argChoices ?? (parseArg as { choices?: readonly string[] } | undefined)?.choices;
  if (choices) return choices;
  const word = /([\w=]+)\W*$/.exec(placeholder)?.[1] ?? '';
  if (word === 'dir') return 'directory';
  return ['path', 'file', 'model'].includes(word) ? 'file' : 'other';
}

const firstSentence = (text: string): string => (text.split(/[.;:(]\s|[.;]$/)[0] ?? '').trim();

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`;

/** Patterns of `path option count` at which a value of that option stands; count: the words since the option. */
function patternsOf({ path }: CommandWords, { names, isVariadic }: OptionWords): string {
  return names.map((name) => `${quoted(`${path} ${name} `)}${isVariadic ? '*' : '0'}`).join(' | ');
}

/** Cases of the values of all options, the same in bash and zsh but for what they do. */
function valueCases(commands: readonly CommandWords[], actionOf: (value: Value) => string): string[] {
  return commands.flatMap((command) =>
    command.options.flatMap((option) =>
      option.value ? [`      ${patternsOf(command, option)}) ${actionOf(option.value)}; return ;;`] : [],
    ),
  );
}

/** The walk to the command and option before the cursor; bash and zsh read it alike. */
function walk(commands: readonly CommandWords[], words: string): string[] {
  const paths = commands.slice(1).map(({ path }) => path);
  return [
    `  for word in ${words}; do`,
    '    case $word in',
    '      =) ;;',
    '      -*) option=$word count=0 ;;',
    '      *)',
    '        count=$((count + 1))',
    `        case $at/$word in ${paths.join(' | ')}) at=$at/$word option= ;; esac ;;`,
    '    esac',
    '  done',
  ];
}

function bashScript(commands: readonly CommandWords[]): string {
  const actionOf = (value: Value): string => {
    if (value === 'file') return '_hadal_paths -f';
    if (value === 'directory') return '_hadal_paths -d';
    return value === 'other' ? ':' : `_hadal_words ${quoted(value.join(' '))}`;
  };
  return [
    '# Completion of hadal for bash. For this shell: eval "$(hadal completion bash)"; for all: that line in ~/.bashrc.',
    '_hadal_words() { _hadal_lines -W "$1"; }',
    '_hadal_paths() { compopt -o filenames 2>/dev/null; _hadal_lines "$1"; }',
    '_hadal_lines() {',
    '  local line',
    '  while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen "$@" -- "$cur")',
    '}',
    '_hadal() {',
    `  local cur=\${COMP_WORDS[COMP_CWORD]} at= option= count=0 word`,
    '  COMPREPLY=()',
    '  [[ $cur == "=" ]] && cur=',
    ...walk(commands, `"\${COMP_WORDS[@]:1:COMP_CWORD-1}"`),
    '  if [[ $cur != -* ]]; then',
    '    case "$at $option $count" in',
    ...valueCases(commands, actionOf),
    '    esac',
    '    case $at in',
    ...commands.map(({ path, commands, operand }) => {
      const names = commands.map(({ name }) => name);
      return `      ${quoted(path)}) ${actionOf(names.length > 0 ? names : operand)} ;;`;
    }),
    '    esac',
    '    return',
    '  fi',
    '  case $at in',
    ...commands.map(
      ({ path, options }) => `    ${quoted(path)}) ${actionOf(options.flatMap(({ names }) => names))} ;;`,
    ),
    '  esac',
    '}',
    'complete -F _hadal hadal',
    '',
  ].join('\n');
}

function zshScript(commands: readonly CommandWords[]): string {
  const actionOf = (value: Value): string => {
    if (value === 'file') return '_files';
    if (value === 'directory') return '_files -/';
    return value === 'other' ? '_message value' : `compadd -- ${value.join(' ')}`;
  };
  const describe = (kind: string, words: readonly Word[]): string => {
    const rows = words.map(({ name, description }) => quoted(`${name.replaceAll(':', '\\:')}:${description}`));
    return `rows=(${rows.join(' ')}); _describe ${kind} rows`;
  };
  return [
    '#compdef hadal',
    '# Completion of hadal for zsh: a file _hadal in a folder of $fpath, or source <(hadal completion zsh) after compinit.',
    '_hadal() {',
    '  local cur=$words[CURRENT] at= option= count=0 word',
    '  local -a rows',
    ...walk(commands, `"\${(@)words[2,CURRENT-1]}"`),
    `  if [[ $cur == --*=* ]]; then option=\${cur%%=*} count=0 cur=; compset -P '*='; fi`,
    '  if [[ $cur != -* ]]; then',
    '    case "$at $option $count" in',
    ...valueCases(commands, actionOf),
    '    esac',
    '    case $at in',
    ...commands.map(
      ({ path, commands, operand }) =>
        `      ${quoted(path)}) ${commands.length > 0 ? describe('command', commands) : actionOf(operand)} ;;`,
    ),
    '    esac',
    '    return',
    '  fi',
    '  case $at in',
    ...commands.map(({ path, options }) => {
      const words = options.flatMap(({ names, description }) => names.map((name) => ({ name, description })));
      return `    ${quoted(path)}) ${describe('option', words)} ;;`;
    }),
    '  esac',
    '}',
    'if [[ $funcstack[1] == _hadal ]]; then _hadal "$@"; else compdef _hadal hadal; fi',
    '',
  ].join('\n');
}

function fishScript(commands: readonly CommandWords[]): string {
  const valueWords = (value: Value): string => {
    if (value === 'file') return ' -r -F';
    if (value === 'directory') return " -x -a '(__fish_complete_directories)'";
    return value === 'other' ? ' -x' : ` -x -a ${quoted(value.join(' '))}`;
  };
  const lines = commands.flatMap(({ path, commands, options, operand }) => {
    const complete = `complete -c hadal -n ${quoted(`__hadal_at "${path}"`)}`;
    // fish takes the further values of an option for operands.
    const operands = [operand, ...options.filter(({ isVariadic }) => isVariadic).map(({ value }) => value)];
    return [
      ...commands.map(({ name, description }) => `${complete} -a ${name} -d ${quoted(description)}`),
      ...options.map(({ names, description, value }) => {
        const flags = names.map((name) => (name.startsWith('--') ? `-l ${name.slice(2)}` : `-s ${name.slice(1)}`));
        return `${complete} ${flags.join(' ')}${value ? valueWords(value) : ''} -d ${quoted(description)}`;
      }),
      ...(operands.includes('file') ? [`${complete} -F`] : []),
      ...(operands.includes('directory') ? [`${complete} -a '(__fish_complete_directories)'`] : []),
      ...(Array.isArray(operand) ? [`${complete} -a ${quoted(operand.join(' '))}`] : []),
    ];
  });
  return [
    '# Completion of hadal for fish: ~/.config/fish/completions/hadal.fish, or hadal completion fish | source.',
    'function __hadal_at',
    '    set -l at ""',
    '    for word in (commandline -opc)[2..]',
    `        contains -- "$at/$word" ${commands
      .slice(1)
      .map(({ path }) => path)
      .join(' ')}; and set at "$at/$word"`,
    '    end',
    '    test "$at" = "$argv[1]"',
    'end',
    'complete -c hadal -f',
    ...lines,
    '',
  ].join('\n');
}
