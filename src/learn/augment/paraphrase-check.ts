/** Which of a model's texts may stand for their source or their label. */
import { join } from 'node:path';
import { type FeatureExtractor, type GgufModel, openGguf } from '../llama/index.ts';
import { writeFeatureModel } from '../model/export.ts';
import type { Checkpoint } from '../model/types.ts';
import { labelSentences } from '../training/head.ts';
import { publicStatistics, standardise } from '../training/head-space.ts';
import { PUBLIC_SENTENCES } from '../training/public-text.ts';

/** Why a text was not kept. */
export const REJECTIONS = {
  special: 'the text spells control tokens of the model',
  empty: 'nothing was said',
  unfinished: 'it did not come to an end',
  long: 'much longer than its source',
  same: 'says its source, or a variant before it, in the same words',
  prompt: 'copies the instruction or its examples',
  answer: 'answers instead',
  unlike: 'far from its source',
  label: 'nearer to another label',
} as const;
export type Rejection = keyof typeof REJECTIONS;

/** Letters and digits alone: what differs in nothing else is the same text. */
export const wordsOf = (text: string): string[] => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
const plain = (text: string): string => wordsOf(text).join(' ');

/** Runs of so many words of the prompt that a text shares with it are copied, unless its source has them too. */
const COPIED_WORDS = 4;

/** How a model begins that answers what it should have said again. */
const ANSWERS =
  /^(?:i m sorry|i am sorry|i m (?:not|un)able to|sorry|sure|of course|certainly|here (?:is|are)|as an ai)\b/;

/** What a text alone shows. `against`: the source and all variants so far. */
export function textFault(
  text: string,
  about: { source?: string; against: readonly string[]; prompt: readonly string[] },
): Rejection | undefined {
  const words = wordsOf(text);
  if (words.length < 2) return 'empty';
  if (about.source !== undefined && words.length > 2 * wordsOf(about.source).length + 8) return 'long';
  if (about.against.some(other => plain(other) === words.join(' '))) return 'same';
  const own = about.source === undefined ? '' : ` ${plain(about.source)} `;
  if (ANSWERS.test(words.join(' ')) && !ANSWERS.test(own.trim())) return 'answer';
  const prompts = about.prompt.map(part => ` ${plain(part)} `);
  for (let at = 0; at + COPIED_WORDS <= words.length; at++) {
    const run = ` ${words.slice(at, at + COPIED_WORDS).join(' ')} `;
    if (!own.includes(run) && prompts.some(part => part.includes(run))) return 'prompt';
  }
  return undefined;
}

/** Quotation marks around all, and a speaker's name in front, are no part of what was said. */
export const unwrapped = (text: string): string =>
  text
    .trim()
    .replace(/^(?:message|customer|answer|in other words)\s*:\s*/iu, '')
    .replace(/^["'“‘](.*)["'”’]$/u, '$1')
    .trim();

/**
 * Of 10,003 BANKING77 inquiries, pairs of one intent have a median cosine of .40, pairs of two intents lie below .36 in 95 of 100
 * cases (SmolLM2-135M, ten blocks, standardised by public sentences).
 */
export const SIMILARITY = 0.4;

/**
 * Meaning by the frozen features that heads read. It knows labels by their names alone (labelSentences): what becomes of a text then
 * depends on that text and public constants, so nobody's text decides about another user's variants.
 */
export class MeaningCheck {
  readonly #model: GgufModel;
  readonly #extractor: FeatureExtractor;
  readonly #public: { mean: Float32Array; scale: Float32Array };
  readonly #labels: ReadonlyMap<string, Float32Array>;

  private constructor(
    model: GgufModel,
    extractor: FeatureExtractor,
    statistics: { mean: Float32Array; scale: Float32Array },
    labels: ReadonlyMap<string, Float32Array>,
  ) {
    this.#model = model;
    this.#extractor = extractor;
    this.#public = statistics;
    this.#labels = labels;
  }

  /** @param folder where the feature model may be written (a third of the model's layers, as for heads) */
  static async open(checkpoint: Checkpoint, labels: readonly string[], folder: string): Promise<MeaningCheck> {
    const file = join(folder, 'features.gguf');
    await writeFeatureModel(checkpoint, Math.max(1, Math.round(checkpoint.config.layers / 3)), file, 'q8_0');
    const model = await openGguf(file);
    const extractor = await model.createFeatureExtractor();
    const statistics = publicStatistics(await extractor.features(PUBLIC_SENTENCES));
    const prototypes = new Map<string, Float32Array>();
    for (const label of labels) {
      const mean = new Float32Array(extractor.hidden);
      for (const feature of await extractor.features(labelSentences(label))) {
        const x = standardise(feature, statistics.mean, statistics.scale);
        for (let i = 0; i < mean.length; i++) mean[i]! += x[i]!;
      }
      prototypes.set(label, mean);
    }
    return new MeaningCheck(model, extractor, statistics, prototypes);
  }

  /** [hidden], standardised, of length 1. */
  async feature(text: string): Promise<Float32Array> {
    const [feature] = await this.#extractor.features([text]);
    return standardise(feature!, this.#public.mean, this.#public.scale);
  }

  /** The label whose name is nearest; undefined without labels. */
  nearest(feature: Float32Array): string | undefined {
    let best: string | undefined;
    let most = Number.NEGATIVE_INFINITY;
    for (const [label, prototype] of this.#labels) {
      const found = cosine(feature, prototype);
      if (found > most) [best, most] = [label, found];
    }
    return best;
  }

  async close(): Promise<void> {
    await this.#extractor.dispose();
    await this.#model.dispose();
  }
}

/** 0 where one is all zeros. */
export function cosine(a: Float32Array, b: Float32Array): number {
  let dot = 0;
  let aa = 0;
  let bb = 0;
  for (let i = 0; i < a.length; i++) {
    dot += a[i]! * b[i]!;
    aa += a[i]! * a[i]!;
    bb += b[i]! * b[i]!;
  }
  return aa * bb === 0 ? 0 : dot / Math.sqrt(aa * bb);
}
