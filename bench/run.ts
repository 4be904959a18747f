/**
 * `npm run bench` lists the benches; `npm run bench -- NAME [--json] [--quick] [ARGUMENTS]` runs one, `-- all` each in turn.
 * Prints a table a bench (or one JSON document) and exits with 1 when a figure is outside its gate.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Bench, passes, type Row, table } from './kit.ts';

async function benches(): Promise<Bench[]> {
  const found: Bench[] = [];
  for (const entry of readdirSync(import.meta.dirname, { withFileTypes: true })) {
    const file = join(import.meta.dirname, entry.name, 'index.ts');
    if (!entry.isDirectory() || !existsSync(file)) continue;
    const module = (await import(pathToFileURL(file).href)) as Partial<Bench>;
    if (module.name !== undefined && module.title !== undefined && module.run !== undefined)
      found.push(module as Bench);
  }
  return found.sort((a, b) => (a.name < b.name ? -1 : 1));
}

async function main(args: readonly string[]): Promise<number> {
  const [wanted, ...rest] = args;
  const known = await benches();
  const chosen = known.filter(bench => wanted === 'all' || bench.name === wanted);
  if (chosen.length === 0) {
    process.stdout.write(`${known.map(({ name, title }) => `${name.padEnd(12)} ${title}`).join('\n')}\n`);
    if (wanted !== undefined) process.stderr.write(`bench: there is none named ${wanted}\n`);
    return wanted === undefined ? 0 : 2;
  }
  const options = {
    quick: rest.includes('--quick'),
    args: rest.filter(arg => arg !== '--quick' && arg !== '--json'),
    log: (line: string) => process.stderr.write(`${line}\n`),
  };
  const results: Record<string, readonly Row[]> = {};
  for (const bench of chosen) {
    results[bench.name] = await bench.run(options);
    if (!rest.includes('--json')) process.stdout.write(`${table(bench.title, results[bench.name]!)}\n`);
  }
  if (rest.includes('--json')) process.stdout.write(`${JSON.stringify(results, null, 2)}\n`);
  return Object.values(results).every(rows => rows.every(passes)) ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
