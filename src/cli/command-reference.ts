// The reference page of all commands: their --help, as Markdown.
import type { Command } from 'commander';

/** The page, from the tree of commands. */
export function commandPage(program: Command): string {
  return [
    '<!-- Made by `npm run docs:generate` from the commands in src/cli/. -->',
    '',
    '# Command line',
    '',
    ...sections(program, 'hadal'),
  ].join('\n');
}

function sections(command: Command, name: string): string[] {
  return [
    `## \`${name}\``,
    '',
    '```text',
    helpOf(command),
    '```',
    '',
    ...command.commands.flatMap((sub) => sections(sub, `${name} ${sub.name()}`)),
  ];
}

/** What --help prints, examples included, on a terminal of 100 columns. */
function helpOf(command: Command): string {
  let text = '';
  command.configureOutput({
    writeOut: (piece) => {
      text += piece;
    },
    getOutHelpWidth: () => 100,
    getOutHasColors: () => false,
  });
  command.outputHelp();
  return text.trim();
}
