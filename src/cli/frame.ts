import { type Command, InvalidArgumentError } from 'commander';
import { asLearndError, oneLine } from '../base/errors.ts';

/** What every command shares: one JSON document on standard output with --json, one clear line on failure, exit codes. */

export interface Outcome<T> {
  readonly result: T;
  /** Non-zero for a command that worked and found something wrong (policy check). */
  readonly exitCode?: number;
}

export function print<T>(json: boolean, result: T, human: (result: T) => string): void {
  const text = json ? JSON.stringify(result) : human(result);
  process.stdout.write(text.endsWith('\n') ? text : `${text}\n`);
}

/** Runs an action; a thrown error becomes one line on standard error and exit code 1 (2 for wrong usage). */
export function action<T>(
  command: Command,
  work: (args: string[], options: Record<string, unknown>, command: Command) => Promise<T | Outcome<T>>,
  human: (result: T) => string,
): void {
  command.option('--json', 'print one JSON document on standard output');
  command.action(async (...given: unknown[]) => {
    const self = given.at(-1) as Command;
    const options = given.at(-2) as Record<string, unknown>;
    const args = given.slice(0, -2).flat() as string[];
    try {
      const done = await work(args, options, self);
      const outcome =
        done !== null &&
        typeof done === 'object' &&
        'result' in done &&
        Object.keys(done).every(k => k === 'result' || k === 'exitCode')
          ? (done as Outcome<T>)
          : { result: done as T };
      print(options.json === true, outcome.result, human);
      process.exitCode = outcome.exitCode ?? 0;
    } catch (error) {
      fail(error);
    }
  });
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
