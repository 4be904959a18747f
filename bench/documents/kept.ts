/**
 * What a bench over several seeds, budgets and sizes need not compute twice, kept in files between its runs: the states that enter the
 * trained blocks, and the clipped sums of the histogram before their noise (of public benchmark text: no one's private data).
 */
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { groupByLength, padBatch, type TokenBatch } from '../../src/learn/model/engine/batch.ts';
import type { EngineModel } from '../../src/learn/model/engine/model.ts';
import { type Example, HiddenCache } from '../../src/learn/model/engine/units.ts';
import { type Tensor, tensorflow } from '../../src/learn/tensor/backend.ts';
import type { VocabularyCounts } from '../../src/learn/training/vocabulary-bias.ts';

const MAX_TOKENS = 1024;
/** Examples computed and written at once: what is lost when a run is cut off. */
const CHUNK = 256;

/** States of these examples, in this order: read from the file as far as it goes, the rest computed and appended. */
export class KeptStates extends HiddenCache {
  readonly #states = new Map<Example, Float32Array>();

  constructor(
    file: string,
    model: EngineModel,
    examples: readonly Example[],
    { from, log }: { from: number; log: (line: string) => void },
  ) {
    // The base class computes (in any batch) and holds nothing: everything is held here.
    super(0, [], model.config.hidden, MAX_TOKENS);
    const width = model.config.hidden;
    mkdirSync(dirname(file), { recursive: true });
    const sizeOf = (example: Example): number => example.tokens.length * width;
    const kept = existsSync(file) ? readFileSync(file) : Buffer.alloc(0);
    let at = 0;
    let known = 0;
    for (const example of examples) {
      if (4 * (at + sizeOf(example)) > kept.length) break;
      this.#states.set(example, new Float32Array(kept.buffer, kept.byteOffset + 4 * at, sizeOf(example)));
      at += sizeOf(example);
      known += 1;
    }
    if (known === examples.length) return;
    // An interrupted write may have left part of an example.
    if (existsSync(file) && statSync(file).size > 4 * at) truncateSync(file, 4 * at);
    for (; known < examples.length; known += CHUNK) {
      const chunk = examples.slice(known, known + CHUNK);
      for (const group of groupByLength(
        chunk.map(e => e.tokens.length),
        MAX_TOKENS,
      ))
        this.#compute(
          model,
          group.map(i => chunk[i]!),
          from,
        );
      const bytes = chunk.map(example => {
        const states = this.#states.get(example)!;
        return Buffer.from(states.buffer, states.byteOffset, states.byteLength);
      });
      appendFileSync(file, Buffer.concat(bytes));
      log(`states below block ${from}: ${known + chunk.length} of ${examples.length}`);
    }
  }

  #compute(model: EngineModel, members: readonly Example[], from: number): void {
    const batch = padBatch(
      members.map(e => e.tokens),
      model.config,
    );
    const hidden = super.input(model, batch, members, { from });
    const data = hidden.dataSync() as Float32Array;
    hidden.dispose();
    const width = model.config.hidden;
    members.forEach((example, b) => {
      const at = b * batch.length * width;
      this.#states.set(example, data.slice(at, at + example.tokens.length * width));
    });
  }

  override input(
    model: EngineModel,
    batch: TokenBatch,
    examples: readonly Example[],
    options: Parameters<HiddenCache['input']>[3],
  ): Tensor {
    if (examples.some(example => !this.#states.has(example))) return super.input(model, batch, examples, options);
    const width = model.config.hidden;
    const all = new Float32Array(batch.batch * batch.length * width);
    examples.forEach((example, b) => {
      all.set(this.#states.get(example)!, b * batch.length * width);
    });
    return tensorflow().tensor2d(all, [batch.batch * batch.length, width]);
  }
}

export const textsId = (texts: readonly string[]): string =>
  createHash('sha256').update(texts.join('\n')).digest('hex').slice(0, 8);

const COUNTING = join(import.meta.dirname, '../../src/learn/training/vocabulary-bias.ts');

/** The counts from the file, or made and written there. Counts made by another version of the counting are made anew. */
export async function keptCounts(
  folder: string,
  name: string,
  make: () => Promise<VocabularyCounts>,
): Promise<VocabularyCounts> {
  const version = createHash('sha256').update(readFileSync(COUNTING)).digest('hex').slice(0, 12);
  const file = join(folder, `${name}-${version}.f64`);
  if (existsSync(file)) {
    const bytes = readFileSync(file);
    const all = new Float64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    const vocabSize = (all.length - 3) / 3;
    return { units: all[0]!, weights: all.slice(1, 1 + vocabSize), sum: all.slice(1 + vocabSize) };
  }
  const counts = await make();
  const all = Float64Array.from([counts.units, ...counts.weights, ...counts.sum]);
  writeFileSync(`${file}.part`, Buffer.from(all.buffer));
  renameSync(`${file}.part`, file);
  return counts;
}
