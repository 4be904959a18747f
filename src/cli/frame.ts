import { type Command, InvalidArgumentError } from 'commander';
import { asLearndError, laterVersion, oneLine } from '../base/errors.ts';

/** What every command shares: one JSON document on standard output with --json, one clear line on failure, exit codes. */

/** What a command has to say: to a program, and to a person. */
export interface Reply {
  readonly json: unknown;
  readonly text: string;
  /** Non-zero for a command that worked and found something wrong (policy check). */
  readonly exitCode?: number;
}

export const reply = <T>(json: T, text: (result: T) => string, exitCode = 0): Reply => ({
  json,
  text: text(json),
  exitCode,
});

/** Binds a command to its work; a thrown error becomes one line on standard error and exit code 1 (2 for wrong input). */
export function action(
  command: Command,
  work: (args: string[], options: Record<string, unknown>) => Promise<Reply>,
): void {
  command.option('--json', 'print one JSON document on standard output');
  command.action(async (...given: unknown[]) => {
    const options = given.at(-2) as Record<string, unknown>;
    try {
      const said = await work(given.slice(0, -2).flat() as string[], options);
      const text = options.json === true ? JSON.stringify(said.json) : said.text;
      process.stdout.write(text.endsWith('\n') ? text : `${text}\n`);
      process.exitCode = said.exitCode ?? 0;
    } catch (error) {
      fail(error);
    }
  });
}

/** A command whose contract is fixed and which is not built: refused by name. */
export function later(parent: Command, name: string, description: string): void {
  parent
    .command(name)
    .description(`${description} (not in this version)`)
    .allowUnknownOption()
    .allowExcessArguments()
    .action(() => fail(laterVersion(`${parent.name() === 'learnd' ? '' : `${parent.name()} `}${name}`)));
}

export function fail(error: unknown): void {
  process.stderr.write(`learnd: ${oneLine(error)}\n`);
  if (process.env.LEARND_DEBUG) process.stderr.write(`${String((error as Error).stack)}\n`);
  process.exitCode = asLearndError(error).code === 'invalid' ? 2 : 1;
}

export const number = (text: string): number => {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('must be a number');
  return value;
};

export const integer = (text: string): number => {
  const value = number(text);
  if (!Number.isInteger(value)) throw new InvalidArgumentError('must be a whole number');
  return value;
};

/** Columns padded to their widest cell, two spaces apart. */
export function table(rows: readonly (readonly unknown[])[]): string {
  const cells = rows.map(row => row.map(cell => (cell === null || cell === undefined ? '-' : String(cell))));
  const widths = cells[0]?.map((_, i) => Math.max(...cells.map(row => row[i]?.length ?? 0))) ?? [];
  return cells
    .map(row =>
      row
        .map((cell, i) => cell.padEnd(widths[i]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

export const short = (value: unknown, digits = 4): string =>
  typeof value === 'number'
    ? Number.isInteger(value)
      ? String(value)
      : value.toPrecision(digits)
    : value === null || value === undefined
      ? '-'
      : String(value);
