import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { invalid } from '../base/errors.ts';
import type { ModelVariants, Rejection } from '../learn/augment/by-model.ts';
import type { ModelOperation, ModelVariant } from '../learn/augment/index.ts';
import { modelPath } from './model-path.ts';

export interface ModelWanted {
  readonly operations: readonly ModelOperation[];
  readonly rows: readonly Readonly<Record<string, unknown>>[];
  readonly texts: readonly string[];
  /** All that occur, in the order in which they do. */
  readonly labels: readonly string[];
  readonly label?: string;
  readonly model?: string;
  readonly seed: string;
  readonly count?: number;
  readonly similarity?: number;
  readonly answer?: string;
  readonly about?: string;
}

export interface ModelReport {
  readonly file: string;
  readonly sha256: string;
  readonly asked: number;
  readonly rejected: Readonly<Record<Rejection, number>>;
}

export interface ModelMade {
  readonly report: ModelReport;
  /** By row. */
  readonly ofRows: readonly (readonly ModelVariant[])[];
  /** Written for a label alone. */
  readonly ofLabels: readonly (ModelVariant & { readonly label: string })[];
}

/** Progress on standard error, a line every so many sources. */
const TOLD = 10;

/** What a chat model writes; undefined where none is asked. */
export async function byModel(wanted: ModelWanted): Promise<ModelMade | undefined> {
  const { operations, rows, texts, labels, label, answer } = wanted;
  if (operations.length === 0) return undefined;
  if (wanted.model === undefined)
    throw invalid('model', `${operations.join(' and ')} ask a chat model: name one with --model, such as smollm2-135m`);
  const backward = operations.includes('back-generation');
  if (backward && label === undefined)
    throw invalid('label', 'back-generation writes texts for labels: name their column with --label');
  if (answer !== undefined && !rows.some(row => typeof row[answer] === 'string'))
    throw invalid('answer', `no row has an answer under "${answer}"`);
  const { backGenerate, MeaningCheck, openChatModel, paraphrase } = await import('../learn/augment/by-model.ts');
  const model = await openChatModel(await modelPath(wanted.model));
  const folder = mkdtempSync(join(tmpdir(), 'learnd-augment-'));
  try {
    const meaning = await MeaningCheck.open(model.checkpoint, labels, folder);
    try {
      const options = (what: string) => ({
        ...{ model, meaning, seed: wanted.seed, onProgress: progressOf(what) },
        ...(wanted.count !== undefined && { count: wanted.count }),
        ...(wanted.similarity !== undefined && { similarity: wanted.similarity }),
        ...(wanted.about !== undefined && { about: wanted.about }),
      });
      const labelOf = (row: Readonly<Record<string, unknown>>): string => String(row[label ?? ''] ?? '');
      const parts: ModelVariants[] = [];
      const ofRows: ModelVariant[][] = rows.map(() => []);
      const ofLabels: (ModelVariant & { label: string })[] = [];
      const take = (part: ModelVariants): void => {
        parts.push(part);
        for (const [i, group] of part.groups.entries()) ofRows[i]!.push(...group);
      };
      if (operations.includes('paraphrase'))
        take(
          await paraphrase(
            texts.map((text, i) => ({ text, ...(label !== undefined && { label: labelOf(rows[i]!) }) })),
            options('paraphrase'),
          ),
        );
      if (backward && answer !== undefined)
        take(
          await backGenerate(
            rows.map(row => ({ label: labelOf(row), answer: String(row[answer] ?? '') })),
            options('back-generation'),
          ),
        );
      else if (backward) {
        const part = await backGenerate(
          labels.map(name => ({ label: name })),
          options('back-generation'),
        );
        parts.push(part);
        for (const [i, group] of part.groups.entries())
          ofLabels.push(...group.map(variant => ({ ...variant, label: labels[i]! })));
      }
      return { report: reportOf(wanted.model, model.sha256, parts), ofRows, ofLabels };
    } finally {
      await meaning.close();
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
    await model.close();
  }
}

function reportOf(file: string, sha256: string, parts: readonly ModelVariants[]): ModelReport {
  const rejected = { ...parts[0]!.rejected };
  for (const part of parts.slice(1))
    for (const reason of Object.keys(rejected) as Rejection[]) rejected[reason] += part.rejected[reason];
  return { file, sha256, asked: parts.reduce((sum, part) => sum + part.asked, 0), rejected };
}

const progressOf = (what: string) => (done: number, total: number) => {
  if (done % TOLD === 0 || done === total) process.stderr.write(`${what}: ${done} of ${total}\n`);
};
