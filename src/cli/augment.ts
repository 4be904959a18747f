import { basename } from 'node:path';
import { invalid } from '../base/errors.ts';
import {
  augment,
  MODEL_OPERATIONS,
  type ModelOperation,
  OPERATIONS,
  type Operation,
  operationNamed,
} from '../learn/augment/index.ts';
import { textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { byModel, type ModelReport } from './augment-model.ts';
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
  /** Chat model of paraphrase and back-generation. */
  readonly model?: string;
  readonly similarity?: number;
  /** For back-generation: column of answers, and who writes to whom. */
  readonly answer?: string;
  readonly about?: string;
}

export interface AugmentedFile {
  readonly out: string;
  readonly sources: number;
  readonly variants: number;
  readonly by_operation: Readonly<Record<Operation | ModelOperation, number>>;
  /** What a model was asked for, and how much of it was turned down for which reason. */
  readonly model?: ModelReport;
}

/**
 * Writes the rows and their variants as JSONL: a variant is its source's row with another text and
 * `"augmented": {"source": row from 1, "operation", "n", "seed"}`, and of a model also `"model"`, its `"sha256"` and the sampling's
 * seed. What was written for a label alone has no source.
 */
export async function run(options: AugmentCommand): Promise<AugmentedFile> {
  const rows = tableRows(options.file);
  const column = options.text ?? 'text';
  const { label, seed = 'learnd' } = options;
  const { words, model: modelOperations } = operationsOf(options.operations);
  if (modelOperations.length === 0)
    for (const name of ['model', 'similarity', 'answer', 'about'] as const)
      if (options[name] !== undefined)
        throw invalid(name, `--${name} belongs to --operations ${MODEL_OPERATIONS.join(' or ')}`);
  // Labels are enough to write texts for.
  const wantsText = words.length > 0 || modelOperations.includes('paraphrase');
  const texts = rows.map((row, i) => {
    const value = row[column];
    if (typeof value === 'string') return value;
    if (!wantsText) return '';
    throw invalid('text', `${options.file}, row ${i + 1} has no text under "${column}"`, {
      hint: 'Name the column with --text.',
    });
  });
  if (label !== undefined && !rows.some(row => row[label] !== undefined))
    throw invalid('label', `${options.file} has no column "${label}"`);
  const labels = label === undefined ? [] : [...new Set(rows.map(row => String(row[label] ?? '')))];
  const groups =
    words.length === 0
      ? []
      : await augment(texts, {
          seed,
          ...(label !== undefined && { labels }),
          operations: words,
          ...(options.count !== undefined && { count: options.count }),
          ...(options.alpha !== undefined && { alpha: options.alpha }),
        });
  const made = await byModel({ ...options, seed, rows, texts, labels, operations: modelOperations });
  const model = made && { model: basename(made.report.file), sha256: made.report.sha256 };
  const out: string[] = [];
  for (const [i, row] of rows.entries()) {
    out.push(JSON.stringify(row));
    for (const { text, operation, n } of groups[i] ?? [])
      out.push(JSON.stringify({ ...row, [column]: text, augmented: { source: i + 1, operation, n, seed } }));
    for (const { text, operation, n, seed: sampling } of made?.ofRows[i] ?? []) {
      const augmented = { source: i + 1, operation, n, seed, ...model, sampling_seed: sampling };
      out.push(JSON.stringify({ ...row, [column]: text, augmented }));
    }
  }
  for (const { label: of, text, operation, n, seed: sampling } of made?.ofLabels ?? []) {
    const augmented = { source: null, operation, n, seed, ...model, sampling_seed: sampling };
    out.push(JSON.stringify({ [column]: text, [label!]: of, augmented }));
  }
  await writeAtomically(options.out, textChunk(`${out.join('\n')}\n`));
  const all = [...groups.flat(), ...(made?.ofRows.flat() ?? []), ...(made?.ofLabels ?? [])];
  return {
    out: options.out,
    sources: rows.length,
    variants: all.length,
    by_operation: Object.fromEntries(
      [...OPERATIONS, ...MODEL_OPERATIONS].map(operation => [
        operation,
        all.filter(v => v.operation === operation).length,
      ]),
    ) as Record<Operation | ModelOperation, number>,
    ...(made && { model: made.report }),
  };
}

/** Those on words, all of them where nothing is said, and those that ask a model. */
function operationsOf(list: string | undefined): { words: readonly Operation[]; model: readonly ModelOperation[] } {
  if (list === undefined) return { words: OPERATIONS, model: [] };
  const names = list.split(',');
  const asked = MODEL_OPERATIONS.filter(operation => names.includes(operation));
  const others = names.filter(name => !MODEL_OPERATIONS.some(operation => operation === name));
  return { words: others.map(operationNamed), model: asked };
}

export function human(r: AugmentedFile): string {
  const made = `${r.variants} variants of ${r.sources} texts in ${r.out}`;
  if (r.model === undefined) return made;
  const turned = Object.entries(r.model.rejected)
    .filter(([, count]) => count > 0)
    .map(([reason, count]) => `${count} ${reason}`);
  return `${made}; the model was asked ${r.model.asked} times${turned.length === 0 ? '' : `, turned down: ${turned.join(', ')}`}`;
}
