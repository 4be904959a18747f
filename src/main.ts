import { Command, CommanderError } from 'commander';
import { daemonCommands } from './cli/commands-daemon.ts';
import { learnCommands } from './cli/commands-learn.ts';
import { fail } from './cli/frame.ts';

/** Every failure is one line and a non-zero exit, wrong usage (2) included. */
function strict(command: Command): void {
  command.exitOverride().showHelpAfterError(false);
  command.configureOutput({
    outputError: (message, write) =>
      write(
        `learnd: ${message
          .replace(/^error: /, '')
          .trim()
          .replaceAll('\n', ' ')}\n`,
      ),
  });
  for (const child of command.commands) strict(child);
}

export async function main(argv: string[]): Promise<void> {
  const program = new Command('learnd').description('A daemon that keeps a language model learning.').version('0.1.0');
  daemonCommands(program);
  learnCommands(program);
  strict(program);
  // A reader that goes away (`| head`) ends the output, not the program with a stack trace.
  process.stdout.on('error', error => process.exit((error as NodeJS.ErrnoException).code === 'EPIPE' ? 0 : 1));
  try {
    await program.parseAsync(argv, { from: 'user' });
  } catch (error) {
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
    else fail(error);
  }
}
