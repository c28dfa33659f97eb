import type { Command } from 'commander';
import { type CommonFlags, described, oneOf, printJson } from './output.js';

const shells = ['bash', 'zsh', 'fish'] as const;
type Shell = (typeof shells)[number];

/** `hadal completion`. */
export function registerCompletion(program: Command): void {
  described(program.command('completion'), 'Print a script that completes hadal in a shell.', [
    'completion bash >> ~/.bashrc',
    'completion zsh > ~/.zfunc/_hadal',
    'completion fish > ~/.config/fish/completions/hadal.fish',
  ])
    .argument('<shell>', `one of ${shells.join(', ')}`, oneOf(shells))
    .action(async (shell: Shell, { json }: CommonFlags) => {
      const { completionScript } = await import('./completion-scripts.js');
      const script = completionScript(shell, program);
      if (json) printJson({ shell, script });
      else process.stdout.write(script);
    });
}
