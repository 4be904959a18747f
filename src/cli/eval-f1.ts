import { invalid } from '../base/errors.ts';
import { type ClassScore, weightedF1 } from '../learn/metrics/f1.ts';
import { table } from './frame.ts';
import { textLines } from './text-lines.ts';

export interface F1Report {
  readonly weighted_f1: number;
  readonly per_class: Readonly<Record<string, ClassScore>>;
}

function pairOf(line: string, at: string): [string, string] {
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch (cause) {
    throw invalid('file', `${at} is not JSON`, { cause });
  }
  const label = (key: 'true' | 'predicted'): string => {
    const value = typeof row === 'object' && row !== null ? (row as Record<string, unknown>)[key] : undefined;
    if (typeof value === 'string') return value;
    if (typeof value === 'number' || typeof value === 'boolean') return String(value);
    throw invalid(key, `${at} has no label under ${JSON.stringify(key)}`);
  };
  return [label('true'), label('predicted')];
}

/** Weighted F1 of JSONL rows {"true": label, "predicted": label}, as scikit-learn computes it with zero_division=0. */
export async function run(options: { file: string }): Promise<F1Report> {
  const pairs = textLines(options.file).map((line, i) => pairOf(line, `${options.file}, row ${i + 1}`));
  const { weighted, perClass } = weightedF1(
    pairs.map(([truth]) => truth),
    pairs.map(([, predicted]) => predicted),
  );
  return { weighted_f1: weighted!, per_class: perClass };
}

export const human = (result: F1Report): string =>
  `weighted F1 ${result.weighted_f1.toFixed(4)}\n${table([
    ['label', 'precision', 'recall', 'f1', 'support'],
    ...Object.entries(result.per_class).map(([label, s]) => [
      label,
      s.precision.toFixed(4),
      s.recall.toFixed(4),
      s.f1.toFixed(4),
      s.support,
    ]),
  ])}`;
