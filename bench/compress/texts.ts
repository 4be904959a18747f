import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import { banking77, type Labelled } from '../banking77.ts';
import { shuffled } from '../documents/texts.ts';

const FOLDER = resolve(import.meta.dirname, '../../examples/documents');

/** Twelve paragraphs of plain prose: general English that nothing here trains on. */
export const prose = (): string[] =>
  ['bread', 'lighthouse', 'night-train', 'river-survey']
    .flatMap(name => readFileSync(join(FOLDER, `${name}.md`), 'utf8').split(/\n[ \t]*\n/))
    .map(text => text.replace(/\s+/g, ' ').trim())
    .filter(text => text.length > 60);

/** Public text for the recovery: bank inquiries and everyday sentences. */
export const recovery = (inquiries: number): string[] =>
  shuffled(
    [
      ...shuffled(banking77('train'), 1)
        .slice(0, inquiries)
        .map(row => row.text),
      ...PUBLIC_SENTENCES,
    ],
    4,
  );

export const calibration = (): string[] =>
  banking77('train')
    .slice(0, 256)
    .map(row => row.text);

/** Every twelfth inquiry of the test part. */
export const heldOut = (): string[] =>
  banking77('test')
    .filter((_, i) => i % 12 === 0)
    .map(row => row.text);

export interface IntentRows {
  readonly labels: readonly string[];
  readonly train: readonly Labelled[];
  readonly test: readonly Labelled[];
}

/** `count` intents drawn by a seed, `each` training rows of each, all their test rows. */
export function intents(count: number, each: number, seed: number): IntentRows {
  const all = [...new Set(banking77('train').map(row => row.label))].sort();
  const labels = shuffled(all, seed).slice(0, count).sort();
  const rows = shuffled(banking77('train'), seed + 1);
  return {
    labels,
    train: labels.flatMap(label => rows.filter(row => row.label === label).slice(0, each)),
    test: banking77('test').filter(row => labels.includes(row.label)),
  };
}
