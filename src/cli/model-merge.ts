import { extname, resolve } from 'node:path';
import { invalid } from '../base/errors.ts';
import { mergeLora, writeModelGguf, writeSafetensors } from '../learn/model/export.ts';
import { readPeft } from '../learn/model/formats/peft-read.ts';
import { readLoraGguf } from '../learn/model/lora.ts';
import { openModel } from '../learn/model/open.ts';
import { typeAfterMerge } from '../learn/worker/jobs/model-file.ts';
import { sourceOf } from './export.ts';

export interface Merged {
  readonly out: string;
  readonly files: readonly { readonly path: string; readonly sha256: string }[];
  readonly rank: number;
  readonly scale: number;
  /** Weights that the adapter changed. */
  readonly changed: number;
  readonly notes: readonly string[];
}

/**
 * Works a LoRA adapter into its base: W + scale (alpha / rank) B A. The result is a GGUF where `out` says .gguf (4- and 5-bit
 * weights become q8_0, or the change would be rounded away), else a folder for transformers.
 */
export async function run(options: {
  model: string;
  adapter?: string;
  scale?: number;
  out: string;
  data?: string;
}): Promise<Merged> {
  const { scale = 1 } = options;
  if (!Number.isFinite(scale)) throw invalid('scale', `must be a number, not ${scale}`);
  const source = await sourceOf(options.model, options.data);
  const path = options.adapter ?? source.adapter;
  if (path === undefined) {
    throw invalid('adapter', `${options.model} comes without an adapter: name one`, {
      hint: '--adapter FILE.gguf, or a PEFT folder.',
    });
  }
  if (resolve(options.out) === resolve(source.model)) throw invalid('out', 'is the base itself: choose another name');
  const checkpoint = await openModel(source.model);
  const lora = path.endsWith('.gguf') ? readLoraGguf(path, checkpoint.config) : readPeft(path, checkpoint.weights);
  const weights = mergeLora(checkpoint.weights, { ...lora, alpha: lora.alpha * scale });
  const result = { out: options.out, rank: lora.rank, scale, changed: lora.pairs.size };
  if (extname(options.out) !== '.gguf') {
    const files = await writeSafetensors({ ...checkpoint, weights }, options.out);
    return { ...result, files: files.map(({ path: at, sha256 }) => ({ path: at, sha256 })), notes: [] };
  }
  const type = checkpoint.kind === 'gguf' ? typeAfterMerge(checkpoint) : 'f16';
  const written = await writeModelGguf({ ...checkpoint, weights }, options.out, { type, source: checkpoint });
  const notes = type === 'q8_0' ? ['coarser weights than 8 bits were written as q8_0'] : [];
  return { ...result, files: [{ path: written.path, sha256: written.sha256 }], notes: [...notes, ...written.notes] };
}

export const human = (r: Merged): string =>
  [...r.files.map(f => `${f.sha256}  ${f.path}`), ...r.notes.map(n => `note: ${n}`)].join('\n');
