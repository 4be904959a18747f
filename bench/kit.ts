/** What a bench is and what it may use. A folder of `bench/` whose index.ts exports a `Bench` is found by `npm run bench`. */

export interface BenchOptions {
  /** Fewer repetitions and smaller cases: shows that the bench works, its figures are not for quoting. */
  readonly quick: boolean;
  /** What stood after the bench's name on the command line. */
  readonly args: readonly string[];
  /** Progress, to standard error. */
  log(line: string): void;
}

/** One figure. `least` and `most` are gates: outside of them the run exits with 1. `goal` is printed beside them. */
export interface Row {
  readonly what: string;
  readonly value: number;
  /** 'x' for a ratio, else 's', 'ms', 'MB', 'points' ... */
  readonly unit: string;
  readonly least?: number;
  readonly most?: number;
  readonly goal?: number;
  /** What the figure is made of: "ours 1.10 s, Opacus 2.01 s, medians of 5". */
  readonly detail?: string;
}

/** Exports of a bench's index.ts. Import what is slow to load inside `run`: every index.ts is loaded to learn the names. */
export interface Bench {
  /** For the command line: `npm run bench -- NAME`. */
  readonly name: string;
  /** One line: what is measured against what. */
  readonly title: string;
  run(options: BenchOptions): Promise<readonly Row[]>;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/**
 * Runs the contestants one after the other, `rounds` times over, so that what else the machine does meets all of them alike.
 * Each returns its own seconds, or undefined for wall time to be taken here. The first round is a warm-up and not counted.
 */
export async function alternate<K extends string>(
  contestants: Readonly<Record<K, () => Promise<number | undefined>>>,
  rounds: number,
): Promise<Record<K, number[]>> {
  const names = Object.keys(contestants) as K[];
  const seconds = Object.fromEntries(names.map(name => [name, [] as number[]])) as Record<K, number[]>;
  for (let round = -1; round < rounds; round++) {
    for (const name of names) {
      const started = performance.now();
      const own = await contestants[name]();
      if (round >= 0) seconds[name].push(own ?? (performance.now() - started) / 1000);
    }
  }
  return seconds;
}

/** Whether a row is inside its gates. A figure that is not a number is outside. */
export const passes = ({ value, least, most }: Row): boolean =>
  Number.isFinite(value) && (least === undefined || value >= least) && (most === undefined || value <= most);

export function table(title: string, rows: readonly Row[]): string {
  const number = (value: number | undefined): string =>
    value === undefined ? '' : String(Number(value.toPrecision(value >= 1000 ? 4 : 3)));
  const cells = rows.map(row => [
    row.what,
    `${number(row.value)} ${row.unit}`,
    row.goal === undefined ? '' : number(row.goal),
    [row.least === undefined ? '' : `>= ${number(row.least)}`, row.most === undefined ? '' : `<= ${number(row.most)}`]
      .filter(part => part !== '')
      .join(', '),
    passes(row) ? 'ok' : 'OUTSIDE',
    row.detail ?? '',
  ]);
  const all = [['what', 'figure', 'goal', 'gate', '', 'made of'], ...cells];
  const widths = all[0]!.map((_, column) => Math.max(...all.map(line => line[column]!.length)));
  const lines = all.map(line => `| ${line.map((cell, column) => cell.padEnd(widths[column]!)).join(' | ')} |`);
  lines.splice(1, 0, `|${widths.map(width => '-'.repeat(width + 2)).join('|')}|`);
  return `${title}\n\n${lines.join('\n')}\n`;
}
