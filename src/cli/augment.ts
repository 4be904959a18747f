import { invalid } from '../base/errors.ts';
import { augment, OPERATIONS, type Operation, operationNamed } from '../learn/augment/index.ts';
import { textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { tableRows } from './table-rows.ts';

export interface AugmentCommand {
  readonly file: string;
  readonly out: string;
  readonly text?: string;
  readonly label?: string;
  readonly operations?: string;
  readonly count?: number;
  readonly alpha?: number;
  readonly seed?: string;
}

export interface AugmentedFile {
  readonly out: string;
  readonly sources: number;
  readonly variants: number;
  readonly by_operation: Readonly<Record<Operation, number>>;
}

/**
 * Writes the rows and their variants as JSONL: a variant is its source's row with another text and
 * `"augmented": {"source": row from 1, "operation", "n", "seed"}`.
 */
export async function run(options: AugmentCommand): Promise<AugmentedFile> {
  const rows = tableRows(options.file);
  const column = options.text ?? 'text';
  const texts = rows.map((row, i) => {
    const value = row[column];
    if (typeof value === 'string') return value;
    throw invalid('text', `${options.file}, row ${i + 1} has no text under "${column}"`, {
      hint: 'Name the column with --text.',
    });
  });
  const { label, seed = 'learnd' } = options;
  if (label !== undefined && !rows.some(row => row[label] !== undefined))
    throw invalid('label', `${options.file} has no column "${label}"`);
  const groups = await augment(texts, {
    seed,
    ...(label !== undefined && { labels: [...new Set(rows.map(row => String(row[label] ?? '')))] }),
    ...(options.operations !== undefined && { operations: options.operations.split(',').map(operationNamed) }),
    ...(options.count !== undefined && { count: options.count }),
    ...(options.alpha !== undefined && { alpha: options.alpha }),
  });
  const out: string[] = [];
  for (const [i, row] of rows.entries()) {
    out.push(JSON.stringify(row));
    for (const { text, operation, n } of groups[i]!)
      out.push(JSON.stringify({ ...row, [column]: text, augmented: { source: i + 1, operation, n, seed } }));
  }
  await writeAtomically(options.out, textChunk(`${out.join('\n')}\n`));
  const all = groups.flat();
  return {
    out: options.out,
    sources: rows.length,
    variants: all.length,
    by_operation: Object.fromEntries(
      OPERATIONS.map(operation => [operation, all.filter(v => v.operation === operation).length]),
    ) as Record<Operation, number>,
  };
}

export const human = (r: AugmentedFile): string => `${r.variants} variants of ${r.sources} texts in ${r.out}`;
