import { createHash } from 'node:crypto';
import { invalid } from '../../base/errors.ts';
import type { ChatMessage } from '../model/chat.ts';
import type { ModelOperation, ModelVariant } from './model-operations.ts';
import {
  cosine,
  type MeaningCheck,
  REJECTIONS,
  type Rejection,
  SIMILARITY,
  textFault,
  unwrapped,
} from './paraphrase-check.ts';
import type { ChatModel } from './paraphrase-model.ts';

export interface ModelAugmentOptions {
  readonly model: Pick<ChatModel, 'ask' | 'sha256' | 'checkpoint'>;
  readonly meaning: Pick<MeaningCheck, 'feature' | 'nearest'>;
  /** The same seed, model and text give the same variants, whatever else is augmented beside it. */
  readonly seed: string;
  /** Variants of each text or label. Default 4. */
  readonly count?: number;
  /** Least cosine to the source. Default 0.4. */
  readonly similarity?: number;
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

export interface ModelVariants {
  /** In the order of the sources; fewer than asked for where the model gave nothing that could be kept. */
  readonly groups: readonly (readonly ModelVariant[])[];
  readonly asked: number;
  readonly rejected: Readonly<Record<Rejection, number>>;
}

/** Texts that a model wrote are tried so many times each. */
const TRIES = 3;
const TEMPERATURE = 0.7;

const REWRITER = 'You rewrite messages. You never answer them.';
const REWRITE = 'Say this message in other words, as the same person would. Keep its meaning.';
const REWRITTEN = [
  ['Where is the parcel that I ordered last week?', 'I ordered a parcel a week ago. Where is it now?'],
  ['The heating in my flat does not work.', 'My flat stays cold because the heating is broken.'],
  ['Can I move my appointment to Friday?', 'Would it be possible to have my appointment on Friday instead?'],
] as const;

/**
 * Each text in other words of a chat model, its label kept: a variant must be near its source and, where the label is known,
 * nearest to that label's name or to whichever label's name its source is nearest to. What a variant is depends on its source, the
 * public model and public constants alone, so it is its author's, and belongs to the privacy unit of its source (variantGroups).
 */
export async function paraphrase(
  rows: readonly { readonly text: string; readonly label?: string }[],
  options: ModelAugmentOptions,
): Promise<ModelVariants> {
  const { meaning, similarity = SIMILARITY } = options;
  const examples = REWRITTEN.flatMap(([from, to]): ChatMessage[] => [
    { role: 'user', content: `${REWRITE}\n\n${from}` },
    { role: 'assistant', content: to },
  ]);
  return await sampled(rows, options, async ({ text, label }) => {
    const source = await meaning.feature(text);
    const near = meaning.nearest(source);
    return {
      operation: 'paraphrase',
      key: text,
      source: text,
      messages: [
        { role: 'system', content: REWRITER },
        ...examples,
        { role: 'user', content: `${REWRITE}\n\n${text}` },
      ],
      prompt: [REWRITER, REWRITE, ...REWRITTEN.flat()],
      survives: found => {
        if (cosine(source, found) < similarity) return 'unlike';
        if (label === undefined) return undefined;
        const now = meaning.nearest(found);
        return now === label || now === near ? undefined : 'label';
      },
    };
  });
}

/** A source as the model is asked for it. */
export interface Request {
  readonly operation: ModelOperation;
  /** What, beside seed, model and number, fixes the sampling. */
  readonly key: string;
  readonly source?: string;
  readonly messages: readonly ChatMessage[];
  /** Its own words in the prompt, which no variant may copy. */
  readonly prompt: readonly string[];
  readonly survives: (feature: Float32Array) => Rejection | undefined;
}

/** Asks for `count` variants of each source; what a check turns down is counted by its reason and asked for again. */
export async function sampled<T>(
  sources: readonly T[],
  { model, meaning, seed, count = 4, onProgress, signal }: ModelAugmentOptions,
  request: (source: T) => Promise<Request>,
): Promise<ModelVariants> {
  if (!Number.isInteger(count) || count < 1 || count > 100)
    throw invalid('count', `must be a whole number from 1 to 100, not ${count}`);
  const { tokenizer } = model.checkpoint;
  const rejected = Object.fromEntries(Object.keys(REJECTIONS).map(name => [name, 0])) as Record<Rejection, number>;
  const groups: ModelVariant[][] = [];
  let asked = 0;
  for (const [i, from] of sources.entries()) {
    const { operation, key, source, messages, prompt, survives } = await request(from);
    const group: ModelVariant[] = [];
    groups.push(group);
    const given = source ?? key;
    const plain = tokenizer.encode(given);
    if (plain.length !== tokenizer.encode(given, { allowSpecial: true }).length) {
      // Its author would speak as the system or as the model.
      rejected.special++;
      continue;
    }
    for (let n = 0; n < count; n++) {
      for (let attempt = 0; attempt < TRIES; attempt++) {
        signal?.throwIfAborted();
        const sampling = samplingSeed(seed, model.sha256, operation, n, attempt, key);
        const maxTokens = Math.min(160, source === undefined ? 48 : 2 * plain.length + 16);
        asked++;
        const { text, whole } = await model.ask({ messages, maxTokens, temperature: TEMPERATURE, seed: sampling });
        const said = unwrapped(text);
        const against = [...(source === undefined ? [] : [source]), ...group.map(variant => variant.text)];
        const fault =
          (said !== '' && !whole ? 'unfinished' : undefined) ??
          textFault(said, { ...(source !== undefined && { source }), against, prompt }) ??
          survives(await meaning.feature(said));
        if (fault !== undefined) {
          rejected[fault]++;
          continue;
        }
        group.push({ text: said, operation, n, seed: sampling });
        break;
      }
    }
    onProgress?.(i + 1, sources.length);
  }
  return { groups, asked, rejected };
}

/** 32 bits, as llama.cpp takes them. */
function samplingSeed(...parts: readonly (string | number)[]): number {
  return createHash('sha256').update(JSON.stringify(parts)).digest().readUInt32LE(0);
}
